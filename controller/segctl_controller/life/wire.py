"""Readiness and rule findings as messages."""

from __future__ import annotations

from segctl.model.policy import Policy, Tags
from segctl.policy.life.readiness import Periodic, Readiness, SeenKind
from segctl.policy.life.rules import RuleFinding
from segctl.policy.life.season import DAY_US
from segctl.proto.v1 import admin_pb2
from segctl.wire import findings_to_wire, port_range_to_wire

from segctl_controller.enrich import declared_service


def readiness_view(one: Readiness, policy: Policy) -> admin_pb2.Readiness:
    return admin_pb2.Readiness(
        select=admin_pb2.Selection(tags=dict(one.select.tags.pairs), workload=one.select.workload or ""),
        phase=one.phase.value,
        next=one.next.value if one.next else "",
        ready=one.ready,
        since_us=one.since.since_us,
        since_known=one.since.known,
        hosts=one.hosts,
        days=one.days,
        flows=one.flows,
        covered=one.covered,
        bounded=one.bounded,
        unexplained=one.unexplained_flows,
        unexplained_kinds=one.unexplained_kinds,
        coming=one.coming,
        top=[_seen(kind, policy) for kind in one.unexplained],
        periodic=[_periodic(found, policy) for found in one.waiting],
        periodic_kinds=one.waiting_kinds,
        tests=len(policy.tests),
        broken_tests=findings_to_wire(one.broken),
        obstacles=[admin_pb2.Obstacle(code=o.code, message=o.message, hint=o.hint) for o in one.obstacles],
    )


def _seen(kind: SeenKind, policy: Policy) -> admin_pb2.SeenFlow:
    return admin_pb2.SeenFlow(
        host=kind.host,
        workload=kind.workload,
        ingress=kind.ingress,
        tags=dict(kind.tags.pairs),
        peer_host=kind.peer_host,
        peer_tags=dict(kind.peer.pairs) if isinstance(kind.peer, Tags) else {},
        remote=b"" if isinstance(kind.peer, Tags) else kind.peer.packed,
        service=port_range_to_wire(kind.service),
        service_name=declared_service(policy, kind.service),
        flows=kind.flows,
        last_seen_us=kind.last_us,
        process=kind.process,
    )


def _periodic(found: Periodic, policy: Policy) -> admin_pb2.PeriodicFlow:
    return admin_pb2.PeriodicFlow(
        flow=_seen(found.kind, policy),
        every_days=found.every,
        expected_us=found.expected * DAY_US,
        explained=found.kind.explained == "rule",
    )


def finding_view(one: RuleFinding) -> admin_pb2.RuleFinding:
    return admin_pb2.RuleFinding(kind=one.kind.value, why=one.why, mend=one.mend, narrower=one.narrower)
