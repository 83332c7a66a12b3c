"""Operations to nf_tables netlink messages (include/uapi/linux/netfilter/nf_tables.h). Pure: bytes out."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from segctl_agent.nft.attributes import attribute, nested, string, u32
from segctl_agent.nft.keys import Keys, strided
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
    DYNAMIC_SIZE,
    Attributes,
    Counts,
    Data,
    Expr,
    ForeignKind,
    Odd,
    Rule,
    SetSpec,
    Verdict,
)
from segctl_agent.nft.statements import verdict_attributes

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN, GETGEN = range(9, 17)
NEWOBJ, GETOBJ, DELOBJ, NEWFLOWTABLE, GETFLOWTABLE, DELFLOWTABLE = 18, 19, 20, 22, 23, 24

SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_EVAL, SET_OBJECT, SET_CONCAT = 0x4, 0x8, 0x10, 0x20, 0x40, 0x80
ELEMENT_INTERVAL_END, ELEMENT_CATCHALL = 0x1, 0x2
_DYNSET_EXPRESSIONS, DYNSET_HAS_EXPRESSIONS = 10, 0x2
VERDICT_TYPE = 0xFFFFFF00
COUNTER = 1  # NFT_OBJECT_COUNTER
CREATE, APPEND = 0x400, 0x800
_CHUNK = 60_000  # bytes of elements in a message: a nested attribute holds at most 65531
_TYPE_BITS = 6  # nftables packs the types of a concatenation into one number


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a batch: nf_tables command, extra flags, attributes; `about` names it in errors."""

    command: int
    flags: int
    payload: bytes
    about: Operation

    def __str__(self) -> str:
        return describe(self.about)


def encode(batch: Batch, table: str, table_flags: int = 0) -> list[Message]:
    """`table_flags`: what AddTable gives the table (NFT_TABLE_F_*)."""
    return [
        Message(command, flags, payload, op)
        for op in batch.operations
        for command, flags, payload in _encode(op, string(1, table), table_flags)
    ]


def _encode(op: Operation, table: bytes, table_flags: int) -> Iterable[tuple[int, int, bytes]]:
    match op:
        case AddTable():
            return [(NEWTABLE, CREATE, table + u32(2, table_flags))]
        case DeleteTable():
            return [(DELTABLE, 0, table)]
        case AddChain() | FlushChain() | DeleteChain() | AddRule():
            return [_chain(op, table)]
        case AddSet(name, spec):
            return [(NEWSET, CREATE, table + string(2, name) + set_attributes(spec))]
        case DeleteSet(name):
            return [(DELSET, 0, table + string(2, name))]
        case FlushSet(name):
            return [(DELSETELEM, 0, table + string(2, name))]
        case AddElements(name, spec, elements):
            head = table + string(2, name)
            chunks = _packed(elements) if isinstance(elements, Keys) else _chunks(_elements(spec, elements.items()))
            return [(NEWSETELEM, CREATE, head + c) for c in chunks]
        case DeleteElements(name, spec, keys):
            head = table + string(2, name)
            return [(DELSETELEM, 0, head + c) for c in _chunks(_elements(spec, ((k, None) for k in keys)))]
        case AddCounter() | DeleteCounter() | DeleteForeign():
            return [_object(op, table)]


def _object(op: AddCounter | DeleteCounter | DeleteForeign, table: bytes) -> tuple[int, int, bytes]:
    match op:
        case AddCounter(name):
            value = nested(4, attribute(1, bytes(8)), attribute(2, bytes(8)))
            return NEWOBJ, CREATE, table + string(2, name) + u32(3, COUNTER) + value
        case DeleteCounter(name):
            return DELOBJ, 0, table + string(2, name) + u32(3, COUNTER)
        case DeleteForeign(what):
            if what.kind is ForeignKind.SET:
                return DELSET, 0, table + string(2, what.name)
            if what.kind is ForeignKind.FLOWTABLE:
                return DELFLOWTABLE, 0, table + string(2, what.name)
            return DELOBJ, 0, table + string(2, what.name) + u32(3, what.type)


def _chain(op: AddChain | FlushChain | DeleteChain | AddRule, table: bytes) -> tuple[int, int, bytes]:
    match op:
        case AddChain(name, base):
            payload = table + string(3, name)
            if base is not None:
                payload += nested(4, u32(1, base.hook), u32(2, base.priority & 0xFFFFFFFF))
                payload += u32(5, 0 if base.drop else 1) + string(7, base.type)
            return NEWCHAIN, CREATE, payload
        case FlushChain(name):
            return DELRULE, 0, table + string(2, name)
        case DeleteChain(name):
            return DELCHAIN, 0, table + string(3, name)
        case AddRule(chain, rule):
            return NEWRULE, CREATE | APPEND, table + string(2, chain) + expressions(rule)


def expressions(rule: Rule) -> bytes:
    """NFTA_RULE_EXPRESSIONS."""
    return nested(4, *(nested(1, string(1, e.name), nested(2, _pack(_written(e)))) for e in rule.exprs))


def _written(expr: Expr) -> Attributes:
    """The kernel wants to be told that a dynset has expressions, and does not repeat it in a dump (nft_dynset.c)."""
    if expr.name != "dynset" or all(k != _DYNSET_EXPRESSIONS for k, _ in expr.attrs):
        return expr.attrs
    return tuple((k, struct.pack(">I", DYNSET_HAS_EXPRESSIONS) if k == 9 else v) for k, v in expr.attrs)


