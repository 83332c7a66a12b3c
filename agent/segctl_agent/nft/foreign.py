"""What the tables of others do that changes what ours mean: pure, from their rules to findings in words.

Nothing here is healed: the tables are not ours. Whoever reads a finding must be able to act on it, so each says what
it means for this host's policy. Rules of legacy iptables and of IPVS are invisible to nf_tables; that they are there is
a finding too. Sources: include/uapi/linux/netfilter/nf_tables.h, x_tables.h, xt_connmark.h and xt_CT.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from segctl_agent.nft.ruleset import BaseHook, Expr

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_FORWARD, _HOOKS = 2, {1: "input", 2: "forward", 3: "output"}
_CT_MARK, _META_MARK = 3, 3
_ALL = 0xFFFFFFFF
_CONNMARK_SET, _CONNMARK_SAVE, _CONNMARK_RESTORE = 0, 1, 2
_CT_NOTRACK = 0x1
_REGISTER_WRITERS = {"lookup": 3, "byteorder": 2, "bitwise": 2, "dynset": 0, "hash": 2}
"""The attribute that names the register an expression writes, where it is not the first."""


class Weight(Enum):
    """INTERFERES: our policy does not mean here what it says. INFORMS: a reason why something may not work."""

    INTERFERES = "interferes"
    INFORMS = "informs"


@dataclass(frozen=True, slots=True)
class Where:
    """A chain of another's table; the chain is empty where the finding is not about one."""

    family: str
    table: str
    chain: str = ""

    def __str__(self) -> str:
        return f"table {self.family} {self.table}" + (f", chain {self.chain}" if self.chain else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """Equal as long as the same thing is there, so that each is told once."""

    where: Where
    weight: Weight
    what: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}"


