"""What is read of a container: a tree of files that looks like a host's."""

from __future__ import annotations

import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from segctl_agent.facts.containers import ContainerRef, Runtime
from segctl_agent.facts.containerstate import ContainerReader, Places, Reading

from tests.unit.segctl_agent.facts.test_containers import FIB, ID, INET6, ROUTE, ROUTE6

CGROUP = f"machine.slice/libpod-{ID}.scope"


class Tree:
    """Files below one folder: /, /proc, /sys/class/net and the cgroups."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.places = Places(base, base / "proc", base / "net")
        self.reader = ContainerReader(base / "cgroup", self.places)

    def write(self, path: str, text: str) -> Path:
        where = self.base / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)
        return where

    def process(self, pid: str, network: str, routes: bool = False) -> None:
        """`network` names a file: the same file is the same network."""
        there = self.write(f"networks/{network}", "")
        link = self.base / "proc" / pid / "ns" / "net"
        link.parent.mkdir(parents=True)
        link.symlink_to(there)
        self.write(f"proc/{pid}/net/fib_trie", FIB)
        self.write(f"proc/{pid}/net/if_inet6", INET6)
        if routes:
            self.write(f"proc/{pid}/net/route", ROUTE)
            self.write(f"proc/{pid}/net/ipv6_route", ROUTE6)

    def read(self, runtime: Runtime = "podman") -> Reading:
        (reading,) = self.reader.read((ContainerRef(ID, runtime, CGROUP),))
        return reading


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.process("self", "host", routes=True)
    made.process("42", "own")
    (tmp_path / "net" / "podman0" / "bridge").mkdir(parents=True)
    made.write(f"cgroup/{CGROUP}/cgroup.procs", "")
    made.write(f"cgroup/{CGROUP}/container/cgroup.procs", "0\n7\n42\n")
    made.write(
        "var/lib/containers/storage/overlay-containers/containers.json", json.dumps([{"id": ID, "names": ["web1"]}])
    )
    return made


def test_name_network_and_addresses(tree: Tree) -> None:
    own = (tree.base / "networks/own").stat().st_ino
    assert tree.read() == Reading("web1", own, (ip_address("10.88.0.6"), ip_address("fd00::6")))
    assert tree.read().complete


def test_an_address_that_this_host_does_not_deliver_is_no_address(tree: Tree) -> None:
    (tree.base / "net" / "podman0" / "bridge").rmdir()
    assert tree.read().addresses == ()
    assert not tree.read().complete


def test_a_container_with_more_addresses_than_it_could_need_has_none(tree: Tree) -> None:
    rows = "".join(f"fd0000000000000000000000000{n:05x} 02 40 00 80 eth0\n" for n in range(100))
    tree.write("proc/42/net/if_inet6", rows)
    assert tree.read().addresses == ()


def test_a_veth_leads_to_a_container_and_a_vlan_does_not(tree: Tree) -> None:
    (tree.base / "net" / "podman0" / "bridge").rmdir()
    tree.write("net/podman0/ifindex", "4\n")
    tree.write("net/podman0/iflink", "2\n")
    tree.write("net/podman0/uevent", "INTERFACE=podman0\nIFINDEX=4\n")
    assert tree.read().complete
    tree.write("net/podman0/uevent", "DEVTYPE=vlan\nINTERFACE=podman0\n")
    assert not tree.read().complete


def test_a_container_in_the_hosts_network(tree: Tree) -> None:
    tree.write(f"cgroup/{CGROUP}/container/cgroup.procs", "43\n")
    tree.process("43", "host")
    assert tree.read() == Reading("web1", 0)


def test_nothing_is_known_of_a_container_without_a_process(tree: Tree) -> None:
    tree.write(f"cgroup/{CGROUP}/container/cgroup.procs", "")
    assert tree.read() == Reading("web1")


@pytest.mark.parametrize(
    ("runtime", "path", "text"),
    [
        ("docker", f"var/lib/docker/containers/{ID}/config.v2.json", {"Name": "/web2"}),
        (
            "containerd",
            f"run/containerd/io.containerd.runtime.v2.task/default/{ID}/config.json",
            {"annotations": {"nerdctl/name": "web2"}},
        ),
        ("", f"var/lib/docker/containers/{ID}/config.v2.json", {"Name": "/web2"}),
        (
            "podman",
            "run/containers/storage/overlay-containers/volatile-containers.json",
            [{"id": ID, "names": ["web2"]}],
        ),
    ],
)
def test_each_runtime_has_its_place(tree: Tree, runtime: Runtime, path: str, text: object) -> None:
    tree.write("var/lib/containers/storage/overlay-containers/containers.json", "[]")
    tree.write(path, json.dumps(text))
    assert tree.read(runtime).name == "web2"


def test_a_name_that_is_written_later_is_found(tree: Tree) -> None:
    names = tree.write("var/lib/containers/storage/overlay-containers/containers.json", "[]")
    assert tree.read().name == ""
    names.write_text(json.dumps([{"id": ID, "names": ["later"]}]))
    assert tree.read().name == "later"


def test_a_file_that_is_none_or_too_large_says_nothing(tree: Tree) -> None:
    names = tree.base / "var/lib/containers/storage/overlay-containers/containers.json"
    names.unlink()
    os.mkfifo(names)
    assert tree.read().name == ""
    names.unlink()
    names.write_text(json.dumps([{"id": ID, "names": ["web1"]}]) + " " * (4 << 20))
    assert tree.read().name == ""


def test_the_bridges_of_container_networks(tree: Tree) -> None:
    (tree.base / "net" / "br0" / "bridge").mkdir(parents=True)
    (tree.base / "net" / "docker0").mkdir()  # named like one, and no bridge
    assert tree.reader.bridges() == ("podman0",)
