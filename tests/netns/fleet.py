"""A small fleet on the real kernel: hosts in namespaces of their own on one link, with real processes in real cgroups.

Each host has a process for each of PLACES. It listens on an address of its own, on every port of PORTS, and opens
connections when asked. Another process of each host is its agent: it applies host policies.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Literal

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import PortRange
from segctl_agent.facts.values import Endpoint, HostFacts
from segctl_agent.nft.evaluate import Outcome, Packet, evaluate
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import render

from tests.decided import decided
from tests.netns.spaces import Space, join

Address = IPv4Address | IPv6Address
Version = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process lives. `mapped` False: the agent has not seen its cgroup yet."""

    cgroup: str
    uid: int = 0
    mapped: bool = True


PLACES = (
    Place("system.slice/a.service"),
    Place("system.slice/system-db.slice/db@1.service"),
    Place("user.slice/user-33.slice/session-1.scope", uid=33),
    Place("app.slice/x.service/inner"),
    Place("system.slice/fresh.service", mapped=False),
    Place("system.slice/a.socket"),
    Place("seg.slice/seg-w1.slice/fresh.service", mapped=False),
    Place("system.slice/b.service/segctl-exe-w0"),  # of the exec gate
)
TCP_PORTS, UDP_PORTS = (22, 53, 80, 81, 443), (53, 80, 123)
PORTS = (
    *(PortRange("tcp", p, p) for p in TCP_PORTS),
    *(PortRange("udp", p, p) for p in UDP_PORTS),
    PortRange("icmp", 8, 8),
    PortRange("icmpv6", 128, 128),
)


def address(host: int, place: int, version: Version) -> Address:
    return ip_address(f"10.77.{host}.{10 + place}" if version == 4 else f"fd77::{host}:{10 + place}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection or datagram, from the address of the process that is asked."""

    source: Address
    destination: Address
    port: PortRange


def _family(of: Address) -> socket.AddressFamily:
    return socket.AF_INET if of.version == 4 else socket.AF_INET6


class _Process:
    """The loop of one process: echoes datagrams, lets connections in, and works off attempts when told."""

    def __init__(self, commands: Connection, addresses: Sequence[Address], uid: int) -> None:
        self._commands = commands
        self._selector = selectors.DefaultSelector()
        self._sessions: dict[int, socket.socket] = {}
        self._asked = 0
        for mine in addresses:
            for port in TCP_PORTS:
                self._serve(socket.SOCK_STREAM, mine, port)
            for port in UDP_PORTS:
                self._serve(socket.SOCK_DGRAM, mine, port)
        os.setgid(uid)
        os.setuid(uid)
        self._selector.register(commands, selectors.EVENT_READ, self._command)
        commands.send("ready")

    def _serve(self, kind: socket.SocketKind, mine: Address, port: int) -> None:
        sock = socket.socket(_family(mine), kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(mine), port))
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.listen(128)
        answer = self._let_in if kind is socket.SOCK_STREAM else _echo
        self._selector.register(sock, selectors.EVENT_READ, lambda: answer(sock))

    def loop(self) -> None:
        while True:
            self._turn(None)

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()

    def _command(self) -> None:
        try:
            command, *arguments = self._commands.recv()
        except EOFError:
            os._exit(0)
        work = {"try": self._try, "open": self._open, "ask": self._ask}[command]
        self._commands.send(work(*arguments))

    def _let_in(self, listener: socket.socket) -> None:
        try:
            session, _ = listener.accept()
        except OSError:
            return  # the other side has given up already
        session.setblocking(False)
        self._selector.register(session, selectors.EVENT_READ, lambda: self._return(session))

    def _return(self, session: socket.socket) -> None:
        """What comes goes back; the end, whichever it is, ends it."""
        if session.fileno() < 0:
            return  # it ended in a turn within this turn
        try:
            if session.send(session.recv(100)):
                return
        except OSError:
            pass  # a reset, or a refusal to answer
        self._selector.unregister(session)
        session.close()

    def _open(self, number: int, attempt: Attempt, seconds: float) -> bool:
        """A session that stays, if it comes about."""
        sock = self._start(attempt)
        if sock is None:
            return False
        if not select.select([], [sock], [], seconds)[1] or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            sock.close()
            return False
        self._sessions[number] = sock
        return True

    def _ask(self, numbers: Sequence[int], seconds: float) -> list[bool]:
        """Which sessions answer a byte within the time: this one, since an older answer may come late. One that has
        ended for us is forgotten."""
        self._asked = (self._asked + 1) % 256
        token, answered = bytes([self._asked]), set()
        for number in numbers:
            with suppress(OSError, KeyError):
                self._sessions[number].send(token)
        deadline = time.monotonic() + seconds
        waiting = {self._sessions[n]: n for n in numbers if n in self._sessions}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for sock in select.select(list(waiting), [], [], left)[0]:
                try:
                    came = sock.recv(100)
                except OSError:
                    came = b""
                if token in came:
                    answered.add(waiting.pop(sock))
                elif not came:
                    self._sessions.pop(waiting.pop(sock)).close()
        return [n in answered for n in numbers]

    def _try(self, attempts: Sequence[Attempt], seconds: float) -> list[bool]:
        """Whether each got through, all at once, within the time."""
        passed: dict[int, bool] = {}
        open_sockets = []
        self._selector.unregister(self._commands)
        for number, attempt in enumerate(attempts):
            sock = self._start(attempt)
            if sock is None:
                passed[number] = False
                continue
            open_sockets.append(sock)
            events = selectors.EVENT_WRITE if attempt.port.protocol == "tcp" else selectors.EVENT_READ
            self._selector.register(sock, events, self._finish(sock, number, attempt, passed))
        deadline = time.monotonic() + seconds
        while len(passed) < len(attempts) and (left := deadline - time.monotonic()) > 0:
            self._turn(left)
        for sock in open_sockets:
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
            sock.close()
        self._selector.register(self._commands, selectors.EVENT_READ, self._command)
        return [passed.get(i, False) for i in range(len(attempts))]

    def _start(self, attempt: Attempt) -> socket.socket | None:
        """A socket with the attempt under way; None when the kernel refused at once."""
        family, protocol = _family(attempt.source), attempt.port.protocol
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        icmp = {"icmp": socket.IPPROTO_ICMP, "icmpv6": socket.IPPROTO_ICMPV6}.get(protocol, 0)
        sock = socket.socket(family, kind, icmp)
        sock.setblocking(False)
        try:
            sock.bind((str(attempt.source), 0))
            if protocol == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            code = sock.connect_ex((str(attempt.destination), 0 if icmp else attempt.port.low))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            if protocol != "tcp":
                sock.send(struct.pack(">BBHHH", attempt.port.low, 0, 0, 0, 1) if icmp else b"hello")
        except OSError:
            sock.close()
            return None
        return sock

    def _finish(
        self, sock: socket.socket, number: int, attempt: Attempt, passed: dict[int, bool]
    ) -> Callable[[], None]:
        def done() -> None:
            self._selector.unregister(sock)
            if attempt.port.protocol == "tcp":
                passed[number] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                return
            try:
                sock.recv(100)
                passed[number] = True
            except OSError:
                passed[number] = False

        return done


