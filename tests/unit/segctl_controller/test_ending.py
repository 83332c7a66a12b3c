"""How the task that serves a stream is told to end, and how the one that writes is woken."""

from __future__ import annotations

import asyncio

import pytest
from segctl_controller.ending import Ending
from segctl_controller.errors import ReplacedError
from segctl_controller.wake import Wake

REASON = ReplacedError("a newer one")


async def _served(ending: Ending, cleaned: list[str]) -> str:
    with ending:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("whole")
    return "over"


async def test_the_reason_is_raised_where_it_waits_and_what_cleans_up_may_wait() -> None:
    ending = Ending()
    cleaned: list[str] = []
    task = asyncio.create_task(_served(ending, cleaned))
    await asyncio.sleep(0)
    ending.end(REASON)
    ending.end(ReplacedError("too late"))
    with pytest.raises(ReplacedError, match="a newer one"):
        await task
    assert cleaned == ["whole"]
    assert ending.done()


async def test_it_was_over_before_it_began() -> None:
    ending = Ending()
    ending.end(REASON)
    with pytest.raises(ReplacedError):
        await _served(ending, [])


async def test_an_end_without_a_reason_raises_nothing() -> None:
    ending = Ending()
    task = asyncio.create_task(_served(ending, []))
    await asyncio.sleep(0)
    ending.end(None)
    assert await task == "over"
    assert task.cancelling() == 0


async def test_who_cancels_the_task_has_it_cancelled_whatever_ends_beside() -> None:
    ending = Ending()
    task = asyncio.create_task(_served(ending, []))
    await asyncio.sleep(0)
    ending.end(REASON)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_task_ends_itself_and_is_whole_afterwards() -> None:
    ending = Ending()
    with pytest.raises(ReplacedError), ending:
        ending.end(REASON)
    await asyncio.sleep(0)  # no cancellation is left to strike later
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_another_error_inside_is_not_hidden() -> None:
    ending = Ending()
    with pytest.raises(ZeroDivisionError), ending:
        ending.end(REASON)
        raise ZeroDivisionError


async def test_a_part_that_ends_or_fails_ends_it() -> None:
    async def fails() -> None:
        raise REASON

    async def passes() -> None: ...

    ending = Ending()
    for work in (passes, fails):
        part = asyncio.create_task(work())
        part.add_done_callback(ending.fails_with)
        await asyncio.wait({part})
        await asyncio.sleep(0)
        assert ending.done() == (work is fails)
    assert ending.exception() is REASON
    ended = Ending()
    part = asyncio.create_task(passes())
    part.add_done_callback(ended.ends_with)
    await part
    await asyncio.sleep(0)
    assert ended.done()


async def test_a_wake_counts_once_and_is_not_lost() -> None:
    wake = Wake()
    woken: list[int] = []

    async def waits() -> None:
        while True:
            await wake.wait()
            woken.append(len(woken))

    wake.set()
    wake.set()
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    assert woken == [0]
    wake.set()
    wake.set()
    await asyncio.sleep(0)
    assert woken == [0, 1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wake.set()
    await wake.wait()
