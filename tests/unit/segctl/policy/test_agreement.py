"""Compile, diff, explain and the policy tests say one and the same, over random policies and fleets.

The oracle below is the definition of docs/architecture.md once more, written flatly and sharing no code with decide.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Address, Host, Inventory
from segctl.model.policy import Policy, PolicyTest, PortRange, Rule, Selector, Tags
from segctl.policy.compile import compile_host
from segctl.policy.decide import Instance, instances, receives
from segctl.policy.diff import Change, Node, diff_policies
from segctl.policy.digest import host_policy_digest, policy_digest
from segctl.policy.explain import explain_ends
from segctl.policy.satisfy import run_tests

from tests.shop import TODAY
from tests.strategies import fleets

STRANGERS = [ip_address(a) for a in ("192.0.2.1", "10.0.0.77", "203.0.113.200", "2001:db8::1", "fd00::77")]


def names(selector: Selector, end: Instance | Address, policy: Policy) -> bool:
    if isinstance(end, Instance):
        tags = dict(end.tags.pairs)
        return (
            selector.peer is None
            and selector.workload in (None, end.workload)
            and all(tags.get(k) == v for k, v in selector.tags.pairs)
        )
    if selector.peer is None:
        return False
    nets = (
        [ip_network("0.0.0.0/0"), ip_network("::/0")]
        if selector.peer == "any"
        else policy.peers[selector.peer].networks
    )
    return any(end in n for n in nets)


def oracle(
    policy: Policy, inventory: Inventory, egress: bool, local: Instance, remote: Host | Address, port: PortRange
) -> bool:
    ends: list[Instance | Address] = list(instances(policy, remote)) if isinstance(remote, Host) else [remote]
    for r in policy.rules:
        if r.until is not None and r.until <= TODAY:
            continue
        if not any(p.protocol == port.protocol and p.low <= port.low and port.high <= p.high for p in r.ports):
            continue
        for end in ends:
            source, destination = (local, end) if egress else (end, local)
            if not (names(r.source, source, policy) and names(r.destination, destination, policy)):
                continue
            both = isinstance(source, Instance) and isinstance(destination, Instance)
            if both and any(
                dict(source.tags.pairs).get(k) is None
                or dict(source.tags.pairs).get(k) != dict(destination.tags.pairs).get(k)
                for k in r.within
            ):
                continue
            if forbidden(policy, source, destination):
                continue
            if not egress and isinstance(remote, Host) and covered(policy, inventory, r, local, remote):
                continue
            return True
    return False


def forbidden(policy: Policy, source: Instance | Address, destination: Instance | Address) -> bool:
    return any(names(b.source, source, policy) and names(b.destination, destination, policy) for b in policy.boundaries)


def covered(policy: Policy, inventory: Inventory, r: Rule, local: Instance, remote: Host) -> bool:
    """A workload of `remote` that must not reach `local` may call its host on a port of `r`, for another's sake."""
    here = instances(policy, inventory.hosts[local.host])
    return any(
        forbidden(policy, other, local)
        and any(oracle_rule(policy, q, other, one) and meet(q, r) for q in policy.rules for one in here)
        for other in instances(policy, remote)
    )


def meet(a: Rule, b: Rule) -> bool:
    return any(p.protocol == q.protocol and p.low <= q.high and q.low <= p.high for p in a.ports for q in b.ports)


def oracle_rule(policy: Policy, r: Rule, source: Instance, destination: Instance) -> bool:
    return (
        (r.until is None or r.until > TODAY)
        and names(r.source, source, policy)
        and names(r.destination, destination, policy)
        and all(source.tags.get(k) is not None and source.tags.get(k) == destination.tags.get(k) for k in r.within)
        and not forbidden(policy, source, destination)
    )


def compiled_allows(
    hp: HostPolicy, egress: bool, workload: str, address: Address, managed: bool, port: PortRange
) -> bool:
    local = next(w for w in hp.workloads if w.name == workload)
    groups = {g.name: g for g in hp.groups}
    return any(
        e.managed == managed and any(p.covers(port) for p in e.ports) and address in groups[e.group]
        for e in (local.egress if egress else local.ingress)
    )


