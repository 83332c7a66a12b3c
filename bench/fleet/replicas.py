"""Two controllers of one fleet on one PostgreSQL, each in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from segctl_controller.clock import Clock
from segctl_controller.config import load_config, save_config
from segctl_controller.setup import add_operator, create_controller, open_store
from segctl_controller.store.records import Role

from bench.fleet.identities import Member, issue
from bench.fleet.policies import FleetHost
from bench.fleet.process import NAME, ControllerProcess, free_port
from lab.postgres import Server, running_server

DATABASE = "fleet"


@contextmanager
def replicas(
    hosts: Sequence[FleetHost], heartbeat: int = 10
) -> Iterator[tuple[ControllerProcess, ControllerProcess, list[Member]]]:
    """The first one runs, the second one does not yet; the hosts are members of their fleet."""
    with TemporaryDirectory(prefix="segctl-fleet-") as base, running_server() as server:
        first = _first(Path(base) / "one", server, heartbeat)
        members = issue(first.state, hosts)
        second = _second(first, Path(base) / "two")
        try:
            first.start()
            yield first, second, members
        finally:
            first.stop()
            second.stop()


def _first(base: Path, server: Server, heartbeat: int) -> ControllerProcess:
    server.execute(f"CREATE DATABASE {DATABASE}")
    controller = ControllerProcess(base, free_port())
    ports = free_port(), free_port()
    create_controller(controller.state, NAME, (NAME,), *ports, Clock(), heartbeat, database=server.conninfo(DATABASE))
    store = open_store(controller.state)
    try:
        add_operator(controller.state, store, "root", Role.ADMIN, base / "root", Clock())
    finally:
        store.close()
    return controller


def _second(first: ControllerProcess, base: Path) -> ControllerProcess:
    """On one machine it needs ports of its own."""
    shutil.copytree(first.base, base)
    controller = ControllerProcess(base, free_port())
    config = load_config(controller.state)
    save_config(controller.state, replace(config, port=free_port(), enrol_port=free_port()))
    return controller
