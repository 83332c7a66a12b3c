"""Messages about suggestions to views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segctl.cli import views_suggest as v
from segctl.cli.convert import moment

if TYPE_CHECKING:
    from segctl.proto.v1 import admin_pb2 as pb


def suggestions(m: pb.SuggestReply) -> v.Suggestions:
    return v.Suggestions(
        since=moment(m.since_us),
        until=moment(m.until_us),
        unit="hour" if m.by_hour else "day",
        suggestions=tuple(map(suggestion, m.suggestions)),
        left_out=tuple(
            v.LeftOut(one.reason, one.why, one.flows, tuple(map(observed, one.observations))) for one in m.left_out
        ),
        permitted=m.permitted_flows,
        policy=m.policy,
        more=m.more,
    )


def suggestion(m: pb.RuleSuggestion) -> v.Suggestion:
    excess = m.excess
    return v.Suggestion(
        id=m.id,
        rule=m.name,
        source=m.source,
        destination=m.destination,
        services=tuple(m.services),
        within=tuple(m.within),
        confidence=m.confidence,
        rhythm=m.rhythm,
        flows=m.flows,
        sightings=m.sightings,
        hosts=m.hosts,
        of_hosts=m.of_hosts,
        first_seen=moment(m.first_seen_us),
        last_seen=moment(m.last_seen_us),
        excess=v.PairsPermitted(excess.permitted, excess.seen, excess.unseen, excess.silent, tuple(excess.examples)),
        explains=tuple(map(observed, m.explains)),
        explained=m.explained,
        remarks=tuple(m.remarks),
        policy=m.policy,
        whole=m.whole,
        decision=decision(m.decision) if m.HasField("decision") else None,
    )


def observed(m: pb.ObservedFlows) -> v.Observed:
    first, last = moment(m.first_seen_us), moment(m.last_seen_us)
    return v.Observed(m.source, m.destination, m.service, m.flows, m.sightings, m.hosts, first, last)


def decision(m: pb.SuggestionDecision) -> v.Decision:
    at = moment(m.at_us)
    return v.Decision(m.id, m.rule, m.verdict, m.actor, at, m.reason, m.suggested, m.decided)
