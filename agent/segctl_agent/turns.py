"""Which of its controllers an agent tries next. Pure: time comes in, in seconds of one clock."""

from __future__ import annotations

from collections.abc import Sequence

SILENT_SECONDS = 20.0
"""For which one that did not answer is passed over, as long as there are others."""


class Turns:
    """One after the other, in the order of the list. One that says no, or whose port is closed, says so at once, and is
    tried again in its turn. One that says nothing (it froze, or its machine is gone) costs seconds at every attempt:
    with two controllers, each refusal of the other one would be followed by those."""

    def __init__(self) -> None:
        self._turn = 0
        self._silent: dict[str, float] = {}

    def next(self, controllers: Sequence[str], now: float) -> str:
        """Whose turn it is, until it was `left`."""
        for step in range(len(controllers)):
            address = controllers[(self._turn + step) % len(controllers)]
            if not self._is_silent(address, now):
                self._turn += step
                return address
        return controllers[self._turn % len(controllers)]

    def left(self, address: str, now: float, *, silent: bool) -> None:
        """There is no session with that one, or none any more. `silent`: it said nothing for too long."""
        self._turn += 1
        self._silent.pop(address, None)
        if silent:
            self._silent[address] = now + SILENT_SECONDS

    def others(self, address: str, controllers: Sequence[str], now: float) -> bool:
        """Whether another one may answer, so that this one need not be waited for."""
        return any(other != address and not self._is_silent(other, now) for other in controllers)

    def _is_silent(self, address: str, now: float) -> bool:
        return self._silent.get(address, now) > now
