"""`denied --follow` across breaks: nothing twice, nothing lost, and an end when it stays away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from segctl.cli.exits import CliError, Exit
from segctl.cli.following import PATIENCE, follow_denied
from segctl.cli.output import Line, plain
from segctl.cli.views import Denial, Lost

from tests.unit.segctl.cli.samples import DENIAL, NOW

GONE = CliError("controller gone", "", Exit.UNREACHABLE)
SECOND = replace(DENIAL, id=2, last_seen=NOW + timedelta(seconds=1))


class Script:
    """Each stream is a list of what it brings; an error in it ends the stream."""

    def __init__(self, *streams: list[Denial | Lost | CliError]) -> None:
        self.streams = list(streams)
        self.since: list[datetime | None] = []
        self.time = 0.0
        self.told: list[str] = []

    def denied(
        self, follow: bool, limit: int, host: str, workload: str, since: datetime | None
    ) -> Iterator[Denial | Lost]:
        assert follow
        self.since.append(since)
        for item in self.streams.pop(0) if self.streams else [GONE]:
            if isinstance(item, CliError):
                raise item
            yield item

    def pause(self, seconds: float) -> None:
        self.time += seconds

    def tell(self, lines: list[Line]) -> None:
        self.told.append(plain(lines))

    def follow(self) -> Iterator[Denial | Lost]:
        return follow_denied(self, 100, "", "", None, self.tell, lambda: self.time, self.pause)


def _all(script: Script) -> list[Denial | Lost]:
    got = []
    with pytest.raises(CliError):
        for item in script.follow():
            got.append(item)  # noqa: PERF402 - what came before the error counts
    return got


def test_a_broken_stream_is_opened_again_from_the_last_one_and_shows_nothing_twice() -> None:
    script = Script([DENIAL, GONE], [DENIAL, SECOND, Lost(3)], [SECOND])
    assert _all(script) == [DENIAL, SECOND, Lost(3)]
    assert script.since[:3] == [None, DENIAL.last_seen, SECOND.last_seen]
    assert len(script.told) == 2
    assert "Trying again" in script.told[0]


def test_a_denial_that_is_counted_up_is_shown_again() -> None:
    more = replace(DENIAL, count=9)
    assert _all(Script([DENIAL], [DENIAL, more])) == [DENIAL, more]


def test_following_ends_when_the_controller_stays_away() -> None:
    script = Script([DENIAL])
    assert _all(script) == [DENIAL]
    assert PATIENCE < script.time < PATIENCE + 5


@pytest.mark.parametrize("error", [GONE, CliError("no role", "", Exit.NOT_PERMITTED)])
def test_a_first_failure_ends_it_at_once(error: CliError) -> None:
    script = Script([error])
    assert _all(script) == []
    assert script.time == 0


def test_being_refused_later_ends_it_too() -> None:
    script = Script([DENIAL], [CliError("removed", "", Exit.NOT_PERMITTED)])
    assert _all(script) == [DENIAL]
    assert script.told == []
