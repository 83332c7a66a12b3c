"""The shop as values: a small policy and fleet that many tests share."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from segctl.model.inventory import Host, Inventory
from segctl.model.policy import (
    Boundary,
    Mode,
    ModeRule,
    Peer,
    Policy,
    PortRange,
    Process,
    ProcessKind,
    Rule,
    Selector,
    Service,
    Tags,
    Workload,
)

TODAY = datetime(2026, 11, 22, tzinfo=UTC)
POSTGRES, HTTP, SSH = PortRange("tcp", 5432, 5432), PortRange("tcp", 80, 80), PortRange("tcp", 22, 22)


def sel(workload: str | None = None, peer: str | None = None, **tags: str) -> Selector:
    return Selector(Tags.of(tags), workload, peer)


def rule(name: str, source: Selector, destination: Selector, *ports: PortRange, **more: object) -> Rule:
    made = Rule(name, source, destination, tuple(map(str, ports)), ports, owner="o", why="w")
    return replace(made, **more)  # type: ignore[arg-type]


def host(name: str, *addresses: str, **tags: str) -> Host:
    return Host(name, Tags.of(tags), tuple(ip_address(a) for a in addresses))


def fleet(*hosts: Host) -> Inventory:
    return Inventory({h.name: h for h in hosts})


SHOP = Policy(
    tags={"role": ("web", "db", "bastion"), "app": ("shop",), "env": ("dev", "prod")},
    services={"postgres": Service("postgres", (POSTGRES,)), "ssh": Service("ssh", (SSH,))},
    peers={
        "office": Peer("office", (ip_network("203.0.113.0/24"), ip_network("2001:db8:40::/48"))),
        "guests": Peer("guests", (ip_network("203.0.113.128/25"),)),
    },
    workloads={
        "shop-web": Workload(
            "shop-web", Tags.of({"app": "shop", "role": "web"}), Process(ProcessKind.UNIT, "nginx.service")
        ),
        "shop-db": Workload(
            "shop-db", Tags.of({"app": "shop", "role": "db"}), Process(ProcessKind.UNIT, "postgresql@*.service")
        ),
    },
    modes=(ModeRule(sel(env="prod"), Mode.ENFORCE), ModeRule(sel(env="dev"), Mode.TEST)),
    boundaries=(
        Boundary("dev-stays-out-of-prod", sel(env="dev"), sel(env="prod")),
        Boundary("no-guests", sel(peer="guests"), sel()),
    ),
    rules=(
        rule("web-to-db", sel("shop-web"), sel("shop-db"), POSTGRES, within=("app", "env")),
        rule("office-http", sel(peer="office"), sel("shop-web"), HTTP),
        rule("bastion-ssh", sel(role="bastion"), sel(), SSH),
        rule("old", sel(role="bastion"), sel(), HTTP, until=datetime(2026, 1, 2, tzinfo=UTC)),
    ),
)

FLEET = fleet(
    host("web1", "10.0.0.1", "fd00::1", app="shop", role="web", env="prod"),
    host("db1", "10.0.0.2", "fd00::2", app="shop", role="db", env="prod"),
    host("webd", "10.0.1.1", app="shop", role="web", env="dev"),
    host("dbd", "10.0.1.2", app="shop", role="db", env="dev"),
    host("bastion", "203.0.113.7", role="bastion", env="prod"),
)
