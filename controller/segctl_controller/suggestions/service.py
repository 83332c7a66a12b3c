"""Answers Suggest, DecideSuggestion and ListDecisions. Nothing here changes a policy: what is accepted becomes a file,
and the file a commit, by people."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from segctl.model.inventory import Inventory
from segctl.model.policy import Policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2
from segctl.suggest.addition import joined
from segctl.suggest.compose import identity
from segctl.suggest.engine import suggest
from segctl.suggest.observed import DAY_US, MOST_DAYS
from segctl.suggest.result import Suggestions

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError
from segctl_controller.flowstore.records import MINUTE_US, Observation
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.principal import Principal
from segctl_controller.registry import Registry
from segctl_controller.review import review
from segctl_controller.scoped import refuse_outside
from segctl_controller.store.records import DecisionRecord, DenialFilter, DenialRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.suggestions.decided import ACCEPTED, EDITED, FORGOTTEN, REJECTED, VERDICTS, parsed, refused
from segctl_controller.suggestions.gather import Gatherer, denials, window_of
from segctl_controller.suggestions.views import decision_view, suggestions_view
from segctl_controller.turns import Turns

DEFAULT_DAYS = 28
MOST_OBSERVATIONS, MOST_ADDRESSES, MOST_DENIALS = 500_000, 200_000, 100_000
LONGEST_TEXT, LONGEST_REASON, LONGEST_ID = 64 * 1024, 500, 64
KEPT_US = 60_000_000
"""How long an answer is given again: who lists suggestions and accepts one asks for the same twice."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an answer depends on."""

    minutes: int
    until_us: int
    policy: str
    revision: int
    decisions: tuple[DecisionRecord, ...]
    owner: str


