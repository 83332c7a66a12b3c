"""The containers of this host, as their cgroups come and go.

    cgroup appears ──▶ read ──▶ complete? ──▶ publish
                        ▲          │ no
                        └─ backoff ┘

A cgroup is there some milliseconds before its container's name, network and address are. Until they are known the
kernel holds its traffic closed, so what is missing is asked for again, soon and then ever more rarely; `refresh` asks
for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from segctl_agent.facts.containers import ContainerRef, container_of
from segctl_agent.facts.containerstate import Reading
from segctl_agent.facts.values import ContainerFact

BACKOFF_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
MOST_CONTAINERS = 4096


class Reader(Protocol):
    def read(self, refs: Iterable[ContainerRef]) -> list[Reading]: ...

    def bridges(self) -> tuple[str, ...]: ...


OnContainers = Callable[[tuple[ContainerFact, ...], tuple[str, ...]], object]
"""Containers whose names are known, sorted by cgroup, and the bridges of container networks."""
OnProblem = Callable[[str], object]


@dataclass(slots=True)
class _Followed:
    ref: ContainerRef
    reading: Reading = field(default_factory=Reading)
    attempt: int = 0
    timer: asyncio.TimerHandle | None = None


class ContainerWatcher:
    """Follows at most `most` containers. `on_change` is called when what is known has changed, and with the first
    `cgroups_changed`; `on_problem` once for a container whose name stays unknown."""

    def __init__(
        self,
        reader: Reader,
        loop: asyncio.AbstractEventLoop,
        on_change: OnContainers,
        on_problem: OnProblem = lambda _: None,
        backoff: Sequence[float] = BACKOFF_SECONDS,
        most: int = MOST_CONTAINERS,
    ) -> None:
        self._reader, self._loop = reader, loop
        self._backoff, self._most = backoff, most
        self._on_change, self._on_problem = on_change, on_problem
        self._followed: dict[str, _Followed] = {}
        self._published: tuple[tuple[ContainerFact, ...], tuple[str, ...]] | None = None

    def cgroups_changed(self, added: Mapping[str, int], removed: Mapping[str, int]) -> None:
        """What CgroupWatcher tells. A cgroup made anew under the same path is in both."""
        for path in removed:
            gone = self._followed.pop(path, None)
            if gone is not None and gone.timer is not None:
                gone.timer.cancel()
        for path in added:
            ref = container_of(path)
            if ref is None or ref.cgroup != path or path in self._followed:
                continue
            if len(self._followed) >= self._most:
                self._on_problem(f"more than {self._most} containers: the traffic of the others stays closed")
                break
            followed = self._followed[path] = _Followed(ref)
            self._look(followed)
        self._publish()

    def refresh(self) -> None:
        """Looks at every container again: networks are attached and detached while it runs."""
        every = tuple(self._followed.values())
        for followed, reading in zip(every, self._reader.read(f.ref for f in every), strict=True):
            followed.reading = reading
        self._publish()

    def close(self) -> None:
        for followed in self._followed.values():
            if followed.timer is not None:
                followed.timer.cancel()
        self._followed.clear()

    def _look(self, followed: _Followed) -> None:
        followed.timer = None
        (followed.reading,) = self._reader.read((followed.ref,))
        if followed.reading.complete:
            return
        if followed.attempt < len(self._backoff):
            delay = self._backoff[followed.attempt]
            followed.attempt += 1
            followed.timer = self._loop.call_later(delay, self._look_again, followed)
        elif not followed.reading.name:
            self._on_problem(_nameless(followed.ref))

    def _look_again(self, followed: _Followed) -> None:
        self._look(followed)
        self._publish()

    def _publish(self) -> None:
        known = _known({path: (f.ref, f.reading) for path, f in self._followed.items()})
        found = (known, self._reader.bridges())
        if found != self._published:
            self._published = found
            self._on_change(*found)


def known_containers(reader: Reader, cgroups: Iterable[str]) -> tuple[ContainerFact, ...]:
    """What is known now of the containers among these cgroups."""
    refs = [ref for path in cgroups if (ref := container_of(path)) is not None and ref.cgroup == path]
    return _known({ref.cgroup: (ref, reading) for ref, reading in zip(refs, reader.read(refs), strict=True)})


def _known(readings: Mapping[str, tuple[ContainerRef, Reading]]) -> tuple[ContainerFact, ...]:
    return tuple(
        ContainerFact(ref.id, reading.name, path, reading.network, reading.addresses)
        for path, (ref, reading) in sorted(readings.items())
        if reading.name and reading.network is not None
    )


def _nameless(ref: ContainerRef) -> str:
    return (
        f"the name of the container {ref.id[:12]} ({ref.cgroup}) is not where {ref.runtime or 'a runtime'} keeps it: "
        "its traffic stays closed while this host enforces. Has the runtime's data folder been moved? See "
        "docs/operations.md"
    )
