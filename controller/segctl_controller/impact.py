"""Which live connections a draft would cut: asked from the agents, one deadline for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from segctl.errors import SegctlError, WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl.wire import address_from_wire, denied_service_from_wire, host_policy_to_wire

from segctl_controller.reachable import Reachable
from segctl_controller.registry import Registry

SECONDS = 3.0
AT_ONCE = 8
LARGE = 1_000_000
"""Bytes of a draft from which on it counts among the AT_ONCE until it is answered. Smaller ones only while they are
made: hosts that are slow to answer do not keep the others from being asked."""
NAMED_BY_HOST = 50
MOST_NAMED = 1000
LARGEST_COUNT = 2**53
LONGEST_NAME = 128
LONGEST_TEXT = 4096
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cuts:
    """`connections` are the first by host; `total` counts the others too. `unasked` are connected and gave no
    answer; where none is connected, all that enforce."""

    connections: tuple[admin_pb2.CutConnection, ...] = ()
    total: int = 0
    unasked: tuple[str, ...] = ()


class Impact:
    def __init__(self, registry: Registry, seconds: float = SECONDS) -> None:
        self._registry = registry
        self._seconds = seconds
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def of(self, drafts: Mapping[str, HostPolicy], generation: int, digest: str) -> Cuts:
        """Ask every connected host of `drafts`; `generation` and `digest` are what the draft would become.

        Nothing is enforced on a released host, so nothing there would be cut.
        """
        fleet = self._registry.fleet
        connected = {h: s for h in sorted(drafts) if (s := self._registry.reach(h)) and not fleet.standing(h).released}
        deadline = asyncio.get_running_loop().time() + self._seconds
        replies = await asyncio.gather(
            *(
                self._ask(session, replace(drafts[host], generation=generation, policy_digest=digest), deadline)
                for host, session in connected.items()
            )
        )
        answers = {host: reply for host, reply in zip(connected, replies, strict=True) if reply is not None}
        named = [
            admin_pb2.CutConnection(host=host, connection=one, peer_host=self._holder(one))
            for host, reply in answers.items()
            for one in sorted(reply.connections, key=_order)
        ]
        return Cuts(
            tuple(named[:MOST_NAMED]),
            min(sum(reply.cut for reply in answers.values()), LARGEST_COUNT),
            tuple(host for host in connected or self._offline(drafts) if host not in answers),
        )

    def _offline(self, drafts: Mapping[str, HostPolicy]) -> tuple[str, ...]:
        """Their connections live on without an agent. Where no host at all could be asked, "none is cut" would be said
        of nothing."""
        return tuple(host for host in sorted(drafts) if not self._registry.fleet.standing(host).released)

    async def _ask(self, session: Reachable, draft: HostPolicy, deadline: float) -> agent_pb2.ImpactReply | None:
        """None: no answer that can be used, and why is in the log."""
        if not session.previews:
            return None
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._answer(session, draft)
            check_reply(reply)
        except TimeoutError:
            log.warning("impact host=%s: no answer within %.0f seconds", session.host, self._seconds)
        except SegctlError as error:
            log.warning("impact host=%s: %s", session.host, error)
        else:
            return reply
        return None

    async def _answer(self, session: Reachable, draft: HostPolicy) -> agent_pb2.ImpactReply:
        async with self._slots:
            wire = await asyncio.to_thread(_serialized, draft)
            if len(wire) > LARGE:
                return await session.impact(wire, NAMED_BY_HOST)
        return await session.impact(wire, NAMED_BY_HOST)

    def _holder(self, connection: agent_pb2.LiveConnection) -> str:
        return self._registry.fleet.holders.get(address_from_wire(connection.remote), "")


def _serialized(draft: HostPolicy) -> bytes:
    return host_policy_to_wire(draft).SerializeToString()


def _order(connection: agent_pb2.LiveConnection) -> tuple[object, ...]:
    service = connection.service
    ports = (connection.remote_port, connection.local_port)
    return (connection.workload, connection.ingress, service.protocol, service.low, connection.remote, *ports)


def check_reply(reply: agent_pb2.ImpactReply) -> None:
    """Raises WireError for an answer that is an error, or that no honest agent gives."""
    if reply.error:
        raise WireError(f"the agent could not tell what would be cut: {' '.join(reply.error[:500].split())}")
    if len(reply.connections) > NAMED_BY_HOST or not len(reply.connections) <= reply.cut <= reply.live <= LARGEST_COUNT:
        raise WireError(
            f"an answer of {len(reply.connections)} connections named, {reply.cut} cut and {reply.live} live"
        )
    for connection in reply.connections:
        address_from_wire(connection.remote)
        denied_service_from_wire(connection.service)
        process = connection.process
        names = (connection.workload, connection.rule, process.user)
        texts = (process.exe, process.command, process.unit, process.cgroup)
        if max(map(len, names)) > LONGEST_NAME or max(map(len, texts)) > LONGEST_TEXT:
            raise WireError("a connection's description is too long")
        if max(connection.remote_port, connection.local_port) > 65535:
            raise WireError("a connection's port is over 65535")
