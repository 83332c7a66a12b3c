"""Nearly every fault once, all of them with SEGCTL_CHAOS=all. `python -m tests.chaos --minutes 30` draws faults, and
kills, for as long as one likes."""

import os

import pytest

from tests.chaos.faults import BY_HAND, FAULTS
from tests.chaos.trials import TRIALS

pytestmark = pytest.mark.timeout(300)
CHOSEN = [fault for fault in (*FAULTS, *TRIALS) if fault not in BY_HAND or os.environ.get("SEGCTL_CHAOS") == "all"]


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.__name__)
def test_a_fault(chaos, fault):
    print(fault(chaos))
