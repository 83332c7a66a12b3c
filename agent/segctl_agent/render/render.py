"""The wanted ruleset as a function of the host policy and of what is true on the host. Pure; the shape is described in
docs/architecture.md, "The table"."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import HOST_WORKLOAD, Mode

from segctl_agent.decisions import UNKNOWN, Decisions, chain_name
from segctl_agent.facts.values import HostFacts
from segctl_agent.identity import DEPTH, DIRECTIONS, Direction, Identity, leaf_map, level_chain, own_map, workload_chain
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import (
    ACCEPT,
    Chain,
    Data,
    KeyType,
    NftSet,
    Rule,
    Ruleset,
    SetSpec,
    goto,
    jump,
)
from segctl_agent.render.ends import (
    back_name,
    end_chain,
    end_name,
    end_sets,
    refuse_chains,
    unknown_chain,
    unknown_name,
)
from segctl_agent.render.essentials import essential_chains, essential_sets
from segctl_agent.render.marks import LIVE, MarkLayout, Marks
from segctl_agent.render.workloads import WorkloadRenderer, counter_name, shape_of, workload_sets

NOTHING = "nothing"
CGROUP_MAP = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
_UID_MAP = SetSpec((KeyType.UID,), verdicts=True)
_LIVE_MAP = SetSpec((KeyType.MARK,), verdicts=True)


def render(policy: HostPolicy, facts: HostFacts, decisions: Decisions, layout: MarkLayout = MarkLayout()) -> Ruleset:  # noqa: B008 - a frozen value
    """The table for this policy on this host. `decisions` are those that `decisions.needed` names."""
    sets = {**render_sets(policy, facts), **live_maps(decisions, layout)}
    return Ruleset(render_chains(policy, facts, decisions, layout), MappingProxyType(sets), counters=counters(policy))


def render_chains(
    policy: HostPolicy, facts: HostFacts, decisions: Decisions, layout: MarkLayout
) -> Mapping[str, Chain]:
    """Every chain: what they say depends on the shape of groups, and not on who is in them."""
    identity = Identity(policy, facts.users)
    marks = Marks(layout, decisions)
    shapes = {g.name: shape_of(g) for g in policy.groups}
    managed = tuple(v for v in s.VERSIONS if policy.managed.packed(v))
    renderer = WorkloadRenderer(shapes, managed, marks)
    chains = essential_chains(policy.essentials, facts, marks)
    for until in sorted({d.until for d in decisions.ids if d.until > 0}):
        chains[until_chain(until)] = Chain((Rule.of(s.before(until), s.verdict(ACCEPT)),))
    chains.update(refuse_chains(policy))
    chains.update({chain_name(decision, number): Chain() for decision, number in decisions.ids.items()})
    for direction in DIRECTIONS:
        chains.update(_identity_chains(direction, identity))
        chains[unknown_name(direction)] = unknown_chain(
            direction, marks.refused(direction, UNKNOWN), enforcing=policy.enforcing
        )
        by_owner = (Rule.of(s.uid_verdict("uid_out")),) if identity.users and direction == "out" else ()
        for workload in policy.workloads:
            first = by_owner if workload.name == HOST_WORKLOAD else ()
            chains[workload_chain(workload.name, direction)] = renderer.chain(workload, direction, first)
            chains[end_name(workload.name, direction)] = end_chain(
                direction, workload, marks.permit(direction, workload.name), marks.older()
            )
            if workload.mode is not Mode.OBSERVE:
                chains[back_name(workload.name, direction)] = renderer.back(workload, direction)
    return MappingProxyType(chains)


def render_sets(policy: HostPolicy, facts: HostFacts) -> dict[str, NftSet]:
    """Every set and map but those of live decisions."""
    identity = Identity(policy, facts.users)
    shapes = {g.name: shape_of(g) for g in policy.groups}
    sets: dict[str, NftSet] = {NOTHING: NftSet(SetSpec((KeyType.CGROUPSV2,))), **essential_sets(policy.essentials)}
    sets.update(_cgroup_maps(identity, (*facts.cgroups.items(), *facts.departed)))
    sets.update(workload_sets(policy, shapes))
    if identity.users:
        owners: dict[bytes, Data] = {
            struct.pack("=I", uid): goto(workload_chain(name, "out")) for uid, name in identity.users.items()
        }
        sets["uid_out"] = NftSet(_UID_MAP, MappingProxyType(owners))
    sets.update(end_sets(policy))
    return sets


def live_maps(decisions: Decisions, layout: MarkLayout) -> dict[str, NftSet]:
    """The marks of the decisions that count: accepted, or as long as it is not their end yet."""
    found: dict[Direction, dict[bytes, Data]] = {d: {} for d in DIRECTIONS}
    for decision, number in decisions.ids.items():
        if decision.lives:
            mark = struct.pack("=I", layout.mark(decision.direction, number))
            found[decision.direction][mark] = jump(until_chain(decision.until)) if decision.until else ACCEPT
    return {LIVE[d]: NftSet(_LIVE_MAP, MappingProxyType(elements)) for d, elements in found.items()}


def until_chain(until: int) -> str:
    return f"until_{until}"


def counters(policy: HostPolicy) -> frozenset[str]:
    """The counters of the rules, by direction."""
    incoming = {counter_name("in", e.rule) for w in policy.workloads for e in w.ingress}
    return frozenset(incoming | {counter_name("out", e.rule) for w in policy.workloads for e in w.egress})


def _to(chain: str) -> Rule:
    return Rule.of(s.verdict(goto(chain)))


def _cgroup_maps(identity: Identity, cgroups: Iterable[tuple[str, int]]) -> dict[str, NftSet]:
    """Every level's maps exist always, so that a new cgroup is one element and nothing else."""
    names = [leaf_map(n, d) for d in DIRECTIONS for n in range(1, DEPTH + 1)]
    names += [own_map(n, d) for d in DIRECTIONS for n in range(1, DEPTH)]
    found: dict[str, dict[bytes, Data]] = {name: {} for name in names}
    for path, cgroup in cgroups:
        for element in identity.elements(path, cgroup):
            found[element.map][element.key] = element.verdict
    return {name: NftSet(CGROUP_MAP, MappingProxyType(elements)) for name, elements in found.items()}


