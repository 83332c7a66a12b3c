"""The fleet as the flow store asks for it, from a thread of its own.

The fleet changes on the event loop meanwhile. Its mappings are only ever looked up here, one key at a time, and what
they hold is frozen; so an answer is as of now or as of a moment ago, and both are true at the time of a flow.
"""

from __future__ import annotations

from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2

from segctl_controller.fleet import Fleet
from segctl_controller.flowstore.wire import PROTOCOLS, address_of
from segctl_controller.store.records import HostRecord


class FleetEnds:
    """Implements segctl_controller.flowstore.stamping.Ends."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._listeners: dict[str, tuple[HostRecord, dict[tuple[int, int], str]]] = {}

    @property
    def revision(self) -> int:
        return self._fleet.revision

    def tags(self, host: str) -> str:
        record = self._fleet.hosts.get(host)
        return str(record.tags) if record else ""

    def holder(self, remote: bytes) -> str:
        return self._fleet.holders.get(address_of(remote), "")

    def listener(self, host: str, protocol: int, port: int) -> str:
        record = self._fleet.hosts.get(host)
        if record is None:
            return ""
        known = self._listeners.get(host)
        if known is None or known[0] is not record:
            known = self._listeners[host] = (record, _listeners(record))
        return known[1].get((protocol, port), "")


class TagAddresses:
    """The addresses of all hosts with some tags, for essentials."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._revision = -1
        self._carrying: dict[str, set[str]] = {}

    def of(self, tags: str) -> tuple[Address, ...]:
        """`key=value,key=value`; hosts may carry more of them."""
        if self._revision != self._fleet.revision:
            self._look()
        wanted = sorted((self._carrying.get(pair, set()) for pair in tags.split(",")), key=len)
        hosts = (self._fleet.hosts.get(name) for name in wanted[0].intersection(*wanted[1:]))
        return tuple(address for host in hosts if host is not None for address in host.addresses)

    def _look(self) -> None:
        self._revision, carrying = self._fleet.revision, dict[str, set[str]]()
        for host in tuple(self._fleet.hosts.values()):
            carrying.setdefault("", set()).add(host.name)
            for key, value in host.tags.pairs:
                carrying.setdefault(f"{key}={value}", set()).add(host.name)
        self._carrying = carrying


def _listeners(record: HostRecord) -> dict[tuple[int, int], str]:
    """By protocol and port; where several workloads listen, empty."""
    found: dict[tuple[int, int], str] = {}
    for listener in agent_pb2.Facts.FromString(record.facts).listeners:
        place = (PROTOCOLS.get(listener.protocol, 0), listener.port)
        found[place] = listener.workload if found.get(place, listener.workload) == listener.workload else ""
    return found
