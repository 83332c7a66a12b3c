"""When the sets are dumped: in a real loop, with a source by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from segctl.errors import KernelError
from segctl_agent.denials.counts import Sets
from segctl_agent.denials.sampler import GAP_SECONDS, Sampler


class Source:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.began: list[float] = []
        self.threads: set[int] = set()
        self.fails = False
        self.closed = False

    def read(self) -> Sets:
        self.began.append(time.monotonic())
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if self.fails:
            raise KernelError("no such thing")
        return {}

    def close(self) -> None:
        self.closed = True


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


async def test_a_dump_runs_in_another_thread_and_not_twice_at_a_time() -> None:
    source, seen = Source(0.05), 0

    def on_sets(sets: Sets) -> bool:
        nonlocal seen
        seen += 1
        return False

    sampler = Sampler(source, on_sets)
    sampler.start(asyncio.get_running_loop())
    for _ in range(100):
        sampler.busy()
        sampler.soon(lambda: None)
        await asyncio.sleep(0.001)
    await _until(lambda: seen >= 2)
    assert threading.get_ident() not in source.threads
    sampler.close()
    assert len(source.began) <= 4
    assert source.began[1] - source.began[0] >= 0.05 + GAP_SECONDS
    assert source.closed


async def test_who_asks_gets_a_dump_that_began_after() -> None:
    source = Source(0.2)
    sampler = Sampler(source, lambda sets: False)
    sampler.start(asyncio.get_running_loop())
    await _until(lambda: len(source.began) == 1)  # one is under way
    asked, answered = time.monotonic(), []
    sampler.soon(lambda: answered.append(len(source.began)))
    await _until(lambda: bool(answered))
    sampler.close()
    assert answered[0] >= 2
    assert source.began[1] > asked


async def test_denials_make_it_dump_every_second_and_quiet_does_not() -> None:
    for busy, expected in ((True, 3), (False, 1)):
        source = Source()

        def on_sets(sets: Sets, busy: bool = busy) -> bool:
            return busy

        sampler = Sampler(source, on_sets)
        sampler.start(asyncio.get_running_loop())
        await asyncio.sleep(2.5)
        sampler.close()
        assert abs(len(source.began) - 1 - expected) <= 1, busy  # close dumps once more


async def test_a_dump_that_fails_is_tried_again(caplog) -> None:  # type: ignore[no-untyped-def]
    source, seen = Source(), []
    source.fails = True
    sampler = Sampler(source, lambda sets: bool(seen.append(sets)))
    sampler.start(asyncio.get_running_loop())
    await _until(lambda: len(source.began) == 1)
    await asyncio.sleep(0.05)
    assert seen == []
    source.fails = False
    sampler.soon(lambda: None)
    await _until(lambda: bool(seen))
    source.fails = True
    assert sampler.close() == {}
    assert caplog.text.count("not counted to the last packet") == 1
