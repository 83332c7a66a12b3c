"""Traffic that goes on through a whole run, and what it saw: something that must never pass, or always, did not."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.fleet import Fleet
from lab.host import PYTHON, SOURCE
from lab.wait import until

TRAFFIC = (PYTHON, "-I", "-S", f"{SOURCE}/tests/chaos/traffic.py")
TRAP, NGINX, API, DB, CRON = "4444", "nginx.service", "shop-api.service", "postgresql@15-main.service", "cron.service"
SETTLING = 4.0
"""Seconds after a cut was mended in which a connection may still suffer from it: TCP sends again ever more rarely."""
KNOCKED = 1000
"""The first of the ports that `knock` uses, one for each time."""


@dataclass
class Witness:
    """Started with `start` once a policy is in force; `wrong` tells what should not have been, each thing once."""

    fleet: Fleet
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    excused: list[tuple[float, float]] = field(default_factory=list)
    port: int = KNOCKED

    @property
    def log(self) -> Path:
        return self.fleet.lab.instance.directory / "witness"

    def start(self) -> None:
        self.log.mkdir(exist_ok=True)
        managed = [host.name for host in self.fleet.managed]
        for host in (*managed, "client1"):
            self._start(f"trap on {host}", host, "trap.service", "root", "trap", TRAP)
        for host in managed:
            self._start(f"flood from {host}", host, CRON, "root", "flood", f"client1,{TRAP}")
        self._start("flood from client1", "client1", "", "root", "flood", *(f"{host},{TRAP}" for host in managed))
        for name, host, unit, user, *command in (
            ("visits of the web", "client1", "", "root", "visit", "4", "web1", "80"),
            ("visits of the api", "web1", NGINX, "www-data", "visit", "4", "api1", "8080"),
            ("visits of the db", "api1", API, "shop", "visit", "6", "db1", "5432"),
            ("session with the web", "client1", "", "root", "session", "6", "web1", "80"),
            ("session with the api", "web1", NGINX, "www-data", "session", "6", "api1", "8080"),
            ("session with the db", "api1", API, "shop", "session", "4", "db1", "5432"),
        ):
            self._start(name, host, unit, user, *command)
        for name in self.processes:
            until(f"{name} is ready", lambda name=name: "ready" in self._text(name), 20)

    def _start(self, name: str, host: str, unit: str, user: str, *command: str) -> None:
        with (self.log / name).open("w") as output:
            self.processes[name] = self.fleet.lab.hosts[host].popen(
                [*TRAFFIC, *command], unit=unit, user=user, stdin=subprocess.PIPE, output=output
            )

    def _text(self, name: str) -> str:
        return (self.log / name).read_text()

    @contextmanager
    def excuse(self) -> Iterator[None]:
        """New connections may fail in here, and a little longer: the network is cut. Nothing else is excused."""
        began, at = time.time(), len(self.excused)
        self.excused.append((began, float("inf")))
        try:
            yield
        finally:
            self.excused[at] = (began, time.time() + SETTLING)

    def wrong(self) -> list[str]:
        """In words, each once; empty when all is as it must be."""
        found = []
        for name, process in self.processes.items():
            lines = [json.loads(line) for line in self._text(name).splitlines() if line != "ready"]
            found += [f"{name}: {told}" for told in lines if "wrong" in told and not self._is_excused(told)]
            if process.poll() is not None and not lines:
                found.append(f"{name} has ended")
        new = [words for words in found if words not in self.told]
        self.told.update(new)
        return new

    def _is_excused(self, told: dict[str, float]) -> bool:
        began = told.get("began")
        if began is None:
            return False
        return any(began <= end and told["at"] >= start for start, end in self.excused)

    def knock(self, times: int, host: str = "api1") -> int:
        """So many connections from the client to a port of the host that nobody used before, all refused. Returns the
        port, by which `segctl denied` tells them from others."""
        self.port += 1
        command = [*TRAFFIC, "knock", "4", host, str(self.port), str(times)]
        done = self.fleet.lab.hosts["client1"].run(command)
        assert f'"knocked": {times}' in done.stdout, done.stdout + done.stderr
        return self.port

    def floods(self) -> int:
        """End the floods; how many datagrams were sent that had to be refused."""
        total = 0
        for name, process in self.processes.items():
            if name.startswith("flood"):
                process.communicate(timeout=20)
                total += json.loads(self._text(name).splitlines()[-1])["sent"]
        return total
