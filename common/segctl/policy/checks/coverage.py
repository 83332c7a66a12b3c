"""Rules that say nothing new: duplicates, and rules that another rule covers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from segctl.model.findings import Finding
from segctl.model.policy import Network, Policy, PortRange, Rule
from segctl.policy.checks.terms import Term, Terms, covers_ports, warning, within_can_hold
from segctl.policy.decide import is_live
from segctl.policy.ports import Ports, normalize

_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    rule: Rule
    source: Term
    destination: Term
    ports: Ports

    def covers(self, other: _Item) -> bool:
        return (
            covers_ports(self.ports, other.ports)
            and self.source.covers(other.source)
            and self.destination.covers(other.destination)
            and self._within_holds_for(other)
            and self._lasts_as_long_as(other.rule)
        )

    def _within_holds_for(self, other: _Item) -> bool:
        for key in self.rule.within:
            if key in other.rule.within:
                continue
            mine, theirs = other.source.known.get(key), other.destination.known.get(key)
            if mine is None or mine != theirs:
                return False
        return True

    def _lasts_as_long_as(self, other: Rule) -> bool:
        if self.rule.until is None:
            return True
        return other.until is not None and other.until <= self.rule.until


def find_covered_rules(policy: Policy, terms: Terms, now: datetime) -> Iterator[Finding]:
    """A warning for each rule whose removal would change nothing as long as the one it names stays."""
    for rule, wide, mutual in covered_rules(policy, terms, now):
        yield _finding(rule, wide, mutual)


def covered_rules(policy: Policy, terms: Terms, now: datetime) -> Iterator[tuple[Rule, Rule, bool]]:
    """Each such rule, one that covers it, and whether both say the same."""
    items = [
        _Item(i, r, terms.of(r.source), terms.of(r.destination), normalize(r.ports))
        for i, r in enumerate(policy.rules)
        if is_live(r, now)
    ]
    items = [i for i in items if _can_apply(i)]
    index = _Index(items)
    for item in items:
        for wide in index.candidates(item):
            if wide.index == item.index or not wide.covers(item):
                continue
            mutual = item.covers(wide)
            if mutual and wide.index > item.index:
                continue
            yield item.rule, wide.rule, mutual
            break


def _can_apply(item: _Item) -> bool:
    possible = item.source.possible and item.destination.possible
    return possible and within_can_hold(item.rule.within, item.source.known, item.destination.known)


def _finding(rule: Rule, wide: Rule, mutual: bool) -> Finding:
    if mutual:
        message = f"rule {rule.name} says the same as rule {wide.name} ({wide.where})"
        return warning(rule.where, "rule-duplicate", message, "remove one")
    message = f"rule {rule.name} adds nothing: rule {wide.name} ({wide.where}) covers it"
    return warning(rule.where, "rule-shadowed", message, f"remove it, or narrow {wide.name}")


class _Index:
    """Finds the rules that might cover another without looking at all of them.

    A rule is filed under what both of its ends need, by the rarest tag of each, and under each of its ports; only
    rules whose needs the other meets can cover it.
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = list(items)
        self._frequency = Counter(p for i in self._items for end in (i.source, i.destination) for p in end.wanted)
        self._peers = {e.peer: e for i in self._items for e in (i.source, i.destination) if e.peer is not None}
        self._holders: dict[Network, list[str]] = defaultdict(list)
        for name, term in self._peers.items():
            for network in term.networks.networks if term.networks else ():
                self._holders[network].append(name)
        self._lengths = {v: sorted({n.prefixlen for n in self._holders if n.version == v}) for v in (4, 6)}
        self._wider: dict[str, list[_Key]] = {}
        self._filed: dict[tuple[_Key, _Key, _Key], list[_Item]] = defaultdict(list)
        for item in self._items:
            source, destination = self._need(item.source), self._need(item.destination)
            for key in {_port_key(p) for p in item.ports}:
                self._filed[source, destination, key].append(item)

    def candidates(self, item: _Item) -> Iterator[_Item]:
        if not item.ports:
            return
        ports = (_port_key(item.ports[0]), ("range", item.ports[0].protocol))
        destinations = self._offers(item.destination)
        for source in self._offers(item.source):
            for destination in destinations:
                for port in dict.fromkeys(ports):
                    yield from self._filed.get((source, destination, port), ())

    def _need(self, term: Term) -> _Key:
        if term.peer is not None:
            return ("peer", term.peer)
        if term.workload is not None:
            return ("workload", term.workload)
        if term.wanted:
            return ("tag", *min(term.wanted, key=lambda pair: (self._frequency[pair], pair)))
        return ("all",)

    def _offers(self, term: Term) -> list[_Key]:
        if term.peer is not None:
            if term.peer not in self._wider:
                self._wider[term.peer] = [("peer", name) for name in self._wider_peers(term)]
            return self._wider[term.peer]
        workload: list[_Key] = [("workload", term.workload)] if term.workload is not None else []
        return [*workload, *(("tag", key, value) for key, value in term.known.items()), ("all",)]

    def _wider_peers(self, term: Term) -> Iterator[str]:
        """The peers that cover this one: they hold a network around its first."""
        first = term.networks.networks[0] if term.networks and term.networks.networks else None
        if first is None:
            return
        for length in (n for n in self._lengths[first.version] if n <= first.prefixlen):
            around = first.supernet(new_prefix=length)
            yield from (name for name in self._holders.get(around, ()) if self._peers[name].covers(term))


def _port_key(ports: PortRange) -> _Key:
    return (ports.protocol, str(ports.low)) if ports.low == ports.high else ("range", ports.protocol)
