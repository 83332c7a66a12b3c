"""One fleet for the session: controller, five agents and an administrator as real processes, in namespaces."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.fleet import BIN, Fleet
from lab.host import REPOSITORY
from lab.netns import Lab
from lab.topology import load_topology
from tests.failed import FAILED

SHOP = REPOSITORY / "examples" / "shop"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def raised_fleet():
    with Fleet() as fleet:
        yield fleet


@pytest.fixture
def fleet(raised_fleet, request):
    """The fleet of the shop with the example policy in force on every host, whatever the test before did."""
    raised_fleet.revive()
    raised_fleet.await_in_sync()
    raised_fleet.push(SHOP)
    raised_fleet.await_in_sync()
    yield raised_fleet
    if request.node.stash.get(FAILED, False):
        print(raised_fleet.logs())


@pytest.fixture
def small_fleet(request):
    """A fleet of its own of two hosts, for tests that spend it: enrolled, nothing pushed."""
    with Fleet(Lab(load_topology(Path(__file__).parent / "small.json"))) as fleet:
        yield fleet
        if request.node.stash.get(FAILED, False):
            print(fleet.logs())


@pytest.fixture
def push_in_background():
    """Start `segctl push` of a directory on a fleet; the process is returned once it has shown its plan."""

    def start(fleet, directory, *options):
        environment = f"SEGCTL_CONFIG={fleet.admin_directory}"
        command = ["env", environment, "PYTHONUNBUFFERED=1", str(BIN / "segctl"), "push", str(directory), "--yes"]
        push = fleet.control.popen([*command, *options])
        assert push.stdout.readline()
        return push

    return start


@dataclass
class PolicyCopy:
    """A copy of the example policy to change."""

    directory: Path

    def replace(self, file, old, new):
        path = self.directory / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}: the example changed, change this test too"
        path.write_text(text.replace(old, new))
        return self.directory

    def add(self, rules, name="more.yaml"):
        (self.directory / name).write_text(f"version: 1\nrules:\n{rules}")
        return self.directory


@pytest.fixture
def policy(tmp_path):
    return PolicyCopy(Path(shutil.copytree(SHOP, tmp_path / "policy")))
