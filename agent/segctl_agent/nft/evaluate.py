"""What a ruleset does with one hypothetical new packet: an interpreter of the kernel's expressions.

It works on rulesets read from the kernel as well as on rendered ones. The packet opens a flow: its conntrack state is
new, its mark is zero, and limits are never exceeded.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from sys import byteorder
from typing import Literal

from segctl.errors import KernelError

from segctl_agent.nft.dump import parse_verdict_attributes
from segctl_agent.nft.ruleset import Attributes, Data, Expr, NftSet, Ruleset, Verdict, VerdictKind
from segctl_agent.nft.statements import PROTOCOL_NUMBERS

Outcome = Literal["allowed", "denied", "would-deny"]
_STATE_NEW, _DIRECTION_ORIGINAL = 8, 0
_MAX_JUMPS = 64


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of this host, or one that it forwards. `port` is the destination port or the ICMP type; `dialled` is
    where the flow was opened to, when that was translated. `interface` is the name of the one that it comes in by
    (goes out by, when the direction is out); `leaves` that by which a forwarded packet goes out.

    `cgroup` are the ids of the socket's cgroup and its ancestors from level 1 down; None: there is no socket.
    `tcp_flags` are those of RFC 9293: SYN opens a connection. `at_ns`: Unix time, now if not given.
    """

    direction: Literal["in", "out", "forward"]
    protocol: Literal["tcp", "udp", "icmp", "icmpv6"]
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    port: int
    source_port: int = 50000
    cgroup: tuple[int, ...] | None = None
    uid: int | None = None
    gid: int | None = None
    loopback: bool = False
    broadcast: bool = False
    tcp_flags: int = 0x02
    dialled: tuple[IPv4Address | IPv6Address, int] | None = None
    interface: str = "eth0"
    leaves: str = "eth0"
    at_ns: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`trail` is the way through the ruleset, a line for each chain entered and for what decided."""

    verdict: Outcome
    trail: tuple[str, ...]


class _NoMatch(Exception):  # noqa: N818 - control flow: the rule does not match
    pass


@dataclass(slots=True)
class _Walk:
    ruleset: Ruleset
    packet: Packet
    registers: bytearray = field(default_factory=lambda: bytearray(80))
    mark: int = 0
    logged_test: bool = False
    trail: list[str] = field(default_factory=list)


def evaluate(ruleset: Ruleset, packet: Packet) -> Evaluation:
    """Raises KernelError for an expression that we never write."""
    hook = {"in": 1, "forward": 2, "out": 3}[packet.direction]
    walk = _Walk(ruleset, packet)
    bases = [(c.base.priority, n) for n, c in ruleset.chains.items() if c.base is not None and c.base.hook == hook]
    for _, name in sorted(bases):
        if not _accepts(walk, name):
            return Evaluation("denied", tuple(walk.trail))
    return Evaluation("would-deny" if walk.logged_test else "allowed", tuple(walk.trail))


def _accepts(walk: _Walk, base: str) -> bool:
    chain, index = base, 0
    stack: list[tuple[str, int]] = []
    walk.trail.append(f"chain {base}")
    for _ in range(1_000_000):
        rules = walk.ruleset.chains[chain].rules
        if index >= len(rules):
            if not stack:
                hook = walk.ruleset.chains[base].base
                walk.trail.append("policy")
                return hook is None or not hook.drop
            chain, index = stack.pop()
            continue
        rule = rules[index]
        verdict = _rule(walk, rule.exprs)
        index += 1
        if verdict is None or verdict.kind in (VerdictKind.CONTINUE, VerdictKind.BREAK):
            continue
        if verdict.kind in (VerdictKind.ACCEPT, VerdictKind.DROP):
            walk.trail.append(f"{chain} rule {index}: {rule.text or verdict}")
            return verdict.kind is VerdictKind.ACCEPT
        if verdict.kind is VerdictKind.RETURN:
            index = len(rules)
            continue
        if verdict.kind is VerdictKind.JUMP:
            stack.append((chain, index))
            if len(stack) > _MAX_JUMPS:
                break
        chain, index = verdict.chain, 0
        walk.trail.append(f"chain {chain}")
    raise KernelError(f"the ruleset has a loop at chain {chain}: read it again, the kernel admits none")


def _rule(walk: _Walk, exprs: tuple[Expr, ...]) -> Verdict | None:
    try:
        for expr in exprs:
            verdict = _expression(walk, expr)
            if verdict is not None:
                return verdict
    except _NoMatch:
        return None
    return None


def _expression(walk: _Walk, expr: Expr) -> Verdict | None:
    values = {k: v for k, v in expr.attrs if isinstance(v, bytes)}
    nests = {k: v for k, v in expr.attrs if not isinstance(v, bytes)}
    match expr.name:
        case "meta" | "ct" | "payload" | "socket":
            _load(walk, expr.name, values)
        case "cmp" | "range":
            _compare(walk, expr.name, values, nests)
        case "bitwise":
            _mask(walk, values, nests)
        case "lookup":
            return _look_up(walk, values)
        case "immediate":
            return _immediate(walk, values, nests)
        case "reject":
            return Verdict(VerdictKind.DROP)
        case "log":
            prefix = values.get(2, b"").rstrip(b"\0").decode()
            walk.trail.append(f'log "{prefix}"')
            walk.logged_test = walk.logged_test or prefix.split()[3:4] == ["test"]
        case "dynset" if 10 in nests:  # its element has a rate, which is not exceeded yet
            raise _NoMatch
        case "objref" if 4 in values:
            _find_flow(walk, values[4], values[3], inverted=False)
        case "byteorder":
            length = _int(values[4])
            data = _fetch(walk, values[1], length)
            _store(walk, values[2], data[::-1] if byteorder == "little" else data)
        case "counter" | "objref" | "limit" | "dynset":  # a flow that opens has nothing remembered about it
            pass
        case _:
            raise KernelError(
                f"the table holds a {expr.name} expression, which segctl never writes: apply the policy again"
            )
    return None


def _int(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _offset(register: bytes) -> int:
    """Byte offset of a register: NFT_REG_1 to 4 are 16 bytes each, NFT_REG32_00 (8) to 15 are 4 bytes each."""
    number = _int(register)
    return number * 16 if number <= 4 else (number - 8) * 4 + 16


def _store(walk: _Walk, register: bytes, data: bytes) -> None:
    padded = data + b"\0" * (-len(data) & 3)
    at = _offset(register)
    walk.registers[at : at + len(padded)] = padded


def _fetch(walk: _Walk, register: bytes, length: int) -> bytes:
    at = _offset(register)
    return bytes(walk.registers[at : at + length])


def _load(walk: _Walk, name: str, values: dict[int, bytes]) -> None:
    if name == "ct" and 4 in values:
        walk.mark = struct.unpack("=I", _fetch(walk, values[4], 4))[0]
        return
    if name == "payload":
        _store(walk, values[1], _payload(walk.packet, _int(values[2]), _int(values[3]), _int(values[4])))
    elif name == "socket":
        _store(walk, values[2], _socket(walk.packet, values))
    elif name == "meta":
        _store(walk, values[1], _meta(walk.packet, _int(values[2])))
    else:
        _store(walk, values[1], _ct(walk, _int(values[2])))


def _socket(packet: Packet, values: dict[int, bytes]) -> bytes:
    """Keys of enum nft_socket_keys: 0 is transparent, 2 wildcard, of which only the existence counts here; 3 is
    cgroupv2. Half sockets are not told apart."""
    if packet.cgroup is None:
        raise _NoMatch
    if _int(values[1]) in (0, 2):
        return b"\0"
    level = _int(values[3])
    if not 1 <= level <= len(packet.cgroup):
        raise _NoMatch
    return struct.pack("=Q", packet.cgroup[level - 1])


def _meta(packet: Packet, key: int) -> bytes:
    """Keys of enum nft_meta_keys."""
    protocol = PROTOCOL_NUMBERS[packet.protocol]
    interface = struct.pack("=I", 1 if packet.loopback else 2)
    match key:
        case 15:
            return b"\x02" if packet.source.version == 4 else b"\x0a"
        case 16:
            return bytes([protocol])
        case 4 if packet.direction != "out":
            return interface
        case 5 if packet.direction != "in":
            return interface
        case 6 if packet.direction != "out":
            return packet.interface.encode().ljust(16, b"\0")
        case 7 if packet.direction != "in":
            return (packet.interface if packet.direction == "out" else packet.leaves).encode().ljust(16, b"\0")
        case 10 if packet.uid is not None and packet.cgroup is not None:
            return struct.pack("=I", packet.uid)
        case 11 if packet.gid is not None and packet.cgroup is not None:
            return struct.pack("=I", packet.gid)
        case 19:
            return b"\1" if packet.broadcast else b"\0"
        case 30:
            return struct.pack("=Q", packet.at_ns)
        case _:
            raise _NoMatch


def _ct(walk: _Walk, key: int) -> bytes:
    match key:
        case 0:
            return struct.pack("=I", _STATE_NEW)
        case 1:
            return bytes([_DIRECTION_ORIGINAL])
        case 3:
            return struct.pack("=I", walk.mark)
        case 12 | 19 | 20 | 21 | 22:
            return _opened(walk.packet, key)
        case _:
            raise _NoMatch


def _opened(packet: Packet, key: int) -> bytes:
    """Port and addresses of the flow's first packet, before translation (enum nft_ct_keys)."""
    to, port = packet.dialled or (packet.destination, packet.port)
    if key == 12:
        return struct.pack(">H", port)
    if packet.source.version != (4 if key in (19, 20) else 6):
        raise _NoMatch
    return packet.source.packed if key in (19, 21) else to.packed


