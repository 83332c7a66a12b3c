"""The threads of the flow store: one that commits whatever was queued while the last commit ran, one for questions."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from segctl.errors import SegctlError, StateError
from segctl.logs import Event, about
from segctl.measure import Durations

from segctl_controller.clock import Clock
from segctl_controller.errors import StoppingError
from segctl_controller.flowstore.protocol import FlowStore
from segctl_controller.flowstore.records import FlowReport, FlowSize

P = ParamSpec("P")
T = TypeVar("T")
MOST_IN_ONE = 200_000
"""Rows of one commit: a report never waits for more than that before its own."""
LINGER = 0.005
"""Seconds that a commit waits for more reports: it costs 5 ms of CPU, and little more for ten reports than for one."""
MOST_QUEUED = 1_000_000
"""Rows that wait, 110 bytes each. Beyond it streams are not read on, and agents keep what they have to tell."""
KEEP_SECONDS = 60.0
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    report: FlowReport
    stored: Future[bool] = field(default_factory=Future)


class FlowThread:
    def __init__(self, store: FlowStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._queue: queue.SimpleQueue[_Waiting | Callable[[], None] | None] = queue.SimpleQueue()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flows-read")
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self.waiting = self.waiting_rows = self.stored_rows = self.failures = 0
        self.size = FlowSize(0, 0)
        self.took = Durations()
        self._thread.start()

    async def room(self) -> None:
        """Wait while too much is queued."""
        while self.waiting_rows > MOST_QUEUED:
            self._room.clear()
            await self._room.wait()

    async def add(self, report: FlowReport) -> bool:
        """Whether it is new; durable by then. It is queued at once: what is known of its host now holds. Raises
        StoreFullError and StateError: then it is not stored."""
        if self._closed:
            raise StoppingError("the controller stops; connect again in a moment")
        waiting = _Waiting(report)
        self.waiting += 1
        self.waiting_rows += len(report.columns)
        self._queue.put(waiting)
        try:
            # Shielded: a stream that ends does not take back what is in a commit with others.
            return await asyncio.shield(asyncio.wrap_future(waiting.stored))
        finally:
            self.waiting -= 1
            self.waiting_rows -= len(report.columns)
            self._room.set()

    async def read(self, question: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Questions wait for one another, and nothing else waits for them."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, partial(question, *args, **kwargs))

    async def change(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what changes the store, after what was queued before."""
        return await asyncio.wrap_future(self._submit(partial(work, *args, **kwargs)))

    def forget(self, host: str) -> Future[None]:
        """After every report that was queued before. A failure is logged: the host left in any case."""

        def work() -> None:
            try:
                self.store.forget(host)
            except StateError as error:
                self._failed(error)

        return self._submit(work)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the future is awaited
                done.set_exception(error)

        self._queue.put(run)
        return done

    def close(self) -> None:
        """Finish what is queued, then close the store."""
        if self._closed:
            return
        self._closed = True
        self._reader.shutdown(wait=True)
        self._queue.put(None)
        self._thread.join()
        self.store.close()

    # The thread

    def _run(self) -> None:
        next_keeping = 0.0
        while True:
            now = time.monotonic()
            if now >= next_keeping or self.store.due:
                self._keep()
                next_keeping = time.monotonic() + KEEP_SECONDS
            try:
                item = self._queue.get(timeout=max(0.0, next_keeping - time.monotonic()))
            except queue.Empty:
                continue
            while isinstance(item, _Waiting):
                item = self._commit_with_others(item)
            if item is None:
                return
            item()

    def _commit_with_others(self, first: _Waiting) -> _Waiting | Callable[[], None] | None:
        """Commits `first` and the reports behind it, also those of the next moment; the next thing that is no report,
        or else does nothing."""
        group, rows = [first], len(first.report.columns)
        following: _Waiting | Callable[[], None] | None = _nothing
        until = time.monotonic() + LINGER
        while rows < MOST_IN_ONE:
            try:
                following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(following, _Waiting):
                break
            group.append(following)
            rows += len(following.report.columns)
            following = _nothing
        self._commit(group)
        return following

    def _commit(self, group: list[_Waiting]) -> None:
        began = time.perf_counter()
        try:
            fresh = self.store.add([one.report for one in group])
        except StateError as error:
            self._failed(error)
            for one in group:
                one.stored.set_exception(error)
        except Exception as error:
            if len(group) > 1:
                # One of them breaks the rest: each alone, so that it only breaks itself.
                for one in group:
                    self._commit([one])
                return
            log.exception("flows: unexpected error with a report of %s", group[0].report.host)
            group[0].stored.set_exception(error)
        else:
            for one, new in zip(group, fresh, strict=True):
                self.stored_rows += len(one.report.columns) if new else 0
                one.stored.set_result(new)
        finally:
            self.took.add(time.perf_counter() - began)

    def _keep(self) -> None:
        try:
            self.store.keep(self._clock.now_us())
            self.size = self.store.size()
        except SegctlError as error:
            self._failed(error)

    def _failed(self, error: SegctlError) -> None:
        self.failures += 1
        log.error("flows: %s", error, extra=about(Event.STORE))


def _nothing() -> None:
    """Follows a report when the queue is empty."""
