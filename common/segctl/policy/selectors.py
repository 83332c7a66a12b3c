"""Finds the selectors that name an instance without asking each of them.

Selectors are sorted by the keys they name: all that say something of `app` and `role`, for instance, lie in one table,
by the two values. An instance looks itself up once in each table, so it costs as much as there are sets of keys in a
policy - a dozen - and not as much as there are rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from segctl.model.inventory import Host
from segctl.model.policy import HOST_WORKLOAD, Policy, Rule, Selector, Tags, Workload
from segctl.policy.decide import Instance, selects

T = TypeVar("T")
_WORKLOAD = "\0workload"
"""No tag's key: so a selector's workload is looked up like a tag."""


def coordinates(tags: Tags, workload: str) -> dict[str, str]:
    """What an instance is looked up by."""
    return {**dict(tags.pairs), _WORKLOAD: workload}


class SelectorIndex(Generic[T]):
    """`find` gives the items of the selectors that name the coordinates, in no particular order. A selector of a peer
    names no instance: see `segctl.policy.decide.selects`."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, ...], dict[tuple[str | None, ...], list[T]]] = {}

    def add(self, item: T, selector: Selector, within: Tags = Tags()) -> None:  # noqa: B008 - a frozen value
        """`within`: tags that are wanted beside those of the selector."""
        pairs = selector.tags.pairs
        if selector.peer is not None:
            return
        if within.pairs:
            wanted = dict(pairs)
            if any(wanted.setdefault(k, v) != v for k, v in within.pairs):
                return  # nothing carries both
            pairs = tuple(sorted(wanted.items()))
        if selector.workload is not None:
            pairs = ((_WORKLOAD, selector.workload), *pairs)
        keys, values = tuple([k for k, _ in pairs]), tuple([v for _, v in pairs])
        self._tables.setdefault(keys, {}).setdefault(values, []).append(item)

    def find(self, at: dict[str, str]) -> list[T]:
        return [item for bucket in self.buckets(at) for item in bucket]

    def buckets(self, at: dict[str, str]) -> list[list[T]]:
        """The same, with those together whose selectors mean the same; they are the index's own lists."""
        found, get = [], at.get
        for keys, table in self._tables.items():
            bucket = table.get(tuple(map(get, keys)))
            if bucket is not None:
                found.append(bucket)
        return found


class InstanceFinder:
    """`decide.instances` of many hosts."""

    def __init__(self, policy: Policy) -> None:
        self._workloads: SelectorIndex[Workload] = SelectorIndex()
        for workload in policy.workloads.values():
            self._workloads.add(workload, Selector(workload.on))

    def of(self, host: Host) -> tuple[Instance, ...]:
        tags = host.tags
        found = [(w.name, tags.merged(w.tags)) for w in self._workloads.find(coordinates(tags, HOST_WORKLOAD))]
        return tuple(Instance(host.name, name, own, tags) for name, own in sorted([*found, (HOST_WORKLOAD, tags)]))


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
    """The tags that selectors name, and the keys that rules compare."""

    pairs: frozenset[tuple[str, str]]
    keys: frozenset[str]

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
        return cls(frozenset(pair for s in selectors for pair in s.tags.pairs), frozenset(keys))

    def among(self, tags: Tags) -> Tags:
        """Those of a host's tags."""
        pairs, keys = self.pairs, self.keys
        return Tags(tuple([pair for pair in tags.pairs if pair in pairs or pair[0] in keys]))
