"""suggest: observations in, suggestions out. What each step decides is in the module of its name; docs/suggestions.md.

observations ─ identify ─▶ standing ─▶ cells ─▶ scans ─▶ generalise ─▶ habits ─▶ compose ─▶ verify ─▶ Suggestions
               (who)       (policy)    (pairs)  (out)    (patterns)    (enough?)  (rules)    (checks)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, Process
from segctl.suggest.addition import addition_of, joined
from segctl.suggest.cells import Cell, Fleet, Shape, Shapes, adopt_unknown, flows
from segctl.suggest.compose import Composer
from segctl.suggest.drafts import drafts_of
from segctl.suggest.forbidden import Forbidden
from segctl.suggest.habits import Habit, HabitFinder
from segctl.suggest.identify import ANY_PROCESS, Identifier, Kind, Who
from segctl.suggest.leaving import opened
from segctl.suggest.observed import Observation, ObservedEnd, Window
from segctl.suggest.pairs import Pair, Values, exactly
from segctl.suggest.result import LeftOut, Reason, Refused, Suggestions
from segctl.suggest.rhythm import Times
from segctl.suggest.scans import take_scans
from segctl.suggest.sites import Sites
from segctl.suggest.standing import UNNAMED, Place, Standing
from segctl.suggest.verify import verified

MOST_SHOWN = 20
"""Observations that are kept of what was left out, for each reason and sentence; of its flows all are counted."""
MOST_TURNS = 3
AWAKE = 0.25
"""Of the window, between the first and the last time that a program was seen in a group."""


def suggest(
    observations: Iterable[Observation],
    window: Window,
    inventory: Inventory,
    policy: Policy,
    now: datetime,
    refused: Sequence[Refused] = (),
    owner: str = "",
) -> Suggestions:
    """Deterministic: the order of the observations has no influence. `refused` are rejections that still stand, `owner`
    is written where the policy does not tell whose a rule would be."""
    run = _Run(sorted(observations, key=str), window, inventory, policy, now, refused, owner)
    # A process that gets a workload of its own leaves `host`, and what `host` is permitted: that is suggested too.
    named: frozenset[Process] = frozenset()
    for _ in range(MOST_TURNS):
        found = run.suggestions(named)
        now_named = frozenset(w.process for one in found.suggestions for w in one.workloads)
        if now_named <= named or not run.has_permission(now_named):
            break
        named |= now_named
    return run.safe(found)


class _Run:
    def __init__(
        self,
        observations: Sequence[Observation],
        window: Window,
        inventory: Inventory,
        policy: Policy,
        now: datetime,
        refused: Sequence[Refused],
        owner: str,
    ) -> None:
        self._observations, self._inventory = observations, inventory
        began = min((one.first_us for one in observations), default=window.since_us)
        self._window = replace(window, began_us=max(window.since_us, min(began, window.until_us - window.bin_us)))
        self._policy, self._now = policy, now
        self._fleet = Fleet(policy, inventory)
        self._standing = Standing(policy, now)
        self._forbidden = Forbidden(policy, self._fleet, refused)
        self._identifier = Identifier(policy, observations)
        self._sites = tuple(
            Sites(
                policy,
                (n for one in observations if (n := (one.destination if far else one.source).network) is not None),
                clients=not far,
            )
            for far in (False, True)
        )
        self._composer = Composer(policy, self._fleet, window, owner)

    def suggestions(self, named: frozenset[Process]) -> Suggestions:
        self._left: dict[tuple[Reason, str], list[Observation]] = defaultdict(list)
        self._permitted = 0
        self._wanted: Shapes = {}
        self._settled: dict[Shape, set[Pair]] = defaultdict(set)
        self._denied: dict[Shape, set[Pair]] = defaultdict(set)
        self._told_by: dict[Who, dict[Values, int]] = defaultdict(lambda: defaultdict(int))
        self._any_told: dict[Values, int] = defaultdict(int)
        for one in self._observations:
            self._sort(one, named)
        adopt_unknown(self._wanted)
        self._take_rejected()
        for what, cells in take_scans(self._wanted, self._settled):
            self._leave(Reason.SCAN, what, cells)
        written = self._composer.suggestions(drafts_of(self._habits()))
        kept, dropped = verified(written, self._policy, self._inventory, self._now)
        for suggestion, reason, why in dropped:
            self._left[reason, why] += suggestion.explains
        return Suggestions(self._window, kept, self._left_out(), self._permitted, addition_of(kept))

    def safe(self, found: Suggestions) -> Suggestions:
        """Without suggestions whose workloads would change what is there already: cost a process what `host` permits it
        today, take it out of a stricter mode, or out of a boundary."""
        while flaw := self._flaw(found.addition):
            guilty, reason, why = flaw
            out = [
                one for one in found.suggestions if guilty & {one.rule.source.workload, one.rule.destination.workload}
            ]
            for one in out:
                self._left[reason, why] += one.explains
            kept = tuple(one for one in found.suggestions if one not in out)
            found = replace(found, suggestions=kept, left_out=self._left_out(), addition=addition_of(kept))
        return found

    def _flaw(self, addition: Policy) -> tuple[set[str], Reason, str] | None:
        """The names of workloads that may not be declared, and why."""
        made = addition.workloads.values()
        if lost := self._lost(addition):
            why = "its workload would lose what the policy permits it as host: name the process in those rules first"
            return {w.name for w in made if w.process in lost}, Reason.UNSAFE, why
        for workload, boundary, rule in opened(self._policy, made):
            why = (
                f"{workload.process} would leave boundary {boundary.name}, which is said of workload host, and rule "
                f"{rule.name} would permit it what that denies: say the boundary by tags first"
            )
            return {workload.name}, Reason.UNSAFE, why
        groups = [self._fleet.tags(values) for values in self._fleet.groups]
        for workload in made:
            if any(tags.includes(workload.on) and self._standing.weakens(tags) for tags in groups):
                why = f"{workload.process} would leave the stricter mode of workload host: say the mode by tags first"
                return {workload.name}, Reason.MODE, why
        return None

    def _lost(self, addition: Policy) -> set[Process]:
        """The processes that get a workload and lose a permission that was used."""
        made = {w.process for w in addition.workloads.values()}
        if not made:
            return set()
        policy = joined(self._policy, addition)
        after, identifier = Standing(policy, self._now), Identifier(policy, ())
        lost: set[Process] = set()
        for one in self._observations:
            near, far = self._identifier.who(one.source), self._identifier.who(one.destination)
            if isinstance(near, str) or isinstance(far, str):
                continue
            mine = {who.process for who in (near, far) if who.process in made}
            if not mine or not self._permitted_today(one, near, far):
                continue
            places = [_named_place(end, identifier) for end in (one.source, one.destination)]
            if not after.permits(places[0], places[1], one.service):
                lost |= {process for process in mine if process is not None}
        return lost

    def has_permission(self, processes: frozenset[Process]) -> bool:
        """Whether one of them is permitted anything today, as `host`."""
        return any(
            shape.source.process in processes or shape.destination.process in processes for shape in self._settled
        )

    def _sort(self, one: Observation, named: frozenset[Process]) -> None:
        """Puts an observation where it belongs: among the wanted, the settled or the denied, or aside."""
        ends = [self._end(end, far) for far, end in enumerate((one.source, one.destination))]
        source, destination = ends
        if isinstance(source, str) or isinstance(destination, str):
            why = source if isinstance(source, str) else str(destination)
            self._left[Reason.UNNAMEABLE, why].append(one)
            return
        if one.service.protocol == "ip":
            self._left[Reason.UNNAMEABLE, "no rule can allow this protocol"].append(one)
            return
        (near, here), (far, there) = source, destination
        if one.service.protocol in ("icmp", "icmpv6") and far.kind is not Kind.OUTSIDE:
            far = ANY_PROCESS  # the kernel answers for the whole host
        shape, pair = Shape(near, far, one.service), (here, there)
        for who, values in ((near, here), (far, there)):
            self._told_by[who][values] |= one.bins
            self._any_told[values] |= one.bins
        start, goal = self._place(one.source, near, named), self._place(one.destination, far, named)
        if self._standing.essential(start, goal, one.service):
            self._left[Reason.ESSENTIAL, "an essential passes whatever the rules say"].append(one)
        elif one.denied and not self._permitted_today(one, near, far):
            self._denied[shape].add(pair)
            self._left[Reason.DENIED, "denied: segctl denied shows whose they are, and a rule for each"].append(one)
        elif self._standing.permits(start, goal, one.service):
            self._settled[shape].add(pair)
            self._permitted += one.flows
        elif name := self._standing.boundary(
            self._place(one.source, near, None), self._place(one.destination, far, None)
        ):
            why = f"boundary {name} denies it whatever rules allow"
            self._left[Reason.BOUNDARY, why].append(one)
        elif gone := next((v for v in (here, there) if v[-1] is None and v not in self._fleet.groups), None):
            self._left[Reason.GONE, f"no host carries {self._fleet.words(gone)} any more"].append(one)
        else:
            cell = self._wanted.setdefault(shape, {}).setdefault(pair, Cell(pair))
            cell.add(one)
            cell.owed = cell.owed or self._permitted_today(one, near, far)

    def _permitted_today(self, one: Observation, near: Who, far: Who) -> bool:
        """Then what was denied once is history."""
        today: frozenset[Process] = frozenset()
        ends = self._place(one.source, near, today), self._place(one.destination, far, today)
        return self._standing.permits(*ends, one.service)

    def _end(self, end: ObservedEnd, far: int) -> tuple[Who, Values] | str:
        who = self._identifier.who(end)
        if isinstance(who, str):
            return who
        if end.tags is None:
            assert end.network is not None
            return who, self._fleet.outside(self._sites[far].of(end.network))
        tags = end.tags
        if who.kind is Kind.WORKLOAD:
            tags = tags.merged(self._policy.workloads[who.name].tags)
        return who, self._fleet.values(tags)

    def _place(self, end: ObservedEnd, who: Who, named: frozenset[Process] | None) -> Place:
        """As it is today, or as it will be when these processes have workloads (None: all)."""
        if end.network is not None:
            return Place(None, "", end.network.network_address)
        if who.kind is Kind.WORKLOAD:
            return Place(end.tags, who.name)
        renamed = who.process is not None and (named is None or who.process in named)
        return Place(end.tags, UNNAMED if renamed else HOST_WORKLOAD)

    def _take_rejected(self) -> None:
        for shape, cells in list(self._wanted.items()):
            for one, pattern in self._forbidden.rejections(shape, _sites(cells)):
                for pair in [pair for pair, cell in cells.items() if pattern.matches(pair) and not cell.owed]:
                    self._leave(Reason.REJECTED, f"rejected by {one.by}: {one.why}", [cells.pop(pair)])
            if not cells:
                del self._wanted[shape]

    def _habits(self) -> list[Habit]:
        finder = HabitFinder(self._fleet, self._window, self._any_told)
        habits: list[Habit] = []
        for shape in sorted(self._wanted):
            cells = self._wanted[shape]
            if self._weakens(shape, cells):
                continue
            forbidden = (
                *self._forbidden.of(shape, _sites(cells)),
                *(exactly(pair) for pair in sorted(self._denied_of(shape), key=str)),
            )
            told = (self._groups(shape.source), self._groups(shape.destination))
            awake = (self._groups(shape.source, AWAKE), self._groups(shape.destination, AWAKE))
            found, unfit = finder.find(shape, cells, self._settled.get(shape, ()), told, awake, forbidden)
            habits += found
            for one in unfit:
                self._leave(one.reason, one.why, one.cells)
        return habits

    def _groups(self, who: Who, share: float = 0.0) -> list[Values]:
        """Those that are left, in which the program told something over that share of the window: only where it was
        there for long does it mean something what it did not do."""
        if who.kind is Kind.OUTSIDE:
            return []
        there, window = self._fleet.groups, self._window
        if who.kind is Kind.HOST and not share:
            return list(there)  # every host has processes that no workload names
        told = self._any_told if who.kind is Kind.HOST else self._told_by[who]
        return [v for v, bins in told.items() if v in there and Times.of(window, bins).covers(share)]

    def _denied_of(self, shape: Shape) -> set[Pair]:
        """A denial whose process at one end nobody knows may have been of any."""
        return {
            pair
            for other, pairs in self._denied.items()
            if other.service == shape.service
            and _may_be(other.source, shape.source)
            and _may_be(other.destination, shape.destination)
            for pair in pairs
        }

    def _weakens(self, shape: Shape, cells: dict[Pair, Cell]) -> bool:
        """A workload of its own would take the process out of a mode that is said of `host`."""
        for side, who in enumerate((shape.source, shape.destination)):
            if who.kind is Kind.PROCESS:
                groups = {pair[side] for pair in cells}
                if any(self._standing.weakens(self._fleet.tags(values)) for values in groups):
                    why = f"{who.name} would leave the stricter mode of workload host: say the mode by tags first"
                    self._leave(Reason.MODE, why, cells.values())
                    return True
        return False

    def _leave(self, reason: Reason, why: str, cells: Iterable[Cell]) -> None:
        self._left[reason, why] += [one for cell in cells for one in cell.observations]

    def _left_out(self) -> tuple[LeftOut, ...]:
        order = list(Reason)
        found = [
            LeftOut(reason, why, flows(own), tuple(sorted(own, key=lambda o: (-o.flows, str(o)))[:MOST_SHOWN]))
            for (reason, why), own in self._left.items()
            if own
        ]
        return tuple(sorted(found, key=lambda one: (order.index(one.reason), -one.flows, one.why)))


def _named_place(end: ObservedEnd, identifier: Identifier) -> Place:
    """By the workloads that are declared."""
    if end.network is not None:
        return Place(None, "", end.network.network_address)
    who = identifier.who(end)
    return Place(end.tags, who.name if isinstance(who, Who) and who.kind is Kind.WORKLOAD else HOST_WORKLOAD)


def _may_be(one: Who, other: Who) -> bool:
    """Whether what happened to one may have happened to the other: a process that nobody knows may be any of the host,
    also one that a workload names."""
    kinds = (one.kind, other.kind)
    return one == other or (Kind.HOST in kinds and Kind.OUTSIDE not in kinds)


def _sites(cells: Iterable[Pair]) -> set[str]:
    return {site for pair in cells for end in pair if (site := end[-1]) is not None}