def _payload(packet: Packet, base: int, offset: int, length: int) -> bytes:
    """From the headers the packet would have, as far as rules look at them: addresses, ports, ICMP type."""
    if base == 1:
        address = 12 if packet.source.version == 4 else 8
        header = bytes(address) + packet.source.packed + packet.destination.packed
    elif base == 2 and packet.protocol in ("tcp", "udp"):
        header = struct.pack(">HH9xB6x", packet.source_port, packet.port, packet.tcp_flags)
    elif base == 2:
        header = bytes([packet.port]) + bytes(7)
    else:
        raise _NoMatch
    if offset + length > len(header):
        raise _NoMatch
    return header[offset : offset + length]


def _value(nested: Attributes) -> bytes:
    return next(v for k, v in nested if k == 1 and isinstance(v, bytes))


def _compare(walk: _Walk, name: str, values: dict[int, bytes], nests: dict[int, Attributes]) -> None:
    operator = _int(values[2])
    if name == "range":
        low, high = _value(nests[3]), _value(nests[4])
        if (low <= _fetch(walk, values[1], len(low)) <= high) is (operator == 1):
            raise _NoMatch
        return
    wanted = _value(nests[3])
    found = _fetch(walk, values[1], len(wanted))
    matches = (found == wanted, found != wanted, found < wanted, found <= wanted, found > wanted, found >= wanted)
    if not matches[operator]:
        raise _NoMatch


