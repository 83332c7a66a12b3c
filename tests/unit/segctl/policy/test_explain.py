"""The explainer's words, end by end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from segctl.errors import PolicyError
from segctl.model.policy import Boundary, Essentials, Mode, ModeRule
from segctl.policy.explain import Explanation, explain
from segctl.policy.parse import parse_policy
from segctl.policy.render import render_policy
from segctl.policy.source import SourceFile

from tests.shop import FLEET, HTTP, SHOP, TODAY, rule, sel
from tests.shop import POSTGRES as PG


def ask(source: str, destination: str, service: str, policy=SHOP) -> Explanation:
    return explain(policy, FLEET, source, destination, service, TODAY)


def test_both_ends_of_an_allowed_connection_name_the_rule() -> None:
    said = ask("web1/shop-web", "db1/shop-db", "postgres")
    assert said.verdict == "allowed"
    assert [(e.direction, e.decision.name) for e in said.ends] == [("egress", "web-to-db"), ("ingress", "web-to-db")]
    assert said.suggestion == ""


def test_another_process_of_the_same_host_is_refused_with_the_nearest_rule() -> None:
    said = ask("web1", "db1/shop-db", "tcp/5432")
    assert said.verdict == "denied"
    # The database's host cannot see which process of web1 speaks: web1 itself refuses.
    assert [e.decision.allowed for e in said.ends] == [False, True]
    assert said.nearest_rule == "web-to-db"
    assert "shop-web" in said.nearest_why


def test_the_nearest_rule_is_for_this_service_and_this_workload() -> None:
    """Before rules to everything, whatever their order and whatever else they lack."""
    to_all = rule("all", sel(role="bastion"), sel(), PG)
    near = rule("near", sel("shop-web"), sel("shop-db"), PG, until=datetime(2026, 1, 2, tzinfo=UTC))
    for rules in ((to_all, near), (near, to_all)):
        assert ask("web1", "db1/shop-db", "postgres", replace(SHOP, rules=rules)).nearest_rule == "near"
    assert ask("web1", "db1/shop-db", "postgres", replace(SHOP, rules=(to_all,))).nearest_rule == "all"
    assert ask("web1", "db1/shop-db", "tcp/9999", replace(SHOP, rules=(to_all,))).nearest_rule == ""
    assert ask("web1", "db1/shop-db", "ssh").nearest_rule == "bastion-ssh"


def test_a_boundary_is_named_and_nothing_is_suggested() -> None:
    said = ask("webd/shop-web", "db1/shop-db", "postgres")
    assert said.verdict == "denied"
    assert {e.decision.name for e in said.ends} == {"dev-stays-out-of-prod"}
    assert (said.suggestion, said.nearest_rule) == ("", "")


def test_test_mode_would_deny() -> None:
    said = ask("dbd", "webd", "ssh")
    assert said.verdict == "would-deny"


def test_observe_allows_and_still_says_what_the_policy_thinks() -> None:
    quiet = replace(SHOP, modes=(ModeRule(sel(), Mode.OBSERVE),))
    said = ask("web1", "db1", "postgres", quiet)
    assert said.verdict == "allowed"
    assert not said.ends[0].decision.allowed
    assert said.suggestion


def test_an_enrolled_address_is_its_host_and_never_a_peer() -> None:
    assert ask("203.0.113.7", "web1/shop-web", "tcp/80").verdict == "denied"
    assert ask("203.0.113.8", "web1/shop-web", "tcp/80").verdict == "allowed"
    assert ask("203.0.113.200", "web1/shop-web", "tcp/80").ends[0].decision.reason == "boundary"


def test_essentials_pass() -> None:
    essentials = Essentials(dns=(ip_network("10.0.0.53/32"),), rescue=(ip_network("198.51.100.0/24"),))
    policy = replace(SHOP, essentials=essentials)
    assert ask("web1", "10.0.0.53", "udp/53", policy).verdict == "allowed"
    assert ask("web1", "10.0.0.53", "udp/123", policy).verdict == "denied"
    assert ask("198.51.100.1", "db1", "ssh", policy).ends[0].decision.reason == "essential"
    assert ask("198.51.100.1", "db1", "postgres", policy).verdict == "denied"


def test_two_rules_that_meet_are_told_apart_from_one() -> None:
    crossed = replace(
        SHOP,
        rules=(
            rule("a", sel("shop-web"), sel("host", role="db"), PG),
            rule("b", sel("host", role="web"), sel("shop-db"), PG),
        ),
    )
    said = ask("web1/shop-web", "db1/shop-db", "postgres", crossed)
    assert said.verdict == "allowed"
    assert any("no single rule" in n for n in said.notes)


@pytest.mark.parametrize(
    ("source", "destination", "service", "part"),
    [
        ("nobody", "db1", "ssh", "'nobody'"),
        ("web1/shop-db", "db1", "ssh", "host, shop-web"),
        ("web1", "db1", "tcp/70000", "tcp/70000"),
        ("web1", "db1", "sssh", "sssh"),
    ],
)
def test_unknown_words_are_named(source: str, destination: str, service: str, part: str) -> None:
    with pytest.raises(PolicyError, match=part):
        ask(source, destination, service)


@pytest.mark.parametrize(
    ("source", "destination"), [("web1", "db1/shop-db"), ("198.51.100.9", "db1"), ("db1", "203.0.113.9")]
)
def test_the_suggestion_parses_and_allows(source: str, destination: str) -> None:
    said = ask(source, destination, "tcp/8443")
    base = render_policy(replace(SHOP, rules=(), boundaries=(), modes=()))
    more = said.suggestion
    parsed = parse_policy([SourceFile("base.yaml", base.encode()), SourceFile("more.yaml", more.encode())])
    assert parsed.policy, parsed.findings
    again = explain(parsed.policy, FLEET, source, destination, "tcp/8443", TODAY)
    assert again.ends
    assert all(e.decision.allowed for e in again.ends)


def test_icmp_is_the_hosts_own_business() -> None:
    said = ask("bastion", "db1/shop-db", "icmp/8")
    assert said.ends[1].instance.workload == "host"
    assert any("answered by the kernel" in n for n in said.notes)


def test_an_essential_goes_by_address() -> None:
    policy = replace(SHOP, essentials=Essentials(rescue=(ip_network("10.0.0.1/32"),)))
    said = ask("web1", "db1", "ssh", policy)  # web1 also holds fd00::1
    assert said.verdict == "denied"
    assert any("passes 10.0.0.1 of web1" in n for n in said.notes)


def test_a_boundary_holds_where_two_rules_meet() -> None:
    """a may call x and b may call y on one port of one host; a must not reach y, and cannot be told from b."""
    crossed = replace(
        SHOP,
        boundaries=(Boundary("a-not-y", sel("shop-web"), sel("shop-db")),),
        rules=(
            rule("a-to-x", sel("shop-web"), sel("host", role="db"), PG),
            rule("b-to-y", sel("host", role="web"), sel("shop-db"), PG),
        ),
    )
    assert ask("web1/shop-web", "db1/shop-db", "postgres", crossed).verdict == "denied"
    said = ask("web1", "db1/shop-db", "postgres", crossed)
    assert said.verdict == "denied"
    assert any("cannot tell them apart" in n for n in said.notes)
    apart = replace(crossed, rules=(rule("a-to-x", sel("shop-web"), sel("host", role="db"), HTTP), crossed.rules[1]))
    assert ask("web1", "db1/shop-db", "postgres", apart).verdict == "allowed"
