"""One browser for all tests, and two controllers: one with a small fleet that is told by hand, for what needs a policy
and its verdicts, and one with the recorded shop. Every test gets a window of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.web.fleet import WebFleet, populate, web_fleet
from tests.web.shop import record

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = (1280, 800), (390, 844)
WAIT_MS = 10_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's, which draws WebGL in software. Root has no sandbox; the pages are ours."""
    assert Path(CHROMIUM).exists(), "there is no Chromium: tools/setup.sh, or apt-get install chromium"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebFleet]:
    with web_fleet(tmp_path_factory.mktemp("fleet"), populate) as running:
        yield running


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebFleet]:
    with web_fleet(tmp_path_factory.mktemp("shop"), record) as running:
        yield running


@pytest.fixture(scope="session")
def cookies(browser: Browser, fleet: WebFleet) -> list[Any]:
    return reader(browser, fleet)


@pytest.fixture(scope="session")
def shop_cookies(browser: Browser, shop: WebFleet) -> list[Any]:
    return reader(browser, shop)


@pytest.fixture
def windows(browser: Browser) -> Iterator[Windows]:
    opened = Windows(browser)
    yield opened
    opened.close()


@pytest.fixture
def window(windows: Windows, fleet: WebFleet) -> Page:
    return windows.open(fleet)


@pytest.fixture
def page(windows: Windows, fleet: WebFleet, cookies: list[Any]) -> Page:
    """Signed in."""
    return windows.open(fleet, cookies=cookies)


@pytest.fixture
def shop_page(windows: Windows, shop: WebFleet, shop_cookies: list[Any]) -> Page:
    """Signed in, at the recorded shop."""
    return windows.open(shop, cookies=shop_cookies)


class Windows:
    """Opens windows, and fails when a page of them broke: an exception, a violation of its policy, a failed request."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.troubles: list[str] = []

    def open(
        self, fleet: WebFleet, size: tuple[int, int] = WIDE, scheme: str = "light", cookies: Sequence[Any] = ()
    ) -> Page:
        width, height = size
        context = self._browser.new_context(
            base_url=fleet.base,
            ignore_https_errors=True,  # TLS has tests of its own, without a browser
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            permissions=["clipboard-read", "clipboard-write"],
            reduced_motion="reduce",
        )
        context.set_default_timeout(WAIT_MS)
        context.add_cookies(list(cookies))
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        # What is refused is told on the page; the browser logs it as well.
        strange = [text for text in self.troubles if "responded with a status of 4" not in text]
        assert not strange, strange


def reader(browser: Browser, fleet: WebFleet) -> list[Any]:
    """The cookies of one who is signed in: sign-ins are limited, and most tests are about what comes after."""
    windows = Windows(browser)
    page = windows.open(fleet)
    sign_in(page, fleet.token())
    found: list[Any] = page.context.cookies()
    windows.close()
    return found


def rows(page: Page) -> list[str]:
    """The rows of every table, without what they open, in one line each."""
    texts = page.locator("main tbody > tr:not(.more)").all_inner_texts()
    return [" ".join(text.split()) for text in texts]


def sign_in(page: Page, token: str, path: str = "/map") -> None:
    page.goto(path)
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Sign in with the token").click()
    page.get_by_role("button", name="Sign out").wait_for()
