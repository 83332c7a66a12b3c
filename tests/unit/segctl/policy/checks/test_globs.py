from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.policy.checks.globs import globs_meet

_TEXTS = ["".join(letters) for n in range(5) for letters in product("ab", repeat=n)]
patterns = st.lists(st.sampled_from(("a", "b", "?", "*", "[ab]", "[!a]", "[b]")), max_size=4).map("".join)


@settings(max_examples=400, deadline=None)
@given(patterns, patterns)
def test_globs_meet_when_a_text_matches_both(a: str, b: str) -> None:
    """Against every short text over two letters; a longer one is never needed for patterns this short."""
    witness = any(fnmatchcase(t, a) and fnmatchcase(t, b) for t in _TEXTS)
    if witness:
        assert globs_meet(a, b)
    elif "[!a]" not in a + b:
        # Eight single letters at most, and a shortest common text takes each from one of the two patterns.
        longer = ["".join(letters) for n in range(5, 9) for letters in product("ab", repeat=n)]
        assert globs_meet(a, b) == any(fnmatchcase(t, a) and fnmatchcase(t, b) for t in longer)
