"""Messages about phases to views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segctl.cli import views_life as vl
from segctl.cli.convert import address, moment, port
from segctl.wire import findings_from_wire

if TYPE_CHECKING:
    from segctl.proto.v1 import admin_pb2 as pb


def ready_list(m: pb.ReadinessReply) -> vl.ReadyList:
    return vl.ReadyList(tuple(map(readiness, m.selectors)), m.generation, m.more, m.lost)


def readiness(m: pb.Readiness) -> vl.Readiness:
    return vl.Readiness(
        select=vl.Selection(dict(sorted(m.select.tags.items())), m.select.workload),
        phase=m.phase,
        next=m.next,
        ready=m.ready,
        since=moment(m.since_us),
        since_known=m.since_known,
        hosts=m.hosts,
        days=m.days,
        flows=m.flows,
        covered=m.covered,
        bounded=m.bounded,
        unexplained=m.unexplained,
        unexplained_kinds=m.unexplained_kinds,
        coming=m.coming,
        top=tuple(map(_seen, m.top)),
        periodic=tuple(
            vl.PeriodicFlow(_seen(p.flow), p.every_days, moment(p.expected_us), p.explained) for p in m.periodic
        ),
        periodic_kinds=m.periodic_kinds,
        tests=m.tests,
        broken_tests=findings_from_wire(m.broken_tests),
        obstacles=tuple(vl.Obstacle(o.code, o.message, o.hint) for o in m.obstacles),
    )


def _seen(m: pb.SeenFlow) -> vl.SeenFlow:
    return vl.SeenFlow(
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
        process=m.process,
    )
