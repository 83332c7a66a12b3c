"""Connections to try in the lab, and what must come of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lab.fleet import Answer, parallel
from lab.topology import unit_cgroup

FAMILIES = {"4": "IPv4", "6": "IPv6"}


class Caller(Protocol):
    """A fleet in namespaces, or any other driver."""

    def call(
        self,
        source: str,
        destination: str,
        port: int,
        unit: str = "",
        user: str = "root",
        family: str = "4",
        say: str = "",
        bind: str = "",
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection to try from a process of `unit` (empty: a login session of `user`) on `source`; `hears` is what
    the answer must contain, `bind` the source address to use."""

    source: str
    unit: str
    destination: str
    port: int
    passes: bool
    say: str = ""
    hears: str = ""
    families: str = "46"
    user: str = "root"
    bind: str = ""

    def holds(self, answer: Answer) -> bool:
        return answer.open == self.passes and (not self.passes or self.hears in answer.text)

    def __str__(self) -> str:
        process = unit_cgroup(self.unit).rsplit("/", 1)[-1] if self.unit else f"{self.user}'s session"
        return f"{self.source} {process} → {self.destination}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tried:
    """A flow over one address family and its answer."""

    flow: Flow
    family: str
    answer: Answer

    @property
    def holds(self) -> bool:
        return self.flow.holds(self.answer)

    def __str__(self) -> str:
        wanted = "must pass" if self.flow.passes else "must be refused"
        return f"{self.flow}, {FAMILIES[self.family]}, {wanted}: {self.answer.text}"


def try_flows(fleet: Caller, *flows: Flow) -> list[Tried]:
    """Try them all at once, each over each of its address families in a process of its own; in the order given."""

    def once(one: tuple[Flow, str]) -> Tried:
        flow, family = one
        answer = fleet.call(
            flow.source,
            flow.destination,
            flow.port,
            unit=flow.unit,
            user=flow.user,
            family=family,
            say=flow.say,
            bind=flow.bind,
        )
        return Tried(flow, family, answer)

    return parallel(once, [(flow, family) for flow in flows for family in flow.families])


def wrong(fleet: Caller, *flows: Flow) -> list[str]:
    """Try them; returns those that did not end as they must, in words."""
    return [str(tried) for tried in try_flows(fleet, *flows) if not tried.holds]
