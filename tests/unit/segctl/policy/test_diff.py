"""What a change means, in tuples."""

from __future__ import annotations

from dataclasses import replace

from segctl.model.policy import Answer, Mode, ModeRule
from segctl.policy.diff import diff_policies

from tests.shop import FLEET, POSTGRES, SHOP, SSH, TODAY, rule, sel


def words(before, after) -> list[str]:
    changes = diff_policies(before, after, FLEET, TODAY).changes
    return [f"{'+' if c.allowed else '-'} {c.source} -> {c.destination} {c.service} by {c.rule}" for c in changes]


def test_equal_policies_have_no_difference() -> None:
    assert diff_policies(SHOP, SHOP, FLEET, TODAY).changes == ()


def test_a_new_rule_is_a_tuple_for_each_class() -> None:
    more = replace(SHOP, rules=(*SHOP.rules, rule("db-ssh", sel("shop-db"), sel("shop-web"), SSH, within=("env",))))
    (dev, prod) = diff_policies(SHOP, more, FLEET, TODAY).changes
    assert (dev.allowed, dev.service, dev.rule, dev.hosts) == (True, "ssh", "db-ssh", ("dbd", "webd"))
    assert prod.hosts == ("db1", "web1")
    assert "env=prod" in prod.source


def test_a_removed_rule_names_what_allowed_it() -> None:
    less = replace(SHOP, rules=SHOP.rules[1:])
    assert all(w.startswith("- shop-web [") and w.endswith("postgres by web-to-db") for w in words(SHOP, less))
    assert len(words(SHOP, less)) == 2


def test_a_boundary_takes_away() -> None:
    assert words(replace(SHOP, boundaries=SHOP.boundaries[1:]), SHOP) == []  # within already kept dev out
    wide = replace(SHOP, boundaries=(), rules=(rule("all", sel("shop-web"), sel("shop-db"), POSTGRES),))
    cut = replace(wide, boundaries=SHOP.boundaries)
    (only,) = words(wide, cut)
    assert only.startswith("- shop-web [app=shop,env=dev,role=web] -> shop-db [app=shop,env=prod,role=db]")


def test_peers_are_named_with_their_network() -> None:
    shut = replace(SHOP, rules=tuple(r for r in SHOP.rules if r.name != "office-http"))
    assert any("peer office (203.0.113.0/25)" in w for w in words(SHOP, shut))


def test_modes_change_per_workload() -> None:
    calm = replace(SHOP, modes=(ModeRule(sel(env="prod"), Mode.TEST), ModeRule(sel(env="dev"), Mode.TEST)))
    modes = diff_policies(SHOP, calm, FLEET, TODAY).modes
    assert {(m.host, m.before, m.after) for m in modes} == {(h, "enforce", "test") for h in ("web1", "db1", "bastion")}


def test_an_answer_that_changes_is_told_with_the_mode() -> None:
    silent = ModeRule(sel(role="db"), Mode.OBSERVE, outgoing=Answer.DROP, incoming=Answer.REJECT)
    modes = diff_policies(SHOP, replace(SHOP, modes=(*SHOP.modes, silent)), FLEET, TODAY).modes
    assert {(m.host, m.workload) for m in modes} == {("db1", "host"), ("db1", "shop-db")}  # dbd only tests
    assert {(m.before, m.after) for m in modes} == {("enforce", "enforce, outgoing drop, incoming reject")}
