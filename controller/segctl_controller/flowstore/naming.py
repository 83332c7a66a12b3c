"""Which rules and boundaries of a policy name a workload with given tags, and in which mode it is.

Rules, and behind them boundaries, are bits of a number in the order of the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from sys import intern

from segctl.model.policy import Boundary, Mode, Policy, PortRange, Rule, Selector

Held = dict[str, str]
"""Tags, by key."""
Bits = tuple[int, int]
"""Of the rules and boundaries that name an end as their source, and as their destination."""
MODES = tuple(sorted(Mode, key=lambda mode: mode.strictness))


@dataclass(slots=True)
class _Named:
    """What one selector is for. `strictness` of a mode."""

    source: int = 0
    destination: int = 0
    strictness: int = 0


Table = dict[tuple[str | None, ...], _Named]
"""Selectors of one set of keys, by their values."""
Standing = tuple[Bits, Mode]
"""What a policy has for a workload: what names it, and the effective mode."""


class Naming:
    """Selectors lie in tables by the workload and the keys that they name, as in segctl.policy.selectors; those that
    mean the same are one."""

    def __init__(self, policy: Policy) -> None:
        self._everything = _Named()
        self._tables: dict[str | None, dict[tuple[str, ...], Table]] = {None: {}}
        with_peers = [0, 0]
        bit = 1
        items: tuple[Rule | Boundary, ...] = (*policy.rules, *policy.boundaries)
        for item in items:
            if item.source.peer is None:
                self._one(item.source).source |= bit
            else:
                with_peers[0] |= bit
            if item.destination.peer is None:
                self._one(item.destination).destination |= bit
            else:
                with_peers[1] |= bit
            bit <<= 1
        for entry in policy.modes:
            if entry.select.peer is None:
                named = self._one(entry.select)
                named.strictness = max(named.strictness, entry.mode.strictness)
        self.with_peers: Bits = (with_peers[0], with_peers[1])
        """Of rules and boundaries that have a peer as their source, and as their destination."""

    def _one(self, selector: Selector) -> _Named:
        pairs, workload = selector.tags.pairs, selector.workload
        if not pairs and workload is None:
            return self._everything
        keys, values = tuple([key for key, _ in pairs]), tuple([intern(value) for _, value in pairs])
        tables = self._tables.setdefault(workload, {})
        table = tables.get(keys)
        if table is None:
            table = tables[keys] = {}
        found = table.get(values)
        if found is None:
            found = table[values] = _Named()
        return found

    def speaks_of(self, workload: str) -> bool:
        """Whether any selector asks for that name."""
        return workload in self._tables

    def standing(self, workload: str, held: Held) -> Standing:
        every, get = self._everything, held.get
        source, destination, strictness = every.source, every.destination, every.strictness
        tables: Iterable[tuple[tuple[str, ...], Table]] = self._tables[None].items()
        if workload in self._tables:
            tables = [*tables, *self._tables[workload].items()]
        for keys, table in tables:
            found = table.get(tuple(map(get, keys)))
            if found is not None:
                # Most are named by one selector: its long numbers are not copied.
                source = source | found.source if source else found.source
                destination = destination | found.destination if destination else found.destination
                if found.strictness > strictness:
                    strictness = found.strictness
        return (source, destination), MODES[strictness]


def rules_by_ports(rules: Iterable[Rule]) -> dict[PortRange, int]:
    """The bits of the rules that allow each range."""
    alike: dict[tuple[PortRange, ...], int] = {}
    for at, rule in enumerate(rules):
        alike[rule.ports] = alike.get(rule.ports, 0) | 1 << at
    found: dict[PortRange, int] = {}
    for ports, bits in alike.items():
        for port in ports:
            found[port] = found.get(port, 0) | bits
    return found


def places(bits: int) -> Iterator[int]:
    """Of the bits that are set, the lowest first."""
    while bits:
        bit = bits & -bits
        yield bit.bit_length() - 1
        bits ^= bit
