"""What most measurements of a fleet begin with: a new controller with agents that are connected, and its costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from segctl.model.inventory import Address

from bench.fleet.crowds import Crowds, crowds
from bench.fleet.identities import Member, issue
from bench.fleet.operator import Operator, operator_of
from bench.fleet.policies import FleetHost
from bench.fleet.process import ControllerProcess, controller_in, cpu_seconds
from bench.fleet.reports import Load

QUIET_SHARE = 0.25
"""Of a core: a controller that takes less than that has done what there was to do."""
LOOK_SECONDS = 0.5
A_HOST = 250
"""Addresses that one host may take on: the controller takes 256 of each."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`connect_seconds`: from the first agent's start to the last one's welcome."""

    controller: ControllerProcess
    members: Sequence[Member]
    fleet: Crowds
    operator: Operator
    connect_seconds: float


@contextmanager
def new_controller(hosts: Sequence[FleetHost], heartbeat: int = 10) -> Iterator[tuple[ControllerProcess, list[Member]]]:
    """With these hosts; it runs, no agent does."""
    with TemporaryDirectory(prefix="segctl-fleet-") as base, controller_in(Path(base), heartbeat) as controller:
        members = issue(controller.state, hosts)
        controller.start()
        yield controller, members


@contextmanager
def connected(
    controller: ControllerProcess,
    members: Sequence[Member],
    load: Load | None = None,
    *,
    steady: bool = False,
    verify: bool = False,
) -> Iterator[Stage]:
    """With agents: see `crowds`."""
    with (
        crowds(members, load, steady=steady, verify=verify) as fleet,
        operator_of(controller.base / "root") as operator,
    ):
        seconds = fleet.connect()
        fleet.settle()
        yield Stage(controller, members, fleet, operator, seconds)


def quiet(pid: int, seconds: float = 120.0) -> None:
    """Wait until the process rests, so that what is measured next is not what came before. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = cpu_seconds(pid)
        time.sleep(LOOK_SECONDS)
        if cpu_seconds(pid) - before < QUIET_SHARE * LOOK_SECONDS:
            return
    raise TimeoutError(f"process {pid} is busy after {seconds:g} s")


def idle_rate(pid: int, seconds: float = 3.0) -> float:
    """CPU seconds a second of a process that only keeps its connections."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds


@dataclass(slots=True)
class Cost:
    """CPU of a process over several stretches, without what it takes when it is idle."""

    pid: int
    idle: float
    seconds: float = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        before, began = cpu_seconds(self.pid), time.monotonic()
        yield
        self.seconds += cpu_seconds(self.pid) - before - self.idle * (time.monotonic() - began)


def more_addresses(members: Sequence[Member], count: int) -> dict[str, list[Address]]:
    """`count` addresses that nobody holds, for as few hosts as may take them: by host, for `Crowds.claim`."""
    first = max(address for member in members for address in member.addresses) + 1
    return {
        member.identity.host: [first + number for number in range(start, min(start + A_HOST, count))]
        for member, start in zip(members, range(0, count, A_HOST), strict=False)
    }
