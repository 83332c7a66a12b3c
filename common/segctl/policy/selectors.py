"""Finds the selectors that name an instance without asking each of them.

Selectors are sorted by the keys they name: all that say something of `app` and `role`, for instance, lie in one table,
by the two values. An instance looks itself up once in each table, so it costs as much as there are sets of keys in a
policy - a dozen - and not as much as there are rules.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from segctl.model.policy import Selector, Tags

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
