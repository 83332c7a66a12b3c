"""A fleet under traffic, the pushes that it takes, and what must hold of it after every fault.

1. The kernel of every host holds one whole generation, never a mixture of two.
2. What was acknowledged is not lost: a push that was told as stored is in the history.
3. Enforcement never opened: nothing forbidden passed, not one datagram.
4. Nothing permitted was cut: sessions live through every fault, and new connections are served at once unless the
   fault cuts the network itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from segctl_agent.slots import unpack
from segctl_agent.state import decode_policy

from lab.fleet import AGENT_UNIT, BIN, CONTROLLER_UNIT, parallel
from lab.wait import until
from tests.chaos.fleet import HEARTBEAT_SECONDS, ChaosFleet
from tests.chaos.look import LATE
from tests.chaos.witness import Witness

POLICY = Path(__file__).parent / "policy"
POLICIES = {
    "less": (POLICY / "shop.yaml",),
    "more": (POLICY / "shop.yaml", POLICY / "more.yaml"),
    "moved": (POLICY / "shop.yaml", POLICY / "moved.yaml"),
}
SILENT_HEARTBEATS = 3
QUICKLY = ("--yes", "--json", "--watch", "0")
RECOVERY = 60.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What `segctl push --json` told, and how it ended."""

    code: int
    lines: tuple[dict[str, Any], ...]
    text: str

    @property
    def stored(self) -> int:
        """The generation that the controller said it stored; 0: it said nothing of the kind."""
        return next((int(line["number"]) for line in self.lines if line["kind"] == "stored"), 0)

    @property
    def confirmed(self) -> bool:
        return any(line["kind"] == "done" and not line["undone"] for line in self.lines)

    @property
    def undone(self) -> bool:
        return any(line["kind"] == "done" and line["undone"] for line in self.lines)

    @property
    def why(self) -> str:
        return next((str(line["why"]) for line in self.lines if line["kind"] == "done"), "")

    @property
    def error(self) -> str:
        """Why it failed, in the words of the command; empty when it did not."""
        found = re.search(r'"message": (".*"),$', self.text.partition('"error": {')[2], re.MULTILINE)
        return json.loads(found[1]) if found else ""

    @property
    def states(self) -> dict[str, str]:
        """The last that was told of each host."""
        return {line["host"]: line["state"] for line in self.lines if line["kind"] == "host"}


