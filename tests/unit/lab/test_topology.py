"""The lab's description: what is read, and what is refused."""

import json

import pytest

from lab.accounts import hosts_file
from lab.netns import SHOP
from lab.topology import TopologyError, load_topology, session_cgroup, unit_cgroup

HOST = {"name": "a", "v4": "10.0.0.1", "v6": "fd00::1", "units": [{"name": "x.service", "port": 80}]}


def written(tmp_path, **changes):
    path = tmp_path / "lab.json"
    path.write_text(json.dumps({"controller": "a", "prefix_v4": 24, "prefix_v6": 64, "hosts": [HOST], **changes}))
    return path


@pytest.mark.parametrize(
    ("unit", "cgroup"),
    [
        ("nginx.service", "system.slice/nginx.service"),
        ("postgresql@15-main.service", "system.slice/system-postgresql.slice/postgresql@15-main.service"),
        ("/init.scope", "init.scope"),
        ("user.slice/user-1000.slice/session-1.scope", "user.slice/user-1000.slice/session-1.scope"),
    ],
)
def test_a_unit_lies_where_systemd_puts_it(unit, cgroup):
    assert unit_cgroup(unit) == cgroup


def test_a_session_lies_below_its_user():
    assert session_cgroup(1000) == "user.slice/user-1000.slice/session-1.scope"


def test_the_shop_has_five_managed_hosts_and_unmanaged_clients():
    shop = load_topology(SHOP)
    assert [host.name for host in shop.managed] == ["web1", "api1", "db1", "bastion1", "dev1"]
    assert not shop.host("client1").managed
    assert shop.host("db1").unit("postgresql@15-main.service").port == 5432


def test_every_host_is_in_the_hosts_file_with_both_addresses(tmp_path):
    assert hosts_file(load_topology(written(tmp_path))).splitlines()[2:] == ["10.0.0.1 a", "fd00::1 a"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"controller": "b"}, "the controller b is none of the hosts"),
        ({"hosts": [HOST, {**HOST, "name": "b"}]}, "10.0.0.1 is there twice"),
        ({"hosts": [{**HOST, "v4": "10.0.0.300"}]}, "10.0.0.300"),
        ({"hosts": [{**HOST, "units": [{"name": "x", "kind": "magic"}]}]}, "a/x: unknown kind magic"),
        ({"hosts": [{**HOST, "units": [{"name": "x", "ports": 1}]}]}, "ports"),
        ({"hosts": [{**HOST, "units": [{"name": "x", "kind": "task"}]}]}, "a/x: a task needs a command"),
        ({"internet": "b"}, "internet: b is none of the hosts"),
        ({"hosts": [{"v4": "10.0.0.1"}]}, "name"),
    ],
)
def test_a_wrong_description_is_refused_with_its_place(tmp_path, changes, complaint):
    path = written(tmp_path, **changes)
    with pytest.raises(TopologyError, match=r"lab\.json") as caught:
        load_topology(path)
    assert complaint in str(caught.value)


def test_an_unknown_host_or_unit_is_answered_with_what_there_is(tmp_path):
    topology = load_topology(written(tmp_path))
    with pytest.raises(TopologyError, match="no host b in the lab; there are a"):
        topology.host("b")
    with pytest.raises(TopologyError, match=r"no unit y; it has x\.service"):
        topology.host("a").unit("y")
