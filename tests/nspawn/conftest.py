"""One fleet of systemd machines for the session, installed from this checkout: controller, web1, api1, db1, client1."""

from pathlib import Path

import pytest

from lab.nspawn.fleet import AGENT, CONTROLLER, NspawnFleet
from lab.nspawn.lab import NspawnLab
from lab.topology import load_topology
from tests.failed import FAILED

HERE = Path(__file__).parent
POLICY = HERE / "policy"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def raised_nspawn_fleet():
    with NspawnFleet(NspawnLab(load_topology(HERE / "fleet.json"))) as fleet:
        fleet.push(POLICY)
        fleet.await_in_sync()
        yield fleet


@pytest.fixture
def fleet(raised_nspawn_fleet, request):
    """The fleet with its policy in force on every host, whatever the test before did."""
    yield raised_nspawn_fleet
    failed = request.node.stash.get(FAILED, False)
    if failed:
        print(raised_nspawn_fleet.logs())
    restore(raised_nspawn_fleet, anew=failed)


def restore(fleet, anew):
    """What a test may leave behind is undone; after a failure also what it should not have left."""
    fleet.lab.heal()
    for host in fleet.topology.managed:
        machine = fleet.machines[host.name]
        if not machine.running:
            machine.power_loss()
        if anew:
            machine.run(["systemctl", "unmask", "segctl-agent-boot"])
            machine.run(["systemctl", "revert", AGENT])
            machine.run(["segctl-agent", "load"])
            machine.run(["systemctl", "start", AGENT])
    if anew:
        fleet.control.run(["systemctl", "start", CONTROLLER])
        fleet.push(POLICY)
    fleet.await_in_sync(30)


@pytest.fixture
def web1(fleet):
    return fleet.machines["web1"]
