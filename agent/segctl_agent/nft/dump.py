"""Netlink dumps to the values of `ruleset`: pure, bytes in."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from segctl_agent.nft.attributes import attributes, number, string, text
from segctl_agent.nft.keys import Keys, unstrided
from segctl_agent.nft.malformed import decoder
from segctl_agent.nft.messages import (
    COUNTER,
    ELEMENT_CATCHALL,
    ELEMENT_INTERVAL_END,
    SET_INTERVAL,
    VERDICT_TYPE,
    key_number,
    set_flags,
)
from segctl_agent.nft.ruleset import (
    Attributes,
    BaseHook,
    Counts,
    Data,
    Elements,
    Expr,
    KeyType,
    Odd,
    Rule,
    SetSpec,
    Verdict,
    VerdictKind,
)

# Attributes that hold attributes, by expression; the kernel does not always set the flag that says so.
_NESTED = {"immediate": {2}, "cmp": {3}, "bitwise": {4, 5, 7}, "range": {3, 4}}
_DYNSET_FLAGS, _DYNSET_EXPRESSIONS, _DYNSET_HAS_EXPRESSIONS = 9, 10, 0x2
_SET_ANONYMOUS, _CHAIN_BINDING = 0x1, 0x4
_NUMBERS = {k.number: k for k in KeyType}


def parse_expr(data: bytes) -> Expr:
    """One NFTA_LIST_ELEM of a rule's expressions. A counter's values are zeroed: they are not configuration."""
    return _COUNTER if data.startswith(_COUNTER_NAME) else _parse_expr(data)


_COUNTER = Expr("counter", ((1, bytes(8)), (2, bytes(8))))
_COUNTER_NAME = string(1, "counter")


@lru_cache(maxsize=4096)
def _parse_expr(data: bytes) -> Expr:
    """A table is read again and again, and its rules are much alike."""
    found = dict(attributes(data))
    name = text(found[1])
    nests = _NESTED.get(name, set())
    attrs: Attributes = tuple(
        sorted((k, _data(v) if k in nests else v) for k, v in attributes(found.get(2, b"")) if k != 0)
    )
    if name == "dynset":
        attrs = tuple((k, _dynset(k, v)) for k, v in attrs)
    return Expr(name, attrs)


def _dynset(kind: int, payload: bytes | Attributes) -> bytes | Attributes:
    """The expressions that each element carries, in the order in which they run, and the flags without that there are
    any, which the kernel does not tell back."""
    if kind == _DYNSET_FLAGS and isinstance(payload, bytes):
        return struct.pack(">I", number(payload) & ~_DYNSET_HAS_EXPRESSIONS)
    if kind != _DYNSET_EXPRESSIONS or not isinstance(payload, bytes):
        return payload
    exprs = [parse_expr(e) for _, e in attributes(payload)]
    return tuple((1, ((1, e.name.encode() + b"\0"), (2, e.attrs))) for e in exprs)


def _data(payload: bytes) -> Attributes:
    """struct nft_data: a value (1), or a verdict (2) that holds attributes itself."""
    return tuple(sorted((k, tuple(sorted(attributes(v))) if k == 2 else v) for k, v in attributes(payload)))


@decoder("a rule")
def parse_rule(message: bytes) -> tuple[str, Rule]:
    """(chain, rule) of a NEWRULE message's attributes."""
    found = dict(attributes(message))
    return text(found[2]), Rule(tuple(parse_expr(e) for _, e in attributes(found.get(4, b""))))


@decoder("an object")
def parse_counter(message: bytes) -> tuple[str, int] | None:
    """(name, packets) of a NEWOBJ message; None for an object of another type."""
    found = dict(attributes(message))
    if number(found.get(3, b"")) != COUNTER:
        return None
    return text(found[2]), next((number(v) for k, v in attributes(found.get(4, b"")) if k == 2), 0)


