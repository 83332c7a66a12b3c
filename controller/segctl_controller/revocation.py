"""Who loses their right ends with their live streams, not at their next call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from segctl.errors import SegctlError

T = TypeVar("T")
RECHECK = 1.0
"""Seconds between two looks at an operator's rights, which another process may take away."""


class Revocations:
    """Of hosts: the streams that each has open beside its session. On the event loop."""

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Future[None]]] = {}

    def revoke(self, host: str, reason: SegctlError) -> None:
        for ended in self._open.pop(host, ()):
            if not ended.done():
                ended.set_exception(reason)

    async def bound(self, host: str, work: Coroutine[Any, Any, None]) -> None:
        """`work`, until it ends or the host is revoked. Raises the reason, or what `work` raises."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.setdefault(host, set()).add(ended)
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                ended.result()
            working.result()
        finally:
            working.cancel()
            ended.cancel()
            left = self._open.get(host)
            if left is not None:
                left.discard(ended)
                if not left:
                    del self._open[host]


async def while_admitted(admit: Callable[[], Awaitable[object]], stream: AsyncIterator[T]) -> AsyncIterator[T]:
    """What `stream` gives, as long as `admit` does not raise: it is asked every RECHECK seconds, whether nothing comes
    or very much does."""
    loop = asyncio.get_running_loop()
    recheck = loop.time() + RECHECK
    coming: asyncio.Task[T] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(stream))
            await asyncio.wait({coming}, timeout=max(0.0, recheck - loop.time()))
            if loop.time() >= recheck:
                await admit()
                recheck = loop.time() + RECHECK
            if coming.done():
                item, coming = coming, None
                try:
                    yield item.result()
                except StopAsyncIteration:
                    return
    finally:
        if coming is not None:
            coming.cancel()


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)
