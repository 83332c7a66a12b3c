"""Who gets in, and as what: tokens, sessions, the keyboard."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.web.conftest import sign_in
from tests.web.fleet import WebFleet

NAMELESS = """() => [...document.querySelectorAll("button, input, select, a")]
  .filter((e) => !(e.ariaLabel || e.innerText || [...(e.labels || [])].map((l) => l.innerText).join("")).trim())
  .map((e) => e.outerHTML)"""
"""Controls that nothing names."""


def test_a_wrong_token_is_told_and_a_right_one_leads_where_one_wanted(window: Page, fleet: WebFleet) -> None:
    window.goto("/policy")
    window.get_by_label("API token").fill("segctl_nonsense")
    window.keyboard.press("Enter")
    expect(window.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    sign_in(window, fleet.token(), "/policy")
    expect(window.get_by_role("heading", name="Policy")).to_be_visible()
    expect(window.locator(".who")).to_contain_text("token/reader viewer")
    cookie = next(c for c in window.context.cookies() if c["name"] == "__Host-segctl")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"], cookie["path"]) == (True, True, "Strict", "/")
    assert window.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"


def test_signing_out_ends_the_session_for_whoever_kept_the_cookie(window: Page, fleet: WebFleet) -> None:
    sign_in(window, fleet.token())
    kept = window.context.cookies()
    window.get_by_role("button", name="Sign out").click()
    window.get_by_label("API token").wait_for()
    window.context.add_cookies(kept)
    window.goto("/hosts")
    expect(window.get_by_label("API token")).to_be_visible()


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("/policy")
    page.get_by_role("heading", name="Policy").wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    link = page.get_by_role("navigation").get_by_role("link", name="Hosts")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Hosts")).to_be_focused()
    assert page.title() == "Hosts · segctl"
    page.get_by_role("button", name="Details").first.focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    assert outline == "solid"


def test_pages_are_told_by_landmarks_and_names(page: Page) -> None:
    """What screen readers go by: one heading of the first level, landmarks, and a name for every control."""
    for path in ("/map", "/flows", "/denials", "/policy", "/hosts", "/readiness", "/history"):
        page.goto(path)
        page.locator("main table, main .empty, main .card").first.wait_for()
        assert page.locator("h1").count() == 1
        assert (page.get_by_role("main").count(), page.get_by_role("navigation").count()) == (1, 1)
        expect(
            page.get_by_role("navigation").get_by_role("link", name=re.compile(path[1:], re.IGNORECASE))
        ).to_have_attribute("aria-current", "page")
        assert page.evaluate(NAMELESS) == [], path
        for table in page.get_by_role("table").all():
            assert table.locator("caption").inner_text()
            assert table.get_by_role("columnheader").count()
