"""The table where the kernel lets others change it: Linux before 6.9, and anywhere by wish. It is put back, and whoever
changed it is told. Each test is a host of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.ownership import TableGuard, TableState
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import Ruleset

from tests.decided import rendered
from tests.netns.kernels import before_ownership, release
from tests.netns.samples import SHOP, SHOP_FACTS
from tests.netns.spaces import in_namespaces, run
from tests.netns.test_agent_process import agent, enrolled, marks, start, table, until
from tests.netns.test_ownership import TAMPERINGS, WANTED, handles, nft, state, stop

pytestmark = pytest.mark.kernel

GUARDS = [
    pytest.param((), id="older", marks=before_ownership),
    pytest.param(("--table-guard", "watch"), id="by-wish"),
]
COMMANDS = {**TAMPERINGS, "element": "flush map inet segctl live", "flush ruleset": "flush ruleset"}
LOOK_SECONDS = 1.2
"""Longer than the agent takes to look at the hold."""


def shape(held: Ruleset | None) -> object:
    """What a healed table has in common with the one before; its marks are new, so that flows are judged anew."""
    if held is None:
        return None
    chains = {name: (len(chain.rules), chain.base) for name, chain in held.chains.items()}
    return held.flags, held.sets.keys(), {name: of for name, of in chains.items() if not name.startswith("mark_")}


@before_ownership
def test_the_kernel_gives_no_owner_and_the_guard_says_why() -> None:
    def host() -> None:
        kernel = NetlinkKernel(guard=TableGuard.AUTO)
        kernel.apply(plan(kernel.read(), WANTED))
        verdict, reason = kernel.guard()
        assert (verdict, "Linux 6.9" in reason) == ("watched", True)
        assert state() == TableState(0)
        before = handles()
        assert not kernel.take_over(WANTED)  # there is nothing to take over with
        kernel.apply(plan(kernel.read(), rendered(SHOP, SHOP_FACTS, 2)))
        kernel.apply(plan(kernel.read(), WANTED))
        assert (kernel.read(), handles(), state()) == (WANTED, before, TableState(0))
        other = NetlinkKernel(guard=TableGuard.AUTO)  # no owner keeps it out
        assert other.guard()[0] == "watched"
        assert other.other_owner() == ""
        other.destroy()
        assert run("nft", "list", "tables") == ""

    in_namespaces(host)


@pytest.mark.parametrize("options", GUARDS)
@pytest.mark.parametrize("command", [pytest.param(command, id=name) for name, command in COMMANDS.items()])
def test_what_others_do_to_the_table_is_undone_and_told(tmp_path: Path, command: str, options: tuple[str, ...]) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        process = start(folder, *options)
        held = table()
        assert held is not None
        run("nft", "add", "table", "ip", "other")
        assert nft(command) == (0, "")
        until(lambda: shape(table()) == shape(held))
        until(lambda: "tamper: nft (pid" in (folder / "log").read_text())
        until(lambda: len(marks(table())) == len(marks(held)))
        stop(process)

    in_namespaces(host)


@before_ownership
def test_boot_then_agent_then_kill_9_then_agent_keep_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        assert agent("load", "--state", str(folder)).returncode == 0
        first, chains = table(), handles()
        assert state() == TableState(0)
        for number in (signal.SIGKILL, signal.SIGTERM):
            process = start(folder)
            assert state() == TableState(0)
            assert "table: others can change it" in agent("status", "--state", str(folder)).stdout
            assert (table(), handles()) == (first, chains)
            stop(process, number)
            assert (table(), handles()) == (first, chains)
        log = (folder / "log").read_text()
        major, minor = release()
        assert "the table is watched: this kernel has no persistent table ownership" in log, f"{major}.{minor}: {log}"
        assert "tamper" not in log

    in_namespaces(host)


@pytest.mark.parametrize("options", GUARDS)
def test_a_release_needs_no_word_of_a_hung_agent_and_holds_when_it_wakes(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        process = start(folder, *options)
        process.send_signal(signal.SIGSTOP)
        released = agent("release", "--state", str(folder))
        assert released.returncode == 0, released.stderr
        assert table() is None
        process.send_signal(signal.SIGCONT)
        time.sleep(2 * LOOK_SECONDS)
        assert table() is None
        stop(process)
        assert agent("load", "--state", str(folder)).returncode == 0
        assert table() is not None

    in_namespaces(host)
