"""What comes of observations: suggestions with their evidence, and what was left out with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from segctl.model.policy import Peer, Policy, Rule, Service, Workload
from segctl.suggest.observed import Observation, Window


class Rhythm(StrEnum):
    """When the flows of a rule were seen."""

    STEADY = "steady"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    REGULAR = "at regular intervals"
    SEVERAL = "several times"
    ONCE = "once"


class Confidence(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Reason(StrEnum):
    """Why flows lead to no suggestion. docs/suggestions.md has them all."""

    ESSENTIAL = "essential"
    GONE = "gone"
    DENIED = "denied"
    BOUNDARY = "boundary"
    TEST = "test"
    REJECTED = "rejected"
    SCAN = "scan"
    ONCE = "once"
    YOUNG = "young"
    ONE_HOST = "one-host"
    OUTSIDE = "outside"
    FROM_EVERYWHERE = "from-everywhere"
    UNNAMEABLE = "unnameable"
    MODE = "mode"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class Evidence:
    """`sightings` are the bins of the window in which the flows were seen. `hosts` are those that
    opened connections, of `of_hosts` that carry such tags; `groups` the tag groups they are in."""

    flows: int
    sightings: int
    rhythm: Rhythm
    hosts: int
    of_hosts: int
    groups: int
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class Excess:
    """Of the pairs of tag groups (for each service) that the rule permits in this fleet: how many were `seen`, how
    many were never seen though both ends were (`unseen`), and how many have an end that told nothing (`silent`).
    `examples` are some that were not seen."""

    permitted: int
    seen: int
    unseen: int
    silent: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rule and what must be declared for it. `id` depends on nothing but what the rule says."""

    id: str
    rule: Rule
    confidence: Confidence
    evidence: Evidence
    excess: Excess
    explains: tuple[Observation, ...]
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    peers: tuple[Peer, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Observations that lead to no suggestion, together where the reason is one; `why` says it in a sentence."""

    reason: Reason
    why: str
    flows: int
    observations: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class Suggestions:
    """`suggestions` in the order of their rules' names. `permitted` flows need nothing: the policy permits them."""

    window: Window
    suggestions: tuple[Suggestion, ...]
    left_out: tuple[LeftOut, ...]
    permitted: int
    addition: Policy
    """All suggestions as one policy file."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A rule that somebody rejected, with all that it would permit: nothing of it is suggested again. `workloads` and
    `peers` are those that were suggested with it."""

    rule: Rule
    by: str
    why: str
    workloads: tuple[Workload, ...] = ()
    peers: tuple[Peer, ...] = ()
