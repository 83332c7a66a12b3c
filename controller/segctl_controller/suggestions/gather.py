"""What the flow store and the denials hold, in the terms of segctl.suggest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from segctl.model.inventory import Inventory
from segctl.model.policy import HOST_WORKLOAD, Network, Tags
from segctl.proto.v1 import admin_pb2
from segctl.suggest.observed import HOUR_US, Observation, ObservedEnd, Window
from segctl.wire import address_from_wire, denied_service_from_wire

from segctl_controller.deniedflows import as_flows_have_it
from segctl_controller.flowstore import records
from segctl_controller.flowstore.decisions import parse_tags
from segctl_controller.flowstore.wire import address_of, service_of
from segctl_controller.store.records import DenialRecord

HOURS = 24


def window_of(rows: Sequence[records.Observation], since_us: int, until_us: int) -> Window:
    """By hours where the fleet has been observed for a day or less. Raises ValueError."""
    Window.of(since_us, until_us)
    began = min((row.first_us for row in rows), default=since_us)
    return Window.of(max(since_us, min(began, until_us - HOUR_US)), until_us)


class Gatherer:
    """`addresses` are unmanaged ones that were seen in the window (16 bytes): where all of a network that an
    observation tells of are among them, each is told by itself."""

    def __init__(self, window: Window, addresses: Iterable[bytes]) -> None:
        self._window = window
        self._tags: dict[str, Tags] = {}
        self._known: dict[Network, list[Network]] = defaultdict(list)
        for remote in addresses:
            single = ip_network(address_of(remote))
            self._known[single.supernet(new_prefix=24 if single.version == 4 else 64)].append(single)

    def observations(self, rows: Iterable[records.Observation]) -> Iterator[Observation]:
        for row in rows:
            bins = self._bins(row)
            sources, destinations = self._ends(row.source), self._ends(row.destination)
            share = len(sources) * len(destinations)
            for source in sources:
                for destination in destinations:
                    yield Observation(
                        source,
                        destination,
                        service_of(row.protocol, row.port),
                        max(1, row.flows // share),
                        row.first_us,
                        row.last_us,
                        bins,
                        row.source.hosts if len(sources) == 1 else 1,
                        row.destination.hosts if len(destinations) == 1 else 1,
                    )

    def _bins(self, row: records.Observation) -> int:
        window, found = self._window, 0
        first = window.since_us // window.bin_us
        for number in range(first, window.until_us // window.bin_us + 1):
            told = row.days >> number % records.DAYS if window.by_day else row.hours >> number % HOURS
            lived = row.first_us // window.bin_us <= number <= row.last_us // window.bin_us
            found |= (told & lived) << (number - first)
        # What was only told as living on is at least where it was seen last.
        return found or 1 << window.bin_of(min(max(row.last_us, window.since_us), window.until_us))

    def _ends(self, end: records.ObservedEnd) -> list[ObservedEnd]:
        if end.tags is not None:
            tags = self._tags.get(end.tags)
            if tags is None:
                tags = self._tags[end.tags] = parse_tags(end.tags)
            return [ObservedEnd(tags, end.workload or HOST_WORKLOAD, end.process)]
        network = _network(end)
        singles = self._known.get(network, [])
        # Only where they are as many as were counted are they those.
        if network.prefixlen < network.max_prefixlen and len(singles) == end.hosts:
            return [ObservedEnd(network=single) for single in singles]
        return [ObservedEnd(network=network)]


def _network(end: records.ObservedEnd) -> IPv4Network | IPv6Network:
    address = address_of(end.remote)
    prefix = end.prefix - 96 if address.version == 4 else end.prefix
    return ip_network((address, prefix), strict=False)


def denials(rows: Iterable[DenialRecord], inventory: Inventory, window: Window) -> Iterator[Observation]:
    """Of hosts that are enrolled. Of the other end of a denial nobody knows the process."""
    for row in rows:
        told = admin_pb2.DeniedConnection.FromString(row.body)
        denial, host = told.denial, inventory.hosts.get(row.host)
        if host is None or denial.verdict != "denied":
            continue
        peer = inventory.hosts.get(told.peer_host)
        near = ObservedEnd(host.tags, row.workload, as_flows_have_it(denial.process))
        remote = ip_network(address_from_wire(denial.remote))
        far = ObservedEnd(peer.tags) if peer else ObservedEnd(network=remote)
        ends = (far, near) if denial.ingress else (near, far)
        service = denied_service_from_wire(denial.service)
        bins = 1 << min(window.bin_of(row.last_us), window.bin_of(window.until_us))
        yield Observation(*ends, service, row.count, row.first_us, row.last_us, bins, denied=row.count)
