"""Builders of statements: nft syntax and the kernel's expressions, made together so that they cannot drift.

Registers, offsets and attribute numbers are those of include/uapi/linux/netfilter/nf_tables.h. Each expression is
written as the kernel dumps it, and as nft 1.0.6 compiles the same text: tests/netns/test_text.py compares the two.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from segctl_agent.facts.values import Address
from segctl_agent.nft.ruleset import Attributes, Expr, Statement, Verdict

Side = Literal["saddr", "daddr"]
Version = Literal[4, 6]
VERSIONS: tuple[Version, ...] = (4, 6)
PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
_NFT_PROTOCOL = {"icmp": "icmp", "tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp"}

EQUAL, NOT_EQUAL, LESS, AT_MOST, AT_LEAST = 0, 1, 2, 3, 5
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_NFPROTO, _L4PROTO, _IIF, _OIF, _SKUID, _SKGID, _PKTTYPE, _TIME_NS = 15, 16, 4, 5, 10, 11, 19, 30
_IIFNAME, _OIFNAME = 6, 7
_CT_STATE, _CT_DIRECTION, _CT_MARK, _CT_PROTO_DST = 0, 1, 3, 12
_CT_ADDRESS: dict[tuple[Side, Version], int] = {("saddr", 4): 19, ("daddr", 4): 20, ("saddr", 6): 21, ("daddr", 6): 22}
_CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8}


def _n(value: int) -> bytes:
    return struct.pack(">I", value)


def _string(value: str) -> bytes:
    return value.encode() + b"\0"


def _host(value: int) -> bytes:
    return struct.pack("=I", value)


def _meta(key: int, register: int = 1) -> Expr:
    return Expr("meta", ((1, _n(register)), (2, _n(key))))


def _ct(key: int) -> Expr:
    return Expr("ct", ((1, _n(1)), (2, _n(key))))


def _payload(base: int, offset: int, length: int, register: int = 1) -> Expr:
    return Expr("payload", ((1, _n(register)), (2, _n(base)), (3, _n(offset)), (4, _n(length))))


def _cmp(data: bytes, operator: int = EQUAL) -> Expr:
    return Expr("cmp", ((1, _n(1)), (2, _n(operator)), (3, ((1, data),))))


def _bitwise(mask: int, xor: int = 0) -> Expr:
    attrs: Attributes = (
        (1, _n(1)),
        (2, _n(1)),
        (3, _n(4)),
        (4, ((1, _host(mask)),)),
        (5, ((1, _host(xor)),)),
        (6, _n(0)),
    )
    return Expr("bitwise", attrs)


def _lookup(name: str, *, invert: bool = False, to_verdict: bool = False) -> Expr:
    attrs: Attributes = ((1, _string(name)), (2, _n(1)))
    attrs += ((3, _n(0)),) if to_verdict else ()
    return Expr("lookup", (*attrs, (5, _n(int(invert)))))


def _family(address_length: int) -> tuple[Expr, ...]:
    return (_meta(_NFPROTO), _cmp(b"\x02" if address_length == 4 else b"\x0a"))


def _address(side: Side, length: int, register: int = 1) -> Expr:
    offset = {("saddr", 4): 12, ("daddr", 4): 16, ("saddr", 16): 8, ("daddr", 16): 24}[side, length]
    return _payload(_NETWORK_HEADER, offset, length, register)


def verdict_attributes(verdict: Verdict) -> Attributes:
    """NFTA_DATA_VERDICT's content: the code, and the chain of a jump or goto."""
    code = (1, struct.pack(">i", verdict.kind.value))
    return (code, (2, _string(verdict.chain))) if verdict.chain else (code,)


def verdict(value: Verdict) -> Statement:
    return Statement((Expr("immediate", ((1, _n(0)), (2, ((2, verdict_attributes(value)),)))),), str(value))


def interface(name: Literal["iif", "oif"]) -> Statement:
    """The loopback interface, which has index 1 in every network namespace."""
    return Statement((_meta(_IIF if name == "iif" else _OIF), _cmp(_host(1))), f'{name} "lo"')


def ct_state(*states: str) -> Statement:
    bits = sum(_CT_STATES[s] for s in states)
    exprs = (_ct(_CT_STATE), _bitwise(bits), _cmp(_host(0), NOT_EQUAL))
    return Statement(exprs, "ct state " + ",".join(states))


