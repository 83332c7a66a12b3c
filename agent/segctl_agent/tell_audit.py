"""Brings what people did on this host to the controller's audit log, beside a session, until it is stored there."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.release import Told

if TYPE_CHECKING:
    from segctl.proto.v1 import agent_pb2_grpc as rpc

MOST = 20
LOOK_SECONDS, AGAIN_SECONDS, LATER_SECONDS = 1.0, 5.0, 60.0
TIMEOUT_SECONDS = 10.0
log = logging.getLogger(__name__)


async def tell_audit(stub: rpc.AgentAsyncStub, told: Told) -> None:
    """Runs until cancelled."""
    while True:
        pause = await _tell(stub, told)
        await asyncio.sleep(pause)


async def _tell(stub: rpc.AgentAsyncStub, told: Told, most: int = MOST) -> float:
    """Seconds until the next look."""
    entries = told.waiting(most)
    if not entries:
        return LOOK_SECONDS
    try:
        reply = await stub.Audit(pb.HostAuditRequest(entries=entries), timeout=TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            if len(entries) > 1:
                return await _tell(stub, told, 1)  # only what is at fault itself is given up
            log.error("the controller refused an audit entry, it is given up: %s", error.details())
            told.stored(entry.id for entry in entries)
            return LOOK_SECONDS
        log.warning("the audit log is not told yet, it is tried again: %s", error.details())
        later = error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
        return LATER_SECONDS if later else AGAIN_SECONDS
    told.stored(set(reply.stored) & {entry.id for entry in entries})
    return 0.0 if reply.stored else AGAIN_SECONDS
