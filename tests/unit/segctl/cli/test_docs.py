"""docs/cli.md names every command, option, exit code and JSON field; help has a purpose, examples and an effect."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from segctl.cli import views, views_access, views_impact, views_map, views_suggest
from segctl.cli.app import Verb
from segctl.cli.check_result import CheckResult
from segctl.cli.exits import Exit
from segctl.cli.main import COMMANDS, GROUPS, root

from tests.unit.segctl.cli.conftest import Cli

COMMON = {"--json", "--config", "--help"}
"""In the table for every command."""
DOCS = (Path(__file__).parents[4] / "docs" / "cli.md").read_text(encoding="utf-8")


def _verbs(command: click.Command, path: tuple[str, ...], parent: click.Context) -> Iterator[tuple[str, click.Context]]:
    ctx = click.Context(command, info_name=path[-1], parent=parent)
    if isinstance(command, Verb):
        yield " ".join(path), ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from _verbs(child, (*path, name), ctx)


def _all() -> dict[str, click.Context]:
    top = click.Context(root, info_name="segctl")
    found: dict[str, click.Context] = {}
    for name in root.list_commands(top):
        command = root.get_command(top, name)
        assert command is not None
        found.update(_verbs(command, (name,), top))
    return found


VERBS = _all()


def _section(name: str) -> str:
    match = re.search(rf"^### `segctl {name}`\n(.*?)(?=^##|\Z)", DOCS, re.DOTALL | re.MULTILINE)
    assert match, f"docs/cli.md has no section for segctl {name}"
    return match[1]


def test_the_groups_of_the_help_hold_every_command_once() -> None:
    assert sorted(n for names in GROUPS.values() for n in names) == sorted(COMMANDS)


@pytest.mark.parametrize("name", VERBS)
def test_every_command_and_option_is_documented(name: str) -> None:
    section = _section(name)
    for parameter in VERBS[name].command.get_params(VERBS[name]):
        if isinstance(parameter, click.Option) and not COMMON & set(parameter.opts):
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{option}`" in section, f"segctl {name}: {option} is not documented"
            assert parameter.help, f"segctl {name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_documented_that_is_not_there(name: str) -> None:
    options = {o for p in VERBS[name].command.get_params(VERBS[name]) for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)`", _section(name))) <= options


@pytest.mark.parametrize("name", VERBS)
def test_help_teaches(offline: Cli, name: str) -> None:
    command = VERBS[name].command
    assert isinstance(command, Verb)
    ran = offline(*name.split(), "--help")
    assert ran.code == Exit.OK
    assert "Changes:" in ran.out
    assert all(example in ran.out and "segctl" in example for example in command.examples)
    assert command.examples


@pytest.mark.parametrize("group", ["host", "report", "token", "audit", "api-token", "review"])
def test_the_list_of_a_group_cuts_no_sentence(offline: Cli, group: str) -> None:
    assert "..." not in offline(group, "--help").out.split("Commands:")[1]


@pytest.mark.parametrize("name", VERBS)
def test_examples_are_valid_options(name: str) -> None:
    """An example that no longer parses teaches nonsense."""
    command = VERBS[name].command
    assert isinstance(command, Verb)
    known = {o for p in command.get_params(VERBS[name]) for o in (*p.opts, *p.secondary_opts)}
    for example in command.examples:
        words = example.split(f"segctl {name}", 1)[-1].split("|")[0].split("||")[0].split("#")[0].split()
        assert {w for w in words if re.fullmatch(r"--?[a-z][a-z-]*", w)} <= known, example


def test_every_exit_code_is_documented() -> None:
    table = DOCS.split("### Exit codes")[1].split("###")[0]
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {int(e) for e in Exit}


def test_every_json_field_is_documented() -> None:
    modules = (views, views_access, views_impact, views_map, views_suggest)
    for cls in (CheckResult, *(value for module in modules for value in vars(module).values())):
        if dataclasses.is_dataclass(cls) and cls.__module__ in {CheckResult.__module__, *(m.__name__ for m in modules)}:
            match = re.search(rf"^\*\*{cls.__name__}\*\* (.*)$", DOCS, re.MULTILINE)
            assert match, f"{cls.__name__} is not documented"
            for field in dataclasses.fields(cls):
                assert f"`{field.name}`" in match[1], f"{cls.__name__}.{field.name} is not documented"
