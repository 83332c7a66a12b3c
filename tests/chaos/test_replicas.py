"""Two controllers of one fleet, of which one dies or freezes amid a push: whatever the moment, the fleet is one in the
end. SEGCTL_CHAOS=all takes more moments, and SEGCTL_CHAOS_SEED=N others."""

import os
from random import Random

import pytest

from tests.chaos.deaths import AT_ANY_MOMENT, BY_HAND, DEATHS
from tests.chaos.replicas import ReplicaChaos, ReplicaFleet
from tests.failed import FAILED

pytestmark = pytest.mark.timeout(300)
SEED = int(os.environ.get("SEGCTL_CHAOS_SEED", "20261128"))
ALL = os.environ.get("SEGCTL_CHAOS") == "all"
AT_MOMENTS = [death for death in AT_ANY_MOMENT for _ in range(10 if ALL else 1)]
CASES = [*(death for death in DEATHS if ALL or death not in BY_HAND), *AT_MOMENTS]


@pytest.fixture(scope="module")
def hurt_replicas():
    with ReplicaFleet() as fleet:
        chaos = ReplicaChaos(fleet, Random(SEED))
        chaos.begin()
        yield chaos
        chaos.end()


@pytest.mark.parametrize("death", CASES, ids=lambda death: death.__name__)
def test_a_death_amid_a_push(hurt_replicas, request, death):
    print(death(hurt_replicas))
    if request.node.stash.get(FAILED, False):
        print(hurt_replicas.fleet.logs())
