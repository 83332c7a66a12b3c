"""The controller's admin API as methods that give views. Synchronous gRPC over TLS, a deadline on every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Self, TypeVar

import grpc

from segctl.auditchain import Link
from segctl.cli import convert, convert_flows, convert_ready, convert_suggest
from segctl.cli import views as v
from segctl.cli import views_access as va
from segctl.cli import views_life as vl
from segctl.cli import views_suggest as vs
from segctl.cli.bearer import Bearer
from segctl.cli.config import ClientConfig
from segctl.cli.exits import CliError, Exit
from segctl.cli.flowsearch import FlowsWanted
from segctl.cli.mapsearch import EndWanted, MapWanted
from segctl.cli.rpc_errors import translate
from segctl.cli.streaming import Single, read_stream
from segctl.cli.trust import keep_trust
from segctl.cli.views_impact import FlowImpact
from segctl.cli.views_map import FlowMap
from segctl.cli.way import Way
from segctl.model.findings import Finding
from segctl.model.policy import Selector
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2 as pb
from segctl.proto.v1 import admin_pb2_grpc
from segctl.wire import findings_from_wire, source_to_wire

Request = TypeVar("Request")
Reply = TypeVar("Reply")

Step = v.Generation | v.Proof | v.Phase | v.Done

QUICK = 15.0
PAGE = 2000
"""Entries of the audit log in one answer."""
THOROUGH = 120.0
FOLLOW = 3600.0
"""Seconds of a following stream, after which the caller opens the next one."""

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # A dead controller ends a following stream in about 40 s instead of never; pings only while a call is open.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
)


class Controller:
    """One connection. Every method raises CliError with the exit code and the mend of its failure."""

    def __init__(self, config: ClientConfig, bearer: Bearer | None = None) -> None:
        """With a `bearer` token, or by the certificate of `config`."""
        self._bearer = bearer
        self.config = config.by_token() if bearer else config
        self._channel = grpc.secure_channel(self.config.controller, _credentials(self.config), options=OPTIONS)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def whoami(self) -> va.WhoAmI:
        m = self._call(self._admin.WhoAmI, pb.WhoAmIRequest())
        keep_trust(self.config, m.trust)
        return va.WhoAmI(
            name=m.name,
            role=m.role,
            fleet=m.fleet,
            controller=self.config.controller,
            controller_version=m.controller_version,
            certificate_until=convert.moment(m.certificate_until_us),
            identity=m.identity,
            scopes=tuple(dict(sorted(scope.tags.items())) for scope in m.scopes),
            until=convert.moment(m.until_us),
        )

    def check(self, files: Sequence[SourceFile]) -> tuple[tuple[Finding, ...], int]:
        """The findings and the number of enrolled hosts that were looked at."""
        m = self._call(self._admin.Check, source_to_wire(files), THOROUGH)
        return findings_from_wire(m.findings), m.hosts

    def plan(self, files: Sequence[SourceFile]) -> v.Plan:
        m = self._call(self._admin.Plan, source_to_wire(files), THOROUGH)
        impact = convert_flows.flow_impact(m.impact) if m.HasField("impact") else None
        return replace(convert.plan(m), impact=impact)

    def impact(self, files: Sequence[SourceFile], limit: int, since: datetime, span: int = 0) -> FlowImpact:
        """Of a policy on the flows of the past; by spans of so many seconds, with `span`."""
        request = pb.DraftImpactFlowsRequest(
            source=source_to_wire(files), limit=limit, since_us=_microseconds(since), span_us=span * 1_000_000
        )
        return convert_flows.flow_impact(self._call(self._admin.DraftImpactFlows, request, THOROUGH))

    def push(self, files: Sequence[SourceFile], message: str, plan: v.Plan, way: Way) -> Iterator[Step]:
        """Refused when the policy is no longer that of `plan`, or when another push came between."""
        request = pb.PushRequest(
            source=source_to_wire(files),
            message=message,
            expect_digest=plan.digest,
            expect_base_generation=plan.base_generation,
            wait_seconds=way.wait,
            rollout=_rollout(way),
            together=True,
        )
        return self._progress(self._stream(self._admin.Push, request, way.longest + THOROUGH))

    def rollback(self, number: int, message: str, plan: v.Plan, way: Way) -> Iterator[Step]:
        """Refused when a push came after `plan`."""
        request = pb.RollbackRequest(
            generation=number,
            message=message,
            wait_seconds=way.wait,
            expect_base_generation=plan.base_generation,
            rollout=_rollout(way),
            together=True,
        )
        return self._progress(self._stream(self._admin.Rollback, request, way.longest + THOROUGH))

    def end_trial(self, number: int) -> Iterator[Step]:
        """Undo the push of this generation, which is on trial; all its steps, from the first one on."""
        request = pb.RollbackRequest(end_trial=number, together=True)
        return self._progress(self._stream(self._admin.Rollback, request, THOROUGH))

    def history(self, limit: int) -> tuple[v.Generation, ...]:
        """The newest first, whatever the order on the wire."""
        m = self._call(self._admin.History, pb.HistoryRequest(limit=limit))
        return tuple(sorted(map(convert.generation, m.generations), key=lambda g: -g.number))

    def generation(self, number: int) -> v.Generation:
        return convert.generation(self._call(self._admin.GetGeneration, pb.GetGenerationRequest(number=number)))

    def status(self) -> v.Status:
        m = self._call(self._admin.Status, pb.StatusRequest())
        keep_trust(self.config, [ca.certificate for ca in m.ca.cas])
        return convert.status(m)

    def hosts(self, name: str = "") -> tuple[v.Host, ...]:
        return tuple(map(convert.host, self._call(self._admin.ListHosts, pb.ListHostsRequest(name=name)).hosts))

    def host(self, name: str) -> v.Host:
        found = next((h for h in self.hosts(name) if h.name == name), None)
        if found is None:
            raise CliError(f"no enrolled host is called {name!r}", "segctl host list shows them.", Exit.FINDINGS)
        return found

    def set_tags(self, host: str, tags: Mapping[str, str], remove: Sequence[str]) -> v.Host:
        request = pb.SetTagsRequest(host=host, set=tags, remove=remove)
        return convert.host(self._call(self._admin.SetTags, request))

    def remove_host(self, name: str) -> None:
        self._call(self._admin.RemoveHost, pb.RemoveHostRequest(host=name))

    def create_token(
        self, tags: Mapping[str, str], host: str, uses: int, valid_seconds: int, networks: Sequence[str], replace: bool
    ) -> va.NewToken:
        request = pb.CreateTokenRequest(
            tags=tags, host=host, uses=uses, valid_seconds=valid_seconds, networks=networks, replace=replace
        )
        m = self._call(self._admin.CreateToken, request)
        return va.NewToken(m.id, convert.moment(m.expires_us), m.join)

    def tokens(self) -> tuple[va.Token, ...]:
        return tuple(map(convert.token, self._call(self._admin.ListTokens, pb.ListTokensRequest()).tokens))

    def revoke_token(self, identifier: str) -> None:
        self._call(self._admin.RevokeToken, pb.RevokeTokenRequest(id=identifier))

    def explain(self, source: str, destination: str, service: str, live: bool) -> v.Explanation:
        request = pb.ExplainRequest(source=source, destination=destination, service=service, live=live)
        return convert.explanation(self._call(self._admin.Explain, request, 2 * QUICK), request)

    def denied(
        self, follow: bool, limit: int, host: str, workload: str, since: datetime | None
    ) -> Iterator[v.Denial | v.Lost]:
        request = pb.DeniedRequest(
            follow=follow,
            limit=limit,
            host=host,
            workload=workload,
            since_us=_microseconds(since),
        )
        for m in self._stream(self._admin.Denied, request, FOLLOW if follow else THOROUGH):
            if m.HasField("connection"):
                yield convert.denial(m.connection)
            elif m.HasField("lost"):
                yield v.Lost(m.lost)

    def flows(self, wanted: FlowsWanted) -> v.Flows:
        """The newest last."""
        request = pb.FlowsRequest(
            limit=wanted.limit,
            host=wanted.host,
            workload=wanted.workload,
            rule=wanted.rule,
            address=wanted.address,
            protocol=wanted.protocol,
            port=wanted.port,
            verdict=wanted.verdict,
            process=wanted.process,
            since_us=_microseconds(wanted.since),
            until_us=_microseconds(wanted.until),
        )
        m = self._call(self._admin.Flows, request, THOROUGH)
        return v.Flows(tuple(map(convert.flow, m.flows)), m.lost)

    def talkers(self, limit: int, since: datetime | None, until: datetime | None) -> tuple[v.Talker, ...]:
        """Those with most bytes first."""
        times = {"since_us": _microseconds(since), "until_us": _microseconds(until)}
        m = self._call(self._admin.TopTalkers, pb.TopTalkersRequest(limit=limit, **times), THOROUGH)
        return tuple(map(convert.talker, m.talkers))

    def flow_map(self, wanted: MapWanted) -> FlowMap:
        """Most flows first."""
        request = pb.FlowMapRequest(
            limit=wanted.limit,
            since_us=_microseconds(wanted.since),
            until_us=_microseconds(wanted.until),
            by=wanted.by,
            at_us=_microseconds(wanted.at),
            generation=wanted.generation,
            source=_group(wanted.source),
            destination=_group(wanted.destination),
            protocol=wanted.protocol,
            port=wanted.port,
            detail=wanted.detail,
        )
        return convert_flows.flow_map(self._call(self._admin.FlowMap, request, THOROUGH))

    def suggestions(self, since: datetime, until: datetime | None) -> vs.Suggestions:
        """Of rules for the flows of that time."""
        request = pb.SuggestRequest(since_us=_microseconds(since), until_us=_microseconds(until))
        return convert_suggest.suggestions(self._call(self._admin.Suggest, request, THOROUGH))

    def decide(self, identifier: str, verdict: str, reason: str = "", suggested: str = "", decided: str = "") -> None:
        """`suggested` stands alone, `decided` beside the policy in force."""
        texts = {"reason": reason, "suggested": suggested, "decided": decided}
        request = pb.DecideSuggestionRequest(id=identifier, verdict=verdict, **texts)
        self._call(self._admin.DecideSuggestion, request, THOROUGH)

    def decisions(self) -> tuple[vs.Decision, ...]:
        """The oldest first."""
        found = self._call(self._admin.ListDecisions, pb.ListDecisionsRequest())
        return tuple(map(convert_suggest.decision, found.decisions))

    def rules(self, rule: str, stale_days: int, soon_days: int) -> tuple[tuple[vl.RuleUse, ...], bool]:
        """Those of the policy in its order, then earlier ones that were hit; with what is wrong with them. And whether
        they were used for more than the controller could look at."""
        request = pb.RuleReportRequest(rule=rule, stale_days=stale_days, soon_days=soon_days)
        m = self._call(self._admin.RuleReport, request, THOROUGH)
        return tuple(map(convert.rule_life, m.rules)), m.more

    def readiness(self, chosen: Sequence[Selector], since: datetime | None, least_days: int | None) -> vl.ReadyList:
        """Of these selectors; of none: of all entries that do not enforce yet."""
        request = pb.ReadinessRequest(
            selectors=[pb.Selection(tags=dict(one.tags.pairs), workload=one.workload or "") for one in chosen],
            since_us=_microseconds(since),
            least_days=least_days,
        )
        return convert_ready.ready_list(self._call(self._admin.Readiness, request, THOROUGH))

    def audit(
        self, limit: int, actor: str = "", action: str = "", subject: str = "", since: datetime | None = None
    ) -> tuple[va.AuditEntry, ...]:
        """The newest first; empty texts: all."""
        request = pb.AuditRequest(
            limit=limit, actor=actor, action=action, subject=subject, since_us=_microseconds(since)
        )
        return tuple(map(convert.audit_entry, self._call(self._admin.Audit, request, THOROUGH).entries))

    def audit_links(self) -> Iterator[Link]:
        """The whole audit log, oldest first, as it is hashed."""
        after = 0
        while True:
            request = pb.AuditRequest(limit=PAGE, after=after, oldest_first=True)
            page = self._call(self._admin.Audit, request, THOROUGH).entries
            yield from map(convert.audit_link, page)
            if not page or page[-1].sequence <= after:
                return
            after = page[-1].sequence

    def create_api_token(self, name: str, role: str, scope: Mapping[str, str], valid_seconds: int) -> va.NewApiToken:
        request = pb.CreateApiTokenRequest(name=name, role=role, scope=scope, valid_seconds=valid_seconds)
        m = self._call(self._admin.CreateApiToken, request)
        return va.NewApiToken(convert.api_token(m.token), m.secret)

    def api_tokens(self) -> tuple[va.ApiToken, ...]:
        reply = self._call(self._admin.ListApiTokens, pb.ListApiTokensRequest())
        return tuple(map(convert.api_token, reply.tokens))

    def revoke_api_token(self, identifier: str) -> None:
        self._call(self._admin.RevokeApiToken, pb.RevokeApiTokenRequest(id=identifier))

    def _metadata(self) -> tuple[tuple[str, str], ...] | None:
        """A token travels in here, and the channel is always TLS."""
        return (("authorization", f"Bearer {self._bearer()}"),) if self._bearer else None

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, seconds: float = QUICK
    ) -> Reply:
        metadata = self._metadata()
        try:
            (reply,) = read_stream(lambda: Single(method.future(request, timeout=seconds, metadata=metadata)))
        except grpc.RpcError as error:
            raise _translated(error, self.config) from error
        return reply

    def _stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Reply], request: Request, seconds: float
    ) -> Iterator[Reply]:
        metadata = self._metadata()
        try:
            yield from read_stream(lambda: method(request, timeout=seconds, metadata=metadata))
        except grpc.RpcError as error:
            raise _translated(error, self.config) from error

    def _progress(self, messages: Iterable[pb.PushProgress]) -> Iterator[Step]:
        for message in messages:
            yield from convert.progress(message)


def _credentials(config: ClientConfig) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(config.ca, config.key or None, config.certificate or None)


def sign_in_options(config: ClientConfig) -> tuple[str, str, tuple[str, ...]]:
    """Issuer (empty: the controller knows none), client id and scopes. Raises CliError."""
    config = config.by_token()
    with grpc.secure_channel(config.controller, _credentials(config), options=OPTIONS) as channel:
        try:
            m = admin_pb2_grpc.SignInStub(channel).Options(pb.SignInOptionsRequest(), timeout=QUICK)
        except grpc.RpcError as error:
            raise _translated(error, config) from error
    return m.issuer, m.client_id, tuple(m.scopes)


def _translated(error: grpc.RpcError, config: ClientConfig) -> CliError:
    if not isinstance(error, grpc.Call):
        return CliError(f"controller {config.controller}: {error}", exit_code=Exit.UNREACHABLE)
    return translate(error.code(), error.details() or "", config)


def _rollout(way: Way) -> pb.Rollout:
    return pb.Rollout(
        watch_seconds=way.watch,
        canary=way.canary,
        waves=way.waves,
        pause_seconds=way.pause,
        accept_denials=way.accept_denials,
        without=way.without,
    )


def _group(end: EndWanted | None) -> pb.TagGroup | None:
    if end is None:
        return None
    return pb.TagGroup(
        tags=end.tags,
        outside=end.outside,
        peer=end.peer,
        network=end.network,
        host=end.host,
        workload=end.workload,
        process=end.process,
    )


def _microseconds(then: datetime | None) -> int:
    """Unix time; 0 for no time."""
    return int(then.timestamp() * 1_000_000) if then else 0
