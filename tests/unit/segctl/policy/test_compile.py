"""What each host is told to enforce."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, HostPolicy
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import HOST_WORKLOAD, Answer, Mode, ModeRule
from segctl.policy.compile import compile_host
from segctl.policy.digest import host_policy_digest

from tests.shop import FLEET, SHOP, TODAY, host, sel


def compiled(name: str, inventory: Inventory = FLEET) -> HostPolicy:
    return compile_host(SHOP, inventory, name, 1, "d", TODAY)


def entries(policy: HostPolicy, workload: str, direction: str) -> dict[str, Entry]:
    local = next(w for w in policy.workloads if w.name == workload)
    return {e.rule: e for e in (local.ingress if direction == "in" else local.egress)}


def members(policy: HostPolicy, entry: Entry) -> set[str]:
    group = next(g for g in policy.groups if g.name == entry.group)
    return {str(n) for n in (*group.networks, *group.hosts)}


def test_a_host_carries_its_workloads_and_itself() -> None:
    assert [w.name for w in compiled("web1").workloads] == [HOST_WORKLOAD, "shop-web"]
    assert [w.name for w in compiled("bastion").workloads] == [HOST_WORKLOAD]


def test_within_keeps_environments_apart() -> None:
    web1 = compiled("web1")
    assert members(web1, entries(web1, "shop-web", "out")["web-to-db"]) == {"10.0.0.2", "fd00::2"}
    dbd = compiled("dbd")
    assert members(dbd, entries(dbd, "shop-db", "in")["web-to-db"]) == {"10.0.1.1"}


def test_a_rule_opens_only_the_named_process() -> None:
    assert "web-to-db" not in entries(compiled("web1"), HOST_WORKLOAD, "out")


def test_a_boundary_on_a_peer_cuts_its_networks_out() -> None:
    web1 = compiled("web1")
    entry = entries(web1, "shop-web", "in")["office-http"]
    assert members(web1, entry) == {"203.0.113.0/25", "2001:db8:40::/48"}
    assert not entry.managed


def test_enrolled_addresses_inside_a_peer_are_listed_as_managed() -> None:
    assert compiled("web1").managed == AddressSet.of([ip_address("203.0.113.7")])
    assert compiled("db1").managed == AddressSet()


def test_an_expired_rule_permits_nothing() -> None:
    assert "old" not in entries(compiled("web1"), HOST_WORKLOAD, "in")


def test_the_strictest_mode_holds() -> None:
    assert {w.mode for w in compiled("web1").workloads} == {Mode.ENFORCE}
    assert {w.mode for w in compiled("webd").workloads} == {Mode.TEST}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((), (Answer.REJECT, Answer.DROP)),
        (((None, None), (Answer.DROP, Answer.REJECT)), (Answer.DROP, Answer.REJECT)),
        (((Answer.REJECT, Answer.REJECT), (Answer.DROP, Answer.DROP)), (Answer.DROP, Answer.DROP)),
    ],
)
def test_drop_holds_over_reject(
    said: tuple[tuple[Answer | None, Answer | None], ...], expected: tuple[Answer, Answer]
) -> None:
    """In every mode: the answers of an entry that only observes count as well."""
    modes = tuple(ModeRule(sel(role="db"), Mode.OBSERVE, outgoing=out, incoming=into) for out, into in said)
    policy = replace(SHOP, modes=(*SHOP.modes, *modes))
    db1 = compile_host(policy, FLEET, "db1", 1, "d", TODAY)
    assert {(w.outgoing, w.incoming) for w in db1.workloads} == {expected}
    web1 = compile_host(policy, FLEET, "web1", 1, "d", TODAY)
    assert {(w.outgoing, w.incoming) for w in web1.workloads} == {(Answer.REJECT, Answer.DROP)}


def test_joining_a_group_changes_members_and_no_name() -> None:
    more = Inventory({**FLEET.hosts, "db2": host("db2", "10.0.0.9", app="shop", role="db", env="prod")})
    before, after = compiled("web1"), compiled("web1", more)
    assert before.workloads == after.workloads
    changed = [(b, a) for b, a in zip(before.groups, after.groups, strict=True) if b != a]
    assert [b.name for b, _ in changed] == [a.name for _, a in changed]
    assert {tuple(b.hosts.difference(a.hosts)) for b, a in changed} == {((ip_address("10.0.0.9"),), ())}


def test_the_order_of_hosts_does_not_matter() -> None:
    turned = Inventory(dict(reversed(list(FLEET.hosts.items()))))
    assert host_policy_digest(compiled("web1")) == host_policy_digest(compiled("web1", turned))


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(KeyError):
        compiled("nobody")


def test_a_host_without_the_within_tag_is_left_out() -> None:
    odd = Inventory({**FLEET.hosts, "odd": Host("odd", SHOP.workloads["shop-web"].on)})
    assert "web-to-db" not in entries(compiled("odd", odd), "shop-web", "out")
