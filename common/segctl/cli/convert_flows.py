"""From messages to views: the map, and what a draft would make of flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segctl.cli.convert import address, moment, port
from segctl.cli.views_impact import BlockedFlow, FlowImpact, ImpactSpan
from segctl.cli.views_map import FlowMap, MapComparison, MapEdge, MapEnd, MapReason, MapVerdicts

if TYPE_CHECKING:
    from segctl.proto.v1 import admin_pb2 as pb


def flow_map(m: pb.FlowMapReply) -> FlowMap:
    return FlowMap(
        edges=tuple(map(_edge, m.edges)),
        more=m.more,
        lost=m.lost,
        generation=m.generation,
        compared_since=moment(m.compared_since_us),
        more_denied=m.more_denied,
    )


def _edge(m: pb.MapEdge) -> MapEdge:
    verdicts, comparison = m.verdicts, m.comparison
    return MapEdge(
        source=_end(m.source),
        destination=_end(m.destination),
        service=port(m.service),
        service_name=m.service_name,
        flows=m.flows,
        would_deny=m.would_deny,
        observed=m.observed,
        bytes=m.bytes,
        last_seen=moment(m.last_seen_us),
        verdict=m.verdict,
        verdicts=MapVerdicts(verdicts.allowed, verdicts.not_covered, verdicts.would_deny, verdicts.denied),
        comparison=MapComparison(comparison.permitted, comparison.rejected, comparison.escaped, comparison.misdropped)
        if m.HasField("comparison")
        else None,
        reasons=tuple(
            MapReason("destination" if r.ingress else "source", r.verdict, r.reason, r.rule, r.flows, r.owner)
            for r in m.reasons
        ),
        denied=m.denied,
    )


def _end(m: pb.TagGroup) -> MapEnd:
    tags = None if m.outside else dict(sorted(m.tags.items()))
    return MapEnd(tags, m.peer, m.network, m.host, m.workload, m.process)


def flow_impact(m: pb.DraftImpactFlowsReply) -> FlowImpact:
    return FlowImpact(
        blocked=tuple(map(_changed, m.blocked)),
        blocked_kinds=m.blocked_kinds,
        blocked_flows=m.blocked_flows,
        judged_flows=m.judged_flows,
        more=m.more,
        allowed=tuple(map(_changed, m.allowed)),
        allowed_kinds=m.allowed_kinds,
        allowed_flows=m.allowed_flows,
        newly_blocked_flows=m.newly_blocked_flows,
        spans=tuple(
            ImpactSpan(moment(s.since_us), moment(s.until_us), s.judged_flows, s.blocked_flows, s.allowed_flows)
            for s in m.spans
        ),
        since=moment(m.since_us),
        until=moment(m.until_us),
    )


def _changed(m: pb.BlockedFlow) -> BlockedFlow:
    return BlockedFlow(
        host=m.host,
        workload=m.workload,
        direction="ingress" if m.ingress else "egress",
        tags=dict(sorted(m.tags.items())),
        peer_host=m.peer_host,
        peer_tags=dict(sorted(m.peer_tags.items())),
        peer_address=address(m.remote) if m.remote else "",
        service=port(m.service),
        service_name=m.service_name,
        flows=m.flows,
        last_seen=moment(m.last_seen_us),
        reason=m.reason,
        rule=m.rule,
        was=m.was,
        was_rule=m.was_rule,
        owner=m.owner,
        processes=tuple(m.processes),
        denied=m.denied,
    )
