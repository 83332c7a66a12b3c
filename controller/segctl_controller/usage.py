"""What the fleet's rules are used for: how often each was hit, and when last."""

from __future__ import annotations

from segctl.proto.v1 import admin_pb2

from segctl_controller.errors import InvalidRequestError, NotFoundError
from segctl_controller.fleet import Fleet
from segctl_controller.store.records import RuleUse
from segctl_controller.store_thread import StoreThread

LONGEST_NAME = 64


class Usage:
    """Questions wait for one another, and nothing else waits for them."""

    def __init__(self, fleet: Fleet, db: StoreThread) -> None:
        self._fleet = fleet
        self._db = db

    async def rules(self, request: admin_pb2.RuleUseRequest) -> admin_pb2.RuleUseReply:
        """Rules of the active policy, hit or not, and rules of earlier ones that were hit; by name."""
        used = await self.known(request.rule)
        policy = {rule.name for rule in self._fleet.active.policy.rules if request.rule in ("", rule.name)}
        wanted = sorted(policy | set(used))
        return admin_pb2.RuleUseReply(rules=[use_view(name, used.get(name), name in policy) for name in wanted])

    async def known(self, rule: str) -> dict[str, RuleUse]:
        """Those that were hit, by name; `rule` empty: of all. Raises InvalidRequestError, and NotFoundError for a rule
        that is not in the policy either."""
        if len(rule) > LONGEST_NAME:
            raise InvalidRequestError(f"rule has at most {LONGEST_NAME} characters")
        used = {use.rule: use for use in await self._db.read(self._db.store.rule_use, rule)}
        if rule and not used and all(rule != one.name for one in self._fleet.active.policy.rules):
            raise NotFoundError(f"no rule {rule!r} is in the policy in force, and none of that name was ever hit")
        return used


def use_view(name: str, use: RuleUse | None, in_policy: bool) -> admin_pb2.RuleUse:
    if use is None:
        return admin_pb2.RuleUse(rule=name, in_policy=in_policy)
    # Both ends of one connection count it where both are managed: the end that saw more has seen all of them.
    count = max(use.egress, use.ingress)
    return admin_pb2.RuleUse(rule=name, count=count, last_hit_us=use.last_us, hosts=use.hosts, in_policy=in_policy)
