"""The content of our table as one frozen value: what is wanted, and what the kernel says there is.

Equality is the point. A value that was read back equals the value that was wanted when the kernel holds exactly that;
counters' values and handles take no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from segctl_agent.nft.attributes import text
from segctl_agent.nft.keys import Keys

TABLE = "segctl"

DYNAMIC_SIZE = 0xFFFF
"""What the kernel gives a dynamic set without a size (nft_dynset_init). Such a set grows as it must; one that is made
with a size has its whole table from the start, a megabyte for 65,536 elements."""

Attributes = tuple[tuple[int, "bytes | Attributes"], ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """One nf_tables expression as the kernel dumps it: attributes sorted by type, nested ones as tuples."""

    name: str
    attrs: Attributes


@dataclass(frozen=True, slots=True)
class Statement:
    """Part of a rule: nft syntax for people and the same as expressions for the kernel.

    Both come from one function in `statements`. Only the expressions count for equality.
    """

    exprs: tuple[Expr, ...]
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule does, by its expressions. `text` is empty for a rule read from the kernel."""

    exprs: tuple[Expr, ...]
    text: str = field(default="", compare=False)

    @classmethod
    def of(cls, *statements: Statement) -> Rule:
        return cls(tuple(e for s in statements for e in s.exprs), " ".join(s.text for s in statements if s.text))


class VerdictKind(Enum):
    """Verdict codes of include/uapi/linux/netfilter.h and nf_tables.h."""

    DROP = 0
    ACCEPT = 1
    CONTINUE = -1
    BREAK = -2
    JUMP = -3
    GOTO = -4
    RETURN = -5


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: VerdictKind
    chain: str = ""

    def __str__(self) -> str:
        return f"{self.kind.name.lower()} {self.chain}".rstrip()


ACCEPT = Verdict(VerdictKind.ACCEPT)
DROP = Verdict(VerdictKind.DROP)
RETURN = Verdict(VerdictKind.RETURN)


def goto(chain: str) -> Verdict:
    return Verdict(VerdictKind.GOTO, chain)


def jump(chain: str) -> Verdict:
    return Verdict(VerdictKind.JUMP, chain)


@dataclass(frozen=True, slots=True)
class Odd:
    """The data of an element that carries what we never write (a timeout, a limit, a mapped value)."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """The data of an element of an object map: the named counter that a packet with this key is counted in."""

    counter: str

    def __str__(self) -> str:
        return f'"{self.counter}"'


Data = Verdict | Counts | Odd | None
Elements = Mapping[bytes, Data]
"""Key -> data. A key is its fields in network order (host order for cgroup ids, uids and marks), each padded to 4
bytes; in an interval set it is the first value followed by the last. The empty key is nft's catch-all `*`."""


class KeyType(Enum):
    """nft's data types: name, number (enum datatypes of nftables), length in bytes."""

    IPV4_ADDR = ("ipv4_addr", 7, 4)
    IPV6_ADDR = ("ipv6_addr", 8, 16)
    INET_PROTO = ("inet_proto", 12, 1)
    INET_SERVICE = ("inet_service", 13, 2)
    MARK = ("mark", 19, 4)
    UID = ("uid", 24, 4)
    GID = ("gid", 25, 4)
    CGROUPSV2 = ("cgroupsv2", 46, 8)

    @property
    def nft(self) -> str:
        return self.value[0]

    @property
    def number(self) -> int:
        return self.value[1]

    @property
    def length(self) -> int:
        return self.value[2]

    @property
    def host_order(self) -> bool:
        return self in (KeyType.MARK, KeyType.UID, KeyType.GID, KeyType.CGROUPSV2)


@dataclass(frozen=True, slots=True)
class SetSpec:
    """The type of a set, verdict map or (`counts`) map of named counters. `size` limits the elements, and the kernel
    allocates at once; 0: no limit.

    `timeout_ms` other than 0 makes the set dynamic: rules add its elements, each for so long. They are the kernel's own
    business and never part of a value.
    """

    key: tuple[KeyType, ...]
    verdicts: bool = False
    interval: bool = False
    size: int = 0
    timeout_ms: int = 0
    counts: bool = False

    @property
    def plain(self) -> bool:
        """A hash set of keys alone, whose elements are kept as `Keys`."""
        return not (self.verdicts or self.counts or self.interval or self.dynamic)

    @property
    def dynamic(self) -> bool:
        return self.timeout_ms != 0

    @property
    def key_length(self) -> int:
        """Bytes of a key; fields of a concatenation are padded to 4 bytes each."""
        return self.key[0].length if len(self.key) == 1 else sum((k.length + 3) & ~3 for k in self.key)


@dataclass(frozen=True, slots=True)
class NftSet:
    spec: SetSpec
    elements: Elements = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.spec.dynamic and self.elements:
            raise ValueError("a dynamic set holds what rules add to it: give it no elements")
        bare = self.spec.plain and b"" not in self.elements and not isinstance(self.elements, Keys)
        if bare and all(v is None for v in self.elements.values()):
            object.__setattr__(self, "elements", Keys.of(self.spec.key_length, self.elements))


@dataclass(frozen=True, slots=True)
class BaseHook:
    """A hook of netfilter. hook: 1 is input, 2 is forward, 3 is output. `drop` is the policy."""

    hook: int
    priority: int = 0
    drop: bool = True
    type: str = "filter"


INPUT = BaseHook(1)
OUTPUT = BaseHook(3)
FORWARD_OUT = BaseHook(2, -1, drop=False)
FORWARD_IN = BaseHook(2, 0, drop=False)
TO_HOST = BaseHook(1, -1, drop=False)
FROM_HOST = BaseHook(3, 1, drop=False)


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...] = ()
    base: BaseHook | None = None


class ForeignKind(Enum):
    SET = "set"
    OBJECT = "object"
    FLOWTABLE = "flowtable"


@dataclass(frozen=True, slots=True, order=True)
class Foreign:
    """Something in our table that we never write. `type` is the object type of nf_tables, else 0."""

    name: str
    kind: ForeignKind = field(compare=False)
    type: int = 0


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A whole table. `counters` are the names of its counters, whose values are no part of it. `flags` and `foreign`
    are only ever set in what is read: `flags` holds those of the table's flags (dormant, owner) that are not as they
    should be."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, NftSet] = field(default_factory=dict)
    flags: int = 0
    foreign: frozenset[Foreign] = frozenset()
    counters: frozenset[str] = frozenset()


def lookups(rule: Rule) -> Iterator[str]:
    """The names of the sets that `rule` refers to."""
    for expr in rule.exprs:
        kind = {"lookup": 1, "dynset": 1, "objref": _OBJREF_SET}.get(expr.name)
        yield from (text(v) for k, v in expr.attrs if k == kind and isinstance(v, bytes))


_OBJREF_NAME, _OBJREF_SET = 2, 4


def counted(rule: Rule) -> Iterator[str]:
    """The names of the counters that `rule` refers to itself."""
    for expr in rule.exprs:
        if expr.name == "objref":
            yield from (text(v) for k, v in expr.attrs if k == _OBJREF_NAME and isinstance(v, bytes))


def jumps(rule: Rule) -> Iterator[str]:
    """The names of the chains that `rule` jumps or goes to."""
    for expr in rule.exprs:
        if expr.name != "immediate":
            continue
        for kind, data in expr.attrs:
            if kind == 2 and isinstance(data, tuple):
                for verdict_kind, verdict in data:
                    if verdict_kind == 2 and isinstance(verdict, tuple):
                        yield from (text(v) for k, v in verdict if k == 2 and isinstance(v, bytes))
