"""A kernel of dictionaries that refuses what the real one refuses: for tests of everything above the kernel."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from segctl_agent.nft.netlink import kernel_error
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
    DeleteTable,
    FlushChain,
    FlushSet,
    Operation,
    describe,
)
from segctl_agent.nft.ruleset import (
    Chain,
    Counts,
    Data,
    Elements,
    ForeignKind,
    NftSet,
    Ruleset,
    SetSpec,
    Verdict,
    counted,
    jumps,
    lookups,
)


class FakeKernel:
    """Implements `Kernel`. `packets` is what `counters` answers."""

    def __init__(self, content: Ruleset | None = None) -> None:
        self.content = content
        self.batches: list[Batch] = []
        self.packets: dict[str, int] = {}
        self._generation = 1

    def read(self) -> Ruleset | None:
        return self.content

    def apply(self, batch: Batch) -> None:
        if not batch:
            return
        self.content = self._after(batch)
        self.batches.append(batch)
        self._generation += 1

    def rehearse(self, batch: Batch) -> None:
        self._after(batch)

    def _after(self, batch: Batch) -> Ruleset | None:
        state = _State(self.content)
        for operation in batch.operations:
            code = state.do(operation)
            if code:
                raise kernel_error(code, describe(operation))
        return state.ruleset()

    def generation(self) -> int:
        return self._generation

    def counters(self) -> dict[str, int]:
        return dict(self.packets)

    def chains(self) -> Mapping[str, Chain]:
        return self.content.chains if self.content is not None else {}

    def hits(self) -> dict[str, int]:
        held = self.content.counters if self.content is not None else frozenset()
        return {name: self.packets.get(name, 0) for name in held}

    def held(self, name: str, spec: SetSpec, keys: Iterable[bytes]) -> Elements:
        if self.content is None or name not in self.content.sets or self.content.sets[name].spec != spec:
            return {}
        elements = self.content.sets[name].elements
        return {key: elements[key] for key in keys if key in elements}

    def destroy(self) -> None:
        if self.content is not None:
            self.apply(Batch((DeleteTable(),)))

    def close(self) -> None:
        pass


class _State:
    """A table under construction. `do` answers an errno, 0 for success."""

    def __init__(self, content: Ruleset | None) -> None:
        self._exists = content is not None
        start = content or Ruleset()
        self._flags = start.flags
        self._chains = dict(start.chains)
        self._sets: dict[str, tuple[NftSet, dict[bytes, Data]]] = {
            n: (s, dict(s.elements)) for n, s in start.sets.items()
        }
        self._foreign = set(start.foreign)
        self._counters = set(start.counters)

    def ruleset(self) -> Ruleset | None:
        if not self._exists:
            return None
        sets = {n: NftSet(s.spec, MappingProxyType({} if s.spec.dynamic else e)) for n, (s, e) in self._sets.items()}
        return Ruleset(self._chains, sets, self._flags, frozenset(self._foreign), frozenset(self._counters))

    def do(self, operation: Operation) -> int:
        if not self._exists and not isinstance(operation, AddTable):
            return errno.ENOENT
        handler: Callable[[Operation], int] = getattr(self, f"_{type(operation).__name__}")
        return handler(operation)

    def _AddTable(self, _: AddTable) -> int:  # noqa: N802 - named after the operation
        self._exists, self._flags = True, 0
        return 0

    def _DeleteTable(self, _: DeleteTable) -> int:  # noqa: N802
        self._exists, self._flags = False, 0
        for part in (self._chains, self._sets, self._foreign, self._counters):
            part.clear()
        return 0

    def _AddChain(self, op: AddChain) -> int:  # noqa: N802
        before = self._chains.get(op.name)
        if before is None:
            self._chains[op.name] = Chain(base=op.base)
            return 0
        if before.base is None or op.base is None:
            return 0 if before.base is op.base else errno.EEXIST
        if replace(before.base, drop=op.base.drop) != op.base:
            return errno.EEXIST
        self._chains[op.name] = replace(before, base=op.base)
        return 0

    def _FlushChain(self, op: FlushChain) -> int:  # noqa: N802
        if op.name not in self._chains:
            return errno.ENOENT
        self._chains[op.name] = replace(self._chains[op.name], rules=())
        return 0

    def _DeleteChain(self, op: DeleteChain) -> int:  # noqa: N802
        if op.name not in self._chains:
            return errno.ENOENT
        rest = {n: c for n, c in self._chains.items() if n != op.name}
        if any(op.name in jumps(r) for c in rest.values() for r in c.rules) or self._mapped(op.name):
            return errno.EBUSY
        self._chains = rest
        return 0

    def _mapped(self, chain: str) -> bool:
        return any(isinstance(v, Verdict) and v.chain == chain for _, e in self._sets.values() for v in e.values())

    def _AddRule(self, op: AddRule) -> int:  # noqa: N802
        known = self._sets.keys() | {f.name for f in self._foreign}
        if op.chain not in self._chains or not set(lookups(op.rule)) <= known:
            return errno.ENOENT
        if not set(jumps(op.rule)) <= self._chains.keys():
            return errno.ENOENT
        if not set(counted(op.rule)) <= self._counters:
            return errno.ENOENT
        chain = self._chains[op.chain]
        self._chains[op.chain] = replace(chain, rules=(*chain.rules, op.rule))
        return 0

    def _AddSet(self, op: AddSet) -> int:  # noqa: N802
        before = self._sets.get(op.name)
        if before is not None or any(f.name == op.name and f.kind is ForeignKind.SET for f in self._foreign):
            return 0 if before is not None and before[0].spec == op.spec else errno.EEXIST
        self._sets[op.name] = (NftSet(op.spec), {})
        return 0

    def _referred(self, name: str) -> bool:
        return any(name in lookups(r) for c in self._chains.values() for r in c.rules)

    def _DeleteSet(self, op: DeleteSet) -> int:  # noqa: N802
        if op.name not in self._sets:
            return errno.ENOENT
        if self._referred(op.name):
            return errno.EBUSY
        del self._sets[op.name]
        return 0

    def _FlushSet(self, op: FlushSet) -> int:  # noqa: N802
        if op.name not in self._sets:
            return errno.ENOENT
        self._sets[op.name][1].clear()
        return 0

    def _AddElements(self, op: AddElements) -> int:  # noqa: N802
        if op.name not in self._sets:
            return errno.ENOENT
        nft_set, elements = self._sets[op.name]
        for key, data in op.elements.items():
            if isinstance(data, Verdict) and data.chain and data.chain not in self._chains:
                return errno.ENOENT
            if isinstance(data, Counts) and data.counter not in self._counters:
                return errno.ENOENT
            if elements.get(key, data) != data:
                return errno.EBUSY
            elements[key] = data
        return errno.ENFILE if nft_set.spec.size and len(elements) > nft_set.spec.size else 0

    def _DeleteElements(self, op: DeleteElements) -> int:  # noqa: N802
        if op.name not in self._sets:
            return errno.ENOENT
        for key in op.keys:
            if key not in self._sets[op.name][1]:
                return errno.ENOENT
            del self._sets[op.name][1][key]
        return 0

    def _AddCounter(self, op: AddCounter) -> int:  # noqa: N802
        self._counters.add(op.name)
        return 0

    def _DeleteCounter(self, op: DeleteCounter) -> int:  # noqa: N802
        if op.name not in self._counters:
            return errno.ENOENT
        mapped = any(d == Counts(op.name) for _, e in self._sets.values() for d in e.values())
        if mapped or any(op.name in counted(r) for c in self._chains.values() for r in c.rules):
            return errno.EBUSY
        self._counters.remove(op.name)
        return 0

    def _DeleteForeign(self, op: DeleteForeign) -> int:  # noqa: N802
        if op.what not in self._foreign:
            return errno.ENOENT
        if op.what.kind is ForeignKind.SET and self._referred(op.what.name):
            return errno.EBUSY
        self._foreign.remove(op.what)
        return 0
