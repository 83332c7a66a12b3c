"""The building blocks: spans, tables, wrapping, words for time; and that nothing hostile reaches a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.cli import output_cuts, output_denied
from segctl.cli.output import (
    Span,
    Style,
    ago,
    ahead,
    clip,
    count,
    fit,
    line,
    paint,
    plain,
    printable,
    size,
    span_of_time,
    table,
    wrap,
)

from tests.unit.segctl.cli.samples import CUTTING_PLAN, DENIAL, HOSTILE, NOW, POOLED, PSQL


@given(st.text())
def test_printable_leaves_no_control_or_format_character(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@given(st.text(), st.integers(1, 40))
def test_fit_is_exactly_as_wide_as_asked(text: str, width: int) -> None:
    assert len(fit(text, width).text) == width


def test_colour_wraps_spans_and_is_absent_without_it() -> None:
    spans = line("a ", Span("b", Style.BAD), Span("   "))
    assert paint(spans, colour=True) == "a \x1b[1;31mb\x1b[0m"
    assert paint(spans, colour=False) == "a b"


@pytest.mark.parametrize("colour", [False, True])
def test_a_hostile_process_name_cannot_drive_the_terminal(colour: bool) -> None:
    columns = output_denied.Columns.of(120)
    lines = output_denied.render_denial(HOSTILE, columns, NOW, wide=True)
    text = "".join(paint(spans, colour) for spans in lines)
    for sequence in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\n", "\u202e"):
        assert sequence not in text
    assert r"\x1b[2J" in text


def test_clip_marks_what_it_cut() -> None:
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcdef", 0) == "abcdef"


def test_a_table_narrows_its_widest_column_first() -> None:
    text = plain(table(("A", "B"), [["short", "x" * 50]], 30)).splitlines()
    assert text[1].startswith("short  xxx")
    assert max(map(len, text)) <= 30


def test_a_table_without_width_cuts_nothing() -> None:
    assert "x" * 500 in plain(table(("A",), [["x" * 500]], 0))


@given(st.text(alphabet="ab ", min_size=1), st.integers(5, 30))
def test_wrap_keeps_every_word(text: str, width: int) -> None:
    assert " ".join(wrap(text, width)).split() == text.split()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0421, "42 ms"), (1, "1 s"), (99, "99 s"), (300, "5 min"), (7200, "2 h"), (200000, "2 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert span_of_time(seconds) == words


def test_times_relative_to_now() -> None:
    assert ago(None, NOW) == "never"
    assert ago(NOW, NOW) == "just now"
    assert ahead(NOW + timedelta(hours=3), NOW) == "in 3 h"
    assert ahead(NOW, NOW) == "expired"


def test_counts() -> None:
    assert [count(n, "host") for n in (0, 1, 2000)] == ["0 hosts", "1 host", "2,000 hosts"]


def test_the_explain_command_of_a_denial_turns_with_its_direction_and_is_quoted() -> None:
    assert output_denied.explain_command(DENIAL) == "segctl explain web1/host db1/shop-db tcp/5432"
    incoming = replace(DENIAL, direction="ingress", peer_host="", peer_address="203.0.113.9")
    assert output_denied.explain_command(incoming) == "segctl explain 203.0.113.9 web1/host tcp/5432"
    unknown = replace(DENIAL, workload="?", peer_host="a b", peer_workload="")
    assert output_denied.explain_command(unknown) == "segctl explain web1 'a b' tcp/5432"


def test_where_no_rule_is_offered_the_reason_is_told() -> None:
    forbidden = replace(DENIAL, suggestion="# the test at a.yaml:3 forbids this")
    text = plain(output_denied.render_denial(forbidden, output_denied.Columns.of(120), NOW, suggest=True))
    assert text.splitlines()[-1].strip() == "no rule to suggest: the test at a.yaml:3 forbids this"
    assert "would allow" not in text


def test_another_ip_protocol_is_shown_by_number_and_name_and_no_rule_is_promised() -> None:
    sctp = replace(DENIAL, service="ip/132", service_name="", suggestion="")
    columns = output_denied.Columns.of(120)
    text = plain(output_denied.render_denial(sctp, columns, NOW, wide=True, suggest=True))
    assert "ip/132 " in text.splitlines()[0]
    assert "ip/132 (SCTP), denied by default" in text
    assert "no rule can allow ip/132 (SCTP) yet: rules know TCP, UDP and ICMP" in text
    assert "segctl explain" not in text
    unnamed = replace(sctp, service="ip/253")
    assert "no rule can allow ip/253 yet" in plain(output_denied.render_denial(unnamed, columns, NOW, suggest=True))


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (91_234_567, "91 MB"),
        (2**53, "9 PB"),
    ],
)
def test_sizes_have_two_or_three_digits(octets: int, text: str) -> None:
    assert size(octets) == text


def test_a_terminal_shows_the_first_cuts_and_a_pipe_all_that_were_named() -> None:
    cuts = tuple(replace(POOLED, service=f"tcp/{port}") for port in range(1, 31))
    plan = replace(CUTTING_PLAN, cuts=cuts, cut_total=40)
    watched, piped = plain(output_cuts.render_cuts(plan, 100)), plain(output_cuts.render_cuts(plan, 0))
    assert ("tcp/20 " in watched, "tcp/21 " in watched, "and 20 more" in watched) == (True, False, True)
    assert ("tcp/30 " in piped, "and 10 more" in piped) == (True, True)


def test_a_process_cannot_drive_the_terminal_by_its_name_in_a_plan() -> None:
    hostile = replace(POOLED, process=replace(PSQL, exe="/tmp/\x1b[2Jx"), rule="\x1b]0;r\x07")
    assert "\x1b" not in plain(output_cuts.render_cuts(replace(CUTTING_PLAN, cuts=(hostile,)), 0))