def _mask(walk: _Walk, values: dict[int, bytes], nests: dict[int, Attributes]) -> None:
    length = _int(values[3])
    if _int(values.get(6, b"\0")) != 0:
        raise KernelError("the table holds a shift expression, which segctl never writes: apply the policy again")
    data, mask, xor = _fetch(walk, values[1], length), _value(nests[4]), _value(nests[5])
    _store(walk, values[2], bytes(d & m ^ x for d, m, x in zip(data, mask, xor, strict=True)))


def _look_up(walk: _Walk, values: dict[int, bytes]) -> Verdict | None:
    data = _find_flow(walk, values[1], values[2], inverted=bool(_int(values.get(5, b"\0"))))
    return data if 3 in values and isinstance(data, Verdict) else None


def _find_flow(walk: _Walk, set_name: bytes, register: bytes, *, inverted: bool) -> Data:
    """The data of the element that the register's key matches. None ends the rule; with `inverted`, one does."""
    name = set_name.rstrip(b"\0").decode()
    nft_set = walk.ruleset.sets.get(name)
    if nft_set is None:
        raise KernelError(f"the table refers to set {name}, which segctl never writes: apply the policy again")
    found = _find(nft_set, _fetch(walk, register, nft_set.spec.key_length))
    if (found is None) is not inverted:
        raise _NoMatch
    return None if found is None else nft_set.elements[found]


def _find(nft_set: NftSet, key: bytes) -> bytes | None:
    """The key of the element that `key` matches."""
    width = nft_set.spec.key_length
    if nft_set.spec.interval:
        hit = next((k for k in nft_set.elements if k and k[:width] <= key <= k[width:]), None)
    else:
        hit = key if key in nft_set.elements else None
    return b"" if hit is None and b"" in nft_set.elements else hit


def _immediate(walk: _Walk, values: dict[int, bytes], nests: dict[int, Attributes]) -> Verdict | None:
    for kind, data in nests[2]:
        if kind == 2 and not isinstance(data, bytes):
            return parse_verdict_attributes(data)
        if kind == 1 and isinstance(data, bytes):
            _store(walk, values[1], data)
    return None
