"""Decoders of what the kernel sends: netlink of nf_tables, NFLOG, sock_diag and rtnetlink, packets, inotify."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from segctl.errors import KernelError
from segctl_agent.decisions import chain_name, noted
from segctl_agent.denials import counts, nflog, prefix
from segctl_agent.denials.counts import Version
from segctl_agent.denials.packet import parse_packet
from segctl_agent.facts import addresses, sockdiag
from segctl_agent.inotify import parse_events
from segctl_agent.nft import netlink, watch
from segctl_agent.nft import statements as s
from segctl_agent.nft.attributes import attribute, attributes, error_code, nested, number, string, text, u32, u64
from segctl_agent.nft.dump import parse_chain, parse_counter, parse_elements, parse_rule, parse_set, rule_packets
from segctl_agent.nft.messages import NEWGEN, NEWRULE, encode
from segctl_agent.nft.operations import AddChain, AddElements, AddRule, AddSet, Batch
from segctl_agent.nft.ruleset import ACCEPT, INPUT, Counts, KeyType, Rule, SetSpec, counted, goto, jumps, lookups

from tests.fuzz.target import Target

_TABLE = "segctl"
_RULE = Rule.of(
    s.ct_state("established", "related"),
    s.ct_mark_is(0xFFF00000, 0x200000),
    s.flow_in("saddr", "w_db_in4", version=4),
    s.limit(1000, 2000),
    s.log("segctl 1 in deny db", 1510, 96),
    s.counter(),
    s.cgroup_verdict(2, "cg2_in"),
    s.verdict(goto("end_db_in")),
)
_HASH = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE), size=4096)
_VERDICTS = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
_NETWORKS = SetSpec((KeyType.IPV4_ADDR,), interval=True)
_WIDE = SetSpec((KeyType.IPV6_ADDR,), interval=True)
_COUNTS = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE), counts=True)
_SPECS = (_HASH, _VERDICTS, _NETWORKS, _WIDE, _COUNTS)
_ELEMENTS = (
    {bytes([10, 0, 0, n, 6, 0, 0, 0, 0, 80, 0, 0]): None for n in range(4)},
    {struct.pack("=Q", n): goto("w_db_in") if n else ACCEPT for n in range(3)},
    {bytes([10, n, 0, 0, 10, n, 0, 255]): None for n in range(3)} | {b"\xff" * 8: None},
    {bytes(16) + b"\xff" * 16: None},
    {bytes([10, 0, 0, n, 6, 0, 0, 0, 0, 80, 0, 0]): Counts(f"r_in_{n}") for n in range(3)},
)


def _payloads(*operations: AddChain | AddElements | AddRule | AddSet) -> tuple[bytes, ...]:
    """The kernel dumps objects with the attributes by which they are made, and some more."""
    return tuple(m.payload for m in encode(Batch(operations), _TABLE))


def _rule(data: bytes) -> None:
    _, rule = parse_rule(data)
    hash(rule)
    list(lookups(rule))
    list(jumps(rule))
    list(counted(rule))
    rule_packets(data)


def _chain(data: bytes) -> None:
    found = parse_chain(data, _TABLE)
    if found is not None:
        assert text(string(3, found[0])[4:]) == found[0], "a name that cannot be written back cannot be removed"


def _set(data: bytes) -> None:
    found = parse_set(data)
    if found is not None and found[1] is not None:
        assert found[1].key_length > 0


def _elements(data: bytes) -> None:
    """The first byte chooses the type of the set."""
    spec = _SPECS[data[0] % len(_SPECS)] if data else _HASH
    width = spec.key_length * (2 if spec.interval else 1)
    for key, value in parse_elements([data[1:]], spec).items():
        assert len(key) in (0, width)
        hash(value)


def _counter(data: bytes) -> None:
    found = parse_counter(data)
    assert found is None or found[1] >= 0


def _denial_counts(data: bytes) -> None:
    """Elements that rules added: the first byte chooses the version of IP."""
    version: Version = 4 if data[:1] < b"\x80" else 6
    for element in counts.parse_elements([data[1:]], version):
        counts.parse_key(element.key, version)
        assert element.packets >= 0


def _notes(data: bytes) -> None:
    """Names of chains, one a line: what they note is written again as the same names."""
    names = [text(line) for line in data.split(b"\n")]
    found = noted(names, 4095)
    if found is not None:
        assert {chain_name(d, n) for d, n in found.ids.items()} <= set(names)


def _attributes(data: bytes) -> None:
    found = list(attributes(data))
    assert sum(len(v) for _, v in found) <= len(data)
    again = b"".join(attribute(k, v) for k, v in found)
    assert list(attributes(again)) == found
    for _, value in found:
        number(value)
        if len(value) < 0xFF00:  # with the NUL it must fit an attribute again
            assert string(1, text(value))[4:].rstrip(b"\0") == value.rstrip(b"\0")


def _frames(data: bytes) -> None:
    """Answers and acknowledgements."""
    for _, flags, _, payload in netlink._messages(data):
        os.strerror(error_code(payload))
        netlink._explanation(flags, payload)


def _notices(data: bytes) -> None:
    for _, payload in watch._events(data):
        found = dict(attributes(payload))
        number(found.get(2, b""))
        text(found.get(3, b""))


def _nflog(data: bytes) -> None:
    sequence, packet = nflog.parse_message(data, 0, len(data), 1)
    assert sequence is None or 0 <= sequence < 1 << 32
    if packet is not None:
        assert len(packet.payload) <= len(data)
        parse_packet(packet.payload)


def _packet(data: bytes) -> None:
    found = parse_packet(data)
    if found is not None:
        assert found.source.version == found.destination.version
        assert 0 <= found.source_port <= 65535
        assert 0 <= found.destination_port <= 65535


def _prefix(data: bytes) -> None:
    found = prefix.decode(data.decode("latin-1"))
    if found is not None:
        assert prefix.encode(found.direction, found.verdict, found.workload).encode() == data


def _sockdiag(data: bytes) -> None:
    for kind, _, payload in sockdiag._messages(data):
        if kind == 2:
            with suppress(OSError):
                sockdiag._raise(payload)
        else:
            found = sockdiag.parse_message("tcp", payload)
            assert 0 <= found.port <= 65535


def _inotify(data: bytes) -> None:
    for event in parse_events(data):
        assert "\0" not in event.name


def _addresses(data: bytes) -> None:
    addresses.parse_told(data)


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: int
    body: bytes
    flags: int = 0

    def __bytes__(self) -> bytes:
        return struct.pack("=IHHII", 16 + len(self.body), self.kind, self.flags, 7, 0) + self.body


_NFGEN = bytes(4)
_LOGGED = b"".join(
    (
        attribute(1, bytes(4)),
        attribute(10, b"segctl 1 in deny shop-db\0"),
        attribute(3, struct.pack(">QQ", 1_800_000_000, 5)),
        u32(4, 2),
        u32(11, 33),
        u32(12, 9),
        attribute(9, b"\x45" + bytes(8) + b"\x06\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack(">HH", 9, 80)),
    )
)
_COUNTER = nested(4, u64(1, 60), u64(2, 7))
_DENIED = {
    first: nested(
        1,
        nested(1, attribute(1, struct.pack("=I", 0x500) + address + b"\6\0\0\0" + b"\0\x50\0\0")),
        nested(11, nested(1, string(1, "counter"), nested(2, u64(1, 60), u64(2, 7)))),
        u64(5, 5000),
    )
    for first, address in ((b"\0", bytes([10, 0, 0, 1])), (b"\xff", bytes(15) + b"\1"))
}
_V6 = b"\x60\0\0\0\0\x20\0\x40" + bytes(32) + b"\x2c\0\0\0\0\0\0\0" + b"\x06\0\0\1\0\0\0\0" + struct.pack(">HH", 9, 80)
_SOCKET = bytes([2, 10, 0, 0]) + struct.pack(">HH", 443, 0) + bytes(64) + attribute(21, struct.pack("=Q", 77))


def _target(name: str, run: Callable[[bytes], None], *samples: bytes, errors: bool = False) -> Target:
    return Target(name, run, samples, (KernelError,) if errors else ())


TARGETS = (
    _target("nft-counter", _counter, string(1, _TABLE) + string(2, "r_in_a") + u32(3, 1) + _COUNTER, errors=True),
    _target("denial-counts", _denial_counts, *(v + nested(3, _DENIED[v], _DENIED[v]) for v in _DENIED)),
    _target("decision-notes", _notes, b"mark_in_4_0_host\nmark_out_2_refused_UNKNOWN\nmark_out_3_1800000000_a\ninput"),
    _target("attributes", _attributes, _LOGGED, nested(3, u64(1, 5), string(2, "name"))),
    _target("nft-rule", _rule, *_payloads(AddRule("w_db_in", _RULE)), errors=True),
    _target("nft-chain", _chain, *_payloads(AddChain("input", INPUT), AddChain("w_db_in")), errors=True),
    _target("nft-set", _set, *_payloads(*(AddSet("w_db_in4", spec) for spec in _SPECS)), errors=True),
    _target(
        "nft-elements",
        _elements,
        *(
            bytes([i]) + payload
            for i, (spec, held) in enumerate(zip(_SPECS, _ELEMENTS, strict=True))
            for payload in _payloads(AddElements("x", spec, held))
        ),
        errors=True,
    ),
    _target(
        "netlink-frames",
        _frames,
        bytes(_Frame(2, struct.pack("=i", -17) + bytes(16) + string(1, "it exists"), 0x200))
        + bytes(_Frame(3, bytes(4))),
        bytes(_Frame(0xA0F, _NFGEN + u32(1, 42))),
    ),
    _target(
        "nft-notices",
        _notices,
        bytes(_Frame(0xA00 | NEWRULE, _NFGEN + string(1, _TABLE) + string(2, "input")))
        + bytes(_Frame(0xA00 | NEWGEN, _NFGEN + u32(1, 42) + u32(2, 4711) + string(3, "nft"))),
    ),
    _target("nflog", _nflog, _LOGGED),
    _target("packet", _packet, b"\x45" + bytes(8) + b"\x11\0\0" + bytes(8) + struct.pack(">HHI", 53, 53, 8), _V6),
    _target("prefix", _prefix, b"segctl 1 in deny shop-db", b"segctl 1 out test ?"),
    _target("sockdiag", _sockdiag, bytes(_Frame(20, _SOCKET)) + bytes(_Frame(2, bytes(20))), errors=True),
    _target("inotify", _inotify, struct.pack("=iIII", 1, 0x100, 0, 16) + b"db.service".ljust(16, b"\0")),
    _target("addresses", _addresses, f"{ip_address('fd00::1')}\n10.0.0.1\n".encode(), errors=True),
)
