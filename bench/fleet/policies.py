"""A fleet of the size that is asked for and a policy for it: the same, to the byte, whenever it is asked for.

    fleet_hosts   who there is: five tags each (app, env, role, site, system) and an address of its own
    fleet_policy  who may talk to whom, as the files that somebody would keep in git

Applications are not all of one size, nor are environments: a few applications hold most hosts, and production has more
than the lab. The first applications are the platform's (login, logs, metrics, ...), which all others use. The others
have tiers, which talk inside their application and environment, call a few other applications, and serve a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import chain, islice, zip_longest
from random import Random

from segctl.model.inventory import Address
from segctl.model.policy import Tags
from segctl.policy.source import SourceFile

APPS, ENVS, RULES, HOSTS = 200, 5, 5_000, 10_000
PLATFORM = ("login", "logs", "metrics", "mail", "vault", "registry", "backup", "bastion")
CALLS = 6
"""Other applications that one calls."""
_ENVS = {"prod": 40, "stage": 20, "qa": 15, "dev": 15, "lab": 10}
"""With their share of the hosts, as in `_ROLES`."""
_ROLES = {"lb": 5, "web": 25, "api": 30, "worker": 15, "cache": 5, "queue": 5, "db": 15}
_SITES = ("fra", "iad", "sin", "waw")
_SYSTEMS = ("deb12", "deb13", "rhel9")
_UNITS = {"web": "nginx.service", "api": "{app}-api.service", "db": "postgresql@*.service"}
"""Roles whose process is a workload of its own."""
_TIERS = (
    ("web", "api", 8080),
    ("api", "db", 5432),
    ("lb", "web", 8443),
    ("worker", "queue", 5672),
    ("worker", "db", 5432),
    ("api", "queue", 5672),
    ("api", "cache", 6379),
    ("web", "cache", 6379),
    ("worker", "api", 8080),
    ("db", "db", 5433),
    ("queue", "queue", 25672),
    ("cache", "cache", 16379),
)
_PLATFORM_PORTS = {"mail": 587, "vault": 8200, "registry": 5000, "login": 636}
_FIRST_ADDRESS = IPv4Address("10.64.0.1")
_RULES_A_FILE = 1_000


@dataclass(frozen=True, slots=True)
class FleetHost:
    """One host, as an inventory holds it."""

    name: str
    tags: Tags
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class _Statement:
    """A rule without its name, in the words of a policy file."""

    source: str
    destination: str
    allow: str
    within: str = ""

    def line(self, name: str) -> str:
        same = f"within: [{self.within}], " if self.within else ""
        return (
            f"  - {{name: {name}, from: {{{self.source}}}, to: {{{self.destination}}}, {same}allow: [{self.allow}], "
            "owner: fleet, why: simulated}"
        )


def fleet_hosts(count: int = HOSTS, apps: int = APPS, envs: int = ENVS, addresses: int = 1) -> list[FleetHost]:
    """Hosts h00000, h00001, ... with `addresses` IPv4 addresses each, ascending. A fleet of N is the beginning of every
    larger one."""
    random = Random(1)
    names, shares = app_names(apps), [1 / (1 + i % 20) for i in range(apps)]
    environments = dict(islice(_ENVS.items(), envs))

    def one(number: int) -> FleetHost:
        tags = {
            "app": random.choices(names, shares)[0],
            "env": _weighted(random, environments),
            "role": _weighted(random, _ROLES),
            "site": random.choice(_SITES),
            "system": random.choice(_SYSTEMS),
        }
        first = _FIRST_ADDRESS + number * addresses
        return FleetHost(f"h{number:05d}", Tags.of(tags), tuple(first + i for i in range(addresses)))

    return [one(number) for number in range(count)]


def fleet_policy(apps: int = APPS, envs: int = ENVS, rules: int = RULES, turn: int = 0) -> list[SourceFile]:
    """`rules` rules about `apps` applications in `envs` environments. Policies that differ in `turn` alone differ in
    one port of a rule that every host has, so that a push of the other one is another policy for each of them.

    Raises ValueError when that many applications have not that many rules to say.
    """
    names, environments = app_names(apps), list(islice(_ENVS, envs))
    statements = list(islice(chain(_wide(turn), _each_in_turn(names, environments)), rules))
    if len(statements) < rules:
        raise ValueError(f"{apps} apps in {envs} environments make {len(statements)} rules, not {rules}: ask for fewer")
    lines = [statement.line(f"r{number:05d}") for number, statement in enumerate(statements)]
    return [
        _file("vocabulary", *_vocabulary(names, environments)),
        _file("guards", *_modes(environments), *_boundaries(environments)),
        *(
            _file(f"rules-{start // _RULES_A_FILE}", "rules:", *lines[start : start + _RULES_A_FILE])
            for start in range(0, rules, _RULES_A_FILE)
        ),
    ]


def bulk_policy(size: int, turn: int = 0) -> list[SourceFile]:
    """A policy whose host policies have about `size` bytes of rules on every host of `fleet_hosts`. Those of two turns
    have no rule in common: whatever is sent of the difference is all of it."""
    names, environments = app_names(), list(_ENVS)
    lines = [
        _Statement("", "", f"tcp/{10_000 + number}").line(f"every-host-to-every-host-{turn % 10}-{number:05d}")
        for number in range(max(1, size // _BYTES_A_RULE))
    ]
    return [
        _file("vocabulary", *_vocabulary(names, environments)),
        _file("modes", *_modes(environments)),
        _file("rules", "rules:", *lines),
    ]


def app_names(apps: int = APPS) -> list[str]:
    """The platform's, and as many others as make `apps`."""
    return [*PLATFORM[:apps], *(f"app{number:03d}" for number in range(len(PLATFORM), apps))]


