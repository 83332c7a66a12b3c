"""Two agents with one identity: what tells them from one agent that merely comes back. Pure; the time comes in.

A host has one live session, and a newer one ends it. So a disk that was copied, or a key that was stolen, shows as
sessions that take each other's place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from segctl.model.inventory import Address

MOST_A_MINUTE = 6
"""Replacements of one agent's own: with its backoff of 5 to 10 s it cannot do more for long."""
MINUTE_US = 60_000_000
SHOWN_US = 60 * MINUTE_US


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a session comes from; `source` None and `boot_id` empty where nobody told. `addresses`: what its agent says
    the host holds."""

    source: Address | None = None
    boot_id: str = ""
    addresses: frozenset[Address] = frozenset()


@dataclass(slots=True)
class Contest:
    """What one host's sessions did to each other. Times are Unix microseconds."""

    why: str = ""
    last_us: int = 0
    told_us: int = 0
    _times: deque[int] = field(default_factory=lambda: deque(maxlen=MOST_A_MINUTE + 1))

    def replaced(self, older: Origin, newer: Origin, older_lives: bool, now_us: int) -> bool:
        """A session took the place of one that had not ended. `older_lives`: it was heard from within its heartbeat
        interval. True when that must be told: it is suspicious, and nothing was told in the last minute."""
        self._times.append(now_us)
        why = difference(older, newer) if older_lives else ""
        if not why and len(self._times) > MOST_A_MINUTE and 0 <= now_us - self._times[0] < MINUTE_US:
            why = f"its sessions took each other's place more than {MOST_A_MINUTE} times in a minute"
        if not why:
            return False
        self.why, self.last_us = why, now_us
        if self.told_us and 0 <= now_us - self.told_us < MINUTE_US:
            return False
        self.told_us = now_us
        return True

    def problem(self, host: str, now_us: int) -> str:
        """What to show for `host`, and what to do; empty when nothing happened within the last hour."""
        if not self.why or not 0 <= now_us - self.last_us < SHOWN_US:
            return ""
        return (
            f"two agents seem to use the identity of {host}: {self.why}. Unless it is one server that changed its "
            f"address or was reset, its key was copied: segctl host remove {host}, then enrol the right machine "
            "anew with segctl-agent enrol --replace"
        )


def difference(older: Origin, newer: Origin) -> str:
    """Why two live sessions are hardly of one agent; empty when they can be."""
    if older.source is not None and newer.source is not None and not _one_host(older.source, newer):
        return f"a session from {newer.source} took the place of a live one from {older.source}"
    if older.boot_id and newer.boot_id and older.boot_id != newer.boot_id:
        where = f" from {newer.source}" if newer.source is not None else ""
        return (
            f"a session{where} took the place of a live one of another boot (boot_id {older.boot_id[:8]}, now "
            f"{newer.boot_id[:8]})"
        )
    return ""


def _one_host(before: Address, newer: Origin) -> bool:
    """An agent that lost its connection goes on to the next address of its controller, so maybe to the other family, or
    out of another interface of its host. Where a thief hides in that, the count of replacements gives it away."""
    assert newer.source is not None
    return newer.source == before or newer.source.version != before.version or before in newer.addresses
