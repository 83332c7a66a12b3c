"""Texts as numbers: rows hold the numbers, and each text is stored once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from sqlalchemy import Table, select

from segctl_controller.flowstore.database import Database

NONE = 0
"""The number of the empty text."""
FEW = 100
"""New texts whose numbers are asked for; beyond it, to read all of them takes less time."""


class Dictionary:
    """`table` in memory, both ways. Other replicas add to it, so what is unknown here is looked for there."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {NONE: ""}
        self._load()

    def __contains__(self, text: str) -> bool:
        return text in self._numbers

    def add(self, texts: Iterable[str]) -> None:
        """Store those that are new, durably: a row may refer to them from here on."""
        new = sorted({text for text in texts if text not in self._numbers})
        if not new:
            return
        query = select(self._table.c.id, self._table.c.text)
        with self._database.transaction() as work:
            work.merge(self._table, {"text": np.array(new, dtype=object)}, "text", "NOTHING")
            found = work.rows(query if len(new) > FEW else query.where(self._table.c.text.in_(new)))
        self._learn(found)

    def number(self, text: str) -> int:
        """Of a text that was added. Raises KeyError."""
        return self._numbers[text]

    def find(self, text: str) -> int | None:
        """None: no row can hold it."""
        if text not in self._numbers and self._database.shared:
            self._load()
        return self._numbers.get(text)

    def text(self, number: int) -> str:
        if number not in self._texts and self._database.shared:
            self._load()
        return self._texts.get(number, "?")

    def texts(self, numbers: Iterable[int]) -> dict[int, str]:
        """Of many."""
        return {number: self.text(number) for number in set(numbers)}

    def all(self) -> dict[int, str]:
        """Texts by number, as they are now; without the empty one."""
        if self._database.shared:
            self._load()
        return {number: text for number, text in self._texts.copy().items() if number != NONE}

    def _load(self) -> None:
        with self._database.reading() as work:
            self._learn(work.rows(select(self._table.c.id, self._table.c.text)))

    def _learn(self, found: Iterable[tuple[int, str]]) -> None:
        for number, text in found:
            self._texts[number] = text
            self._numbers[text] = number
