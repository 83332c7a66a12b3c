"""Suggestions of the recorded shop are reviewed in the browser: who may, decides; who may not, sees no buttons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2

from tests.web.conftest import Windows, sign_in
from tests.web.fleet import WebFleet, web_fleet
from tests.web.shop import SHOP, record


def decisions(fleet: WebFleet) -> list[tuple[str, str, str]]:
    async def asked() -> Any:
        return await fleet.lab.admin().ListDecisions(admin_pb2.ListDecisionsRequest())

    return [(one.verdict, one.actor, one.reason) for one in fleet.call(asked()).decisions]


def push(fleet: WebFleet, files: dict[str, str]) -> None:
    async def pushed() -> None:
        source = admin_pb2.PolicySource(
            files=[admin_pb2.SourceFile(name=name, content=text.encode()) for name, text in files.items()]
        )
        request = admin_pb2.PushRequest(
            source=source, wait_seconds=10, rollout=admin_pb2.Rollout(watch_seconds=0, accept_denials=True)
        )
        progress = [one async for one in fleet.lab.admin().Push(request)]
        assert not progress[-1].done.undone, progress[-1]

    fleet.call(pushed())


def parses(files: dict[str, str]) -> bool:
    return parse_policy([SourceFile(name, text.encode()) for name, text in files.items()]).policy is not None


def card_of(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=f"Suggestion {name}", exact=True)


def test_a_viewer_reads_suggestions_and_sees_no_buttons(shop_page: Page) -> None:
    page = shop_page
    page.goto("/suggestions")
    card = card_of(page, "nginx-to-shop-api")
    expect(card).to_contain_text("206 flows by 3 of 3 hosts")
    expect(card.get_by_text("Excess")).to_be_visible()
    card.get_by_text("The rule, and what it explains").click()
    expect(card.locator("pre")).to_contain_text("rules:")
    for button in ("Accept", "Edit", "Reject"):
        assert page.get_by_role("button", name=button, exact=True).count() == 0


def test_an_editor_accepts_and_rejects_and_it_is_remembered(browser: Browser, tmp_path: Path) -> None:
    with web_fleet(tmp_path, record) as fleet:
        windows = Windows(browser)
        page = windows.open(fleet)
        sign_in(page, fleet.token("reviewer", "editor"), "/suggestions")
        wanted = card_of(page, "nginx-to-shop-api")
        wanted.get_by_role("button", name="Accept", exact=True).click()
        expect(wanted.get_by_text("accepted by token/reviewer")).to_be_visible()
        assert wanted.get_by_role("button", name="Accept", exact=True).count() == 0
        unwanted = card_of(page, "any-to-nginx")
        unwanted.get_by_role("button", name="Reject", exact=True).click()
        unwanted.get_by_label("Why not").fill("a shop that closes")
        unwanted.locator("form").get_by_role("button", name="Reject").click()
        expect(unwanted).to_have_count(0)
        assert decisions(fleet) == [
            ("accepted", "token/reviewer", ""),
            ("rejected", "token/reviewer", "a shop that closes"),
        ]
        table = page.get_by_role("table").filter(has_text="What was decided is remembered")
        expect(table).to_contain_text("a shop that closes")
        table.get_by_role("row").filter(has_text="rejected").get_by_role("button", name="Details").click()
        page.get_by_role("button", name="Forget the decision").click()
        expect(unwanted).to_have_count(1)
        windows.close()


def test_the_next_suggestion_waits_until_the_first_is_in_force_where_both_declare_the_same(
    browser: Browser, tmp_path: Path
) -> None:
    with web_fleet(tmp_path, record) as fleet:
        windows = Windows(browser)
        page = windows.open(fleet)
        sign_in(page, fleet.token("reviewer", "editor"), "/suggestions")
        first, second = card_of(page, "nginx-to-shop-api"), card_of(page, "shop-api-to-postgresql")
        first.get_by_role("button", name="Accept", exact=True).click()
        notice = page.get_by_role("region", name="Accepted, and not in force yet")
        expect(notice).to_contain_text("nginx-to-shop-api")
        expect(second).to_contain_text("Push nginx-to-shop-api first: both texts declare the workload shop-api")
        expect(card_of(page, "logins-to-ssh").locator(".notice")).to_have_count(0)
        second.get_by_text("The rule, and what it explains").click()
        files = {"policy.yaml": SHOP.policy(), "first.yaml": first.locator("pre").first.inner_text()}
        assert not parses({**files, "second.yaml": second.locator("pre").inner_text()}), "the page is right"
        push(fleet, files)
        page.reload()
        expect(second).to_be_visible()
        expect(page.locator(".notice")).to_have_count(0)
        second.get_by_text("The rule, and what it explains").click()
        assert parses({**files, "second.yaml": second.locator("pre").inner_text()})
        windows.close()