def probes(policy: Policy) -> list[PortRange]:
    ranges = {p for r in policy.rules for p in r.ports} | {PortRange("tcp", 9, 9)}
    return sorted({PortRange(p.protocol, n, n) for p in ranges for n in (p.low, p.high)})


@settings(max_examples=150, deadline=None)
@given(fleets())
def test_what_is_compiled_is_what_the_definition_says(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    for host in inventory.hosts.values():
        hp = compile_host(policy, inventory, host.name, 1, "d", TODAY)
        for local in instances(policy, host):
            for port in probes(policy):
                for egress in (True, False):
                    for other in inventory.hosts.values():
                        for address in other.addresses if other is not host else ():
                            expected = oracle(policy, inventory, egress, local, other, port)
                            assert compiled_allows(hp, egress, local.workload, address, True, port) == expected
                    for address in STRANGERS:
                        if inventory.holder(address) is None:
                            expected = oracle(policy, inventory, egress, local, address, port)
                            assert compiled_allows(hp, egress, local.workload, address, False, port) == expected


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_enrolled_addresses_in_peer_networks_are_exactly_the_managed_ones(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    for host in inventory.hosts.values():
        hp = compile_host(policy, inventory, host.name, 1, "d", TODAY)
        peers = {e.group for w in hp.workloads for e in (*w.ingress, *w.egress) if not e.managed}
        groups = [g for g in hp.groups if g.name in peers]
        enrolled = [a for h in inventory.hosts.values() for a in h.addresses]
        assert set(hp.managed) == {a for a in enrolled if any(a in g for g in groups)}


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_explain_is_the_definition_on_both_ends(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    policy = replace(policy, essentials=type(policy.essentials)())
    everyone = [i for h in inventory.hosts.values() for i in instances(policy, h)]
    for source in everyone:
        for destination in everyone:
            if source.host == destination.host:
                continue
            for port in probes(policy):
                if port.protocol == "icmpv6":
                    continue  # neighbour discovery is an essential
                if not receives(destination, port):
                    continue  # ICMP is the host's own
                said = explain_ends(policy, inventory, source, destination, port, TODAY)
                hosts = inventory.hosts
                assert [e.decision.allowed for e in said.ends] == [
                    oracle(policy, inventory, True, source, hosts[destination.host], port),
                    oracle(policy, inventory, False, destination, hosts[source.host], port),
                ]


@settings(max_examples=60, deadline=None)
@given(fleets(), st.data())
def test_the_difference_is_the_change_of_explain(fleet: tuple[Policy, Inventory], data: st.DataObject) -> None:
    """A policy against itself with some of its rules and boundaries gone, in both directions."""
    policy, inventory = fleet
    policy = replace(policy, essentials=type(policy.essentials)())
    less = replace(
        policy,
        rules=tuple(r for r in policy.rules if data.draw(st.booleans())),
        boundaries=tuple(b for b in policy.boundaries if data.draw(st.booleans())),
    )
    before, after = (_allowed(p, inventory, _edges(policy)) for p in (policy, less))
    changes = diff_policies(policy, less, inventory, TODAY).changes
    gained = {(c.source, c.destination) for c in changes if c.allowed and not _peer(c.source, c.destination)}
    lost = {(c.source, c.destination) for c in changes if not c.allowed and not _peer(c.source, c.destination)}
    assert gained == {t[:2] for t in after - before}
    assert lost == {t[:2] for t in before - after}


def _peer(*ends: str) -> bool:
    return any(e.startswith("peer ") for e in ends)


def _allowed(policy: Policy, inventory: Inventory, edges: list[PortRange]) -> set[tuple[str, str, PortRange]]:
    """By explain, for every pair of different hosts and every end of every range; hosts alike count as one."""
    out = set()
    everyone = [(h, i) for h in inventory.hosts.values() for i in instances(policy, h)]
    twins = {h.name: Host(f"{h.name}-twin", h.tags, ()) for h in inventory.hosts.values()}
    wide = Inventory({**inventory.hosts, **{t.name: t for t in twins.values()}})
    for _, source in everyone:
        for host, other in everyone:
            destination = replace(other, host=twins[host.name].name)
            for port in edges:
                if not receives(other, port):
                    continue
                said = explain_ends(policy, wide, source, destination, port, TODAY)
                if said.ends and all(e.decision.allowed and e.decision.reason == "rule" for e in said.ends):
                    a = Node(source.workload, source.tags)
                    out.add((str(a), str(Node(destination.workload, destination.tags)), port))
    return out


def _edges(policy: Policy) -> list[PortRange]:
    points = {(p.protocol, n) for r in policy.rules for p in r.ports for n in (p.low, p.high)}
    return [PortRange(proto, n, n) for proto, n in sorted(points)]


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_a_deny_test_that_holds_is_true_of_every_enrolled_host(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    for r in policy.rules:
        if r.source.peer is not None or r.destination.peer is not None:
            continue
        test = PolicyTest(r.source, r.destination, False, ("x",), r.ports)
        if run_tests(replace(policy, tests=(test,)), TODAY):
            continue
        for source in (i for h in inventory.hosts.values() for i in instances(policy, h) if names(r.source, i, policy)):
            for host in inventory.hosts.values():
                for destination in instances(policy, host):
                    if host.name == source.host or not names(r.destination, destination, policy):
                        continue
                    assert not any(_single_rule(policy, source, destination, port) for port in r.ports)


def _single_rule(policy: Policy, source: Instance, destination: Instance, port: PortRange) -> bool:
    return any(
        oracle_rule(policy, r, source, destination) and any(p.overlaps(port) for p in r.ports) for r in policy.rules
    )


@settings(max_examples=150, deadline=None)
@given(fleets(max_rules=6))
def test_no_pair_passes_a_boundary_under_the_cover_of_other_workloads(fleet: tuple[Policy, Inventory]) -> None:
    policy, inventory = fleet
    policy = replace(policy, essentials=type(policy.essentials)())
    everyone = [i for h in inventory.hosts.values() for i in instances(policy, h)]
    for source in everyone:
        for destination in everyone:
            if source.host == destination.host or not forbidden(policy, source, destination):
                continue
            for port in probes(policy):
                if receives(destination, port) and port.protocol != "icmpv6":
                    ends = explain_ends(policy, inventory, source, destination, port, TODAY).ends
                    assert not all(e.decision.allowed for e in ends)


@settings(max_examples=100, deadline=None)
@given(fleets(), st.randoms())
def test_the_order_of_everything_does_not_matter(fleet: tuple[Policy, Inventory], random) -> None:
    policy, inventory = fleet
    hosts = list(inventory.hosts.items())
    random.shuffle(hosts)
    workloads = list(policy.workloads.items())
    random.shuffle(workloads)
    turned = replace(policy, workloads=dict(workloads))
    assert policy_digest(turned) == policy_digest(policy)
    for name in inventory.hosts:
        a = compile_host(policy, inventory, name, 1, "d", TODAY)
        b = compile_host(turned, Inventory(dict(hosts)), name, 1, "d", TODAY)
        assert host_policy_digest(a) == host_policy_digest(b)


@settings(max_examples=60, deadline=None)
@given(fleets(max_hosts=5), st.data())
def test_a_difference_of_broad_classes_is_that_of_all_their_hosts(
    fleet: tuple[Policy, Inventory], data: st.DataObject
) -> None:
    """Where hosts are many, only the tags tell them apart that are spoken of."""
    policy, inventory = fleet
    hosts = {name: replace(h, tags=h.tags.merged(Tags.of({"rack": name}))) for name, h in inventory.hosts.items()}
    less = replace(policy, rules=tuple(r for r in policy.rules if data.draw(st.booleans())))
    fine = diff_policies(policy, less, Inventory(hosts), TODAY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segctl.policy.diff.MANY", 0)
        broad = diff_policies(policy, less, Inventory(hosts), TODAY)
    assert len(broad.changes) <= len(fine.changes)
    assert _touched(broad.changes) == _touched(fine.changes)
    assert broad.modes == fine.modes


def _touched(changes: tuple[Change, ...]) -> dict[tuple[bool, str, str, str], set[str]]:
    """The hosts of changes that say the same of the same workloads."""
    out: dict[tuple[bool, str, str, str], set[str]] = {}
    for c in changes:
        ends = (text if text.startswith("peer ") else text.split(" [")[0] for text in (c.source, c.destination))
        out.setdefault((c.allowed, *ends, c.service), set()).update(c.hosts)
    return out
