"""The policy of a moment, and of a generation."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl_controller.clock import Clock
from segctl_controller.errors import NotFoundError
from segctl_controller.pastpolicies import MOST_PARSED, PastPolicies

from tests.controller_harness import running_controller
from tests.unit.segctl_controller.policies import SHOP
from tests.unit.segctl_controller.test_mapquestions import HOUR, NOW, Moved


async def test_each_generation_was_in_force_until_the_next_one_was_pushed(tmp_path: Path) -> None:
    clock = Moved()
    async with running_controller(tmp_path, Clock(clock)) as lab:
        past = PastPolicies(lab.controller.registry.fleet, lab.controller.db, Clock(clock))
        before = await past.now()
        assert (before.number, before.policy.rules, before.since_us, before.until_us) == (0, (), 0, 0)
        for number in range(1, MOST_PARSED + 3):
            clock.now_us = NOW + number * HOUR
            await lab.push(SHOP.replace("web-db", f"rule-{number}"))
        now = await past.now()
        assert (now.number, now.since_us, now.until_us) == (MOST_PARSED + 2, clock.now_us, 0)
        first = await past.at(NOW + HOUR + 1)
        assert (first.number, first.since_us, first.until_us) == (1, NOW + HOUR, NOW + 2 * HOUR)
        assert [rule.name for rule in first.policy.rules] == ["rule-1"]
        assert (await past.at(NOW)).until_us == NOW + HOUR
        for number in (*range(1, MOST_PARSED + 2), 1):
            found = await past.generation(number)
            assert [rule.name for rule in found.policy.rules] == [f"rule-{number}"]
        with pytest.raises(NotFoundError):
            await past.generation(99)
