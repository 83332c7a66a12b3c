"""The Admin service: every method admits its caller by role, then delegates."""

# ruff: noqa: N802 - the service's methods are named by the protocol

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from segctl import __version__
from segctl.errors import StateError
from segctl.proto.v1 import admin_pb2, admin_pb2_grpc
from segctl.wire import findings_to_wire, source_from_wire

from segctl_controller.apitokens import ApiTokenAdmin
from segctl_controller.clock import Clock
from segctl_controller.described import Described
from segctl_controller.errors import InvalidRequestError, LimitError, NotFoundError
from segctl_controller.feed import Feed
from segctl_controller.flowquestions import FlowQuestions
from segctl_controller.flowstore.records import DAY_US
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.gate import Gate
from segctl_controller.holders import CaView
from segctl_controller.hosts import HostAdmin
from segctl_controller.impact import Impact
from segctl_controller.life.history import PolicyHistory
from segctl_controller.life.ready import ReadyQuestions
from segctl_controller.life.rulereport import RuleReports
from segctl_controller.mapquestions import MapQuestions
from segctl_controller.probing import explained
from segctl_controller.push import Proposal, Publisher
from segctl_controller.registry import Registry
from segctl_controller.review import Review, compare, review
from segctl_controller.rpc import Context
from segctl_controller.scoped import scope_findings
from segctl_controller.store.records import DenialFilter, DenialRecord, EntryFilter, Role
from segctl_controller.store.refusals import no_host
from segctl_controller.store_thread import StoreThread
from segctl_controller.suggestions.service import SuggestionAdmin
from segctl_controller.tokens import TokenAdmin
from segctl_controller.turns import Turns
from segctl_controller.usage import Usage
from segctl_controller.views import denial_view, entry_view, generation_view, host_view, status_view
from segctl_controller.way import way_from
from segctl_controller.whatif import WhatIf

RECENT_EVENTS = 20
IMPACT_SHOWN = 20
"""Kinds of flows that a plan names, of those that it would block."""
MOST_ROWS = 10_000


