"""Did you mean: the declared word that is nearest to the one written."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_BUDGET = 50_000
"""Comparisons in one parse. Each costs some 20 us, so a file full of typing errors still parses in a second."""


def quoted(text: str) -> str:
    """`text` for a message: quoted, short, and without a character that a terminal would obey."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


class Suggester:
    """Suggests within a budget of comparisons; past it, stays silent."""

    def __init__(self, budget: int = _BUDGET) -> None:
        self._left = budget

    def mend(self, word: str, known: Iterable[str], otherwise: str = "") -> str:
        """`did you mean X?` for the nearest of `known`, or `otherwise`."""
        # A malformed name counts as declared, but must not reach a terminal.
        candidates = sorted({word for word in known if word.isprintable()})
        self._left -= len(candidates)
        if self._left < 0 or len(word) > 80:
            return otherwise
        folded = {c.casefold(): c for c in reversed(candidates)}
        near = get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
        if near:
            return f"did you mean {folded[near[0]]}?"
        return otherwise
