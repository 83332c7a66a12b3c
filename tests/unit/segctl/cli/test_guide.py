"""Commands that docs/operations.md names within its sentences have the options and units that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from segctl.cli.main import root
from segctl_agent.main import main as agent
from segctl_controller.main import main as controller

from tests.guide import GUIDE, Command, GuideError, inline_code, steps

TEXT = GUIDE.read_text(encoding="utf-8")
PROGRAMS: dict[str, click.Command] = {"segctl": root, "segctl-agent": agent, "segctl-controller": controller}
SYSTEMD = GUIDE.parents[1] / "systemd"
VERBS = {"daemon-reload", "disable", "enable", "kill", "reload", "restart", "start", "status", "stop", "try-restart"}
SHORT = ("admin", "enrol", "restore")
"""Commands that a sentence names without their program."""
OF_SHORT = {"admin": "segctl-controller", "restore": "segctl-controller", "enrol": "segctl-agent"}


def problem(words: list[str]) -> str:
    """What is wrong with a command line of ours; empty when nothing is. Words in capitals stand for something."""
    command, context = PROGRAMS[words[0]], click.Context(PROGRAMS[words[0]], info_name=words[0])
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{words[0]} has no command {rest[0]}"
        command, context = found, click.Context(found, info_name=rest[0], parent=context)
        rest = rest[1:]
    known = {option for one in command.get_params(context) for option in (*one.opts, *one.secondary_opts)}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"{' '.join(words)}: there is no {', '.join(unknown)}" if unknown else ""


def sentences() -> list[tuple[int, str]]:
    return [(line, code) for line, code in inline_code(TEXT) if code.split()[0] in {*PROGRAMS, *SHORT, "systemctl"}]


@pytest.mark.parametrize(("line", "code"), sentences())
def test_what_a_sentence_names_is_there(line: int, code: str) -> None:
    for part in code.split("; "):
        words = shlex.split(part)
        if words[0] == "systemctl":
            assert words[1] in VERBS, f"{GUIDE}:{line}: {code}"
            for unit in re.findall(r"segctl-[a-z-]+", part):
                assert list(SYSTEMD.glob(f"{unit}.*")), f"{GUIDE}:{line}: there is no unit {unit}"
        else:
            words = words if words[0] in PROGRAMS else [OF_SHORT[words[0]], *words]
            assert problem(words) == "", f"{GUIDE}:{line}"


def test_an_invented_option_or_command_is_found() -> None:
    assert "--fast" in problem(["segctl", "push", "policy/", "--fast"])
    assert "no command" in problem(["segctl-agent", "fly"])
    assert problem(["segctl-controller", "admin", "renew", "NAME", "--out", "DIR"]) == ""


def test_every_block_can_be_run() -> None:
    assert sum(isinstance(step, Command) for step in steps(TEXT)) > 100
    for bad in (
        "```\nls\n```",
        "```console ctl\nweb1# ls\n```",
        "```console ctl\nls\n```",
        "```console ctl\n```",
        "~~~\n",
        "  ```\n",
    ):
        with pytest.raises(GuideError, match=r"line [12]"):
            list(steps(bad))


def test_what_is_printed_is_compared_line_by_line() -> None:
    command = Command(1, "ctl", True, "segctl status  # exits with 3", ("All well: ... hosts", "web1   in-sync"))
    assert command.exit_code == 3
    assert command.missing("All well: 3 hosts.\nHOST\nweb1 in-sync x\n") == ""
    assert command.missing("web1 in-sync\nAll well: 3 hosts.\n") == "web1   in-sync"


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    for file, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", TEXT):
        target = GUIDE.parent / file if file else GUIDE
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_other_pages_link_to_what_is_there() -> None:
    for page in GUIDE.parent.glob("**/*.md"):
        for anchor in re.findall(r"operations\.md#([a-z-]+)", page.read_text(encoding="utf-8")):
            assert anchor in anchors(GUIDE), f"{page}: {anchor}"


def test_the_contents_name_every_chapter() -> None:
    contents = TEXT.split("\n## ")[0]
    for title in re.findall(r"^## (.+)$", TEXT, re.MULTILINE):
        assert f"[{title}](#" in contents
