"""The table as the agent's own, from Linux 6.9 on: made, adopted, kept from others, given up. Each test is a host of
its own. Older kernels: test_watched.py."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from segctl.errors import KernelError
from segctl_agent.nft.attributes import string, u32
from segctl_agent.nft.handover import handover
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.messages import CREATE, GETTABLE, NEWTABLE, Message, encode
from segctl_agent.nft.netlink import Netlink
from segctl_agent.nft.operations import AddTable, Batch, DeleteTable
from segctl_agent.nft.ownership import DORMANT, GUARDED, PERSIST, TableGuard, TableState, parse_table
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import TABLE

from tests.decided import rendered
from tests.netns.kernels import from_ownership
from tests.netns.samples import SHOP, SHOP_FACTS
from tests.netns.spaces import in_namespaces, run
from tests.netns.test_agent_process import agent, enrolled, start, table

pytestmark = [pytest.mark.kernel, from_ownership]

TAMPERINGS = {
    "delete table": "delete table inet segctl",
    "insert accept": "insert rule inet segctl input accept",
    "flush chain": "flush chain inet segctl output",
    "policy accept": "chain inet segctl input { policy accept; }",
    "element": "add element inet segctl managed4 { 9.9.9.9 }",
    "sleep": "add table inet segctl { flags dormant; }",
    "foreign chain": "add chain inet segctl evil",
}
WANTED = rendered(SHOP, SHOP_FACTS, 1)


def nft(command: str) -> tuple[int, str]:
    done = subprocess.run(["nft", command], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def state() -> TableState | None:
    with Netlink() as netlink:
        return dict(parse_table(m) for m in netlink.dump(GETTABLE)).get(TABLE)


def put_flags(flags: int) -> None:
    """What no nft of Debian 12 can write."""
    with Netlink() as netlink:
        netlink.batch([Message(NEWTABLE, CREATE, string(1, TABLE) + u32(2, flags), AddTable())])


def handles() -> list[str]:
    """Of the base chains: another handle is another chain, and packets passed in between."""
    listing = run("nft", "--handle", "list", "chains", "inet").splitlines()
    return [line for line in listing if line.startswith(("\tchain input", "\tchain output"))]


def owned() -> NetlinkKernel:
    kernel = NetlinkKernel(guard=TableGuard.AUTO)
    kernel.apply(plan(kernel.read(), WANTED))
    return kernel


def test_the_kernel_refuses_what_others_do_to_our_table() -> None:
    def host() -> None:
        kernel = owned()
        assert kernel.guard() == ("owned", "")
        assert state() == TableState(GUARDED, os.getpid())
        assert kernel.read() == WANTED  # flags that are as they should be are no difference
        for name, command in TAMPERINGS.items():
            code, error = nft(command)
            assert code == 1, name
            assert "Operation not permitted" in error, name
        run("nft", "add", "table", "ip", "other")
        assert nft("flush ruleset") == (0, "")
        assert run("nft", "list", "tables") == "table inet segctl\n"
        assert kernel.read() == WANTED
        assert NetlinkKernel().read() == WANTED  # to read is free, from another socket too
        with pytest.raises(KernelError, match="no other program owns"):
            NetlinkKernel().apply(plan(WANTED, rendered(SHOP, SHOP_FACTS, 2)))
        kernel.apply(plan(kernel.read(), rendered(SHOP, SHOP_FACTS, 2)))
        kernel.destroy()
        assert state() is None

    in_namespaces(host)


def test_an_orphan_is_adopted_as_it_is() -> None:
    def host() -> None:
        owned().close()
        before = handles()
        assert state() == TableState(PERSIST)
        assert NetlinkKernel().read() == WANTED  # whoever looks adopts nothing
        assert state() == TableState(PERSIST)
        generation = NetlinkKernel().generation()
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        assert kernel.guard() == ("owned", "")
        assert kernel.read() == WANTED
        assert not plan(kernel.read(), WANTED)
        assert kernel.generation() == generation + 1
        assert handles() == before

    in_namespaces(host)


def test_a_sleeping_orphan_is_woken() -> None:
    def host() -> None:
        owned().close()
        put_flags(PERSIST | DORMANT)
        found = NetlinkKernel().read()
        assert found is not None
        assert found.flags == DORMANT
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        kernel.apply(plan(kernel.read(), WANTED))
        assert (state(), kernel.read()) == (TableState(GUARDED, os.getpid()), WANTED)
        kernel.close()
        put_flags(PERSIST | DORMANT)
        watching = NetlinkKernel()
        watching.apply(plan(watching.read(), WANTED))
        assert (state(), watching.read()) == (TableState(PERSIST), WANTED)

    in_namespaces(host)


def test_an_orphan_that_comes_while_we_watch_is_a_difference() -> None:
    """Ours was deleted while it had no owner, and somebody's `segctl-agent load` made another."""

    def host() -> None:
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        owned().close()
        found = kernel.read()
        assert found is not None
        assert found.flags
        kernel.apply(plan(found, WANTED))
        assert kernel.read() == WANTED
        assert kernel.guard() == ("owned", "")

    in_namespaces(host)


