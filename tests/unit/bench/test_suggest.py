"""The generator of worlds and the score: what is true is found to be true, and what is not is not."""

from __future__ import annotations

from segctl.model.policy import Policy, PortRange, Rule, Selector

from bench.suggest.score import Judge, coverage, excess, permitted_by_truth, trial
from bench.suggest.traffic import Kind, Traffic
from bench.suggest.world import build

EVERYTHING = Policy(
    rules=(
        Rule("all", Selector(), Selector(), ("any",), (PortRange("tcp", 0, 65535),)),
        Rule("in", Selector(peer="any"), Selector(), ("any",), (PortRange("tcp", 443, 443),)),
    )
)


def test_legitimate_traffic_is_what_the_true_policy_permits() -> None:
    world = build(3, 3, 2)
    traffic = Traffic(world, 3, range(7))
    assert traffic.legitimate
    assert all(permitted_by_truth(world, kind) for kind in traffic.legitimate)
    assert not all(permitted_by_truth(world, kind) for kind in traffic.attacks)
    assert len(traffic.observed) >= len(traffic.legitimate)


def test_one_seed_is_one_world() -> None:
    one, other = (Traffic(build(5, 2, 2), 7, range(5)).observed for _ in range(2))
    assert one == other


def test_an_open_policy_covers_everything_and_is_all_excess() -> None:
    world = build(3, 2, 2)
    traffic = Traffic(world, 3, range(5))
    assert coverage(Policy(), traffic.legitimate)[0] == 0.0
    inside = {kind: tally for kind, tally in traffic.legitimate.items() if kind.source.tags and kind.destination.tags}
    assert coverage(EVERYTHING, inside)[0] == 1.0
    few = Policy(rules=(Rule("one", Selector(), Selector(), ("x",), (PortRange("tcp", 4444, 4444),)),))
    assert excess(world, few, 4, ())[0] == 1.0
    assert Judge(EVERYTHING).rule(Kind(*_some(inside), "udp", 53)) is None


def _some(kinds: object) -> tuple[object, object]:
    first = next(iter(kinds))  # type: ignore[call-overload]
    return first.source, first.destination


def test_suggestions_of_a_small_world_reach_the_goals_but_for_the_newcomer() -> None:
    score = trial(build(2, 3, 2), 2, 28, 7).score
    assert score.settled >= 0.995
    assert score.excess <= 0.1
    assert (score.attacks, score.ratio <= 1.3) == (0, True)
