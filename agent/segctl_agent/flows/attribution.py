"""Whose a flow is: what is asked about its socket, and what is remembered for flows whose socket is gone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from segctl.model.policy import Process, ProcessKind
from segctl.model.processes import CONTAINER, UNKNOWN, identity, unit_identity

from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.identity import Direction, is_glob

MAX_REMEMBERED: Final = 1 << 14
"""Some 200 bytes each."""


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


class Memory:
    """The process that was last seen to call a service, or to offer one: whose socket is gone is most likely its."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._processes: dict[tuple[Direction, str, bytes, int, int], str] = {}

    def learn(self, direction: Direction, workload: str, remote: bytes, protocol: int, port: int, process: str) -> None:
        """What was learned longest ago makes room."""
        key = _key(direction, workload, remote, protocol, port)
        self._processes.pop(key, None)
        if len(self._processes) >= self._most:
            del self._processes[next(iter(self._processes))]
        self._processes[key] = process

    def recall(self, direction: Direction, workload: str, remote: bytes, protocol: int, port: int) -> str:
        return self._processes.get(_key(direction, workload, remote, protocol, port), UNKNOWN)


def _key(
    direction: Direction, workload: str, remote: bytes, protocol: int, port: int
) -> tuple[Direction, str, bytes, int, int]:
    """Who offers a service offers it to everybody."""
    return direction, workload, remote if direction == "out" else b"", protocol, port


def declared(process: Process | None) -> str:
    """The identity that a workload's declaration names by itself; UNKNOWN where it leaves that open."""
    if process is None or is_glob(process.pattern):
        return UNKNOWN
    if process.kind is ProcessKind.UNIT:
        return unit_identity(process.pattern)
    return identity(CONTAINER, process.pattern) if process.kind is ProcessKind.CONTAINER else UNKNOWN
