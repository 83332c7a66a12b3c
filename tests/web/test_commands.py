"""What the pages tell people to run is what the programs understand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.web.commands import parse, wrong, wrong_boxes
from tests.web.fleet import WebFleet, denial

VIEWS = Path(__file__).parents[2] / "web" / "src"
TOLD = re.compile(r"""<Command\s+text=(?:"([^"]*)"|\{"((?:[^"\\]|\\.)*)"\}|\{`([^`]*)`\})""")
VALUES = {
    "days": "7",
    "name": "app=shop,env=prod",
    "from": "web1/shop-web",
    "to": "203.0.113.7",
    "service(row.denial?.service)": "tcp/5432",
}
"""Of what the views put into their commands, by the expression."""


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that `segctl token create --out` leaves, which enrol wants to be there."""
    monkeypatch.chdir(tmp_path)
    Path("web.token").write_text("secret")


def test_every_command_of_the_views_is_understood() -> None:
    told = [
        line
        for view in VIEWS.rglob("*.tsx")
        for found in TOLD.findall(view.read_text())
        for line in "".join(found).replace("\\n", "\n").splitlines()
    ]
    commands = [re.sub(r"\$\{(.*?)\}", lambda part: VALUES[part[1]], one) for one in told if one.startswith("segctl")]
    assert len(commands) > 10
    for command in commands:
        parse(command)


def test_a_box_of_prose_or_of_a_command_that_is_not_there_is_noticed() -> None:
    assert "extra argument" in wrong("segctl init policy/")
    assert "extra argument" in wrong("segctl-agent doctor on the host says why")
    assert wrong("mend what it names and push again")
    assert not wrong("segctl check policy/\nsegctl push policy/ -m 'the first policy'")


def test_every_box_that_is_shown_can_be_used(page: Page, fleet: WebFleet) -> None:
    fleet.deny("dev1", denial("10.0.0.4"))
    found = []
    for path in ("/flows?port=1", "/denials", "/policy", "/hosts", "/suggestions", "/draft", "/readiness", "/history"):
        page.goto(path)
        page.locator("main table, main .empty, main .card, main .note").first.wait_for()
        found += wrong_boxes(page)
    assert found == []
