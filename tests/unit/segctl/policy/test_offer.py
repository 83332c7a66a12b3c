"""What is offered opens the connection and breaks nothing; what would break something is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from segctl.model.findings import Position
from segctl.model.inventory import Inventory
from segctl.model.policy import Boundary, Policy, PolicyTest, PortRange
from segctl.policy.check import check_policy
from segctl.policy.decide import Instance, instances
from segctl.policy.explain import explain, explain_ends
from segctl.policy.offer import offer_rule
from segctl.policy.parse import parse_policy
from segctl.policy.propose import End, Seen
from segctl.policy.render import render_policy
from segctl.policy.satisfy import run_tests
from segctl.policy.source import SourceFile

from tests.shop import FLEET, HTTP, POSTGRES, SHOP, SSH, TODAY, rule, sel
from tests.strategies import fleets

HERE = Position("access.yaml", 29, 5)


def forbidding(*ports: PortRange) -> Policy:
    test = PolicyTest(sel(role="web"), sel(role="db"), False, tuple(map(str, ports)), ports, HERE)
    return replace(SHOP, tests=(test,))


def test_a_rule_that_a_test_forbids_is_not_offered() -> None:
    said = explain(forbidding(SSH), FLEET, "web1", "db1", "ssh", TODAY)
    assert said.suggestion == ""
    assert "the test at access.yaml:29 forbids this: talk to the people who wrote it" in said.notes
    assert explain(forbidding(HTTP), FLEET, "web1", "db1", "ssh", TODAY).suggestion


def test_a_test_that_is_broken_already_forbids_nothing() -> None:
    assert explain(forbidding(POSTGRES), FLEET, "web1", "db1", "postgres", TODAY).suggestion


def test_a_new_workload_is_held_to_the_tests_of_its_tags() -> None:
    web, db = (next(i for i in instances(SHOP, FLEET.hosts[h]) if i.workload == "host") for h in ("web1", "db1"))
    offer = offer_rule(forbidding(SSH), FLEET, web, db, SSH, TODAY, Seen("cron.service", "root"))
    assert (offer.text, "access.yaml:29" in offer.refusal) == ("", True)


def test_a_right_that_would_meet_another_and_break_a_test_is_not_offered() -> None:
    """web1/host may be let to db1/shop-db; then web1/shop-web, let to db1/host on that port, reaches it as well."""
    test = PolicyTest(sel("shop-web"), sel("shop-db"), False, ("tcp/80",), (HTTP,), HERE)
    policy = replace(SHOP, tests=(test,), rules=(rule("a", sel("shop-web"), sel("host", role="db"), HTTP),))
    assert run_tests(policy, TODAY) == ()
    said = explain(policy, FLEET, "web1", "db1/shop-db", "tcp/80", TODAY)
    assert said.suggestion == ""
    assert any("access.yaml:29" in note for note in said.notes)


def test_a_rule_that_a_boundary_would_stop_for_a_neighbours_sake_is_not_offered() -> None:
    policy = replace(
        SHOP,
        boundaries=(Boundary("a-not-y", sel("shop-web"), sel("shop-db")),),
        rules=(rule("a-to-x", sel("shop-web"), sel("host", role="db"), POSTGRES),),
    )
    said = explain(policy, FLEET, "web1", "db1/shop-db", "postgres", TODAY)
    assert said.suggestion == ""
    assert any("boundary a-not-y would deny it all the same" in note for note in said.notes)


def test_a_rule_for_a_whole_host_says_so() -> None:
    line = "  # opens every process of web1 that no workload names; segctl denied --suggest names the process\n"
    assert line in explain(SHOP, FLEET, "web1", "db1/shop-db", "postgres", TODAY).suggestion
    assert "#" not in explain(SHOP, FLEET, "web1/shop-web", "db1/shop-db", "ssh", TODAY).suggestion


def test_a_suggestion_is_refused_until_it_is_someones_own() -> None:
    text = explain(SHOP, FLEET, "web1/shop-web", "db1/shop-db", "ssh", TODAY).suggestion

    def placeholders(more: str) -> list[str]:
        files = [SourceFile("a.yaml", render_policy(SHOP).encode()), SourceFile("b.yaml", more.encode())]
        parsed = parse_policy(files).policy
        assert parsed
        return [f"{f.severity} {f.position}" for f in check_policy(parsed, None, TODAY) if f.code == "placeholder"]

    assert placeholders(text) == ["error b.yaml:4:5"] * 2
    assert placeholders(text.replace("why: CHANGE-ME", "why: backups")) == ["error b.yaml:4:5"]
    assert placeholders(text.replace("CHANGE-ME", "team-shop")) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(fleets(), st.data())
def test_every_offer_parses_allows_and_breaks_no_test_that_held(
    fleet: tuple[Policy, Inventory], data: st.DataObject
) -> None:
    policy, inventory = fleet
    ends: list[End] = [i for host in inventory.hosts.values() for i in instances(policy, host)]
    ends += [a for a in map(ip_address, ("10.9.0.77", "fd09::77", "192.0.2.1")) if inventory.holder(a) is None]
    source, destination = data.draw(st.sampled_from(ends)), data.draw(st.sampled_from(ends))
    protocol = data.draw(st.sampled_from(("tcp", "udp", "icmp")))
    number = data.draw(st.sampled_from((0, 8, 22, 80)))
    port = PortRange(protocol, number, number)
    today = data.draw(st.sampled_from((datetime(2026, 6, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC))))
    said = explain_ends(policy, inventory, source, destination, port, today)
    seen = Seen(
        data.draw(st.sampled_from(("", "z@1.service", "session-1.scope"))), data.draw(st.sampled_from(("", "u")))
    )
    if all(e.decision.allowed for e in said.ends):
        return
    offers = [said.suggestion]
    if not any(e.decision.reason == "boundary" for e in said.ends):
        here = seen if isinstance(source, Instance) else None
        offers.append(offer_rule(policy, inventory, said.source, said.destination, port, today, here, None).text)
    for text in filter(None, offers):
        files = [SourceFile("a.yaml", render_policy(policy).encode()), SourceFile("b.yaml", text.encode())]
        parsed = parse_policy(files)
        after = parsed.policy
        assert after, (text, parsed.findings)
        event("offered")
        made = set(after.workloads) - set(policy.workloads)
        asked = said.source
        if made and isinstance(asked, Instance):
            asked = replace(asked, workload=made.pop())
        again = explain_ends(after, inventory, asked, said.destination, port, today)
        assert all(e.decision.allowed for e in again.ends), text
        for test in policy.tests:
            if not run_tests(replace(policy, tests=(test,)), today):
                assert not run_tests(replace(after, tests=(test,)), today), text