def _echo(sock: socket.socket) -> None:
    try:
        data, sender = sock.recvfrom(100)
        sock.sendto(data, sender)
    except OSError:
        return  # the reply was refused: the sender sees that nothing comes


def _agent(commands: Connection) -> None:
    """Applies (policy, facts, turn) and proves it, or evaluates packets on what the kernel holds."""
    kernel = NetlinkKernel()
    commands.send("ready")
    while True:
        try:
            command, argument = commands.recv()
        except EOFError:
            os._exit(0)
        if command == "apply":
            policy, facts, turn = argument
            wanted = render(policy, facts, decided(policy, turn))
            kernel.apply(plan(kernel.read(), wanted))
            commands.send(kernel.read() == wanted)
        else:
            held = kernel.read()
            assert held is not None
            commands.send([(e.verdict, e.trail) for e in (evaluate(held, p) for p in argument)])


class Member:
    """One host of the fleet."""

    def __init__(self, index: int, wire: Space, *, agent: bool) -> None:
        self.index = index
        self.space = Space(f"fleet{index}")
        join(self.space, wire, "eth0", f"port{index}")
        commands = [f"ip link set port{index} master bridge up"]
        wire.sh(" && ".join(commands))
        addresses = [address(index, p, v) for p in range(len(PLACES)) for v in (4, 6)]
        adds = [f"ip addr add {a}/{16 if a.version == 4 else 64} dev eth0 nodad" for a in addresses if a.version == 6]
        adds += [f"ip addr add {a}/16 dev eth0" for a in addresses if a.version == 4]
        self.space.sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'\n" + "\n".join(adds))
        self.addresses = tuple(sorted(addresses, key=lambda a: (a.version, a)))
        for place in PLACES:
            self.space.cgroup(place.cgroup)
        self.cgroups = self.space.cgroups()
        self.controller: tuple[Endpoint, ...] = ()
        self.agent_uid = 0
        self._children: list[int] = []
        self.processes = [self._fork(p.cgroup, self._worker(i, p)) for i, p in enumerate(PLACES)]
        self._pids = list(self._children)
        self.agent = self._fork("", _agent) if agent else None
        for pipe in (*self.processes, *([self.agent] if self.agent else [])):
            assert pipe.recv() == "ready"

    def _worker(self, index: int, place: Place) -> Callable[[Connection], None]:
        mine = [address(self.index, index, 4), address(self.index, index, 6)]
        return lambda commands: _Process(commands, mine, place.uid).loop()

    def _fork(self, cgroup: str, body: Callable[[Connection], None]) -> Connection:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                (self.space.outer / cgroup / "cgroup.procs").write_text("0")
                self.space.enter()
                body(theirs)
            except BaseException:  # noqa: BLE001 - a fork shows what it died of
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        self._children.append(pid)
        return ours

    def fork(self, cgroup: str, body: Callable[[Connection], None]) -> tuple[Connection, int]:
        """Another process in the namespaces, in a cgroup: our end of its pipe, and its pid."""
        return self._fork(cgroup, body), self._children[-1]

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._children.remove(pid)

    def pid(self, place: int) -> int:
        return self._pids[place]

    def restart(self, place: int) -> tuple[dict[str, int], dict[str, int]]:
        """The unit of a process ends and starts: its cgroup is another one. (added, removed), as a watcher tells it."""
        path = PLACES[place].cgroup
        self.processes[place].close()
        self.end(self._pids[place])
        (self.space.outer / path).rmdir()
        removed = {path: self.cgroups[path]}
        self.cgroups[path] = self.space.cgroup(path)
        self.processes[place], self._pids[place] = self.fork(path, self._worker(place, PLACES[place]))
        assert self.processes[place].recv() == "ready"
        return {path: self.cgroups[path]}, removed

    @property
    def facts(self) -> HostFacts:
        unmapped = {p.cgroup for p in PLACES if not p.mapped}
        seen = {path: number for path, number in self.cgroups.items() if path not in unmapped}
        return HostFacts(
            cgroups=seen,
            users={"www-data": 33, "group:www-data": 33},
            addresses=frozenset(self.addresses),
            controller=self.controller,
            agent_uid=self.agent_uid,
        )

    def ancestry(self, place: int) -> tuple[int, ...]:
        parts = PLACES[place].cgroup.split("/")
        return tuple(self.cgroups["/".join(parts[: i + 1])] for i in range(len(parts)))

    def close(self) -> None:
        for pipe in (*self.processes, *([self.agent] if self.agent else [])):
            pipe.close()
        for pid in list(self._children):
            self.end(pid)
        self.space.close()


