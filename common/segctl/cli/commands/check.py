"""`segctl check`: the compiler of policy files."""

from __future__ import annotations

from collections.abc import Sequence

import click

from segctl.cli.app import App, Verb
from segctl.cli.check_result import CheckResult
from segctl.cli.exits import Exit
from segctl.cli.output_check import render_check
from segctl.cli.sources import load_sources
from segctl.model.findings import Finding, Severity
from segctl.policy.check import check_policy
from segctl.policy.parse import parse_policy
from segctl.policy.satisfy import run_tests
from segctl.policy.source import SourceFile


@click.command(
    cls=Verb,
    changes="Nothing. Without --fleet it talks to nobody.",
    examples=["segctl check policy/", "segctl check --fleet policy/", "cat shop.yaml | segctl check -"],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--fleet", is_flag=True, help="Let the controller check too, with the enrolled hosts.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.pass_obj
def check(app: App, paths: tuple[str, ...], fleet: bool, strict: bool) -> Exit:
    """Find every mistake in policy files: form, names, rules without effect, and the policy's own tests.

    A PATH is a file, a directory (its *.yaml and *.yml) or - for stdin; all of them together are one policy. Offline, a
    selector is checked against the vocabulary; with --fleet against the hosts that are enrolled.

    Exits 1 when there is an error.
    """
    files = load_sources(paths)
    found: set[Finding] = set(offline_findings(files, app))
    hosts: int | None = None
    if fleet:
        with app.connect() as controller:
            theirs, hosts = controller.check(files)
        found = set(theirs)
    result = assess(found, len(files), hosts, strict)
    excerpts = {f.name: f.content.decode("utf-8", "replace").splitlines() for f in files}
    app.result(result, render_check(result, excerpts if app.terminal.watched else {}, app.terminal.width))
    return Exit.OK if result.ok else Exit.FINDINGS


def offline_findings(files: Sequence[SourceFile], app: App) -> tuple[Finding, ...]:
    """What can be found without a fleet. An unreadable policy is not looked at any further."""
    parsed = parse_policy(files)
    if parsed.policy is None:
        return parsed.findings
    now = app.clock()
    return (*parsed.findings, *check_policy(parsed.policy, None, now), *run_tests(parsed.policy, now))


def assess(found: set[Finding], files: int, hosts: int | None, strict: bool = False) -> CheckResult:
    findings = tuple(sorted(found))
    errors = sum(f.severity is Severity.ERROR for f in findings)
    warnings = len(findings) - errors
    ok = not errors and not (strict and warnings)
    return CheckResult(ok, errors, warnings, files, hosts, findings)