def _identity_chains(direction: Direction, identity: Identity) -> dict[str, Chain]:
    """From the socket's cgroup to its workload. Level 2 comes first: system.slice/x.service is there.

    `socket cgroupv2 level L` matches nothing when there is no socket or its cgroup is not that deep, so the last rules
    of id_D are for sockets of the root cgroup and packets without a socket. Among these are packets of flows that were
    judged before and have no whole socket yet, or no longer: the last step of a handshake during which the epoch
    changed, and TIME_WAIT. They pass unmarked: the next packet finds the socket, and is judged.
    """
    unknown = s.verdict(goto(f"unknown_{direction}"))
    top = Chain(
        (
            _cgroup_verdict(2, leaf_map(2, direction)),
            _cgroup_verdict(1, leaf_map(1, direction)),
            Rule.of(s.cgroup_exists(2, NOTHING), unknown),
            _cgroup_verdict(1, own_map(1, direction)),
            Rule.of(s.cgroup_exists(1, NOTHING), unknown),
            Rule.of(s.whole_socket(), s.verdict(goto(workload_chain(HOST_WORKLOAD, direction)))),
            Rule.of(s.ct_state("established"), s.protocol("tcp"), s.verdict(ACCEPT)),
            _to(workload_chain(HOST_WORKLOAD, direction)),
        )
    )
    chains = {f"id_{direction}": top}
    for level in range(3, DEPTH + 1):
        chains[level_chain(level, direction)] = Chain(
            (
                _cgroup_verdict(level, leaf_map(level, direction)),
                Rule.of(s.cgroup_exists(level, NOTHING), unknown),
                _cgroup_verdict(level - 1, own_map(level - 1, direction)),
                Rule.of(unknown),
            )
        )
    return chains


def _cgroup_verdict(level: int, name: str) -> Rule:
    return Rule.of(s.cgroup_verdict(level, name))
