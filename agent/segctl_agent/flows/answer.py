"""Answers a controller that asks what a draft would cut: reads conntrack, judges, names processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from google.protobuf.message import DecodeError
from segctl import wire
from segctl.errors import KernelError, WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import PortRange
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp

from segctl_agent.conversation import ImpactAsked
from segctl_agent.denials.values import Attribution, ProcessInfo
from segctl_agent.facts.sockdiag import SockDiag, SocketInfo
from segctl_agent.flows.decisions import DecisionId, RecentDecisions
from segctl_agent.flows.impact import Cut, impact
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.sockets import find_socket
from segctl_agent.flows.values import PROTOCOL_NAMES, Marks
from segctl_agent.flows.watcher import Table
from segctl_agent.messages import process_message

LOOKUP_SECONDS = 0.5
"""For the processes of all connections together; those that remain are told without."""
LOOKED_UP_TOGETHER = 50


class ImpactAnswerer:
    """`policy` is the one in force; `describe` names the processes of sockets, in a thread: Attributor.describe, with
    CgroupWatcher.known_path. One question at a time; a dump alone takes 4 us a flow."""

    def __init__(
        self,
        host: str,
        table: Table,
        marks: Marks,
        decisions: RecentDecisions,
        policy: Callable[[], HostPolicy | None],
        live: Callable[[], Mapping[DecisionId, str]],
        describe: Callable[[Sequence[SocketInfo]], list[Attribution]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host, self._table, self._marks, self._decisions = host, table, marks, decisions
        self._policy, self._live, self._describe, self._clock = policy, live, describe, clock
        self._busy = asyncio.Lock()

    async def answer(self, asked: ImpactAsked) -> pb.ImpactReply:
        """Never raises for what the controller sent or the kernel refuses: the reply says it."""
        async with self._busy:
            self._decisions.learn(self._live())
            return await asyncio.to_thread(self._answer, asked)

    def _answer(self, asked: ImpactAsked) -> pb.ImpactReply:
        try:
            draft = read_draft(asked.draft, self._host)
            policy = self._policy()
            found = impact(
                PolicyIndex(policy) if policy is not None else None,
                PolicyIndex(draft),
                self._table.read(),
                self._marks,
                self._decisions.workload,
                self._clock(),
                asked.limit,
            )
            reply = pb.ImpactReply(id=asked.id, live=found.live, cut=found.cut)
            if found.named:
                self._name(found.named, reply)
        except (WireError, KernelError) as error:
            return pb.ImpactReply(id=asked.id, error=str(error))
        return reply

    def _name(self, named: tuple[Cut, ...], reply: pb.ImpactReply) -> None:
        until = time.monotonic() + LOOKUP_SECONDS
        with SockDiag() as diag:
            for at in range(0, len(named), LOOKED_UP_TOGETHER):
                some = named[at : at + LOOKED_UP_TOGETHER]
                late = time.monotonic() >= until
                processes = [ProcessInfo()] * len(some) if late else self._processes(some, diag)
                reply.connections.extend(map(connection_message, some, processes))

    def _processes(self, cuts: Sequence[Cut], diag: SockDiag) -> list[ProcessInfo]:
        """What is known of each one's process; nothing where there is no socket."""
        sockets = [find_socket(cut.flow, diag) for cut in cuts]
        found = iter(self._describe([s.info for s in sockets if s is not None]))
        return [next(found).process if s is not None else ProcessInfo() for s in sockets]


def read_draft(data: bytes, host: str) -> HostPolicy:
    """Raises WireError when it does not decode, is for another host, or does not fit its digest."""
    try:
        message = hp.HostPolicy.FromString(data)
    except DecodeError as error:
        raise WireError("the draft does not decode") from error
    if message.host != host:
        raise WireError(f"the draft is for the host {message.host!r}, this is {host!r}")
    return wire.host_policy_from_wire(message)


def connection_message(cut: Cut, process: ProcessInfo) -> pb.LiveConnection:
    number = cut.flow.row.protocol
    name = PROTOCOL_NAMES.get(number)
    service = PortRange("ip", number, number)
    for protocol in ("tcp", "udp", "icmp", "icmpv6"):
        if protocol == name:
            service = PortRange(protocol, cut.side.service, cut.side.service)
    ingress = cut.direction == "in"
    return pb.LiveConnection(
        ingress=ingress,
        workload=cut.workload,
        remote=cut.side.remote,
        service=wire.port_range_to_wire(service),
        remote_port=cut.side.remote_port if ingress else 0,
        local_port=0 if ingress else cut.side.local_port,
        process=process_message(process),
        rule=cut.rule,
    )
