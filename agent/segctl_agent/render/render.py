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
from segctl_agent.identity import (
    DEPTH,
    DIRECTIONS,
    Direction,
    Identity,
    leaf_map,
    level_chain,
    own_map,
    owner_chain,
    rest_chain,
    workload_chain,
)
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
from segctl_agent.render.forward import forward_chains, forward_sets, own_addresses
from segctl_agent.render.marks import LIVE, MarkLayout, Marks
from segctl_agent.render.sets import busy_size
from segctl_agent.render.workloads import WorkloadRenderer, counter_name, shape_of, workload_sets

NOTHING = "nothing"
_UID_MAP = SetSpec((KeyType.UID,), verdicts=True)
_GID_MAP = SetSpec((KeyType.GID,), verdicts=True)


def render(policy: HostPolicy, facts: HostFacts, decisions: Decisions, layout: MarkLayout = MarkLayout()) -> Ruleset:  # noqa: B008 - a frozen value
    """The table for this policy on this host. `decisions` are those that `decisions.needed` names."""
    sets = {**render_sets(policy, facts), **live_map(decisions, layout)}
    return Ruleset(render_chains(policy, facts, decisions, layout), MappingProxyType(sets), counters=counters(policy))


def render_chains(
    policy: HostPolicy, facts: HostFacts, decisions: Decisions, layout: MarkLayout
) -> Mapping[str, Chain]:
    """Every chain: what they say depends on the shape of groups, and not on who is in them."""
    identity = Identity(policy, facts.users, facts.containers)
    marks = Marks(layout, decisions)
    own = own_addresses(facts) if identity.names_containers else ()
    shapes = {g.name: shape_of(g, own) for g in policy.groups}
    managed = tuple(v for v in s.VERSIONS if policy.managed.packed(v))
    renderer = WorkloadRenderer(shapes, managed, marks)
    chains = essential_chains(policy.essentials, facts, marks)
    for until in sorted({d.until for d in decisions.ids if d.until > 0}):
        chains[until_chain(until)] = Chain((Rule.of(s.before(until), s.verdict(ACCEPT)),))
    chains.update(refuse_chains(policy))
    chains.update({chain_name(decision, number): Chain() for decision, number in decisions.ids.items()})
    for direction in DIRECTIONS:
        chains.update(_identity_chains(direction, marks))
        chains[unknown_name(direction)] = unknown_chain(
            direction, marks.refused(direction, UNKNOWN), enforcing=policy.enforcing
        )
        for workload in policy.workloads:
            chains[workload_chain(workload.name, direction)] = renderer.chain(workload, direction)
            chains[end_name(workload.name, direction)] = end_chain(
                direction, workload, marks.permit(direction, workload.name), marks.older()
            )
            if workload.mode is not Mode.OBSERVE:
                chains[back_name(workload.name, direction)] = renderer.back(workload, direction)
    chains.update(_owner_chains(identity, chains))
    chains.update(forward_chains(policy, facts, identity, renderer, marks))
    return MappingProxyType(chains)


def render_sets(policy: HostPolicy, facts: HostFacts) -> dict[str, NftSet]:
    """Every set and map but those of live decisions."""
    identity = Identity(policy, facts.users, facts.containers)
    shapes = {g.name: shape_of(g) for g in policy.groups}
    sets: dict[str, NftSet] = {NOTHING: NftSet(SetSpec((KeyType.CGROUPSV2,))), **essential_sets(policy.essentials)}
    sets.update(container_sets(facts, identity))
    sets.update(workload_sets(policy, shapes, opened=identity.names_containers))
    for direction in DIRECTIONS:
        for kind, spec, owners in (("uid", _UID_MAP, identity.users), ("gid", _GID_MAP, identity.groups)):
            if owners:
                sets[f"{kind}_{direction}"] = NftSet(spec, MappingProxyType(_owner_elements(owners, direction)))
    sets.update(end_sets(policy))
    return sets


def container_sets(facts: HostFacts, identity: Identity) -> dict[str, NftSet]:
    """The sets and maps that depend on containers: where cgroups belong, and addresses."""
    return {
        **_cgroup_maps(identity, (*facts.cgroups.items(), *facts.departed)),
        **forward_sets(facts, identity),
    }


