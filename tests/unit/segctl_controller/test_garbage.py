"""Python's collector works when nothing is under way, and then all of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest
from segctl_controller import garbage
from segctl_controller.garbage import Collector

from tests.controller_harness import eventually


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Knot:
    def __init__(self) -> None:
        self.me = self
        self.much = b""


async def _collected(gone: weakref.ref[Knot]) -> None:
    async def nothing_is_left() -> bool:
        return gone() is None

    await eventually(nothing_is_left)


async def test_what_lives_on_is_set_aside_and_python_collects_by_itself_again_afterwards() -> None:
    before = gc.get_threshold()
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == garbage.THRESHOLDS
    await _ended(task)
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


async def test_a_push_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "IDLE", 0.001)
    monkeypatch.setattr(garbage, "WHOLE", 0.0)
    busy, knot = True, Knot()
    gone = weakref.ref(knot)
    gc.freeze()
    task = asyncio.create_task(Collector(lambda: busy).run())
    del knot
    await asyncio.sleep(0.05)
    assert gone() is not None
    busy = False
    await _collected(gone)
    await _ended(task)


async def test_what_died_after_it_was_set_aside_is_found_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "IDLE", 0.001)
    monkeypatch.setattr(garbage, "WHOLE", 0.02)
    knot = Knot()
    gone = weakref.ref(knot)
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 0
    del knot
    await _collected(gone)
    await _ended(task)


async def test_what_died_is_found_early_where_it_takes_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "IDLE", 0.001)
    monkeypatch.setattr(garbage, "MORE", 1024 * 1024)
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    knots = [Knot(), Knot()]
    gone = [weakref.ref(knot) for knot in knots]
    gc.freeze()
    knots.pop()
    await asyncio.sleep(garbage.EVERY * garbage.OLDER * 5)
    assert gone[1]() is not None  # it takes nothing
    knots.pop().much = b"x" * (garbage._resident() // 2)
    await _collected(gone[0])
    assert gone[1]() is None
    await _ended(task)


async def test_a_rollout_of_days_does_not_keep_garbage_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "IDLE", 0.001)
    monkeypatch.setattr(garbage, "LATEST", 0.05)
    knot = Knot()
    gone = weakref.ref(knot)
    gc.freeze()
    task = asyncio.create_task(Collector(lambda: True).run())
    del knot
    await _collected(gone)
    await _ended(task)


async def test_what_is_replaced_one_for_one_does_not_gather_among_the_youngest() -> None:
    """Python counts what came less what went, and so would not walk them."""
    held = [[number] for number in range(80_000)]
    task = asyncio.create_task(Collector(lambda: True).run())
    await asyncio.sleep(2 * garbage.EVERY)  # they are walked once and are not young any more
    for number in range(len(held)):
        held[number] = [number]
        if number % 1000 == 0:
            await asyncio.sleep(garbage.EVERY / 5)
            assert len(gc.get_objects(generation=0)) < 40_000
    await _ended(task)


async def test_a_burst_is_set_aside_unseen_and_what_trickles_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.01)
    monkeypatch.setattr(garbage, "IDLE", 0.01)
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    few = Knot()
    gone = weakref.ref(few)
    await asyncio.sleep(3 * garbage.EVERY)  # it is not among the youngest any more
    del few
    await _collected(gone)
    many = [Knot() for _ in range(200_000)]
    gone = weakref.ref(many[0])
    await asyncio.sleep(3 * garbage.EVERY)
    many.clear()
    await asyncio.sleep(3 * garbage.OLDER * garbage.EVERY)
    assert gone() is not None
    await _ended(task)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
