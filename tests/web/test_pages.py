"""Every page in a real browser, at a real controller with flows, denials and a policy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.web.conftest import NARROW, Windows, rows
from tests.web.fleet import HOSTS, WebFleet, denial

PATHS = ("/map", "/flows", "/denials", "/policy", "/hosts", "/draft", "/readiness", "/history")

POINT = """() => {
  const drawing = document.querySelector(".drawing"), mouse = drawing.querySelector(".sigma-mouse");
  const box = drawing.getBoundingClientRect();
  for (let y = box.top + 10; y < box.bottom; y += 8)
    for (let x = box.left + 10; x < box.right; x += 8) {
      mouse.dispatchEvent(new MouseEvent("mousemove", { clientX: x, clientY: y, bubbles: true }));
      if (drawing.classList.contains("pointing")) return [x, y];
    }
  return null;
}"""
"""Where on the map there is a group: the drawing says where one can point."""
WRAPPED = """() => [...document.querySelectorAll("td.short, td.number")].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map((box) => Math.round(box.bottom / 8))).size > 1;
}).map((cell) => cell.innerText)"""
"""Short texts that were broken into several lines."""


def test_the_map_says_what_the_policy_says_and_opens_groups(page: Page) -> None:
    page.goto("/map")
    expect(page.get_by_role("img", name=re.compile("Map of 5 groups"))).to_be_visible()
    told = " ".join(rows(page))
    for words in (
        "peer office app=shop https (tcp/443) allowed rule office-to-web (team-shop)",
        "app=monitoring app=billing metrics (tcp/9100) allowed",
        "app=billing outside https (tcp/443) would be denied no rule",
        "app=shop app=monitoring tcp/3000 denied, only observed boundary dev-stays-out-of-prod",
    ):
        assert words in told, told
    page.get_by_label("Find a group").select_option(label="app=shop")
    expect(page.get_by_role("heading", name="app=shop", exact=True)).to_be_visible()
    page.get_by_role("button", name="Open the group").click()
    expect(page.get_by_role("img", name=re.compile("Map of 8 groups"))).to_be_visible()
    assert "app=shop, env=prod, role=api app=shop, env=prod, role=db postgres" in " ".join(rows(page))
    page.go_back()
    expect(page.get_by_role("img", name=re.compile("Map of 5 groups"))).to_be_visible()


def test_a_link_of_a_protocol_without_ports_is_looked_at_closer(page: Page) -> None:
    page.goto("/map?span=30d&pick=app=monitoring → app=billing")
    tunnel = page.locator(".edges > li").filter(has_text="ip/47")
    tunnel.get_by_label("Look closer, by").select_option("host")
    expect(tunnel.locator(".edges li")).to_contain_text("mon1 → pay1")
    tunnel.get_by_role("link", name="Single flows").click()
    expect(page.get_by_label("Port")).to_have_value("ip/47")
    expect(page.locator("caption")).to_have_text(re.compile("1 kind of flows"))


def test_the_map_has_the_same_places_every_time(page: Page) -> None:
    drawn = []
    for _ in range(2):
        page.goto("/map?by=app,env")
        page.get_by_role("img", name=re.compile("Map of")).wait_for()
        page.wait_for_timeout(300)
        drawn.append(page.locator(".canvas").screenshot())
    assert drawn[0] == drawn[1]


def test_a_click_on_the_drawing_picks_a_group_and_a_second_opens_it(page: Page) -> None:
    page.goto("/map")
    page.get_by_role("img", name=re.compile("Map of")).wait_for()
    heading = page.locator("aside h2")
    x, y = page.evaluate(POINT)
    page.mouse.click(x, y)
    expect(heading).not_to_have_text(re.compile("groups"))
    picked = heading.inner_text()
    if picked.startswith("app="):
        page.wait_for_timeout(400)  # two clicks in one are a double click
        page.mouse.click(x, y)
        expect(page).to_have_url(re.compile("open="))


def test_flows_are_searched_and_the_search_is_in_the_address(page: Page, fleet: WebFleet) -> None:
    page.goto("/flows")
    expect(page.locator("caption")).to_have_text("10 kinds of flows, the newest first")
    page.get_by_label("Host", exact=True).fill("web1")
    page.get_by_label("Port").fill("tcp/8080")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("caption")).to_have_text(re.compile("1 kind of flows"))
    row = rows(page)[0]
    for words in (
        "web1/shop-web",
        "→ out",
        "api1",
        "10.0.0.3",
        "api (tcp/8080)",
        "allowed",
        "web-to-api",
        "180",
        "270 kB",
        "1.6 MB",
    ):
        assert words in row, row
    address = page.url
    page.goto("/map")
    page.goto(address)
    expect(page.locator("caption")).to_have_text(re.compile("1 kind of flows"))
    page.goto("/flows?address=nonsense")
    expect(page.get_by_role("alert")).to_contain_text("'nonsense' is neither an address nor a network")


def test_any_verdict_says_which_and_a_search_for_a_process_finds_denied_ones_too(page: Page, fleet: WebFleet) -> None:
    fleet.deny("api1", denial("10.0.0.4", 7001, exe="/usr/bin/rare"))
    page.goto("/flows")
    expect(page.get_by_label("Verdict").locator("option:checked")).to_have_text("any that passed")
    expect(page.locator("caption")).to_be_visible()
    assert not any("tcp/7001" in row for row in rows(page))
    page.goto("/flows?verdict=denied&port=7001")
    expect(page.locator("caption")).to_have_text(re.compile("1 kind of flows"))
    page.goto("/flows?process=rare")
    expect(page.get_by_label("Verdict").locator("option:checked")).to_have_text("any, denied ones too")
    expect(page.locator("caption")).to_have_text(re.compile("1 kind of flows"))


def test_time_travel_shows_what_was_and_says_so(page: Page) -> None:
    page.goto("/flows?span=7d&port=8443")
    expect(page.locator("caption")).to_have_text(re.compile("1 kind"))
    page.goto("/flows?span=24h&port=8443")
    expect(page.get_by_role("heading", name="No such flows")).to_be_visible()
    then = page.evaluate("new Date(Date.now() - 47 * 3600e3).toISOString().slice(0, 19) + 'Z'")
    page.goto(f"/map?span=24h&at={then}")
    expect(page.locator(".past")).to_contain_text("As of")
    expect(page.get_by_role("img", name=re.compile("Map of 2 groups"))).to_be_visible()
    page.get_by_role("link", name="Policy").click()
    expect(page.get_by_role("heading", name="No policy was in force then")).to_be_visible()
    page.get_by_role("button", name="Back to now").click()
    expect(page.locator("caption").first).to_have_text("4 of 4 rules")


def test_denials_come_live_and_are_spoken(page: Page, fleet: WebFleet) -> None:
    page.goto("/denials?host=web2")
    expect(page.locator(".live")).to_contain_text("Live")
    page.wait_for_timeout(2700)  # what is there at first is not spoken
    hostile = "<img src=x onerror=alert(1)>"
    fleet.deny("web2", denial("10.0.0.4", 5432, exe=f"/tmp/{hostile}"))
    expect(page.locator("main tbody tr")).to_have_count(1)
    row = rows(page)[0]
    for words in ("web2/host", hostile, "db1", "postgres (tcp/5432)", "no rule"):
        assert words in row, row
    assert page.locator("main img").count() == 0
    expect(page.get_by_role("log")).to_have_text(re.compile("1 denial: newest from web2 to db1, postgres"))
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_text("segctl explain web2/host db1/host tcp/5432")).to_be_visible()
    page.get_by_role("button", name="Copy").last.click()
    assert "allow:" in page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Hold still").click()
    fleet.deny("web2", denial("10.0.0.4", 9999))
    page.wait_for_timeout(500)
    expect(page.locator("main tbody tr:not(.more)")).to_have_count(1)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("main tbody tr:not(.more)")).to_have_count(2)


def test_long_names_of_programs_are_cut_and_told_whole_where_one_points(page: Page, fleet: WebFleet) -> None:
    long = "/opt/vendor/bin/" + "enterprise-resource-planning-" * 4
    fleet.deny("web1", denial("10.0.0.4", 7002, exe=long))
    page.goto("/denials?host=web1")
    program = page.locator(".process").first
    expect(program).to_have_attribute("title", long)
    assert program.evaluate("e => e.scrollWidth > e.clientWidth")
    assert page.evaluate(WRAPPED) == []


def test_the_policy_shows_the_effect_of_each_rule(page: Page) -> None:
    page.goto("/policy")
    expect(page.locator("caption").first).to_have_text("4 of 4 rules")
    web_to_api = next(row for row in rows(page) if row.startswith("web-to-api"))
    for words in ("shop-web", "app=shop,role=api", "250", "team-shop", "2026-06-01", "review due"):
        assert words in web_to_api, web_to_api
    page.get_by_label("Needs attention").select_option("review-due")
    expect(page.locator("caption").first).to_have_text("1 of 4 rules")
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_text("pages need data")).to_be_visible()
    expect(page.get_by_text(re.compile(r"policy\.yaml:\d+")).first).to_be_visible()
    assert "dev-stays-out-of-prod" in " ".join(rows(page))
    expect(page.locator(".summary")).to_contain_text("1 test guards it.")


def test_readiness_shows_what_keeps_a_selector_in_its_phase(page: Page) -> None:
    page.goto("/readiness")
    billing = page.get_by_role("region", name="app=billing")
    expect(billing).to_contain_text("test → enforce not ready")
    expect(billing.get_by_text("segctl enforce app=billing policy/ --write")).to_be_visible()
    expect(billing.get_by_role("heading", name="What keeps it")).to_be_visible()


def test_a_draft_is_judged_before_anybody_pushes_it(page: Page) -> None:
    page.goto("/draft")
    page.get_by_role("button", name="Start from the policy in force").click()
    draft = page.get_by_label("Draft of policy.yaml")
    text = draft.input_value()
    draft.fill("\n".join(line for line in text.splitlines() if "name: scrape" not in line))
    page.get_by_role("button", name="What would it do?").click()
    told = page.get_by_role("region", name="What the draft would do")
    expect(told).to_contain_text("A push of this draft would be taken.")
    expect(told.locator("caption", has_text="permission")).to_contain_text("would change")
    assert any(row.startswith("denied") and "scrape" in row for row in rows(page))
    expect(told).to_contain_text("would be denied")
    draft.fill("version: 1\nrules: nonsense")
    expect(told).to_have_count(0)  # it was about another text
    page.get_by_role("button", name="What would it do?").click()
    expect(told).to_contain_text("A push of this draft would be refused.")
    assert any("policy.yaml:2" in row for row in rows(page))


def test_hosts_show_mode_kernel_and_what_to_do(page: Page) -> None:
    page.goto("/hosts")
    expect(page.locator("caption")).to_have_text(f"{len(HOSTS)} of {len(HOSTS)} hosts")
    by_name = {row.split()[0]: row for row in rows(page)}
    assert "in-sync" in by_name["web1"] and "enforce" in by_name["web1"] and "generation 2" in by_name["web1"]
    assert "test" in by_name["pay1"] and "observe" in by_name["dev1"]
    assert "offline" in by_name["paydb1"] and "1 problem" in by_name["paydb1"]
    page.get_by_label("Tags").fill("app=shop, env=prod")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("caption")).to_have_text("4 of 8 hosts")
    page.goto("/hosts?tags=shop")
    expect(page.get_by_label("Tags")).to_have_accessible_description(re.compile("“shop” is no tag. Write KEY=VALUE"))
    expect(page.get_by_role("table")).to_have_count(0)
    page.goto("/hosts?name=paydb1")
    expect(page.get_by_text("its agent is not connected")).to_be_visible()
    expect(page.get_by_text("segctl-agent doctor on the host says why")).to_be_visible()


def test_the_history_leads_to_the_policy_and_the_map_of_then(page: Page) -> None:
    page.goto("/history")
    expect(page.locator("caption")).to_have_text("2 generations, the newest first")
    first, second = rows(page)
    assert "enforce" in first and "in force" in first and "the first policy" in second
    page.get_by_role("link", name="Policy 1").click()
    expect(page.locator(".summary")).to_contain_text("Generation 1, confirmed, by root")
    page.go_back()
    expect(page.get_by_role("link", name="Map then")).to_have_attribute("href", re.compile(r"/map\?at=20"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_need_no_sideways_scrolling(
    windows: Windows, fleet: WebFleet, cookies: list[Any], scheme: str
) -> None:
    page = windows.open(fleet, NARROW, scheme, cookies)
    for path in PATHS:
        page.goto(path)
        page.locator("main table, main .empty, main .card, main .note").first.wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= NARROW[0], (path, wide)
        expect(page.locator("nav [aria-current]")).to_be_in_viewport(ratio=1)
