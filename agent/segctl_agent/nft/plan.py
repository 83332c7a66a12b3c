"""From what the kernel holds to what is wanted: pure.

Everything happens in one transaction, so nobody sees a state between. Within it the order is: forget first, build
after. Rules and elements that refer to something go before the thing itself; things exist before they are referred to.
Base chains stay where they are, because a chain that is deleted and made again leaves packets unfiltered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from segctl_agent.nft.keys import Keys
from segctl_agent.nft.operations import (
    AddChain,
    AddCounter,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Batch,
    DeleteChain,
    DeleteCounter,
    DeleteElements,
    DeleteForeign,
    DeleteSet,
    FlushChain,
    FlushSet,
    Operation,
)
from segctl_agent.nft.ruleset import Data, Elements, ForeignKind, NftSet, Ruleset, Verdict, jumps, lookups

Moves = Mapping[str, tuple[Collection[bytes], Elements]]
"""Set name -> (keys that go, elements that come)."""


def plan(now: Ruleset | None, wanted: Ruleset, moves: Moves = MappingProxyType({})) -> Batch:
    """The operations that turn `now` (None: there is no table) into `wanted`. Empty when they are equal. `moves` are
    sets whose difference is known already: they are not compared."""
    if now is None:
        return Batch((AddTable(), *_build(Ruleset(), wanted, frozenset(), frozenset(wanted.chains), {})))
    if now == wanted:
        return Batch()
    lost_chains = frozenset(n for n, c in now.chains.items() if n not in wanted.chains or _reshaped(now, wanted, n))
    kept_sets = {n for n, s in now.sets.items() if n in wanted.sets and wanted.sets[n].spec == s.spec}
    lost_sets = frozenset(now.sets) - kept_sets | {f.name for f in now.foreign if f.kind is ForeignKind.SET}
    rewritten = _rewritten(now, wanted, lost_chains, lost_sets)
    awake = (AddTable(),) if now.flags != wanted.flags else ()
    return Batch(
        (
            *awake,
            *_forget(now, wanted, lost_chains, rewritten, moves),
            *_build(now, wanted, lost_chains, rewritten | (frozenset(wanted.chains) - frozenset(now.chains)), moves),
        )
    )


def _reshaped(now: Ruleset, wanted: Ruleset, name: str) -> bool:
    """A chain whose hook differs must be made again; only the policy of a base chain can be changed."""
    before, after = now.chains[name].base, wanted.chains[name].base
    if before is None or after is None:
        return before is not after
    return (before.hook, before.priority, before.type) != (after.hook, after.priority, after.type)


def _rewritten(now: Ruleset, wanted: Ruleset, lost_chains: frozenset[str], lost_sets: frozenset[str]) -> frozenset[str]:
    """The existing chains to flush: changed, lost, or referring to something that is deleted."""
    if now.chains is wanted.chains and not lost_sets:
        return frozenset()
    return frozenset(
        name
        for name, chain in now.chains.items()
        if name in lost_chains
        or wanted.chains[name].rules != chain.rules
        or (lost_sets and any(s in lost_sets for r in chain.rules for s in lookups(r)))
        or (lost_chains and any(c in lost_chains for r in chain.rules for c in jumps(r)))
    )


def _forget(
    now: Ruleset, wanted: Ruleset, lost_chains: frozenset[str], flush: frozenset[str], moves: Moves
) -> Iterator[Operation]:
    yield from (FlushChain(n) for n in sorted(flush) if now.chains[n].rules)
    for name, before in sorted(now.sets.items()):
        after = wanted.sets.get(name)
        if after is None or after.spec != before.spec:
            if before.elements and (before.spec.verdicts or before.spec.counts):
                yield FlushSet(name, before.spec)
        elif before.spec.interval:
            # The kernel's interval tree costs milliseconds for a single change: refilled as a whole.
            if before.elements != after.elements or _refers(before, lost_chains):
                yield FlushSet(name, before.spec)
        elif gone := tuple(moves[name][0] if name in moves else _gone(before, after, lost_chains)):
            yield DeleteElements(name, before.spec, gone)
    for name, before in sorted(now.sets.items()):
        if name not in wanted.sets or wanted.sets[name].spec != before.spec:
            yield DeleteSet(name)
    yield from (DeleteForeign(f) for f in sorted(now.foreign, key=lambda f: (f.kind is not ForeignKind.SET, f)))
    yield from (DeleteChain(n) for n in sorted(lost_chains))
    yield from (DeleteCounter(n) for n in sorted(now.counters - wanted.counters))


def _refers(nft_set: NftSet, chains: frozenset[str]) -> bool:
    return any(isinstance(v, Verdict) and v.chain in chains for v in nft_set.elements.values())


def _gone(before: NftSet, after: NftSet, lost_chains: frozenset[str]) -> Iterator[bytes]:
    """Keys to delete: removed, with other data, or referring to a chain that is made again."""
    if before.elements is after.elements or (isinstance(before.elements, Keys) and before.elements == after.elements):
        return
    yield from set(before.elements) - set(after.elements)
    if before.spec.verdicts or before.spec.counts:
        for key, data in after.elements.items():
            if key in before.elements and (before.elements[key] != data or _in(data, lost_chains)):
                yield key
    elif not isinstance(before.elements, Keys):  # a plain set with data: it is not as we write it
        yield from (k for k, v in before.elements.items() if v is not None and k in after.elements)


def _in(data: Data, chains: frozenset[str]) -> bool:
    return isinstance(data, Verdict) and data.chain in chains


def _build(
    now: Ruleset, wanted: Ruleset, lost_chains: frozenset[str], fill: frozenset[str], moves: Moves
) -> Iterator[Operation]:
    for name, chain in sorted(wanted.chains.items()):
        before = now.chains.get(name)
        if before is None or name in lost_chains or before.base != chain.base:
            yield AddChain(name, chain.base)
    for name, nft_set in sorted(wanted.sets.items()):
        existing = now.sets.get(name)
        if existing is None or existing.spec != nft_set.spec:
            yield AddSet(name, nft_set.spec)
    yield from (AddCounter(n) for n in sorted(wanted.counters - now.counters))
    for name, nft_set in sorted(wanted.sets.items()):
        if name not in moves:
            yield from _fill(name, now.sets.get(name), nft_set, lost_chains)
        elif moves[name][1]:
            yield AddElements(name, nft_set.spec, moves[name][1])
    for name in sorted(fill & frozenset(wanted.chains)):
        yield from (AddRule(name, rule) for rule in wanted.chains[name].rules)


def _fill(name: str, before: NftSet | None, after: NftSet, lost_chains: frozenset[str]) -> Iterator[Operation]:
    new: Elements
    if before is None or before.spec != after.spec:
        new = after.elements
    elif after.spec.interval:
        new = after.elements if before.elements != after.elements or _refers(before, lost_chains) else {}
    elif before.elements is after.elements:
        return
    else:
        gone = frozenset(_gone(before, after, lost_chains))
        fresh = set(after.elements).difference(before.elements) | gone & after.elements.keys()
        plain = after.spec.plain
        new = Keys.of(after.spec.key_length, fresh) if plain else {k: after.elements[k] for k in fresh}
    if new:
        yield AddElements(name, after.spec, new)
