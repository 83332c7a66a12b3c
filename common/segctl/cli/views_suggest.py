"""What suggestions are to the command line: values, and the form of the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Observed:
    """Flows between two ends. `sightings` are days, or hours of a window of a day or less."""

    source: str
    destination: str
    service: str
    flows: int
    sightings: int
    hosts: int
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class PairsPermitted:
    """Pairs of tag groups, for each service: `unseen` ones had both ends seen, of `silent` ones an end told nothing."""

    permitted: int
    seen: int
    unseen: int
    silent: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` is accepted, edited or rejected."""

    id: str
    rule: str
    verdict: str
    actor: str
    at: datetime | None
    reason: str
    suggested: str
    decided: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`policy` is the file to paste; `whole` stands alone. `of_hosts` is 0 where addresses opened the connections."""

    id: str
    rule: str
    source: str
    destination: str
    services: tuple[str, ...]
    within: tuple[str, ...]
    confidence: str
    rhythm: str
    flows: int
    sightings: int
    hosts: int
    of_hosts: int
    first_seen: datetime | None
    last_seen: datetime | None
    excess: PairsPermitted
    explains: tuple[Observed, ...]
    explained: int
    remarks: tuple[str, ...]
    policy: str
    whole: str
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    reason: str
    why: str
    flows: int
    observations: tuple[Observed, ...]


@dataclass(frozen=True, slots=True)
class Suggestions:
    """`policy` is a file with all of them; `permitted` flows need nothing. `unit` of sightings is day or hour."""

    since: datetime | None
    until: datetime | None
    unit: str
    suggestions: tuple[Suggestion, ...]
    left_out: tuple[LeftOut, ...]
    permitted: int
    policy: str
    more: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """What a decision makes of the policy: `diff` for `git apply`, empty where it changes nothing."""

    id: str
    rule: str
    verdict: str
    diff: str
    file: str = ""
