"""What administrators do with hosts: tag them and remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from segctl.model.policy import Tags

from segctl_controller.clock import Clock
from segctl_controller.errors import ConflictError, InvalidRequestError, NotFoundError, UnauthenticatedError
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
        gone = set(remove)
        async with self._one:
            was = self._record(name).tags
            while True:
                tags = self._changed(name, was, add, gone)
                entry = by.entry(self._clock.now_us(), "tag", f"host {name}", f"{was} -> {tags}")
                try:
                    await self._db.call(self._db.store.set_tags, name, was, tags, entry)
                    break
                except ConflictError:  # another controller was first, and its notice is on the way
                    found = await self._db.call(self._db.store.hosts_named, (name,))
                    if not found or found[0].tags == was:
                        raise
                    was = found[0].tags
            current = fleet.hosts.get(name)
            if current is not None:
                fleet.put_host(replace(current, tags=tags))

    def _changed(self, name: str, was: Tags, add: Mapping[str, str], gone: set[str]) -> Tags:
        if gone & add.keys():
            raise InvalidRequestError(f"{', '.join(sorted(gone & add.keys()))}: set and removed at once; choose one")
        missing = gone - {key for key, _ in was.pairs}
        if missing:
            raise InvalidRequestError(f"host {name} has no tag {', '.join(sorted(missing))[:200]}")
        active = self._registry.fleet.active
        checked_tags(add, active.policy if active.number else None)
        kept = {key: value for key, value in was.pairs if key not in gone}
        return checked_tags({**kept, **add}, None)

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
