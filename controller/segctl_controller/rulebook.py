"""Which rules each host was sent lately: what it may speak of."""

from __future__ import annotations

from collections import deque

REMEMBERED = 8
"""Sets of rules a host: reports may wait with an agent while its controller is away and policies change."""


class Rulebook:
    """In memory only: when the controller starts it begins with the active generation."""

    def __init__(self) -> None:
        self._sent: dict[str, deque[frozenset[str]]] = {}

    def note(self, host: str, rules: frozenset[str]) -> None:
        sent = self._sent.setdefault(host, deque(maxlen=REMEMBERED))
        if not sent or sent[-1] != rules:
            sent.append(rules)

    def rules_of(self, host: str) -> frozenset[str]:
        return frozenset().union(*self._sent.get(host, ()))

    def forget(self, host: str) -> None:
        self._sent.pop(host, None)
