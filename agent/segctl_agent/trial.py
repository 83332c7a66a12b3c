"""A generation on trial, and what speaks against it: a controller that is not heard, flows seen before that are denied.

Pure: times come in. What becomes of a trial is the agent's to do (agent.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from segctl_agent.denials.prefix import UNKNOWN_WORKLOAD
from segctl_agent.denials.values import Denial
from segctl_agent.flows.permits import PolicyIndex
from segctl_agent.flows.values import PROTOCOL_NAMES, FlowWindow, Verdict
from segctl_agent.identity import Direction

MAX_SEEN: Final = 1 << 13
"""Kinds of flows remembered: some 200 bytes each."""
_NUMBERS: Final = {name: number for number, name in PROTOCOL_NAMES.items()}

_What = tuple[Direction, bytes, int, int]
"""direction, remote address (4 or 16 bytes), IP protocol number, port of the service or type of the message"""


@dataclass(frozen=True, slots=True)
class Trial:
    """Activated and not confirmed yet. `silence` is in seconds, `began_us` Unix time: earlier packets were judged by
    what was in force before."""

    generation: int
    digest: str
    silence: float
    accept_denials: bool = False
    began_us: int = 0


class SeenFlows:
    """The kinds of accepted flows that were seen last, at most MAX_SEEN, and how they were judged. A TCP connection
    that nobody answered is none: whoever still asks for a server that is gone loses nothing."""

    def __init__(self) -> None:
        self._seen: OrderedDict[_What, dict[str, Verdict]] = OrderedDict()
        self._workloads: set[str] = set()

    def note(self, window: FlowWindow) -> None:
        for row in window.rows:
            if not row.answered:
                continue
            key = row.key
            what = (key.direction, key.remote, key.protocol, key.port)
            self._seen.setdefault(what, {})[key.workload] = key.verdict
            self._seen.move_to_end(what)
            self._workloads.add(key.workload)
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def keep(self, index: PolicyIndex, now: float) -> None:
        """Another policy is confirmed: what that one denies is no flow that passed before any more."""
        for what, verdicts in list(self._seen.items()):
            for workload in [w for w in verdicts if not index.judge(what[0], w, *what[1:], now).passes]:
                del verdicts[workload]
            if not verdicts:
                del self._seen[what]

    def broken(self, denials: Iterable[Denial], index: PolicyIndex, since_us: int, now: float) -> Denial | None:
        """The first denial since `since_us` (Unix time) of what passed before, where nobody decided that it should not.
        None when there is none.

        Nobody decided that: it passed because its host observed only, or the policy that denies it permits it. What a
        rule allowed and no rule allows now was in the plan that somebody accepted, and what was told as would-deny was
        told.
        """
        for denial in denials:
            direction: Direction = "in" if denial.ingress else "out"
            number = _NUMBERS.get(denial.protocol)
            if denial.verdict != "denied" or number is None or denial.last_seen_us <= since_us:
                continue
            if denial.workload == UNKNOWN_WORKLOAD:
                continue  # its cgroup was not mapped yet: the packet that follows passes
            what = (direction, denial.remote.packed, number, denial.port)
            before = self._verdicts(denial.workload, what)
            if "observed" in before:
                return denial
            if before and index.permitting_rule(
                direction, denial.workload, denial.remote.packed, number, denial.port, now
            ):
                return denial
        return None

    def _verdicts(self, workload: str, what: _What) -> set[Verdict]:
        """Those of this workload; of a workload that is new, those of all: its processes belonged to others before."""
        seen = self._seen.get(what, {})
        if workload in self._workloads:
            return {seen[workload]} if workload in seen else set()
        return set(seen.values())


def describe_broken(denial: Denial) -> str:
    """For people: which flow that passed before is denied."""
    way = "from" if denial.ingress else "to"
    service = denial.protocol if denial.protocol.startswith("icmp") else f"{denial.protocol}/{denial.port}"
    who = f" by {denial.process.exe}" if denial.process.exe and not denial.ingress else ""
    return f"{service} {way} {denial.remote} of workload {denial.workload}{who} passed before, and is denied"