class SuggestionAdmin:
    def __init__(self, registry: Registry, db: StoreThread, flows: FlowThread, turns: Turns, clock: Clock) -> None:
        self._registry, self._fleet = registry, registry.fleet
        self._db, self._flows, self._turns, self._clock = db, flows, turns, clock
        self._last: tuple[_Asked, int, admin_pb2.SuggestReply] | None = None

    async def suggest(self, request: admin_pb2.SuggestRequest, by: Principal) -> admin_pb2.SuggestReply:
        """Raises InvalidRequestError."""
        now = self._clock.now_us()
        until = request.until_us or now
        since = request.since_us or until - DEFAULT_DAYS * DAY_US
        if not 0 <= since < until <= now or until - since > MOST_DAYS * DAY_US:
            raise InvalidRequestError(f"since_us is before until_us, which is not to come, by at most {MOST_DAYS} days")
        decisions = await self._db.call(self._db.store.decisions)
        active = self._fleet.active
        minutes = round((until - since) / MINUTE_US)  # who asks for four weeks before now means the same twice
        asked = _Asked(minutes, request.until_us, active.digest, self._fleet.revision, decisions, by.name)
        if self._last and self._last[0] == asked and now - self._last[1] < KEPT_US:
            return self._last[2]
        store = self._flows.store
        rows = await self._flows.read(store.observations, since, until, MOST_OBSERVATIONS)
        addresses = await self._flows.read(store.outside, since, until, MOST_ADDRESSES)
        denied = await self._db.call(self._db.store.denials, DenialFilter(MOST_DENIALS, "", "", since))
        work = partial(self._work, rows, addresses, denied, (since, until), active.policy, self._fleet.inventory, asked)
        reply = await self._turns.take(by.name, work)
        self._last = asked, now, reply
        return reply

    def _work(
        self,
        rows: tuple[Observation, ...],
        addresses: tuple[bytes, ...],
        denied: tuple[DenialRecord, ...],
        span: tuple[int, int],
        policy: Policy,
        inventory: Inventory,
        asked: _Asked,
    ) -> admin_pb2.SuggestReply:
        """In a thread: of a large fleet it takes many seconds."""
        window = window_of(rows, *span)
        observations = [*Gatherer(window, addresses).observations(rows), *denials(denied, inventory, window)]
        now, refusals = self._clock.now(), tuple(refused(asked.decisions))
        found: Suggestions = suggest(observations, window, inventory, policy, now, refusals, asked.owner)
        accepted = {one.id: one for one in asked.decisions if one.verdict == ACCEPTED}
        return suggestions_view(found, policy, accepted, more=len(rows) == MOST_OBSERVATIONS)

    async def decide(self, request: admin_pb2.DecideSuggestionRequest, by: Principal) -> None:
        """Raises InvalidRequestError naming the field, PolicyError for what could not be pushed, ForbiddenError for
        what is not the owner's, NotFoundError."""
        _check_form(request)
        if request.verdict == FORGOTTEN:
            await self._forget(request.id, by)
            return
        suggested = parsed(request.suggested)
        if suggested is None or identity_of(suggested) != request.id:
            raise InvalidRequestError("suggested is not the policy file of that suggestion: ask for suggestions again")
        # Only the rule counts: what it names may be declared by the policy already.
        refuse_outside(by, self._fleet.active.policy, joined(self._fleet.active.policy, self._news(suggested)))
        if request.verdict in (ACCEPTED, EDITED):
            await self._check(request.decided, by)
        now = self._clock.now_us()
        decision = DecisionRecord(
            request.id, request.verdict, by.name, now, request.reason, request.suggested, request.decided
        )
        detail = f"{suggested.rules[0].name}: {request.reason}" if request.reason else suggested.rules[0].name
        entry = by.entry(now, f"suggestion-{request.verdict}", f"suggestion {request.id}", detail)
        await self._db.call(self._db.store.decide, decision, entry)

    def _news(self, suggested: Policy) -> Policy:
        """What the policy in force does not say."""
        policy = self._fleet.active.policy
        tags = {
            key: rest
            for key, values in suggested.tags.items()
            if (rest := tuple(v for v in values if v not in policy.tags.get(key, ())))
        }
        return Policy(
            tags=tags,
            services={n: s for n, s in suggested.services.items() if policy.services.get(n) != s},
            peers={n: p for n, p in suggested.peers.items() if policy.peers.get(n) != p},
            workloads={n: w for n, w in suggested.workloads.items() if policy.workloads.get(n) != w},
            rules=suggested.rules,
        )

    async def _check(self, text: str, by: Principal) -> None:
        """Beside the policy in force, as a push would see it."""
        active = await self._db.call(self._db.store.generation, 0)
        files = (*(active.files if active else ()), SourceFile("suggestion.yaml", text.encode()))
        addresses = self._registry.controller_addresses
        look = partial(review, files, self._fleet.inventory, self._clock.now(), addresses)
        found = (await self._turns.take(by.name, look)).accepted()
        refuse_outside(by, self._fleet.active.policy, found)

    async def _forget(self, identifier: str, by: Principal) -> None:
        found = next((d for d in await self._db.call(self._db.store.decisions) if d.id == identifier), None)
        suggested = parsed(found.suggested) if found else None
        if suggested is not None:
            refuse_outside(by, self._fleet.active.policy, joined(self._fleet.active.policy, self._news(suggested)))
        entry = by.entry(self._clock.now_us(), "suggestion-forgotten", f"suggestion {identifier}")
        await self._db.call(self._db.store.forget_decision, identifier, entry)

    async def decisions(self) -> admin_pb2.ListDecisionsReply:
        found = await self._db.call(self._db.store.decisions)
        return admin_pb2.ListDecisionsReply(decisions=[decision_view(one) for one in found])


def identity_of(suggested: Policy) -> str:
    rule = suggested.rules[0]
    return identity(rule, suggested.workloads.values(), suggested.peers.values())


def _check_form(request: admin_pb2.DecideSuggestionRequest) -> None:
    if request.verdict not in VERDICTS:
        raise InvalidRequestError(f"verdict {request.verdict[:40]!r}: one of {', '.join(VERDICTS)}")
    if not 0 < len(request.id) <= LONGEST_ID or not request.id.isprintable():
        raise InvalidRequestError(f"id has 1 to {LONGEST_ID} characters")
    if len(request.reason) > LONGEST_REASON or not request.reason.isprintable():
        raise InvalidRequestError(f"reason is one line of at most {LONGEST_REASON} characters")
    if request.verdict == REJECTED and not request.reason.strip():
        raise InvalidRequestError("reason: say why, for whoever meets these flows next")
    if max(len(request.suggested), len(request.decided)) > LONGEST_TEXT:
        raise InvalidRequestError(f"a suggestion has at most {LONGEST_TEXT} bytes")
