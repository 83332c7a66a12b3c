"""The map: from what both ends told, one edge from source to destination for each service, with what the policy says of
it and what the network did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple

from segctl.model.policy import Tags

from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.judging import EndSaid, FlowSaid, Judge, Said
from segctl_controller.flowstore.outside import block_of
from segctl_controller.flowstore.records import LARGEST_COUNT, MapRow

MOST_REASONS = 20
"""Of one edge."""


class Detail(Enum):
    """What ends are told by, beside their tags."""

    GROUP = ""
    NETWORK = "network"
    HOST = "host"
    WORKLOAD = "workload"
    PROCESS = "process"

    @property
    def shown(self) -> int:
        """How many of host, workload and process are told."""
        return {Detail.HOST: 1, Detail.WORKLOAD: 2, Detail.PROCESS: 3}.get(self, 0)

    @property
    def blocks(self) -> bool:
        return self is not Detail.GROUP


class Node(NamedTuple):
    """An end. `tags` None: addresses that no host held, of `peer` where the policy names them."""

    tags: Tags | None
    peer: str = ""
    network: str = ""
    host: str = ""
    workload: str = ""
    process: str = ""


class Reason(NamedTuple):
    """Why one end, the destination's with `ingress`, lets flows pass or does not. `name`: of the rule, boundary or
    essential."""

    ingress: bool
    said: Said
    reason: str
    name: str
    flows: int


Counts = tuple[int, int, int, int]
"""By `Said`."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Flows that an end accepted, by what the policy says of them, and connections that were denied, which are not in
    `flows`. `passed` and `refused` are those that the network let pass, and did not, while this policy was in force."""

    source: Node
    destination: Node
    protocol: int
    port: int
    flows: int
    would_deny: int
    observed: int
    octets: int
    last_us: int
    verdicts: Counts
    passed: Counts
    refused: Counts
    denied: int
    verdict: Said
    reasons: tuple[Reason, ...]

    @property
    def comparison(self) -> Counts:
        """Permitted, rejected, escaped, misdropped."""
        denies = Said.DENIED
        return sum(self.passed[:denies]), self.refused[denies], self.passed[denies], sum(self.refused[:denies])


Place = tuple[int, int, int, int]
"""The numbers of source and destination, protocol and port."""


FRESH, DENIED, REFUSED = 4, 8, 12
"""Where the counts by `Said` begin, behind those of all flows."""


@dataclass(slots=True)
class _Told:
    """What one end told of an edge."""

    flows: int = 0
    would_deny: int = 0
    observed: int = 0
    octets: int = 0
    last_us: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * 16)
    reasons: dict[EndSaid, int] = field(default_factory=dict)

    def add(self, row: MapRow, found: FlowSaid) -> None:
        self.flows += row.flows
        self.would_deny += row.would_deny
        self.observed += row.observed
        self.octets += row.octets
        self.counts[found.said] += row.flows
        self.counts[FRESH + found.said] += row.fresh
        self._explain(row, found)

    def add_denied(self, row: MapRow, found: FlowSaid) -> None:
        self.counts[DENIED + found.said] += row.flows
        self.counts[REFUSED + found.said] += row.fresh
        self._explain(row, found)

    def _explain(self, row: MapRow, found: FlowSaid) -> None:
        self.last_us = max(self.last_us, row.last_us)
        for end in found.ends:
            self.reasons[end] = self.reasons.get(end, 0) + row.flows

    @property
    def denied(self) -> int:
        return sum(self.counts[DENIED:REFUSED])


_NOTHING: Final = _Told()
Both = tuple[dict[Place, _Told], dict[Place, _Told]]
"""What sources told, and what destinations did."""


class Mapper:
    """`name_peer` gives the peer of an address of 16 bytes; tags with other keys than `by` (None: all) do not count."""

    def __init__(
        self, judge: Judge, name_peer: Callable[[bytes], str], by: frozenset[str] | None, detail: Detail
    ) -> None:
        self._judge = judge
        self._name_peer = name_peer
        self._by = by
        self._detail = detail
        self._nodes: dict[Node, int] = {}
        self._managed: dict[tuple[str, ...], int] = {}
        self._outside: dict[tuple[bytes, bytes], int] = {}

    def edges(self, rows: Sequence[MapRow], denied: Sequence[MapRow], limit: int) -> tuple[list[Edge], int]:
        """Those with most flows first, at most `limit`, and how many there are. `denied` are connections that were, in
        the form of flows."""
        told: Both = ({}, {})
        if self._detail.shown > 1:
            rows, denied = _with_far_ends(rows, denied)
        for row in rows:
            self._of(told[row.ingress], row).add(row, self._judge.flow(row))
        for row in denied:
            self._of(told[row.ingress], row).add_denied(row, self._judge.flow(row))
        egress, ingress = told
        ends = {p: (egress.get(p, _NOTHING), ingress.get(p, _NOTHING)) for p in {**egress, **ingress}}
        nodes = list(self._nodes)
        words = [_words(node) for node in nodes]

        def order(place: Place) -> tuple[object, ...]:
            source, destination, *service = place
            one, other = ends[place]
            most = -max(one.flows, other.flows), -one.denied - other.denied
            return *most, words[source], words[destination], service

        shown = sorted(ends, key=order)[:limit]
        return [_edge(nodes[place[0]], nodes[place[1]], *place[2:], *ends[place]) for place in shown], len(ends)

    def _of(self, told: dict[Place, _Told], row: MapRow) -> _Told:
        near = self._host(row.tags, row.host, row.workload, row.process)
        if row.peer_tags is None:
            far = self._address(row.remote, row.block)
        else:
            far = self._host(row.peer_tags, row.peer, row.peer_workload, row.peer_process)
        place = (far, near, row.protocol, row.port) if row.ingress else (near, far, row.protocol, row.port)
        found = told.get(place)
        if found is None:
            found = told[place] = _Told()
        return found

    def _host(self, tags: str, host: str, workload: str, process: str) -> int:
        shown = self._detail.shown
        key = (tags, *(name if at < shown else "" for at, name in enumerate((host, workload, process))))
        known = self._managed.get(key)
        if known is None:
            pairs = tuple(p for p in parse_tags(tags).pairs if self._by is None or p[0] in self._by)
            known = self._managed[key] = self._number(Node(Tags(pairs), "", "", *key[1:]))
        return known

    def _address(self, remote: bytes, block: bytes) -> int:
        known = self._outside.get((remote, block))
        if known is None:
            network = str(block_of(block)) if self._detail.blocks and block else ""
            known = self._outside[remote, block] = self._number(Node(None, self._name_peer(remote), network))
        return known

    def _number(self, node: Node) -> int:
        return self._nodes.setdefault(node, len(self._nodes))


def _with_far_ends(rows: Sequence[MapRow], denied: Sequence[MapRow]) -> tuple[list[MapRow], list[MapRow]]:
    """Where hosts are told apart, the workload and the process at the other end are those that the other end told of,
    if it told of just one. What the called end tells without knowing who called is left out where the caller told."""
    known: dict[tuple[str, str, bool, int, int], set[tuple[str, str]]] = {}
    for row in (*rows, *denied):
        if row.peer:
            known.setdefault(_pair(row), set()).add((row.workload, row.process))
    called = {_pair(row) for row in rows if row.peer and not row.ingress}

    def filled(row: MapRow) -> MapRow:
        workloads, processes = ({one[at] for one in known.get(_other(row), ())} for at in (0, 1))
        return replace(
            row,
            peer_workload=_only(workloads) or row.peer_workload,
            peer_process=_only(processes) or row.peer_process,
        )

    said = [row for row in rows if not (row.ingress and _other(row) in called and len(known[_other(row)]) > 1)]
    return [filled(row) for row in said], [filled(row) for row in denied]


def _pair(row: MapRow) -> tuple[str, str, bool, int, int]:
    return row.host, row.peer, row.ingress, row.protocol, row.port


def _other(row: MapRow) -> tuple[str, str, bool, int, int]:
    """What the other end's rows about the same connections have in common."""
    return row.peer, row.host, not row.ingress, row.protocol, row.port


