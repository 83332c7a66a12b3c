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


async def _collected(gone: weakref.ref[Knot]) -> None:
    async def nothing_is_left() -> bool:
        return gone() is None

    await eventually(nothing_is_left)


async def test_what_lives_on_is_set_aside_and_python_collects_by_itself_again_afterwards() -> None:
    before = gc.get_threshold()
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == garbage.YOUNG
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


async def test_a_push_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "MOST_SKIPPED", 1_000_000)
    busy, knot = True, Knot()
    gone = weakref.ref(knot)
    task = asyncio.create_task(Collector(lambda: busy).run())
    del knot
    await asyncio.sleep(0.02)
    assert gone() is not None
    busy = False
    await _collected(gone)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_died_after_it_was_set_aside_is_found_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    monkeypatch.setattr(garbage, "WHOLE", 3)
    knot = Knot()
    gone = weakref.ref(knot)
    task = asyncio.create_task(Collector(lambda: False).run())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 0
    del knot
    await _collected(gone)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_rollout_of_days_does_not_keep_garbage_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY", 0.001)
    knot = Knot()
    gone = weakref.ref(knot)
    task = asyncio.create_task(Collector(lambda: True).run())
    del knot
    await _collected(gone)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
