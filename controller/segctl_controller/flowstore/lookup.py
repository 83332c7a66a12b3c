"""Looks whole columns up in what is known already, and asks one by one only for what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segctl_controller.flowstore.columns import Integers

Ask = Callable[[list[Any]], Sequence[tuple[int, ...]]]


class Lookup:
    """`ask` answers keys that are new, each with `width` integers. Keys are of the type of `none`, an empty array; once
    more than `most` are known, all are forgotten."""

    def __init__(self, ask: Ask, width: int, none: NDArray[Any], most: int) -> None:
        self._ask = ask
        self._none = none
        self._most = most
        self._width = width
        self.forget()

    def forget(self) -> None:
        self._keys = self._none
        self._answers = np.empty((0, self._width), dtype=np.int64)

    def of(self, keys: NDArray[Any]) -> Integers:
        """An array of (len(keys), width)."""
        places = self._places(keys)
        new = np.unique(keys[self._keys[places] != keys] if len(self._keys) else keys)
        if len(new):
            if len(self._keys) > self._most:
                self.forget()
                return self.of(keys)
            self._learn(new)
            places = self._places(keys)
        return self._answers[places]

    def _places(self, keys: NDArray[Any]) -> NDArray[np.intp]:
        """Where each is, or would be; within the array, if anything is in it."""
        return np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))

    def _learn(self, new: NDArray[Any]) -> None:
        answers = np.array(self._ask(new.tolist()), dtype=np.int64).reshape(-1, self._width)
        places = np.searchsorted(self._keys, new)
        self._keys = np.insert(self._keys, places, new)
        self._answers = np.insert(self._answers, places, answers, axis=0)
