"""Suggestions are reviewed in the browser: who may, decides; who may not, sees no buttons."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect
from segctl.proto.v1 import admin_pb2

from tests.web.conftest import Windows, sign_in
from tests.web.fleet import WebFleet


def decisions(fleet: WebFleet) -> list[tuple[str, str, str]]:
    async def asked() -> Any:
        return await fleet.lab.admin().ListDecisions(admin_pb2.ListDecisionsRequest())

    return [(one.verdict, one.actor, one.reason) for one in fleet.call(asked()).decisions]


def test_a_viewer_reads_suggestions_and_sees_no_buttons(page: Page) -> None:
    page.goto("/suggestions")
    card = page.get_by_role("region", name="Suggestion").first
    expect(card.get_by_text("Excess")).to_be_visible()
    card.get_by_text("The rule, and the").click()
    expect(card.locator("pre")).to_contain_text("rules:")
    for button in ("Accept", "Edit", "Reject"):
        assert page.get_by_role("button", name=button, exact=True).count() == 0


def test_an_editor_accepts_and_rejects_and_it_is_remembered(windows: Windows, fleet: WebFleet) -> None:
    page = windows.open(fleet)
    sign_in(page, fleet.token("reviewer", "editor"), "/suggestions")
    cards = page.get_by_role("region", name="Suggestion")
    cards.first.wait_for()
    wanted = cards.filter(has_text="postgres")
    wanted.get_by_role("button", name="Accept", exact=True).click()
    expect(wanted.get_by_text("accepted by token/reviewer")).to_be_visible()
    assert wanted.get_by_role("button", name="Accept", exact=True).count() == 0
    unwanted = cards.filter(has_text="tcp/9443")
    unwanted.get_by_role("button", name="Reject", exact=True).click()
    unwanted.get_by_label("Why not").fill("a vendor that leaves us")
    unwanted.locator("form").get_by_role("button", name="Reject").click()
    expect(unwanted).to_have_count(0)
    assert decisions(fleet) == [
        ("accepted", "token/reviewer", ""),
        ("rejected", "token/reviewer", "a vendor that leaves us"),
    ]
    table = page.get_by_role("table").filter(has_text="What was decided is remembered")
    expect(table).to_contain_text("a vendor that leaves us")
    table.get_by_role("row").filter(has_text="rejected").get_by_role("button", name="Details").click()
    page.get_by_role("button", name="Forget the decision").click()
    expect(unwanted).to_have_count(1)
