"""libnftables as the second way: the same tables as by netlink, also when the kernel refuses our encoding."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import struct
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from segctl.errors import KernelError, KernelFormError
from segctl.policy.compile import compile_host
from segctl.systemd import Notifier
from segctl_agent.credentials import load_identity
from segctl_agent.enforcer import Enforcer
from segctl_agent.facts.values import HostFacts
from segctl_agent.loop import Loop
from segctl_agent.nft import statements as s
from segctl_agent.nft.fallback import AutoKernel, LibraryKernel, Tell
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.messages import Message, encode
from segctl_agent.nft.operations import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Batch,
    DeleteElements,
    FlushChain,
)
from segctl_agent.nft.ownership import GUARDED, PERSIST, TableGuard, TableState
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import ACCEPT, DROP, Expr, KeyType, NftSet, Rule, Ruleset, SetSpec, goto
from segctl_agent.render import MarkLayout
from segctl_agent.state import StateFolder

from tests.decided import rendered
from tests.netns.kernels import from_ownership
from tests.netns.randompolicy import NOW, RandomPolicies
from tests.netns.samples import LOCKED, SAMPLES, SHOP, SHOP_FACTS
from tests.netns.spaces import Space, in_namespaces
from tests.netns.test_agent_process import AGENT, agent, enrolled, start, table, until
from tests.netns.test_ownership import state
from tests.patience import patience

pytestmark = pytest.mark.kernel

PLACES = ("system.slice", "system.slice/a.service", "app.slice", "app.slice/a.service/inner", "user.slice")
CGROUPS = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
KEY = struct.pack("=Q", 12345678)
ADDRESSES = SetSpec((KeyType.IPV4_ADDR,))


def without_rules(batch: Batch, table: str, flags: int) -> list[Message]:
    """An encoder that proves where rules come from: it has none."""
    return encode(Batch(tuple(op for op in batch.operations if not isinstance(op, AddRule))), table, flags)


def wrong(batch: Batch, table: str, flags: int) -> list[Message]:
    """An encoder with a mistake: it asks conntrack for a key that no kernel has."""
    return encode(Batch(tuple(_spoilt(op) if isinstance(op, AddRule) else op for op in batch.operations)), table, flags)


def _spoilt(op: AddRule) -> AddRule:
    exprs = (Expr("ct", ((2, struct.pack(">I", 250)), *e.attrs[1:])) if e.name == "ct" else e for e in op.rule.exprs)
    return replace(op, rule=Rule(tuple(exprs), op.rule.text))


def drawn(seed: int, count: int) -> list[Ruleset]:
    hosts = [(ip_address(f"10.77.{n}.10"), ip_address(f"fd77::{n}:10")) for n in range(3)]
    random, policies, out = Random(seed), RandomPolicies(seed, hosts), []
    for turn in range(count):
        policy, inventory = policies.draw()
        cgroups = {path: random.randrange(1, 1 << 40) for path in PLACES}
        facts = HostFacts(cgroups=cgroups, users={"www-data": 33, "group:www-data": 33}, addresses=frozenset(hosts[0]))
        out.append(rendered(compile_host(policy, inventory, "h0", 1, "digest", NOW), facts, turn + 1))
    return out


def same_both_ways(rulesets: list[Ruleset]) -> None:
    """From scratch, as changes one after the other, and back to nothing."""
    text, netlink = LibraryKernel(encode=without_rules), NetlinkKernel("segctl-netlink")
    for number, wanted in enumerate(rulesets):
        for kernel in (text, netlink):
            kernel.apply(plan(kernel.read(), wanted))
        by_text, by_netlink = text.read(), netlink.read()
        assert by_text == by_netlink, number
        assert by_text == wanted, number
        text.destroy()
        text.apply(plan(None, wanted))
        assert text.read() == wanted, number


def test_every_sample_is_the_same_both_ways(space: Space) -> None:
    space.run(lambda: same_both_ways([rendered(p, SHOP_FACTS, n + 1) for n, p in enumerate(SAMPLES.values())]))


def test_random_policies_are_the_same_both_ways(space: Space) -> None:
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    space.run(lambda: same_both_ways(drawn(seed, 25)))


def test_ten_thousand_elements(space: Space) -> None:
    networks = replace(ADDRESSES, interval=True)
    singles = {struct.pack(">I", 0x0A000000 + n): None for n in range(10_000)}
    ranges = {struct.pack(">II", n << 8, (n << 8) + 99): None for n in range(10_000)}
    rest = dict(list(ranges.items())[5000:])

    def filled() -> None:
        kernel = LibraryKernel()
        for held in (ranges, rest):
            wanted = Ruleset({}, {"a4": NftSet(ADDRESSES, singles), "n4": NftSet(networks, held)})
            kernel.apply(plan(kernel.read(), wanted))
            assert kernel.read() == wanted

    space.run(filled)


# When the kernel refuses


def test_a_wrong_encoding_ends_in_force_by_text_and_is_told_once(space: Space) -> None:
    def refused() -> list[str]:
        told: list[str] = []
        with pytest.raises(KernelFormError, match="does not take it in this form"):
            NetlinkKernel(encode=wrong).apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        enforcer = Enforcer(AutoKernel(told.append, encode=wrong), lambda names: {"backup": 34}, 977)
        enforcer.cgroups_changed(SHOP_FACTS.cgroups, {})
        for policy in (SHOP, LOCKED, SHOP):
            enforcer.put(policy)
            assert NetlinkKernel().read() == enforcer.wanted
        enforcer.cgroups_changed({"system.slice/postgresql@c.service": 99}, {})
        NetlinkKernel().apply(Batch((FlushChain("input"),)))
        assert any("input" in found for found in enforcer.heal())
        assert NetlinkKernel().read() == enforcer.wanted
        return told

    told = space.run(refused)
    assert len(told) == 1
    assert "the kernel refused our own encoding of: add rule to chain" in told[0]
    assert f"report this with the kernel's version, {os.uname().release}" in told[0]


def test_a_running_agent_tells_it_in_its_journal_and_as_an_event(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    async def running(told: Journal) -> None:
        def kernel(tell: Tell) -> NetlinkKernel:
            return AutoKernel(tell, guard=TableGuard.AUTO, encode=wrong)

        identity = load_identity(folder)
        assert identity is not None
        loop = Loop(StateFolder(folder), identity, Notifier(), MarkLayout(), kernel)
        agent = asyncio.create_task(loop.run())
        async with asyncio.timeout(patience(20)):
            await told.heard.wait()
        found = table()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await agent == 0
        assert found is not None
        assert found.chains["input"].rules

    def host() -> list[str]:
        enrolled(folder)
        told = Journal()
        logging.getLogger("segctl_agent").addHandler(told)
        asyncio.run(running(told))
        return told.lines

    (line,) = in_namespaces(host)
    assert line.startswith("kernel: the kernel refused our own encoding of: add rule to chain")


class Journal(logging.Handler):
    """What was said of refused encodings."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "encoding" in (line := record.getMessage()):
            self.lines.append(line)
            self.heard.set()


