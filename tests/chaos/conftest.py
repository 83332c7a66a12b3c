"""One hurt fleet for the whole suite, under traffic from its first policy on."""

from pathlib import Path
from random import Random

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.fleet import ChaosFleet
from tests.failed import FAILED

SEED = 20261128


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def hurt_fleet():
    with ChaosFleet() as fleet:
        chaos = Chaos(fleet, Random(SEED))
        chaos.begin()
        yield chaos
        chaos.end()


@pytest.fixture
def chaos(hurt_fleet, request):
    """The fleet in sync; after the test everything that must hold is looked at, also what went on all the time."""
    yield hurt_fleet
    if not request.node.stash.get(FAILED, False):
        hurt_fleet.check()
        return
    print(hurt_fleet.fleet.logs())
    hurt_fleet.ready()