def ct_reply() -> Statement:
    return Statement((_ct(_CT_DIRECTION), _cmp(b"\x01")), "ct direction reply")


def ct_mark_is(mask: int, value: int) -> Statement:
    exprs = (_ct(_CT_MARK), _bitwise(mask), _cmp(_host(value)))
    return Statement(exprs, f"ct mark & {mask:#010x} == {value:#010x}")


def ct_mark_verdict(mask: int, name: str) -> Statement:
    """The verdict that map `name` has for the bits of `mask`; a mark that is not in it is no match."""
    exprs = (_ct(_CT_MARK), _bitwise(mask), _lookup(name, to_verdict=True))
    return Statement(exprs, f"ct mark & {mask:#010x} vmap @{name}")


def before(seconds: int) -> Statement:
    """True until this Unix time. The kernel's clock is its real one, in nanoseconds (NFT_META_TIME_NS)."""
    to_network = Expr("byteorder", ((1, _n(1)), (2, _n(1)), (3, _n(1)), (4, _n(8)), (5, _n(8))))
    limit = struct.pack(">Q", seconds * 1_000_000_000)
    return Statement((_meta(_TIME_NS), to_network, _cmp(limit, LESS)), f"meta time < {seconds}")


def count(counter: str) -> Statement:
    """Counts the packet in a named counter of the table (NFT_OBJECT_COUNTER is 1)."""
    return Statement((Expr("objref", ((1, _n(1)), (2, _string(counter)))),), f'counter name "{counter}"')


def ct_mark_set(mask: int, value: int) -> Statement:
    """Write `value` into the bits of `mask`; the other bits of the mark keep what they hold."""
    keep = ~mask & 0xFFFFFFFF
    exprs = (_ct(_CT_MARK), _bitwise(keep, value), Expr("ct", ((2, _n(_CT_MARK)), (4, _n(1)))))
    return Statement(exprs, f"ct mark set ct mark & {keep:#010x} | {value:#010x}")


def tcp_or_udp() -> Statement:
    """Protocols 6 to 17 (tcp, udp, and between them none that is in use): one comparison less than a set."""
    return Statement((_meta(_L4PROTO), *_bounds(6, 17, 1)), "meta l4proto 6-17")


def protocol(name: str) -> Statement:
    return Statement((_meta(_L4PROTO), _cmp(bytes([PROTOCOL_NUMBERS[name]]))), f"meta l4proto {_NFT_PROTOCOL[name]}")


def protocol_not(name: str) -> Statement:
    exprs = (_meta(_L4PROTO), _cmp(bytes([PROTOCOL_NUMBERS[name]]), NOT_EQUAL))
    return Statement(exprs, f"meta l4proto != {_NFT_PROTOCOL[name]}")


def _bounds(low: int, high: int, width: int) -> tuple[Expr, ...]:
    first, last = low.to_bytes(width, "big"), high.to_bytes(width, "big")
    return (_cmp(first),) if low == high else (_cmp(first, AT_LEAST), _cmp(last, AT_MOST))


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def destination_port(name: Literal["tcp", "udp"], low: int, high: int) -> Statement:
    exprs = (*protocol(name).exprs, _payload(_TRANSPORT_HEADER, 2, 2), *_bounds(low, high, 2))
    return Statement(exprs, f"{name} dport {_span(low, high)}")


def tcp_port(low: int, high: int) -> Statement:
    """The destination port where an earlier rule has seen to it that this is TCP."""
    exprs = (_payload(_TRANSPORT_HEADER, 2, 2), *_bounds(low, high, 2))
    return Statement(exprs, f"th dport {_span(low, high)}")


def source_port(name: Literal["tcp", "udp"], low: int, high: int, *, known: bool = False) -> Statement:
    """The source port of a segment or datagram. `known`: an earlier statement of the rule has compared the protocol."""
    compared = () if known else protocol(name).exprs
    exprs = (*compared, _payload(_TRANSPORT_HEADER, 0, 2), *_bounds(low, high, 2))
    return Statement(exprs, f"{name} sport {_span(low, high)}")


