"""Every rendering against its golden text, at 80 and 120 columns. SEGCTL_UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.cli import (
    output_access,
    output_check,
    output_denied,
    output_enforce,
    output_explain,
    output_flows,
    output_hosts,
    output_lists,
    output_map,
    output_plan,
    output_push,
    output_rules,
    output_status,
)
from segctl.cli import views_access as va
from segctl.cli.check_result import CheckResult
from segctl.cli.output import Line, line, plain
from segctl.cli.output_push import Push
from segctl.cli.views import Done, Lost, Phase, Proof
from segctl.cli.views_impact import FlowImpact

from tests.unit.segctl.cli import samples as s

GOLDEN = Path(__file__).parent / "golden"
SOURCE = {
    "policy/shop.yaml": [
        "version: 1",
        "modes:",
        "\t- {env: prd}  # a tab before",
        "",
        "",
        "rules:",
        "    - {name: old}",
    ]
}
CHECK = CheckResult(False, 1, 1, 2, 5, (s.ERROR, s.WARNING))


DENIALS = (s.DENIAL, s.OVER_IPV6, s.INCOMING, s.HOSTILE)


def _denials(width: int, wide: bool, suggest: bool, follow: bool = False) -> Iterable[Line]:
    columns = output_denied.Columns.of(width) if follow else output_denied.Columns.fitting(DENIALS, width)
    yield output_denied.heading(columns)
    for denial in DENIALS:
        yield from output_denied.render_denial(denial, columns, s.NOW, wide, suggest)
    yield from output_denied.render_lost(Lost(1234))


def _push(width: int) -> Iterable[Line]:
    push = Push()
    for step in (s.GENERATION, s.PROVEN, s.REFUSED, s.OFFLINE, s.WAITING, Done(1, 1, 1, 1)):
        push = push.after(step)
        yield from output_push.render_step(step)
    yield from output_push.render_summary(push)


def _push_open(width: int) -> Iterable[Line]:
    """To hosts that enforce nothing."""
    for proofs, done in (
        ((s.RELEASED, s.OFFLINE, s.NEW), Done(0, 0, 2, 0, 1)),
        ((s.PROVEN, s.NEW), Done(1, 0, 1, 0)),
    ):
        for proof in proofs:
            yield from output_push.render_step(proof)
        yield from output_push.render_summary(Push(s.GENERATION, proofs, done))


def _push_well(width: int) -> Iterable[Line]:
    return output_push.render_summary(Push(s.GENERATION, (s.PROVEN,), Done(1, 0, 0, 0)))


def _undone(width: int) -> Iterable[Line]:
    push = Push()
    why = "db1 took it back: tcp/5432 from 10.0.0.7 of workload shop-db passed before, and is denied"
    steps: list[output_push.Step] = [
        s.GENERATION,
        Phase("staging", hosts=3),
        Proof("db1", "staged", "", 12.0),
        Phase("widening", hosts=3),
        Phase("activating", 1, 2, 1),
        s.PROVEN,
        Phase("watching", 1, 2, 1, 30),
        Phase("pausing", 2, 2, seconds=300),
        Phase("undoing", hosts=1),
        Proof("db1", "returned", "", 40_000.0),
        Proof("web1", "waiting", "", 40_000.0),
        Done(1, 0, 0, 1, undone=True, why=why),
    ]
    for step in steps:
        push = push.after(step)
        yield from output_push.render_step(step)
    yield from output_push.render_summary(push)


def _interrupted(width: int) -> Iterable[Line]:
    return [*output_push.render_interrupted(Push()), *output_push.render_interrupted(Push(s.GENERATION, (s.PROVEN,)))]


CASES: dict[str, Callable[[int], Iterable[Line]]] = {
    "check": lambda w: output_check.render_check(CHECK, SOURCE, w),
    "check-ok": lambda w: output_check.render_check(CheckResult(True, 0, 0, 1, None), {}, w),
    "plan": lambda w: output_plan.render_plan(s.PLAN, w, s.SERVICES),
    "plan-cuts": lambda w: output_plan.render_plan(s.CUTTING_PLAN, w, s.SERVICES),
    "plan-unasked": lambda w: output_plan.render_plan(s.UNASKED_PLAN, w),
    "plan-silent": lambda w: output_plan.render_plan(replace(s.UNASKED_PLAN, hosts=("db1",)), w),
    "plan-elsewhere": lambda w: output_plan.render_plan(replace(s.EMPTY_PLAN, hosts=("db1",)), w),
    "plan-unready": lambda w: output_plan.render_plan(s.UNREADY_PLAN, w),
    "plan-empty": lambda w: output_plan.render_plan(s.EMPTY_PLAN, w),
    "plan-broken": lambda w: output_plan.render_plan(s.BROKEN_PLAN, w),
    "push": _push,
    "push-open": _push_open,
    "push-well": _push_well,
    "push-interrupted": _interrupted,
    "push-undone": _undone,
    "status-rotated": lambda w: output_status.render_status(s.ROTATED, s.NOW, w),
    "status-ending": lambda w: output_status.render_status(s.ENDING, s.NOW, w),
    "status-prepared": lambda w: output_status.render_status(s.PREPARED, s.NOW, w),
    "status-trial": lambda w: output_status.render_status(s.TRIED, s.NOW, w),
    "history-undone": lambda w: output_lists.render_history((s.ON_TRIAL, s.UNDONE, s.GENERATION), s.NOW, w),
    "generation-undone": lambda w: output_lists.render_generation(s.UNDONE),
    "status": lambda w: output_status.render_status(s.STATUS, s.NOW, w),
    "status-well": lambda w: output_status.render_status(s.WELL, s.NOW, w),
    "status-large": lambda w: output_status.render_status(s.LARGE, s.NOW, w, everything=False),
    "status-coming": lambda w: output_status.render_status(s.COMING, s.NOW, w),
    "status-fresh": lambda w: output_status.render_status(s.FRESH, s.NOW, w),
    "status-released": lambda w: output_status.render_status(s.OPENED, s.NOW, w),
    "hosts": lambda w: output_hosts.render_hosts((s.WEB, s.DB, s.DEV), w),
    "host": lambda w: output_hosts.render_host(s.WEB, s.NOW, w, s.EVENTS),
    "host-told": lambda w: output_hosts.render_host(s.TOLD, s.NOW, w),
    "host-ill": lambda w: output_hosts.render_host(s.DEV, s.NOW, w),
    "explain-allowed": lambda w: output_explain.render_explanation(s.ALLOWED, w),
    "explain-differs": lambda w: output_explain.render_explanation(s.DIFFERS, w),
    "explain-wide": lambda w: output_explain.render_explanation(s.DIFFERS, w, wide=True),
    "explain-denied": lambda w: output_explain.render_explanation(s.DENIED, w),
    "denied": lambda w: _denials(w, False, False),
    "denied-wide": lambda w: _denials(w, True, True),
    "denied-follow": lambda w: _denials(w, False, False, follow=True),
    "flows": lambda w: output_flows.render_flows(s.FLOWS, s.NOW, w),
    "flows-denied": lambda w: output_flows.render_flows(s.DENIED_FLOWS, s.NOW, w),
    "flows-top": lambda w: output_map.render_talkers(s.TALKERS, s.NOW, w),
    "map": lambda w: output_map.render_map(s.MAP, s.NOW, w),
    "map-dot": lambda w: [line(text) for text in output_map.dot_lines(s.MAP)],
    "map-processes": lambda w: output_map.render_map(s.PROCESS_MAP, s.NOW, w),
    "plan-replay": lambda w: output_plan.render_plan(replace(s.PLAN, impact=s.REPLAY), w, s.SERVICES),
    "plan-impact": lambda w: output_plan.render_plan(replace(s.PLAN, impact=s.IMPACT), w, s.SERVICES),
    "plan-no-impact": lambda w: output_plan.render_plan(
        replace(s.PLAN, impact=FlowImpact(judged_flows=98_765)), w, s.SERVICES
    ),
    "flows-csv": lambda w: [line(text) for text in output_flows.csv_lines(s.FLOWS.flows)],
    "report-rules": lambda w: output_flows.render_rule_use(s.USES, s.NOW, w),
    "report-rules-unused": lambda w: output_flows.render_rule_use(s.USES, s.NOW, w, unused=True),
    "report-findings": lambda w: output_rules.render_findings(s.RULES, w, with_narrower=False),
    "report-narrower": lambda w: output_rules.render_findings(s.RULES, w, with_narrower=True),
    "enforce-ready": lambda w: output_enforce.render_ready(s.READY_LIST, s.NOW, w),
    "enforce-one": lambda w: output_enforce.render_readiness(s.READINESS, s.NOW, w),
    "enforce-one-ready": lambda w: output_enforce.render_readiness(s.READY, s.NOW, w),
    "history": lambda w: output_lists.render_history((s.GENERATION, s.OLDER), s.NOW, w),
    "tokens": lambda w: output_lists.render_tokens((s.TOKEN,), s.NOW, w),
    "audit": lambda w: output_access.render_audit((s.AUDIT,), w),
    "audit-wide": lambda w: output_access.render_audit((s.AUDIT,), w, wide=True),
    "audit-proof": lambda w: output_access.render_proof(s.PROOF),
    "whoami": lambda w: output_access.render_whoami(s.WHO, s.NOW),
    "whoami-owner": lambda w: output_access.render_whoami(s.OWNER, s.NOW),
    "api-tokens": lambda w: output_access.render_api_tokens(s.API_TOKENS, s.NOW, w),
    "api-token-new": lambda w: output_access.render_new_api_token(
        va.NewApiToken(s.API_TOKENS[0], "", "ci.token"), s.NOW
    ),
}


@pytest.mark.parametrize("width", [80, 100, 120, 0])
@pytest.mark.parametrize("name", CASES)
def test_rendering_is_golden(name: str, width: int) -> None:
    text = plain(CASES[name](width))
    path = GOLDEN / f"{name}-{width}.txt"
    if os.environ.get("SEGCTL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_golden_file_has_a_case() -> None:
    assert {p.stem.rpartition("-")[0] for p in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "name",
    [
        "denied",
        "denied-follow",
        "flows",
        "report-rules",
        "status",
        "hosts",
        "host-told",
        "history",
        "plan",
        "plan-cuts",
        "tokens",
        "api-tokens",
        "audit",
    ],
)
def test_lines_made_of_columns_keep_within_the_terminal(name: str, width: int) -> None:
    prose = ("policy/", "Returns", "  ")
    for text in plain(CASES[name](width)).splitlines():
        assert len(text) <= width or text.startswith(prose), text
