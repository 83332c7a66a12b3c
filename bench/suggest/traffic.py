"""What the servers of a world do on each day, and what else is seen: mistakes, scans and attacks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.suggest.world import LOGIN, End, Machine, Program, Relation, World

HOURS = 24
PROBED = (21, 22, 23, 25, 80, 110, 135, 139, 443, 445, 1433, 3306, 3389, 5432, 5900, 6379, 8080, 9200)
TRIED = {"postgresql@15-main.service": 5432, "ssh.service": 22, "redis-server.service": 6379, "mariadb.service": 3306}


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Flows of one kind: between two programs by one service."""

    source: Program
    destination: Program
    protocol: str
    port: int


@dataclass(slots=True)
class Tally:
    """`hours` counts from the beginning of the world; `sources` and `destinations` are machines, or addresses."""

    flows: int = 0
    hours: set[int] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    destinations: set[str] = field(default_factory=set)


Tallies = dict[Kind, Tally]


class Traffic:
    """Draws the traffic of some days. `legitimate` is what relations made; `attacks` what an attacker did; `mistakes`
    what people did once, scans among them. `observed` is all of it as hosts tell it, who know the process of `told` of
    the flows."""

    def __init__(self, world: World, seed: int, days: Sequence[int], *, told: float = 0.97) -> None:
        self._world, self._draw = world, random.Random(seed)
        self._days = days
        self._told = told
        self.legitimate: Tallies = defaultdict(Tally)
        self.attacks: Tallies = defaultdict(Tally)
        self.mistakes: Tallies = defaultdict(Tally)
        self.observed: Tallies = defaultdict(Tally)
        for day in days:
            self._day(day)
        self._noise()
        self._attack()

    # What the true policy permits

    def _day(self, day: int) -> None:
        alive = list(self._world.alive(day))
        by_role: dict[str, list[Machine]] = defaultdict(list)
        for machine in alive:
            by_role[machine.tag("role")].append(machine)
        for relation in self._world.relations:
            if self._happens(relation, day):
                self._relate(relation, day, alive, by_role)

    def _happens(self, relation: Relation, day: int) -> bool:
        if relation.activity == "weekly":
            return day % 7 == 5
        if relation.activity == "monthly":
            return day % 30 == 1
        return not (relation.activity == "people" and day % 7 in (5, 6))

    def _relate(self, relation: Relation, day: int, alive: list[Machine], by_role: dict[str, list[Machine]]) -> None:
        draw = self._draw
        sources = list(self._ends(relation.source, alive, by_role))
        index: dict[tuple[str, ...], list[tuple[Program, str]]] = defaultdict(list)
        for program, name in self._ends(relation.destination, alive, by_role):
            index[_compared(program, relation.within)].append((program, name))
        for program, name in sources:
            reached = [d for d in index.get(_compared(program, relation.within), ()) if d[1] != name]
            if not reached or draw.random() > self._likely(relation, program):
                continue
            few = relation.activity in ("busy", "weekly") or relation.name == "administration"
            count = len(reached) if relation.name in ("scrape", "backup") else min(len(reached), 6 if few else 2)
            for destination, other in draw.sample(reached, count):
                for protocol, port in relation.ports:
                    self._flow(self.legitimate, program, name, destination, other, protocol, port, day, relation)

    def _likely(self, relation: Relation, source: Program) -> float:
        """That a source is active on a day."""
        usual = {"busy": 1.0, "daily": 0.9, "sparse": 0.15, "weekly": 1.0, "monthly": 1.0, "people": 0.6}
        tags = dict(source.tags or ())
        quiet = (tags.get("app", ""), tags.get("env", "")) in self._world.quiet
        machinery = relation.name in ("scrape", "logs", "accounts", "updates", "backup")
        return usual[relation.activity] * (0.15 if quiet and not machinery else 1.0)

    def _flow(
        self,
        into: Tallies,
        source: Program,
        name: str,
        destination: Program,
        other: str,
        protocol: str,
        port: int,
        day: int,
        relation: Relation | None = None,
    ) -> None:
        draw = self._draw
        busy = relation is not None and relation.activity == "busy"
        hours = draw.sample(range(HOURS), draw.randint(6, 20)) if busy else [draw.randrange(HOURS)]
        flows = draw.randint(20, 400) if busy else draw.randint(1, 5)
        for tally in (
            into[Kind(source, destination, protocol, port)],
            self.observed[Kind(self._as_told(source), self._as_told(destination), protocol, port)],
        ):
            tally.flows += flows
            tally.hours.update(day * HOURS + hour for hour in hours)
            tally.sources.add(name)
            tally.destinations.add(other)

    def _as_told(self, program: Program) -> Program:
        """Some processes are gone before anybody could look."""
        if program.tags is None or self._draw.random() < self._told:
            return program
        return Program(program.tags)

    def _ends(self, end: End, alive: list[Machine], by_role: dict[str, list[Machine]]) -> Iterator[tuple[Program, str]]:
        if end.networks:
            for address in self._addresses(end.networks):
                yield Program(None, address=address), address
            return
        for machine in by_role[end.role] if end.role else alive:
            unit = end.unit(machine) if end.unit else ""
            if end.holds(dict(machine.tags)) and (unit == LOGIN or unit in machine.units):
                yield self._program(machine, unit), machine.name

    def _program(self, machine: Machine, unit: str) -> Program:
        if unit == LOGIN:
            user = self._draw.choice(self._world.users)
            return Program(machine.tags, self._draw.choice(("/usr/bin/ssh", "/usr/bin/scp")), user)
        return Program(machine.tags, unit)

    def _addresses(self, networks: tuple[str, ...]) -> Iterable[str]:
        if networks == ("any",):
            return [_stranger(self._draw) for _ in range(8)]
        return self._draw.sample(networks, min(len(networks), 6))

    # What it does not

    def _noise(self) -> None:
        draw, world = self._draw, self._world
        for _ in range(max(2, len(world.machines) // 40)):
            day = draw.choice(self._days)
            alive = list(world.alive(day))
            who, target = draw.sample(alive, 2)
            unit = draw.choice([u for u in target.units if u in TRIED] or ["ssh.service"])
            program = self._program(who, draw.choice((LOGIN, who.units[0])))
            self._flow(
                self.mistakes, program, who.name, Program(target.tags, unit), target.name, "tcp", TRIED[unit], day
            )
        day = draw.choice(self._days)
        alive = list(world.alive(day))
        scanner = draw.choice(alive)
        for target in draw.sample(alive, min(len(alive) - 1, 60)):
            for port in draw.sample(PROBED, 3):
                self._probe(self.mistakes, Program(scanner.tags, "nessusd.service"), scanner, target, port, day)
        for _ in range(60):
            day = draw.choice(self._days)
            target = draw.choice([m for m in world.alive(day) if m.tag("role") in ("web", "bastion")])
            address = _stranger(draw)
            self._flow(
                self.mistakes,
                Program(None, address=address),
                address,
                Program(target.tags, _listener(target, 22)),
                target.name,
                "tcp",
                22,
                day,
            )

    def _probe(self, into: Tallies, source: Program, scanner: Machine, target: Machine, port: int, day: int) -> None:
        if target.name != scanner.name:
            end = Program(target.tags, _listener(target, port))
            self._flow(into, source, scanner.name, end, target.name, "tcp", port, day)

    def _attack(self) -> None:
        """One that spreads, one that scans, one that guesses passwords, one that calls home, one that lies in wait."""
        draw, world = self._draw, self._world
        start = draw.choice(self._days[: max(1, len(self._days) - 3)])
        victims = [m for m in world.alive(start) if m.tag("role") in ("web", "api", "worker", "legacy")]
        spreading, scanning, guessing, calling, waiting = (draw.choice(victims) for _ in range(5))

        def days(most: int) -> list[int]:
            return [d for d in self._days if start <= d < start + draw.randint(1, most)]

        for day in days(3):
            alive = list(world.alive(day))
            for target in draw.sample(alive, min(len(alive), 12)):
                unit = next((u for u in target.units if u in TRIED), "")
                if unit and target.name != spreading.name:
                    end = Program(target.tags, unit)
                    self._flow(
                        self.attacks,
                        self._program(spreading, spreading.units[0]),
                        spreading.name,
                        end,
                        target.name,
                        "tcp",
                        TRIED[unit],
                        day,
                    )
        for target in list(world.alive(start))[:200]:
            for port in (445, 5432):
                self._probe(self.attacks, Program(scanning.tags, scanning.units[0]), scanning, target, port, start)
        bastion = next(m for m in world.alive(start) if m.tag("role") == "bastion")
        for day in days(5):
            for _ in range(20):
                self._flow(
                    self.attacks,
                    Program(guessing.tags, guessing.units[0]),
                    guessing.name,
                    Program(bastion.tags, "ssh.service"),
                    bastion.name,
                    "tcp",
                    22,
                    day,
                )
        for day in days(12):
            for _ in range(12):
                self._flow(
                    self.attacks,
                    Program(calling.tags, calling.units[0]),
                    calling.name,
                    Program(None, address="192.0.2.66"),
                    "192.0.2.66",
                    "tcp",
                    443,
                    day,
                )
        target = draw.choice([m for m in world.alive(start) if m.name != waiting.name])
        for day in days(10):
            self._flow(
                self.attacks,
                Program(waiting.tags, waiting.units[0]),
                waiting.name,
                Program(target.tags, _listener(target, 4444)),
                target.name,
                "tcp",
                4444,
                day,
            )


def _compared(program: Program, within: tuple[str, ...]) -> tuple[str, ...]:
    tags = dict(program.tags or ())
    return tuple(tags.get(key, "") for key in within)


def _listener(machine: Machine, port: int) -> str:
    """The unit that listens there, empty where none does."""
    units = {p: u for u, p in TRIED.items()} | {80: "nginx.service", 443: "nginx.service", 8080: "gunicorn.service"}
    unit = units.get(port, "")
    return unit if unit in machine.units else ""


def _stranger(draw: random.Random) -> str:
    first = draw.choice([*range(11, 100), *range(130, 170)])
    return f"{first}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
