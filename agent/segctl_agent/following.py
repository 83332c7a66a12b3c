"""Cgroups that come and go, as elements of the maps they are in; the ones that went last are remembered. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from segctl_agent.facts.values import HostFacts
from segctl_agent.identity import Identity
from segctl_agent.nft.operations import Operation, element_delta
from segctl_agent.nft.ruleset import Data, NftSet
from segctl_agent.render import cgroup_map, container_owners

MOST_DEPARTED = 256

Fresh = Mapping[str, Mapping[bytes, Data]]
"""Map -> the elements that come."""


class CgroupLedger:
    """What there is, path -> id, and what went last, id -> path. An id is never used again."""

    def __init__(self) -> None:
        self._here: dict[str, int] = {}
        self._departed: dict[int, str] = {}

    @property
    def here(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._here))

    @property
    def departed(self) -> tuple[tuple[str, int], ...]:
        return tuple((path, number) for number, path in self._departed.items())

    def note(self, added: Mapping[str, int], removed: Mapping[str, int]) -> list[tuple[str, int]]:
        """Answers those that are forgotten for good now."""
        for path, number in removed.items():
            if self._here.get(path) == number:
                del self._here[path]
            self._departed[number] = path
        self._here.update(added)
        for number in added.values():
            self._departed.pop(number, None)
        return [(self._departed.pop(n), n) for n in list(self._departed)[:-MOST_DEPARTED]]


def fresh_elements(identity: Identity, added: Mapping[str, int]) -> Fresh:
    """The elements of new cgroups. What the kernel has under such an id is the same: adding it anew is nothing."""
    fresh: dict[str, dict[bytes, Data]] = {}
    for path, number in added.items():
        for element in identity.elements(path, number):
            fresh.setdefault(element.map, {})[element.key] = element.verdict
    return fresh


def follow(
    sets: Mapping[str, NftSet], identity: Identity, fresh: Fresh, forgotten: Iterable[tuple[str, int]]
) -> tuple[dict[str, NftSet], tuple[Operation, ...]]:
    """The maps that change, as they are to be, and the operations that take out what is forgotten."""
    gone: dict[str, set[bytes]] = defaultdict(set)
    for path, number in forgotten:
        for element in identity.elements(path, number):
            gone[element.map].add(element.key)
    changed: dict[str, NftSet] = {}
    operations: tuple[Operation, ...] = ()
    for name in gone.keys() | fresh.keys():
        after = {**sets[name].elements, **fresh.get(name, {})}
        old = [key for key in gone[name] - fresh.get(name, {}).keys() if after.pop(key, None) is not None]
        operations += element_delta(name, sets[name].spec, old, ())
        changed[name] = replace(sets[name], elements=MappingProxyType(after))
    return changed, operations


def has_room(nft_set: NftSet, more: int = 0) -> bool:
    """A map of cgroups is of the right size for what it holds and so many more."""
    return cgroup_map(len(nft_set.elements) + more) == nft_set.spec


def replaced(before: HostFacts, places: Identity, after: HostFacts, new_places: Identity) -> bool:
    """Whether a cgroup or an address that a container had, and one has, is of another workload now."""
    cgroups = {c.cgroup: places.place(c.cgroup) for c in before.containers}
    owners = container_owners(before, places)
    return any(
        cgroups.get(c.cgroup, place) != place for c in after.containers for place in (new_places.place(c.cgroup),)
    ) or any(
        owners.get(address, workload) != workload for address, workload in container_owners(after, new_places).items()
    )
