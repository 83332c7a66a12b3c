"""How far every host is cut down when there are too many rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_controller.flowstore.retention import level_of


@pytest.mark.parametrize(
    ("counts", "keep", "level"),
    [([5, 1, 1], 6, 4), ([5, 5, 5], 6, 2), ([3, 2], 5, 3), ([3, 2], 9, 3), ([], 9, 1), ([4, 4], 1, 1)],
)
def test_large_hosts_are_cut_down_to_one_level(counts: list[int], keep: int, level: int) -> None:
    assert level_of(counts, keep) == level


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 5000))
def test_it_is_the_highest_level_that_fits(counts: list[int], keep: int) -> None:
    level = level_of(counts, keep)
    if level > 1:
        assert sum(min(count, level) for count in counts) <= keep
    if level < max(counts):
        assert sum(min(count, level + 1) for count in counts) > keep
