"""Traffic of a fleet as its agents told it, in a file: `python -m lab nspawn record` records it, tests load it into a
controller. docs/lab.md has the format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from lab.host import REPOSITORY

FORMAT = 1
SHOP_TRAFFIC = REPOSITORY / "tests" / "data" / "shop-traffic.json"


class RecordingError(Exception):
    """A file is no recording; the message names it."""


@dataclass(frozen=True, slots=True)
class RecordedListener:
    """A socket that takes connections: of which process (its short name), user and cgroup."""

    protocol: str
    address: str
    port: int
    process: str
    uid: int
    cgroup: str


@dataclass(frozen=True, slots=True)
class RecordedHost:
    """`managed`: an agent told its flows. Others have addresses only."""

    name: str
    addresses: tuple[str, ...]
    managed: bool = True
    tags: tuple[tuple[str, str], ...] = ()
    listeners: tuple[RecordedListener, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedFlows:
    """The flows of one day that differ in nothing else. `process` is the identity of the host's own process
    (segctl.model.processes), empty where it was not known; `remote` the other end's address, `protocol` an IP protocol
    number, `port` that of the destination. `first_ms` and `last_ms` are milliseconds of the lab's clock since the day
    began."""

    day: int
    host: str
    ingress: bool
    process: str
    remote: str
    protocol: int
    port: int
    flows: int
    bytes_sent: int
    bytes_received: int
    first_ms: int
    last_ms: int


COLUMNS = tuple(field.name for field in fields(RecordedFlows))


@dataclass(frozen=True, slots=True)
class Recording:
    """`day_seconds` is how long a day took in the lab, `attack_day` the one on which somebody attacked; days begin
    with 0."""

    recorded: str
    day_seconds: int
    days: int
    attack_day: int
    hosts: tuple[RecordedHost, ...]
    flows: tuple[RecordedFlows, ...]

    @property
    def managed(self) -> tuple[RecordedHost, ...]:
        return tuple(host for host in self.hosts if host.managed)

    def policy(self) -> str:
        """That of the fleet while it was recorded."""
        return unsegmented(tag for host in self.hosts for tag in host.tags)

    def holder(self, address: str) -> str:
        """The host of an address; empty for a stranger's."""
        return next((host.name for host in self.hosts if address in host.addresses), "")


def unsegmented(tags: Iterable[tuple[str, str]]) -> str:
    """The policy of a fleet that only observes: a vocabulary of these tags, no workloads and no rules."""
    vocabulary: dict[str, list[str]] = {}
    for key, value in sorted(set(tags)):
        vocabulary.setdefault(key, []).append(value)
    return json.dumps({"version": 1, "tags": vocabulary, "rules": []}) + "\n"


def write_recording(recording: Recording, path: Path) -> None:
    """One line for each host and each row of flows, so that two recordings can be compared."""
    head = {
        "format": FORMAT,
        "recorded": recording.recorded,
        "day_seconds": recording.day_seconds,
        "days": recording.days,
        "attack_day": recording.attack_day,
        "columns": COLUMNS,
    }
    hosts = [{**asdict(host), "tags": dict(host.tags)} for host in recording.hosts]
    text = json.dumps(head).removesuffix("}")
    text += (
        f',\n"hosts": [\n{_lines(hosts)}\n],\n"flows": [\n{_lines([astuple(row) for row in recording.flows])}\n]}}\n'
    )
    path.write_text(text)


def _lines(rows: list[Any]) -> str:
    return ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)


def read_recording(path: Path) -> Recording:
    """Raises RecordingError."""
    try:
        data = json.loads(path.read_text())
        if (data["format"], tuple(data["columns"])) != (FORMAT, COLUMNS):
            raise RecordingError(f"{path} has another format than this code: record it anew")
        return Recording(
            data["recorded"],
            data["day_seconds"],
            data["days"],
            data["attack_day"],
            tuple(_host(**entry) for entry in data["hosts"]),
            tuple(RecordedFlows(*row) for row in data["flows"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path}: {type(error).__name__} {error}") from error


def _host(
    name: str, addresses: list[str], managed: bool, tags: dict[str, str], listeners: list[dict[str, Any]]
) -> RecordedHost:
    told = tuple(RecordedListener(**one) for one in listeners)
    return RecordedHost(name, tuple(addresses), managed, tuple(sorted(tags.items())), told)
