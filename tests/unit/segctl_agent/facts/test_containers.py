"""What names a container and its addresses, from paths and texts that may be anyone's."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.facts.containers import (
    ContainerRef,
    container_of,
    docker_name,
    ipv4_addresses,
    ipv6_addresses,
    is_container_bridge,
    may_hold_containers,
    oci_name,
    onlink_networks,
    routed_here,
    storage_names,
)

ID = "0123456789abcdef" * 4
POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"


@pytest.mark.parametrize(
    ("path", "runtime", "cgroup"),
    [
        (f"system.slice/docker-{ID}.scope", "docker", f"system.slice/docker-{ID}.scope"),
        (f"system.slice/docker-{ID}.scope/init.scope", "docker", f"system.slice/docker-{ID}.scope"),
        (f"docker/{ID}", "docker", f"docker/{ID}"),
        (f"docker/{ID}/docker/{'f' * 64}", "docker", f"docker/{ID}"),  # docker in docker: the outer one
        (f"machine.slice/libpod-{ID}.scope/container", "podman", f"machine.slice/libpod-{ID}.scope"),
        (f"machine.slice/libpod-{ID}", "podman", f"machine.slice/libpod-{ID}"),
        (f"libpod_parent/libpod-{ID}", "podman", f"libpod_parent/libpod-{ID}"),
        (f"{POD}/cri-containerd-{ID}.scope", "containerd", f"{POD}/cri-containerd-{ID}.scope"),
        (f"{POD}/crio-{ID}.scope", "cri-o", f"{POD}/crio-{ID}.scope"),
        (f"kubepods/burstable/pod1/{ID}", "", f"kubepods/burstable/pod1/{ID}"),
        (f"kubepods/pod1/{ID}/x", "", f"kubepods/pod1/{ID}"),
        (f"nerdctl-{ID}.scope", "containerd", f"nerdctl-{ID}.scope"),
    ],
)
def test_the_cgroups_of_containers(path: str, runtime: str, cgroup: str) -> None:
    assert container_of(path) == ContainerRef(ID, runtime, cgroup)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "system.slice/nginx.service",
        f"machine.slice/libpod-conmon-{ID}.scope",  # the monitor is a program of the host
        f"system.slice/evil.service/docker-{ID}.scope",  # a unit's own subtree: its owner chose the name
        f"system.slice/evil.service/libpod-payload-{ID}",
        f"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",  # rootless
        f"user.slice/docker-{ID}.scope",
        f"system.slice/docker-{ID[:12]}.scope",
        f"system.slice/docker-{ID.upper()}.scope",
        f"anything/{ID}",
        f"kubepods/a/b/c/{ID}",
        "docker",
        "",
    ],
)
def test_what_is_no_container(path: str) -> None:
    assert container_of(path) is None


@pytest.mark.parametrize(
    "path", ["system.slice", "machine.slice", POD, "docker", "libpod_parent", "kubepods/burstable"]
)
def test_where_containers_appear(path: str) -> None:
    assert may_hold_containers(path)


@pytest.mark.parametrize("path", ["user.slice", "system.slice/x.service", f"docker/{ID}", "app", "user.slice/u.slice"])
def test_where_none_appear(path: str) -> None:
    assert not may_hold_containers(path)


def test_the_name_that_docker_writes() -> None:
    assert docker_name(json.dumps({"ID": ID, "Name": "/web1", "State": {}}).encode()) == "web1"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"Name": 7}', b'{"Name": "/a\\u001b[2J"}', b'{"Name": "/../x"}', b"\xff"]
)
def test_a_docker_file_without_a_usable_name(text: bytes) -> None:
    assert docker_name(text) == ""


def test_the_names_that_podman_keeps() -> None:
    entries = [
        {"id": "a", "names": ["web1"]},
        {"id": "b", "names": []},
        {"id": "c", "names": "web"},
        {"id": 4, "names": ["x"]},
        {"id": "d"},
        "e",
        {"id": "f", "names": ["k8s_web_shop-1_prod_0f2b_3"]},
    ]
    assert storage_names(json.dumps(entries).encode()) == {"a": "web1", "f": "k8s_web_shop-1_prod"}


def test_the_names_of_a_pods_containers_say_pod_and_namespace() -> None:
    notes = {
        "io.kubernetes.cri.container-name": "web",
        "io.kubernetes.cri.sandbox-name": "shop-1",
        "io.kubernetes.cri.sandbox-namespace": "prod",
    }
    assert oci_name(json.dumps({"annotations": notes}).encode()) == "k8s_web_shop-1_prod"
    sandbox = {**notes, "io.kubernetes.cri.container-type": "sandbox"}
    assert oci_name(json.dumps({"annotations": sandbox}).encode()) == "k8s_POD_shop-1_prod"
    assert oci_name(json.dumps({"annotations": {"nerdctl/name": "web1"}}).encode()) == "web1"
    assert oci_name(b'{"annotations": {"io.kubernetes.cri.sandbox-name": "x"}}') == ""
    assert oci_name(b'{"annotations": 3}') == ""


def test_deep_json_is_no_name() -> None:
    assert docker_name(b"[" * 100_000) == ""


FIB = """Main:
  +-- 0.0.0.0/1 2 0 2
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 10.88.0.0
        /16 link UNICAST
     |-- 10.88.0.6
        /32 host LOCAL
     |-- 10.88.255.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
"""
INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fe800000000000000c4392fffed00566 02 40 20 c0     eth0
fd000000000000000000000000000006 02 40 00 80     eth0
"""


def test_a_networks_own_addresses() -> None:
    assert ipv4_addresses(FIB) == {ip_address("10.88.0.6")}
    assert ipv6_addresses(INET6) == {ip_address("fd00::6")}


ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
podman0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
veth9\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
veth9\t0501A8C0\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
podman0\t0000590A\t01000A0A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
ROUTE6 = (
    "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "00000100 00000001 00000000 00000001  podman0\n"
    "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "00000100 00000001 00000000 00000001  podman0\n"
)


def test_an_address_counts_where_this_host_delivers_it() -> None:
    networks = onlink_networks(ROUTE, ROUTE6, ("podman0", "veth9"))
    assert networks == (ip_network("10.88.0.0/16"), ip_network("192.168.1.5/32"), ip_network("fd00::/64"))
    claimed = [ip_address(a) for a in ("fd00::6", "10.88.0.6", "10.0.0.7", "192.168.1.5", "192.168.1.6", "2001:db8::1")]
    assert [str(a) for a in routed_here(claimed, networks)] == ["10.88.0.6", "192.168.1.5", "fd00::6"]


@pytest.mark.parametrize("name", ["docker0", "br-0123456789ab", "podman1", "cni-podman0", "cni0", "docker_gwbridge"])
def test_bridges_of_container_networks(name: str) -> None:
    assert is_container_bridge(name)


@pytest.mark.parametrize("name", ["br0", "br-lan", "virbr0", "podman", "eth0", "docker00"])
def test_bridges_that_may_be_a_routers(name: str) -> None:
    assert not is_container_bridge(name)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_no_file_makes_a_reader_fail(text: bytes) -> None:
    for name in (docker_name(text), oci_name(text), *storage_names(text).values()):
        assert name == "" or name.isprintable()