def _only(names: set[str]) -> str:
    return next(iter(names)) if len(names) == 1 else ""


def _edge(source: Node, destination: Node, protocol: int, port: int, egress: _Told, ingress: _Told) -> Edge:
    """Where both ends told of the same connections, the end that saw more saw all of them. So of what is at least so
    strict, too: a workload that one end could not know was taken for the mildest."""
    flows, would_deny, observed, octets, last_us = (max(getattr(t, name) for t in (egress, ingress)) for name in _MOST)
    one, other = egress.counts, ingress.counts
    verdicts, denied = _fuller(one[:FRESH], other[:FRESH]), _sum(one[DENIED:REFUSED], other[DENIED:REFUSED])
    # The source let pass what the destination refused: what arrived is what the destination accepted.
    arrived = other if ingress.denied else one
    passed = _fuller(arrived[FRESH:DENIED], other[FRESH:DENIED])
    occurs = [said for said in Said if verdicts[said] or denied[said]]
    return Edge(
        source,
        destination,
        protocol,
        port,
        flows=flows,
        would_deny=would_deny,
        observed=observed,
        octets=octets,
        last_us=last_us,
        verdicts=verdicts,
        passed=passed,
        refused=_sum(one[REFUSED:], other[REFUSED:]),
        denied=min(sum(denied), LARGEST_COUNT),
        verdict=max(occurs, default=_of_what_lives(egress, ingress)),
        reasons=tuple(_reasons(egress, ingress)),
    )


