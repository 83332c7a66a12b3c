"""The threads that talk to the synchronous store, so that the event loop never waits for a disk: one for all that is
quick, one for questions that read a lot, which nobody else shall wait for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from segctl.errors import SegctlError, StateError
from segctl.logs import Event, about
from segctl.measure import Durations

from segctl_controller.store.protocol import Store

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


class StoreThread:
    """`await thread.call(thread.store.hosts)` runs the call on the thread; calls run one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-read")
        self._whole: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.waiting = self.failures = 0
        self.took = Durations()

    async def call(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.waiting += 1
        try:
            work = partial(self._measured, partial(method, *args, **kwargs))
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self.waiting -= 1

    def _measured(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        except StateError:
            self.failures += 1
            raise
        finally:
            self.took.add(time.perf_counter() - began)

    async def read(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `call`, for the methods that the store allows a second thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, partial(method, *args, **kwargs))

    def post(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run without waiting, for what a stream leaves behind when it ends; a failure is logged."""
        if self._closed:
            return
        self._executor.submit(method, *args, **kwargs).add_done_callback(_report)

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even when its caller hangs up: store and memory must not part half way."""
        task = asyncio.create_task(work)
        self._whole.add(task)
        task.add_done_callback(self._whole.discard)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Finish what is queued, then close the store."""
        self._closed = True
        self._reader.shutdown(wait=True)
        self._executor.submit(self.store.close)
        self._executor.shutdown(wait=True)


def _report(done: Future[T]) -> None:
    error = done.exception()
    if isinstance(error, SegctlError):
        log.error("store: %s", error, extra=about(Event.STORE))
    elif error is not None:
        log.error("store: unexpected error", exc_info=error, extra=about(Event.STORE))
