"""The wanted ruleset as a function of the host policy and of what is true on the host. Pure; the shape is described in
docs/architecture.md, "The table"."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from segctl.model.hostpolicy import HostPolicy
from segctl.model.policy import HOST_WORKLOAD, Mode

from segctl_agent.facts.values import HostFacts
from segctl_agent.identity import DEPTH, DIRECTIONS, Direction, Identity, leaf_map, level_chain, own_map, workload_chain
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import (
    ACCEPT,
    DROP,
    INPUT,
    OUTPUT,
    Chain,
    Data,
    KeyType,
    NftSet,
    Rule,
    Ruleset,
    SetSpec,
    goto,
)
from segctl_agent.render.essentials import essential_sets, incoming, outgoing
from segctl_agent.render.marks import accepted
from segctl_agent.render.sets import denied_connections, network_sets
from segctl_agent.render.workloads import WorkloadRenderer, again_name, back_name, end_chain, end_name, log_rule

NOTHING = "nothing"
CGROUP_MAP = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
_UID_MAP = SetSpec((KeyType.UID,), verdicts=True)
_GID_MAP = SetSpec((KeyType.GID,), verdicts=True)


def render(policy: HostPolicy, facts: HostFacts, epoch: int) -> Ruleset:
    """The table for this policy on this host. `epoch` is 1 to 2047: with another, live flows are judged anew."""
    identity = Identity(policy, facts.users)
    chains: dict[str, Chain] = {
        "input": Chain((*incoming(policy.essentials, facts, epoch), _to("id_in")), INPUT),
        "output": Chain((*outgoing(policy.essentials, facts, epoch), _to("id_out")), OUTPUT),
    }
    sets: dict[str, NftSet] = {NOTHING: NftSet(SetSpec((KeyType.CGROUPSV2,))), **essential_sets(policy.essentials)}
    sets.update(_cgroup_maps(identity, (*facts.cgroups.items(), *facts.departed)))
    used: set[str] = set()
    for direction in DIRECTIONS:
        chains.update(_identity_chains(direction, identity))
        chains[f"unknown_{direction}"] = _unknown(direction, enforcing=policy.enforcing)
        used |= _workloads(policy, identity, direction, epoch, chains, sets)
    for name, spec, owners in (("uid_out", _UID_MAP, identity.users), ("gid_out", _GID_MAP, identity.groups)):
        if owners:
            sets[name] = NftSet(spec, MappingProxyType(_owner_elements(owners)))
    groups = {g.name: g.networks for g in policy.groups}
    for name in used:
        sets.update(network_sets(f"g{name}", groups[name]))
    sets.update(network_sets("managed", policy.managed))
    if policy.enforcing:
        sets.update({again_name(version): denied_connections(version) for version in s.VERSIONS})
    return Ruleset(MappingProxyType(chains), MappingProxyType(sets))


def _owner_elements(owners: Mapping[int, str]) -> dict[bytes, Data]:
    return {struct.pack("=I", number): goto(workload_chain(name, "out")) for number, name in owners.items()}


def _by_owner(identity: Identity) -> tuple[Rule, ...]:
    """Before the rules of `host`, outgoing: sockets in cgroups that nothing names, by who made them."""
    rules = ((identity.users, s.uid_verdict("uid_out")), (identity.groups, s.gid_verdict("gid_out")))
    return tuple(Rule.of(statement) for owners, statement in rules if owners)


def _to(chain: str) -> Rule:
    return Rule.of(s.verdict(goto(chain)))


def _workloads(
    policy: HostPolicy,
    identity: Identity,
    direction: Direction,
    epoch: int,
    chains: dict[str, Chain],
    sets: dict[str, NftSet],
) -> set[str]:
    """Adds the chains and sets of every workload; answers the groups that rules refer to."""
    mark = accepted(epoch)
    groups = {g.name: g.networks for g in policy.groups}
    renderer = WorkloadRenderer(direction, groups, frozenset(policy.managed), mark)
    by_owner = _by_owner(identity) if direction == "out" else ()
    used: set[str] = set()
    for workload in policy.workloads:
        rendered = renderer.render(workload, by_owner if workload.name == HOST_WORKLOAD else ())
        chains[workload_chain(workload.name, direction)] = rendered.chain
        chains[end_name(workload.name, direction)] = end_chain(direction, workload, epoch)
        if workload.mode is not Mode.OBSERVE:
            chains[back_name(workload.name, direction)] = renderer.back(workload)
        sets.update(rendered.sets)
        used |= rendered.groups
    return used


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


def _unknown(direction: Direction, *, enforcing: bool) -> Chain:
    """A socket whose cgroup is not mapped yet. Dropped without an answer, a SYN comes again when it is mapped. A
    session that comes here is of a cgroup that is gone and forgotten: nobody can judge it any more, and it ends."""
    if not enforcing:
        return Chain((Rule.of(s.verdict(ACCEPT)),))
    reset = Rule.of(s.ct_state("established"), s.protocol("tcp"), s.reject_reset())
    return Chain((log_rule(direction, "deny", "?"), Rule.of(s.counter()), reset, Rule.of(s.verdict(DROP))))


def denied_counters(packets: Mapping[str, int], policy: HostPolicy) -> dict[tuple[Direction, str], int]:
    """Kernel.counters as (direction, workload) -> packets that were denied or would be; `?` is the unknown cgroup."""
    out: dict[tuple[Direction, str], int] = {}
    names = [w.name for w in policy.workloads]
    for direction in DIRECTIONS:
        for chain, name in [*((end_name(n, direction), n) for n in names), (f"unknown_{direction}", "?")]:
            if chain in packets:
                out[direction, name] = packets[chain]
    return out
