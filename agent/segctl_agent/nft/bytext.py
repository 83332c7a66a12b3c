"""A batch as nft commands (1.0.6), and what of it nft cannot say. Pure.

libnftables speaks of a cgroup by its path and resolves that when it loads: one that is gone aborts the transaction, and
the element of one that was made anew cannot be named at all. It knows neither the flag `persist` of a table nor every
kind of object. So a batch is split in three transactions, in an order that opens nothing:

1. by netlink, elements of cgroups that go: their sockets are unknown from then on, and what is unknown is dropped by a
   host that enforces. They go first because a chain that goes must not be referred to;
2. by libnftables, everything else, with the rules: each packet meets the old ones or the new ones;
3. by netlink, elements of cgroups that come, which need chains of step 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

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
from segctl_agent.nft.ruleset import TABLE, ForeignKind, KeyType, Rule, SetSpec
from segctl_agent.nft.text import data_text, hook_text, key_text, set_kind, spec_lines

_CHUNK = 1000
_NAME = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_NO_PATHS = MappingProxyType[int, str]({})


@dataclass(frozen=True, slots=True)
class Parts:
    """One batch as three transactions; each may be empty."""

    before: Batch
    by_text: Batch
    after: Batch


def unsayable(batch: Batch) -> Operation | None:
    """The first operation for which the whole batch must go by netlink. A rule that was read from the kernel has no
    text, and a chain that is written in two transactions is open in between. A name that is none of ours may be
    anything: netlink takes "x; flush ruleset" for a name, and nft for two commands."""
    return next((op for op in batch.operations if isinstance(op, DeleteTable) or not _has_words(op)), None)


def split(batch: Batch) -> Parts:
    """For batches in the order of `plan`: forget first, build after. The batch must be sayable."""
    before = tuple(op for op in batch.operations if _goes_before(op))
    after = tuple(op for op in batch.operations if _goes_after(op))
    text = tuple(op for op in batch.operations if not (_goes_before(op) or _goes_after(op)))
    return Parts(Batch(before), Batch(text), Batch(after))


def batch_text(batch: Batch, table: str = TABLE) -> str:
    """nft commands, one a line, for what `split` calls by_text. ValueError for anything else."""
    return "".join(f"{command}\n" for op in batch.operations for command in _commands(op, f"inet {table}"))


def _has_words(op: Operation) -> bool:
    match op:
        case AddTable() | DeleteTable():
            return True
        case AddRule(chain, rule):
            return bool(rule.text) and _NAME.fullmatch(chain) is not None
        case DeleteForeign(what):
            return _NAME.fullmatch(what.name) is not None
        case _:
            return _NAME.fullmatch(op.name) is not None


def _goes_before(op: Operation) -> bool:
    """AddTable too: the owner's flags are words that nft lacks, and a table that is there already must get those that
    it has (see `ownership`)."""
    return isinstance(op, AddTable) or (isinstance(op, DeleteElements) and _by_cgroup(op.spec))


def _goes_after(op: Operation) -> bool:
    """What is foreign may be of a kind that nft 1.0.6 has no word for, and nothing of ours waits for it to go, but for
    a set: it may have the name of one of ours."""
    if isinstance(op, DeleteForeign):
        return op.what.kind is not ForeignKind.SET
    return isinstance(op, AddElements) and _by_cgroup(op.spec)


def _by_cgroup(spec: SetSpec) -> bool:
    return KeyType.CGROUPSV2 in spec.key


def _commands(op: Operation, table: str) -> Iterable[str]:
    match op:
        case AddChain() | FlushChain() | DeleteChain() | AddRule():
            return [_chain(op, table)]
        case AddSet(name, spec):
            return [f"add {set_kind(spec)} {table} {name} {{ {'; '.join(spec_lines(spec))}; }}"]
        case FlushSet(name, spec):
            return [f"flush {set_kind(spec)} {table} {name}"]
        case DeleteSet(name):
            return [f"delete set {table} {name}"]
        case AddElements(name, spec, elements):
            return _elements("add", table, name, (_key(op, spec, k) + data_text(d) for k, d in elements.items()))
        case DeleteElements(name, spec, keys):
            return _elements("delete", table, name, (_key(op, spec, k) for k in keys))
        case AddCounter(name):
            return [f"add counter {table} {name}"]
        case DeleteCounter(name):
            return [f"delete counter {table} {name}"]
        case DeleteForeign(what) if what.kind is ForeignKind.SET:
            return [f"delete set {table} {what.name}"]
        case AddTable() | DeleteTable() | DeleteForeign():
            raise _no_words(op)


def _chain(op: AddChain | FlushChain | DeleteChain | AddRule, table: str) -> str:
    match op:
        case AddChain(name, base):
            return f"add chain {table} {name}" + (f" {{ {hook_text(base)} }}" if base is not None else "")
        case FlushChain(name):
            return f"flush chain {table} {name}"
        case DeleteChain(name):
            return f"delete chain {table} {name}"
        case AddRule(chain, Rule(text=text)) if text:
            return f"add rule {table} {chain} {text}"
        case AddRule():
            raise _no_words(op)


def _elements(verb: str, table: str, name: str, elements: Iterator[str]) -> Iterable[str]:
    """In pieces: nft repeats the command that fails in its error."""
    chunk: list[str] = []
    for element in elements:
        chunk.append(element)
        if len(chunk) == _CHUNK:
            yield f"{verb} element {table} {name} {{ {', '.join(chunk)} }}"
            chunk = []
    if chunk:
        yield f"{verb} element {table} {name} {{ {', '.join(chunk)} }}"


def _key(op: Operation, spec: SetSpec, key: bytes) -> str:
    if _by_cgroup(spec):
        raise _no_words(op)
    return key_text(spec, key, _NO_PATHS)


def _no_words(op: Operation) -> ValueError:
    return ValueError(f"nft cannot {describe(op)}: it goes by netlink")
