"""Since when rules and modes are what they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from segctl.model.policy import Mode, ModeRule, Policy
from segctl.policy.life.past import Age, Past, mode_of, said

from tests.shop import HTTP, SHOP, SSH, rule, sel

PROD, SHOPS = sel(env="prod"), sel(env="prod", app="shop")


def modes(*entries: tuple[object, Mode]) -> Policy:
    return replace(SHOP, modes=tuple(ModeRule(select, mode) for select, mode in entries))  # type: ignore[arg-type]


def past(*policies: Policy, whole: bool = True) -> Past:
    """The oldest first, from 10 on by tens."""
    generations = [said(policy, 10 * (at + 1)) for at, policy in enumerate(policies)]
    return Past(generations[::-1], whole)


def with_rules(*rules: object) -> Policy:
    return replace(SHOP, rules=rules)  # type: ignore[arg-type]


def test_a_rule_is_as_old_as_what_it_permits() -> None:
    old, other = rule("a", sel(), sel(role="db"), SSH), rule("b", sel(), sel(), SSH)
    worded = replace(old, owner="new team", why="better", review=date(2027, 1, 1))
    wider = replace(other, ports=(HTTP, SSH), allow=("http", "ssh"))
    told = past(with_rules(old), with_rules(old, other), with_rules(worded, wider))
    assert told.rules(with_rules(worded, wider)) == {"a": Age(10, True), "b": Age(30, True)}


def test_a_rule_that_came_back_is_as_old_as_that() -> None:
    one = rule("a", sel(), sel(), SSH)
    assert past(with_rules(one), with_rules(), with_rules(one)).rules(with_rules(one)) == {"a": Age(30, True)}


def test_what_reaches_back_beyond_the_history_is_at_least_so_old() -> None:
    one = rule("a", sel(), sel(), SSH)
    assert past(with_rules(one), whole=False).rules(with_rules(one)) == {"a": Age(10, False)}
    assert past(modes((PROD, Mode.TEST)), whole=False).phase(PROD, Mode.TEST) == Age(10, False)


def test_a_phase_began_when_nothing_was_in_a_weaker_mode_any_more() -> None:
    told = past(
        modes(),
        modes((PROD, Mode.OBSERVE)),
        modes((PROD, Mode.ENFORCE)),
        modes((PROD, Mode.TEST), (SHOPS, Mode.ENFORCE)),
    )
    assert told.phase(PROD, Mode.TEST) == Age(30, True)
    assert told.phase(SHOPS, Mode.ENFORCE) == Age(30, True)
    assert told.phase(PROD, Mode.OBSERVE) == Age(10, True)
    assert told.phase(PROD, Mode.ENFORCE) == Age(0, True)


def test_the_mode_of_a_selector_is_that_of_all_that_it_names() -> None:
    policy = modes((sel(), Mode.OBSERVE), (PROD, Mode.TEST), (sel("shop-db"), Mode.ENFORCE))
    assert [mode_of(policy, one) for one in (sel(), PROD, SHOPS, sel(env="dev"))] == [
        Mode.OBSERVE,
        Mode.TEST,
        Mode.TEST,
        Mode.OBSERVE,
    ]
    assert mode_of(policy, sel("shop-db", env="prod")) is Mode.ENFORCE
    assert mode_of(modes((sel(app="shop"), Mode.TEST)), sel("shop-db")) is Mode.TEST  # by its `on`
