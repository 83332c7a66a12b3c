"""What administrators do with hosts: tag them and remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from segctl_controller.clock import Clock
from segctl_controller.errors import InvalidRequestError, NotFoundError, UnauthenticatedError
from segctl_controller.flowstore.thread import FlowThread
from segctl_controller.names import checked_tags
from segctl_controller.principal import Principal
from segctl_controller.registry import Registry
from segctl_controller.store.records import HostRecord
from segctl_controller.store.refusals import no_host
from segctl_controller.store_thread import StoreThread


class HostAdmin:
    def __init__(self, registry: Registry, db: StoreThread, flows: FlowThread, clock: Clock) -> None:
        self._registry = registry
        self._db = db
        self._flows = flows
        self._clock = clock
        self._one = asyncio.Lock()

    async def set_tags(self, name: str, add: Mapping[str, str], remove: Iterable[str], by: Principal) -> None:
        """Raises NotFoundError, or InvalidRequestError for tags that are malformed or not declared."""
        await self._db.whole(self._set_tags(name, add, remove, by))

    async def _set_tags(self, name: str, add: Mapping[str, str], remove: Iterable[str], by: Principal) -> None:
        fleet = self._registry.fleet
        async with self._one:
            record = self._record(name)
            gone = set(remove)
            if gone & set(add):
                raise InvalidRequestError(f"{', '.join(sorted(gone & set(add)))}: set and removed at once; choose one")
            missing = gone - {key for key, _ in record.tags.pairs}
            if missing:
                raise InvalidRequestError(f"host {name} has no tag {', '.join(sorted(missing))[:200]}")
            checked_tags(add, fleet.active.policy if fleet.active.number else None)
            kept = {key: value for key, value in record.tags.pairs if key not in gone}
            tags = checked_tags({**kept, **add}, None)
            entry = by.entry(self._clock.now_us(), "tag", f"host {name}", f"{record.tags} -> {tags}")
            await self._db.call(self._db.store.set_tags, name, tags, entry)
            current = fleet.hosts.get(name)
            if current is not None:
                fleet.put_host(replace(current, tags=tags))

    async def remove(self, name: str, by: Principal) -> None:
        """Raises NotFoundError."""
        await self._db.whole(self._remove(name, by))

    async def _remove(self, name: str, by: Principal) -> None:
        self._record(name)
        entry = by.entry(self._clock.now_us(), "remove", f"host {name}")
        await self._db.call(self._db.store.remove_host, name, entry)
        self._registry.fleet.drop_host(name)
        self._registry.expel(name, UnauthenticatedError(f"host {name!r} was removed from the fleet"))
        await asyncio.wrap_future(self._flows.forget(name))
        await self._registry.reconsider()

    def _record(self, name: str) -> HostRecord:
        record = self._registry.fleet.hosts.get(name)
        if record is None:
            raise NotFoundError(no_host(name[:80]))
        return record
