"""A fleet of nobody: every page says what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.web.commands import wrong_boxes
from tests.web.conftest import NARROW, WIDE, Windows, sign_in
from tests.web.fleet import web_fleet

TAUGHT = {
    "/map": ("No flows in the last 24 hours", "segctl token create"),
    "/flows": ("No such flows", "segctl flows"),
    "/denials": ("Nothing was denied", "mode: test"),
    "/policy": ("No policy was pushed yet", "segctl push policy/ -m"),
    "/hosts": ("No host is enrolled yet", "segctl-agent enrol"),
    "/suggestions": ("Nothing was observed yet", "segctl suggest"),
    "/readiness": ("Nothing waits to move on", "segctl enforce"),
    "/history": ("Nothing was pushed yet", "segctl push policy/"),
}


def test_empty_pages_teach(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("web.token").write_text("what segctl token create --out leaves")
    with web_fleet(tmp_path) as fleet:
        windows = Windows(browser)
        for size in (WIDE, NARROW):
            page = windows.open(fleet, size)
            sign_in(page, fleet.token(f"reader{size[0]}"))
            for path, (heading, command) in TAUGHT.items():
                page.goto(path)
                expect(page.get_by_role("heading", name=heading)).to_be_visible()
                expect(page.locator(".command pre", has_text=command).first).to_be_visible()
                assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
                assert wrong_boxes(page) == []
        page.goto("/draft")
        page.get_by_role("button", name="Start from the policy in force").click()
        expect(page.get_by_role("alert")).to_contain_text("no policy was pushed yet; segctl push PATH pushes the first")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert asked == ["GetGeneration"], "what failed is tried again, and nothing else"
        page.goto("/policy")
        first = page.locator(".command pre", has_text="version: 1").inner_text()
        done = fleet.call(fleet.lab.push(first))[-1]
        assert not done.done.undone
        page.reload()
        expect(page.locator("caption").first).to_have_text("1 of 1 rule")
        expect(page.locator(".summary")).to_contain_text("No test guards it.")
        windows.close()