def test_what_is_refused_for_the_state_of_the_table_is_not_tried_again(space: Space) -> None:
    def refused() -> list[str]:
        told: list[str] = []
        kernel = AutoKernel(told.append)
        kernel.apply(Batch((AddTable(), AddChain("c"))))
        with pytest.raises(KernelError) as error:
            kernel.apply(Batch((AddRule("c", Rule.of(s.verdict(goto("no")))),)))
        assert not isinstance(error.value, KernelFormError)
        assert "second way" not in str(error.value)
        return told

    assert space.run(refused) == []


def test_when_both_ways_fail_both_reasons_are_told_and_nothing_is_changed(space: Space) -> None:
    def refused() -> str:
        told: list[str] = []
        kernel = AutoKernel(told.append, encode=wrong)
        kernel.apply(Batch((AddTable(), AddChain("c"))))
        before = kernel.read()
        nonsense = replace(Rule.of(s.ct_state("new"), s.verdict(DROP)), text="ct dragon drop")
        with pytest.raises(KernelError, match="The second way failed too: libnftables: ") as error:
            kernel.apply(Batch((AddChain("d"), AddRule("c", nonsense))))
        assert (kernel.read(), told) == (before, [])
        return str(error.value)

    assert "dragon" in space.run(refused)


def test_a_batch_that_fails_by_text_leaves_the_cgroups_as_they_were(space: Space) -> None:
    def fails() -> None:
        kernel = LibraryKernel()
        nonsense = AddRule("c", replace(Rule.of(s.verdict(DROP)), text="dragon"))
        with pytest.raises(KernelError, match="libnftables"):
            kernel.apply(Batch((AddTable(), AddChain("c"), nonsense)))
        assert kernel.read() is None
        elements = {KEY: goto("c"), struct.pack("=Q", 1): ACCEPT}
        kernel.apply(Batch((AddTable(), AddChain("c"), AddSet("m", CGROUPS), AddElements("m", CGROUPS, elements))))
        before = kernel.read()
        changes = (DeleteElements("m", CGROUPS, (KEY,)), nonsense, AddElements("m", CGROUPS, {KEY: ACCEPT}))
        with pytest.raises(KernelError, match="libnftables"):
            kernel.apply(Batch(changes))
        assert kernel.read() == before
        assert before is not None
        assert before.sets["m"] == NftSet(CGROUPS, elements)

    space.run(fails)


