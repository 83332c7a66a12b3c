"""Agent.Audit: what people did on a host itself, into the audit log, once each and not too often.

It is what the host says: the actor of the entry is the host, and who did it is part of the text.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from segctl.errors import WireError
from segctl.proto.v1 import agent_pb2

from segctl_controller.clock import Clock
from segctl_controller.enrolment import Quota
from segctl_controller.errors import LimitError
from segctl_controller.registry import Registry
from segctl_controller.rpc import Context, Refusing, caller_of
from segctl_controller.store.records import Entry
from segctl_controller.store_thread import StoreThread

ACTIONS = ("release", "release-ended")
MOST_ENTRIES = 20
MOST_AN_HOUR, WINDOW = 60, 3600.0
LONGEST_TEXT = 512
LATEST_US = 253_402_300_800_000_000
"""The year 10000: what comes after it cannot be shown."""
log = logging.getLogger(__name__)


class HostAuditService:
    def __init__(self, fleet: str, registry: Registry, db: StoreThread, clock: Clock) -> None:
        self._fleet, self._registry, self._db, self._clock = fleet, registry, db, clock
        self._quotas: dict[str, Quota] = {}

    async def serve(self, request: agent_pb2.HostAuditRequest, context: Context) -> agent_pb2.HostAuditReply:
        """The handler of Agent.Audit. What goes over the pace stays on the host, and comes later."""
        async with Refusing(context):
            caller = caller_of(context, self._fleet, "host")
            self._registry.verify(caller.name, caller.serial, caller.issued_us)
            entries = [host_entry(caller.name, told, self._clock.now_us()) for told in request.entries[:MOST_ENTRIES]]
            quota = self._quotas.setdefault(caller.name, Quota(MOST_AN_HOUR, WINDOW))
            stored = []
            for told, entry in zip(request.entries, entries, strict=False):
                if not quota.take():
                    break
                if await self._db.call(self._db.store.add_told, caller.name, told.id, entry):
                    log.warning("%s host=%s %s", entry.action, caller.name, entry.detail)
                stored.append(told.id)
            if entries and not stored:
                raise LimitError(f"host {caller.name} told the audit log {MOST_AN_HOUR} things within an hour; wait")
        return agent_pb2.HostAuditReply(stored=stored)


def host_entry(host: str, told: agent_pb2.HostEntry, now_us: int) -> Entry:
    """Raises WireError for a malformed one."""
    if told.action not in ACTIONS or not 8 <= len(told.id) <= 64 or max(len(told.who), len(told.reason)) > LONGEST_TEXT:
        raise WireError(
            f"an audit entry is a {' or '.join(ACTIONS)} with an id, and texts of at most {LONGEST_TEXT} letters"
        )
    if not (0 <= told.at_us < LATEST_US and 0 <= told.until_us < LATEST_US):
        raise WireError("an audit entry of a time that no clock can show")
    parts = [f"by {_line(told.who) or 'nobody known'} at {_time(told.at_us)} by the host's clock"]
    if told.until_us:
        parts.append(f"until {_time(told.until_us)}")
    if told.reason:
        parts.append(f"reason: {_line(told.reason)}")
    return Entry(now_us, f"host {host}", told.action, f"host {host}", "; ".join(parts))


def _line(text: str) -> str:
    return " ".join(text.split())


def _time(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
