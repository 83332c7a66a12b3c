"""What a policy says of flows, in the words of the explainer: each end once, by segctl.policy.decide.

A map asks about tens of thousands of kinds of flows, and again with the next question. So what was decided is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from segctl.model.inventory import Address
from segctl.model.policy import HOST_WORKLOAD, Mode, Policy
from segctl.policy.decide import Decision, essential

from segctl_controller.flowstore.decisions import DIRECTIONS, Decisions, Group, Service
from segctl_controller.flowstore.records import MapRow

MOST_KNOWN = 500_000
"""Decisions that are kept; beyond it all are made anew."""
Remote = str | bytes
"""The tags of a managed host, or an address of 16 bytes that nobody holds."""
AddressesOf = Callable[[str], tuple[Address, ...]]
"""All addresses of the hosts with these tags: essentials go by address."""
ICMP = (1, 58)


class Said(IntEnum):
    """What the policy says of a flow, the mildest first. NOT_COVERED: nothing allows it, in the mode observe."""

    ALLOWED = 0
    NOT_COVERED = 1
    WOULD_DENY = 2
    DENIED = 3

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", "-")


OF_MODE = {Mode.OBSERVE: Said.NOT_COVERED, Mode.TEST: Said.WOULD_DENY, Mode.ENFORCE: Said.DENIED}


@dataclass(frozen=True, slots=True, eq=False)
class EndSaid:
    """Of one end, the destination's with `ingress`: `decision` is what the policy says whatever the mode. A judge says
    the same with the same object, so that it can be counted by identity."""

    ingress: bool
    said: Said
    decision: Decision


class FlowSaid(NamedTuple):
    """The strictest of the ends: one or two, for an address that nobody holds says nothing."""

    said: Said
    ends: tuple[EndSaid, ...]


def no_addresses(_tags: str) -> tuple[Address, ...]:
    return ()


class Judge:
    """By the policy as it is at `now`. Tags are texts, `key=value,key=value`."""

    def __init__(self, policy: Policy, now: datetime, addresses: AddressesOf = no_addresses) -> None:
        self._policy = policy
        self._decisions = Decisions(policy, now)
        self._addresses = addresses
        self._groups: dict[str, Group] = {}
        self._services: dict[tuple[int, int], Service] = {}
        self._known: dict[tuple[bool, str, str, Remote, int, int], EndSaid] = {}
        self._said: dict[tuple[bool, Said, str, str], EndSaid] = {}

    def flow(self, row: MapRow) -> FlowSaid:
        """Of a process that nobody told of, the mildest that the policy says of any workload there."""
        remote: Remote = row.remote if row.peer_tags is None else row.peer_tags
        near = self.end(row.ingress, row.tags, row.workload, remote, row.protocol, row.port)
        if row.peer_tags is None:
            return FlowSaid(near.said, (near,))
        far = self.end(not row.ingress, row.peer_tags, row.peer_workload, row.tags, row.protocol, row.port)
        return FlowSaid(max(near.said, far.said), (near, far))

    def end(self, ingress: bool, tags: str, workload: str, remote: Remote, protocol: int, port: int) -> EndSaid:
        """What the host with these tags does with `protocol` and `port`; `workload` empty: see `flow`."""
        key = (ingress, tags, workload, remote, protocol, port)
        known = self._known.get(key)
        if known is not None:
            return known
        found = self._end(*key)
        if not self._service(protocol, port).essential[ingress]:  # else addresses count, and hosts change theirs
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _end(self, ingress: bool, tags: str, workload: str, remote: Remote, protocol: int, port: int) -> EndSaid:
        here = self._group(tags)
        if ingress and protocol in ICMP:
            workload = HOST_WORKLOAD  # the kernel answers it
        if not workload:
            each = (self.end(ingress, tags, one, remote, protocol, port) for one in (HOST_WORKLOAD, *here.others))
            return min(each, key=lambda end: end.said)
        local, service = here.member(workload), self._service(protocol, port)
        if isinstance(remote, bytes):
            decision = self._decisions.outside(ingress, here, local, remote, service)
        else:
            decision = self._passed(ingress, remote, service) or self._decisions.between(
                ingress, here, local, self._group(remote), service
            )
        said = Said.ALLOWED if decision.allowed else OF_MODE[local.mode]
        what = (ingress, said, decision.reason, decision.name)
        return self._said.setdefault(what, EndSaid(ingress, said, decision))

    def _group(self, tags: str) -> Group:
        known = self._groups.get(tags)
        if known is None:
            known = self._groups[tags] = self._decisions.group(tags)
        return known

    def _passed(self, ingress: bool, tags: str, service: Service) -> Decision | None:
        if not service.essential[ingress]:
            return None
        return essential(self._policy, DIRECTIONS[ingress], self._addresses(tags), service.port)

    def _service(self, protocol: int, port: int) -> Service:
        known = self._services.get((protocol, port))
        if known is None:
            known = self._services[protocol, port] = self._decisions.service(protocol, port)
        return known
