"""Denials of what no rule can name, and the multicast noise of a normal host, on the real table."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from segctl_agent.facts.values import HostFacts
from segctl_agent.messages import denial_message
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.render import denied_counters

from tests.decided import rendered
from tests.netns.samples import LOCKED
from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.netns.station import UNIT, Station
from tests.patience import patience

pytestmark = pytest.mark.kernel

T = TypeVar("T")
Told = Counter[tuple[str, str]]
"""Packets told, by service and remote address."""


class Shut(Station):
    """A host whose every process is enforced and may do nothing, with one link whose other end is a host's too."""

    def __init__(self) -> None:
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        for link in ("wire", "eth0"):
            run("ip", "link", "set", link, "up")
        run("ip", "addr", "add", "10.78.0.1/24", "dev", "eth0")
        run("ip", "addr", "add", "fd78::1/64", "dev", "eth0", "nodad")
        run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
        super().__init__(name_of=lambda direction, mark: ("host", "denied"))  # nothing else sends here
        self.kernel = NetlinkKernel()
        self.kernel.apply(plan(None, rendered(LOCKED, HostFacts(cgroups={UNIT: (CGROUPS / UNIT).stat().st_ino}), 1)))

    def close(self) -> None:
        self.kernel.close()
        super().close()

    @property
    def denied(self) -> int:
        return sum(denied_counters(self.kernel.counters(), LOCKED).values())

    def heard(self) -> Told:
        told: Told = Counter()
        for denial in self.told.denials:
            service = denial_message(denial).service
            told[f"{service.protocol}/{service.low}", str(denial.remote)] += denial.count
        return told


def shut(body: Callable[[Shut], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        station = Shut()
        try:
            return await body(station)
        finally:
            station.close()

    return in_namespaces(lambda: asyncio.run(main()))


def raw(protocol: int, version: int, remote: str) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        try:
            sock.sendto(bytes(32), (remote, 0))
        except OSError:
            return  # refused by the table: that is the point, and the log tells


def test_every_protocol_is_told_by_its_number() -> None:
    numbers = {"SCTP": 132, "GRE": 47, "ESP": 50, "OSPF": 89, "VRRP": 112, "unassigned": 253}
    remotes = {4: "10.78.0.2", 6: "fd78::2"}

    async def body(station: Shut) -> tuple[Told, int, int]:
        for version, remote in remotes.items():
            for number in numbers.values():
                raw(number, version, remote)
        raw(112, 4, "224.0.0.18")
        await station.told.until(lambda: len(station.told.denials) >= 2 * len(numbers) + 1)
        return station.heard(), station.told.lost, station.denied

    told, lost, counted = shut(body)
    assert {(f"ip/{n}", r) for n in numbers.values() for r in remotes.values()} <= set(told)
    assert told["ip/112", "224.0.0.18"] == 1
    assert (lost, counted) == (0, told.total())


def test_joining_groups_makes_few_denials() -> None:
    """What a normal host does: IGMP reports (RFC 3376, twice a join), MLD reports (essential), mDNS in bursts."""
    groups, burst = 20, 50

    async def body(station: Shut) -> tuple[Told, int, int, int]:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        ):
            link = socket.if_nametoindex("eth0")
            four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.78.0.1"))
            for n in range(1, groups + 1):
                group = struct.pack("=4s4si", socket.inet_aton(f"239.1.1.{n}"), bytes(4), link)
                four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
                wide = socket.inet_pton(socket.AF_INET6, f"ff15::{n}") + struct.pack("=I", link)
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, wide)
            for _ in range(burst):
                try:
                    four.sendto(b"hello", ("224.0.0.251", 5353))
                except OSError:
                    continue
            # RFC 3376: the second report within a second of the first; what was only counted, two dumps later.
            await station.told.until(lambda: station.heard()["ip/2", "224.0.0.22"] >= 2)
            await asyncio.sleep(patience(4))
        return station.heard(), len(station.told.denials), station.told.lost, station.denied

    told, denials, lost, counted = shut(body)
    print(f"{counted} packets denied, told in {denials} denials: {dict(told)}")
    assert {service for service, _ in told} == {"ip/2", "udp/5353"}
    assert told["udp/5353", "224.0.0.251"] == burst
    assert (lost, counted) == (0, told.total())
    assert denials <= 8
