"""How much of what a rule permits was used, and the narrower rule that permits what was used.

Both are counted in *tuples*: a workload of the hosts with the same tags, another one, and a port. Peers count as one
end, however many addresses they are: who calls from outside comes and goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Policy, PortRange, Rule, Selector, Tags
from segctl.policy.ports import normalize
from segctl.policy.propose import service_name
from segctl.policy.selectors import InstanceFinder, Population
from segctl.policy.syntax.grammar import ANY_PORTS, ANY_SERVICE, read_service
from segctl.policy.syntax.log import Problem

FAR_MORE = 2
"""A rule is too broad when a narrower one would permit no more than this part of it."""
WIDE = 16
"""Ports of one word of `allow`, above which the ports that were used are named instead of it."""
MOST_PORTS = 8
"""Ports that a narrower rule names: more are a range that is meant as one."""


@dataclass(frozen=True, slots=True)
class Used:
    """A rule permitted this. Tags are those of the hosts; None: an address that no host held. A workload is empty where
    the end that told of it could not know."""

    source: Tags | None
    source_workload: str
    destination: Tags | None
    destination_workload: str
    service: PortRange


@dataclass(frozen=True, slots=True)
class Breadth:
    """Tuples that the rule permits, that were used, and that `narrower` would permit. It permits all that was used, as
    far as it was told: where some connections of a kind were told by one end only, their workload at the other is not
    known."""

    permitted: int
    used: int
    left: int
    narrower: Rule


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two kinds of hosts that used a rule for a service, and the workloads that are known of each."""

    source: Tags | None
    destination: Tags | None
    service: PortRange
    source_workloads: frozenset[str]
    destination_workloads: frozenset[str]

    @property
    def tuples(self) -> int:
        return max(len(self.source_workloads), 1) * max(len(self.destination_workloads), 1)


