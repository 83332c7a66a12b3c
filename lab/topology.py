"""What a lab is made of, read from one JSON description: hosts, their addresses and tags, and their units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Literal

Kind = Literal["serve", "idle", "run", "task"]
KINDS: tuple[Kind, ...] = ("serve", "idle", "run", "task")
COMMANDS: tuple[Kind, ...] = ("run", "task")
"""Kinds that need a command, and a systemd that runs it."""


INTERNET = ("100.64.0.0/10", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4")
"""Strangers: networks that belong to nobody (RFC 6890)."""


class TopologyError(Exception):
    """The description is wrong; the message names the file, the place and the mend."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a lab host. `serve` listens on TCP `port` (0: none) on every address and greets with `banner`;
    where `backend` ("host:port") is set it asks that server first. `idle` only exists. `socket`: systemd listens for
    the unit and starts it at the first connection; in a lab without systemd the unit listens itself.

    Only with systemd: `run` runs `command` without end; `task` runs it to its end each time that `every` is over (a
    time span, systemd.time(7)), or when somebody starts it. For cron.service `command` is a line of its table."""

    name: str
    kind: Kind = "serve"
    port: int = 0
    banner: str = ""
    backend: str = ""
    user: str = "root"
    socket: bool = False
    command: str = ""
    every: str = ""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host of the lab. `managed`: an agent runs on it. Tags are given by the join token."""

    name: str
    v4: IPv4Address
    v6: IPv6Address
    tags: tuple[tuple[str, str], ...] = ()
    managed: bool = True
    units: tuple[Unit, ...] = ()

    def unit(self, name: str) -> Unit:
        for unit in self.units:
            if unit.name == name:
                return unit
        raise TopologyError(
            f"host {self.name} has no unit {name}; it has {', '.join(u.name for u in self.units) or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class Topology:
    """Every host is on one link; `prefix_v4` and `prefix_v6` are the lengths of its networks. `internet` is the host,
    if any, that answers for every address of INTERNET."""

    hosts: tuple[HostSpec, ...]
    controller: str
    prefix_v4: int
    prefix_v6: int
    internet: str = ""

    def host(self, name: str) -> HostSpec:
        for host in self.hosts:
            if host.name == name:
                return host
        raise TopologyError(f"no host {name} in the lab; there are {', '.join(h.name for h in self.hosts)}")

    @property
    def managed(self) -> tuple[HostSpec, ...]:
        return tuple(h for h in self.hosts if h.managed)


def unit_cgroup(unit: str) -> str:
    """The cgroup systemd gives a unit, below the cgroup root: `a@b.service` goes to a slice of its template, others
    directly to `system.slice` (systemd.slice(5)). A name with a slash is a path and stays as it is."""
    if "/" in unit:
        return unit.strip("/")
    template, at, _ = unit.partition("@")
    return f"system.slice/system-{template}.slice/{unit}" if at else f"system.slice/{unit}"


def session_cgroup(uid: int) -> str:
    """The cgroup of a login session of the user `uid` (pam_systemd(8))."""
    return f"user.slice/user-{uid}.slice/session-1.scope"


def load_topology(path: Path) -> Topology:
    """Read and check a description; raises TopologyError naming the place."""
    try:
        data = json.loads(path.read_text())
        topology = Topology(
            hosts=tuple(_host(entry) for entry in data["hosts"]),
            controller=data["controller"],
            prefix_v4=data["prefix_v4"],
            prefix_v6=data["prefix_v6"],
            internet=data.get("internet", ""),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TopologyError(f"{path}: {type(error).__name__} {error}") from error
    problems = _problems(topology)
    if problems:
        raise TopologyError(f"{path}: {'; '.join(problems)}")
    return topology


def _host(entry: dict[str, Any]) -> HostSpec:
    return HostSpec(
        name=entry["name"],
        v4=IPv4Address(entry["v4"]),
        v6=IPv6Address(entry["v6"]),
        tags=tuple(sorted(entry.get("tags", {}).items())),
        managed=entry.get("managed", True),
        units=tuple(Unit(**unit) for unit in entry.get("units", ())),
    )


def _problems(topology: Topology) -> list[str]:
    names = [h.name for h in topology.hosts]
    addresses = [str(a) for h in topology.hosts for a in (h.v4, h.v6)]
    found = [
        f"{name} is there twice" for name in sorted({n for n in names + addresses if (names + addresses).count(n) > 1})
    ]
    if topology.controller not in names:
        found.append(f"the controller {topology.controller} is none of the hosts")
    if topology.internet not in ("", *names):
        found.append(f"internet: {topology.internet} is none of the hosts")
    for host in topology.hosts:
        found += [f"{host.name}/{u.name}: a {u.kind} needs a command" for u in host.units if _lacks_command(u)]
        found += [f"{host.name}/{u.name}: unknown kind {u.kind}" for u in host.units if u.kind not in KINDS]
    return found


def _lacks_command(unit: Unit) -> bool:
    return unit.kind in COMMANDS and not unit.command
