"""What becomes of rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from time import process_time

import pytest
from segctl.model.inventory import Inventory
from segctl.model.policy import Rule
from segctl.policy.life.breadth import Used
from segctl.policy.life.past import Age
from segctl.policy.life.rules import Evidence, Horizon, RuleFinding, Use, find_rule_findings
from segctl.policy.life.season import DAY_US, today

from tests.shop import FLEET, HTTP, POSTGRES, SHOP, SSH, host, rule, sel
from tests.unit.segctl.policy.life.test_breadth import DB, WEB

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
TODAY = today(NOW)
RULE = rule("r", sel("shop-web"), sel("shop-db"), POSTGRES, within=("env",))


def hit(*days_ago: float) -> Use:
    return Use(NOW_US - int(min(days_ago) * DAY_US), frozenset(TODAY - int(day) for day in days_ago))


def found(
    of: Rule = RULE, use: Use | None = None, age: float = 400, others: tuple[Rule, ...] = (), **horizon: timedelta
) -> list[RuleFinding]:
    policy = replace(SHOP, rules=(of, *others))
    ages = {r.name: Age(NOW_US - int(age * DAY_US), True) for r in policy.rules}
    uses = {r.name: hit(0) for r in others} | ({of.name: use} if use else {})
    every = find_rule_findings(policy, FLEET, Evidence(ages, uses, 30, Horizon(**horizon)), NOW)
    return [one for one in every if one.rule == of.name]


def kinds(*arguments: object, **fields: object) -> list[str]:
    return [one.kind.value for one in found(*arguments, **fields)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("days_ago", "stale"),
    [
        ((3, 2, 1), False),
        ((29,), False),
        ((31,), True),
        ((100, 99, 98, 31), False),  # as silent before
        ((100, 99, 60, 59), True),
        (tuple(range(20, 400, 31)), False),
        (tuple(range(40, 400, 31)), False),  # monthly: not before 46 days
        (tuple(range(47, 400, 31)), True),
        ((80, 171, 263), False),  # quarterly
        ((140, 231, 323), True),
    ],
)
def test_a_rule_is_stale_by_its_own_season(days_ago: tuple[int, ...], stale: bool) -> None:
    assert kinds(use=hit(*days_ago)) == (["stale"] if stale else [])


def test_a_weekly_rule_is_not_stale_after_six_days_nor_a_monthly_one_after_twenty() -> None:
    strict = {"stale": timedelta(days=1)}
    assert kinds(use=hit(6, 13, 20), **strict) == []
    assert kinds(use=hit(12, 19, 26), **strict) == ["stale"]
    assert kinds(use=hit(20, 50, 81), **strict) == []
    [one] = found(use=hit(12, 19, 26), **strict)
    assert one.why == "no hit for 12 days; it was hit at least every 7 days before"


@pytest.mark.parametrize(("age", "never"), [(6.9, []), (7.1, ["never-hit"])])
def test_a_rule_without_a_hit_since_it_came(age: float, never: list[str]) -> None:
    assert kinds(age=age) == never
    assert kinds(use=hit(age + 1), age=age) == never
    assert kinds(use=hit(age - 1), age=age) == []


def test_a_rule_for_nobody_says_so() -> None:
    [one] = found(rule("r", sel(role="bastion", env="dev"), sel("shop-db"), SSH))
    assert one.why == "never hit in the 400 days that it has been in force; no enrolled host is at one of its ends"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"until": NOW}, ["expired"]),
        ({"until": NOW + timedelta(days=29)}, ["expires-soon"]),
        ({"until": NOW + timedelta(days=31)}, []),
        ({"review": date(2026, 11, 1)}, ["review-due"]),
        ({"review": date(2026, 12, 28)}, ["review-due"]),
        ({"review": date(2026, 12, 29)}, []),
        ({"owner": "CHANGE-ME"}, ["no-owner"]),
        ({"owner": "Nobody"}, ["no-owner"]),
        ({"owner": "tbd", "until": NOW, "review": date(2026, 1, 1)}, ["expired", "no-owner"]),
    ],
)
def test_dates_and_owners(fields: dict[str, object], wanted: list[str]) -> None:
    assert kinds(replace(RULE, **fields), hit(0)) == wanted  # type: ignore[arg-type]


def test_how_far_ahead_is_asked_for() -> None:
    assert kinds(replace(RULE, review=date(2027, 2, 1)), hit(0), soon=timedelta(days=90)) == ["review-due"]


def test_rules_without_effect_and_in_the_shadow_of_others() -> None:
    cut = rule("cut", sel(env="dev"), sel(env="prod"), SSH)
    assert "boundary dev-stays-out-of-prod denies all of it" in found(cut)[0].why
    assert kinds(cut) == ["no-effect"]
    assert kinds(rule("never", sel(env="dev"), sel("shop-db", env="prod"), SSH, within=("env",))) == ["no-effect"]
    assert kinds(rule("never", sel("shop-web", role="db"), sel(), SSH)) == ["no-effect"]
    wide = rule("wide", sel("shop-web"), sel(), POSTGRES)
    [one] = found(RULE, hit(0), others=(wide,))
    assert (one.kind, one.why, one.mend) == (
        "shadowed",
        "rule wide permits all that it does",
        "remove it, or narrow wide",
    )
    assert kinds(RULE, hit(0), others=(replace(RULE, name="first"), replace(RULE, name="second"))) in ([], ["shadowed"])


def test_a_rule_that_is_too_broad_comes_with_the_narrower_one() -> None:
    wide = rule("r", sel(role="web"), sel(role="db"), POSTGRES, HTTP, why="orders", review=date(2027, 5, 1))
    used = (Used(WEB, "shop-web", DB, "", POSTGRES), Used(WEB, "", DB, "shop-db", POSTGRES))
    [one] = found(wide, replace(hit(0), used=used))
    assert one.kind == "too-broad"
    assert "permits 32 tuples of workloads and ports, of which 1 were used in the last 30 days" in one.why
    assert one.narrower == (
        "version: 1\nrules:\n- name: r\n  from: {workload: shop-web, env: prod, role: web}\n"
        "  to: {workload: shop-db, env: prod, role: db}\n  allow: [tcp/5432]\n  owner: o\n  why: orders\n"
        "  review: 2027-05-01\n"
    )
    assert found(wide, replace(hit(0), used=used), age=3) == []


def test_findings_stand_in_the_order_of_the_policy() -> None:
    policy = replace(SHOP, rules=(replace(RULE, name="b", owner="?"), rule("a", sel(), sel(env="dev"), SSH, until=NOW)))
    every = find_rule_findings(policy, FLEET, Evidence({}, {}, 30), NOW)
    assert [(one.rule, one.kind) for one in every] == [("b", "no-owner"), ("a", "expired")]


def test_five_hundred_rules_are_looked_at_in_a_moment() -> None:
    roles, hosts = [f"r{n}" for n in range(40)], {}
    for n in range(2000):
        one = host(f"h{n}", role=roles[n % 40], env=f"e{n % 5}")
        hosts[one.name] = one
    policy = replace(
        SHOP,
        tags={"role": tuple(roles), "env": tuple(f"e{n}" for n in range(5))},
        boundaries=(),
        workloads={},
        rules=tuple(
            rule(f"rule{n}", sel(role=roles[n % 40]), sel(), HTTP, replace(SSH, high=SSH.low + n)) for n in range(500)
        ),
    )
    uses = {
        r.name: Use(
            NOW_US, frozenset(), (Used(r.source.tags.merged(sel(env="e1").tags), "", sel(env="e1").tags, "", HTTP),)
        )
        for r in policy.rules
    }
    ages = {r.name: Age(0, True) for r in policy.rules}
    began = process_time()
    every = find_rule_findings(policy, Inventory(hosts), Evidence(ages, uses, 30), NOW)
    assert sum(one.kind == "too-broad" for one in every) == 500
    assert process_time() - began < 3