@dataclass
class Chaos:
    """`random` decides whatever a fault leaves open. `active` is the policy in force when `check` looked last,
    `between` that and the one pushed since. `numbers` has the policy of each generation that was told as stored;
    `confirmed` is the newest that was told as confirmed."""

    fleet: ChaosFleet
    random: Random
    witness: Witness = field(init=False)
    active: str = ""
    between: tuple[str, str] = ("", "")
    digests: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    confirmed: int = 0

    def __post_init__(self) -> None:
        self.witness = Witness(self.fleet)

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.fleet.managed]

    def begin(self) -> None:
        """Each policy pushed once, and what it is on each host kept; the traffic begins."""
        self.fleet.start_lookers()
        for name in ("moved", "more", "less"):
            pushed = self.push(name)
            assert pushed.code == 0, pushed.text
            self.digests[name] = next(line["digest"] for line in pushed.lines if line["kind"] == "stored")
            for host in self.hosts:
                self._keep(host, name)
        self.active = "less"
        self.between = ("less", "less")
        self.witness.start()
        self.check()

    def ready(self) -> None:
        """Everything runs, as before the first fault, also after one that failed."""
        self.fleet.lab.mend()
        for host in self.fleet.clocked:
            self.fleet.take_clock(host)
            self.restart(host)
        self.fleet.revive()
        self.fleet.await_in_sync(RECOVERY)
        self.witness.wrong()

    def end(self) -> None:
        """The traffic ends. That it was there at all is looked at too."""
        sent = self.witness.floods()
        assert sent > 1000, f"only {sent} datagrams were there to be refused"
        print(f"{sent} forbidden datagrams were sent, and none arrived")

    def _keep(self, host: str, name: str) -> None:
        kept = self._kept(host, name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.newest_slot(host), kept)

    def newest_slot(self, host: str) -> Path:
        slots = [self.fleet.path(host, f"generation.{i}") for i in (0, 1)]
        return max((s for s in slots if s.exists()), key=lambda s: unpack(s.read_bytes()).sequence)

    def stored(self, host: str) -> str:
        """The policy that the host would start with."""
        payload = unpack(self.newest_slot(host).read_bytes()).value
        digest = decode_policy(payload).policy_digest
        return next(name for name, known in self.digests.items() if known == digest)

    def _kept(self, host: str, name: str) -> Path:
        return self.fleet.lab.instance.directory / "policies" / host / name

    # Pushing

    def other(self) -> str:
        """A policy that is not in force."""
        return self.other_than(self.active)

    def other_than(self, name: str) -> str:
        return self.random.choice([other for other in POLICIES if other != name])

    def push(self, name: str, *options: str) -> Pushed:
        self.between = (self.active, name)
        done = self.fleet.segctl("push", *map(str, POLICIES[name]), *QUICKLY, *options)
        return self._told(name, done.returncode, done.stdout, done.stderr)

    @contextmanager
    def pushing(self, name: str, *options: str) -> Iterator[Background]:
        """A push that goes on meanwhile."""
        push = Background(self, name, options)
        try:
            yield push
        finally:
            push.end()

    def _told(self, name: str, code: int, out: str, err: str) -> Pushed:
        pushed = Pushed(code, tuple(_records(out)), f"{out}{err}")
        if pushed.stored:
            self.numbers[pushed.stored] = name
        if pushed.confirmed:
            self.confirmed = pushed.stored
        return pushed

    # Ends of processes

    def bury_agent(self, host: str) -> None:
        self.fleet.lab.units[host].kill(AGENT_UNIT)

    def bury_controller(self) -> None:
        self.fleet.lab.units[self.fleet.control.name].kill(CONTROLLER_UNIT)

    def restart(self, host: str) -> None:
        """The daemon of the host, killed and started again."""
        if host == self.fleet.control.name:
            self.bury_controller()
            self.fleet.start_controller()
        else:
            self.bury_agent(host)
            self.fleet.start_agent(host)

    @contextmanager
    def stopped_controller(self) -> Iterator[None]:
        pid = self.fleet.controller_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def log_of(self, host: str) -> str:
        """The last that the host's agent wrote."""
        return self.fleet.lab.units[host].tail(AGENT_UNIT, 15)

    @property
    def silence_seconds(self) -> float:
        """After which one side takes the other for gone."""
        return HEARTBEAT_SECONDS * SILENT_HEARTBEATS

    # What must hold

    def whole(self, host: str, *, strict: bool = False) -> str:
        """The policy that the host's kernel holds, whole: that of the last push, or the one before. "A+B" is what
        either of the two permits: hosts pass through it where a permission moves. Unless `strict`, a cgroup may have no
        place yet, so that its packets are dropped: where no agent runs."""
        before, after = self.between
        slots = [(name, self._kept(host, name), None) for name in dict.fromkeys(self.between)]
        slots += [(f"{before}+{after}", self._kept(host, before), self._kept(host, after))]
        found = self.fleet.lookers[host].differences(slots)
        held = [name for name, told in found.items() if all(not strict and one.startswith(LATE) for one in told)]
        assert held, f"the kernel of {host} holds no whole generation: {found}"
        return held[0]

    def sound(self) -> None:
        """What must hold at every moment, also amid a fault."""
        parallel(self.whole, self.hosts)
        wrong = self.witness.wrong()
        assert wrong == [], "\n".join(wrong)

    def check(self) -> None:
        """The fault is over: everything runs again and agrees, and nothing went wrong meanwhile."""
        self.sound()
        self.fleet.revive()
        self.fleet.await_in_sync(RECOVERY)
        history = {line["number"]: line for line in self.fleet.document("history", "--limit", "1000")}
        lost = [n for n, name in self.numbers.items() if history.get(n, {}).get("digest") != self.digests[name]]
        assert lost == [], f"generations {lost} were stored, and are lost"
        active = next(line for line in history.values() if line["active"])
        assert active["number"] >= self.confirmed, f"generation {self.confirmed} was confirmed, {active} is active"
        self.active = next(name for name, digest in self.digests.items() if digest == active["digest"])
        self.between = (self.active, self.active)
        held = dict(zip(self.hosts, parallel(lambda host: self.whole(host, strict=True), self.hosts), strict=True))
        assert set(held.values()) == {self.active}, f"{self.active} is active, and the kernels hold {held}"
        self.sound()

    def denied(self, host: str, port: int) -> int:
        """How many packets to this port of the host the controller has been told of."""
        rows = self.fleet.records("denied", "--limit", "100000", "--host", host)
        return sum(row["count"] for row in rows if row.get("service") == f"tcp/{port}")

    def await_denied(self, host: str, port: int, times: int, seconds: float = 30.0) -> None:
        """Every denial arrives, and none twice."""
        until(f"{times} denials of tcp/{port} are told", lambda: self.denied(host, port) >= times, seconds, every=0.3)
        told = self.denied(host, port)
        assert told == times, f"{times} connections to tcp/{port} were refused, and {told} are told"


def _records(text: str) -> list[dict[str, Any]]:
    """Of a stream, one a line. What is no whole record is left out: an error is a document of several lines."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


class Background:
    """`segctl push` as a process of its own."""

    def __init__(self, chaos: Chaos, name: str, options: tuple[str, ...]) -> None:
        self._chaos, self._name = chaos, name
        chaos.between = (chaos.active, name)
        self._log = (chaos.fleet.lab.instance.directory / "push.log").open("w+", encoding="utf-8")
        command = [str(BIN / "segctl"), "push", *map(str, POLICIES[name]), *QUICKLY, *options]
        environment = {"SEGCTL_CONFIG": str(chaos.fleet.admin_directory), "PYTHONUNBUFFERED": "1"}
        self.process: subprocess.Popen[str] = chaos.fleet.control.popen(
            command, output=self._log, environment=environment, here=chaos.fleet.lab.instance.directory
        )
        self.pushed: Pushed | None = None

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def lines(self) -> list[dict[str, Any]]:
        """What it told so far."""
        return _records(Path(self._log.name).read_text())

    def end(self, seconds: float = 60.0) -> Pushed:
        """Wait for its end."""
        if self.pushed is None:
            code = self.process.wait(seconds)
            self._log.seek(0)
            self.pushed = self._chaos._told(self._name, code, self._log.read(), "")
            self._log.close()
        return self.pushed
