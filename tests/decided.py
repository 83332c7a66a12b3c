"""Decision ids for rendering without an enforcer: another `turn` gives every decision another id."""

from __future__ import annotations

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.decisions import Decisions, assign, needed
from segctl_agent.denials.counts import NameOf
from segctl_agent.denials.values import Verdict
from segctl_agent.facts.values import HostFacts
from segctl_agent.identity import Direction
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import MarkLayout, render


def decided(policy: HostPolicy, turn: int = 1) -> Decisions:
    return assign(Decisions(turn=(turn * 100, turn * 100)), needed(policy), (), MarkLayout().most)


def rendered(policy: HostPolicy, facts: HostFacts, turn: int = 1) -> Ruleset:
    return render(policy, facts, decided(policy, turn))


def named(policy: HostPolicy, turn: int = 1) -> NameOf:
    """Whose denial a mark is, in a table that was rendered for this policy and turn."""
    owners, layout = decided(policy, turn).by_id, MarkLayout()

    def name_of(direction: Direction, mark: int) -> tuple[str, Verdict] | None:
        decision = owners.get((direction, layout.id_of(direction, mark)))
        return None if decision is None else (decision.workload, "would-deny" if decision.lives else "denied")

    return name_of