_MOST = ("flows", "would_deny", "observed", "octets", "last_us")


def _fuller(one: Sequence[int], other: Sequence[int]) -> Counts:
    """Of both ends the larger number of flows that are at least so strict, and what of it is just so strict."""
    denied = max(one[3], other[3])
    would_deny = max(one[2] + one[3], other[2] + other[3])
    not_covered = max(sum(one[1:]), sum(other[1:]))
    every = max(sum(one), sum(other))
    return _counts(every - not_covered, not_covered - would_deny, would_deny - denied, denied)


def _sum(one: Sequence[int], other: Sequence[int]) -> Counts:
    return _counts(*(a + b for a, b in zip(one, other, strict=True)))


def _counts(allowed: int, not_covered: int, would_deny: int, denied: int) -> Counts:
    most = LARGEST_COUNT
    return min(allowed, most), min(not_covered, most), min(would_deny, most), min(denied, most)


def _of_what_lives(egress: _Told, ingress: _Told) -> Said:
    """Of flows that live on and did not begin in the time asked for."""
    return max((end.said for told in (egress, ingress) for end in told.reasons), default=Said.ALLOWED)


def _reasons(source: _Told, destination: _Told) -> Iterator[Reason]:
    """The strictest first. Of each end what it told itself, where it told anything: the other one may not know its
    process."""
    found = []
    for ingress, own, other in ((False, source, destination), (True, destination, source)):
        known = any(end.ingress is ingress for end in own.reasons)
        found += [
            Reason(ingress, end.said, end.decision.reason, end.decision.name, min(flows, LARGEST_COUNT))
            for end, flows in (own if known else other).reasons.items()
            if end.ingress is ingress
        ]
    yield from sorted(found, key=lambda r: (-r.said, -r.flows, r.ingress, r.reason, r.name))[:MOST_REASONS]


def _words(node: Node) -> tuple[str, ...]:
    return (str(node.tags) if node.tags is not None else "\x7f", *node[1:])
