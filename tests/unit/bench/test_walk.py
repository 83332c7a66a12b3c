"""Every policy of the walk treats the probed tuples alike."""

from __future__ import annotations

from itertools import islice

import pytest
from segctl.model.hostpolicy import Entry, HostPolicy

from bench.policies import CLIENT
from bench.walk import PROBED_CLIENTS, policies
from bench.wire import client_address


def _allows(policy: HostPolicy, entries: tuple[Entry, ...], address, port: int) -> bool:
    groups = {g.name: g for g in policy.groups}
    return any(
        any(r.protocol == "tcp" and r.low <= port <= r.high for r in entry.ports)
        and (address in groups[entry.group].hosts or any(address in n for n in groups[entry.group].networks))
        for entry in entries
    )


@pytest.mark.parametrize("seed", [1, 20261122])
def test_the_probed_tuples_are_the_same_in_every_policy(seed):
    clients = [client_address(i) for i in range(PROBED_CLIENTS)]
    for policy in islice(policies(seed), 300):
        workloads = {w.name: w for w in policy.workloads}
        api, other = workloads["shop-api"], workloads.get("other", workloads["host"])
        for client in clients[:: PROBED_CLIENTS - 1]:
            assert _allows(policy, api.ingress, client, 8080)
            assert _allows(policy, api.ingress, client, 8082)
            assert not _allows(policy, api.ingress, client, 8081)
            assert not _allows(policy, other.ingress, client, 8082)
        assert _allows(policy, api.egress, CLIENT, 9090)
        assert not _allows(policy, api.egress, CLIENT, 9091)


def test_the_walk_changes_what_it_may_and_repeats_by_its_seed():
    seen = list(islice(policies(7), 200))
    assert seen == list(islice(policies(7), 200))
    assert len({tuple(w.name for w in p.workloads) for p in seen}) > 20
    assert len({next(i for i, w in enumerate(p.workloads) if w.name == "shop-api") for p in seen}) > 1
    assert len({tuple(g.name for g in p.groups) for p in seen}) > 5


def test_workloads_and_groups_come_sorted_as_a_host_policy_wants_them():
    for policy in islice(policies(3), 100):
        for names in ([w.name for w in policy.workloads], [g.name for g in policy.groups]):
            assert names == sorted(set(names))
