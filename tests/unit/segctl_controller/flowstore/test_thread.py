"""Reports are committed together, in order, and each hears of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from segctl_controller.clock import Clock
from segctl_controller.errors import StoppingError, StoreFullError
from segctl_controller.flowstore import thread as flow_thread
from segctl_controller.flowstore.duck import DuckDatabase
from segctl_controller.flowstore.records import FlowFilter, FlowReport
from segctl_controller.flowstore.store import SqlFlowStore
from segctl_controller.flowstore.thread import FlowThread

from tests.flowrows import NOW, KnownEnds, flow, key, report


class SlowStore(SqlFlowStore):
    """Counts its commits, which wait for `go`. Reports of the host `bad` break one, those of `full` find no room."""

    def __init__(self) -> None:
        super().__init__(DuckDatabase(None), KnownEnds())
        self.groups: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()

    def add(self, reports: Sequence[FlowReport]) -> tuple[bool, ...]:
        self.began.set()
        self.go.wait(10)
        self.groups.append(len(reports))
        hosts = {one.host for one in reports}
        if "bad" in hosts:
            raise ValueError("no such thing")
        if "full" in hosts:
            raise StoreFullError("full")
        return super().add(reports)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[FlowThread, SlowStore]]:
    store = SlowStore()
    flows = FlowThread(store, Clock(lambda: NOW))
    try:
        yield flows, store
    finally:
        store.go.set()
        await asyncio.to_thread(flows.close)


async def test_what_waits_for_a_commit_shares_the_next_one() -> None:
    async with running() as (flows, store):
        first = asyncio.create_task(flows.add(report(1, flow(), host="h0")))
        await asyncio.to_thread(store.began.wait, 10)
        others = [asyncio.create_task(flows.add(report(1, flow(key(f"h{n}")), host=f"h{n}"))) for n in range(1, 9)]
        await asyncio.sleep(0.05)
        assert (flows.waiting, flows.waiting_rows) == (9, 9)
        store.go.set()
        assert await asyncio.gather(first, *others) == [True] * 9
        assert store.groups == [1, 8]
        assert (flows.waiting, flows.waiting_rows, flows.stored_rows) == (0, 0, 9)


async def test_one_broken_report_breaks_no_other() -> None:
    async with running() as (flows, store):
        first = asyncio.create_task(flows.add(report(1, host="h0")))
        await asyncio.to_thread(store.began.wait, 10)
        tasks = [asyncio.create_task(flows.add(report(1, flow(), host=host))) for host in ("h1", "bad", "h2")]
        await asyncio.sleep(0.05)
        store.go.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [result for result in results if result is True] == [True] * 3
        assert isinstance(results[2], ValueError)
        assert store.groups == [1, 3, 1, 1, 1]


async def test_a_full_disk_is_told_to_all_and_the_next_report_is_taken() -> None:
    async with running() as (flows, store):
        store.go.set()
        with pytest.raises(StoreFullError):
            await flows.add(report(1, flow(), host="full"))
        assert flows.failures == 1
        assert await flows.add(report(1, flow()))


async def test_a_host_is_forgotten_after_what_it_told_before() -> None:
    async with running() as (flows, store):
        told = asyncio.create_task(flows.add(report(1, flow())))
        await asyncio.to_thread(store.began.wait, 10)
        gone = flows.forget("web1")
        store.go.set()
        assert await told
        await asyncio.wrap_future(gone)
        assert await flows.read(store.flows, FlowFilter()) == ()


async def test_too_much_that_waits_makes_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_thread, "MOST_QUEUED", 1)
    async with running() as (flows, store):
        told = asyncio.create_task(flows.add(report(1, flow(), flow(key(port=80)))))
        await asyncio.sleep(0.05)
        room = asyncio.create_task(flows.room())
        await asyncio.sleep(0.05)
        assert not room.done()
        store.go.set()
        assert await told
        await asyncio.wait_for(room, 10)


async def test_a_closed_store_takes_nothing() -> None:
    async with running() as (flows, store):
        store.go.set()
        await asyncio.to_thread(flows.close)
        with pytest.raises(StoppingError):
            await flows.add(report(1, flow()))
