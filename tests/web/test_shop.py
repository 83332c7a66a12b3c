"""Map and flows of the recorded shop: what its agents told is what the pages show."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.shopdependencies import API, NGINX
from tests.web.conftest import NARROW, Windows, rows
from tests.web.fleet import WebFleet
from tests.web.shop import SHOP
from tests.web.test_pages import PATHS, WRAPPED

LABELS = """() => {
  const canvas = document.querySelector("canvas.sigma-labels");
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((octet) => octet);
}"""
"""Whether any group of the drawing has its name."""
TCP = 6


def told(host: str, port: int, **fields: object) -> int:
    """Flows that the host told of in the recording."""
    return sum(
        row.flows
        for row in SHOP.flows
        if (row.host, row.port, row.protocol) == (host, port, TCP)
        and all(getattr(row, name) == value for name, value in fields.items())
    )


def shown(page: Page) -> int:
    """Flows in the table."""
    numbers = page.locator('tbody td[data-head="Flows"]').all_inner_texts()
    return sum(int(number.replace(",", "")) for number in numbers)


def test_the_map_draws_the_shop_and_opens_hosts_without_the_tag(shop_page: Page) -> None:
    page = shop_page
    page.goto("/map?span=7d")
    expect(page.get_by_role("img", name=re.compile("Map of 3 groups"))).to_be_visible()
    for row in ("outside app=shop tcp/80", "app=shop app=shop tcp/5432", "no app app=shop tcp/9100"):
        assert any(one.startswith(f"{row} not covered no rule") for one in rows(page)), row
    total = shown(page)
    page.get_by_label("Find a group").select_option(label="no app")
    page.get_by_role("button", name="Open the group").click()
    expect(page.get_by_role("img", name=re.compile("Map of 5 groups"))).to_be_visible()
    assert any(row.startswith("env=prod, role=backup app=shop, env=prod, role=db tcp/5432") for row in rows(page))
    assert shown(page) == total, "what is opened is there once"


def test_a_group_that_talks_to_itself_can_be_picked(shop_page: Page) -> None:
    page = shop_page
    page.goto("/map?span=7d")
    page.get_by_role("img", name=re.compile("Map of 3 groups")).wait_for()
    page.get_by_role("button", name="app=shop → app=shop").click()
    expect(page.get_by_role("heading", name="app=shop → app=shop")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate(LABELS), "the group that was picked is there"
    page.goto("/map?span=7d&pick=nobody")
    page.get_by_role("img", name=re.compile("Map of 3 groups")).wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate(LABELS), "what is not there fades nothing"


def test_a_link_is_looked_at_closer_down_to_its_flows(shop_page: Page) -> None:
    page = shop_page
    page.goto("/map?span=7d&pick=app=shop → app=shop")
    pages = page.locator(".edges > li").filter(has_text="tcp/8080")
    pages.get_by_label("Look closer, by").select_option("process")
    for host in ("web1", "web2"):
        expect(pages).to_contain_text(f"{host}/host nginx → api1/host shop-api")
    page.goto("/map?span=7d&pick=no app → app=shop")
    ssh = page.locator(".edges > li").filter(has_text="tcp/22")
    ssh.get_by_label("Look closer, by").select_option("host")
    expect(ssh.locator(".edges li").first).to_contain_text("bastion1")
    closer = ssh.locator(".edges li").all_inner_texts()
    assert all(text.startswith("bastion1 →") for text in closer), closer
    ssh.get_by_role("link", name="Single flows").click()
    expect(page.locator("caption")).to_be_visible()
    expect(page.get_by_label("From tags")).to_have_value("app=")
    assert all("bastion1" in row and "tcp/22" in row for row in rows(page))


def test_flows_are_found_by_host_port_and_process(shop_page: Page) -> None:
    page = shop_page
    page.goto("/flows?span=7d")
    page.get_by_label("Host", exact=True).fill("db1")
    page.get_by_label("Port").fill("tcp/5432")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("host=db1"))
    expect(page.locator("tbody tr").first).to_contain_text("db1/host")
    assert shown(page) == told("db1", 5432)
    page.goto("/flows?span=7d&process=nginx&port=8080&host=web1")
    expect(page.locator("tbody tr").first).to_contain_text("nginx")
    assert shown(page) == told("web1", 8080, process=NGINX)
    expect(page.locator(".process").first).to_have_attribute("title", NGINX)
    expect(page.locator('td[data-head="Peer"] .process').first).to_have_attribute("title", API)
    assert page.evaluate(WRAPPED) == []


def test_flows_are_found_by_the_tags_of_both_ends_and_by_a_tag_that_is_not_there(shop_page: Page) -> None:
    page = shop_page
    page.goto("/flows?span=7d&from=role=api, env=prod&to=role=db&port=5432&host=db1")
    expect(page.locator("tbody tr").first).to_contain_text("api1")
    assert shown(page) == sum(told("db1", 5432, process=process, remote=a) for a in SHOP_API for process in POSTGRES)
    page.goto("/flows?span=7d&from=app=&to=app=shop&port=22")
    expect(page.locator("tbody tr").first).to_contain_text("bastion1")
    assert all("bastion1" in row for row in rows(page))


SHOP_API = next(host.addresses for host in SHOP.hosts if host.name == "api1")
POSTGRES = {row.process for row in SHOP.flows if row.host == "db1"}


@pytest.mark.parametrize(
    ("label", "text", "wrong"),
    [
        ("From tags", "shop", "“shop” is no tag. Write KEY=VALUE, such as env=prod. Or write outside."),
        ("To tags", "app=shop, app=billing", "app is there twice"),
        ("Port", "postgres", "“postgres” is no port. Write 5432, tcp/5432, or a protocol: udp."),
        ("Port", "tcp/65536", "“tcp/65536” is no port"),
    ],
)
def test_what_cannot_be_read_is_told_at_its_field_and_nothing_is_asked(
    shop_page: Page, label: str, text: str, wrong: str
) -> None:
    page, asked = shop_page, []
    page.goto("/flows")
    page.locator("caption").wait_for()
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    field = page.get_by_label(label)
    field.fill(text)
    page.get_by_role("button", name="Search").click()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile(re.escape(wrong)))
    expect(field).to_be_focused()
    expect(page.get_by_role("table")).to_have_count(0)
    page.wait_for_timeout(200)
    assert asked == []
    field.fill("")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("caption")).to_be_visible()


def test_the_recorded_shop_fits_narrow_windows(windows: Windows, shop: WebFleet, shop_cookies: list[Any]) -> None:
    page = windows.open(shop, NARROW, cookies=shop_cookies)
    for path in (*PATHS, "/suggestions"):
        page.goto(path)
        page.locator("main table, main .empty, main .card, main .note").first.wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= NARROW[0], (path, wide)


def test_a_policy_without_rules_leads_to_suggestions_and_its_draft_is_judged(shop_page: Page) -> None:
    page = shop_page
    page.goto("/policy")
    expect(page.get_by_text("It has no rules.")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Suggestions").click()
    expect(page.get_by_role("region", name="Suggestion").first).to_be_visible()
    page.goto("/draft")
    page.get_by_role("button", name="Start from the policy in force").click()
    page.get_by_role("button", name="What would it do?").click()
    told = page.get_by_role("region", name="What the draft would do")
    expect(told.get_by_role("row").filter(has_text="no mode selects 10 hosts")).to_contain_text("the policy")
    expect(told).to_contain_text(f"Of {sum(row.flows for row in SHOP.flows):,} observed flows, 0 would be denied")
    expect(told).not_to_contain_text("undefined")
