"""The process behind a denied packet: the socket by its tuple, its cgroup, the process of that cgroup that holds it.

The workload never depends on this (it is in the log prefix). The process is best effort: a socket may be gone before
its packet is looked at, and then a reason stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from segctl.errors import KernelError

from segctl_agent.denials.packet import Packet
from segctl_agent.denials.values import Attribution, LoggedPacket, ProcessInfo
from segctl_agent.facts.cgroups import CGROUP_ROOT
from segctl_agent.facts.processes import Holder, find_holders
from segctl_agent.facts.sockdiag import TCP_LISTEN, SockDiag, SocketInfo
from segctl_agent.facts.users import user_name

MAX_COMMAND_BYTES = 256
_UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")


class Attributor:
    """`path_of` gives the path below `root` of a cgroup id, None for an unknown one: CgroupWatcher.path_of."""

    def __init__(
        self,
        path_of: Callable[[int], str | None],
        root: Path = CGROUP_ROOT,
        proc: Path = Path("/proc"),
        diag: SockDiag | None = None,
    ) -> None:
        self._path_of = path_of
        self._root = root
        self._proc = proc
        self._diag = diag or SockDiag()

    def close(self) -> None:
        self._diag.close()

    def attribute(self, logged: LoggedPacket, packet: Packet) -> Attribution:
        """Who sent the packet, or on input who listens for it. Never raises for a process that cannot be found."""
        return self.attribute_many([(logged, packet)])[0]

    def attribute_many(self, packets: Sequence[tuple[LoggedPacket, Packet]]) -> list[Attribution]:
        """The same for several. The processes of a cgroup are walked once, for all sockets that belong to it."""
        return self._told([self._socket(logged, packet) for logged, packet in packets])

    def describe(self, sockets: Sequence[SocketInfo]) -> list[Attribution]:
        """The processes that hold these sockets."""
        return self._told(sockets)

    def _told(self, sockets: Sequence[SocketInfo | Attribution]) -> list[Attribution]:
        inodes: dict[int, set[int]] = {}
        for found in sockets:
            if isinstance(found, SocketInfo) and found.inode and found.cgroup:
                inodes.setdefault(found.cgroup, set()).add(found.inode)
        holders: dict[int, Holder] = {}
        for cgroup, wanted in inodes.items():
            path = self._path_of(cgroup)
            if path is not None:
                holders |= find_holders(frozenset(wanted), self._root / path, self._proc)
        known: dict[int, tuple[str, str, str]] = {}
        return [f if isinstance(f, Attribution) else self._describe(f, holders, known) for f in sockets]

    def _socket(self, logged: LoggedPacket, packet: Packet) -> SocketInfo | Attribution:
        """The socket of a packet, or what is known without one."""
        ingress = logged.prefix.direction == "in"
        if packet.protocol not in ("tcp", "udp"):
            return _by_uid(logged, f"the kernel does not tell which socket a packet of {packet.protocol} belongs to")
        if not packet.destination_port:
            return _by_uid(logged, "a fragment carries no ports to find its socket by")
        if not ingress and logged.uid is None:
            return _by_uid(logged, "sent by the kernel, or its socket was closed before")
        try:
            found = self._find(logged, packet, ingress)
        except KernelError as error:
            return _by_uid(logged, str(error))
        if found is None:
            service = f"{packet.protocol}/{packet.destination_port}"
            return _by_uid(logged, f"nothing listens on {service} here" if ingress else "the socket was gone")
        return found

    def _find(self, logged: LoggedPacket, packet: Packet, ingress: bool) -> SocketInfo | None:
        ours = (packet.source, packet.source_port)
        theirs = (packet.destination, packet.destination_port)
        if ingress:
            return self._diag.find(packet.protocol, *theirs, *ours, logged.input_interface)
        found = self._diag.find(packet.protocol, *ours, *theirs, logged.output_interface)
        # A lookup of a connection that is gone falls through to a listener on its port, which sent nothing.
        if found is not None and found.protocol == "tcp" and found.state == TCP_LISTEN:
            return None
        return found

    def _describe(
        self, found: SocketInfo, holders: Mapping[int, Holder], known: dict[int, tuple[str, str, str]]
    ) -> Attribution:
        """`known` keeps what was read of a process for the next socket of the same batch."""
        user = user_name(found.uid)
        path = self._path_of(found.cgroup) if found.cgroup else None
        if path is None:
            reason = (
                f"its cgroup {found.cgroup} is not known here"
                if found.cgroup
                else "the kernel does not tell its cgroup"
            )
            return Attribution(ProcessInfo(user=user), reason)
        unit = unit_of(path)
        if not found.inode:
            return Attribution(ProcessInfo(user=user, unit=unit, cgroup=path), "the process had closed the socket")
        holder = holders[found.inode]
        if not holder.pid:
            return Attribution(ProcessInfo(user=user, unit=unit, cgroup=path), holder.reason)
        if holder.pid not in known:
            known[holder.pid] = (*read_executable(self._proc, holder.pid), self._command(holder.pid))
        exe, why, command = known[holder.pid]
        return Attribution(ProcessInfo(holder.pid, exe, command, user, unit, path), why)

    def _command(self, pid: int) -> str:
        try:
            with (self._proc / str(pid) / "cmdline").open("rb") as file:
                return printable(file.read(MAX_COMMAND_BYTES).rstrip(b"\0").replace(b"\0", b" "))
        except OSError:
            return ""


def _by_uid(logged: LoggedPacket, reason: str) -> Attribution:
    user = "" if logged.uid is None else user_name(logged.uid)
    return Attribution(ProcessInfo(user=user), reason)


def read_executable(proc: Path, pid: int) -> tuple[str, str]:
    """The path of a process's program, and why it is not known: one of both is empty."""
    # Not psutil: where it may not read the link it guesses from the command line, which the process writes itself.
    try:
        return printable(str((proc / str(pid) / "exe").readlink()).encode(errors="surrogateescape")), ""
    except PermissionError:
        return "", "no permission to read /proc/PID/exe (needs CAP_SYS_PTRACE)"
    except OSError:
        return "", "the process had ended"


def printable(raw: bytes) -> str:
    """Text for a terminal, at most 256 bytes of UTF-8: control characters and bytes that are no text as \\x1b."""
    text = raw.decode("utf-8", errors="backslashreplace")
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped.encode()[:MAX_COMMAND_BYTES].decode(errors="ignore")


def unit_of(path: str) -> str:
    """The unit of the system manager that a cgroup path belongs to, "" for none: its first component that is no
    slice, when that is named like a unit (systemd.unit(5))."""
    first = next((part for part in path.split("/") if not part.endswith(".slice")), "")
    return first if first.endswith(_UNIT_SUFFIXES) else ""
