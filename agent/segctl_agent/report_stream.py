"""Moves report batches to the controller over the Report stream, within a session's connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
from segctl.logs import Event, about
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.reports import ReportQueue
from segctl_agent.together import until_one_ends

if TYPE_CHECKING:
    from segctl.proto.v1 import agent_pb2_grpc as rpc

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


async def send_reports(stub: rpc.AgentAsyncStub, queue: ReportQueue, waiting: asyncio.Event) -> None:
    """Runs until cancelled. A report stream that fails is opened anew: it never takes the policy session with it."""
    while True:
        try:
            await _one_stream(stub, queue, waiting)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                lost = queue.drop_refused()
                text = "the controller refused a report of %d items: %s; they count as lost"
                log.error(text, lost, error.details(), extra=about(Event.REPORT))
            else:
                text = "the report stream broke: %s; what is not stored goes again"
                log.warning(text, error.details(), extra=about(Event.REPORT))
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            # Before Python 3.13 a TaskGroup whose tasks fail swallows a cancellation that comes at the same time.
            raise asyncio.CancelledError
        await asyncio.sleep(_RETRY_SECONDS)


async def _one_stream(stub: rpc.AgentAsyncStub, queue: ReportQueue, waiting: asyncio.Event) -> None:
    call = stub.Report()
    queue.reconnected()
    waiting.set()
    try:
        failures = await until_one_ends(
            _collect_acks(call, queue, waiting),
            _write_batches(call, queue, waiting),
        )
    finally:
        call.cancel()
    # The status of the call is the reason; a write on an ended call only says that it ended.
    for error in sorted(failures, key=lambda e: not isinstance(e, grpc.aio.AioRpcError)):
        if not isinstance(error, (asyncio.InvalidStateError, EOFError)):
            raise error


async def _collect_acks(
    call: grpc.aio.StreamStreamCall[pb.ReportBatch, pb.ReportAck], queue: ReportQueue, waiting: asyncio.Event
) -> None:
    while True:
        message = await call.read()
        if not isinstance(message, pb.ReportAck):
            raise EOFError("the controller ended the report stream")
        queue.acknowledge(message.sequence)
        waiting.set()


async def _write_batches(
    call: grpc.aio.StreamStreamCall[pb.ReportBatch, pb.ReportAck], queue: ReportQueue, waiting: asyncio.Event
) -> None:
    while True:
        await waiting.wait()
        waiting.clear()
        while (batch := queue.next_batch()) is not None:
            await call.write(batch)
