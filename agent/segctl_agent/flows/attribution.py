"""Whose a flow is: what is asked about its socket, and what is remembered for flows whose socket is gone. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from segctl.model.policy import Process, ProcessKind
from segctl.model.processes import CONTAINER, UNKNOWN, identity, unit_identity

from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.identity import Direction, is_glob

MAX_REMEMBERED: Final = 1 << 14
"""Some 200 bytes each."""
MAX_EXECUTABLES: Final = 256
MAX_INSTANCES: Final = 32


class Asked(NamedTuple):
    """A flow by its ends, as the socket on this host knows them: a sender never learns of its destination's NAT.
    Addresses are 4 or 16 bytes, `protocol` is an IP protocol number."""

    direction: Direction
    protocol: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


ProcessesOf = Callable[[Sequence[Asked]], Sequence[str]]
"""The identity (segctl.model.processes) of each flow's process, UNKNOWN where it cannot be told now."""


def nobody(asked: Sequence[Asked]) -> Sequence[str]:
    """A ProcessesOf that knows none."""
    return (UNKNOWN,) * len(asked)


def asked_of(row: ConntrackRow, direction: Direction) -> Asked:
    if direction == "out":
        return Asked("out", row.protocol, row.source, row.source_port, row.destination, row.destination_port)
    local, remote = (row.reply_source, row.reply_source_port), (row.reply_destination, row.reply_destination_port)
    return Asked("in", row.protocol, *local, *remote)


class Service(NamedTuple):
    """What a workload calls, or offers. `port` is the one on the wire, or the type of an ICMP message."""

    direction: Direction
    workload: str
    remote: bytes
    protocol: int
    port: int


class Memory:
    """Who was last seen to call or to offer a service, for flows whose socket is gone; and whose the flows are that
    were asked about when they began. Two threads may use it: each step is one of a dictionary."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._services: OrderedDict[Service, str] = OrderedDict()
        self._flows: OrderedDict[int, str] = OrderedDict()

    def learn(self, service: Service, process: str) -> None:
        """What was learned longest ago makes room."""
        key = _to_all(service)
        self._services[key] = process
        self._services.move_to_end(key)
        if len(self._services) > self._most:
            self._services.popitem(last=False)

    def recall(self, service: Service) -> str:
        return self._services.get(_to_all(service), UNKNOWN)

    def witness(self, flow: int, process: str) -> None:
        """`flow` is its name in the observer."""
        self._flows[flow] = process
        if len(self._flows) > self._most:
            self._flows.popitem(last=False)

    def witnessed(self, flow: int) -> str:
        """Once: then the flow is the observer's."""
        return self._flows.pop(flow, UNKNOWN)


def _to_all(service: Service) -> Service:
    """Who offers a service offers it to everybody."""
    return service if service.direction == "out" else service._replace(remote=b"")


class Few:
    """Keeps identities few: who may name a program or the instance of a unit can make up any number of names. Beyond
    `most` executables further ones are UNKNOWN; beyond `instances` of one template (systemd.unit(5)) they are all one,
    `job@*.service`. Those that were met stay as they are, for as long as the agent runs."""

    def __init__(self, most: int = MAX_EXECUTABLES, instances: int = MAX_INSTANCES) -> None:
        self._most, self._instances = most, instances
        self._executables: set[str] = set()
        self._templates: dict[str, set[str]] = {}

    def executable(self, process: str) -> str:
        if process not in self._executables and len(self._executables) >= self._most:
            return UNKNOWN
        self._executables.add(process)
        return process

    def unit(self, process: str) -> str:
        template, at, instance = process.partition("@")
        if not at:
            return process
        met = self._templates.setdefault(template, set())
        if process not in met and len(met) >= self._instances:
            return f"{template}@*.{instance.rpartition('.')[2]}"
        met.add(process)
        return process


def declared(process: Process | None) -> str:
    """The identity that a workload's declaration names by itself; UNKNOWN where it leaves that open."""
    if process is None or is_glob(process.pattern):
        return UNKNOWN
    if process.kind is ProcessKind.UNIT:
        return unit_identity(process.pattern)
    return identity(CONTAINER, process.pattern) if process.kind is ProcessKind.CONTAINER else UNKNOWN
