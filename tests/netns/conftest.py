"""Fixtures of the kernel tests. A test that cannot get a namespace fails: a skipped kernel test proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.spaces import Space


@pytest.fixture
def space() -> Iterator[Space]:
    made = Space()
    try:
        yield made
    finally:
        made.close()
