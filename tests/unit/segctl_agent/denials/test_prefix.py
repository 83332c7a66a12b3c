"""The log prefix: what is encoded is decoded, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.denials.prefix import Prefix, decode, encode

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True) | st.just("?")


@given(st.sampled_from(["in", "out"]), st.sampled_from(["deny", "test"]), NAMES)
def test_round_trip_within_what_every_kernel_keeps(direction, verdict, workload):
    text = encode(direction, verdict, workload)
    assert decode(text) == Prefix(direction, verdict, workload)
    assert len(text) <= 63


@pytest.mark.parametrize("workload", ["", "a" * 41, 'x"', "a b", "-a", "?x", "é", "a\n"])
def test_a_name_that_does_not_fit_is_refused(workload: str):
    with pytest.raises(ValueError, match="does not fit a log prefix"):
        encode("in", "deny", workload)


@given(st.text())
def test_foreign_text_is_none_or_reencodes(text: str):
    found = decode(text)
    assert found is None or encode(found.direction, found.verdict, found.workload) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "segctl",
        "segctl 2 in deny a",
        "segctl 1 fwd deny a",
        "segctl 1 in deny a ",
        "segctl 1 in deny a\n",
        " segctl 1 in deny a",
    ],
)
def test_near_misses_are_none(text: str):
    assert decode(text) is None
