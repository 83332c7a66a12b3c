"""Messages of the controller to views. The only module that knows both."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

from segctl.auditchain import Link
from segctl.cli import views as v
from segctl.cli import views_access as va
from segctl.cli import views_life as vl
from segctl.wire import findings_from_wire

if TYPE_CHECKING:
    from segctl.proto.v1 import admin_pb2 as pb
    from segctl.proto.v1 import agent_pb2, hostpolicy_pb2


def moment(microseconds: int) -> datetime | None:
    """Unix time in microseconds; 0 and what no calendar holds are None."""
    if microseconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def generation(m: pb.Generation) -> v.Generation:
    files = tuple(v.File(f.name, f.content.decode("utf-8", "replace")) for f in m.source.files)
    created, rollback_of = moment(m.created_us), m.rollback_of or None
    return v.Generation(m.number, m.digest, m.author, m.message, created, m.active, rollback_of, files, m.state, m.why)


def plan(m: pb.PlanReply) -> v.Plan:
    return v.Plan(
        base_generation=m.base_generation,
        digest=m.digest,
        changes=tuple(
            v.Change(c.allowed, c.source, c.destination, c.service, c.rule, tuple(c.hosts)) for c in m.changes
        ),
        modes=tuple(v.ModeChange(c.host, c.workload, c.before, c.after) for c in m.modes),
        hosts=tuple(m.hosts),
        tests=m.tests,
        findings=findings_from_wire(m.findings),
        cuts=tuple(map(cut, m.cuts)),
        cut_total=m.cut_total,
        unasked=tuple(m.unasked),
        behind=m.behind,
    )


def cut(m: pb.CutConnection) -> v.Cut:
    c = m.connection
    return v.Cut(
        host=m.host,
        workload=c.workload,
        direction="ingress" if c.ingress else "egress",
        process=process(c.process) if c.process.pid or c.process.exe else None,
        peer_address=address(c.remote),
        peer_host=m.peer_host,
        service=port(c.service),
        remote_port=c.remote_port,
        local_port=c.local_port,
        rule=c.rule,
    )


def phase(m: pb.PushPhase) -> v.Phase:
    return v.Phase(m.name, m.wave, m.waves, m.hosts, m.seconds)


def progress(m: pb.PushProgress) -> tuple[v.Generation | v.Proof | v.Phase | v.Done, ...]:
    """The steps that it tells; none for a kind that a newer controller may add."""
    if m.HasField("stored"):
        return (generation(m.stored),)
    if m.HasField("host"):
        return (_proof(m.host),)
    if m.HasField("hosts"):
        return tuple(map(_proof, m.hosts.proofs))
    if m.HasField("done"):
        d = m.done
        return (v.Done(d.proven, d.refused, d.offline, d.waiting, d.released, d.undone, d.why),)
    if m.HasField("phase"):
        return (phase(m.phase),)
    return ()


def _proof(h: pb.HostProof) -> v.Proof:
    return v.Proof(h.host, h.state, h.kernel_digest, h.after_us / 1000, tuple(h.errors), h.never_connected)


def host(m: pb.HostStatus) -> v.Host:
    return v.Host(
        name=m.name,
        tags=dict(sorted(m.tags.items())),
        addresses=tuple(m.addresses),
        connected=m.connected,
        last_seen=moment(m.last_seen_us),
        agent_version=m.agent_version,
        kernel=m.kernel,
        kernel_generation=m.kernel_generation,
        state=m.state,
        workloads=tuple(
            v.WorkloadStatus(w.name, w.mode, w.process, tuple(w.cgroups), w.identified, w.strength, w.why)
            for w in m.workloads
        ),
        listeners=tuple(
            v.Listener(x.protocol, address(x.address), x.port, x.workload, x.process, x.uid, x.cgroup)
            for x in m.listeners
        ),
        problems=tuple(m.problems),
        table_guard=m.table_guard,
        mark_mask=m.mark_mask,
        troubles=tuple(v.Trouble(t.text, t.next) for t in m.troubles) or tuple(v.Trouble(p) for p in m.problems),
    )


def status(m: pb.StatusReply) -> v.Status:
    active = generation(m.active) if m.HasField("active") and m.active.number else None
    t = m.trial
    trial = v.Trial(generation(t.generation), phase(t.phase), t.proven) if m.HasField("trial") else None
    hosts, events = tuple(host(h) for h in m.hosts), tuple(event(e) for e in m.events)
    ca = _ca(m.ca) if m.HasField("ca") else None
    return v.Status(m.fleet, m.controller_version, active, hosts, events, trial, ca)


def _ca(m: pb.CaStatus) -> v.CaStatus:
    cas = tuple(v.Ca(one.name, moment(one.until_us), one.signs, one.hosts) for one in m.cas)
    return v.CaStatus(m.stage, cas, moment(m.controller_until_us))


def event(m: pb.RecentEvent) -> v.Event:
    e = m.event
    return v.Event(m.host, e.kind, e.message, moment(e.at_us), e.culprit_pid or None, e.culprit_name)


def explanation(m: pb.ExplainReply, request: pb.ExplainRequest) -> v.Explanation:
    return v.Explanation(
        source=request.source,
        destination=request.destination,
        service=request.service,
        verdict=m.verdict,
        generation=m.generation,
        differs=m.differs,
        live=request.live,
        ends=tuple(
            v.End(
                e.host,
                e.workload,
                e.direction,
                e.verdict,
                e.mode,
                e.reason,
                e.rule,
                e.position,
                e.kernel_verdict,
                e.kernel_detail,
            )
            for e in m.ends
        ),
        nearest_rule=m.nearest_rule,
        nearest_why=m.nearest_why,
        suggestion=m.suggestion,
        notes=tuple(m.notes),
    )


def denial(m: pb.DeniedConnection) -> v.Denial:
    d = m.denial
    return v.Denial(
        id=m.id,
        host=m.host,
        workload=d.workload,
        tags=dict(sorted(m.tags.items())),
        direction="ingress" if d.ingress else "egress",
        verdict=d.verdict,
        process=process(d.process) if d.HasField("process") and not d.process_unknown else None,
        process_unknown=d.process_unknown,
        peer_address=address(d.remote),
        peer_host=m.peer_host,
        peer_workload=m.peer_workload,
        peer_tags=dict(sorted(m.peer_tags.items())),
        service=port(d.service),
        service_name=m.service_name,
        reason=m.reason,
        rule=m.rule,
        suggestion=m.suggestion,
        count=d.count,
        first_seen=moment(d.first_seen_us),
        last_seen=moment(d.last_seen_us),
        generation=d.generation,
    )


def flow(m: pb.FlowRecord) -> v.Flow:
    return v.Flow(
        host=m.host,
        workload=m.workload,
        direction="ingress" if m.ingress else "egress",
        peer_address=address(m.remote),
        peer_host=m.peer_host,
        peer_workload=m.peer_workload,
        service=port(m.service),
        service_name=m.service_name,
        rule=m.rule,
        verdict=m.verdict,
        flows=m.flows,
        bytes_sent=m.bytes_sent,
        bytes_received=m.bytes_received,
        first_seen=moment(m.first_seen_us),
        last_seen=moment(m.last_seen_us),
        process=m.process,
        peer_process=m.peer_process,
    )


def talker(m: pb.Talker) -> v.Talker:
    return v.Talker(m.host, m.workload, m.flows, m.bytes_sent, m.bytes_received, moment(m.last_seen_us))


def rule_life(m: pb.RuleLife) -> vl.RuleUse:
    u = m.use
    return vl.RuleUse(
        rule=u.rule,
        hits=u.count,
        last_hit=moment(u.last_hit_us),
        hosts=u.hosts,
        in_policy=u.in_policy,
        since=moment(m.since_us),
        since_known=m.since_known,
        owner=m.owner,
        why=m.why,
        review=m.review,
        expires=m.expires,
        findings=tuple(vl.RuleFinding(f.kind, f.why, f.mend, f.narrower) for f in m.findings),
    )


def process(m: agent_pb2.ProcessInfo) -> v.Process:
    return v.Process(m.pid, m.exe, m.command, m.user, m.unit, m.cgroup)


def token(m: pb.Token) -> va.Token:
    tags = dict(sorted(m.tags.items()))
    return va.Token(m.id, tags, m.host, tuple(m.networks), m.uses_left, moment(m.expires_us), m.created_by)


def audit_entry(m: pb.AuditEntry) -> va.AuditEntry:
    return va.AuditEntry(
        sequence=m.sequence,
        at=moment(m.at_us),
        actor=m.actor,
        action=m.action,
        subject=m.subject,
        detail=m.detail,
        identity=m.identity,
        peer=m.peer,
        previous=m.previous,
        hash=m.hash,
    )


def audit_link(m: pb.AuditEntry) -> Link:
    """The entry as it is hashed."""
    return Link(m.sequence, m.at_us, m.actor, m.action, m.subject, m.detail, m.identity, m.peer, m.previous, m.hash)


def api_token(m: pb.ApiToken) -> va.ApiToken:
    return va.ApiToken(
        id=m.id,
        name=m.name,
        role=m.role,
        scope=dict(sorted(m.scope.items())),
        created_by=m.created_by,
        created=moment(m.created_us),
        expires=moment(m.expires_us),
        last_used=moment(m.last_used_us),
    )


def address(packed: bytes) -> str:
    """Text of 4 or 16 bytes; anything else is shown as it is, in hexadecimal."""
    return str(ip_address(packed)) if len(packed) in (4, 16) else packed.hex()


def port(m: hostpolicy_pb2.PortRange) -> str:
    """`tcp/5432`, `tcp/8000-8100`; icmp as `icmp/8`, its message type."""
    return f"{m.protocol}/{m.low}" if m.low == m.high else f"{m.protocol}/{m.low}-{m.high}"
