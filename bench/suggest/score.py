"""What suggestions are worth: against the true policy, and against traffic that came later.

Suggested rules are judged by the policy's own functions (`segctl.policy.decide`), both ends by their program: more
strictly than kernels do, which know the other end by its address alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, ProcessKind, Rule, Workload
from segctl.model.policy import Tags as PolicyTags
from segctl.model.processes import unit_identity
from segctl.policy.checks.globs import is_glob
from segctl.policy.decide import Instance, matches, same_within
from segctl.suggest.engine import suggest
from segctl.suggest.observed import DAY_US, Observation, ObservedEnd, Window
from segctl.suggest.result import Suggestions

from bench.suggest.traffic import HOURS, Kind, Tallies, Traffic
from bench.suggest.world import LOGIN, NEWCOMER, End, Machine, Program, World

START_US = 1_790_000_000_000_000 - 1_790_000_000_000_000 % DAY_US
HOUR_US = DAY_US // HOURS
EMPTY = Policy()
SEEN = ("never seen in the window", "seen on a day or two", "seen on three days or more")
SELDOM = 2


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of 1; `settled` is the coverage without the application that came two days before the end. `attacks`
    counts kinds of attack flows that a suggested rule permits, of `attempted`. `rules` and `true_rules` are numbers.
    `missed` is what coverage lacks, by how often its kind was seen while looked at: see `SEEN`."""

    coverage: float
    settled: float
    missed: tuple[float, float, float]
    excess: float
    rules: int
    true_rules: int
    attacks: int
    attempted: int
    seconds: float

    @property
    def ratio(self) -> float:
        return self.rules / self.true_rules


def inventory_of(world: World, day: int) -> Inventory:
    hosts = (Host(m.name, PolicyTags.of(m.tags), ()) for m in world.alive(day))
    return Inventory({host.name: host for host in hosts})


def observations_of(traffic: Traffic, window: Window) -> list[Observation]:
    """What a controller would have summed up; who meant well and who did not is no part of it."""
    found = []
    for kind in sorted(traffic.observed, key=str):
        tally = traffic.observed[kind]
        bins = 0
        for hour in tally.hours:
            bins |= 1 << window.bin_of(START_US + hour * HOUR_US)
        found.append(
            Observation(
                _observed(kind.source),
                _observed(kind.destination),
                PortRange(kind.protocol, kind.port, kind.port),  # type: ignore[arg-type]
                tally.flows,
                START_US + min(tally.hours) * HOUR_US,
                START_US + max(tally.hours) * HOUR_US,
                bins,
                len(tally.sources),
                len(tally.destinations),
            )
        )
    return found


def _observed(program: Program) -> ObservedEnd:
    if program.tags is None:
        return ObservedEnd(network=ip_network(program.address))
    process = f"exe:{program.unit}" if program.user else unit_identity(program.unit)
    return ObservedEnd(PolicyTags.of(program.tags), HOST_WORKLOAD, process)


