"""What the kernel's dynamic sets counted, and what of it no log told. Pure.

Every denied packet with ports counts in an element: conntrack mark . remote address . protocol . port. The log rule
tells of the first packets of an element and then of one a second at most, so

    packets of a flow  =  packets whose log came  +  the surplus of its elements

An element lives for a minute after its last packet and its counter only grows, so what is new is the difference of two
dumps. A packet may be counted already while its log is still on the way: the logs are read a moment after the dump, and
what was missing then at two dumps in a row is surplus.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

from segctl_agent.denials.coalesce import Key
from segctl_agent.denials.values import Verdict
from segctl_agent.facts.values import Address
from segctl_agent.nft.attributes import attributes

KEEP_SECONDS: Final = 60
"""How long an element lives after its last packet: render.ends.DENIED_SECONDS."""
MAX_FLOWS: Final = 16_384
"""Flows with a surplus at a time. What is more than that, the chains' counters tell as lost."""
MAX_NAMES: Final = 8192
_PROTOCOLS = {6: "tcp", 17: "udp"}

Direction = Literal["in", "out"]
Version = Literal[4, 6]
KEY_BYTES: Mapping[Version, int] = {4: 16, 6: 28}

NameOf = Callable[[Direction, int], tuple[str, Verdict] | None]
"""A conntrack mark of a denied packet to (workload, verdict); None for a mark of no decision that is known."""


class Element(NamedTuple):
    """`key` as the kernel holds it. `expires_ms`: when the element goes, if no more packets come."""

    key: bytes
    packets: int
    expires_ms: int


Sets = Mapping[tuple[Direction, Version], list[Element]]
"""One dump of all sets. A set that does not exist has no elements."""


class Surplus(NamedTuple):
    """Packets of a flow that were counted and not logged, between two moments of Unix time in microseconds."""

    flow: Key
    packets: int
    first_us: int
    last_us: int


def countable(key: Key) -> bool:
    """Whether the sets count packets of this key: those that have ports."""
    return key.protocol in ("tcp", "udp") and key.port != 0


@dataclass(slots=True)
class _Missing:
    """Packets counted less packets logged, now and at the dump before. `logged`: a log came since that dump."""

    count: int = 0
    before: int = 0
    logged: bool = False
    first_us: int = 0
    last_us: int = 0


class Ledger:
    """Keeps counted and logged packets against each other, flow by flow. Memory: the keys of one dump (65,535 a set at
    most) and MAX_FLOWS flows."""

    def __init__(self, name_of: NameOf) -> None:
        self._name_of = name_of
        self._names: dict[tuple[Direction, int], tuple[str, Verdict]] = {}
        self._elements: dict[tuple[Direction, Version], dict[bytes, int]] | None = None
        self._absent: dict[tuple[Direction, Version], dict[bytes, int]] = {}
        self._missing: dict[Key, _Missing] = {}
        self._dumped_us = 0

    @property
    def pending(self) -> int:
        """Packets that were counted, and are neither logged nor told as surplus yet."""
        return sum(m.count for m in self._missing.values() if m.count > 0)

    def logged(self, key: Key) -> None:
        """One packet whose log came; of a flow that `countable` says."""
        flow = key.flow()
        missing = self._missing.get(flow)
        if missing is None:
            missing = self._missing[flow] = _Missing()  # as many as the coalescer has keys, until the next dump
        missing.count -= 1
        missing.logged = True

    def counted(self, sets: Sets, now_us: int) -> bool:
        """Take a dump in; tells whether it shows packets that the one before did not. The first one only shows where
        the counters stand."""
        first, fresh = self._elements is None, False
        elements: dict[tuple[Direction, Version], dict[bytes, int]] = {}
        for where, found in sets.items():
            before = {} if self._elements is None else self._elements.get(where, {})
            absent = self._absent.get(where, {})
            now: dict[bytes, int] = {}
            for key, packets, expires_ms in found:
                known = before.get(key)
                if known is None:
                    known = absent.get(key, 0)
                # A counter that fell belongs to an element that went and came again.
                new = packets - known if packets >= known else packets
                now[key] = packets
                if new and not first:
                    fresh = True
                    self._add(where, key, new, now_us - max(0, KEEP_SECONDS * 1000 - expires_ms) * 1000)
            elements[where] = now
            # The kernel may leave elements out of one dump while it resizes the set.
            self._absent[where] = {k: v for k, v in before.items() if k not in now}
        self._elements = elements
        self._dumped_us = now_us
        return fresh

    def due(self, *, final: bool = False) -> Iterator[Surplus]:
        """Once for each dump, with all logs read that came before it: what was missing at this one and the last.
        `final`: no other dump follows, so all that is missing."""
        for flow, missing in list(self._missing.items()):
            if missing.count < 0 and not missing.logged:
                missing.count = 0  # logged, but in no set: it was full
            missing.logged = False
            surplus = missing.count if final else min(missing.count, missing.before)
            missing.before = missing.count
            if surplus > 0:
                yield Surplus(flow, surplus, missing.first_us, missing.last_us)
            elif not missing.count and not missing.before:
                del self._missing[flow]

    def told(self, surplus: Surplus) -> None:
        """Someone has reported it: otherwise `due` brings it again."""
        missing = self._missing[surplus.flow]
        missing.count -= surplus.packets
        missing.before = missing.count
        missing.first_us = missing.last_us

    def _add(self, where: tuple[Direction, Version], key: bytes, packets: int, last_us: int) -> None:
        flow = self._flow(where, key)
        if flow is None:
            return
        missing = self._missing.get(flow)
        if missing is None:
            if len(self._missing) >= MAX_FLOWS:
                return
            missing = self._missing[flow] = _Missing()
        if missing.count <= 0:
            missing.first_us = min(self._dumped_us, last_us)
        missing.count += packets
        missing.last_us = max(missing.last_us, last_us)

    def _flow(self, where: tuple[Direction, Version], key: bytes) -> Key | None:
        direction, version = where
        mark, remote, protocol, port = parse_key(key, version)
        named = self._name_of(direction, mark)
        if named is None:
            named = self._names.get((direction, mark))  # a decision that has ended since
        elif len(self._names) < MAX_NAMES or (direction, mark) in self._names:
            self._names[direction, mark] = named
        if named is None or protocol not in _PROTOCOLS:
            return None
        workload, verdict = named
        return Key(direction == "in", verdict, workload, remote, _PROTOCOLS[protocol], port, None)


