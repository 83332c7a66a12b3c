"""Two controllers on one PostgreSQL, each on a host of its own, and what must hold of them after every fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.accounts import uid
from lab.fleet import AGENT_STATE, CONTROLLER_STATE, CONTROLLER_UNIT, own_directory
from lab.host import LabHost
from lab.postgres import Server, running_server
from lab.wait import until
from tests.chaos.chaos import RECOVERY, Chaos
from tests.chaos.fleet import ChaosFleet

CONTROLLERS = ("ctl", "ctl2")
DATABASE = "fleet"
MOVING = 30.0


class ReplicaFleet(ChaosFleet):
    """`asked` is the controller that the administrator talks to, and on whose host `segctl` runs."""

    def __init__(self) -> None:
        super().__init__("replicas.json")
        self.asked = CONTROLLERS[0]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._server: Server = self._stack.enter_context(running_server())
        try:
            self._server.directory.chmod(0o711)  # the controllers' user goes through to the socket
            self._server.execute(f"CREATE DATABASE {DATABASE}")
            return super().__enter__()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self._stack.close()

    @property
    def control(self) -> LabHost:
        return self.lab.hosts[self.asked]

    @property
    def admin_directory(self) -> Path:
        return self.lab.instance.directory / f"admin-{self.asked}"

    @contextmanager
    def asking(self, controller: str) -> Iterator[None]:
        """`segctl` talks to that one meanwhile."""
        before, self.asked = self.asked, controller
        try:
            yield
        finally:
            self.asked = before

    def other(self, controller: str) -> str:
        return next(name for name in CONTROLLERS if name != controller)

    def address(self, controller: str) -> str:
        return f"{self.lab.spec(controller).v4}:7443"

    def state_of(self, host: str) -> str:
        return CONTROLLER_STATE if host in CONTROLLERS else AGENT_STATE

    def start_controller_first_time(self) -> None:
        """The second one joins with a backup of the first one, as the operations guide has it."""
        second = CONTROLLERS[1]
        for name in CONTROLLERS:
            self.mount_state(name)
        own_directory(self.admin_directory, "segctl")
        names = [option for name in CONTROLLERS for option in ("--name", str(self.lab.spec(name).v4))]
        new = ("--admin", "alice", "--admin-out", str(self.admin_directory))
        where = ("--listen", "::", "--database", self._server.conninfo(DATABASE))
        self.controller_command("init", *where, *names, *new)
        self.start_controller()
        backup = self.admin_directory / "fleet.backup"
        self.controller_command("backup", "--to", str(backup))
        own = self.admin_directory
        with self.asking(second):
            shutil.copytree(own, self.admin_directory)
            for file in (self.admin_directory, *self.admin_directory.iterdir()):
                os.chown(file, uid("segctl"), uid("segctl"))
            client = self.admin_directory / "client.json"
            client.write_text(json.dumps({**json.loads(client.read_text()), "controller": self.address(second)}))
            self.controller_command("join", "--from", str(self.admin_directory / backup.name), "--listen", "::")
            self.start_controller()

    def revive(self) -> None:
        for name in CONTROLLERS:
            if not self.serves(name):
                with self.asking(name):
                    self.start_controller()
        super().revive()

    def serves(self, controller: str) -> bool:
        return self.lab.units[controller].running(CONTROLLER_UNIT)

    # Which controller has which host

    def controller_of(self, host: str) -> str:
        """As its agent says; empty while it has no session."""
        try:
            told = json.loads(self.path(host, "status.json").read_text()).get("controller") or ""
        except (OSError, ValueError):
            return ""
        return next((name for name in CONTROLLERS if self.address(name) == told), "")

    def bring(self, host: str, controller: str) -> None:
        """Its agent has its session with that one: it starts anew while it cannot reach the other."""
        if self.controller_of(host) == controller:
            return
        other = self.other(controller)
        self.lab.cut(host, other)
        self.lab.cut(other, host)
        try:
            what = f"{host} is at {controller}"
            until(what, lambda: self.controller_of(host) == controller, MOVING, every=0.2)
        finally:
            self.lab.mend()


class ReplicaChaos(Chaos):
    """What holds of one controller holds of both."""

    fleet: ReplicaFleet

    def spread(self) -> None:
        """Every controller has a host at least."""
        for number, host in enumerate(self.hosts):
            self.fleet.bring(host, CONTROLLERS[number % 2])

    def kill(self, controller: str) -> None:
        self.fleet.lab.units[controller].kill(CONTROLLER_UNIT)

    @contextmanager
    def frozen(self, controller: str) -> Iterator[None]:
        pid = self.fleet.lab.units[controller].pid(CONTROLLER_UNIT)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def check(self) -> None:
        """And both controllers say so, nothing is on trial, and every disk holds what is active."""
        super().check()
        for name in CONTROLLERS:
            with self.fleet.asking(name):
                self.fleet.await_in_sync(RECOVERY)
                document = self.fleet.document("status")
                assert not document.get("trial"), f"{name}: {document['trial']}"
                active = next(line for line in self.fleet.document("history", "--limit", "1000") if line["active"])
                assert active["digest"] == self.digests[self.active], f"{name} has {active} active, not {self.active}"
        for host in self.hosts:
            until(f"{host} has stored {self.active}", lambda host=host: self.stored(host) == self.active, 20, every=0.2)
            assert not self.fleet.path(host, "trial").exists(), f"{host} has something on trial still"