def _pack(attrs: Attributes) -> bytes:
    return b"".join(attribute(k, v) if isinstance(v, bytes) else nested(k, _pack(v)) for k, v in attrs)


def expression_bytes(expr: Expr) -> bytes:
    return _pack(expr.attrs)


def set_attributes(spec: SetSpec) -> bytes:
    """Flags, key, data and description of a set. The id is required; nothing in our batches refers to it."""
    concatenated = SET_CONCAT * (spec.interval and len(spec.key) > 1)
    out = u32(3, set_flags(spec) | concatenated) + u32(4, key_number(spec)) + u32(5, spec.key_length)
    if spec.verdicts:
        out += u32(6, VERDICT_TYPE) + u32(7, 16)
    if spec.counts:
        out += u32(15, COUNTER)
    if spec.size and not (spec.dynamic and spec.size == DYNAMIC_SIZE):
        out += nested(9, u32(1, spec.size))
    out += u32(10, 1)
    if spec.dynamic:
        out += attribute(11, struct.pack(">Q", spec.timeout_ms))
    return out + attribute(13, _user_data(spec))


def set_flags(spec: SetSpec) -> int:
    """NFTA_SET_FLAGS as the kernel tells them for a set that we write."""
    dynamic = (SET_TIMEOUT | SET_EVAL) * spec.dynamic
    return SET_INTERVAL * spec.interval | SET_MAP * spec.verdicts | SET_OBJECT * spec.counts | dynamic


def key_number(spec: SetSpec) -> int:
    number = 0
    for key in spec.key:
        number = number << _TYPE_BITS | key.number
    return number


def _user_data(spec: SetSpec) -> bytes:
    """Tells nft how to print keys (nftables' udata: type 0 is the key's byte order; 1 is host, 2 is network)."""
    order = 1 if len(spec.key) == 1 and spec.key[0].host_order else 2
    return struct.pack("=BBI", 0, 4, order)


def element_lists(spec: SetSpec, keys: Iterable[bytes]) -> Iterable[bytes]:
    """NFTA_SET_ELEM_LIST_ELEMENTS with these keys, one for each question: the kernel answers for the first it lacks."""
    return (nested(3, *_elements(spec, [(key, None)])) for key in keys)


def _packed(keys: Keys) -> list[bytes]:
    """Chunks of elements without data, made without a look at each."""
    head, pad = _head(keys.width, b""), b"\0" * (-keys.width & 3)
    template = head + bytes(keys.width) + pad
    each = _CHUNK // len(template) * keys.width
    parts = (keys.packed[i : i + each] for i in range(0, len(keys.packed), each))
    return [nested(3, bytes(strided(part, keys.width, template, len(head)))) for part in parts]


def _elements(spec: SetSpec, elements: Iterable[tuple[bytes, Data]]) -> Iterator[bytes]:
    """NFTA_LIST_ELEM attributes. An interval is two elements: its first value, and the value after its last."""
    suffixes: dict[Data, bytes] = {None: b""}
    width = spec.key_length
    heads = {False: _head(width, b""), True: _head(width, u32(3, ELEMENT_INTERVAL_END))}
    pad = b"\0" * (-width & 3)
    for key, data in elements:
        suffix = suffixes.get(data)
        if suffix is None:
            suffix = suffixes[data] = _data(data)
        if not key:
            yield nested(1, u32(3, ELEMENT_CATCHALL), suffix)
        elif spec.interval:
            yield _with_length(heads[False], suffix) + key[:width] + pad + suffix
            after = int.from_bytes(key[width:], "big") + 1
            if after < 1 << 8 * width:
                yield heads[True] + after.to_bytes(width, "big") + pad
        else:
            yield _with_length(heads[False], suffix) + key + pad + suffix


def _head(width: int, flags: bytes) -> bytes:
    """The headers before a key: the element's, its flags, the key's and the value's."""
    value = struct.pack("=HH", 4 + width, 1)
    padded = 4 + width + (-width & 3)
    key = struct.pack("=HH", 4 + padded, 1 | 0x8000)
    return struct.pack("=HH", 4 + len(flags) + 4 + padded, 1 | 0x8000) + flags + key + value


def _with_length(head: bytes, suffix: bytes) -> bytes:
    if not suffix:
        return head
    length, kind = struct.unpack_from("=HH", head)
    return struct.pack("=HH", length + len(suffix), kind) + head[4:]


def _data(data: Data) -> bytes:
    """NFTA_SET_ELEM_DATA with a verdict, or NFTA_SET_ELEM_OBJREF."""
    if isinstance(data, Verdict):
        return nested(2, nested(2, _pack(verdict_attributes(data))))
    if isinstance(data, Counts):
        return string(9, data.counter)
    if isinstance(data, Odd):
        raise TypeError("an element that the kernel reported as foreign is never written")
    return b""


def _chunks(elements: Iterator[bytes]) -> Iterator[bytes]:
    """NFTA_SET_ELEM_LIST_ELEMENTS attributes of bounded size."""
    chunk: list[bytes] = []
    size = 0
    for element in elements:
        if size + len(element) > _CHUNK:
            yield nested(3, *chunk)
            chunk, size = [], 0
        chunk.append(element)
        size += len(element)
    if chunk:
        yield nested(3, *chunk)
