"""Fleets with a known true policy. Nothing here knows how rules are suggested: neither its code nor its ideas of
programs, groups or evidence are used.

A world has infrastructure that serves everybody, applications of four kinds in some environments each, what they need
of one another, and people. What may talk to whom is a list of `Relation`: the true policy, as a competent author who
knows all of it would write it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Tags = tuple[tuple[str, str], ...]
Activity = Literal["busy", "daily", "sparse", "weekly", "monthly", "people"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A server from day `born` until before day `gone`. `units` run on it."""

    name: str
    tags: Tags
    units: tuple[str, ...]
    born: int = 0
    gone: int = 10**6

    def tag(self, key: str) -> str:
        return dict(self.tags).get(key, "")


@dataclass(frozen=True, slots=True)
class Program:
    """A unit of a machine, or a program in a login of `user`; an address where `tags` is None."""

    tags: Tags | None
    unit: str = ""
    user: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """Which machines, and which of their units: `unit` says it of a machine. Addresses where `networks` are given."""

    role: str = ""
    unit: Callable[[Machine], str] | None = None
    app: str = ""
    env: str = ""
    networks: tuple[str, ...] = ()

    def holds(self, tags: dict[str, str]) -> bool:
        wanted = (("role", self.role), ("app", self.app), ("env", self.env))
        return all(not value or tags.get(key) == value for key, value in wanted)


@dataclass(frozen=True, slots=True)
class Relation:
    """One rule of the true policy."""

    name: str
    source: End
    destination: End
    ports: tuple[tuple[str, int], ...]
    within: tuple[str, ...] = ()
    activity: Activity = "busy"


@dataclass(slots=True)
class World:
    """`quiet` are (application, environment) pairs where little happens."""

    machines: list[Machine]
    relations: list[Relation]
    envs: tuple[str, ...]
    apps: tuple[str, ...]
    quiet: set[tuple[str, str]] = field(default_factory=set)
    users: tuple[str, ...] = ()

    def alive(self, day: int) -> Iterator[Machine]:
        return (m for m in self.machines if m.born <= day < m.gone)


OFFICE = "198.51.100."
PROVIDERS = tuple(f"203.0.113.{n}" for n in (10, 11, 40, 41, 90))
ENVS = ("prod", "stage", "test", "dev", "dr")


def build(seed: int, apps: int, envs: int, scale: int = 1, days: int = 42) -> World:
    """A world of so many applications and environments; `scale` multiplies the servers of each role in prod."""
    return _Builder(seed, apps, envs, scale, days).build()


