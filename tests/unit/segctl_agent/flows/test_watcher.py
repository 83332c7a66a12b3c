"""When the watcher looks, and what it makes of a look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from segctl.errors import KernelError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import Mode
from segctl_agent.conntrack.reader import Tally
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.flows.decisions import RecentDecisions
from segctl_agent.flows.values import FlowWindow
from segctl_agent.flows.watcher import INTERVAL_SECONDS, FlowWatcher

from tests.unit.segctl_agent.flows.rows import Layout, mark, policy, row

POLICY = policy(host=Mode.OBSERVE)
FLOW = row("10.0.0.1", 5000, "10.0.0.2", 443, mark=mark(outgoing=2, incoming=9))


class FakeTable:
    def __init__(self) -> None:
        self.rows: tuple[ConntrackRow, ...] = ()
        self.left_out, self.error = 0, ""

    def read(self, tally: Tally | None = None, *, mark: int = 0, mask: int = 0) -> Iterator[Sequence[ConntrackRow]]:
        if self.error:
            raise KernelError(self.error)
        if tally is not None:
            tally.left_out += self.left_out
        yield self.rows

    def count(self) -> int:
        return len(self.rows)

    def delete(self, row: ConntrackRow) -> bool:
        raise AssertionError("a watcher deletes nothing")


class Stage:
    def __init__(self) -> None:
        self.table, self.windows = FakeTable(), list[FlowWindow]()
        self.policy: HostPolicy | None = POLICY
        self.spent, self.each, self.now = 0.0, 0.0, 0
        self.watcher = FlowWatcher(
            self.table,
            Layout(),
            RecentDecisions(),
            lambda: self.policy,
            lambda: {("out", 2): "host"},
            self.windows.append,
            self._cost,
            self._clock,
        )

    def _cost(self) -> float:
        self.spent += self.each
        return self.spent

    def _clock(self) -> int:
        self.now += 5_000_000_000
        return self.now


def test_it_takes_a_hundredth_of_a_core_at_most() -> None:
    stage = Stage()
    stage.watcher.look()
    assert stage.watcher.interval == INTERVAL_SECONDS
    stage.each = 0.6
    stage.watcher.look()
    assert round(stage.watcher.interval, 6) == 60


def test_entries_that_the_reader_left_out_are_lost_flows() -> None:
    stage = Stage()
    stage.table.left_out = 3
    window = stage.watcher.look()
    assert window is not None
    assert window.lost == 3


def test_without_a_policy_nothing_is_looked_at() -> None:
    stage = Stage()
    stage.policy, stage.table.error = None, "never asked"
    assert stage.watcher.look() is None
    stage.policy, stage.table.error, stage.table.rows = POLICY, "", (FLOW,)
    stage.watcher._decisions.learn({("out", 2): "host"})
    window = stage.watcher.look()
    assert window is not None
    assert [r.flows for r in window.rows] == [1]  # it cannot have been there before the policy


async def test_windows_come_and_a_refusal_is_survived() -> None:
    stage = Stage()
    stage.table.rows = (FLOW,)
    stage.table.error = "no conntrack here"
    task = asyncio.create_task(stage.watcher.run())
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    stage.table.error = ""
    task = asyncio.create_task(stage.watcher.run())
    async with asyncio.timeout(5):
        while not stage.windows:  # noqa: ASYNC110 - it is told by a thread's end
            await asyncio.sleep(0.01)
    task.cancel()
    assert [r.key.verdict for r in stage.windows[0].rows] == ["observed"]