def tcp_without_syn() -> Statement:
    """A TCP segment that opens nothing (RFC 9293, section 3.1: the flags are in byte 13, SYN is 0x02)."""
    masked = ((1, _n(1)), (2, _n(1)), (3, _n(1)), (4, ((1, b"\x02"),)), (5, ((1, b"\0"),)), (6, _n(0)))
    exprs = (*protocol("tcp").exprs, _payload(_TRANSPORT_HEADER, 13, 1), Expr("bitwise", masked), _cmp(b"\0"))
    return Statement(exprs, "tcp flags & syn == 0x0")


def flags_without_syn() -> Statement:
    """The same by the byte alone: only where something else in the rule tells TCP from other protocols."""
    masked = ((1, _n(1)), (2, _n(1)), (3, _n(1)), (4, ((1, b"\x02"),)), (5, ((1, b"\0"),)), (6, _n(0)))
    exprs = (_payload(_TRANSPORT_HEADER, 13, 1), Expr("bitwise", masked), _cmp(b"\0"))
    return Statement(exprs, "@th,104,8 & 0x02 == 0x00")


def tcp_reset() -> Statement:
    """A TCP segment with RST (0x04)."""
    masked = ((1, _n(1)), (2, _n(1)), (3, _n(1)), (4, ((1, b"\x04"),)), (5, ((1, b"\0"),)), (6, _n(0)))
    exprs = (*protocol("tcp").exprs, _payload(_TRANSPORT_HEADER, 13, 1), Expr("bitwise", masked), _cmp(b"\x04"))
    return Statement(exprs, "tcp flags & rst == rst")


def tcp_syn() -> Statement:
    """A TCP segment that opens a connection: of FIN, SYN, RST and ACK only SYN is set."""
    masked = ((1, _n(1)), (2, _n(1)), (3, _n(1)), (4, ((1, b"\x17"),)), (5, ((1, b"\0"),)), (6, _n(0)))
    exprs = (*protocol("tcp").exprs, _payload(_TRANSPORT_HEADER, 13, 1), Expr("bitwise", masked), _cmp(b"\x02"))
    return Statement(exprs, "tcp flags & (fin | syn | rst | ack) == syn")


def udp_ports(source: int, destination: int) -> Statement:
    """Both ports of a datagram in one comparison."""
    both = struct.pack(">HH", source, destination)
    exprs = (*protocol("udp").exprs, _payload(_TRANSPORT_HEADER, 0, 4), _cmp(both))
    return Statement(exprs, f"udp sport {source} udp dport {destination}")


def icmp_type(low: int, high: int, *, version: Version, family_known: bool = False) -> Statement:
    """An ICMP message type. `family_known`: an earlier statement of the rule has compared the address family."""
    name = "icmp" if version == 4 else "icmpv6"
    family = () if family_known else _family(4 if version == 4 else 16)
    exprs = (*family, *protocol(name).exprs, _payload(_TRANSPORT_HEADER, 0, 1), *_bounds(low, high, 1))
    return Statement(exprs, f"{name} type {_span(low, high)}")


def address_is(side: Side, address: Address) -> Statement:
    length = len(address.packed)
    exprs = (*_family(length), _address(side, length), _cmp(address.packed))
    return Statement(exprs, f"{'ip' if isinstance(address, IPv4Address) else 'ip6'} {side} {address}")


def to_loopback(version: Version) -> Statement:
    """The packet's destination is an address that never leaves this host: 127.0.0.0/8 (RFC 1122) or ::1."""
    if version == 6:
        return address_is("daddr", IPv6Address("::1"))
    return Statement((*_family(4), _payload(_NETWORK_HEADER, 16, 1), _cmp(b"\x7f")), "ip daddr 127.0.0.0/8")


def address_in(side: Side, name: str, *, version: Version) -> Statement:
    length = 4 if version == 4 else 16
    exprs = (*_family(length), _address(side, length), _lookup(name))
    return Statement(exprs, f"{'ip' if version == 4 else 'ip6'} {side} @{name}")


Port = Literal["sport", "dport"]


def _flow(side: Side, version: Version, port: Port) -> tuple[tuple[Expr, ...], str]:
    """Remote address . protocol . port, loaded as one key."""
    length, second, third = (4, 9, 10) if version == 4 else (16, 2, 13)
    offset = 0 if port == "sport" else 2
    key = (_address(side, length), _meta(_L4PROTO, second), _payload(_TRANSPORT_HEADER, offset, 2, third))
    return (*_family(length), *key), f"{'ip' if version == 4 else 'ip6'} {side} . meta l4proto . th {port}"


