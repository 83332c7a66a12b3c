"""Finds the selectors that name an instance without asking each of them.

Selectors are sorted by the keys they name: all that say something of `app` and `role`, for instance, lie in one table,
by the two values. An instance looks itself up once in each table, so it costs as much as there are sets of keys in a
policy - a dozen - and not as much as there are rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, TypeVar

from segctl.model.inventory import Host
from segctl.model.policy import HOST_WORKLOAD, Policy, Rule, Selector, Tags, Workload
from segctl.policy.decide import Instance, selects

T = TypeVar("T")
_WORKLOAD = "\0workload"
"""No tag's key: so a selector's workload is looked up like a tag."""


class Coordinates(dict[str, str]):
    """What an instance is looked up by: its tags and its workload. None for a tag that it does not carry."""

    __slots__ = ()

    def __missing__(self, key: str) -> None:
        return None


def coordinates(tags: Tags, workload: str | None) -> Coordinates:
    """`workload` is None where a selector names no workload."""
    at = Coordinates(tags.pairs)
    if workload is not None:
        at[_WORKLOAD] = workload
    return at


def picker(keys: Iterable[str]) -> Callable[[dict[str, str]], Hashable]:
    """Tells what coordinates say of these keys: equal for who carries the same."""
    wanted = tuple(keys)
    return itemgetter(*wanted) if wanted else _nothing


def _nothing(_at: dict[str, str]) -> Hashable:
    return ()


class SelectorIndex(Generic[T]):
    """`find` gives the items of the selectors that name the coordinates, in no particular order. A selector of a peer
    names no instance: see `segctl.policy.decide.selects`."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], dict[Hashable, list[T]]] = {}
        self._looks: list[tuple[Callable[[dict[str, str]], Hashable], dict[Hashable, list[T]]]] = []

    def add(self, item: T, selector: Selector) -> None:
        if selector.peer is not None:
            return
        at = coordinates(selector.tags, selector.workload)
        keys, values = tuple(at), tuple(at.values())
        if keys not in self._tables:
            self._tables[keys] = {}
            self._looks.append((picker(keys), self._tables[keys]))
        self._tables[keys].setdefault(values if len(values) != 1 else values[0], []).append(item)

    def find(self, at: Coordinates) -> list[T]:
        return [item for bucket in self.buckets(at) for item in bucket]

    def buckets(self, at: Coordinates) -> list[list[T]]:
        """The same, with those together whose selectors mean the same; they are the index's own lists."""
        return [bucket for pick, table in self._looks if (bucket := table.get(pick(at))) is not None]


class InstanceFinder:
    """`decide.instances` of many hosts."""

    def __init__(self, policy: Policy) -> None:
        self._workloads: SelectorIndex[Workload] = SelectorIndex()
        for workload in policy.workloads.values():
            self._workloads.add(workload, Selector(workload.on))

    def of(self, host: Host) -> tuple[Instance, ...]:
        return tuple(Instance(host.name, name, own, host.tags) for name, own in self.on(host.tags))

    def on(self, tags: Tags) -> list[tuple[str, Tags]]:
        """The workloads of a host with these tags, by name, with the tags that they carry."""
        found = [
            (w.name, tags.merged(w.tags) if w.tags.pairs else tags)
            for w in self._workloads.find(coordinates(tags, HOST_WORKLOAD))
        ]
        return sorted([*found, (HOST_WORKLOAD, tags)])


class Population:
    """Finds the instances that a selector names, without asking each of them."""

    def __init__(self, everyone: Iterable[Instance]) -> None:
        self._everyone = list(everyone)
        self._carrying: dict[tuple[str, str], list[Instance]] = defaultdict(list)
        for instance in self._everyone:
            for pair in coordinates(instance.tags, instance.workload).items():
                self._carrying[pair].append(instance)
        self._found: dict[Selector, list[Instance]] = {}

    def named(self, selector: Selector) -> Sequence[Instance]:
        """As `decide.selects` says."""
        if selector not in self._found:
            self._found[selector] = self._look(selector)
        return self._found[selector]

    def _look(self, selector: Selector) -> list[Instance]:
        if selector.peer is not None:
            return []
        wanted = list(selector.tags.pairs)
        if selector.workload is not None:
            wanted.append((_WORKLOAD, selector.workload))
        if not wanted:
            return self._everyone
        fewest = min((self._carrying.get(pair, []) for pair in wanted), key=len)
        return [instance for instance in fewest if selects(selector, instance)]


@dataclass(frozen=True, slots=True)
class SpokenOf:
    """The tags that selectors name, as values by key; None for a key that rules compare: any value of it counts."""

    values: Mapping[str, frozenset[str] | None]
    keys: frozenset[str]
    """Those that rules compare."""

    @classmethod
    def of(cls, policies: Iterable[Policy], rules: Iterable[Rule]) -> SpokenOf:
        """By these rules, and by what policies say beside their rules."""
        selectors: list[Selector] = []
        keys: set[str] = set()
        for policy in policies:
            selectors += (m.select for m in policy.modes)
            selectors += (Selector(w.on) for w in policy.workloads.values())
            selectors += (s for b in policy.boundaries for s in (b.source, b.destination))
        for rule in rules:
            selectors += (rule.source, rule.destination)
            keys.update(rule.within)
        named: defaultdict[str, set[str]] = defaultdict(set)
        for selector in selectors:
            for key, value in selector.tags.pairs:
                named[key].add(value)
        values = {key: frozenset(some) for key, some in named.items()}
        return cls({**values, **dict.fromkeys(keys)}, frozenset(keys))

    def among(self, tags: Tags) -> Tags:
        """Those of a host's tags."""
        return Tags(self.pairs_among(tags))

    def pairs_among(self, tags: Tags) -> tuple[tuple[str, str], ...]:
        get, nothing = self.values.get, _NOTHING
        return tuple([p for p in tags.pairs if (named := get(p[0], nothing)) is None or p[1] in named])


_NOTHING: frozenset[str] = frozenset()
