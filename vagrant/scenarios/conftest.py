"""The fleet that the scenarios run on: `pytest vagrant/scenarios --driver qemu --hosts ctl,web1,api1`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.driver import Driver
from lab.drivers import DRIVERS, chosen
from lab.topology import Topology
from tests.failed import FAILED

MACHINE_SECONDS = 3600
"""For a test on virtual machines, the first with their boot: a machine without KVM is slow."""
TOPOLOGY = pytest.StashKey[Topology]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("segctl lab")
    group.addoption("--driver", choices=sorted(DRIVERS), default="netns", help="what the lab's hosts are")
    group.addoption(
        "--hosts",
        default=os.environ.get("SEGCTL_HOSTS", ""),
        help="only these hosts of lab/shop.json, such as ctl,web1,api1",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*hosts): what the scenario is about")
    config.addinivalue_line("markers", "machines: hosts that boot and start their services themselves")
    config.stash[TOPOLOGY] = chosen(config.getoption("--hosts"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A scenario for which there are no hosts is no part of this run; pytest says how many those were."""
    hosts = {host.name for host in config.stash[TOPOLOGY].hosts}
    driver = DRIVERS[config.getoption("--driver")]
    out = []
    for item in [item for item in items if Path(__file__).parent in item.path.parents]:
        item.add_marker(pytest.mark.e2e)
        needed = {host for marker in item.iter_markers("needs") for host in marker.args}
        if not needed <= hosts or (item.get_closest_marker("machines") and not driver.systemd):
            out.append(item)
        elif driver.systemd:
            item.add_marker(pytest.mark.timeout(MACHINE_SECONDS))
    config.hook.pytest_deselected(items=out)
    left = [item for item in items if item not in out]
    items[:] = sorted(left, key=lambda item: item.get_closest_marker("machines") is not None)  # reboots come last


@pytest.fixture(scope="session")
def raised(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with DRIVERS[request.config.getoption("--driver")](request.config.stash[TOPOLOGY]) as driver:
        driver.await_in_sync(300)
        driver.push(driver.policy)
        yield driver


@pytest.fixture
def fleet(raised: Driver, request: pytest.FixtureRequest) -> Iterator[Driver]:
    """The fleet with the example policy in force on every host."""
    raised.await_in_sync(300)
    yield raised
    if request.node.stash.get(FAILED, False):
        print(raised.logs())


@pytest.fixture
def policy(fleet: Driver, tmp_path: Path) -> Iterator[Path]:
    """A copy of the policy to change and push; afterwards the example is in force again."""
    yield Path(shutil.copytree(fleet.policy, tmp_path / "policy"))
    fleet.push(fleet.policy)
