"""What speaks for a rule, and what it would permit that was never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product

from segctl.model.policy import Policy, PortRange, Process, Tags, Workload
from segctl.suggest.cells import Fleet, union
from segctl.suggest.drafts import Draft
from segctl.suggest.identify import Kind
from segctl.suggest.observed import Window
from segctl.suggest.pairs import PairCounter, Values
from segctl.suggest.result import Confidence, Evidence, Excess
from segctl.suggest.rhythm import ENOUGH, PERIODIC, Times
from segctl.suggest.sites import ANY

EXAMPLES = 5
"""Of pairs that were never seen."""
MOST_TRIED = 2_000
"""Pairs of groups that are looked at to find them."""


class Weigher:
    def __init__(self, policy: Policy, fleet: Fleet, window: Window) -> None:
        self._policy, self._fleet, self._window = policy, fleet, window
        self._groups = sorted(fleet.groups, key=str)
        self._lone = {group for group, hosts in fleet.groups.items() if hosts == 1}

    def evidence(self, draft: Draft) -> tuple[Evidence, Confidence]:
        cells = [cell for habit in draft.habits for cell in habit.cells]
        times = Times.of(self._window, union(cells))
        witnesses = max((habit.witnesses for habit in draft.habits), key=lambda w: (w.hosts, w.groups))
        evidence = Evidence(
            sum(cell.flows for cell in cells),
            union(cells).bit_count(),
            times.rhythm,
            witnesses.hosts,
            witnesses.of_hosts,
            witnesses.groups,
            min(cell.first_us for cell in cells),
            max(cell.last_us for cell in cells),
        )
        unknown = Kind.HOST in (draft.source.kind, draft.destination.kind) and any(
            port.protocol in ("tcp", "udp") for port in draft.ports
        )
        if unknown or draft.peer == (ANY,) or (times.sightings < ENOUGH and times.rhythm not in PERIODIC):
            return evidence, Confidence.LOW
        long = times.covers(0.5) and (times.sightings >= 2 * ENOUGH or times.runs >= ENOUGH)
        return evidence, Confidence.HIGH if long and witnesses.hosts > 1 else Confidence.MEDIUM

    def excess(self, draft: Draft, workloads: Mapping[Process, Workload]) -> Excess:
        """In this fleet, as it is today: a workload is on every host that carries its tags."""
        ends: list[list[Values]] = []
        for who, far in ((draft.source, False), (draft.destination, True)):
            if who.kind is Kind.OUTSIDE:
                ends.append(sorted({inside(group) for group in draft.groups(far)}, key=str))
                continue
            workload = workloads[who.process] if who.process else self._policy.workloads.get(who.name)
            on = self._fleet.values(workload.on) if workload else self._fleet.values(Tags())
            ends.append([g for g in self._groups if all(w is None or w == v for w, v in zip(on, g, strict=True))])
        counter = PairCounter(ends[0], ends[1], self._lone)
        permitted = counter.count(draft.pattern) * len(draft.ports)
        pairs = {(inside(c.pair[0]), inside(c.pair[1]), h.shape.service) for h in draft.habits for c in h.cells}
        known = sum(max(habit.permitted, len(habit.cells)) for habit in draft.habits) if not draft.peer else len(pairs)
        seen = len(pairs)
        permitted = max(permitted, seen)
        unseen = min(max(0, known - seen), permitted - seen)
        return Excess(permitted, seen, unseen, permitted - seen - unseen, self._examples(draft, ends, pairs))

    def _examples(
        self, draft: Draft, ends: Sequence[Sequence[Values]], pairs: set[tuple[Values, Values, PortRange]]
    ) -> tuple[str, ...]:
        found: list[str] = []
        for near, far in islice(product(*ends), MOST_TRIED):
            if len(found) >= EXAMPLES:
                break
            if draft.pattern.matches((near, far)):
                found += [
                    f"{self._fleet.words(near)} -> {self._fleet.words(far)} {port}"
                    for port in draft.ports
                    if (near, far, port) not in pairs
                ][:1]
        return tuple(found)


def inside(values: Values) -> Values:
    """Whatever site it is."""
    return (*values[:-1], None)
