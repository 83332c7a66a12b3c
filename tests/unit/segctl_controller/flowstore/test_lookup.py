"""Columns are looked up at once, and only what is new is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from segctl_controller.flowstore.lookup import Lookup


def test_each_key_is_asked_for_once_until_too_many_are_known() -> None:
    asked: list[list[Any]] = []

    def ask(keys: list[Any]) -> list[tuple[int, ...]]:
        asked.append(keys)
        return [(key * 10, key) for key in keys]

    lookup = Lookup(ask, 2, np.empty(0, dtype=np.int64), most=3)
    assert lookup.of(np.array([5, 1, 5])).tolist() == [[50, 5], [10, 1], [50, 5]]
    assert lookup.of(np.array([9, 1, 3])).tolist() == [[90, 9], [10, 1], [30, 3]]
    assert lookup.of(np.empty(0, dtype=np.int64)).shape == (0, 2)
    assert asked == [[1, 5], [3, 9]]
    assert lookup.of(np.array([1, 2])).tolist() == [[10, 1], [20, 2]]
    assert asked[2:] == [[1, 2]]


def test_bytes_that_end_in_zeroes_are_keys_of_their_own() -> None:
    lookup = Lookup(lambda keys: [(len(key),) for key in keys], 1, np.empty(0, dtype="S16"), most=9)
    keys = np.frombuffer(bytes(15) + b"\x01" + bytes(16), dtype="S16")
    assert lookup.of(keys).tolist() == [[16], [0]]
