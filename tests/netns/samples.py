"""Host policies as values, for golden files and kernel tests: no compiler needed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Essentials, Mode, Network, PortRange, Process, ProcessKind, Protocol
from segctl_agent.facts.values import ContainerFact, Endpoint, HostFacts


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(t) for t in texts)


def ports(low: int, high: int | None = None, protocol: Protocol = "tcp") -> PortRange:
    return PortRange(protocol, low, high if high is not None else low)


def host_workload(mode: Mode = Mode.OBSERVE, **entries: tuple[Entry, ...]) -> LocalWorkload:
    return LocalWorkload("host", None, mode, **entries)


def policy(*workloads: LocalWorkload, **more: object) -> HostPolicy:
    """Adds the workload `host` in observe mode when it is not given."""
    every = workloads if any(w.name == "host" for w in workloads) else (*workloads, host_workload())
    ordered = tuple(sorted(every, key=lambda w: w.name))
    return HostPolicy("db1", 3, "0" * 64, ordered, **more)  # type: ignore[arg-type]


SHOP = policy(
    host_workload(ingress=(Entry("ping", "all", (ports(8, 8, "icmp"), ports(128, 128, "icmpv6")), managed=True),)),
    LocalWorkload(
        "backup",
        Process(ProcessKind.USER, "backup"),
        Mode.TEST,
        egress=(Entry("updates", "any", (ports(443),), managed=False),),
    ),
    LocalWorkload(
        "shop-db",
        Process(ProcessKind.UNIT, "postgresql@*.service"),
        Mode.ENFORCE,
        ingress=(
            Entry("web-db", "web", (ports(5432), ports(8000, 8100)), managed=True),
            Entry("monitoring", "mon", (ports(9100), ports(0, 65535, "udp")), managed=False),
        ),
        egress=(Entry("replicate", "all", (ports(5432), ports(5432, 5432, "udp")), managed=True),),
    ),
    groups=(
        Group("all", networks("10.0.0.1/32", "10.0.0.2/32", "fd00::1/128")),
        Group("any", networks("0.0.0.0/0", "::/0")),
        Group("mon", networks("192.0.2.0/24", "192.0.3.0/25", "198.51.100.7/32")),
        Group("web", networks("10.0.0.1/32", "fd00::1/128")),
    ),
    managed=AddressSet.of([ip_address("10.0.0.1"), ip_address("fd00::1")]),
    essentials=Essentials(
        dns=networks("10.0.0.53/32"),
        ntp=networks("10.0.0.0/24"),
        rescue=networks("10.9.9.0/24", "fd00:99::/64"),
    ),
)
SHOP_FACTS = HostFacts(
    cgroups={
        "init.scope": 15,
        "system.slice": 11,
        "system.slice/postgresql@a.service": 12,
        "system.slice/x.slice": 16,
        "system.slice/x.slice/postgresql@b.service": 17,
        "user.slice": 13,
        "user.slice/user-34.slice": 14,
        "user.slice/user-34.slice/session-1.scope": 18,
    },
    users={"backup": 34},
    addresses=frozenset({ip_address("10.0.0.9"), ip_address("127.0.0.1"), ip_address("::1")}),
    controller=(Endpoint(ip_address("10.0.0.5"), 7443), Endpoint(ip_address("10.0.0.9"), 7443)),
    agent_uid=977,
    containers=(
        ContainerFact("ab" * 32, "api1", f"machine.slice/libpod-{'ab' * 32}.scope", 71, (ip_address("10.88.0.2"),)),
        ContainerFact("cd" * 32, "other", f"machine.slice/libpod-{'cd' * 32}.scope", 72, (ip_address("10.88.0.3"),)),
        ContainerFact("ef" * 32, "twice", f"machine.slice/libpod-{'ef' * 32}.scope", 73, (ip_address("10.88.0.3"),)),
    ),
    bridges=("podman0",),
)
CONTAINED = policy(
    host_workload(Mode.ENFORCE),
    LocalWorkload(
        "api",
        Process(ProcessKind.CONTAINER, "api*"),
        Mode.ENFORCE,
        ingress=(Entry("clients", "all", (ports(8080), ports(8, 8, "icmp")), managed=True),),
        egress=(
            Entry("database", "own", (ports(5432), ports(8000, 8010, "udp")), managed=True),
            Entry("anyone", "any", (ports(443), ports(0, 65535)), managed=False),
        ),
    ),
    groups=(
        Group("all", networks("10.0.0.1/32", "fd00::1/128")),
        Group("any", networks("0.0.0.0/0", "::/0")),
        Group("own", networks("10.0.0.9/32")),
    ),
    managed=SHOP.managed,
    essentials=Essentials(dns=networks("10.0.0.53/32"), ntp=networks("10.0.0.0/24")),
)
EMPTY = policy()
OBSERVING = policy(
    LocalWorkload(
        "web",
        Process(ProcessKind.CGROUP, "machines/*/app"),
        Mode.OBSERVE,
        ingress=(Entry("clients", "any", (ports(443), ports(443, 443, "udp"), ports(0, 255, "icmp")), managed=False),),
    ),
    groups=(Group("any", networks("0.0.0.0/0", "::/0")),),
)
LOCKED = policy(
    host_workload(Mode.ENFORCE),
    LocalWorkload("locked", Process(ProcessKind.CGROUP, "seg.slice/seg-locked.slice"), Mode.ENFORCE),
)
SAMPLES = {"shop": SHOP, "empty": EMPTY, "observing": OBSERVING, "locked": LOCKED, "contained": CONTAINED}