@decoder("a rule")
def rule_packets(message: bytes) -> tuple[str, int | None]:
    """(chain, packets counted) of a rule; None for a rule without a counter."""
    found = dict(attributes(message))
    for _, element in attributes(found.get(4, b"")):
        expr = dict(attributes(element))
        if text(expr[1]) == "counter":
            return text(found[2]), next((number(v) for k, v in attributes(expr[2]) if k == 2), 0)
    return text(found[2]), None


@decoder("a chain")
def parse_chain(message: bytes, table: str) -> tuple[str, BaseHook | None] | None:
    """(name, hook) of a NEWCHAIN message; None for another table's and for chains that live inside a rule."""
    found = dict(attributes(message))
    if text(found[1]) != table or number(found.get(10, b"")) & _CHAIN_BINDING:
        return None
    return text(found[3]), parse_chain_hook(found)


def parse_chain_hook(found: Mapping[int, bytes]) -> BaseHook | None:
    """The hook of a NEWCHAIN message's attributes; None for a chain that is no base chain."""
    if 4 not in found:
        return None
    hook = dict(attributes(found[4]))
    priority = struct.unpack(">i", hook[2])[0]
    return BaseHook(number(hook[1]), priority, number(found.get(5, b"\1")) == 0, text(found.get(7, b"")))


@decoder("a set")
def parse_set(message: bytes) -> tuple[str, SetSpec | None] | None:
    """(name, spec) of a NEWSET message; spec None for a set of a kind we never make; None for a rule's own set."""
    found = dict(attributes(message))
    name, flags = text(found[2]), number(found.get(3, b""))
    if flags & _SET_ANONYMOUS:
        return None
    description = dict(attributes(found.get(9, b"")))
    spec = SetSpec(
        key=_key_types(number(found.get(4, b""))),
        verdicts=number(found.get(6, b"")) == VERDICT_TYPE,
        interval=bool(flags & SET_INTERVAL),
        size=number(description.get(1, b"")),
        timeout_ms=number(found.get(11, b"")),
        counts=number(found.get(15, b"")) == COUNTER,
    )
    plain = (
        flags == set_flags(spec)
        and bool(spec.key)
        and key_number(spec) == number(found.get(4, b""))
        and spec.key_length == number(found[5])
        and not {12, 17, 18} & found.keys()  # garbage collection, expressions
        and (spec.counts or 15 not in found)
    )
    return name, spec if plain else None


def _key_types(value: int) -> tuple[KeyType, ...]:
    out: list[KeyType] = []
    while value:
        kind = _NUMBERS.get(value & 0x3F)
        if kind is None:
            return ()
        out.insert(0, kind)
        value >>= 6
    return tuple(out)


@decoder("an element")
def parse_elements(messages: Iterable[bytes], spec: SetSpec) -> Elements:
    """Every element of a set. The layout of one element is cached: nearly all of a set's have the same."""
    lists = [v for m in messages for k, v in attributes(m) if k == 3]
    width = spec.key_length
    if spec.interval:
        return _intervals([e for data in lists for e in _each(data, width)], width)
    if spec.plain and (packed := _packed(lists, width)) is not None:
        return Keys.unsorted(width, packed)
    out: dict[bytes, Data] = {}
    cache: dict[bytes, Data] = {}
    for data in lists:
        if not _uniform(data, width, out, cache):
            out.update((key, value) for key, value, _ in _each(data, width))
    return out


def _packed(lists: Iterable[bytes], width: int) -> bytes | None:
    """The joined keys, when every element is a key and nothing else."""
    stride = 12 + ((width + 3) & ~3)
    head = struct.pack("=H2xH2xHH", stride, stride - 4, 4 + width, 1)
    parts = []
    for data in lists:
        if not data:  # the kernel ends a dump of a full last message with an empty list
            continue
        keys = unstrided(data, width, stride, 12)
        kinds = struct.unpack_from("=2xH2xH", data) if len(data) >= stride else (0, 0)
        plain = bytes(data[i] if i not in (2, 3, 6, 7) else 0 for i in range(min(12, len(data)))) == head
        if keys is None or not plain or any(k & 0x3FFF != 1 for k in kinds) or any(data[12 + width : stride]):
            return None
        parts.append(keys)
    return b"".join(parts)


