"""A controller that answers from a script: the Admin service over real mutual TLS, with real messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from segctl.proto.v1 import admin_pb2 as pb
from segctl.proto.v1 import admin_pb2_grpc, agent_pb2, hostpolicy_pb2

from tests.unit.segctl.cli.pki import Authority

T0 = 1_795_316_645_000_000
GENERATIONS = {
    7: pb.Generation(number=7, digest="aa" * 32, author="bob", message="first", created_us=T0),
    8: pb.Generation(number=8, digest="bb" * 32, author="alice", message="second", created_us=T0 + 10**6, active=True),
}
WEB = pb.HostStatus(
    name="web1",
    tags={"role": "web"},
    addresses=["10.0.1.11"],
    connected=True,
    last_seen_us=T0,
    agent_version="0.1.0",
    kernel_generation=8,
    state="in-sync",
    workloads=[pb.WorkloadStatus(name="host", mode="enforce")],
    listeners=[agent_pb2.Listener(protocol="tcp", address=b"\0\0\0\0", port=443, workload="host", process="nginx")],
    kernel="6.1.0",
)
DENIAL = pb.DeniedConnection(
    id=1,
    host="web1",
    denial=agent_pb2.Denial(
        verdict="denied",
        workload="host",
        remote=b"\x0a\x00\x01\x0c",
        service=hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432),
        process=agent_pb2.ProcessInfo(pid=812, exe="/usr/bin/curl", command="curl db1:5432", user="root"),
        count=3,
        first_seen_us=T0,
        last_seen_us=T0 + 10**6,
        generation=8,
    ),
    peer_host="db1",
    reason="default",
    service_name="postgres",
)
FLOW = pb.FlowRecord(
    host="web1",
    workload="shop-web",
    remote=b"\x0a\x00\x01\x0c",
    peer_host="db1",
    peer_workload="shop-db",
    service=hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432),
    service_name="postgres",
    rule="web-to-db",
    verdict="allowed",
    flows=3,
    bytes_sent=700,
    bytes_received=9000,
    first_seen_us=T0,
    last_seen_us=T0 + 10**6,
)
NEVER = pb.RuleFinding(kind="never-hit", why="never hit in the 40 days", mend="ask its owner what it is for")
BROAD = pb.RuleFinding(
    kind="too-broad", why="it permits 9 tuples", mend="put the narrower one there", narrower="version: 1\nrules: []\n"
)
READY = pb.Readiness(
    select=pb.Selection(tags={"env": "prod"}),
    phase="test",
    next="enforce",
    ready=True,
    since_us=T0 - 9 * 86_400 * 10**6,
    since_known=True,
    hosts=2,
    days=9,
    flows=1000,
    covered=1000,
    tests=3,
)
"""Nine days in test."""
CUT = pb.CutConnection(
    host="web1",
    peer_host="db1",
    connection=agent_pb2.LiveConnection(
        workload="shop-web",
        remote=b"\x0a\x00\x01\x0c",
        service=hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432),
        local_port=40_000,
        process=agent_pb2.ProcessInfo(pid=812, exe="/usr/sbin/nginx", command="nginx: worker", user="www-data"),
        rule="web-to-db",
    ),
)


class ScriptedAdmin(admin_pb2_grpc.AdminServicer):
    """Keeps what it was asked. `refusal` makes every call fail; `proofs` is what a push reports after it is stored."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.plan = pb.PlanReply(
            base_generation=8,
            digest="cc" * 32,
            changes=[pb.Change(allowed=True, source="a", destination="b", service="ssh", rule="r", hosts=["web1"])],
            hosts=["web1"],
            tests=2,
        )
        self.proofs = [pb.HostProof(host="web1", state="proven", kernel_digest="dd" * 32, after_us=84_000)]
        self.break_push: grpc.StatusCode | None = None
        self.hold_push = threading.Event()
        self.hold_push.set()
        self.hold_store = False
        self.pushing = threading.Event()
        self.status = pb.StatusReply(active=GENERATIONS[8], hosts=[WEB], fleet="shop", controller_version="0.1.0")
        self.rolled_back_to = 0
        self.explanation = pb.ExplainReply(verdict="denied", generation=8)
        self.flows = pb.FlowsReply(flows=[FLOW], lost=7)
        group = pb.TagGroup(tags={"role": "web", "app": "shop"})
        edge = pb.MapEdge(
            source=group,
            destination=pb.TagGroup(outside=True, peer="office"),
            service=FLOW.service,
            flows=3,
            bytes=9700,
            verdict="denied",
            verdicts=pb.MapVerdicts(allowed=1, denied=2),
            reasons=[pb.MapReason(verdict="denied", reason="default", flows=2)],
        )
        span = pb.ImpactSpan(since_us=T0, until_us=T0 + 10**6, judged_flows=9, blocked_flows=7)
        self.impact = pb.DraftImpactFlowsReply(blocked_flows=7, judged_flows=9, since_us=T0, spans=[span])
        self.map = pb.FlowMapReply(edges=[edge], more=True)
        self.talkers = pb.TopTalkersReply(
            talkers=[pb.Talker(host="web1", workload="shop-web", flows=3, bytes_sent=700)]
        )
        self.rules = pb.RuleReportReply(
            rules=[
                pb.RuleLife(
                    use=pb.RuleUse(rule="idle", in_policy=True), since_us=T0, owner="team-shop", findings=[NEVER]
                ),
                pb.RuleLife(
                    use=pb.RuleUse(rule="web-to-db", count=1234, last_hit_us=T0, hosts=2, in_policy=True),
                    owner="team-shop",
                    findings=[BROAD],
                ),
            ]
        )
        self.readiness = pb.ReadinessReply(selectors=[READY], generation=8)
        self.suggestions, self.decided = pb.SuggestReply(), []
        self.denials = [pb.DeniedReply(connection=DENIAL), pb.DeniedReply(lost=7)]

    def _take(self, request: object, context: grpc.ServicerContext) -> None:
        self.asked.append(request)
        if self.refusal:
            context.abort(*self.refusal)

    def WhoAmI(self, request, context):
        self._take(request, context)
        return pb.WhoAmIReply(name="alice", role="admin", fleet="shop", controller_version="0.1.0")

    def Check(self, request, context):
        self._take(request, context)
        return pb.CheckReply(hosts=5)

    def Plan(self, request, context):
        self._take(request, context)
        return self.plan

    def Status(self, request, context):
        self._take(request, context)
        return self.status

    def History(self, request, context):
        self._take(request, context)
        reply = pb.HistoryReply(generations=sorted(GENERATIONS.values(), key=lambda g: -g.number)[: request.limit])
        reply.generations[0].rollback_of = self.rolled_back_to
        return reply

    def GetGeneration(self, request, context):
        self._take(request, context)
        if request.number not in GENERATIONS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no generation {request.number}")
        found = pb.Generation()
        found.CopyFrom(GENERATIONS[request.number])
        found.source.files.add(name="shop.yaml", content=b"version: 1\n")
        return found

    def ListHosts(self, request, context):
        self._take(request, context)
        return pb.ListHostsReply(hosts=[WEB] if request.name in {"", "web1"} else [])

    def SetTags(self, request, context):
        self._take(request, context)
        return pb.HostStatus(name=request.host, tags=request.set)

    def RemoveHost(self, request, context):
        self._take(request, context)
        return pb.RemoveHostReply()

    def CreateToken(self, request, context):
        self._take(request, context)
        return pb.CreateTokenReply(join="THE-SECRET-LINE", id="3f9a", expires_us=T0)

    def ListTokens(self, request, context):
        self._take(request, context)
        token = pb.Token(id="3f9a", tags={"role": "web"}, uses_left=1, expires_us=T0, created_by="alice")
        return pb.ListTokensReply(tokens=[token])

    def RevokeToken(self, request, context):
        self._take(request, context)
        return pb.RevokeTokenReply()

    def Explain(self, request, context):
        self._take(request, context)
        return self.explanation

    def Denied(self, request, context):
        self._take(request, context)
        yield from self.denials

    def Flows(self, request, context):
        self._take(request, context)
        return self.flows

    def FlowMap(self, request, context):
        self._take(request, context)
        return self.map

    def DraftImpactFlows(self, request, context):
        self._take(request, context)
        return self.impact

    def TopTalkers(self, request, context):
        self._take(request, context)
        return self.talkers

    def Suggest(self, request, context):
        self._take(request, context)
        return self.suggestions

    def DecideSuggestion(self, request, context):
        self._take(request, context)
        return pb.DecideSuggestionReply()

    def ListDecisions(self, request, context):
        self._take(request, context)
        return pb.ListDecisionsReply(decisions=self.decided)

    def RuleReport(self, request, context):
        self._take(request, context)
        return self.rules

    def Readiness(self, request, context):
        self._take(request, context)
        return self.readiness

    def Audit(self, request, context):
        self._take(request, context)
        return pb.AuditReply(entries=[pb.AuditEntry(sequence=1, at_us=T0, actor="alice", action="push", subject="8")])

    def Push(self, request, context):
        self._take(request, context)
        yield from self._progress(pb.Generation(number=9, author="alice", active=True), context)

    def Rollback(self, request, context):
        self._take(request, context)
        number = request.generation
        yield from self._progress(pb.Generation(number=9, rollback_of=number, active=True), context)

    def _progress(self, stored: pb.Generation, context: grpc.ServicerContext) -> Iterator[pb.PushProgress]:
        self.pushing.set()
        if self.hold_store:
            self.hold_push.wait(20)
        yield pb.PushProgress(stored=stored)
        if self.break_push:
            context.abort(self.break_push, "the disk is full")
        self.hold_push.wait(20)
        for proof in self.proofs:
            yield pb.PushProgress(host=proof)
        tally = {s: sum(p.state == s for p in self.proofs) for s in ("proven", "refused", "offline", "waiting")}
        yield pb.PushProgress(done=pb.PushDone(**tally))


def serve(servicer: ScriptedAdmin, authority: Authority, expires=None) -> tuple[int, Callable[[], None]]:
    """(port, stop). The server shows a certificate of `authority` and wants one."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)
    uri = f"spiffe://{authority.fleet}/controller"
    certificate, key = authority.issue(uri, expires) if expires else authority.issue(uri)
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority.pem, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return port, lambda: server.stop(0).wait(5) and None
