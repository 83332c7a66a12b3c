"""Who loses their right ends with their live streams, not at their next call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from segctl.errors import SegctlError

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
