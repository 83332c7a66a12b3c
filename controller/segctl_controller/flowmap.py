"""The map: from what both ends told, one edge from source to destination for each service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segctl.model.policy import Policy, Tags
from segctl.proto.v1 import admin_pb2
from segctl.wire import port_range_to_wire

from segctl_controller.enrich import declared_service
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.records import MapRow
from segctl_controller.flowstore.wire import service_of

Group = Tags | None
"""None: addresses that no host held."""
Place = tuple[Group, Group, int, int]
"""Source, destination, protocol and port."""


@dataclass(slots=True)
class _Sum:
    flows: int = 0
    would_deny: int = 0
    observed: int = 0
    bytes: int = 0
    last_us: int = 0

    def add(self, row: MapRow) -> None:
        self.flows += row.flows
        self.would_deny += row.would_deny
        self.observed += row.observed
        self.bytes += row.bytes_sent + row.bytes_received
        self.last_us = max(self.last_us, row.last_us)


def edges_of(rows: Iterable[MapRow], policy: Policy) -> list[admin_pb2.MapEdge]:
    """Those with most flows first."""
    groups: dict[str | None, Group] = {None: None}
    sums: tuple[dict[Place, _Sum], dict[Place, _Sum]] = ({}, {})
    for row in rows:
        here, there = (_group(tags, groups) for tags in (row.tags, row.peer_tags))
        ends = (there, here) if row.ingress else (here, there)
        sums[row.ingress].setdefault((*ends, row.protocol, row.port), _Sum()).add(row)
    egress, ingress = sums
    told = {place: _fuller(egress.get(place), ingress.get(place)) for place in {**egress, **ingress}}
    names = {place[2:]: declared_service(policy, service_of(*place[2:])) for place in told}
    ordered = sorted(told.items(), key=lambda item: (-item[1].flows, *_order(item[0])))
    return [_edge(place, found, names[place[2:]]) for place, found in ordered]


def _group(tags: str | None, known: dict[str | None, Group]) -> Group:
    if tags not in known:
        known[tags] = parse_tags(tags or "")
    return known[tags]


def _fuller(one: _Sum | None, other: _Sum | None) -> _Sum:
    """Where both ends told of the same connections, the end that saw more saw all of them."""
    if one is None or other is None:
        return one or other or _Sum()
    return _Sum(
        max(one.flows, other.flows),
        max(one.would_deny, other.would_deny),
        max(one.observed, other.observed),
        max(one.bytes, other.bytes),
        max(one.last_us, other.last_us),
    )


def _order(place: Place) -> tuple[str, str, int, int]:
    source, destination, protocol, port = place
    return str(source), str(destination), protocol, port


def _edge(place: Place, found: _Sum, name: str) -> admin_pb2.MapEdge:
    source, destination, protocol, port = place
    return admin_pb2.MapEdge(
        source=_wire(source),
        destination=_wire(destination),
        service=port_range_to_wire(service_of(protocol, port)),
        service_name=name,
        flows=found.flows,
        would_deny=found.would_deny,
        observed=found.observed,
        bytes=found.bytes,
        last_seen_us=found.last_us,
    )


def _wire(group: Group) -> admin_pb2.TagGroup:
    return admin_pb2.TagGroup(outside=True) if group is None else admin_pb2.TagGroup(tags=dict(group.pairs))