@dataclass(frozen=True, slots=True)
class OtherRule:
    where: Where
    exprs: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tables of others in this network namespace. `unread`: there were more rules than are read."""

    rules: tuple[OtherRule, ...] = ()
    bases: tuple[tuple[Where, BaseHook], ...] = ()
    legacy: tuple[str, ...] = ()
    ipvs: bool = False
    unread: bool = False


_NO_TRACKING = (
    "takes packets out of connection tracking: our rules see each of them as a new one, so the answers of a permitted "
    "connection are refused, and no session is cut when its permission ends"
)
_QUEUE = (
    "hands packets to a program (NFQUEUE): its verdict NF_STOP lets them pass without our rules, and it may change them"
)
_TPROXY = (
    "hands connections to a local proxy (TPROXY): we judge the proxy's socket, not the port that the client asked for"
)
_FLOWTABLE = (
    "puts flows into a flowtable: their further packets pass no forward chain, so a permission that ends does not end "
    "them"
)
_ELSEWHERE = "sends packets on before they reach IP: neither our rules nor connection tracking see them"
_IPVS = Finding(
    Where("ip", "IPVS"),
    Weight.INTERFERES,
    "has virtual services: our rules judge the virtual address and port, and not the server that is chosen",
)


def analyse(snapshot: Snapshot, mask: int) -> tuple[Finding, ...]:
    """What to know, each finding once, in a stable order. `mask`: our bits of the conntrack mark."""
    found = {f: None for rule in snapshot.rules for f in _of_rule(rule, mask)}
    found |= dict.fromkeys(_of_bases(snapshot.bases))
    if snapshot.legacy:
        where = Where("ip", ", ".join(snapshot.legacy))
        found[Finding(where, Weight.INFORMS, "is of legacy iptables: what its rules do cannot be seen from here")] = (
            None
        )
    if snapshot.ipvs:
        found[_IPVS] = None
    if snapshot.unread:
        text = "hold more rules than are looked through: what the rest does is not known"
        found[Finding(Where("", "of others"), Weight.INFORMS, text)] = None
    return tuple(found)


def _of_bases(bases: Iterable[tuple[Where, BaseHook]]) -> Iterator[Finding]:
    for where, hook in bases:
        if hook.drop and hook.hook in _HOOKS and where.family in ("inet", "ip", "ip6"):
            text = f"drops on {_HOOKS[hook.hook]} what it does not accept: traffic must pass it as well as our policy"
            yield Finding(where, Weight.INFORMS, text)


def _of_rule(rule: OtherRule, mask: int) -> Iterator[Finding]:
    yield from _of_marks(rule, mask)
    for expr in rule.exprs:
        text = _DOES.get(expr.name, "")
        if expr.name == "target":
            text = _of_target(expr)
        if text:
            yield Finding(rule.where, Weight.INTERFERES, text)


_DOES = {
    "notrack": _NO_TRACKING,
    "queue": _QUEUE,
    "tproxy": _TPROXY,
    "flow_offload": _FLOWTABLE,
    "fwd": _ELSEWHERE,
}


def _of_target(expr: Expr) -> str:
    """A target of iptables-nft, other than those that write marks."""
    name, info = _target(expr)
    if name == "NOTRACK" or (name == "CT" and len(info) >= 2 and struct.unpack_from("=H", info)[0] & _CT_NOTRACK):
        return _NO_TRACKING
    return {"NFQUEUE": _QUEUE, "TPROXY": _TPROXY, "FLOWOFFLOAD": _FLOWTABLE}.get(name, "")


def _target(expr: Expr) -> tuple[str, bytes]:
    found = {k: v for k, v in expr.attrs if isinstance(v, bytes)}
    return found.get(1, b"").rstrip(b"\0").decode(errors="replace"), found.get(3, b"")


@dataclass(frozen=True, slots=True)
class _Marked:
    """A register that came from the conntrack mark: which of its bits are sure to be still there as they were
    (`kept`), and which may be (`seen`)."""

    kept: int
    seen: int


def _of_marks(rule: OtherRule, mask: int) -> Iterator[Finding]:
    written, copied = 0, 0
    registers: dict[bytes, _Marked] = {}
    for expr in rule.exprs:
        attrs = {k: v for k, v in expr.attrs if isinstance(v, bytes)}
        if expr.name == "ct" and attrs.get(2) == _number(_CT_MARK):
            if 4 in attrs:
                written |= ~registers.get(attrs[4], _Marked(0, 0)).kept & _ALL
            elif 1 in attrs:
                registers[attrs[1]] = _Marked(_ALL, _ALL)
        elif expr.name == "meta" and attrs.get(2) == _number(_META_MARK) and 3 in attrs:
            copied |= registers.get(attrs[3], _Marked(0, 0)).seen
        elif expr.name == "bitwise":
            _bitwise(expr, attrs, registers)
        elif expr.name == "target":
            sets, gets = _connmark(expr)
            written, copied = written | sets, copied | gets
        else:
            registers.pop(attrs.get(_REGISTER_WRITERS.get(expr.name, 1), b""), None)
    if written & mask:
        yield Finding(rule.where, Weight.INTERFERES, _overwrites(written & mask))
    if copied & mask:
        yield Finding(rule.where, Weight.INFORMS, _copies(copied & mask))


def _overwrites(bits: int) -> str:
    return (
        f"writes our bits of the conntrack mark ({bits:#010x}): flows it touches lose their decision and are judged "
        "anew, or take over another one's. Have it keep our bits, or give us others with --mark-mask"
    )


def _copies(bits: int) -> str:
    return (
        f"copies our bits of the conntrack mark ({bits:#010x}) into the packet mark: where a routing rule or a match "
        "compares the whole packet mark, it will not find its own value. Have it copy its own bits only"
    )


def _number(value: int) -> bytes:
    return struct.pack(">I", value)


def _bitwise(expr: Expr, attrs: dict[int, bytes], registers: dict[bytes, _Marked]) -> None:
    """new = old & mask ^ xor keeps the bits of the mask that are not in xor. Shifts and what takes a second register
    (Linux 6.13) keep nothing for certain, and may move any bit."""
    before, target = registers.get(attrs.get(1, b"")), attrs.get(2, b"")
    registers.pop(target, None)
    if before is None:
        return
    mask, xor = (_value(expr, kind) for kind in (4, 5))
    if attrs.get(6, bytes(4)) == bytes(4) and mask is not None and xor is not None and 8 not in attrs:
        registers[target] = _Marked(before.kept & mask & ~xor, before.seen & mask)
    else:
        registers[target] = _Marked(0, _ALL)


def _value(expr: Expr, kind: int) -> int | None:
    data = dict(expr.attrs).get(kind)
    value = dict(data).get(1) if isinstance(data, tuple) else None
    return struct.unpack("=I", value)[0] if isinstance(value, bytes) and len(value) == 4 else None


def _connmark(expr: Expr) -> tuple[int, int]:
    """(bits of the conntrack mark that it writes, that it copies into the packet mark). struct xt_connmark_tginfo1 and
    2 (with a shift before the mode): ctmark, ctmask, nfmask."""
    name, info = _target(expr)
    if name != "CONNMARK" or len(info) < 13:
        return 0, 0
    value, ct_mask, packet_mask = struct.unpack_from("=III", info)
    revision = {k: v for k, v in expr.attrs if isinstance(v, bytes)}.get(2, b"")
    mode = info[14] if revision == _number(2) and len(info) > 14 else info[12]
    if mode == _CONNMARK_SET:
        return ct_mask | value, 0
    if mode == _CONNMARK_SAVE:
        return (_ALL if revision == _number(2) and info[13] else ct_mask | packet_mask), 0
    return (0, ct_mask) if mode == _CONNMARK_RESTORE else (_ALL, 0)
