"""Admin.RuleReport: what has become of each rule, and the mend."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import timedelta

from segctl.model.policy import Rule
from segctl.policy.life.breadth import Used
from segctl.policy.life.past import Age
from segctl.policy.life.rules import Evidence, Horizon, RuleFinding, Use, find_rule_findings
from segctl.policy.life.season import DAY_US
from segctl.proto.v1 import admin_pb2

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError
from segctl_controller.fleet import Fleet
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.records import UseRow
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.flowstore.wire import service_of
from segctl_controller.life.history import PolicyHistory
from segctl_controller.life.wire import finding_view
from segctl_controller.store.records import RuleUse
from segctl_controller.store_thread import StoreThread
from segctl_controller.turns import Turns
from segctl_controller.usage import Usage, use_view

MOST_USED = 200_000
WINDOW_DAYS = 30
"""Of flows, for what a rule is used for."""
LONGEST_HORIZON = 3650


class RuleReports:
    def __init__(
        self, fleet: Fleet, db: StoreThread, flows: FlowThread, clock: Clock, history: PolicyHistory, turns: Turns
    ) -> None:
        self._fleet, self._flows, self._clock = fleet, flows, clock
        self._usage = Usage(fleet, db)
        self._history, self._turns = history, turns

    async def ask(self, request: admin_pb2.RuleReportRequest, operator: str) -> admin_pb2.RuleReportReply:
        """Raises InvalidRequestError, NotFoundError for a rule that nobody knows, LimitError where the operator asks
        too much at once."""
        if max(request.stale_days, request.soon_days) > LONGEST_HORIZON:
            raise InvalidRequestError(f"stale_days and soon_days are at most {LONGEST_HORIZON}")
        policy, inventory, now = self._fleet.active.policy, self._fleet.inventory, self._clock.now()
        used = await self._usage.known(request.rule)
        past = await self._history.past()
        store, since_us = self._flows.store, max(self._clock.now_us() - WINDOW_DAYS * DAY_US, 0)
        days = await self._flows.read(store.rule_days)
        wanted = {rule.name: rule for rule in policy.rules if request.rule in ("", rule.name)}
        rows = await self._flows.read(store.used, since_us, 0, MOST_USED, tuple(wanted), frozenset(policy.tags))
        more = len(rows) == MOST_USED
        ages = await asyncio.to_thread(past.rules, policy)
        horizon = Horizon(*(timedelta(days=n or 30) for n in (request.stale_days, request.soon_days)))

        def work() -> tuple[RuleFinding, ...]:
            # By a part of its use a rule would seem broader than it is.
            evidence = Evidence(ages, _uses(used, days, () if more else rows), WINDOW_DAYS, horizon)
            return find_rule_findings(policy, inventory, evidence, now)

        findings = defaultdict[str, list[RuleFinding]](list)
        for finding in await self._turns.take(operator, work):
            findings[finding.rule].append(finding)
        return admin_pb2.RuleReportReply(
            rules=[
                *(_life(rule, used.get(name), ages.get(name), findings[name]) for name, rule in wanted.items()),
                *(admin_pb2.RuleLife(use=use_view(name, use, False)) for name, use in used.items() if name not in ages),
            ],
            window_days=WINDOW_DAYS,
            more=more,
        )


def _uses(used: Mapping[str, RuleUse], days: Mapping[str, frozenset[int]], rows: Iterable[UseRow]) -> Mapping[str, Use]:
    permitted = defaultdict[str, list[Used]](list)
    for row in rows:
        permitted[row.rule].append(_used(row))
    names = {*used, *days, *permitted}
    return {
        name: Use(used[name].last_us if name in used else 0, days.get(name, frozenset()), tuple(permitted[name]))
        for name in names
    }


def _used(row: UseRow) -> Used:
    local, service = parse_tags(row.tags), service_of(row.protocol, row.port)
    peer = None if row.peer_tags is None else parse_tags(row.peer_tags)
    if row.ingress:
        return Used(peer, row.peer_workload, local, row.workload, service)
    return Used(local, row.workload, peer, row.peer_workload, service)


def _life(rule: Rule, use: RuleUse | None, age: Age | None, findings: Iterable[RuleFinding]) -> admin_pb2.RuleLife:
    return admin_pb2.RuleLife(
        use=use_view(rule.name, use, True),
        since_us=age.since_us if age else 0,
        since_known=age.known if age else False,
        owner=rule.owner,
        why=rule.why,
        review=rule.review.isoformat() if rule.review else "",
        expires=rule.expires,
        findings=map(finding_view, findings),
    )