def test_a_table_without_an_owner_stays_as_it_is_until_it_is_taken_over_or_gone() -> None:
    """The kernel gives no owner to such a table, and to delete it would let packets pass."""

    def host() -> None:
        watching = NetlinkKernel()
        watching.apply(plan(None, WANTED))
        assert state() == TableState(0)
        before = handles()
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        assert kernel.guard()[0] == "watched"
        assert "made without an owner" in kernel.guard()[1]
        kernel.apply(plan(kernel.read(), rendered(SHOP, SHOP_FACTS, 2)))
        run("nft", "add table inet segctl { flags dormant; }")
        kernel.apply(plan(kernel.read(), WANTED))
        assert kernel.read() == WANTED
        assert handles() == before
        run("nft", "delete", "table", "inet", "segctl")
        kernel.apply(plan(kernel.read(), WANTED))
        assert kernel.guard() == ("owned", "")
        assert not kernel.take_over(WANTED)

    in_namespaces(host)


def test_a_table_without_an_owner_is_taken_over() -> None:
    def host() -> None:
        watching = NetlinkKernel()
        watching.apply(plan(None, WANTED))
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        assert kernel.take_over(WANTED)
        assert (kernel.guard(), kernel.read()) == (("owned", ""), WANTED)
        assert run("nft", "list", "tables") == "table inet segctl\n"
        assert not kernel.take_over(WANTED)
        assert not watching.take_over(WANTED)

    in_namespaces(host)


def test_a_takeover_keeps_the_hits_of_the_table_that_it_replaces() -> None:
    def host() -> None:
        name = min(WANTED.counters)
        assert nft(f"add table inet segctl; add counter inet segctl {name} {{ packets 7 bytes 700; }}") == (0, "")
        watching = NetlinkKernel()
        watching.apply(plan(watching.read(), WANTED))
        seen: list[Mapping[str, int]] = []
        assert NetlinkKernel(guard=TableGuard.AUTO).take_over(WANTED, seen.append)
        assert [counters[name] for counters in seen] == [7, 0]

    in_namespaces(host)


def test_who_only_watches_removes_what_a_takeover_left_too() -> None:
    """It would judge by the policy of its day for ever, and nobody would know of it."""

    def host() -> None:
        watching = NetlinkKernel()
        watching.apply(plan(None, WANTED))
        with Netlink() as netlink:
            netlink.batch(next(handover(WANTED, leftover=False)))
        assert not watching.take_over(WANTED)
        assert run("nft", "list", "tables") == "table inet segctl\n"
        assert watching.read() == WANTED

    in_namespaces(host)


def test_others_that_write_all_the_time_do_not_end_who_looks_at_the_guard() -> None:
    def host() -> None:
        kernel = owned()
        pid = os.fork()
        if pid == 0:
            with Netlink() as netlink:
                while True:
                    netlink.batch([Message(NEWTABLE, CREATE, string(1, "other"), AddTable())])
                    netlink.batch(encode(Batch((DeleteTable(),)), "other"))
        try:
            until_monotonic = time.monotonic() + 2
            while time.monotonic() < until_monotonic:
                assert kernel.guard() == ("owned", "")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    in_namespaces(host)


