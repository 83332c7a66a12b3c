"""Who serves beside us. Pure: time comes in, and is only ever compared with itself.

Nobody's clock is trusted. Each controller counts in its row, and one whose count stood still for LEASE_SECONDS while we
looked all the time is gone. Who could not look for a while, because it was frozen or the database was away, begins to
measure anew: it must not take for dead those who were as blind as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from segctl_controller.store.shared import Beat

LEASE_SECONDS = 4.0


@dataclass(slots=True)
class _Seen:
    endpoint: str
    count: int
    since: float


class Roster:
    """`own` is the id of this controller; times are those of a monotonic clock, in seconds. `begin` comes first."""

    def __init__(self, own: str) -> None:
        self.own = own
        self._others: dict[str, _Seen] = {}
        self._looked = 0.0

    def begin(self, now: float) -> None:
        """From now on it looks. How long the controller took to load until then says nothing about its database."""
        self._looked = now

    def look(self, beat: Beat | None, now: float) -> dict[str, int | None]:
        """The others that are gone now, each with its last count, or None where its row is gone already."""
        if beat is None:
            return {}
        blind, self._looked = now - self._looked > LEASE_SECONDS, now
        gone: dict[str, int | None] = dict.fromkeys(self._others.keys() - beat.replicas.keys())
        for replica, (endpoint, count) in beat.replicas.items():
            seen = self._others.get(replica)
            if replica == self.own:
                continue
            if seen is None or blind or seen.count != count:
                self._others[replica] = _Seen(endpoint, count, now)
            elif now - seen.since > LEASE_SECONDS:
                gone[replica] = count
        for replica in gone:
            del self._others[replica]
        return gone

    def in_touch(self, now: float) -> bool:
        """Whether the others can still count on us, and we on what we know of them."""
        return now - self._looked <= LEASE_SECONDS

    def gone(self, replica: str, since: float) -> bool:
        """Whether it serves no more. `since`: when we heard of it; one that just came is known after the next look."""
        return replica != self.own and replica not in self._others and self._looked > since

    def endpoint(self, replica: str) -> str:
        """Of one that just came, it is not known yet."""
        seen = self._others.get(replica)
        return seen.endpoint if seen is not None else "another controller"

    @property
    def size(self) -> int:
        """How many serve, with this one."""
        return len(self._others) + 1
