"""Rules that end by themselves: what is said, what hosts are sent, what explanations tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from segctl.model.policy import Policy, Rule
from segctl.policy.compile import compile_host
from segctl.policy.decide import is_live, next_end
from segctl.policy.digest import policy_digest
from segctl.policy.explain import explain
from segctl.policy.syntax.grammar import read_end
from segctl.policy.syntax.log import Problem

from tests.shop import FLEET, POSTGRES, SHOP, TODAY, rule, sel
from tests.strategies import policies

SIX = datetime(2027, 1, 31, 18, 0, tzinfo=UTC)
NIGHT = datetime(2027, 2, 1, tzinfo=UTC)


def lasting(name: str, until: datetime | None) -> Rule:
    return rule(name, sel("shop-web"), sel("shop-db"), POSTGRES, within=("app", "env"), until=until)


def shop(*rules: Rule) -> Policy:
    return replace(SHOP, rules=rules)


@pytest.mark.parametrize(
    ("text", "until", "said"),
    [
        ("2027-01-31", NIGHT, "2027-01-31"),
        ("2027-02-01T00:00Z", NIGHT, "2027-01-31"),
        ("2027-01-31T18:00Z", SIX, "2027-01-31T18:00Z"),
        ("2027-01-31T18:00:00Z", SIX, "2027-01-31T18:00Z"),
        ("2027-01-31T18:00:30Z", SIX + timedelta(seconds=30), "2027-01-31T18:00:30Z"),
        ("2199-12-31", datetime(2200, 1, 1, tzinfo=UTC), "2199-12-31"),
    ],
)
def test_a_day_and_a_moment(text: str, until: datetime, said: str) -> None:
    assert read_end(text) == until
    assert lasting("r", until).expires == said


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2027-01-31T18:00", "write 2027-01-31T18:00Z, the time in UTC"),
        ("2027-01-31T18:00+02:00", "write 2027-01-31T16:00Z"),
        ("2027-01-31T18:00-08:00", "write 2027-02-01T02:00Z"),
        ("2027-01-31T18:00+00:00", "write 2027-01-31T18:00Z"),
        ("2027-01-31T18:00:00.5Z", "write 2027-01-31T18:00Z"),
        ("20270131T1800Z", "write 2027-01-31T18:00Z"),
        ("2027-01-31T24:00Z", "write 2027-01-31, or 2027-01-31T18:00Z in UTC"),
        ("2027-02-29T18:00Z", "write 2027-01-31, or 2027-01-31T18:00Z in UTC"),
        ("2027-02-29", "check the month and the day"),
        ("31.1.2027", "write 2027-01-31, or 2027-01-31T18:00Z in UTC"),
        ("tomorrow", "write 2027-01-31, or 2027-01-31T18:00Z in UTC"),
        ("9999-12-31", "years go up to 2199; without it a rule has no end"),
        ("9999-12-31T23:00-10:00", "years go up to 2199; without it a rule has no end"),
        ("0001-01-01T00:00+10:00", "years go up to 2199; without it a rule has no end"),
    ],
)
def test_what_is_no_end_and_how_to_say_it(text: str, hint: str) -> None:
    problem = read_end(text)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.hint) == ("bad-date", hint)


@given(policies())
def test_what_is_said_reads_as_what_is_meant(policy: Policy) -> None:
    for r in policy.rules:
        assert not r.expires if r.until is None else read_end(r.expires) == r.until


def test_digests_tell_ends_apart() -> None:
    ends = (None, SIX, NIGHT, SIX + timedelta(seconds=1))
    assert len({policy_digest(shop(lasting("r", end))) for end in ends}) == len(ends)


def test_a_rule_permits_until_its_end_and_then_is_left_out() -> None:
    def sent(now: datetime) -> dict[str, int]:
        web = next(w for w in compile_host(policy, FLEET, "web1", 1, "d", now).workloads if w.name == "shop-web")
        return {e.rule: e.until for e in web.egress}

    policy = shop(lasting("always", None), lasting("long", NIGHT), lasting("short", SIX))
    everything = {"always": 0, "long": int(NIGHT.timestamp()), "short": int(SIX.timestamp())}
    instant = timedelta.resolution
    assert sent(SIX - instant) == everything
    assert sent(SIX) == {k: everything[k] for k in ("always", "long")}
    assert sent(NIGHT) == {"always": 0}


@given(policies())
def test_nothing_ends_before_the_next_end(policy: Policy) -> None:
    end = next_end(policy, TODAY)
    live = {r.name for r in policy.rules if is_live(r, TODAY)}
    if end is None:
        assert all(r.until is None for r in policy.rules if r.name in live)
        return
    assert {r.name for r in policy.rules if is_live(r, end - timedelta.resolution)} == live
    assert {r.name for r in policy.rules if is_live(r, end)} < live


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({"a": SIX}, "rule a permits until 2027-01-31T18:00Z (UTC), and then nothing else does"),
        ({"a": SIX, "b": NIGHT}, "rule b permits until 2027-01-31 (UTC), and then nothing else does"),
        ({"a": NIGHT, "b": SIX}, "rule a permits until 2027-01-31 (UTC), and then nothing else does"),
        ({"a": SIX, "b": None}, None),
    ],
)
def test_an_explanation_tells_when_a_permission_ends(ends: dict[str, Any], said: str | None) -> None:
    policy = shop(*(lasting(name, until) for name, until in ends.items()))
    found = explain(policy, FLEET, "web1/shop-web", "db1/shop-db", "postgres", TODAY)
    assert (found.verdict, found.notes) == ("allowed", (said,) if said else ())


def test_an_end_of_either_side_ends_the_permission() -> None:
    out = rule("out", sel("shop-web"), sel(role="db"), POSTGRES, until=SIX)
    back = rule("in", sel("host", role="web"), sel("shop-db"), POSTGRES)
    found = explain(shop(back, out), FLEET, "web1/shop-web", "db1/shop-db", "postgres", TODAY)
    assert found.notes[0] == "rule out permits until 2027-01-31T18:00Z (UTC), and then nothing else does"


def test_a_rule_that_ended_is_near_and_says_so() -> None:
    found = explain(shop(lasting("a", SIX)), FLEET, "web1/shop-web", "db1/shop-db", "postgres", SIX)
    assert (found.nearest_rule, found.nearest_why) == ("a", "it expired on 2027-01-31T18:00Z")
