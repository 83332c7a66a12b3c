"""What can be done to our table in one transaction, as values: `messages` encodes them, `FakeKernel` obeys them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from segctl_agent.nft.keys import Keys
from segctl_agent.nft.ruleset import BaseHook, Data, Elements, Foreign, Rule, SetSpec


@dataclass(frozen=True, slots=True)
class AddTable:
    """Creates the table or, when it exists, wakes it; the kernel's adapter makes or adopts it as an owned one where it
    may (see `ownership`)."""


@dataclass(frozen=True, slots=True)
class DeleteTable:
    pass


@dataclass(frozen=True, slots=True)
class AddChain:
    """Creates a chain, or sets the policy of a base chain that exists."""

    name: str
    base: BaseHook | None = None


@dataclass(frozen=True, slots=True)
class FlushChain:
    name: str


@dataclass(frozen=True, slots=True)
class DeleteChain:
    name: str


@dataclass(frozen=True, slots=True)
class AddRule:
    """Appends a rule."""

    chain: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class AddSet:
    name: str
    spec: SetSpec


@dataclass(frozen=True, slots=True)
class DeleteSet:
    name: str


@dataclass(frozen=True, slots=True)
class FlushSet:
    name: str
    spec: SetSpec = field(repr=False)


@dataclass(frozen=True, slots=True)
class AddElements:
    name: str
    spec: SetSpec = field(repr=False)
    elements: Elements = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteElements:
    name: str
    spec: SetSpec = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AddCounter:
    """Creates a named counter; one that exists keeps what it counted."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteCounter:
    name: str


@dataclass(frozen=True, slots=True)
class DeleteForeign:
    what: Foreign


Operation = (
    AddTable
    | DeleteTable
    | AddChain
    | FlushChain
    | DeleteChain
    | AddRule
    | AddSet
    | DeleteSet
    | FlushSet
    | AddElements
    | DeleteElements
    | AddCounter
    | DeleteCounter
    | DeleteForeign
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Operations that take effect together or not at all, in this order."""

    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.operations + other.operations)


def element_delta(
    name: str, spec: SetSpec, removed: Iterable[bytes], added: Keys | Iterable[tuple[bytes, Data]]
) -> tuple[Operation, ...]:
    """Removal before addition: an element whose data changed is one of each."""
    gone, new = tuple(removed), added if isinstance(added, Keys) else dict(added)
    out: tuple[Operation, ...] = ()
    if gone:
        out += (DeleteElements(name, spec, gone),)
    if new:
        out += (AddElements(name, spec, new),)
    return out


def describe(operation: Operation) -> str:
    """For error messages: what the operation does, to which object."""
    match operation:
        case AddRule(chain, rule):
            return f"add rule to chain {chain}: {rule.text or rule.exprs}"
        case AddElements(name, _, elements):
            return f"add {len(elements)} elements to set {name}"
        case DeleteElements(name, _, keys):
            return f"delete {len(keys)} elements of set {name}"
        case DeleteForeign(what):
            return f"delete {what.kind.value} {what.name}"
        case AddTable() | DeleteTable():
            return "add the table" if isinstance(operation, AddTable) else "delete the table"
        case AddChain(name) | FlushChain(name) | DeleteChain(name):
            return f"{type(operation).__name__.removesuffix('Chain').lower()} chain {name}"
        case AddCounter(name) | DeleteCounter(name):
            return f"{type(operation).__name__.removesuffix('Counter').lower()} counter {name}"
        case AddSet(name) | DeleteSet(name) | FlushSet(name):
            return f"{type(operation).__name__.removesuffix('Set').lower()} set {name}"
