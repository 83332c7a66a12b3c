"""The processes of flows, from the sockets that are there now. Many are asked about at once, and what is asked decides
what is read:

    comes in ──▶ who listens: one dump of the listeners ─┐ several, or none
    goes out ──▶ few: each by its tuple ◀────────────────┘
             └─▶ many: one dump of all connections
    socket ──▶ cgroup ──▶ container, unit ──▶ where neither is named: the executable of who holds it, else the user
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from segctl.errors import KernelError
from segctl.model.processes import CONTAINER, UNKNOWN, USER, executable_identity, identity, unit_identity
from segctl.model.units import unit_of

from segctl_agent.denials.attribute import read_executable
from segctl_agent.facts.cgroups import CGROUP_ROOT
from segctl_agent.facts.containers import container_of
from segctl_agent.facts.processes import find_holders
from segctl_agent.facts.sockdiag import TCP_LISTEN, SockDiag, SocketInfo
from segctl_agent.facts.users import user_name
from segctl_agent.facts.values import ContainerFact
from segctl_agent.flows.attribution import Asked, Few
from segctl_agent.flows.values import PROTOCOL_NAMES

FEW: Final = 64
"""Flows whose sockets are asked for one by one, 0.03 ms each; a dump costs 5 us for every socket there is."""
HOLDER_SECONDS: Final = 0.02
"""Of one call, to find the holders of sockets in cgroups that name nobody. What remains is known by its user."""

_Found = dict[int, SocketInfo]
"""By the number of the question."""


class _Contained:
    """The identities of containers, by the addresses of their own networks and by their cgroups."""

    def __init__(self, facts: tuple[ContainerFact, ...]) -> None:
        self.facts = facts
        self.by_cgroup = {c.cgroup: identity(CONTAINER, c.name) for c in facts}
        self.by_address = {address.packed: self.by_cgroup[c.cgroup] for c in facts for address in c.addresses}


class SocketProcesses:
    """Implements ProcessesOf. `path_of` gives the path of a cgroup id below `root`, None for an unknown one, and must
    be good for other threads: CgroupWatcher.known_path. `containers` are those of HostFacts. What the kernel refuses is
    told to `on_problem`; flows are then told without their processes."""

    def __init__(
        self,
        path_of: Callable[[int], str | None],
        containers: Callable[[], tuple[ContainerFact, ...]] = tuple,
        on_problem: Callable[[str], object] = lambda _: None,
        root: Path = CGROUP_ROOT,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path_of, self._containers, self._on_problem = path_of, containers, on_problem
        self._root, self._proc, self._clock = root, proc, clock
        self._few = Few()
        self._contained = _Contained(())

    def __call__(self, asked: Sequence[Asked]) -> list[str]:
        return self._processes(asked, user_name)

    def at_once(self, asked: Sequence[Asked]) -> list[str]:
        """For the event loop: without the names of users, for which a directory far away may be asked
        (nsswitch.conf(5)). Who has no better name is UNKNOWN."""
        return self._processes(asked, lambda _uid: "")

    def _processes(self, asked: Sequence[Asked], user_of: Callable[[int], str]) -> list[str]:
        facts = self._containers()
        if facts is not self._contained.facts:
            self._contained = _Contained(facts)
        contained = self._contained.by_address
        told = [contained.get(one.local, UNKNOWN) for one in asked]
        rest = {at: one for at, one in enumerate(asked) if not told[at] and PROTOCOL_NAMES.get(one.protocol) in _NAMES}
        if rest:
            try:
                found = self._sockets(rest)
            except KernelError as error:
                self._on_problem(f"flows are told without their processes: {error}")
                return told
            for at, process in self._named(found, user_of).items():
                told[at] = process
        return told

    def _sockets(self, asked: Mapping[int, Asked]) -> _Found:
        incoming = {at: one for at, one in asked.items() if one.direction == "in"}
        outgoing = {at: one for at, one in asked.items() if one.direction == "out"}
        with SockDiag() as diag:
            found = served_by(incoming, diag.listeners()) if incoming else {}
            if len(outgoing) > FEW:
                found |= opened_by(outgoing, diag.connections())
                outgoing = {}
            unclear = {**{at: one for at, one in incoming.items() if at not in found}, **outgoing}
            for at, one in list(unclear.items())[:FEW]:
                socket = _find(one, diag)
                if socket is not None:
                    found[at] = socket
        return found

    def _named(self, found: _Found, user_of: Callable[[int], str] = user_name) -> dict[int, str]:
        told: dict[int, str] = {}
        nameless: dict[str, dict[int, SocketInfo]] = {}
        known: dict[int, tuple[str | None, str]] = {}
        for at, socket in found.items():
            if not socket.cgroup:
                continue
            if socket.cgroup not in known:
                path = self._path_of(socket.cgroup)
                named = named_by(path, self._contained.by_cgroup) if path is not None else UNKNOWN
                known[socket.cgroup] = path, self._few.unit(named)
            path, told[at] = known[socket.cgroup]
            if path is not None and not told[at] and socket.inode:
                nameless.setdefault(path, {})[at] = socket
        until = self._clock() + HOLDER_SECONDS
        for path, sockets in nameless.items():
            executables = self._held(path, sockets.values()) if self._clock() < until else {}
            for at, socket in sockets.items():
                told[at] = executables.get(socket.inode) or identity(USER, user_of(socket.uid))
        return told

    def _held(self, path: str, sockets: Iterable[SocketInfo]) -> dict[int, str]:
        """By inode the executables of who holds these sockets of one cgroup, as far as they can be told."""
        held = find_holders(frozenset(s.inode for s in sockets), self._root / path, self._proc)
        pids = {holder.pid for holder in held.values() if holder.pid}
        programs = {pid: executable_identity(read_executable(self._proc, pid)[0]) for pid in pids}
        return {i: self._few.executable(programs[h.pid]) for i, h in held.items() if h.pid}


_NAMES = ("tcp", "udp")


def named_by(path: str, containers: Mapping[str, str]) -> str:
    """The container or the unit that a cgroup's path names, with the identities of containers by theirs."""
    container = container_of(path)
    named = containers.get(container.cgroup, UNKNOWN) if container is not None else UNKNOWN
    unit = unit_of(path)
    return named or (unit_identity(unit) if unit is not None else UNKNOWN)