def test_a_takeover_that_is_cut_short_anywhere_is_finished_by_the_next() -> None:
    def host() -> None:
        for cut in range(len([*handover(WANTED, leftover=False)])):
            watching = NetlinkKernel()
            watching.apply(plan(None, WANTED))
            with Netlink() as netlink:
                for messages in [*handover(WANTED, leftover=False)][:cut]:
                    netlink.batch(messages)
            tables = run("nft", "list", "tables")
            assert "table inet segctl\n" in tables
            assert ("segctl-handover" in tables) == (cut > 0)
            kernel = NetlinkKernel(guard=TableGuard.AUTO)
            kernel.apply(plan(kernel.read(), WANTED))  # as at the start of an agent
            kernel.take_over(WANTED)
            assert (kernel.guard(), kernel.read()) == (("owned", ""), WANTED)
            assert run("nft", "list", "tables") == "table inet segctl\n"
            kernel.destroy()
            kernel.close()

    in_namespaces(host)


def test_a_release_removes_what_a_takeover_left() -> None:
    def host() -> None:
        with Netlink() as netlink:
            netlink.batch(next(handover(WANTED, leftover=False)))
        kernel = NetlinkKernel()
        assert kernel.present()
        kernel.destroy()
        assert run("nft", "list", "tables") == ""

    in_namespaces(host)


def test_a_second_owner_is_told_who_has_it() -> None:
    def host() -> None:
        kernel = owned()
        with pytest.raises(KernelError, match=rf"owned by .* \(pid {os.getpid()}\)"):
            NetlinkKernel(guard=TableGuard.AUTO)
        assert kernel.read() == WANTED

    in_namespaces(host)


def agents(function: Callable[[Path], None], folder: Path) -> None:
    def host() -> None:
        enrolled(folder)
        function(folder)

    in_namespaces(host)


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    process.send_signal(number)
    process.wait(10)


def test_boot_then_agent_then_kill_9_then_agent_keep_one_table(tmp_path: Path) -> None:
    def host(folder: Path) -> None:
        assert agent("load", "--state", str(folder)).returncode == 0
        first, chains = table(), handles()
        assert state() == TableState(PERSIST)
        for number in (signal.SIGKILL, signal.SIGTERM):
            process = start(folder)
            assert state() == TableState(GUARDED, process.pid)
            assert nft("flush ruleset") == (0, "")
            assert nft("delete table inet segctl")[0] == 1
            assert agent("show", "--state", str(folder)).returncode == 0
            assert f"owned by segctl-agent (pid {process.pid})" in agent("status", "--state", str(folder)).stdout
            assert "policy drop" in run("nft", "list", "ruleset")
            assert (table(), handles()) == (first, chains)
            stop(process, number)
            assert state() == TableState(PERSIST)
            assert (table(), handles()) == (first, chains)
        assert "the table is owned" in (folder / "log").read_text()
        assert "tamper" not in (folder / "log").read_text()

    agents(host, tmp_path / "state")


def test_a_second_agent_with_another_folder_ends_and_says_whose_the_table_is(tmp_path: Path) -> None:
    def host(folder: Path) -> None:
        process = start(folder)
        held = table()
        other = tmp_path / "other"
        enrolled(other)
        second = agent("run", "--state", str(other))
        assert second.returncode == 1
        assert f"(pid {process.pid})" in second.stderr
        assert table() == held
        stop(process)

    agents(host, tmp_path / "state")


def test_release_of_a_dead_and_of_a_hung_agent(tmp_path: Path) -> None:
    def host(folder: Path) -> None:
        where = ("--state", str(folder))
        process = start(folder)
        process.send_signal(signal.SIGSTOP)
        released = agent("release", *where)
        assert released.returncode == 1
        assert f"(pid {process.pid})" in released.stderr
        assert "systemctl kill" in released.stderr
        assert table() is not None
        stop(process, signal.SIGKILL)
        assert table() is not None
        assert agent("release", *where).returncode == 0
        assert table() is None

    agents(host, tmp_path / "state")


def test_an_agent_takes_over_what_a_watching_one_left(tmp_path: Path) -> None:
    def host(folder: Path) -> None:
        process = start(folder, "--table-guard", "watch")
        held = table()
        stop(process)
        assert state() == TableState(0)
        process = start(folder)
        assert state() == TableState(GUARDED, process.pid)
        assert table() == held
        assert run("nft", "list", "tables") == "table inet segctl\n"
        assert "without a gap" in (folder / "log").read_text()
        stop(process)

    agents(host, tmp_path / "state")
