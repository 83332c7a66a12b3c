"""How findings are told, and what is looked at on every machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

from segctl.doctor import Diagnosis, Finding, Level, document, examine, lines, ok, problem, unknown, warning
from segctl.errors import StateError
from segctl.machine import LITTLE, judge_clock, judge_journal, judge_space, judge_unit

FOUND = Diagnosis(
    "host web1",
    (
        ok("kernel", "fine"),
        warning("disk", "only 12 MiB are free", "df -h /var"),
        problem("table", "the kernel does not hold generation 7: \x1b[2J", "systemctl restart segctl-agent"),
        unknown("units", "systemd does not run this machine"),
    ),
)


def test_the_verdict_first_then_the_worst() -> None:
    assert [text.rstrip() for text in lines(FOUND)] == [
        "host web1, segctl 0.1.0: 1 problem, 1 warning, as far as it could be looked at",
        "  PROBLEM  table   the kernel does not hold generation 7: \\x1b[2J",
        "                   next: systemctl restart segctl-agent",
        "  warning  disk    only 12 MiB are free",
        "                   next: df -h /var",
        "  unknown  units   systemd does not run this machine",
        "  ok       kernel  fine",
    ]
    assert lines(Diagnosis("x", (ok("a", "b"),)))[0].endswith(": all is well")
    assert max(len(text) for text in lines(FOUND, 60)[1:]) <= 60


def test_only_a_problem_fails() -> None:
    assert FOUND.exit_code == 3
    assert Diagnosis("x", FOUND.findings[:2]).exit_code == 0
    assert Diagnosis("x", FOUND.findings[3:]).exit_code == 0


def test_json_has_every_finding() -> None:
    body = json.loads(document(FOUND))
    assert (body["subject"], body["problems"], body["warnings"], body["unknown"]) == ("host web1", 1, 1, 1)
    assert body["findings"][1] == {
        "check": "disk",
        "level": "warning",
        "text": "only 12 MiB are free",
        "next": "df -h /var",
    }


def test_a_check_that_fails_keeps_none_of_the_others_away() -> None:
    def breaks() -> Iterator[Finding]:
        yield ok("a", "before")
        raise StateError("no such thing")

    def refused() -> Iterator[Finding]:
        yield from ()
        raise PermissionError(13, "Permission denied", "/proc/1/fd")

    found = examine("x", [("a", breaks), ("b", refused), ("c", lambda: [ok("c", "after")])]).findings
    assert [(f.check, f.level) for f in found] == [
        ("a", Level.OK),
        ("a", Level.UNKNOWN),
        ("b", Level.UNKNOWN),
        ("c", Level.OK),
    ]
    assert "no such thing" in found[1].text


def levels(found: Iterator[Finding]) -> list[Level]:
    return [f.level for f in found]


def test_space_clock_and_journal() -> None:
    assert levels(judge_space("/x", 10 * LITTLE, True)) == [Level.OK]
    assert levels(judge_space("/x", LITTLE - 1, True)) == [Level.WARNING]
    assert levels(judge_space("/x", 0, True)) == [Level.PROBLEM]
    assert levels(judge_space("/x", 10 * LITTLE, False)) == [Level.PROBLEM]
    assert [levels(judge_clock(state)) for state in (0, 5, -1)] == [[Level.OK], [Level.WARNING], [Level.UNKNOWN]]
    assert levels(judge_journal(True, True)) == [Level.OK]
    assert levels(judge_journal(True, False)) == [Level.WARNING]
    assert levels(judge_journal(False, False)) == [Level.UNKNOWN]


def test_units() -> None:
    well = {"Id": "segctl-agent.service", "LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
    assert levels(judge_unit({**well, "NRestarts": "0"})) == [Level.OK]
    assert levels(judge_unit({**well, "NRestarts": "9"})) == [Level.WARNING]
    [missing] = judge_unit({**well, "LoadState": "not-found"})
    assert "daemon-reload" in missing.next
    [failed] = judge_unit({**well, "ActiveState": "failed"})
    assert failed.next.startswith("systemctl start segctl-agent.service")
    disabled, _ = judge_unit({**well, "UnitFileState": "disabled", "Id": "segctl-agent-boot.service"})
    assert (disabled.level, disabled.next) == (Level.PROBLEM, "systemctl enable segctl-agent-boot.service")
    assert "from boot on" in disabled.text
