"""The life of rules and the phases of selectors, as the command line shows them, and as its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.model.findings import Finding


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """`kind`: expired, expires-soon, review-due, no-owner, no-effect, shadowed, never-hit, stale, too-broad. `narrower`
    is a policy file with the rule as it could be; empty but for what is too broad."""

    kind: str
    why: str
    mend: str
    narrower: str = ""


@dataclass(frozen=True, slots=True)
class RuleUse:
    """`hits` over all hosts; where both ends of a connection count, of the end that saw more. `since`: it permits what
    it does; it is at least so old unless `since_known`. `review` is a day, `expires` a day or a moment, or empty."""

    rule: str
    hits: int
    last_hit: datetime | None
    hosts: int
    in_policy: bool
    since: datetime | None = None
    since_known: bool = False
    owner: str = ""
    why: str = ""
    review: str = ""
    expires: str = ""
    findings: tuple[RuleFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """A selector: the tags, and the workload (empty: any)."""

    tags: Mapping[str, str]
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """`code`: tests, empty, silent, young, incomplete, uncovered, coming, periodic."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class SeenFlow:
    """As BlockedFlow; `process` is an example, too."""

    host: str
    workload: str
    direction: str
    tags: Mapping[str, str]
    peer_host: str
    peer_tags: Mapping[str, str]
    peer_address: str
    service: str
    service_name: str
    flows: int
    last_seen: datetime | None
    process: str = ""


@dataclass(frozen=True, slots=True)
class PeriodicFlow:
    """Came every `every_days` and not since the phase began. `explained`: the policy permits it."""

    flow: SeenFlow
    every_days: int
    expected: datetime | None
    explained: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """`next` phase, empty where it enforces. `days` of the phase, which began at `since` (or before that, unless
    `since_known`), on which flows were seen. Of `flows`, rules and essentials permit `covered`, boundaries deny
    `bounded`, and nothing explains the `unexplained`; `coming` are those of the last day."""

    select: Selection
    phase: str
    next: str
    ready: bool
    since: datetime | None
    since_known: bool
    hosts: int
    days: float
    flows: int
    covered: int
    bounded: int
    unexplained: int
    unexplained_kinds: int
    coming: int
    top: tuple[SeenFlow, ...]
    periodic: tuple[PeriodicFlow, ...]
    periodic_kinds: int
    tests: int
    broken_tests: tuple[Finding, ...]
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, slots=True)
class ReadyList:
    """`more`: there are more selectors, or more kinds of flows, than were looked at. `lost` flows are in no row."""

    selectors: tuple[Readiness, ...] = ()
    generation: int = 0
    more: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """The way of a selector from phase `before` to `after`. `diff` is a patch of the policy files; `written` those that
    were changed. `message` is for the history, with the reason where it goes on although it is not ready."""

    readiness: Readiness
    before: str
    after: str
    diff: str
    message: str
    written: tuple[str, ...] = ()
