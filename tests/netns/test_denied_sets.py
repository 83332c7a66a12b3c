"""Denied packets counted by the kernel and told to the last one, on end chains as `render.ends` makes them."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Answer, Mode
from segctl_agent.denials.coalesce import NOT_LOGGED
from segctl_agent.denials.counts import Direction
from segctl_agent.denials.values import Verdict
from segctl_agent.nft import statements as s
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import ACCEPT, INPUT, OUTPUT, Chain, NftSet, Rule, Ruleset, goto
from segctl_agent.render.ends import (
    back_name,
    denied_counters,
    end_chain,
    end_name,
    end_sets,
    refuse_chains,
    unknown_chain,
    unknown_name,
)
from segctl_agent.render.marks import Permit

from tests.netns.spaces import in_namespaces, run
from tests.netns.station import Station, program
from tests.patience import patience

pytestmark = pytest.mark.kernel

T = TypeVar("T")
MASKS: Mapping[Direction, int] = {"out": 0xFFF00000, "in": 0x000FFF00}
SHIFTS: Mapping[Direction, int] = {"out": 20, "in": 8}
LIVE, REFUSED, UNKNOWN = 7, 8, 4095
REMOTE = {4: "10.99.{}.{}", 6: "fd99::9:{}:{}"}


def mark(direction: Direction, number: int) -> s.Statement:
    return s.ct_mark_set(MASKS[direction], number << SHIFTS[direction])


def permit(direction: Direction, refused: int = REFUSED) -> Permit:
    judged = s.ct_mark_is(MASKS[direction], LIVE << SHIFTS[direction])
    return Permit(mark(direction, LIVE), judged, mark(direction, refused))


def name_of(mode: Mode) -> Callable[[Direction, int], tuple[str, Verdict] | None]:
    verdict: Verdict = "denied" if mode is Mode.ENFORCE else "would-deny"
    names: dict[int, tuple[str, Verdict]] = {
        LIVE: ("shop", verdict),
        REFUSED: ("shop", verdict),
        UNKNOWN: ("?", "denied"),
    }
    return lambda direction, value: names.get((value & MASKS[direction]) >> SHIFTS[direction])


def shop(mode: Mode = Mode.ENFORCE) -> HostPolicy:
    return HostPolicy("h", 1, "d", (LocalWorkload("shop", None, mode),))


def table(policy: HostPolicy, size: int | None = None, refused: int = REFUSED) -> Ruleset:
    """Ports from 7000 are denied, 8000 is of an unknown cgroup; a flow that was accepted passes by its mark."""
    (workload,) = policy.workloads
    chains = dict(refuse_chains(policy))
    for direction, hook in (("out", OUTPUT), ("in", INPUT)):
        d: Direction = "out" if direction == "out" else "in"
        older = (s.ct_mark_is(0x80, 0x80), s.tcp_without_syn())
        own = permit(d, refused)
        chains[end_name("shop", d)] = end_chain(d, workload, own, older)
        if workload.mode is not Mode.OBSERVE:
            chains[back_name("shop", d)] = Chain()
        chains[unknown_name(d)] = unknown_chain(d, mark(d, UNKNOWN), enforcing=policy.enforcing)
        to_end = s.verdict(goto(end_name("shop", d)))
        rules = [Rule.of(own.judged, s.verdict(ACCEPT))]
        for kind in ("tcp", "udp"):
            protocol = "tcp" if kind == "tcp" else "udp"
            rules.append(Rule.of(s.destination_port(protocol, 7000, 7999), to_end))
            rules.append(Rule.of(s.destination_port(protocol, 8000, 8000), s.verdict(goto(unknown_name(d)))))
        if d == "out":
            rules += [Rule.of(s.icmp_type(8, 8, version=4), to_end)]
        rules.append(Rule.of(own.mark, s.verdict(ACCEPT)))
        chains[direction + "put"] = Chain(tuple(rules), hook)
    sets = end_sets(policy)
    if size is not None:
        sets = {n: NftSet(replace(x.spec, size=size)) if n.startswith("denied") else x for n, x in sets.items()}
    return Ruleset(chains, sets)


class Counting(Station):
    """A host with one link to nowhere, on which every address answers to ARP by being known."""

    def __init__(self, policy: HostPolicy, size: int | None = None) -> None:
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
        run("ip", "link", "set", "wire", "up")
        run("ip", "link", "set", "eth0", "up", "arp", "off")
        run("ip", "addr", "add", "10.99.255.1/16", "dev", "eth0")
        run("ip", "addr", "add", "fd99::1/64", "dev", "eth0", "nodad")
        self.policy = policy
        self.kernel = NetlinkKernel()
        self.wanted = table(policy, size)
        self.kernel.apply(plan(self.kernel.read(), self.wanted))
        super().__init__(name_of=name_of(policy.workloads[0].mode))

    @property
    def denied(self) -> int:
        return sum(denied_counters(self.kernel.counters(), self.policy).values())

    async def settled(self, seconds: float = 12.0) -> int:
        """Until every packet that the kernel counted has been told or is known as lost; how many there were."""
        counted = self.denied
        async with asyncio.timeout(patience(seconds)):
            while self.told.packets + self.told.lost < counted:
                self.pipeline.account(denied_counters(self.kernel.counters(), self.policy))
                await asyncio.sleep(0.4)
        for _ in range(3):  # and none is told twice
            self.pipeline.account(denied_counters(self.kernel.counters(), self.policy))
            await asyncio.sleep(0.5)
        return counted

    def by_flow(self) -> Counter[tuple[bool, str, str, str, int]]:
        found: Counter[tuple[bool, str, str, str, int]] = Counter()
        for d in self.told.denials:
            found[d.ingress, d.verdict, str(d.remote), d.protocol, d.port] += d.count
        return found

    def close(self) -> None:
        self.kernel.close()
        super().close()


def counting(
    body: Callable[[Counting], Coroutine[Any, Any, T]], policy: HostPolicy | None = None, size: int | None = None
) -> T:
    async def main() -> T:
        station = Counting(policy or shop(), size)
        station.pipeline.account(denied_counters(station.kernel.counters(), station.policy))
        await asyncio.sleep(0.6)
        result = await body(station)
        station.close()
        return result

    return in_namespaces(lambda: asyncio.run(main()))


FLOOD = """
s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)
for i in range({count}):
    try: s.sendto(b'x', ('{remote}'.format(i % {hosts} // 250, i % {hosts} % 250 + 1), {port} + i % {ports}))
    except OSError: pass
"""


def flood(count: int, hosts: int = 1, port: int = 7000, ports: int = 1, version: int = 4) -> str:
    family = "" if version == 4 else "6"
    return FLOOD.format(family=family, count=count, hosts=hosts, port=port, ports=ports, remote=REMOTE[version])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.TEST])
def test_a_flow_is_counted_to_the_last_packet_and_logged_a_few_times(version: int, mode: Mode) -> None:
    async def body(station: Counting) -> tuple[int, int, int]:
        client = await program(flood(20_000, version=version) + "print('sent', flush=True); sys.stdin.read()")
        assert client.stdout is not None
        assert b"sent" in await client.stdout.readline()
        counted = await station.settled()
        await client.communicate(b"")
        assert {d.process.pid for d in station.told.denials} == {client.pid}
        verdict = "denied" if mode is Mode.ENFORCE else "would-deny"
        remote = str(ip_address(REMOTE[version].format(0, 1)))
        assert dict(station.by_flow()) == {(False, verdict, remote, "udp", 7000): counted}
        for denial in station.told.denials:
            assert denial.first_seen_us <= denial.last_seen_us
        return counted, station.pipeline.received, station.told.lost

    counted, logged, lost = counting(body, shop(mode))
    # In test mode the first packet marks the flow, and the rest passes by its mark.
    assert counted == (20_000 if mode is Mode.ENFORCE else 1)
    assert logged <= 8
    assert lost == 0


def test_of_a_scan_every_flow_appears_with_its_count() -> None:
    async def body(station: Counting) -> tuple[Counter[tuple[bool, str, str, str, int]], int, int, int]:
        client = await program(flood(24_000, hosts=6000))
        await client.communicate(b"")
        counted = await station.settled(40)
        unnamed = sum(d.count for d in station.told.denials if d.process_unknown == NOT_LOGGED.unknown)
        return station.by_flow(), counted, station.told.lost, unnamed

    flows, counted, lost, unnamed = counting(body)
    print(f"{unnamed} packets without a log")
    assert (counted, lost) == (24_000, 0)
    assert len(flows) == 6000
    assert set(flows.values()) == {4}
    assert unnamed > 0  # 2000 at once and 1000 a second were logged


def test_what_a_full_set_does_not_hold_is_logged_or_lost_and_never_silent() -> None:
    async def body(station: Counting) -> tuple[int, int, int]:
        client = await program(flood(6000, hosts=3000))
        await client.communicate(b"")
        counted = await station.settled()
        return counted, station.told.packets, station.told.lost

    counted, told, lost = counting(body, size=64)
    print(f"{told} told, {lost} lost of {counted}")
    assert counted == 6000
    assert told + lost == counted
    assert told >= 1500
    assert lost > 0


def test_packets_without_ports_or_connection_are_logged() -> None:
    async def body(station: Counting) -> Counter[tuple[bool, str, str, str, int]]:
        for _ in range(3):
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) as raw, suppress(PermissionError):
                raw.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("10.99.0.9", 0))
        run("nft", "add table inet raw; add chain inet raw o { type filter hook output priority -300; }")
        run("nft", "add rule inet raw o udp dport 7009 notrack")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(2):
                with suppress(PermissionError):
                    client.sendto(b"x", ("10.99.0.9", 7009))
        await station.told.until(lambda: station.told.packets >= 2)
        assert await station.settled() == 5
        assert station.told.lost == 0
        return station.by_flow()

    flows = counting(body)
    assert flows == {
        (False, "denied", "10.99.0.9", "icmp", 8): 3,
        (False, "denied", "10.99.0.9", "udp", 7009): 2,
    }


def test_incoming_and_unknown_flows_are_told_apart() -> None:
    async def body(station: Counting) -> tuple[Counter[tuple[bool, str, str, str, int]], set[str]]:
        # A port of the host's own address is reached over lo: what passes the output chain comes back as input.
        run("nft", "insert rule inet segctl output oif lo accept")
        client = await program(flood(4000, port=8000) + flood(6000, port=7001).replace("10.99.{}.{}", "10.99.255.1"))
        await client.communicate(b"")
        assert await station.settled() == 10_000
        assert station.told.lost == 0
        return station.by_flow(), {d.workload for d in station.told.denials if d.port == 8000}

    flows, workloads = counting(body)
    assert flows == {
        (False, "denied", "10.99.0.1", "udp", 8000): 4000,
        (True, "denied", "10.99.255.1", "udp", 7001): 6000,
    }
    assert workloads == {"?"}


def test_a_refused_mark_opens_nothing_and_is_no_hindrance_later() -> None:
    """A datagram of a flow that conntrack has confirmed is denied: the next one still is, and passes again once it is
    permitted. With a live id in `refused`, the second datagram would pass."""

    def body() -> list[list[bool]]:
        run("ip", "link", "set", "lo", "up")
        run("nft", "add table inet t; add chain inet t o { type filter hook output priority -10; }")
        kernel = NetlinkKernel()
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 7000))
        server.settimeout(0.3)
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("127.0.0.1", 7000))

        def passes() -> bool:
            with suppress(OSError):
                client.send(b"x")
                return bool(server.recv(8))
            return False

        # An ICMP error would be the client's next answer, whatever became of its next datagram.
        silent = replace(shop(), workloads=(replace(shop().workloads[0], outgoing=Answer.DROP),))
        out = []
        for refused in (REFUSED, LIVE):
            closed = table(silent, refused=refused)
            # Only the output end decides here; in `opened` it permits.
            closed = replace(closed, chains={k: v for k, v in closed.chains.items() if k != "input"})
            output = closed.chains["output"]
            opened = replace(closed, chains={**closed.chains, "output": Chain((output.rules[-1],), OUTPUT)})
            seen = []
            for wanted in (opened, closed, closed, closed, opened):
                # Closing takes the live id away from the flow, as a fresh decision does.
                if wanted is closed and len(seen) == 1:
                    run("nft", "add rule inet t o udp dport 7000 ct mark set ct mark and 0x000fffff")
                kernel.apply(plan(kernel.read(), wanted))
                seen.append(passes())
                run("nft", "flush chain inet t o")
            out.append(seen)
            kernel.destroy()
        return out

    own, live = in_namespaces(body)
    assert own == [True, False, False, False, True]
    assert live == [True, False, True, True, True]
