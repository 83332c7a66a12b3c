"""What changed about the fleet since one last looked: who waits for a thousand hosts looks at those that answered."""

from __future__ import annotations

import asyncio


class Changes:
    """`take` what is known, look, then `wait` for more. At first anything may have changed."""

    def __init__(self) -> None:
        self._hosts: dict[str, None] = {}
        self._any = True
        self._event = asyncio.Event()

    def note(self, host: str = "") -> None:
        """Something about this host; empty: about the fleet."""
        if host:
            self._hosts[host] = None
        else:
            self._any = True
        self._event.set()

    def take(self) -> tuple[str, ...] | None:
        """The hosts that changed, in the order in which they first did; None: any may have."""
        hosts, everything = tuple(self._hosts), self._any
        self._hosts.clear()
        self._any = False
        self._event.clear()
        return None if everything else hosts

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._event.wait()
