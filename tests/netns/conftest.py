"""Fixtures of the kernel tests. A test that cannot get a namespace fails: a skipped kernel test proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.kernels import belongs, release
from tests.netns.spaces import Space

OF_OTHERS = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of what other kernels do are no part of this run; their counterparts for this one are."""
    now = release()
    out = [item for item in items if not all(belongs(mark, now) for mark in item.iter_markers("linux"))]
    config.stash[OF_OTHERS] = len(out)
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    number = config.stash.get(OF_OTHERS, 0)
    if number:
        major, minor = release()
        terminalreporter.write_line(f"{number} tests are of other kernels than this one, Linux {major}.{minor}")


@pytest.fixture
def space() -> Iterator[Space]:
    made = Space()
    try:
        yield made
    finally:
        made.close()
