"""Sets of ports as sorted, disjoint, non-adjacent ranges by protocol."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable

from segctl.model.policy import PortRange

Ports = tuple[PortRange, ...]


def normalize(ports: Iterable[PortRange]) -> Ports:
    out: list[PortRange] = []
    for p in sorted(ports):
        last = out[-1] if out else None
        if last and last.protocol == p.protocol and p.low <= last.high + 1:
            out[-1] = PortRange(p.protocol, last.low, max(last.high, p.high))
        else:
            out.append(p)
    return tuple(out)


def intersect(a: Iterable[PortRange], b: Iterable[PortRange]) -> Ports:
    others = tuple(b)
    return normalize(
        PortRange(p.protocol, max(p.low, q.low), min(p.high, q.high)) for p in a for q in others if p.overlaps(q)
    )


def subtract(a: Iterable[PortRange], b: Iterable[PortRange]) -> Ports:
    rest = list(a)
    for hole in b:
        kept: list[PortRange] = []
        for p in rest:
            if not p.overlaps(hole):
                kept.append(p)
                continue
            if p.low < hole.low:
                kept.append(PortRange(p.protocol, p.low, hole.low - 1))
            if p.high > hole.high:
                kept.append(PortRange(p.protocol, hole.high + 1, p.high))
        rest = kept
    return normalize(rest)


class PortIndex:
    """Answers whether ports overlap a set, in the logarithm of its size."""

    def __init__(self, ports: Iterable[PortRange]) -> None:
        self._spans: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for span in normalize(ports):
            lows, highs = self._spans[span.protocol]
            lows.append(span.low)
            highs.append(span.high)

    def overlaps(self, port: PortRange) -> bool:
        lows, highs = self._spans.get(port.protocol, ([], []))
        at = bisect_right(lows, port.high) - 1
        return at >= 0 and highs[at] >= port.low
