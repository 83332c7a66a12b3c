"""Which workload a decision id belongs to, or belonged to."""

from __future__ import annotations

from collections.abc import Mapping

from segctl_agent.identity import Direction

DecisionId = tuple[Direction, int]


class RecentDecisions:
    """Ids that are live, and those that died: a flow bears a dead id until its next packet.

    An id is given again only when no flow bears it, so what it last stood for holds until then. There are 8,190 ids:
    nothing needs to be forgotten. One thread learns, others may ask.
    """

    def __init__(self) -> None:
        self._workloads: dict[DecisionId, str] = {}

    def learn(self, live: Mapping[DecisionId, str]) -> None:
        """The ids that are live now, each with its workload (ESSENTIALS for theirs), to be called after every commit.
        Ids that are never live, because they name what was refused, are none of them."""
        self._workloads.update(live)

    def workload(self, direction: Direction, number: int) -> str | None:
        return self._workloads.get((direction, number))