def flow_in(side: Side, name: str, *, version: Version, port: Port = "dport") -> Statement:
    """The flow is in the set or map."""
    key, text = _flow(side, version, port)
    return Statement((*key, _lookup(name)), f"{text} @{name}")


def flow_counted(side: Side, name: str, *, version: Version, port: Port = "dport") -> Statement:
    """The flow is in the map, and is counted in the counter that the map has for it: one look does both."""
    key, text = _flow(side, version, port)
    counter = Expr("objref", ((3, _n(1)), (4, _string(name))))
    return Statement((*key, counter), f"counter name {text} map @{name}")


def _connection(version: Version) -> tuple[tuple[Expr, ...], str]:
    """Remote address, source port and destination port of a segment that goes out, loaded as one key."""
    length, second, third = (4, 9, 10) if version == 4 else (16, 2, 13)
    ports = (_payload(_TRANSPORT_HEADER, 0, 2, second), _payload(_TRANSPORT_HEADER, 2, 2, third))
    text = f"{'ip' if version == 4 else 'ip6'} daddr . tcp sport . tcp dport"
    return (*_family(length), _address("daddr", length), *ports), text


def connection_in(name: str, *, version: Version) -> Statement:
    """The rule must have compared the protocol already."""
    key, text = _connection(version)
    return Statement((*key, _lookup(name)), f"{text} @{name}")


def connection_add(name: str, *, version: Version) -> Statement:
    """Puts the connection into a dynamic set, for the time that the set keeps elements. The rule must have compared
    the protocol already, and goes no further when the set is full."""
    key, text = _connection(version)
    attrs: Attributes = ((1, _string(name)), (3, _n(0)), (4, _n(1)), (6, bytes(8)), (9, _n(0)))
    return Statement((*key, Expr("dynset", attrs)), f"add @{name} {{ {text} }}")


def address_verdict(side: Side, name: str, *, version: Version) -> Statement:
    """The verdict that map `name` has for the packet's own address."""
    length = 4 if version == 4 else 16
    exprs = (*_family(length), _address(side, length), _lookup(name, to_verdict=True))
    return Statement(exprs, f"{'ip' if version == 4 else 'ip6'} {side} vmap @{name}")


def _original(key: int) -> Expr:
    """A field of the flow's first packet, as it was before any translation of addresses (NFTA_CT_DIRECTION is 3)."""
    return Expr("ct", ((1, _n(1)), (2, _n(key)), (3, b"\0")))


def original_address_in(side: Side, name: str, *, version: Version) -> Statement:
    """The address that the flow was opened from or to. No match for a packet without a flow or of another family."""
    family = "ip" if version == 4 else "ip6"
    return Statement((_original(_CT_ADDRESS[side, version]), _lookup(name)), f"ct original {family} {side} @{name}")


def original_port(name: Literal["tcp", "udp"], low: int, high: int) -> Statement:
    """The port that the flow was opened to."""
    exprs = (*protocol(name).exprs, _original(_CT_PROTO_DST), *_bounds(low, high, 2))
    return Statement(exprs, f"meta l4proto {name} ct original proto-dst {_span(low, high)}")


def interface_is(side: Literal["iifname", "oifname"], name: str) -> Statement:
    """An interface by its name, which is padded to 16 bytes (IFNAMSIZ)."""
    exprs = (_meta(_IIFNAME if side == "iifname" else _OIFNAME), _cmp(name.encode().ljust(16, b"\0")))
    return Statement(exprs, f'{side} "{name}"')


def uid_is(uid: int) -> Statement:
    return Statement((_meta(_SKUID), _cmp(_host(uid))), f"meta skuid {uid}")


def uid_verdict(name: str) -> Statement:
    return Statement((_meta(_SKUID), _lookup(name, to_verdict=True)), f"meta skuid vmap @{name}")


def gid_verdict(name: str) -> Statement:
    """By the file system gid of the process that made the socket, at that moment (nft_meta.c: f_cred->fsgid)."""
    return Statement((_meta(_SKGID), _lookup(name, to_verdict=True)), f"meta skgid vmap @{name}")


def _socket(level: int) -> Expr:
    return Expr("socket", ((1, _n(3)), (2, _n(1)), (3, _n(level))))


