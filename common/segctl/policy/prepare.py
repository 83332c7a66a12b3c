"""What systemd has to be told so that a workload by unit runs in a slice of its own: drop-ins, as values.

A slice keeps its cgroup id when the units in it start again, so a process in it is known from its first packet on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from segctl.model.policy import ProcessKind, Workload
from segctl.model.units import SLICE, prepared_slice
from segctl.policy.checks.globs import globs_meet, is_glob

DROP_IN = "50-segctl.conf"
HEADER = "# Written by `segctl host prepare`: do not edit, it is written anew."
_SECTIONS = {".service": "Service", ".socket": "Socket", ".mount": "Mount", ".swap": "Swap"}
_RESERVED = ("init.scope", "-.mount", "systemd-*", "user@*.service", "user-runtime-dir@*.service", "session-*.scope")
"""What systemd and logind place themselves, or need before any slice of ours is there."""
_TEMPLATE = re.compile(r"([^@*?\[\]]+)@\*(\.[a-z]+)")
_PREFIX = re.compile(r"([^@*?\[\]]+-)\*(\.[a-z]+)")


@dataclass(frozen=True, slots=True)
class DropIn:
    """One file below systemd's directory of units, `path` relative to it. `unit` is what it speaks of."""

    path: str
    content: str
    workload: str
    unit: str


@dataclass(frozen=True, slots=True)
class Unprepared:
    """A workload that stays as it is, and why."""

    workload: str
    process: str
    why: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """`commands` make it take effect: in this order, by an administrator of the host.

    `sockets` may exist, which the policy does not tell. One that does keeps its old cgroup until it is made anew, and
    systemd makes it anew only while its service is stopped: a restart of both in one command fails (systemd 252).
    """

    files: tuple[DropIn, ...]
    unprepared: tuple[Unprepared, ...]
    commands: tuple[str, ...]
    sockets: tuple[str, ...]


def prepare(workloads: Iterable[Workload], *, one_host: bool) -> Preparation:
    """The drop-ins for the workloads by unit. `one_host`: all of them are on one host, whose agent gives a unit that
    several name to the first by precedence; else such a unit is left as it is, because it depends on the host."""
    ordered = sorted(workloads, key=_rank)
    left = [Unprepared(w.name, str(w.process), why) for w in ordered if (why := _why_not(w)) is not None]
    claims: dict[str, list[Workload]] = defaultdict(list)
    for workload in ordered:
        unit = _target(workload.process.pattern)
        if unit is not None and _why_not(workload) is None:
            claims[unit].append(workload)
    files: list[DropIn] = []
    for unit, (first, *others) in sorted(claims.items()):
        if others and not one_host:
            why = _BETWEEN.format(unit=unit, names=", ".join(w.name for w in (first, *others)))
            left += [Unprepared(w.name, str(w.process), why) for w in (first, *others)]
            continue
        why = f"{unit} belongs to {first.name}, which goes first"
        left += [Unprepared(w.name, str(w.process), why) for w in others]
        files.append(_drop_in(first.name, unit))
    files += _socket_drop_ins(files, ordered)
    slices = sorted({prepared_slice(f.workload) for f in files})
    if files:
        files.append(_ahead(slices))
    sockets = tuple(sorted(_glob(f.unit) for f in files if f.unit.endswith(".socket")))
    return Preparation(tuple(files), tuple(left), _commands(files, slices), sockets)


def _socket_drop_ins(files: Iterable[DropIn], ordered: list[Workload]) -> list[DropIn]:
    """For the sockets of services, unless a workload names them: foo.service before the instances of foo@.service."""
    owners: dict[str, str] = {}
    for file in sorted(files, key=lambda f: "@" in f.unit):
        for socket in _sockets(file.unit):
            if not _names_socket(ordered, socket):
                owners.setdefault(socket, file.workload)
    return [_drop_in(workload, socket) for socket, workload in sorted(owners.items())]


_BETWEEN = "{unit} is named by {names}: which of them, depends on the host. Prepare one host with --host"


def _rank(workload: Workload) -> tuple[bool, int, str]:
    """As the agent ranks them (segctl_agent.identity)."""
    pattern = workload.process.pattern
    return is_glob(pattern), -len(pattern), workload.name


def _why_not(workload: Workload) -> str | None:
    process = workload.process
    if process.kind is not ProcessKind.UNIT:
        return f"it is told by {process.kind.value}, and only a unit has a slice to choose"
    if process.pattern.endswith(SLICE):
        return f"it is a slice already: have it there ahead with `systemctl start '{process.pattern}'`"
    if process.pattern.endswith(".scope"):
        return "who makes a scope chooses its slice: systemd-run --scope --slice=" + prepared_slice(workload.name)
    if _target(process.pattern) is None:
        return "no drop-in speaks of just these units: write their name, NAME@* for instances, or PREFIX-* for a family"
    reserved = next((r for r in _RESERVED if globs_meet(process.pattern, r)), None)
    return f"systemd places {reserved} itself, and no drop-in may move it" if reserved else None


def _target(pattern: str) -> str | None:
    """The unit whose drop-ins speak of exactly what the pattern names (systemd.unit(5)): itself, a template for all of
    its instances, or `PREFIX-` for the units whose names begin so. None when there is none."""
    if not is_glob(pattern):
        return pattern
    template, prefix = _TEMPLATE.fullmatch(pattern), _PREFIX.fullmatch(pattern)
    if template:
        return f"{template[1]}@{template[2]}"
    return f"{prefix[1]}{prefix[2]}" if prefix else None


def _sockets(unit: str) -> tuple[str, ...]:
    """The sockets that systemd may listen on for a service: its own, and with Accept=yes one for all instances."""
    stem = unit.removesuffix(".service")
    if stem == unit:
        return ()
    return (f"{stem}.socket", f"{stem[:-1]}.socket") if stem.endswith("@") else (f"{stem}.socket",)


def _names_socket(workloads: Iterable[Workload], socket: str) -> bool:
    patterns = (w.process.pattern for w in workloads)
    return any(p.endswith(".socket") and (fnmatchcase(socket, p) or _target(p) == socket) for p in patterns)


def _drop_in(workload: str, unit: str) -> DropIn:
    section = _SECTIONS[unit[unit.rindex(".") :]]
    content = f"{HEADER}\n# Workload {workload}.\n[{section}]\nSlice={prepared_slice(workload)}\n"
    return DropIn(f"{unit}.d/{DROP_IN}", content, workload, unit)


def _ahead(slices: list[str]) -> DropIn:
    """The slices are made at boot before any service, so that the agent knows them before there is a process in one."""
    content = f"{HEADER}\n[Unit]\n" + "".join(f"Wants={name}\n" for name in slices)
    return DropIn(f"slices.target.d/{DROP_IN}", content, "", "slices.target")


def _commands(files: list[DropIn], slices: list[str]) -> tuple[str, ...]:
    if not files:
        return ()
    units = sorted(_glob(f.unit) for f in files if f.workload and not f.unit.endswith(".socket"))
    restart = ("systemctl try-restart " + " ".join(f"'{name}'" for name in units),) if units else ()
    return ("systemctl daemon-reload", "systemctl start " + " ".join(f"'{name}'" for name in slices), *restart)


def _glob(unit: str) -> str:
    """What systemctl calls the loaded units that a drop-in speaks of."""
    stem, dot, suffix = unit.rpartition(".")
    return f"{stem}*{dot}{suffix}" if stem.endswith(("@", "-")) else unit
