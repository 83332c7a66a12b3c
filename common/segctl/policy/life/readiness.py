"""Whether a selector is ready for its next phase: what was seen of it, what of that the policy explains, what is still
to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Literal

from segctl.model.findings import Finding
from segctl.model.inventory import Address
from segctl.model.policy import Mode, PortRange, Selector, Tags
from segctl.policy.life.past import Age
from segctl.policy.life.phases import phase_after
from segctl.policy.life.season import DAY_US, day_of, days_of, period

Explained = Literal["rule", "boundary", "default"]
TOP = 10
"""Unexplained flows and periodic ones that are named; all are counted."""
ENDED = 2
"""Periods without a sign after which a periodic flow has ended."""


@dataclass(frozen=True, slots=True)
class SeenKind:
    """Flows that the policy judges alike, at the end that the selector names. `flows` since the time that counts,
    `recent` ones in the last day. Bit N of `days`: they came on the Nth day of all that is stored. `explained`: what
    the policy in force would make of them, were it enforced. `host`, `process` and `peer_host` are one of those;
    `peer` is their tags, or an address that no host held.
    """

    workload: str
    process: str
    tags: Tags
    host: str
    peer: Tags | Address
    peer_host: str
    ingress: bool
    service: PortRange
    flows: int
    recent: int
    last_us: int
    days: int
    explained: Explained


@dataclass(frozen=True, slots=True)
class Periodic:
    """Came every `every` days and not since the phase began; expected again on the day `expected`."""

    kind: SeenKind
    every: int
    expected: int


@dataclass(frozen=True, slots=True)
class Bar:
    """What a phase must have shown. Scans make noise for ever, so a little may stay unexplained, but nothing new."""

    days: float = 7.0
    coverage: float = 0.995


ENFORCING, TESTING = Bar(), Bar(days=0.0, coverage=0.9)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a selector from its next phase. `code` is stable."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """`flows` are `covered` (by rules and essentials), `bounded` (denied by a boundary, as the policy means it) and
    `unexplained`. `coming` are those of the latter in the last day. `waiting` are periodic kinds."""

    select: Selector
    phase: Mode
    next: Mode | None
    since: Age
    hosts: int
    days: float
    flows: int
    covered: int
    bounded: int
    unexplained: tuple[SeenKind, ...]
    unexplained_flows: int
    unexplained_kinds: int
    coming: int
    waiting: tuple[Periodic, ...]
    waiting_kinds: int
    broken: tuple[Finding, ...]
    obstacles: tuple[Obstacle, ...]

    @property
    def ready(self) -> bool:
        return self.next is not None and not self.obstacles

    @property
    def coverage(self) -> float | None:
        """The share of flows that the policy explains; None: there were none."""
        return (self.flows - self.unexplained_flows) / self.flows if self.flows else None


def assess(
    select: Selector,
    phase: Mode,
    since: Age,
    hosts: int,
    kinds: Iterable[SeenKind],
    first_day: int,
    broken: Sequence[Finding],
    now: datetime,
    least_days: float | None = None,
    *,
    whole: bool = True,
) -> Readiness:
    """`kinds` of the workloads that the next phase would change, with their days from `first_day` on, since 1970.
    `least_days` instead of those of the bar. `whole`: these are all."""
    now_us = int(now.timestamp() * 1_000_000)
    every = list(kinds)
    counted = [kind for kind in every if kind.flows]
    open_ = sorted((k for k in counted if k.explained == "default"), key=lambda k: (-k.flows, -k.last_us, str(k.tags)))
    waiting = sorted(_waiting(every, first_day, since.since_us, now_us), key=lambda one: (one.expected, one.every))
    found = Readiness(
        select=select,
        phase=phase,
        next=phase_after(phase),
        since=since,
        hosts=hosts,
        days=_observed(counted, first_day, since.since_us, now_us),
        flows=sum(k.flows for k in counted),
        covered=sum(k.flows for k in counted if k.explained == "rule"),
        bounded=sum(k.flows for k in counted if k.explained == "boundary"),
        unexplained=tuple(open_[:TOP]),
        unexplained_flows=sum(k.flows for k in open_),
        unexplained_kinds=len(open_),
        coming=sum(min(k.recent, k.flows) for k in open_),
        waiting=tuple(waiting[:TOP]),
        waiting_kinds=len(waiting),
        broken=tuple(broken),
        obstacles=(),
    )
    return _with_obstacles(found, least_days, whole)


def _observed(kinds: Sequence[SeenKind], first_day: int, since_us: int, now_us: int) -> float:
    """Days of the phase on which flows were seen: no more than have passed, to a tenth."""
    passed = max(now_us - since_us, 0) / DAY_US
    seen = reduce(or_, (kind.days for kind in kinds), 0) >> max(day_of(since_us) - first_day, 0)
    return int(min(passed, seen.bit_count()) * 10) / 10


def _waiting(kinds: Iterable[SeenKind], first_day: int, since_us: int, now_us: int) -> Iterator[Periodic]:
    for kind in kinds:
        if kind.last_us >= since_us or kind.explained == "boundary":
            continue
        days = days_of(kind.days, first_day)
        every = period(days)
        if every is not None and day_of(now_us) <= days[-1] + ENDED * every:
            yield Periodic(kind, every, days[-1] + every)


def _with_obstacles(found: Readiness, least_days: float | None, whole: bool) -> Readiness:
    if found.next is None:
        return found
    bar = ENFORCING if found.next is Mode.ENFORCE else TESTING
    least = bar.days if least_days is None else least_days
    return replace(found, obstacles=tuple(_obstacles(found, bar, least, whole)))


def _obstacles(found: Readiness, bar: Bar, least: float, whole: bool) -> Iterator[Obstacle]:
    if found.broken:
        yield Obstacle("tests", f"{len(found.broken)} of the policy's tests fail", "segctl check names them")
    if not found.hosts:
        yield Obstacle("empty", "no enrolled host carries it", "enrol or tag a host, or correct the selector")
        return
    if not found.flows:
        yield Obstacle("silent", "no flow was seen in this phase", "wait; segctl status tells whether agents report")
        return
    if found.days < least:
        yield Obstacle("young", f"observed for {found.days:g} of {least:g} days", "wait, or ask for fewer: --days")
    if not whole:
        hint = "look at segctl flows --verdict would-deny, then go on with --anyway"
        yield Obstacle("incomplete", "there are more kinds of flows than are looked at", hint)
    coverage = found.coverage or 0.0
    if coverage < bar.coverage:
        message = f"the policy explains {percent(coverage)} of its flows, of {percent(bar.coverage)}"
        yield Obstacle("uncovered", message, "write rules for the unexplained flows, or a boundary that denies them")
    if found.next is not Mode.ENFORCE:
        return
    if found.coming:
        message = f"{found.coming:,} unexplained flows came in the last day"
        yield Obstacle("coming", message, "they would be denied: write rules, stop who makes them, or a boundary")
    if found.waiting_kinds:
        first = found.waiting[0]
        message = f"{found.waiting_kinds} periodic flows were not seen in this phase, one every {first.every} days"
        yield Obstacle("periodic", message, "wait until they came, or run the job now")


def percent(share: float) -> str:
    """Rounded down, so that 100% is all of it: `99.9%`."""
    tenths = int(share * 1000)
    return f"{tenths // 10}%" if tenths % 10 == 0 else f"{tenths / 10}%"
