"""The threads that talk to the synchronous store, so that the event loop never waits for a disk: one for all that is
quick, one for questions that read a lot, which nobody else shall wait for.

Calls that come while the thread is busy are made together, as one transaction: a thousand hosts that prove a policy at
once wait for one write to the disk, and not for a thousand.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from segctl.errors import SegctlError, StateError
from segctl.logs import Event, about
from segctl.measure import Durations

from segctl_controller.slices import AT_ONCE
from segctl_controller.store.protocol import Store

P = ParamSpec("P")
T = TypeVar("T")
TOGETHER = 256
"""Calls of one transaction, at most: those behind them wait for all of it."""
log = logging.getLogger(__name__)


class StoreThread:
    """`await thread.call(thread.store.hosts)` runs the call on the thread; calls run one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-read")
        self._whole: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.waiting = self.failures = 0
        self.took = Durations()

    async def call(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call answers or raises, once it is durable."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self.waiting += 1
        try:
            self._put(_Call(partial(method, *args, **kwargs), loop, answer))
            return await answer
        finally:
            self.waiting -= 1

    def post(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run without waiting, for what a stream leaves behind when it ends; a failure is logged."""
        if not self._closed:
            self._put(_Call(partial(method, *args, **kwargs)))

    def _put(self, call: _Call) -> None:
        if self._closed:
            raise RuntimeError("the store is closed")
        if self._thread.ident is None:
            self._thread.start()
        self._calls.put(call)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            calls = [call]
            last = False
            while len(calls) < TOGETHER:
                try:
                    following = self._calls.get_nowait()
                except Empty:
                    break
                if following is None:
                    last = True
                    break
                calls.append(following)
            self._make(calls)
            for loop in dict.fromkeys(c.loop for c in calls if c.loop is not None):
                loop.call_soon_threadsafe(_tell, [c for c in calls if c.loop is loop])
            for call in calls:
                if call.loop is None and call.error is not None:
                    _report(call.error)
            if last:
                return

    def _make(self, calls: list[_Call]) -> None:
        began = time.perf_counter()
        try:
            if len(calls) == 1:
                calls[0].make()
            else:
                with self.store.batch():
                    for call in calls:
                        call.make()
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for call in calls:
                call.error = call.error or error
        self.failures += sum(isinstance(call.error, StateError) for call in calls)
        self.took.add(time.perf_counter() - began)

    async def read(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `call`, for the methods that the store allows a second thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, partial(method, *args, **kwargs))

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even when its caller hangs up: store and memory must not part half way."""
        task = asyncio.create_task(work)
        self._whole.add(task)
        task.add_done_callback(self._whole.discard)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Finish what is queued, then close the store."""
        self._reader.shutdown(wait=True)
        self._closed = True
        if self._thread.ident is not None:
            self._calls.put(None)
            self._thread.join()
        self.store.close()


class _Call:
    """One call, and what came of it. Without a loop nobody waits for it."""

    __slots__ = ("_work", "answer", "error", "future", "loop")

    def __init__(
        self,
        work: Callable[[], Any],
        loop: asyncio.AbstractEventLoop | None = None,
        future: asyncio.Future[Any] | None = None,
    ) -> None:
        self._work, self.loop, self.future = work, loop, future
        self.answer: Any = None
        self.error: Exception | None = None

    def make(self) -> None:
        if self.future is not None and self.future.cancelled():
            return
        try:
            self.answer = self._work()
        except Exception as error:  # noqa: BLE001 - its caller gets it
            self.error = error


def _tell(calls: Iterable[_Call]) -> None:
    for call in calls:
        if call.future is None or call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.answer)


def _report(error: Exception) -> None:
    if isinstance(error, SegctlError):
        log.error("store: %s", error, extra=about(Event.STORE))
    else:
        log.error("store: unexpected error", exc_info=error, extra=about(Event.STORE))


class Gather(Generic[T]):
    """Makes one call of what many add while the call before is under way."""

    def __init__(self, store: Callable[[list[T]], Awaitable[object]]) -> None:
        self._store = store
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Returns when it is stored; raises what storing it did."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, stored))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await stored

    async def _run(self) -> None:
        await asyncio.sleep(0)  # whoever is ready to add comes along
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            failure: Exception | None = None
            try:
                await self._store([item for item, _ in waiting])
            except Exception as error:  # noqa: BLE001 - those who added get it
                failure = error
            for number, (_, stored) in enumerate(waiting, 1):
                if stored.done():
                    continue  # nobody is left to hear it
                if failure is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(failure)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._task = None
