"""AddressWatcher on rtnetlink."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from segctl_agent.facts.addresses import AddressWatcher
from segctl_agent.facts.values import Address

from tests.netns.spaces import in_namespaces, run
from tests.patience import patience

pytestmark = pytest.mark.kernel

LOOPBACK = frozenset({ip_address("127.0.0.1"), ip_address("::1")})


class Told:
    def __init__(self) -> None:
        self.sets: list[frozenset[Address]] = []
        self.changed = asyncio.Event()

    def __call__(self, addresses: frozenset[Address]) -> None:
        self.sets.append(addresses)
        self.changed.set()

    async def until(self, condition: Callable[[frozenset[Address]], bool]) -> frozenset[Address]:
        async with asyncio.timeout(patience(10)):
            while not self.sets or not condition(self.sets[-1]):
                await self.changed.wait()
                self.changed.clear()
        return self.sets[-1]


def test_without_a_loop_and_within_one_the_dump_is_the_same():
    async def within() -> frozenset[Address]:
        return AddressWatcher().current()

    def body() -> None:
        assert AddressWatcher().current() == LOOPBACK
        run("ip", "addr", "add", "192.0.2.7/24", "dev", "lo")
        assert AddressWatcher().current() == asyncio.run(within()) == LOOPBACK | {ip_address("192.0.2.7")}

    in_namespaces(body)


def test_addresses_that_come_and_go_are_told():
    async def body() -> None:
        told, watcher = Told(), AddressWatcher()
        watcher.start(asyncio.get_running_loop(), told)
        assert await told.until(bool) == LOOPBACK
        four, six = ip_address("192.0.2.7"), ip_address("2001:db8::7")
        run("ip", "addr", "add", f"{four}/24", "dev", "lo")
        await told.until(lambda a: a == LOOPBACK | {four})
        run("ip", "addr", "add", f"{six}/64", "dev", "lo")
        await told.until(lambda a: a == LOOPBACK | {four, six})
        run("ip", "addr", "del", f"{four}/24", "dev", "lo")
        await told.until(lambda a: a == LOOPBACK | {six})
        assert len(told.sets) == len(set(told.sets)) == 4
        watcher.close()

    in_namespaces(lambda: asyncio.run(body()))


def test_an_ipv6_address_counts_once_duplicate_detection_is_through():
    async def body() -> None:
        told, watcher = Told(), AddressWatcher()
        run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for link in ("v0", "v1"):
            run("ip", "link", "set", link, "addrgenmode", "none")
            run("ip", "link", "set", link, "up")
        watcher.start(asyncio.get_running_loop(), told)
        await told.until(bool)
        six = ip_address("2001:db8::7")
        run("sysctl", "-qw", f"net.ipv6.conf.v0.dad_transmits={round(patience(1))}")  # seconds, about
        run("ip", "addr", "add", f"{six}/64", "dev", "v0")
        assert "tentative" in run("ip", "-6", "addr", "show", "dev", "v0")
        assert six not in watcher.current()
        await told.until(lambda a: six in a)
        assert "tentative" not in run("ip", "-6", "addr", "show", "dev", "v0")
        watcher.close()

    in_namespaces(lambda: asyncio.run(body()))


def test_many_changes_at_once_end_in_the_truth():
    async def body() -> None:
        told, watcher = Told(), AddressWatcher()
        watcher.start(asyncio.get_running_loop(), told)
        batch = "\n".join(f"addr add 198.18.{i // 250}.{i % 250 + 1}/32 dev lo" for i in range(2000))
        run("ip", "-batch", "-", stdin=batch)
        final = await told.until(lambda a: len(a) == 2002)
        assert final == watcher.current()
        assert len(told.sets) < 100
        watcher.close()

    in_namespaces(lambda: asyncio.run(body()))


def test_the_dump_leaves_no_pyroute2_in_the_agent():
    """It would keep 11 MB for good."""

    def body() -> tuple[int, bool]:
        for name in [n for n in sys.modules if n.partition(".")[0] == "pyroute2"]:
            del sys.modules[name]
        return len(AddressWatcher().current()), "pyroute2" in sys.modules

    found, imported = in_namespaces(body)
    assert found >= 1
    assert not imported