class Ruler:
    """Measures rules against the enrolled fleet. Only tags that the policy declares count."""

    def __init__(self, policy: Policy, inventory: Inventory) -> None:
        self._policy = policy
        finder = InstanceFinder(policy)
        classes = {self._declared(host.tags) for host in inventory.hosts.values()}
        self._everyone = Population(i for tags in classes for i in finder.of(Host("", tags)))

    def _declared(self, tags: Tags) -> Tags:
        return Tags(tuple(pair for pair in tags.pairs if pair[0] in self._policy.tags))

    def pairs(self, rule: Rule) -> int:
        """Of workloads, boundaries aside."""
        sources, destinations = (self._by_within(end, rule.within) for end in (rule.source, rule.destination))
        if sources is None or destinations is None:
            return sum((sources or destinations or Counter({(): 1})).values())
        return sum(number * destinations[values] for values, number in sources.items())

    def _by_within(self, selector: Selector, within: Sequence[str]) -> Counter[tuple[str, ...]] | None:
        """How many are named, by the tags that must be the same at both ends; None: a peer."""
        if selector.peer is not None:
            return None
        values = (tuple(map(instance.tags.get, within)) for instance in self._everyone.named(selector))
        return Counter(v for v in values if None not in v)  # type: ignore[misc]

    def measure(self, rule: Rule, used: Iterable[Used]) -> Breadth | None:
        """None: nothing of it was used."""
        seen = [u for u in used if any(p.covers(u.service) for p in rule.ports)]
        if not seen:
            return None
        pairs, services = _pairs(seen), sorted({u.service for u in seen})
        tuples = sum(pair.tuples for pair in pairs)
        permitted = self.pairs(rule) * _number(rule.ports)
        if permitted <= FAR_MORE * tuples:
            return Breadth(permitted, tuples, permitted, rule)
        narrower = self._narrower(rule, pairs, services)
        return Breadth(permitted, tuples, self.pairs(narrower) * _number(narrower.ports), narrower)

    def _narrower(self, rule: Rule, pairs: Sequence[_Pair], services: Sequence[PortRange]) -> Rule:
        """Permits all that was used: only what every pair shares is added, and of that what makes a difference."""
        additions = list(self._additions(rule, pairs))
        kept, fewest = list(additions), self.pairs(_with(rule, additions))
        for one in additions:
            others = [other for other in kept if other != one]
            if self.pairs(_with(rule, others)) == fewest:
                kept = others
        allow, ports = self._services(rule, services)
        return replace(_with(rule, kept), allow=allow, ports=ports)

    def _additions(self, rule: Rule, pairs: Sequence[_Pair]) -> Iterator[_Addition]:
        """What is dropped first stands first: tags say more than a relation, and a workload implies tags."""
        for key in self._policy.tags:
            if key not in rule.within and all(_same(key, pair) for pair in pairs):
                yield _Addition(2, key)
        for end, selector in ((0, rule.source), (1, rule.destination)):
            if selector.peer is None:
                tags = [(pair.source, pair.destination)[end] for pair in pairs]
                shared = set.intersection(*(set(t.pairs) if t else set() for t in tags))
                for key, value in sorted(shared - set(selector.tags.pairs)):
                    if value in self._policy.tags.get(key, ()) and selector.tags.get(key) is None:
                        yield _Addition(end, key, value)
        for end, selector in ((0, rule.source), (1, rule.destination)):
            if selector.peer is None and selector.workload is None:
                told = {(pair.source_workloads, pair.destination_workloads)[end] for pair in pairs}
                names = frozenset().union(*told)
                if frozenset() not in told and len(names) == 1 and names <= {HOST_WORKLOAD, *self._policy.workloads}:
                    yield _Addition(end, "", *names)

    def _services(self, rule: Rule, used: Sequence[PortRange]) -> tuple[tuple[str, ...], tuple[PortRange, ...]]:
        """The words of the author that were used; for one of very many ports, the ports."""
        words: dict[str, tuple[PortRange, ...]] = {}
        for word in rule.allow:
            ports = self._ports(word)
            met = [service for service in used if any(p.covers(service) for p in ports)]
            if met and _number(ports) > WIDE and len(met) <= MOST_PORTS:
                words |= {service_name(self._policy, service): (service,) for service in met}
            elif met:
                words[word] = ports
        return tuple(words), tuple(sorted({p for ports in words.values() for p in ports}))

    def _ports(self, word: str) -> tuple[PortRange, ...]:
        if word == ANY_SERVICE:
            return ANY_PORTS
        if word in self._policy.services:
            return self._policy.services[word].ports
        found = read_service(word)
        return () if isinstance(found, Problem) else found


@dataclass(frozen=True, slots=True)
class _Addition:
    """A tag of an end (0 source, 1 destination), its workload (no key), or a key of `within` (2)."""

    end: int
    key: str
    value: str = ""


def _with(rule: Rule, additions: Iterable[_Addition]) -> Rule:
    ends, within = [rule.source, rule.destination], list(rule.within)
    for one in additions:
        if one.end == 2:
            within.append(one.key)
        elif one.key:
            ends[one.end] = replace(ends[one.end], tags=ends[one.end].tags.merged(Tags.of({one.key: one.value})))
        else:
            ends[one.end] = replace(ends[one.end], workload=one.value)
    return replace(rule, source=ends[0], destination=ends[1], within=tuple(within))


def _pairs(used: Iterable[Used]) -> list[_Pair]:
    told: dict[tuple[Tags | None, Tags | None, PortRange], tuple[set[str], set[str]]]
    told = defaultdict(lambda: (set(), set()))
    for one in used:
        names = told[one.source, one.destination, one.service]
        for known, name in zip(names, (one.source_workload, one.destination_workload), strict=True):
            known.update({name} - {""})
    return [_Pair(*ends, *map(frozenset, names)) for ends, names in told.items()]


def _same(key: str, pair: _Pair) -> bool:
    if pair.source is None or pair.destination is None:
        return False
    return pair.source.get(key) is not None and pair.source.get(key) == pair.destination.get(key)


def _number(ports: Iterable[PortRange]) -> int:
    """Of ports; message types of ICMP count as one."""
    return sum(1 if p.protocol in ("icmp", "icmpv6") else p.high - p.low + 1 for p in normalize(ports))
