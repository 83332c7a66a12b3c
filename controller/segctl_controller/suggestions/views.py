"""Suggestions and decisions as messages."""

from __future__ import annotations

from collections.abc import Mapping

from segctl.model.policy import Policy
from segctl.proto.v1 import admin_pb2
from segctl.suggest.observed import Observation
from segctl.suggest.result import Suggestion, Suggestions
from segctl.suggest.text import document, whole

from segctl_controller.store.records import DecisionRecord
from segctl_controller.suggestions.decided import rule_name

MOST_SHOWN = 20
"""Observations of each suggestion, and of each reason."""


def suggestions_view(
    found: Suggestions, policy: Policy, decided: Mapping[str, DecisionRecord], *, more: bool
) -> admin_pb2.SuggestReply:
    return admin_pb2.SuggestReply(
        since_us=max(found.window.since_us, found.window.began_us),
        until_us=found.window.until_us,
        by_hour=not found.window.by_day,
        suggestions=[_suggestion(one, policy, decided.get(one.id)) for one in found.suggestions],
        left_out=[
            admin_pb2.LeftOutFlows(
                reason=one.reason.value,
                why=one.why,
                flows=one.flows,
                observations=[_observed(o) for o in one.observations[:MOST_SHOWN]],
            )
            for one in found.left_out
        ],
        permitted_flows=found.permitted,
        policy=document(found.suggestions),
        more=more,
    )


def _suggestion(one: Suggestion, policy: Policy, decision: DecisionRecord | None) -> admin_pb2.RuleSuggestion:
    evidence, excess, rule = one.evidence, one.excess, one.rule
    return admin_pb2.RuleSuggestion(
        id=one.id,
        name=rule.name,
        source=str(rule.source),
        destination=str(rule.destination),
        services=rule.allow,
        within=rule.within,
        confidence=one.confidence.value,
        rhythm=evidence.rhythm.value,
        flows=evidence.flows,
        sightings=evidence.sightings,
        hosts=evidence.hosts,
        of_hosts=evidence.of_hosts,
        first_seen_us=evidence.first_us,
        last_seen_us=evidence.last_us,
        excess=admin_pb2.SuggestionExcess(
            permitted=excess.permitted,
            seen=excess.seen,
            unseen=excess.unseen,
            silent=excess.silent,
            examples=excess.examples,
        ),
        explains=[_observed(o) for o in one.explains[:MOST_SHOWN]],
        explained=len(one.explains),
        remarks=one.remarks,
        policy=document([one]),
        whole=whole(one, policy),
        decision=decision_view(decision) if decision else None,
    )


def _observed(one: Observation) -> admin_pb2.ObservedFlows:
    return admin_pb2.ObservedFlows(
        source=str(one.source),
        destination=str(one.destination),
        service=str(one.service),
        flows=one.flows,
        sightings=one.bins.bit_count(),
        hosts=one.source_hosts,
        first_seen_us=one.first_us,
        last_seen_us=one.last_us,
    )


def decision_view(record: DecisionRecord) -> admin_pb2.SuggestionDecision:
    return admin_pb2.SuggestionDecision(
        id=record.id,
        verdict=record.verdict,
        actor=record.actor,
        at_us=record.at_us,
        reason=record.reason,
        rule=rule_name(record.suggested),
        suggested=record.suggested,
        decided=record.decided,
    )
