"""What all test suites share: a fixture may ask after its test whether that failed, and then show the logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.failed import FAILED

pytest_plugins = ["tests.postgres"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
