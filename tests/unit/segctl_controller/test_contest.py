"""Two agents with one identity: noticed, told once a minute, shown for an hour."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl.proto.v1 import admin_pb2
from segctl_controller.clock import Clock
from segctl_controller.contest import MINUTE_US, MOST_A_MINUTE, SHOWN_US, Contest, Origin

from tests.controller_harness import ControllerLab, eventually, running_controller

HERE = Origin(ip_address("10.0.0.1"), "boot-a")
ELSEWHERE = Origin(ip_address("10.0.0.9"), "boot-a")
OTHER_BOOT = Origin(ip_address("10.0.0.1"), "boot-b")
NOW = 1_800_000_000_000_000


@pytest.mark.parametrize(
    ("newer", "words"),
    [(ELSEWHERE, "from 10.0.0.9 took the place of a live one from 10.0.0.1"), (OTHER_BOOT, "of another boot")],
)
def test_a_live_session_replaced_from_elsewhere_is_told(newer: Origin, words: str) -> None:
    contest = Contest()
    assert contest.replaced(HERE, newer, True, NOW)
    problem = contest.problem("web1", NOW)
    assert words in problem
    assert "segctl host remove web1" in problem
    assert "--replace" in problem


@pytest.mark.parametrize("newer", [ELSEWHERE, OTHER_BOOT])
def test_a_dead_session_may_be_replaced_from_anywhere(newer: Origin) -> None:
    contest = Contest()
    assert not contest.replaced(HERE, newer, False, NOW)
    assert contest.problem("web1", NOW) == ""


@pytest.mark.parametrize(
    "newer",
    [
        Origin(ip_address("2001:db8::1"), "boot-a"),
        Origin(ip_address("10.0.0.9"), "boot-a", frozenset([ip_address("10.0.0.1"), ip_address("10.0.0.9")])),
    ],
)
def test_an_agent_may_come_back_by_another_way(newer: Origin) -> None:
    """Its controller has an address of each family, its host maybe several interfaces."""
    assert not Contest().replaced(HERE, newer, True, NOW)
    other = replace(newer, boot_id="boot-b")
    assert Contest().replaced(HERE, other, True, NOW)


def test_what_nobody_told_is_no_difference() -> None:
    assert not Contest().replaced(Origin(), HERE, True, NOW)
    assert not Contest().replaced(HERE, Origin(), True, NOW)


def test_one_origin_may_come_back_but_not_all_the_time() -> None:
    contest = Contest()
    step = MINUTE_US // 20
    told = [contest.replaced(HERE, HERE, True, NOW + n * step) for n in range(MOST_A_MINUTE + 1)]
    assert told == [False] * MOST_A_MINUTE + [True]
    assert "more than 6 times in a minute" in contest.problem("web1", NOW + MINUTE_US)
    slow = Contest()
    assert not any(slow.replaced(HERE, HERE, True, NOW + n * MINUTE_US // 6) for n in range(100))


def test_it_is_told_once_a_minute_and_shown_for_an_hour_after_the_last() -> None:
    contest = Contest()
    times = range(NOW, NOW + 3 * MINUTE_US, MINUTE_US // 12)
    assert sum(contest.replaced(HERE, ELSEWHERE, True, at) for at in times) == 3
    last = times[-1]
    assert contest.problem("web1", last + SHOWN_US - 1)
    assert contest.problem("web1", last + SHOWN_US) == ""
    assert contest.replaced(ELSEWHERE, HERE, True, last + SHOWN_US)


async def problems(lab: ControllerLab) -> str:
    return "\n".join((await lab.hosts())["web1"].problems)


async def test_two_boots_with_one_identity_show_up_everywhere_until_an_hour_has_passed(tmp_path: Path) -> None:
    now = [time.time_ns() // 1000]  # certificates are checked against the real clock
    async with running_controller(tmp_path, Clock(lambda: now[0])) as lab:
        web = await lab.enrol("web1", {})
        for boot in ("one", "two", "one", "two"):
            async with web.session(boot_id="first") as older:
                await older.receive()
                async with web.session(boot_id=boot) as newer:
                    await newer.receive()
        assert "of another boot" in await problems(lab)

        async def told() -> bool:
            events = (await lab.admin().Status(admin_pb2.StatusRequest())).events
            return [(e.host, e.event.kind) for e in events] == [("web1", "identity")]

        await eventually(told)
        audit = await lab.admin().Audit(admin_pb2.AuditRequest())
        assert [(e.actor, e.subject) for e in audit.entries if e.action == "identity-contested"] == [
            ("host web1", "host web1")
        ]
        now[0] += SHOWN_US
        assert "identity" not in await problems(lab)


async def test_an_agent_that_comes_back_is_no_thief(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        async with web.session() as older:
            await older.receive()
            async with web.session() as newer:
                await newer.receive()
                assert "identity" not in await problems(lab)


async def test_a_removed_host_takes_its_problem_along(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        web = await lab.enrol("web1", {})
        async with web.session(boot_id="one") as older:
            await older.receive()
            async with web.session(boot_id="two") as newer:
                await newer.receive()
                assert "identity" in await problems(lab)
        await lab.admin().RemoveHost(admin_pb2.RemoveHostRequest(host="web1"))
        again = await lab.enrol("web1", {})
        async with again.session(boot_id="two") as session:
            await session.receive()
            assert "identity" not in await problems(lab)
