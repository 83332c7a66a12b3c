"""Decision ids for rendering without an enforcer: another `turn` gives every decision another id."""

from __future__ import annotations

from segctl.model.hostpolicy import HostPolicy
from segctl_agent.decisions import Decisions, assign, needed
from segctl_agent.facts.values import HostFacts
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.render import MarkLayout, render


def decided(policy: HostPolicy, turn: int = 1) -> Decisions:
    return assign(Decisions(turn=(turn * 100, turn * 100)), needed(policy), (), MarkLayout().most)


def rendered(policy: HostPolicy, facts: HostFacts, turn: int = 1) -> Ruleset:
    return render(policy, facts, decided(policy, turn))
