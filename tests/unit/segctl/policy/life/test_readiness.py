"""Whether a selector is ready for its next phase."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from segctl.model.policy import Mode, PortRange, Tags
from segctl.policy.life.past import Age
from segctl.policy.life.readiness import TOP, Readiness, SeenKind, assess, percent
from segctl.policy.life.season import DAY_US, today
from segctl.policy.satisfy import run_tests

from tests.policies import policy
from tests.shop import sel

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
TODAY = today(NOW)
FIRST = TODAY - 60
PROD = sel(env="prod")
BEGAN = Age(NOW_US - 10 * DAY_US, True)
TAGS = Tags.of({"env": "prod"})


def kind(flows: int = 100, *days_ago: int, port: int = 80, explained: str = "rule", recent: int = 0) -> SeenKind:
    days = {TODAY - FIRST - ago for ago in days_ago or range(10)}
    last_us = (FIRST + max(days) + 1) * DAY_US - DAY_US // 2
    service = PortRange("tcp", port, port)
    return SeenKind(
        "host",
        "unit:cron.service",
        TAGS,
        "web1",
        TAGS,
        "db1",
        False,
        service,
        flows,
        recent,
        last_us,
        sum(1 << day for day in days),
        explained,
    )  # type: ignore[arg-type]


def looked(*kinds: SeenKind, phase: Mode = Mode.TEST, since: Age = BEGAN, hosts: int = 2, **more: object) -> Readiness:
    return assess(PROD, phase, since, hosts, kinds, FIRST, (), NOW, **more)  # type: ignore[arg-type]


def codes(found: Readiness) -> list[str]:
    return [obstacle.code for obstacle in found.obstacles]


def test_what_the_policy_explains_for_a_week_is_ready() -> None:
    found = looked(kind(), kind(5, port=22, explained="boundary"))
    assert (found.ready, found.next, found.days, found.coverage) == (True, Mode.ENFORCE, 10.0, 1.0)
    assert (found.flows, found.covered, found.bounded, found.unexplained_flows) == (105, 100, 5, 0)


def test_a_little_noise_of_long_ago_is_none_of_the_policys_business() -> None:
    scan = kind(1, 3, port=23, explained="default")
    assert looked(kind(199), scan).ready
    assert codes(looked(kind(198), scan)) == ["uncovered"]
    assert codes(looked(kind(199), replace(scan, recent=1))) == ["coming"]


def test_the_first_unexplained_flows_are_named_and_all_are_counted() -> None:
    found = looked(*(kind(n, port=n, explained="default") for n in range(1, TOP + 5)))
    assert [k.flows for k in found.unexplained] == list(range(TOP + 4, 4, -1))
    assert found.unexplained_kinds == TOP + 4


@pytest.mark.parametrize(
    ("days_ago", "least", "observed"),
    [((0, 1, 2), None, 3.0), ((0, 20, 21, 22, 23, 24, 25), None, 1.0), (tuple(range(9)), 12, 9.0)],
)
def test_days_without_flows_do_not_count(days_ago: tuple[int, ...], least: int | None, observed: float) -> None:
    found = looked(kind(100, *days_ago), least_days=least)
    assert (found.days, codes(found)) == (observed, ["young"])
    assert looked(kind(100, *days_ago), least_days=observed).ready


def test_a_young_phase_is_not_as_old_as_its_days_are_many() -> None:
    found = looked(kind(100, 0, 1), since=Age(NOW_US - int(0.6 * DAY_US), True))
    assert found.days == 0.6


@pytest.mark.parametrize(
    ("days_ago", "waits"),
    [
        ((11, 18, 25), True),
        ((11, 25, 39), True),
        ((40, 47, 54), False),  # it has ended
        ((3, 11, 18, 25), False),  # it came
        ((11, 13, 25), False),  # not regular
        ((11, 18), False),  # once more than once
        ((11, 41), True),  # monthly: nobody can wait for a third
    ],
)
def test_periodic_flows_are_waited_for(days_ago: tuple[int, ...], waits: bool) -> None:
    job = kind(0, *days_ago, port=873)
    found = looked(kind(), job)
    assert codes(found) == (["periodic"] if waits else [])
    if waits:
        [waiting] = found.waiting
        assert waiting.expected == TODAY - days_ago[0] + waiting.every
    assert not looked(kind(), replace(job, explained="boundary")).waiting


def test_what_is_known_in_part_is_not_ready() -> None:
    assert codes(looked(kind(), whole=False)) == ["incomplete"]


def test_what_was_never_seen_says_so_alone() -> None:
    assert codes(looked()) == ["silent"]
    assert codes(looked(hosts=0)) == ["empty"]
    assert looked().coverage is None


def test_the_way_to_test_asks_for_little_and_enforced_for_nothing() -> None:
    noise = kind(5, 0, port=23, explained="default", recent=5)
    assert looked(kind(95, 0), noise, kind(0, 11, 18, 25), phase=Mode.OBSERVE).ready
    assert codes(looked(kind(20, 0), noise, phase=Mode.OBSERVE)) == ["uncovered"]
    found = looked(noise, phase=Mode.ENFORCE)
    assert (found.next, found.ready, found.obstacles) == (None, False, ())


def test_shares_are_rounded_down() -> None:
    assert [percent(share) for share in (1.0, 0.9999, 0.995, 0.5, 0.0)] == ["100%", "99.9%", "99.5%", "50%", "0%"]


def test_a_test_that_fails_keeps_it() -> None:
    broken = run_tests(policy("tests:\n- {from: {role: web}, to: {role: db}, allow: [ssh]}\n"), NOW)
    found = assess(PROD, Mode.TEST, BEGAN, 1, [kind()], FIRST, broken, NOW)
    assert (codes(found), len(found.broken)) == (["tests"], 1)