def live_map(decisions: Decisions, layout: MarkLayout) -> dict[str, NftSet]:
    """The map of the marks that count: accepted, or as long as it is not their end yet."""
    found: dict[bytes, Data] = {}
    for decision, number in decisions.ids.items():
        if decision.lives:
            mark = struct.pack("=I", layout.mark(decision.direction, number))
            found[mark] = jump(until_chain(decision.until)) if decision.until else ACCEPT
    spec = SetSpec((KeyType.MARK,), verdicts=True, size=busy_size(len(found)))
    return {LIVE: NftSet(spec, MappingProxyType(found))}


def until_chain(until: int) -> str:
    return f"until_{until}"


def counters(policy: HostPolicy) -> frozenset[str]:
    """The counters of the rules, by direction."""
    incoming = {counter_name("in", e.rule) for w in policy.workloads for e in w.ingress}
    return frozenset(incoming | {counter_name("out", e.rule) for w in policy.workloads for e in w.egress})


def _owner_elements(owners: Mapping[int, str], direction: Direction) -> dict[bytes, Data]:
    return {struct.pack("=I", number): goto(workload_chain(name, direction)) for number, name in owners.items()}


def _owner_chains(identity: Identity, chains: Mapping[str, Chain]) -> Mapping[str, Chain]:
    """Sockets in cgroups that nothing names are asked who made them. Outgoing, but for replies: what these answer was
    judged by the listener's cgroup, because the kernel does not tell a listener's owner. Incoming, for replies alone:
    of an established socket it does (where early demultiplexing is on, as it is unless someone turned it off)."""
    if not (identity.users or identity.groups):
        return {}
    found: dict[str, Chain] = {}
    for direction in DIRECTIONS:
        name, rest = workload_chain(HOST_WORKLOAD, direction), rest_chain(direction)
        answer = () if direction == "out" else (s.ct_reply(),)
        ask = [Rule.of(*answer, s.uid_verdict(f"uid_{direction}"))] if identity.users else []
        ask += [Rule.of(*answer, s.gid_verdict(f"gid_{direction}"))] if identity.groups else []
        first = (_reply_to(rest),) if direction == "out" else ()
        found[name] = Chain((*first, *ask, _to(rest)))
        found[rest] = chains[name]
    for user in identity.users.values():
        found[owner_chain(user)] = Chain(
            (_reply_to(workload_chain(user, "out")), _to(workload_chain(HOST_WORKLOAD, "out")))
        )
    return found


def _reply_to(chain: str) -> Rule:
    return Rule.of(s.ct_reply(), s.verdict(goto(chain)))


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
    return {name: NftSet(cgroup_map(len(elements)), MappingProxyType(elements)) for name, elements in found.items()}


def cgroup_map(count: int) -> SetSpec:
    """The type of a map of so many cgroups."""
    return SetSpec((KeyType.CGROUPSV2,), verdicts=True, size=busy_size(count))


def _identity_chains(direction: Direction, marks: Marks) -> dict[str, Chain]:
    """From the socket's cgroup to its workload. Level 2 comes first: system.slice/x.service is there.

    `socket cgroupv2 level L` matches nothing when there is no socket or its cgroup is not that deep, so the last rules
    of id_D are for sockets of the root cgroup and packets without a socket. Among these are packets of flows that were
    judged before and have no whole socket yet, or no longer: the last step of a handshake during which the epoch
    changed, and TIME_WAIT. They pass unmarked: the next packet finds the socket, and is judged. So does a SYN from the
    port of a session that ended less than a minute ago: its mark, never live, says that we saw the flow begin.
    """
    again = Rule.of(s.tcp_syn(), s.any_socket(), marks.refused("in", UNKNOWN), s.verdict(ACCEPT))
    unknown = s.verdict(goto(f"unknown_{direction}"))
    top = Chain(
        (
            _cgroup_verdict(2, leaf_map(2, direction)),
            _cgroup_verdict(1, leaf_map(1, direction)),
            Rule.of(s.cgroup_exists(2, NOTHING), unknown),
            _cgroup_verdict(1, own_map(1, direction)),
            Rule.of(s.cgroup_exists(1, NOTHING), unknown),
            Rule.of(s.whole_socket(), s.verdict(goto(workload_chain(HOST_WORKLOAD, direction)))),
            *((again,) if direction == "in" else ()),
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
