"""Calls that come together are one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl_controller.errors import NotFoundError
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.records import Entry
from segctl_controller.store.sql import SqlStore
from segctl_controller.store_thread import Gather, StoreThread


class Counting(MemoryStore):
    """Counts its batches; `full` at their end."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.full = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        self.batches += 1
        yield
        if self.full:
            raise StateError("the disk is full")


async def busy(thread: StoreThread) -> tuple[threading.Event, asyncio.Task[bool]]:
    """A call that goes on until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(10)

    task = asyncio.create_task(thread.call(work))
    await asyncio.to_thread(begun.wait, 10)
    return go, task


async def test_calls_that_wait_are_made_together_and_fail_alone(tmp_path: Path) -> None:
    thread = StoreThread(SqlStore(tmp_path / "c.db"))
    store = thread.store
    go, first = await busy(thread)
    entries = [asyncio.create_task(thread.call(store.add_entry, Entry(n, "root", "push", "", ""))) for n in range(20)]
    wrong = asyncio.create_task(thread.call(store.remove_host, "nobody", Entry(1, "root", "remove", "", "")))
    await asyncio.sleep(0)
    go.set()
    assert await first
    await asyncio.gather(*entries)
    with pytest.raises(NotFoundError):
        await wrong
    assert len(await thread.call(store.entries, 100)) == 20
    thread.close()


async def test_nobody_is_told_that_it_is_stored_when_all_of_it_is_not() -> None:
    store = Counting()
    thread = StoreThread(store)
    go, first = await busy(thread)
    store.full = True
    calls = [asyncio.create_task(thread.call(store.add_entry, Entry(n, "root", "push", "", ""))) for n in range(3)]
    await asyncio.sleep(0)
    go.set()
    await first
    for failed in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failed, StateError)
    assert store.batches == 1
    assert thread.failures == 3
    thread.close()


async def test_a_call_whose_caller_is_gone_is_not_made() -> None:
    thread = StoreThread(MemoryStore())
    go, first = await busy(thread)
    gone = asyncio.create_task(thread.call(thread.store.add_entry, Entry(1, "root", "push", "", "")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    go.set()
    await first
    assert await thread.call(thread.store.entries, 5) == ()
    thread.close()


async def test_what_is_posted_is_stored_before_the_thread_ends(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    thread = StoreThread(store)
    thread.post(store.add_entry, Entry(1, "root", "push", "", ""))
    thread.post(store.remove_host, "nobody", Entry(1, "root", "remove", "", ""))
    thread.close()
    assert len(store.entries(5)) == 1
    assert "nobody" in caplog.text


async def test_what_is_added_meanwhile_goes_together() -> None:
    calls: list[list[int]] = []
    go = asyncio.Event()

    async def store(items: list[int]) -> None:
        calls.append(items)
        await go.wait()
        if 13 in items:
            raise StateError("the disk is full")

    gather = Gather(store)
    first = [asyncio.create_task(gather.add(n)) for n in range(3)]
    await asyncio.sleep(0.01)
    second = [asyncio.create_task(gather.add(n)) for n in (11, 12, 13)]
    await asyncio.sleep(0.01)
    assert calls == [[0, 1, 2]]
    go.set()
    await asyncio.gather(*first)
    for failed in await asyncio.gather(*second, return_exceptions=True):
        assert isinstance(failed, StateError)
    assert calls == [[0, 1, 2], [11, 12, 13]]
    await gather.add(14)
    assert calls[-1] == [14]