_BYTES_A_RULE = 220
"""On the wire, in both directions and for the workloads that a host has on average."""


def _wide(turn: int) -> Iterator[_Statement]:
    """What the platform has to do with every host of its environment."""
    yield _Statement("app: metrics", "", f"tcp/{9100 + turn % 50}", "env")
    yield _Statement("app: bastion", "", "tcp/22", "env")
    yield _Statement("", "app: logs", "tcp/6514", "env")
    yield _Statement("", "app: login", "tcp/88, udp/88", "env")
    yield _Statement("app: backup", "role: db", "tcp/9103", "env")
    yield _Statement("peer: office", "app: bastion", "tcp/22")


def _each_in_turn(names: Sequence[str], environments: Sequence[str]) -> Iterator[_Statement]:
    """The first statement of every application, then the second of each: any number of rules is about all of them."""
    for turn in zip_longest(*(_about(app, names, environments) for app in names)):
        yield from (statement for statement in turn if statement is not None)


def _about(app: str, names: Sequence[str], environments: Sequence[str]) -> Iterator[_Statement]:
    random = Random(app)
    for source, destination, port in _TIERS:
        yield _Statement(_tier(app, source), _tier(app, destination), f"tcp/{port}", "env")
    others = [name for name in names if name != app]
    for other in random.sample(others, min(CALLS, len(others))):
        yield _Statement(_tier(app, "api"), _tier(other, "api"), "tcp/8080", "env")
    yield _Statement("peer: customers", _tier(app, "lb"), "tcp/443")
    for platform, port in _PLATFORM_PORTS.items():
        if platform in others:
            yield _Statement(f"app: {app}", f"app: {platform}", f"tcp/{port}", "env")
    for env in environments:
        far = random.choice(others or [app])
        yield _Statement(f"app: {app}, role: worker, env: {env}", f"app: {far}, role: db, env: {env}", "tcp/9187")
    for source, destination in zip(_SITES, (*_SITES[1:], _SITES[0]), strict=True):
        yield _Statement(f"app: {app}, site: {source}", f"app: {app}, site: {destination}", "tcp/7946", "env")


def _tier(app: str, role: str) -> str:
    """As an author names it: its workload where it has one."""
    return f"workload: {app}-{role}" if role in _UNITS else f"app: {app}, role: {role}"


def _weighted(random: Random, shares: dict[str, int]) -> str:
    return random.choices(list(shares), list(shares.values()))[0]


def _file(name: str, *lines: str) -> SourceFile:
    return SourceFile(f"{name}.yaml", "\n".join(("version: 1", *lines, "")).encode())


def _vocabulary(names: Sequence[str], environments: Sequence[str]) -> Iterator[str]:
    yield "tags:"
    values = {"app": names, "env": environments, "role": _ROLES, "site": _SITES, "system": _SYSTEMS}
    yield from (f"  {key}: [{', '.join(words)}]" for key, words in values.items())
    yield "peers:"
    yield "  office: [203.0.113.0/24]"
    yield "  customers: [192.0.2.0/24, 198.51.100.0/24]"
    yield "workloads:"
    for app in names:
        for role, unit in _UNITS.items():
            process = f'{{unit: "{unit.format(app=app)}"}}'
            yield f"  {app}-{role}: {{on: {{app: {app}, role: {role}}}, process: {process}}}"
    yield "essentials: {dns: [192.168.0.53], ntp: [192.168.0.123], rescue: {from: [192.168.1.0/28]}}"


def _modes(environments: Sequence[str]) -> Iterator[str]:
    yield "modes:"
    yield from (
        f"  - {{select: {{env: {env}}}, mode: {'test' if env == 'lab' else 'enforce'}}}" for env in environments
    )


def _boundaries(environments: Sequence[str]) -> Iterator[str]:
    """Nobody reaches production from elsewhere."""
    if len(environments) > 1:
        yield "boundaries:"
    yield from (f"  - {{name: {e}-stays-out-of-prod, from: {{env: {e}}}, to: {{env: prod}}}}" for e in environments[1:])