class Judge:
    """The program of an end, and whether a rule of the policy names both ends and the port."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._instances: dict[Program, Instance] = {}
        self._known: dict[Kind, Rule | None] = {}

    def rule(self, kind: Kind) -> Rule | None:
        if kind not in self._known:
            self._known[kind] = self._look(kind)
        return self._known[kind]

    def _look(self, kind: Kind) -> Rule | None:
        port = PortRange(kind.protocol, kind.port, kind.port)  # type: ignore[arg-type]
        source, destination = self.end(kind.source), self.end(kind.destination)
        for rule in self._policy.rules:
            if (
                any(p.covers(port) for p in rule.ports)
                and matches(self._policy, rule.source, source)
                and matches(self._policy, rule.destination, destination)
                and (
                    not (isinstance(source, Instance) and isinstance(destination, Instance))
                    or same_within(rule, source.tags, destination.tags)
                )
            ):
                return rule
        return None

    def end(self, program: Program) -> Instance | Address:
        if program.tags is None:
            return ip_address(program.address)
        if program not in self._instances:
            tags = PolicyTags.of(program.tags)
            claims = [w for w in self._policy.workloads.values() if tags.includes(w.on) and _claims(w, program)]
            best = min(
                claims, key=lambda w: (is_glob(w.process.pattern), -len(w.process.pattern), w.name), default=None
            )
            name = best.name if best else HOST_WORKLOAD
            self._instances[program] = Instance("", name, tags.merged(best.tags) if best else tags, tags)
        return self._instances[program]


def _claims(workload: Workload, program: Program) -> bool:
    pattern = workload.process.pattern
    if workload.process.kind is ProcessKind.USER:
        return program.user == pattern
    if pattern == "user.slice":
        return bool(program.user)
    return fnmatchcase(program.unit, pattern)


def coverage(policy: Policy, legitimate: Tallies) -> tuple[float, Counter[Kind]]:
    """The share of flows that a rule permits, and those that none does."""
    judge = Judge(policy)
    missed: Counter[Kind] = Counter()
    for kind, tally in legitimate.items():
        if judge.rule(kind) is None:
            missed[kind] = tally.flows
    total = sum(tally.flows for tally in legitimate.values())
    return 1 - missed.total() / total, missed


def by_days_seen(missed: Counter[Kind], train: Tallies, total: int) -> tuple[float, float, float]:
    """Shares of `total`, as SEEN has them. Whatever the address outside and whoever is logged in, it is one kind."""
    days: dict[Kind, set[int]] = defaultdict(set)
    for kind, tally in train.items():
        days[_alike(kind)] |= {hour // HOURS for hour in tally.hours}
    shares = [0.0, 0.0, 0.0]
    for kind, flows in missed.items():
        seen = len(days[_alike(kind)])
        shares[(seen > 0) + (seen > SELDOM)] += flows / total
    return shares[0], shares[1], shares[2]


def _alike(kind: Kind) -> Kind:
    source, destination = (
        replace(p, unit=LOGIN if p.user else p.unit, user="", address="") for p in (kind.source, kind.destination)
    )
    return replace(kind, source=source, destination=destination)


def permitted_by_truth(world: World, kind: Kind) -> bool:
    return any(
        (kind.protocol, kind.port) in r.ports
        and _is(r.source, kind.source)
        and _is(r.destination, kind.destination)
        and all(_tag(kind.source, k) and _tag(kind.source, k) == _tag(kind.destination, k) for k in r.within)
        for r in world.relations
    )


def _tag(program: Program, key: str) -> str:
    return dict(program.tags or ()).get(key, "")


def _is(end: End, program: Program) -> bool:
    if end.networks:
        return program.tags is None and (end.networks == ("any",) or program.address in end.networks)
    if program.tags is None or not end.holds(dict(program.tags)):
        return False
    unit = end.unit(Machine("", program.tags, ())) if end.unit else ""
    return bool(program.user) if unit == LOGIN else program.unit == unit


def excess(world: World, policy: Policy, day: int, seen: Iterable[Kind]) -> tuple[float, Counter[str]]:
    """Of all pairs of machines' programs of that day that the suggested rules permit by their ports, the share that the
    true policy does not; and how many of those each rule brings. Every unit of a machine is a program that could call,
    and one that could listen; addresses are those that were seen, and some that were not."""
    programs: Counter[Program] = Counter()
    for machine in world.alive(day):
        for unit in machine.units:
            programs[Program(machine.tags, unit)] += 1
        if machine.tag("role") == "bastion":
            programs[Program(machine.tags, "/usr/bin/ssh", world.users[0])] += 1
    addresses = {p.address for k in seen for p in (k.source, k.destination) if p.tags is None}
    addresses |= {f"192.0.2.{n}" for n in range(1, 40)} | {f"203.0.113.{n}" for n in range(1, 60)}
    for address in addresses:
        programs[Program(None, address=address)] = 1
    judge = Judge(policy)
    ends = {program: judge.end(program) for program in programs}
    wrong: Counter[str] = Counter()
    total = 0
    known: dict[Kind, bool] = {}
    done: set[Kind] = set()
    for rule in policy.rules:
        near = [p for p, end in ends.items() if matches(policy, rule.source, end)]
        far = [p for p, end in ends.items() if matches(policy, rule.destination, end)]
        for kind in _kinds(rule, near, far):
            if kind in done:
                continue
            done.add(kind)
            weight = programs[kind.source] * programs[kind.destination]
            total += weight
            if kind not in known:
                known[kind] = permitted_by_truth(world, kind)
            if not known[kind]:
                wrong[rule.name] += weight
    return (wrong.total() / total if total else 0.0), wrong


def _kinds(rule: Rule, near: list[Program], far: list[Program]) -> Iterator[Kind]:
    index: dict[tuple[str, ...], list[Program]] = defaultdict(list)
    for program in far:
        index[tuple(_tag(program, k) for k in rule.within)].append(program)
    for source in near:
        for destination in index.get(tuple(_tag(source, k) for k in rule.within), ()):
            if not rule.within or all(_tag(source, k) for k in rule.within):
                for port in rule.ports:
                    yield Kind(source, destination, port.protocol, port.low)


@dataclass(frozen=True, slots=True)
class Trial:
    """One world looked at for `days`, and what came in the days after. `detail` is for people who look into it."""

    world: World
    train: Traffic
    later: Traffic
    suggestions: Suggestions
    score: Score
    missed: Counter[Kind]
    wrong: Counter[str]


def trial(world: World, seed: int, days: int, later: int) -> Trial:
    import time

    train = Traffic(world, seed, range(days))
    after = Traffic(world, seed + 1, range(days, days + later))
    window = Window.of(START_US, START_US + days * DAY_US)
    observations = observations_of(train, window)
    now = datetime.fromtimestamp(window.until_us / 1e6, UTC)
    began = time.process_time()
    found = suggest(observations, window, inventory_of(world, days - 1), EMPTY, now, owner="bench")
    took = time.process_time() - began
    policy = found.addition
    covered, missed = coverage(policy, after.legitimate)
    settled = {
        k: t for k, t in after.legitimate.items() if NEWCOMER not in (_tag(k.source, "app"), _tag(k.destination, "app"))
    }
    share, wrong = excess(world, policy, days - 1, (*train.legitimate, *after.legitimate, *train.attacks))
    judge = Judge(policy)
    attacks = [k for t in (train, after) for k in t.attacks if not permitted_by_truth(world, k)]
    score = Score(
        covered,
        coverage(policy, settled)[0],
        by_days_seen(missed, train.legitimate, sum(tally.flows for tally in after.legitimate.values())),
        share,
        len(policy.rules),
        len(world.relations),
        sum(judge.rule(k) is not None for k in attacks),
        len(attacks),
        took,
    )
    return Trial(world, train, after, found, score, missed, wrong)
