"""A thousand that come at once leave room for others between two turns of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter

from segctl_controller.slices import Slices


async def test_few_pass_between_two_turns_and_all_in_the_order_in_which_they_came() -> None:
    slices, turn, passed = Slices(4), 0, []

    async def work(number: int) -> None:
        await slices.take()
        passed.append((turn, number))

    tasks = [asyncio.create_task(work(number)) for number in range(50)]
    while not all(task.done() for task in tasks):
        turn += 1
        await asyncio.sleep(0)
    assert [number for _, number in passed] == [*range(50)]
    # One that was let pass goes on in the next turn, beside those that find room there.
    assert max(Counter(turn for turn, _ in passed).values()) <= 2 * 4


async def test_who_comes_alone_waits_for_nothing() -> None:
    moved: list[int] = []
    asyncio.get_running_loop().call_soon(moved.append, 1)
    await Slices(1).take()
    assert not moved, "the loop had a turn"


async def test_who_leaves_the_line_does_not_stop_it() -> None:
    slices, passed = Slices(1), []

    async def work(number: int) -> None:
        await slices.take()
        passed.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0)
    for task in tasks[1:4]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == [0, 4, 5]