def cgroup_verdict(level: int, name: str) -> Statement:
    exprs = (_socket(level), _lookup(name, to_verdict=True))
    return Statement(exprs, f"socket cgroupv2 level {level} vmap @{name}")


def cgroup_exists(level: int, nothing: str) -> Statement:
    """True for a socket whose cgroup has an ancestor (or itself) at `level`; `nothing` is an empty set."""
    exprs = (_socket(level), _lookup(nothing, invert=True))
    return Statement(exprs, f"socket cgroupv2 level {level} != @{nothing}")


def whole_socket() -> Statement:
    """A socket that a process holds. For half a handshake and for TIME_WAIT the kernel knows no cgroup (nft_socket.c:
    only a full socket has one); both break this too. Its value is a boolean, so every one is at most 1."""
    return Statement((Expr("socket", ((1, _n(2)), (2, _n(1)))), _cmp(b"\x01", AT_MOST)), "socket wildcard <= 1")


def any_socket() -> Statement:
    """A socket of any kind, half ones too: whether it is a transparent one is told for each (nft_socket.c)."""
    return Statement((Expr("socket", ((1, _n(0)), (2, _n(1)))), _cmp(b"\x01", AT_MOST)), "socket transparent <= 1")


def not_to_this_host() -> Statement:
    """Link-layer broadcast and multicast (PACKET_HOST is 0 in linux/if_packet.h)."""
    return Statement((_meta(_PKTTYPE), _cmp(b"\0", NOT_EQUAL)), "meta pkttype != host")


def limit(per_second: int, burst: int, *, over: bool = False) -> Statement:
    """Matches up to the rate; with `over`, only what exceeds it."""
    attrs: Attributes = (
        (1, struct.pack(">Q", per_second)),
        (2, struct.pack(">Q", 1)),
        (3, _n(burst)),
        (4, _n(0)),
        (5, _n(int(over))),
    )
    rate = f"{'over ' if over else ''}{per_second}/second"
    return Statement((Expr("limit", attrs),), f"limit rate {rate} burst {burst} packets")


def log(prefix: str, group: int, snaplen: int) -> Statement:
    """To NFLOG group `group`: `snaplen` bytes of the packet, handed over when the group's reader wants it."""
    attrs: Attributes = ((1, struct.pack(">H", group)), (2, _string(prefix)), (3, _n(snaplen)))
    return Statement((Expr("log", attrs),), f'log prefix "{prefix}" group {group} snaplen {snaplen}')


def counter() -> Statement:
    return Statement((Expr("counter", ((1, bytes(8)), (2, bytes(8)))),), "counter")


def counted_over(side: Side, name: str, per_second: int, burst: int, *, version: Version) -> Statement:
    """Counts the packet in the element conntrack mark . remote address . protocol . destination port of a dynamic set,
    and matches when the element's own rate is exceeded. A packet without conntrack entry or ports, or one that a full
    set has no room for, does not match."""
    length, second, third, fourth = (4, 9, 10, 11) if version == 4 else (16, 9, 13, 14)
    port = _payload(_TRANSPORT_HEADER, 2, 2, fourth)
    key = (_ct(_CT_MARK), _address(side, length, second), _meta(_L4PROTO, third), port)
    each = (counter(), limit(per_second, burst, over=True))
    listed: Attributes = tuple((1, ((1, _string(e.name)), (2, e.attrs))) for s in each for e in s.exprs)
    attrs: Attributes = ((1, _string(name)), (3, _n(1)), (4, _n(1)), (6, bytes(8)), (9, _n(0)), (10, listed))
    text = f"ct mark . {'ip' if version == 4 else 'ip6'} {side} . meta l4proto . th dport"
    return Statement(
        (*_family(length), *key, Expr("dynset", attrs)),
        f"update @{name} {{ {text} {' '.join(s.text for s in each)} }}",
    )


def reject_reset() -> Statement:
    """A TCP reset. The rule must have compared the protocol already."""
    return Statement((Expr("reject", ((1, _n(1)),)),), "reject with tcp reset")


def reject_prohibited() -> Statement:
    """ICMP or ICMPv6 "administratively prohibited", by the packet's family."""
    return Statement((Expr("reject", ((1, _n(2)), (2, b"\x03"))),), "reject with icmpx type admin-prohibited")
