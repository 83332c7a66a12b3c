"""Whether two globs can match one text."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_TOKEN = re.compile(r"\[!?\][^\]]*\]|\[!?[^\]]+\]|.", re.DOTALL)
_ALPHABET = frozenset(map(chr, range(0x20, 0x7F)))

_Letters = frozenset[str] | None
"""The letters one token may stand for; None: any letter."""


def is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def globs_meet(a: str, b: str) -> bool:
    """True when some text matches both. Walks the product of the two as automata: at most len(a) * len(b) states."""
    left, right = _TOKEN.findall(a), _TOKEN.findall(b)
    letters = {t: _letters(t) for t in (*left, *right) if t != "*"}
    todo = [(0, 0)]
    seen = set(todo)
    while todo:
        i, j = todo.pop()
        if i == len(left) and j == len(right):
            return True
        for state in _steps(left, right, i, j, letters):
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return False


def _steps(left: list[str], right: list[str], i: int, j: int, letters: dict[str, _Letters]) -> list[tuple[int, int]]:
    a = left[i] if i < len(left) else None
    b = right[j] if j < len(right) else None
    if a == "*" or b == "*":
        # A star ends here, or takes in what the other side says next.
        steps = [(i + 1, j)] if a == "*" or (a is not None and b == "*") else []
        return steps + ([(i, j + 1)] if b == "*" or (b is not None and a == "*") else [])
    if a is None or b is None:
        return []
    return [(i + 1, j + 1)] if _share(letters[a], letters[b]) else []


def _share(a: _Letters, b: _Letters) -> bool:
    return a is None or b is None or bool(a & b)


def _letters(piece: str) -> _Letters:
    if piece == "?":
        return None
    if len(piece) == 1:
        return frozenset(piece)
    return frozenset(c for c in _ALPHABET if fnmatchcase(c, piece))
