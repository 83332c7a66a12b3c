"""Decisions about suggested rules of MemoryStore."""

from __future__ import annotations

from segctl_controller.errors import LimitError, NotFoundError
from segctl_controller.store.records import DecisionRecord, Entry
from segctl_controller.store.refusals import MOST_DECISIONS, no_decision, too_many_decisions


class MemoryDecisions:
    """A part of MemoryStore."""

    def __init__(self) -> None:
        super().__init__()
        self._decisions: dict[str, DecisionRecord] = {}

    def add_entry(self, entry: Entry) -> None:
        raise NotImplementedError

    def decide(self, decision: DecisionRecord, entry: Entry) -> None:
        if decision.id not in self._decisions and len(self._decisions) >= MOST_DECISIONS:
            raise LimitError(too_many_decisions())
        self._decisions[decision.id] = decision
        self.add_entry(entry)

    def decisions(self) -> tuple[DecisionRecord, ...]:
        return tuple(sorted(self._decisions.values(), key=lambda one: (one.at_us, one.id)))

    def forget_decision(self, identifier: str, entry: Entry) -> None:
        if self._decisions.pop(identifier, None) is None:
            raise NotFoundError(no_decision(identifier))
        self.add_entry(entry)