def test_a_rule_without_words_takes_its_whole_batch_to_netlink(space: Space) -> None:
    def wordless() -> None:
        made = LibraryKernel()
        made.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        held = made.read()  # no rule of it has a text
        assert held is not None
        made.destroy()
        made.apply(plan(None, held))
        assert made.read() == held

    space.run(wordless)


def test_a_name_that_would_be_a_command_takes_its_batch_to_netlink(space: Space) -> None:
    def healed() -> None:
        kernel, other = LibraryKernel(), NetlinkKernel("other")
        other.apply(Batch((AddTable(),)))
        wanted = rendered(SHOP, SHOP_FACTS, 1)
        kernel.apply(plan(None, wanted))
        hostile = "x; delete table inet other"
        kernel.apply(Batch((AddChain(hostile), AddSet(hostile, ADDRESSES))))
        kernel.apply(plan(kernel.read(), wanted))
        assert kernel.read() == wanted
        assert other.read() == Ruleset()

    space.run(healed)


# Ownership


@from_ownership
def test_an_owned_table_is_written_by_libnftables_and_owned_again() -> None:
    def host() -> None:
        kernel = LibraryKernel(guard=TableGuard.AUTO, encode=without_rules)
        for turn, policy in enumerate((SHOP, LOCKED, SHOP)):
            wanted = rendered(policy, SHOP_FACTS, turn + 1)
            kernel.apply(plan(kernel.read(), wanted))
            assert kernel.read() == wanted
            assert kernel.guard() == ("owned", "")
            assert state() == TableState(GUARDED, kernel.port)
            with pytest.raises(KernelError, match="no other program owns"):
                NetlinkKernel().apply(Batch((FlushChain("input"),)))
        nonsense = AddRule("input", replace(Rule.of(s.verdict(DROP)), text="dragon"))
        with pytest.raises(KernelError, match="libnftables"):
            kernel.apply(Batch((nonsense,)))
        assert state() == TableState(GUARDED, kernel.port)
        kernel.close()
        assert state() == TableState(PERSIST)

    in_namespaces(host)


# The switch


@pytest.mark.parametrize("apply", ["auto", "netlink", "text"])
def test_an_agent_applies_as_it_is_told(tmp_path: Path, apply: str) -> None:
    def host() -> None:
        folder = tmp_path / "state"
        enrolled(folder)
        loaded = agent("load", "--state", str(folder), "--apply", apply)
        assert loaded.stdout == "generation 5 in force\n", loaded.stderr
        held = table()
        assert held is not None
        process = start(folder, "--apply", apply)
        try:
            assert table() == held
            assert _has_libnftables(process.pid) is False  # it is in force already
            (folder / "hold").write_text("a test")
            until(lambda: table() is None)
            (folder / "hold").unlink()
            until(lambda: _is_back(held))
            assert _has_libnftables(process.pid) is (apply == "text")
        finally:
            process.terminate()
            assert process.wait(20) == 0, (folder / "log").read_text()
        log = (folder / "log").read_text()
        assert "WARNING tamper" not in log
        assert "WARNING kernel" not in log

    in_namespaces(host)


def _is_back(held: Ruleset) -> bool:
    """Under other ids, so not as equal."""
    found = table()
    return found is not None and found.sets.keys() == held.sets.keys() and bool(found.chains["input"].rules)


def _has_libnftables(pid: int) -> bool:
    return "libnftables" in Path(f"/proc/{pid}/maps").read_text()


def test_a_word_that_is_no_way_to_apply_is_wrong_usage() -> None:
    done = subprocess.run(
        [AGENT, "load"], env={**os.environ, "SEGCTL_AGENT_APPLY": "dragon"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'dragon' is not one of" in done.stderr
