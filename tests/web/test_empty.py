"""A fleet of nobody: every page says what to do next."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.web.conftest import NARROW, WIDE, Windows, sign_in
from tests.web.fleet import web_fleet

TAUGHT = {
    "/map": ("No flows in the last 24 hours", "segctl token create"),
    "/flows": ("No such flows", "segctl flows"),
    "/denials": ("Nothing was denied", "mode: test"),
    "/policy": ("No policy was pushed yet", "segctl push policy/"),
    "/hosts": ("No host is enrolled yet", "segctl-agent enrol"),
    "/readiness": ("Nothing waits to move on", "segctl enforce"),
    "/history": ("Nothing was pushed yet", "segctl push policy/"),
}


def test_empty_pages_teach(browser: Browser, tmp_path: Path) -> None:
    with web_fleet(tmp_path, populated=False) as fleet:
        windows = Windows(browser)
        for size in (WIDE, NARROW):
            page = windows.open(fleet, size)
            sign_in(page, fleet.token(f"reader{size[0]}"))
            for path, (heading, command) in TAUGHT.items():
                page.goto(path)
                expect(page.get_by_role("heading", name=heading)).to_be_visible()
                expect(page.locator(".command pre", has_text=command).first).to_be_visible()
                assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
        windows.close()
