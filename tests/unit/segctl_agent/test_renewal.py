"""When the running agent renews its certificate, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from segctl_agent.credentials import Identity, save_identity
from segctl_agent.renewal import ENDED_PAUSE, FIRST_PAUSE, LONGEST_PAUSE, Renewal

from tests.unit.segctl_agent.pki import DAY, Authority


@dataclass
class Stage:
    """A certificate of 30 days and 1; `answers` are what the command ends with, by default a renewal that works."""

    state: Path
    authority: Authority = field(default_factory=Authority)
    answers: list[str] = field(default_factory=list)
    runs: list[datetime] = field(default_factory=list)
    used: list[Identity] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.authority.now
        self.identity = self.authority.identity("web-1", ("c:1",))
        save_identity(self.state, self.identity)
        self.renewal = self.make(0.0)

    def make(self, chance: float) -> Renewal:
        use, tell = self.used.append, self.told.append
        return Renewal(self.state, self.identity, use, tell, lambda: self.now, self.run, lambda: chance)

    def run(self, state: Path) -> str:
        self.runs.append(self.now)
        if self.answers:
            return self.answers.pop(0)
        renewed = self.authority.identity("web-1", ("c:1",), self.now, self.now + 30 * DAY)
        save_identity(state, replace(renewed, enrolled_as=self.identity.enrolment_id))
        return ""

    async def until(self, days: float, step: timedelta = timedelta(hours=1)) -> None:
        end = self.authority.now + days * DAY
        while self.now < end:
            self.now += step
            await self.renewal.look()


async def test_it_is_renewed_at_half_of_its_life_and_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.until(14.4)
    assert not stage.runs
    await stage.until(14.6)
    assert len(stage.runs) == len(stage.used) == 1
    assert stage.used[0].valid_until > stage.identity.valid_until
    await stage.until(29.4)
    assert len(stage.runs) == 1
    await stage.until(60)
    assert 3 <= len(stage.runs) == len(stage.used) <= 4
    assert not stage.told


def test_late_it_does_not_wait_for_a_trial_to_end(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.now = stage.authority.now + 15 * DAY
    assert not stage.renewal.late
    stage.now = stage.authority.now + 25 * DAY
    assert stage.renewal.late


def test_hosts_that_were_enrolled_at_once_do_not_come_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    first, last = stage.make(0.0).due, stage.make(1.0).due
    assert timedelta(days=3) < last - first < timedelta(days=3.2)


async def test_a_failure_is_tried_again_less_and_less_often_and_told_when_it_gets_late(tmp_path: Path) -> None:
    stage = Stage(tmp_path, answers=["the controller is away"] * 10_000)
    await stage.until(14.4)
    await stage.until(15.2, timedelta(seconds=20))
    gaps = [b - a for a, b in zip(stage.runs, stage.runs[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert FIRST_PAUSE <= gaps[0] < 2 * FIRST_PAUSE
    assert gaps[-1] - LONGEST_PAUSE < timedelta(seconds=21)
    assert not stage.told
    await stage.until(25)
    (told,) = stage.told
    assert "cannot be renewed: the controller is away" in told
    stage.answers.clear()
    await stage.until(26)
    assert len(stage.used) == 1
    assert not stage.used[0].complaint(stage.now)


async def test_what_has_ended_is_renewed_too_and_not_what_is_not_valid_yet(tmp_path: Path) -> None:
    stage = Stage(tmp_path, answers=["the controller is away"] * 500)
    stage.now -= 9 * DAY  # a clock that went back
    await stage.renewal.look()
    assert not stage.runs
    await stage.until(32)
    ended = [run for run in stage.runs if run >= stage.identity.valid_until]
    assert len(ended) > 20
    del stage.runs[:]
    await stage.until(32.5, timedelta(seconds=20))
    gaps = [b - a for a, b in pairwise(stage.runs)]
    assert max(gaps) <= ENDED_PAUSE + timedelta(seconds=20)
    assert len(stage.told) == 1
    stage.answers.clear()
    await stage.until(32.6)
    assert len(stage.used) == 1


async def test_when_the_controller_wants_it_soon(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.renewal = stage.make(0.5)
    stage.renewal.hasten(600)
    await stage.until(290 / 86400, timedelta(seconds=10))
    assert not stage.runs
    await stage.until(310 / 86400, timedelta(seconds=10))
    assert len(stage.runs) == len(stage.used) == 1
    await stage.until(13)  # the new one is due at its own half again
    assert len(stage.runs) == 1
    stage.renewal.hasten(2**32 - 1)
    assert stage.renewal.due <= stage.now + timedelta(hours=1)


async def test_a_clock_that_was_ahead_for_a_while_does_not_hold_renewals_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, answers=["the controller takes it for ended"])
    stage.now += 400 * DAY
    await stage.renewal.look()
    assert len(stage.runs) == 1
    stage.now -= 384 * DAY
    await stage.renewal.look()
    assert len(stage.runs) == 2
    assert len(stage.used) == 1


async def test_an_identity_that_somebody_else_stored_is_taken_over(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.renewal.look()
    assert not stage.used
    stage.run(tmp_path)
    await stage.renewal.look()
    await stage.renewal.look()
    assert [i.enrolment_id for i in stage.used] == [stage.identity.enrolment_id]
    save_identity(tmp_path, stage.authority.identity("web-1", ("c:1",)))  # another enrolment: its counts begin anew
    await stage.renewal.look()
    assert len(stage.used) == 1
    assert "restart segctl-agent" in stage.told[0]
    (tmp_path / "identity" / "cert.pem").write_bytes(b"x")
    await stage.renewal.look()
    assert len(stage.used) == 1