def _uniform(data: bytes, width: int, out: dict[bytes, Data], cache: dict[bytes, Data]) -> bool:
    """Fast path: every element of the list has the length of the first, and begins with its key."""
    if len(data) < 12 + width:
        return False
    stride = (struct.unpack_from("=H", data)[0] + 3) & ~3
    padding = -width & 3
    rest = stride - 12 - width - padding
    if rest < 0 or len(data) % stride:
        return False
    heads: set[bytes] = set()
    found: list[tuple[bytes, bytes]] = []
    for head, key, tail in struct.iter_unpack(f"=12s{width}s{padding}x{rest}s", data):
        heads.add(head)
        found.append((key, tail))
    head = heads.pop()
    key_kind, length, value_kind = struct.unpack("=6xHHH", head)
    if heads or key_kind & 0x3FFF != 1 or value_kind & 0x3FFF != 1 or length != 4 + width:
        return False
    for key, tail in found:
        if tail not in cache:
            cache[tail] = _element_data(tail)[0]
        out[key] = cache[tail]
    return True


def _each(data: bytes, width: int) -> Iterator[tuple[bytes, Data, int]]:
    """(key, data, flags) of each element, however it is laid out."""
    for _, element in attributes(data):
        key = b""
        for kind, content in attributes(element):
            if kind == 1:
                key = next((v for k, v in attributes(content) if k == 1), b"")[:width]
        value, flags = _element_data(element)
        if len(key) < width and (key or not flags & ELEMENT_CATCHALL):
            raise ValueError(f"a key of {len(key)} bytes where its type has {width}")
        yield key, value, flags


def _element_data(data: bytes) -> tuple[Data, int]:
    """(data, flags) of an element's attributes."""
    verdict: Data = None
    flags = 0
    odd = False
    for kind, value in attributes(data):
        if kind == 2:
            verdict = parse_verdict(value)
        elif kind == 3:
            flags = number(value)
        elif kind == 9:
            verdict = Counts(text(value))
        elif kind not in (1, 6, 8):  # the key, a comment, padding
            odd = True
    return (Odd(data) if odd else verdict), flags


def parse_verdict(payload: bytes) -> Data:
    for kind, value in attributes(payload):
        if kind == 2:
            return _verdict(value) or Odd(payload)
    return Odd(payload)


def _verdict(value: bytes) -> Verdict | None:
    """None for a code that we never write: older kernels let elements queue a packet to a program."""
    try:
        return parse_verdict_attributes(tuple(attributes(value)))
    except (KeyError, ValueError, struct.error):
        return None


def parse_verdict_attributes(attrs: Attributes) -> Verdict:
    """The content of NFTA_DATA_VERDICT: code, and the chain of a jump or goto."""
    found = {k: v for k, v in attrs if isinstance(v, bytes)}
    return Verdict(VerdictKind(struct.unpack(">i", found[1])[0]), text(found.get(2, b"")))


def _intervals(elements: list[tuple[bytes, Data, int]], width: int) -> Elements:
    """Pairs of a start and the value after the end become one key; an end without a start holds nothing."""
    out: dict[bytes, Data] = {}
    for _, data, flags in elements:
        if flags & ELEMENT_CATCHALL:
            out[b""] = data
    start: tuple[bytes, Data] | None = None
    ordered = (e for e in elements if not e[2] & ELEMENT_CATCHALL)
    for key, data, flags in sorted(ordered, key=lambda e: (e[0], not e[2] & ELEMENT_INTERVAL_END)):
        if start is not None:
            last = (int.from_bytes(key, "big") - 1).to_bytes(width, "big")
            out[start[0] + last] = start[1]
        start = None if flags & ELEMENT_INTERVAL_END else (key, data)
    if start is not None:
        out[start[0] + b"\xff" * width] = start[1]
    return out
