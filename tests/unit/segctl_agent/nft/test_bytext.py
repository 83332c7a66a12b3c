"""Batches in nft's words, and in which order the rest goes by netlink."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise, product
from random import Random

import pytest
from segctl.policy.compile import compile_host
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft import statements as s
from segctl_agent.nft.bytext import batch_text, split, unsayable
from segctl_agent.nft.evaluate import Packet, evaluate
from segctl_agent.nft.fake import FakeKernel
from segctl_agent.nft.operations import (
    AddChain,
    AddCounter,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Batch,
    DeleteChain,
    DeleteCounter,
    DeleteElements,
    DeleteForeign,
    DeleteSet,
    DeleteTable,
    FlushChain,
    FlushSet,
    Operation,
)
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import (
    ACCEPT,
    INPUT,
    Counts,
    Foreign,
    ForeignKind,
    KeyType,
    Rule,
    Ruleset,
    SetSpec,
    goto,
)

from tests.decided import rendered
from tests.netns.randompolicy import NOW, RandomPolicies
from tests.netns.samples import SAMPLES, SHOP_FACTS

CGROUPS = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
FLOWS = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE), counts=True)
NETWORKS = SetSpec((KeyType.IPV6_ADDR,), interval=True)
MARKS = SetSpec((KeyType.MARK,), verdicts=True, size=8)
AGAIN = SetSpec((KeyType.IPV4_ADDR,), size=64, timeout_ms=1500)
LOOPBACK = b"\0" * 15 + b"\1"
UNIT = struct.pack("=Q", 17)
ACCEPTING = Rule.of(s.uid_is(33), s.verdict(ACCEPT))
BY_NETLINK: tuple[Operation, ...] = (
    AddTable(),
    DeleteElements("c", CGROUPS, (UNIT,)),
    AddElements("c", CGROUPS, {UNIT: ACCEPT}),
    DeleteForeign(Foreign("q", ForeignKind.OBJECT, 2)),
    DeleteForeign(Foreign("f", ForeignKind.FLOWTABLE)),
)
WORDS: list[tuple[Operation, str]] = [
    (FlushChain("w"), "flush chain inet t w"),
    (FlushSet("n6", NETWORKS), "flush set inet t n6"),
    (FlushSet("c", CGROUPS), "flush map inet t c"),
    (DeleteElements("m", MARKS, (b"\1\0\0\0", b"")), "delete element inet t m { 0x00000001, * }"),
    (DeleteSet("c"), "delete set inet t c"),
    (DeleteForeign(Foreign("x", ForeignKind.SET)), "delete set inet t x"),
    (DeleteChain("w"), "delete chain inet t w"),
    (DeleteCounter("r_a"), "delete counter inet t r_a"),
    (AddChain("w"), "add chain inet t w"),
    (AddChain("i", INPUT), "add chain inet t i { type filter hook input priority 0; policy drop; }"),
    (AddSet("c", CGROUPS), "add map inet t c { type cgroupsv2 : verdict; }"),
    (AddSet("n6", NETWORKS), "add set inet t n6 { type ipv6_addr; flags interval; }"),
    (AddSet("o", FLOWS), "add map inet t o { type ipv4_addr . inet_proto . inet_service : counter; }"),
    (AddSet("d", AGAIN), "add set inet t d { type ipv4_addr; size 64; flags dynamic,timeout; timeout 1500ms; }"),
    (AddCounter("r_a"), "add counter inet t r_a"),
    (
        AddElements("n6", NETWORKS, {LOOPBACK * 2: None, b"\xfd" + bytes(15) + b"\xfe" * 16: None}),
        "add element inet t n6 { ::1, fd00::-fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe }",
    ),
    (AddElements("m", MARKS, {b"\1\0\0\0": goto("w")}), "add element inet t m { 0x00000001 : goto w }"),
    (
        AddElements("o", FLOWS, {b"\x0a\0\0\1\6\0\0\0\0\x50\0\0": Counts("r_a")}),
        'add element inet t o { 10.0.0.1 . tcp . 80 : "r_a" }',
    ),
    (AddRule("w", ACCEPTING), "add rule inet t w meta skuid 33 accept"),
]


@pytest.mark.parametrize(("operation", "command"), WORDS)
def test_the_words_of_each_operation(operation: Operation, command: str) -> None:
    assert batch_text(Batch((operation,)), "t") == command + "\n"


@pytest.mark.parametrize("operation", [*BY_NETLINK, DeleteTable(), AddRule("w", Rule(ACCEPTING.exprs))])
def test_what_nft_cannot_say_is_no_command(operation: Operation) -> None:
    with pytest.raises(ValueError, match="it goes by netlink"):
        batch_text(Batch((operation,)))


def test_large_sets_are_added_in_pieces() -> None:
    spec = SetSpec((KeyType.INET_SERVICE,))
    lines = batch_text(Batch((AddElements("p", spec, {struct.pack(">H", n): None for n in range(2500)}),))).splitlines()
    assert [line.count(",") + 1 for line in lines] == [1000, 1000, 500]


def test_elements_of_cgroups_go_before_and_come_after() -> None:
    table, gone, new, *foreign = BY_NETLINK
    said = tuple(op for op, _ in WORDS)
    parts = split(Batch((table, gone, *foreign, *said, new)))
    assert parts.before == Batch((table, gone))
    assert parts.by_text == Batch(said)
    assert parts.after == Batch((*foreign, new))


def test_a_rule_from_the_kernel_and_the_end_of_the_table_go_by_netlink_with_all_else() -> None:
    wordless = AddRule("w", Rule(ACCEPTING.exprs))
    assert unsayable(Batch((FlushChain("w"), AddRule("w", ACCEPTING), wordless))) == wordless
    assert unsayable(Batch((DeleteTable(),))) == DeleteTable()
    for hostile in (DeleteChain("x; flush ruleset"), DeleteForeign(Foreign("a b", ForeignKind.SET)), FlushChain("")):
        assert unsayable(Batch((hostile,))) == hostile
    assert unsayable(Batch(tuple(op for op, _ in WORDS) + BY_NETLINK)) is None


def drawn(seed: int, count: int) -> Iterator[Ruleset]:
    hosts = [(ip_address(f"10.77.{n}.10"), ip_address(f"fd77::{n}:10")) for n in range(3)]
    random, policies = Random(seed), RandomPolicies(seed, hosts)
    for turn in range(count):
        policy, inventory = policies.draw()
        cgroups = {path: number for path, number in PLACES.items() if random.random() < 0.8}
        facts = HostFacts(cgroups=cgroups, users={"www-data": 33, "group:www-data": 33}, addresses=frozenset(hosts[0]))
        yield rendered(compile_host(policy, inventory, "h0", 1, "digest", NOW), facts, turn + 1)


PLACES = {
    "system.slice": 11,
    "system.slice/a.service": 12,
    "system.slice/system-db.slice": 13,
    "system.slice/system-db.slice/db@1.service": 14,
    "app.slice": 15,
    "app.slice/a.service": 16,
    "app.slice/a.service/inner": 17,
    "user.slice": 18,
}


def ancestry(places: dict[str, int], path: str) -> tuple[int, ...]:
    parts = path.split("/")
    return tuple(places["/".join(parts[: n + 1])] for n in range(len(parts)))


def packets(random: Random, places: dict[str, int], count: int) -> Iterator[Packet]:
    for _ in range(count):
        version = random.choice((4, 6))
        own, other = ("10.0.0.9", "10.77.1.10") if version == 4 else ("fd77::10", "fd77::1:10")
        direction = random.choice(("in", "out"))
        ends = (ip_address(own), ip_address(other))
        source, destination = ends if direction == "out" else ends[::-1]
        cgroup = ancestry(places, random.choice(sorted(places)))
        port = random.choice((22, 53, 80, 100, 443, 5432))
        yield Packet(direction, random.choice(("tcp", "udp")), source, destination, port, cgroup=cgroup, uid=33, gid=33)


def check(now: Ruleset, wanted: Ruleset, probes: list[Packet]) -> int:
    """Step by step; how many of the packets were refused in between though both rulesets permit them."""
    kernel, late = FakeKernel(now), 0
    parts = split(plan(now, wanted))
    for part in (parts.before, parts.by_text):
        kernel.apply(part)
        for packet in probes:
            here, *ends = (evaluate(r, packet).verdict != "denied" for r in (kernel.content, now, wanted))
            assert not here or any(ends), f"open in between: {packet}, {part}"
            late += not here and all(ends)
    kernel.apply(parts.after)
    assert kernel.content == wanted
    return late


def test_no_step_permits_what_neither_policy_permits() -> None:
    random, late = Random(5), 0
    for now, wanted in pairwise(drawn(5, 40)):
        late += check(now, wanted, list(packets(random, PLACES, 40)))
    assert late  # the steps do differ from one transaction: cgroups are unknown for a moment


def test_no_step_between_the_samples_opens() -> None:
    random = Random(6)
    numbers = dict(SHOP_FACTS.cgroups)
    other = replace(SHOP_FACTS, cgroups={path: n + 100 for path, n in numbers.items()})
    for before, after in product(SAMPLES.values(), repeat=2):
        now, wanted = rendered(before, SHOP_FACTS, 1), rendered(after, other, 2)
        probes = list(packets(random, numbers, 12)) + list(packets(random, dict(other.cgroups), 12))
        check(now, wanted, probes)
