"""Edges of the map as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from segctl.model.policy import Policy, Rule
from segctl.proto.v1 import admin_pb2
from segctl.wire import port_range_to_wire

from segctl_controller.enrich import declared_service
from segctl_controller.flowmap import Edge, Node, Reason
from segctl_controller.flowstore.wire import service_of


def edges_to_wire(edges: Iterable[Edge], policy: Policy, *, compared: bool) -> list[admin_pb2.MapEdge]:
    """`compared`: whether the network was compared with this policy at all."""
    names: dict[tuple[int, int], str] = {}
    rules = {rule.name: rule for rule in policy.rules}
    found = []
    for edge in edges:
        service = service_of(edge.protocol, edge.port)
        place = (edge.protocol, edge.port)
        if place not in names:
            names[place] = declared_service(policy, service)
        allowed, not_covered, would_deny, denied = edge.verdicts
        wire = admin_pb2.MapEdge(
            source=_group(edge.source),
            destination=_group(edge.destination),
            service=port_range_to_wire(service),
            service_name=names[place],
            flows=edge.flows,
            would_deny=edge.would_deny,
            observed=edge.observed,
            bytes=edge.octets,
            last_seen_us=edge.last_us,
            verdict=edge.verdict.words,
            verdicts=admin_pb2.MapVerdicts(
                allowed=allowed, not_covered=not_covered, would_deny=would_deny, denied=denied
            ),
            reasons=[_reason(reason, rules) for reason in edge.reasons],
            denied=edge.denied,
        )
        if compared:
            permitted, rejected, escaped, misdropped = edge.comparison
            wire.comparison.CopyFrom(
                admin_pb2.MapComparison(permitted=permitted, rejected=rejected, escaped=escaped, misdropped=misdropped)
            )
        found.append(wire)
    return found


def _group(node: Node) -> admin_pb2.TagGroup:
    if node.tags is None:
        return admin_pb2.TagGroup(outside=True, peer=node.peer, network=node.network)
    return admin_pb2.TagGroup(tags=dict(node.tags.pairs), host=node.host, workload=node.workload, process=node.process)


def _reason(reason: Reason, rules: Mapping[str, Rule]) -> admin_pb2.MapReason:
    permits = rules.get(reason.name) if reason.reason == "rule" else None
    return admin_pb2.MapReason(
        ingress=reason.ingress,
        verdict=reason.said.words,
        reason=reason.reason,
        rule=reason.name,
        flows=reason.flows,
        owner=permits.owner if permits else "",
    )