class Admin(admin_pb2_grpc.AdminServicer):
    def __init__(
        self,
        fleet_id: str,
        gate: Gate,
        registry: Registry,
        db: StoreThread,
        clock: Clock,
        feed: Feed,
        publisher: Publisher,
        hosts: HostAdmin,
        tokens: TokenAdmin,
        api_tokens: ApiTokenAdmin,
        ca: CaView,
        flows: FlowThread,
    ) -> None:
        self._fleet_id = fleet_id
        self._gate = gate
        self._registry = registry
        self._fleet = registry.fleet
        self._db = db
        self._clock = clock
        self._feed = feed
        self._publisher = publisher
        self._hosts = hosts
        self._tokens = tokens
        self._api_tokens = api_tokens
        self._ca = ca
        self._turns = Turns(db)
        self._usage = Usage(registry.fleet, db)
        self._flows = FlowQuestions(registry.fleet, db, flows)
        self._maps = MapQuestions(registry.fleet, db, flows, clock)
        self._what_if = WhatIf(registry.fleet, db, flows, clock, self._maps)
        self._impact = Impact(registry)
        self._described = Described(registry.fleet, db, self._turns, clock)
        history = PolicyHistory(db)
        self._ready = ReadyQuestions(registry.fleet, db, flows, clock, history, self._turns)
        self._rule_reports = RuleReports(registry.fleet, db, flows, clock, history, self._turns)
        self._suggestions = SuggestionAdmin(registry, db, flows, self._turns, clock)

    async def WhoAmI(self, request: admin_pb2.WhoAmIRequest, context: Context) -> admin_pb2.WhoAmIReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            return admin_pb2.WhoAmIReply(
                name=operator.name,
                role=operator.role.value,
                fleet=self._fleet_id,
                controller_version=__version__,
                certificate_until_us=operator.until_us if operator.identity.startswith("certificate") else 0,
                identity=operator.identity,
                scopes=[admin_pb2.Scope(tags=dict(scope.pairs)) for scope in operator.scopes],
                until_us=operator.until_us,
                trust=self._ca.trusted(),
            )

    async def Flows(self, request: admin_pb2.FlowsRequest, context: Context) -> admin_pb2.FlowsReply:
        async with self._gate.open(context, Role.VIEWER):
            return await self._flows.search(request)

    async def FlowMap(self, request: admin_pb2.FlowMapRequest, context: Context) -> admin_pb2.FlowMapReply:
        async with self._gate.open(context, Role.VIEWER):
            return await self._maps.map(request)

    async def TopTalkers(self, request: admin_pb2.TopTalkersRequest, context: Context) -> admin_pb2.TopTalkersReply:
        async with self._gate.open(context, Role.VIEWER):
            return await self._flows.top(request)

    async def DraftImpactFlows(
        self, request: admin_pb2.DraftImpactFlowsRequest, context: Context
    ) -> admin_pb2.DraftImpactFlowsReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            policy = (await self._review(operator.name, request.source)).accepted()
            return await self._what_if.impact(policy, request)

    async def DescribePolicy(
        self, request: admin_pb2.DescribePolicyRequest, context: Context
    ) -> admin_pb2.PolicyDescription:
        async with self._gate.open(context, Role.VIEWER) as operator:
            return await self._described.of(request, operator.name)

    async def RuleUse(self, request: admin_pb2.RuleUseRequest, context: Context) -> admin_pb2.RuleUseReply:
        async with self._gate.open(context, Role.VIEWER):
            return await self._usage.rules(request)

    async def Readiness(self, request: admin_pb2.ReadinessRequest, context: Context) -> admin_pb2.ReadinessReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            return await self._ready.ask(request, operator.name)

    async def RuleReport(self, request: admin_pb2.RuleReportRequest, context: Context) -> admin_pb2.RuleReportReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            return await self._rule_reports.ask(request, operator.name)

    async def _review(self, operator: str, source: admin_pb2.PolicySource) -> Review:
        """In a thread: a large policy takes longer than the heartbeats of the fleet can wait."""
        files, inventory, now = source_from_wire(source), self._fleet.inventory, self._clock.now()
        look = partial(review, files, inventory, now, self._registry.controller_addresses)
        return await self._turns.take(operator, look)

    async def Check(self, request: admin_pb2.PolicySource, context: Context) -> admin_pb2.CheckReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            found = await self._review(operator.name, request)
            return admin_pb2.CheckReply(findings=findings_to_wire(found.findings), hosts=len(self._fleet.hosts))

    async def Plan(self, request: admin_pb2.PolicySource, context: Context) -> admin_pb2.PlanReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            active, inventory, now = self._fleet.active, self._fleet.inventory, self._clock.now()
            found = await self._review(operator.name, request)
            reply = admin_pb2.PlanReply(
                findings=findings_to_wire(found.findings),
                base_generation=active.number,
                tests=found.tests,
                behind=self._fleet.newest_held() > active.number,
            )
            if found.policy is None:
                return reply
            outside = await self._turns.take(
                operator.name, partial(scope_findings, operator, active.policy, found.policy)
            )
            reply.findings.extend(findings_to_wire(outside))
            difference = await self._turns.take(operator.name, partial(compare, active, found.policy, inventory, now))
            reply.digest = difference.digest
            reply.hosts.extend(difference.hosts)
            for change in difference.diff.changes:
                reply.changes.add(
                    allowed=change.allowed,
                    source=str(change.source),
                    destination=str(change.destination),
                    service=str(change.service),
                    rule=change.rule,
                    hosts=change.hosts,
                )
            for mode in difference.diff.modes:
                reply.modes.add(host=mode.host, workload=mode.workload, before=mode.before, after=mode.after)
            if not found.refused and not outside:
                cuts = await self._impact.of(difference.drafts, active.number + 1, difference.digest)
                reply.cuts.extend(cuts.connections)
                reply.cut_total = cuts.total
                reply.unasked.extend(cuts.unasked)
                with suppress(StateError):  # flows are history: a plan does without
                    since = self._clock.now_us() - DAY_US
                    asked = admin_pb2.DraftImpactFlowsRequest(since_us=since, limit=IMPACT_SHOWN)
                    reply.impact.CopyFrom(await self._what_if.impact(found.policy, asked))
            return reply

    async def Status(self, request: admin_pb2.StatusRequest, context: Context) -> admin_pb2.StatusReply:
        async with self._gate.open(context, Role.VIEWER):
            active = await self._db.call(self._db.store.generation, 0)
            events = await self._db.call(self._db.store.events, RECENT_EVENTS)
            reply = status_view(self._fleet, active, events, self._fleet_id, self._clock.now_us())
            reply.ca.CopyFrom(self._ca.status())
            rollout = self._publisher.rollout
            if rollout is not None and not rollout.over:
                generation = generation_view(rollout.stored, self._fleet.active.number)
                trial = admin_pb2.TrialStatus(generation=generation, phase=rollout.phase, proven=rollout.proven)
                reply.trial.CopyFrom(trial)
            return reply

    async def History(self, request: admin_pb2.HistoryRequest, context: Context) -> admin_pb2.HistoryReply:
        async with self._gate.open(context, Role.VIEWER):
            found = await self._db.call(self._db.store.generations, min(request.limit or 50, MOST_ROWS))
            active = self._fleet.active.number
            return admin_pb2.HistoryReply(generations=[generation_view(g, active) for g in found])

    async def GetGeneration(self, request: admin_pb2.GetGenerationRequest, context: Context) -> admin_pb2.Generation:
        async with self._gate.open(context, Role.VIEWER):
            found = await self._db.call(self._db.store.generation, min(request.number, 2**62))
            if found is None and not request.number:
                raise NotFoundError("no policy was pushed yet; segctl push PATH pushes the first")
            if found is None:
                raise NotFoundError(f"there is no generation {request.number}; segctl history shows what there is")
            return generation_view(found, self._fleet.active.number, with_source=True)

    async def ListHosts(self, request: admin_pb2.ListHostsRequest, context: Context) -> admin_pb2.ListHostsReply:
        async with self._gate.open(context, Role.VIEWER):
            if request.name and request.name not in self._fleet.hosts:
                raise NotFoundError(no_host(request.name[:80]))
            names = [request.name] if request.name else sorted(self._fleet.hosts)
            now = self._clock.now_us()
            return admin_pb2.ListHostsReply(hosts=[host_view(self._fleet, name, now) for name in names])

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Context) -> admin_pb2.ExplainReply:
        async with self._gate.open(context, Role.VIEWER):
            return await explained(request, self._registry, self._clock)

    async def Denied(self, request: admin_pb2.DeniedRequest, context: Context) -> AsyncIterator[admin_pb2.DeniedReply]:
        async with (passage := self._gate.open(context, Role.VIEWER)):
            if request.since_us < 0 or len(request.host) > 64 or len(request.workload) > 64:
                raise InvalidRequestError("since_us, host or workload is out of bounds")
            if request.follow and self._feed.full:
                raise LimitError("too many operators follow the denials already; try without --follow")
            limit = min(request.limit or 100, MOST_ROWS)
            wanted = DenialFilter(limit, request.host, request.workload, request.since_us)
            # Listening begins before history is read, so that nothing falls between the two.
            if request.follow:
                await self._feed.begin()
            with self._feed.follow(request.host, request.workload) as follower:
                # Tells a client that nothing is missed from here on, even when there is nothing to show yet.
                await context.send_initial_metadata(())
                rows = await self._db.call(self._db.store.denials, wanted)
                lost = await self._db.call(self._db.store.lost, request.host, request.since_us)
                # Only what waits by now can be in the history too: a host that goes frees its ids for later rows.
                follower.after = rows[-1].id if rows else 0
                fresh, missed = follower.take_waiting()
                fresh = tuple(row for row in fresh if not rows or row.id > rows[-1].id)
                if lost:
                    yield admin_pb2.DeniedReply(lost=lost)
                for row in rows:
                    yield _reply(row)
                while request.follow:
                    if missed:
                        yield admin_pb2.DeniedReply(lost=missed)
                    for row in fresh:
                        yield _reply(row)
                    fresh, missed = await passage.within(follower.take())

    async def Push(self, request: admin_pb2.PushRequest, context: Context) -> AsyncIterator[admin_pb2.PushProgress]:
        async with (passage := self._gate.open(context, Role.OWNER)) as operator:
            proposal = Proposal(
                source_from_wire(request.source),
                operator.name,
                request.message,
                request.expect_digest,
                min(request.expect_base_generation, 2**62),
                by=operator,
            )
            way = way_from(request.wait_seconds, request.rollout)
            rollout = await self._publisher.publish(proposal, way)
            async for progress in passage.each(rollout.follow(together=request.together)):
                yield progress

    async def Rollback(
        self, request: admin_pb2.RollbackRequest, context: Context
    ) -> AsyncIterator[admin_pb2.PushProgress]:
        async with (passage := self._gate.open(context, Role.OWNER)) as operator:
            number = min(request.generation, 2**62)
            expect_base = min(request.expect_base_generation, 2**62)
            way = way_from(request.wait_seconds, request.rollout)
            if request.end_trial:
                rollout = self._publisher.end(request.end_trial, operator)
            else:
                rollout = await self._publisher.rollback(number, operator, request.message, expect_base, way)
            async for progress in passage.each(rollout.follow(together=request.together)):
                yield progress

    async def SetTags(self, request: admin_pb2.SetTagsRequest, context: Context) -> admin_pb2.HostStatus:
        async with self._gate.open(context, Role.ADMIN) as operator:
            await self._hosts.set_tags(request.host, dict(request.set), request.remove, operator)
            return host_view(self._fleet, request.host, self._clock.now_us())

    async def RemoveHost(self, request: admin_pb2.RemoveHostRequest, context: Context) -> admin_pb2.RemoveHostReply:
        async with self._gate.open(context, Role.ADMIN) as operator:
            await self._hosts.remove(request.host, operator)
            return admin_pb2.RemoveHostReply()

    async def CreateToken(self, request: admin_pb2.CreateTokenRequest, context: Context) -> admin_pb2.CreateTokenReply:
        async with self._gate.open(context, Role.ADMIN) as operator:
            return await self._tokens.create(request, operator)

    async def ListTokens(self, request: admin_pb2.ListTokensRequest, context: Context) -> admin_pb2.ListTokensReply:
        async with self._gate.open(context, Role.ADMIN):
            return await self._tokens.list()

    async def RevokeToken(self, request: admin_pb2.RevokeTokenRequest, context: Context) -> admin_pb2.RevokeTokenReply:
        async with self._gate.open(context, Role.ADMIN) as operator:
            await self._tokens.revoke(request.id, operator)
            return admin_pb2.RevokeTokenReply()

    async def Audit(self, request: admin_pb2.AuditRequest, context: Context) -> admin_pb2.AuditReply:
        async with self._gate.open(context, Role.ADMIN):
            wanted = EntryFilter(
                request.actor,
                request.action,
                request.subject,
                request.since_us,
                min(request.after, 2**62),
                request.oldest_first,
            )
            found = await self._db.call(self._db.store.entries, min(request.limit or 100, MOST_ROWS), wanted)
            return admin_pb2.AuditReply(entries=[entry_view(entry) for entry in found])

    async def CreateApiToken(
        self, request: admin_pb2.CreateApiTokenRequest, context: Context
    ) -> admin_pb2.CreateApiTokenReply:
        async with self._gate.open(context, Role.ADMIN) as operator:
            return await self._api_tokens.create(request, operator)

    async def ListApiTokens(
        self, request: admin_pb2.ListApiTokensRequest, context: Context
    ) -> admin_pb2.ListApiTokensReply:
        async with self._gate.open(context, Role.ADMIN):
            return await self._api_tokens.list()

    async def RevokeApiToken(
        self, request: admin_pb2.RevokeApiTokenRequest, context: Context
    ) -> admin_pb2.RevokeApiTokenReply:
        async with self._gate.open(context, Role.ADMIN) as operator:
            await self._api_tokens.revoke(request.id, operator)
            return admin_pb2.RevokeApiTokenReply()

    async def Suggest(self, request: admin_pb2.SuggestRequest, context: Context) -> admin_pb2.SuggestReply:
        async with self._gate.open(context, Role.VIEWER) as operator:
            return await self._suggestions.suggest(request, operator)

    async def DecideSuggestion(
        self, request: admin_pb2.DecideSuggestionRequest, context: Context
    ) -> admin_pb2.DecideSuggestionReply:
        async with self._gate.open(context, Role.OWNER) as operator:
            await self._suggestions.decide(request, operator)
            return admin_pb2.DecideSuggestionReply()

    async def ListDecisions(
        self, request: admin_pb2.ListDecisionsRequest, context: Context
    ) -> admin_pb2.ListDecisionsReply:
        async with self._gate.open(context, Role.VIEWER):
            return await self._suggestions.decisions()


def _reply(row: DenialRecord) -> admin_pb2.DeniedReply:
    return admin_pb2.DeniedReply(connection=denial_view(row))