def served_by(asked: Mapping[int, Asked], listeners: Iterable[SocketInfo]) -> _Found:
    """Of each the socket that takes what comes in: that with its address, else one with any. Left out where several
    in different cgroups do, or none."""
    ports = {(PROTOCOL_NAMES[one.protocol], one.local_port) for one in asked.values()}
    by_port: dict[tuple[str, int], list[SocketInfo]] = {}
    for listener in listeners:
        if (listener.protocol, listener.port) in ports:
            by_port.setdefault((listener.protocol, listener.port), []).append(listener)
    found: _Found = {}
    for at, one in asked.items():
        here = by_port.get((PROTOCOL_NAMES[one.protocol], one.local_port), [])
        exact = [s for s in here if s.address.packed == one.local]
        fitting = exact or [s for s in here if s.address.is_unspecified]
        if len({s.cgroup for s in fitting}) == 1:
            found[at] = fitting[0]
    return found


def opened_by(asked: Mapping[int, Asked], connections: Iterable[SocketInfo]) -> _Found:
    """Of each the socket with its ports. Left out where several in different cgroups have them, or none."""
    wanted = {(PROTOCOL_NAMES[one.protocol], one.local_port) for one in asked.values()}
    by_ports: dict[tuple[str, int, int], SocketInfo | None] = {}
    for socket in connections:
        if (socket.protocol, socket.port) in wanted:
            ports = (socket.protocol, socket.port, socket.remote_port)
            other = by_ports.setdefault(ports, socket)
            if other is not None and other.cgroup != socket.cgroup:
                by_ports[ports] = None
    found: _Found = {}
    for at, one in asked.items():
        name = PROTOCOL_NAMES[one.protocol]
        fitting = by_ports.get((name, one.local_port, one.remote_port)) or by_ports.get((name, one.local_port, 0))
        if fitting is not None:
            found[at] = fitting
    return found


def _find(one: Asked, diag: SockDiag) -> SocketInfo | None:
    """The kernel's lookup falls through to a listener: of what goes out that is no answer."""
    ends = ip_address(one.local), one.local_port, ip_address(one.remote), one.remote_port
    found = diag.find(PROTOCOL_NAMES[one.protocol], *ends)
    listens = found is not None and found.protocol == "tcp" and found.state == TCP_LISTEN
    return None if listens and one.direction == "out" else found
