"""Our table in the real kernel, when things go wrong around it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.errors import KernelError
from segctl_agent.nft import statements as s
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.operations import AddElements, Batch, DeleteElements
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import (
    INPUT,
    Foreign,
    ForeignKind,
    KeyType,
    NftSet,
    Rule,
    Ruleset,
    SetSpec,
    goto,
)
from segctl_agent.nft.watch import NftWatch, TamperNotice
from segctl_agent.render import cgroup_map

from tests.decided import rendered
from tests.netns.samples import SHOP, SHOP_FACTS
from tests.netns.spaces import Space, cgroup_key
from tests.patience import patience

pytestmark = pytest.mark.kernel

GARBAGE = {
    "rules and anonymous sets": "insert rule inet segctl input tcp dport { 1, 2, 3 } accept",
    "a rule in the middle": 'insert rule inet segctl w_shop-db_in accept comment "x"',
    "an emptied chain": "flush chain inet segctl output",
    "policy accept": "chain inet segctl input { policy accept; }",
    "a foreign base chain": "add chain inet segctl evil { type filter hook input priority -5; policy accept; }",
    "a chain that ours go to": "add chain inet segctl x; add rule inet segctl x accept; "
    "insert rule inet segctl id_in goto x",
    "elements removed and added": "flush map inet segctl w_shop-db_in4; add element inet segctl managed4 { 9.9.9.9 }",
    "intervals": "flush set inet segctl nmon4; add element inet segctl nmon4 { 1.0.0.0/8, 2.0.0.0/8, 3.3.3.3 }",
    "other data": "delete element inet segctl uid_out { 34 }; add element inet segctl uid_out { 34 : accept }",
    "a catch-all": "add element inet segctl cg2_in { * : accept }",
    "a foreign set that rules use": "add set inet segctl s { type ether_addr; }; "
    "add rule inet segctl id_in ether saddr @s accept",
    "a set with timeouts": "add set inet segctl t { type ipv4_addr; flags timeout; timeout 1h; }; "
    "add element inet segctl t { 1.1.1.1 }",
    "a map to a counter": "add counter inet segctl n; add map inet segctl o { type ipv4_addr : counter; }; "
    'add element inet segctl o { 1.1.1.1 : "n" }; add rule inet segctl id_in counter name "n"',
    "a sleeping table": "add table inet segctl { flags dormant; }",
    "a counter of another name": "add counter inet segctl z; insert rule inet segctl input counter name z",
    "a counter in place of another": "add counter inet segctl n; "
    "delete element inet segctl w_shop-db_in4 { 10.0.0.1 . tcp . 5432 }; "
    'add element inet segctl w_shop-db_in4 { 10.0.0.1 . tcp . 5432 : "n" }',
    "a decision that lives longer": "add element inet segctl live { 0x00000900 : accept }",
    "a named quota": "add quota inet segctl q { over 1 mbytes }",
    "a bound chain": "insert rule inet segctl input jump { accept; }",
    "a jump from a foreign chain": "add chain inet segctl y; add rule inet segctl y jump w_shop-db_in",
    "no table": "delete table inet segctl",
    "another table of our name": "delete table inet segctl; add table inet segctl; "
    "add set inet segctl w_shop-db_in4 { type ipv6_addr; }; "
    "add chain inet segctl input { type filter hook output priority 7; }",
}


def nft(script: str) -> str:
    done = subprocess.run(["nft", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{script}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("case", GARBAGE)
def test_it_converges_from_anything_in_our_table(space: Space, case: str) -> None:
    wanted = rendered(SHOP, SHOP_FACTS, 1)

    def body() -> None:
        kernel = NetlinkKernel()
        kernel.apply(plan(None, wanted))
        nft("add table ip neighbour; add chain ip neighbour c; add rule ip neighbour c counter")
        nft(GARBAGE[case])
        found = kernel.read()
        assert found != wanted
        kernel.apply(plan(found, wanted))
        assert kernel.read() == wanted
        assert not plan(kernel.read(), wanted)
        assert "counter" in nft("list table ip neighbour")

    space.run(body)


def test_base_chains_are_never_deleted_for_a_change_of_policy(space: Space) -> None:
    def handles() -> list[str]:
        command = ["nft", "--handle", "list", "table", "inet", "segctl"]
        listing = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        return [line for line in listing if line.startswith(("\tchain input", "\tchain output"))]

    def body() -> None:
        kernel = NetlinkKernel()
        without = replace(SHOP_FACTS, cgroups={})  # nft lists cgroup sets slowly, and these ids have no path
        kernel.apply(plan(None, rendered(SHOP, without, 1)))
        before = handles()
        assert len(before) == 2
        kernel.apply(plan(kernel.read(), rendered(SHOP, without, 2)))
        assert handles() == before

    space.run(body)


def test_a_batch_with_one_bad_message_leaves_the_old_state(space: Space) -> None:
    def body() -> None:
        kernel = NetlinkKernel()
        wanted = rendered(SHOP, SHOP_FACTS, 1)
        kernel.apply(plan(None, wanted))
        good = plan(wanted, rendered(SHOP, SHOP_FACTS, 2))
        bad = AddElements("no_such_set", cgroup_map(0), {cgroup_key(1): goto("w0_in")})
        for position in (0, len(good.operations) // 2, len(good.operations)):
            broken = Batch((*good.operations[:position], bad, *good.operations[position:]))
            with pytest.raises(KernelError, match="no_such_set"):
                kernel.apply(broken)
            assert kernel.read() == wanted

    space.run(body)


def test_the_element_of_a_removed_cgroup_goes(space: Space) -> None:
    """A cgroup made again has another id. libnftables could not delete the old one: it has no path."""

    def body() -> None:
        kernel = NetlinkKernel()
        path = Path("/sys/fs/cgroup/gone.scope")
        path.mkdir()
        before = replace(SHOP_FACTS, cgroups={"gone.scope": path.stat().st_ino})
        kernel.apply(plan(None, rendered(SHOP, before, 1)))
        path.rmdir()
        path.mkdir()
        after = replace(SHOP_FACTS, cgroups={"gone.scope": path.stat().st_ino})
        assert before != after
        wanted = rendered(SHOP, after, 1)
        change = plan(kernel.read(), wanted)
        assert {type(o) for o in change.operations} == {AddElements, DeleteElements}
        kernel.apply(change)
        assert kernel.read() == wanted
        path.rmdir()

    space.run(body)


def test_without_the_capability_the_error_says_what_it_needs(space: Space) -> None:
    def body() -> None:
        os.setuid(65534)
        kernel = NetlinkKernel()
        with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
            kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))

    space.run(body)


def test_a_hundred_thousand_addresses(space: Space) -> None:
    """Loads, reads back and changes one element in bounded time: hours would mean a walk for each element."""

    def body() -> tuple[float, float, float]:
        kernel = NetlinkKernel()
        keys = {(10 << 24 | i).to_bytes(4, "big") + b"\6\0\0\0\x15\x38\0\0": None for i in range(100_000)}
        spec = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_PROTO, KeyType.INET_SERVICE), size=262_144)
        wanted = Ruleset({}, {"w": NftSet(spec, keys)})
        start = time.perf_counter()
        kernel.apply(plan(None, wanted))
        applied = time.perf_counter()
        assert kernel.read() == wanted
        read = time.perf_counter()
        more = Ruleset({}, {"w": NftSet(spec, {**keys, bytes(12): None})})
        delta = plan(wanted, more)
        assert len(delta.operations) == 1
        before = time.perf_counter()
        kernel.apply(delta)
        return applied - start, read - applied, time.perf_counter() - before

    load, read, one = space.run(body)
    print(f"100k elements: load {load * 1000:.0f} ms, read {read * 1000:.0f} ms, one more {one * 1000:.2f} ms")
    assert load < 5
    assert read < 5
    assert one < 0.5


def test_foreign_things_are_named(space: Space) -> None:
    def body() -> Ruleset | None:
        nft(
            "add table inet segctl; add quota inet segctl q { over 1 mbytes }; "
            "add set inet segctl t { type ether_addr; }"
        )
        return NetlinkKernel().read()

    found = space.run(body)
    assert found is not None
    assert found.foreign == {Foreign("q", ForeignKind.OBJECT, 2), Foreign("t", ForeignKind.SET)}


def test_a_tamper_notice_names_the_process_and_the_tables(space: Space) -> None:
    def body() -> tuple[list[TamperNotice], int]:
        kernel = NetlinkKernel()

        async def run() -> tuple[list[TamperNotice], int]:
            notices: asyncio.Queue[TamperNotice] = asyncio.Queue()
            watch = NftWatch(notices.put_nowait, own_pid=os.getpid())
            watch.start(asyncio.get_running_loop())
            kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))  # our own: left out
            child = await asyncio.create_subprocess_exec("nft", "flush chain inet segctl output")
            await child.wait()
            first = await asyncio.wait_for(notices.get(), patience(5))
            second_child = await asyncio.create_subprocess_exec("nft", "add table ip other")
            await second_child.wait()
            second = await asyncio.wait_for(notices.get(), patience(5))
            watch.stop(asyncio.get_running_loop())
            watch.close()
            assert first.pid == child.pid
            assert notices.empty()
            return [first, second], kernel.generation()

        return asyncio.run(run())

    (first, second), generation = space.run(body)
    assert (first.process, first.tables) == ("nft", frozenset({"segctl"}))
    assert (second.process, second.tables, second.generation) == ("nft", frozenset({"other"}), generation)


def test_the_kernel_does_not_deliver_what_our_own_port_wrote(space: Space) -> None:
    def body() -> list[TamperNotice]:
        notices: list[TamperNotice] = []
        kernel = NetlinkKernel()
        watch = NftWatch(notices.append, own_port=kernel.port, buffer=2048)
        wanted = rendered(SHOP, SHOP_FACTS, 1)
        kernel.apply(plan(None, wanted))
        watch.read()
        assert notices == []  # delivered, they would not have fitted in that buffer
        subprocess.run(["nft", "add table ip other"], check=True)
        watch.read()
        NetlinkKernel().apply(plan(wanted, rendered(SHOP, SHOP_FACTS, 2)))
        watch.read()
        return notices

    other, *rest = space.run(body)
    assert (other.process, other.tables) == ("nft", frozenset({"other"}))
    assert rest  # another port of the same process


def test_lost_notifications_are_a_notice_too(space: Space) -> None:
    def body() -> list[TamperNotice]:
        notices: list[TamperNotice] = []
        watch = NftWatch(notices.append, buffer=2048)
        wanted = rendered(SHOP, SHOP_FACTS, 1)
        NetlinkKernel().apply(plan(None, wanted))
        watch.read()
        return notices

    notices = space.run(body)
    assert any(n.process == "unknown" and n.pid == 0 for n in notices)


def test_what_was_told_only_in_part_is_not_taken_for_someone_elses_table(space: Space) -> None:
    """The part that was lost may have been about ours: such a notice leads to a look, not to "unaffected"."""

    def body() -> list[frozenset[str]]:
        notices: list[TamperNotice] = []
        watch = NftWatch(notices.append, buffer=2048)
        NetlinkKernel().apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        for name in ("one", "two"):
            watch.read()
            subprocess.run(["nft", f"add table ip {name}"], check=True)
        watch.read()
        return [n.tables for n in notices[-2:]]

    assert space.run(body) == [frozenset(), frozenset({"two"})]


def test_the_kernel_itself_refuses_what_a_rule_may_not_do(space: Space) -> None:
    """A reset needs a comparison of the protocol first; the kernel only says no when it commits."""

    def body() -> None:
        kernel = NetlinkKernel()
        wanted = rendered(SHOP, SHOP_FACTS, 1)
        kernel.apply(plan(None, wanted))
        loop = Rule.of(s.verdict(goto("id_in")))
        chains = {**wanted.chains, "unknown_in": replace(wanted.chains["unknown_in"], rules=(loop,))}
        with pytest.raises(KernelError):
            kernel.apply(plan(wanted, Ruleset(chains, wanted.sets)))
        assert kernel.read() == wanted
        assert wanted.chains["input"].base == INPUT

    space.run(body)