def parse_key(key: bytes, version: Version) -> tuple[int, Address, int, int]:
    """(mark, remote address, protocol number, destination port)."""
    if version == 4:
        mark, address, protocol, port = struct.unpack_from("=I4sB3x2s", key)
        return mark, IPv4Address(address), protocol, int.from_bytes(port, "big")
    mark, address, protocol, port = struct.unpack_from("=I16sB3x2s", key)
    return mark, IPv6Address(address), protocol, int.from_bytes(port, "big")


def parse_elements(messages: Iterable[bytes], version: Version) -> list[Element]:
    """The elements of NFT_MSG_NEWSETELEM messages of a dump; what has not the form of ours is left out."""
    width = KEY_BYTES[version]
    out: list[Element] = []
    for message in messages:
        for kind, listed in attributes(message):
            if kind == 3:
                out += _uniform(listed, width) or _each(listed, width)
    return out


def _uniform(listed: bytes, width: int) -> list[Element]:
    """Elements that are laid out as 6.18 does it, ten times faster than one by one: empty when one is not.

    Each is NFTA_LIST_ELEM { KEY { VALUE }, EXPRESSIONS { { "counter", { bytes, packets } }, { "limit", ... } },
    EXPIRATION }, so that everything but key, bytes, packets and expiration is the same in all of them.
    """
    stride = (struct.unpack_from("=H", listed)[0] + 3) & ~3 if len(listed) >= 4 else 0
    rest = stride - 12 - width - 28 - 8 - 4 - 8 - 8
    if rest < 0 or len(listed) % stride:
        return []
    first = _each(listed[:stride], width)
    layout = struct.Struct(f">12s{width}s28s8x4sQ{rest}sQ")
    out: list[Element] = []
    frames: set[tuple[bytes, bytes, bytes, bytes]] = set()
    for head, key, counter, inner, packets, tail, expires in layout.iter_unpack(listed):
        frames.add((head, counter, inner, tail))
        out.append(Element(key, packets, expires))
    # All are framed like the first, and the first says the same read attribute by attribute.
    return out if len(frames) == 1 and first == out[:1] else []


def _each(listed: bytes, width: int) -> list[Element]:
    out: list[Element] = []
    for _, element in attributes(listed):
        found = dict(attributes(element))
        key = next((v for k, v in attributes(found.get(1, b"")) if k == 1), b"")
        packets = _packets(found)
        if len(key) == width and packets is not None:
            out.append(Element(key, packets, int.from_bytes(found.get(5, b""), "big")))
    return out


def _packets(element: Mapping[int, bytes]) -> int | None:
    """Of NFTA_SET_ELEM_EXPRESSIONS (11) or, where there is but one, NFTA_SET_ELEM_EXPR (7)."""
    expressions = [e for _, e in attributes(element.get(11, b""))] or [element.get(7, b"")]
    for expression in expressions:
        found = dict(attributes(expression))
        if found.get(1, b"").rstrip(b"\0") == b"counter":
            return next((int.from_bytes(v, "big") for k, v in attributes(found.get(2, b"")) if k == 2), None)
    return None
