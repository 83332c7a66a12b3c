"""Hosts that other processes enrolled, changed or removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from segctl.model.inventory import Address

from segctl_controller.errors import UnauthenticatedError
from segctl_controller.registry import Registry
from segctl_controller.store.notices import MANY
from segctl_controller.store.records import HostRecord
from segctl_controller.store_thread import StoreThread


class Membership:
    """What is stored holds, but for the addresses and facts of hosts that are connected here: those are newer."""

    def __init__(self, registry: Registry, db: StoreThread) -> None:
        self._registry, self._db = registry, db
        self._fleet = registry.fleet

    async def follow(self, names: Collection[str] | None) -> None:
        """The hosts of these names, None: all. Raises StateError."""
        store = self._db.store
        if names is None or len(names) > MANY:
            found = {record.name: record for record in await self._db.call(store.hosts)}
            names = self._fleet.hosts.keys() | found.keys()
        else:
            found = {record.name: record for record in await self._db.call(store.hosts_named, names)}
        # Nothing is awaited from the answer to here: what this process stored since is in memory later, and not sooner.
        claimants: dict[Address, set[str]] = {}
        for name in sorted(names):
            record = found.get(name)
            if record is None:
                self._gone(name)
                continue
            for address in record.addresses:
                claimants.setdefault(address, {name}).add(self._fleet.holders.get(address, name))
            self._put(record)
        for host in sorted(self._losers(claimants)):
            await self._registry.rejudge(host)
        await self._registry.reconsider()

    def _gone(self, name: str) -> None:
        if name in self._fleet.hosts:
            self._fleet.drop_host(name)
            self._registry.expel(name, UnauthenticatedError(f"host {name!r} was removed from the fleet"))

    def _put(self, record: HostRecord) -> None:
        name, before = record.name, self._fleet.hosts.get(record.name)
        if before is not None and before.enrolled_us != record.enrolled_us:
            self._fleet.drop_host(name)
            replaced = UnauthenticatedError(f"host {name!r} was enrolled anew; this certificate was replaced")
            self._registry.expel(name, replaced)
        elif before is not None and self._registry.session(name) is not None:
            record = replace(
                record,
                addresses=before.addresses,
                facts=before.facts,
                agent_version=before.agent_version,
                last_seen_us=before.last_seen_us,
            )
        self._fleet.put_host(record)

    def _losers(self, claimants: Mapping[Address, Collection[str]]) -> set[str]:
        """Hosts that hold an address which another one holds too: both found it free, at two controllers. Whoever was
        enrolled first keeps it, so all controllers come to the same decision."""
        losers: set[str] = set()
        for address, names in claimants.items():
            hosts = [self._fleet.hosts[name] for name in names if name in self._fleet.hosts]
            holders = sorted((h for h in hosts if address in h.addresses), key=lambda h: (h.enrolled_us, h.name))
            if holders:
                self._fleet.holders[address] = holders[0].name
                losers.update(host.name for host in holders[1:])
        return losers