class Fleet:
    """`hosts` enrolled hosts and, last, a stranger without an agent. `agents` False: they have none yet either."""

    def __init__(self, hosts: int = 3, *, agents: bool = True) -> None:
        self._wire = Space("wire")
        self._wire.sh("ip link add bridge type bridge && ip link set bridge up")
        self.members = [Member(i, self._wire, agent=agents and i < hosts) for i in range(hosts + 1)]
        self.hosts = self.members[:hosts]

    def apply(self, policies: Mapping[int, HostPolicy], turn: int) -> None:
        """Every host at once; each reads back what it applied."""
        for index, policy in policies.items():
            self._agent(index).send(("apply", (policy, self.members[index].facts, turn)))
        assert all(self._agent(index).recv() for index in policies), "read back is not what was wanted"

    def _agent(self, index: int) -> Connection:
        agent = self.members[index].agent
        assert agent is not None, f"member {index} has no agent"
        return agent

    def evaluate(self, packets: Mapping[int, Sequence[Packet]]) -> dict[int, list[tuple[Outcome, tuple[str, ...]]]]:
        """What the rulesets that the kernels hold say to packets."""
        for index, some in packets.items():
            self._agent(index).send(("evaluate", list(some)))
        return {index: self._agent(index).recv() for index in packets}

    def attempt(
        self, attempts: Iterable[tuple[int, int, Attempt]], seconds: float
    ) -> dict[tuple[int, int, Attempt], bool]:
        """(member, place, attempt) -> whether it got through. All of them at once."""
        by_process: dict[tuple[int, int], list[Attempt]] = {}
        for member, place, what in attempts:
            by_process.setdefault((member, place), []).append(what)
        for (member, place), some in by_process.items():
            self.members[member].processes[place].send(("try", some, seconds))
        out = {}
        for (member, place), some in by_process.items():
            for what, passed in zip(some, self.members[member].processes[place].recv(), strict=True):
                out[member, place, what] = passed
        return out

    def open(self, number: int, member: int, place: int, attempt: Attempt, seconds: float) -> bool:
        """A TCP session that stays, if it comes about; `ask` knows it by its number."""
        process = self.members[member].processes[place]
        process.send(("open", number, attempt, seconds))
        return bool(process.recv())

    def ask(self, sessions: Mapping[int, tuple[int, int]], seconds: float) -> dict[int, bool]:
        """Which sessions, by number and the (member, place) that opened them, still carry a byte there and back."""
        by_process: dict[tuple[int, int], list[int]] = {}
        for number, where in sessions.items():
            by_process.setdefault(where, []).append(number)
        for (member, place), numbers in by_process.items():
            self.members[member].processes[place].send(("ask", numbers, seconds))
        out = {}
        for (member, place), numbers in by_process.items():
            out.update(zip(numbers, self.members[member].processes[place].recv(), strict=True))
        return out

    def close(self) -> None:
        for member in self.members:
            member.close()
        self._wire.close()
