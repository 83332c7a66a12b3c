"""The host policies that the bench puts in force: everything a real one has, in the size that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_network

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, PortRange, Process, ProcessKind
from segctl_agent.facts.values import Endpoint, HostFacts

from bench.sandbox import CGROUP_MOUNT
from bench.wire import CLIENT, SERVER, client_address

SERVER_UNIT = "shop-api.service"
CLIENT_UNIT = "shop-web.service"
OTHER_UNIT = "other.service"
PORT = PortRange("tcp", 8080, 8080)

_OFFICE = tuple(IPv4Network((0xC6336400 + 8 * i, 29)) for i in range(32))
"""198.51.100.0/24 in 32 networks: a peer, so networks and not single addresses."""
_MANAGED = AddressSet.of(IPv4Address(f"198.51.100.{8 * i + 3}") for i in range(32))


def unit_path(unit: str) -> str:
    """The cgroup of a service below the cgroup root."""
    return f"system.slice/{unit}"


def clients(count: int) -> AddressSet:
    return AddressSet.of(client_address(i) for i in range(count))


def _unit(name: str) -> Process:
    return Process(ProcessKind.UNIT, name)


def _common() -> tuple[LocalWorkload, ...]:
    """Workloads that are there beside the measured one, by unit, template and user."""
    ssh = (PortRange("tcp", 22, 22),)
    return (
        LocalWorkload("backup", Process(ProcessKind.USER, "backup"), Mode.ENFORCE, (), (_peer("backup-out", 443),)),
        LocalWorkload("host", None, Mode.ENFORCE, (Entry("admin-ssh", "bastions", ssh, True),), ()),
        LocalWorkload("shop-db", _unit("postgresql@*.service"), Mode.ENFORCE, (_peer("office-db", 5432),), ()),
    )


def _peer(rule: str, port: int) -> Entry:
    return Entry(rule, "office", (PortRange("tcp", port, port),), False)


def _policy(workload: LocalWorkload, groups: tuple[Group, ...]) -> HostPolicy:
    bastions = Group("bastions", hosts=AddressSet.of(IPv4Address("172.16.0.10") + i for i in range(8)))
    return HostPolicy(
        host="bench",
        generation=1,
        policy_digest="0" * 64,
        workloads=tuple(sorted((*_common(), workload), key=lambda w: w.name)),
        groups=tuple(sorted((bastions, Group("office", _OFFICE), *groups), key=lambda g: g.name)),
        managed=_MANAGED,
        essentials=Essentials(
            dns=(ip_network("172.16.0.53/32"),),
            ntp=(ip_network("172.16.0.123/32"),),
            rescue=(ip_network("172.16.255.0/24"),),
        ),
    )


def server_policy(entries: int) -> HostPolicy:
    """The server's: SERVER_UNIT accepts PORT from the first `entries` clients, and 8443 from the peer."""
    api = LocalWorkload(
        "shop-api",
        _unit(SERVER_UNIT),
        Mode.ENFORCE,
        ingress=(Entry("web-to-api", "web", (PORT,), True), _peer("office-to-api", 8443)),
        egress=(Entry("api-to-db", "db", (PortRange("tcp", 5432, 5432),), True),),
    )
    db = Group("db", hosts=AddressSet.of(IPv4Address("172.16.1.0") + i for i in range(16)))
    return _policy(api, (db, Group("web", hosts=clients(entries))))


def client_policy(entries: int) -> HostPolicy:
    """The client's: CLIENT_UNIT may connect to PORT of the server and of `entries` - 1 other hosts."""
    web = LocalWorkload(
        "shop-web",
        _unit(CLIENT_UNIT),
        Mode.ENFORCE,
        egress=(Entry("web-to-api", "api", (PORT,), True), _peer("web-to-office", 443)),
    )
    return _policy(web, (Group("api", hosts=AddressSet.of([SERVER, *(client_address(i) for i in range(1, entries))])),))


def sandbox_facts(address: IPv4Address) -> HostFacts:
    """What is true in the sandbox for a host with `address`: its cgroups are those below the sandbox's root."""
    found = {}
    for directory, _, _ in os.walk(CGROUP_MOUNT):
        if directory != str(CGROUP_MOUNT):
            found[os.path.relpath(directory, CGROUP_MOUNT)] = os.stat(directory).st_ino  # noqa: PTH116
    return HostFacts(
        cgroups=found,
        users={"backup": 34},
        addresses=frozenset({address, IPv4Address("127.0.0.1")}),
        controller=(Endpoint(IPv4Address("172.16.0.1"), 7443),),
        agent_uid=990,
    )


def make_units(units: Iterable[str]) -> None:
    """Makes the cgroups of services in the sandbox."""
    for unit in units:
        (CGROUP_MOUNT / unit_path(unit)).mkdir(parents=True, exist_ok=True)


__all__ = [
    "CLIENT",
    "CLIENT_UNIT",
    "OTHER_UNIT",
    "PORT",
    "SERVER",
    "SERVER_UNIT",
    "client_policy",
    "clients",
    "make_units",
    "sandbox_facts",
    "server_policy",
    "unit_path",
]
