"""kill -9 at steps of push, start, report and enrolment: a sample; `python -m tests.chaos --every-step` takes all."""

import pytest

from tests.chaos.kills import SAMPLE

pytestmark = pytest.mark.timeout(300)
CASES = [pytest.param(kill, step, id=f"{kill.__name__}-{step}") for kill, steps in SAMPLE.items() for step in steps]


@pytest.mark.parametrize(("kill", "step"), CASES)
def test_a_kill_at_a_step(chaos, kill, step):
    killed = kill(chaos, step)
    print(killed)
    assert killed.killed, f"there is no step {step} any more: {killed}"