class _Builder:
    def __init__(self, seed: int, apps: int, envs: int, scale: int, days: int) -> None:
        self._draw = random.Random(seed)
        self._envs = ENVS[:envs]
        self._names = [f"app{n:03}" for n in range(apps)]
        self._scale, self._days = scale, days
        self._machines: list[Machine] = []
        self._relations: list[Relation] = []
        self._kinds: dict[str, str] = {}
        self._own_units = self._draw.random() < 0.7
        self._places = self._draw.choice(((), ("fra", "ams"), ("fra", "ams", "sin")))
        self._serial = 0

    def build(self) -> World:
        draw = self._draw
        self._infrastructure()
        for name in self._names:
            self._kinds[name] = draw.choices(("web", "batch", "legacy", "report"), (6, 2, 1, 1))[0]
            self._application(name)
        self._common()
        self._between()
        self._outside()
        self._churn()
        quiet = {(a, e) for a in self._names for e in self._envs if e != "prod" and draw.random() < 0.25}
        users = tuple(f"user{n}" for n in range(draw.randint(3, 8)))
        return World(self._machines, self._relations, self._envs, tuple(self._names), quiet, users)

    def _machine(self, app: str, role: str, env: str, units: Iterable[str], born: int = 0) -> None:
        self._serial += 1
        tags = {"app": app, "role": role, "env": env} if app else {"role": role, "env": env}
        if self._places:
            tags["loc"] = self._draw.choice(self._places)
        everywhere = (
            "ssh.service",
            "prometheus-node-exporter.service",
            "rsyslog.service",
            "apt-daily.service",
            "sssd.service",
        )
        found = tuple(sorted(tags.items()))
        self._machines.append(Machine(f"m{self._serial}", found, (*units, *everywhere), born))

    def _infrastructure(self) -> None:
        for env in self._envs:
            self._machine("", "monitoring", env, ("prometheus.service",))
            for _ in range(2):
                self._machine("", "logs", env, ("loki.service",))
                self._machine("", "directory", env, ("slapd.service",))
            if env == "prod":
                self._machine("", "backup", env, ("bacula-director.service",))
                self._machine("", "mirror", env, ("nginx.service",))
                for _ in range(2):
                    self._machine("", "bastion", env, ())
                for _ in range(3):
                    self._machine("", "queue", env, ("rabbitmq-server.service",))
                for _ in range(2):
                    self._machine("", "warehouse", env, ("clickhouse-server.service",))

    def _unit(self, role: str) -> Callable[[Machine], str]:
        """What serves or works in a role: a unit named after the application, or one name everywhere."""
        if self._own_units:
            return lambda machine: f"{machine.tag('app')}-{role}.service"
        return lambda _: {"api": "gunicorn.service", "worker": "celery.service", "report": "report.service"}[role]

    def _application(self, app: str, born: int = 0) -> None:
        kind = self._kinds[app]
        present = [e for e in self._envs if e == "prod" or self._draw.random() < 0.8]
        cached = self._draw.random() < 0.6
        for env in present:

            def many(low: int, high: int, env: str = env) -> int:
                return self._draw.randint(low, high) * self._scale if env == "prod" else self._draw.randint(1, 2)

            roles: list[tuple[str, int, tuple[str, ...]]] = []
            if kind == "web":
                roles = [("web", many(2, 4), ("nginx.service",)), ("api", many(2, 4), ("api",))]
                roles += [("db", many(2, 2), ("postgresql@15-main.service", "bacula-fd.service"))]
                roles += [("cache", many(1, 2), ("redis-server.service",))] if cached else []
            elif kind == "batch":
                roles = [("worker", many(2, 5), ("worker",))]
                roles += [("db", many(1, 2), ("postgresql@15-main.service", "bacula-fd.service"))]
            elif kind == "legacy":
                roles = [("legacy", many(1, 2), ("tomcat9.service",))]
                roles += [("mysql", many(1, 1), ("mariadb.service", "bacula-fd.service"))]
            else:
                roles = [("report", many(1, 1), ("report",))]
                roles += [("db", many(1, 2), ("postgresql@15-main.service", "bacula-fd.service"))]
            for role, count, units in roles:
                for _ in range(count):
                    own = Machine("", (("app", app),), ())
                    named = [self._unit(u)(own) if u in ("api", "worker", "report") else u for u in units]
                    self._machine(app, role, env, named, born)

    def _add(
        self,
        name: str,
        source: End,
        destination: End,
        port: int,
        within: tuple[str, ...] = (),
        activity: Activity = "busy",
    ) -> None:
        self._relations.append(Relation(name, source, destination, (("tcp", port),), within, activity))

    def _common(self) -> None:
        """What holds for every application of a kind, and for every server."""
        both = ("app", "env")
        kinds = set(self._kinds.values())
        nginx, pg, redis = _fixed("nginx.service"), _fixed("postgresql@15-main.service"), _fixed("redis-server.service")
        if "web" in kinds:
            self._add("web-api", End("web", nginx), End("api", self._unit("api")), 8080, both)
            self._add("api-db", End("api", self._unit("api")), End("db", pg), 5432, both)
            self._add("api-cache", End("api", self._unit("api")), End("cache", redis), 6379, both)
            self._add("replication", End("db", pg), End("db", pg), 5432, both)
        if "batch" in kinds:
            self._add("worker-db", End("worker", self._unit("worker")), End("db", pg), 5432, both)
            self._add(
                "worker-queue",
                End("worker", self._unit("worker")),
                End("queue", _fixed("rabbitmq-server.service")),
                5672,
            )
        if "legacy" in kinds:
            self._add(
                "legacy-db",
                End("legacy", _fixed("tomcat9.service")),
                End("mysql", _fixed("mariadb.service")),
                3306,
                both,
            )
        if "report" in kinds:
            self._add("report-db", End("report", self._unit("report")), End("db", pg), 5432, both, "monthly")
        monitored = _fixed("prometheus-node-exporter.service")
        self._add("scrape", End("monitoring", _fixed("prometheus.service")), End("", monitored), 9100, ("env",))
        self._add("logs", End("", _fixed("rsyslog.service")), End("logs", _fixed("loki.service")), 3100, ("env",))
        self._add(
            "accounts",
            End("", _fixed("sssd.service")),
            End("directory", _fixed("slapd.service")),
            636,
            ("env",),
            "daily",
        )
        self._add("updates", End("", _fixed("apt-daily.service")), End("mirror", nginx), 443, (), "daily")
        self._add(
            "backup",
            End("backup", _fixed("bacula-director.service")),
            End("", _fixed("bacula-fd.service")),
            9102,
            (),
            "weekly",
        )
        self._add("administration", End("bastion", _login), End("", _fixed("ssh.service")), 22, (), "people")

    def _between(self) -> None:
        """What one application needs of another, which no other needs."""
        draw = self._draw
        web = [a for a in self._names if self._kinds[a] == "web"]
        wanted = draw.sample(
            [(a, b) for a in web for b in web if a != b], min(len(web), len(web) * (len(web) - 1)) // 2
        )
        # The warehouse is for those who asked for it, in prod.
        for app in [a for a in self._names if self._kinds[a] in ("web", "batch") and draw.random() < 0.3]:
            role = "api" if self._kinds[app] == "web" else "worker"
            source = End(role, self._unit(role), app, "prod")
            self._add(f"{app}-warehouse", source, End("warehouse", _fixed("clickhouse-server.service")), 8123)
        for a, b in wanted:
            ends = End("api", self._unit("api"), a), End("api", self._unit("api"), b)
            self._add(f"{a}-{b}", *ends, 8080, ("env",), draw.choice(("busy", "busy", "sparse")))

    def _outside(self) -> None:
        draw = self._draw
        office = End(networks=tuple(f"{OFFICE}{n}" for n in range(20, 60)))
        self._add("office", office, End("bastion", _fixed("ssh.service")), 22, (), "people")
        web = [a for a in self._names if self._kinds[a] == "web"]
        public = [a for a in web if draw.random() < 0.5] or web[:1]
        if public:
            everybody = End(networks=("any",))
            if len(public) * 2 > len(web):
                self._add("customers", everybody, End("web", _fixed("nginx.service"), env="prod"), 443)
            else:
                for app in public:
                    self._add(f"customers-{app}", everybody, End("web", _fixed("nginx.service"), app, "prod"), 443)
        for app in draw.sample(web, min(len(web), 3)):
            provider = End(networks=tuple(draw.sample(PROVIDERS, draw.randint(1, 2))))
            self._add(f"{app}-provider", End("api", self._unit("api"), app, "prod"), provider, 443)

    def _churn(self) -> None:
        """Servers are replaced by others of the same kind, an application comes, and one goes."""
        draw = self._draw
        for at, machine in enumerate(self._machines):
            if draw.random() < 0.15:
                day = draw.randint(3, self._days - 2)
                self._machines[at] = Machine(machine.name, machine.tags, machine.units, 0, day)
                self._serial += 1
                self._machines.append(Machine(f"m{self._serial}", machine.tags, machine.units, day))
        name = NEWCOMER
        self._kinds[name] = "web"
        self._application(name, born=self._days * 2 // 3 - 2)
        leaver = draw.choice(self._names)
        if len(self._names) > 3 and not any(leaver in (r.source.app, r.destination.app) for r in self._relations):
            for at, machine in enumerate(self._machines):
                if machine.tag("app") == leaver:
                    gone = min(machine.gone, self._days // 3)
                    self._machines[at] = Machine(machine.name, machine.tags, machine.units, machine.born, gone)


def _fixed(unit: str) -> Callable[[Machine], str]:
    return lambda _: unit


def _login(_: Machine) -> str:
    return LOGIN


LOGIN = "login"
NEWCOMER = "newcomer"
"""The application that comes two days before the end of what is looked at."""
