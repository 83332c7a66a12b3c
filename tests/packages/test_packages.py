"""The Debian packages on systemd machines: joining, upgrade and downgrade under traffic, removal, purge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.pair import Pair
from lab.nspawn.fleet import AGENT, AGENT_BOOT, CONTROLLER
from lab.nspawn.machine import Machine
from lab.packages import AGENT as PACKAGE
from lab.packages import Packages, apt, build_packages, dpkg, other_version, put
from lab.wait import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

UNITS = (AGENT_BOOT, AGENT, "segctl-exec-gate.path")
NEWER = "+newer"
ENOUGH = 20_000
"""Probes; `make bench` makes 100,000."""


@pytest.fixture(scope="module")
def packages() -> Packages:
    return build_packages()


@pytest.fixture(scope="module")
def newer(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return other_version({PACKAGE: packages[PACKAGE]}, NEWER, tmp_path_factory.mktemp("newer"))


@pytest.fixture(scope="module")
def pair(packages: Packages) -> Iterator[Pair]:
    with Pair(packages) as fleet:
        yield fleet


def has_table(machine: Machine) -> bool:
    return "table inet segctl" in machine.check(["nft", "list", "tables"])


def copies(machine: Machine) -> set[str]:
    return set(machine.check(["ls", "/opt/segctl/live"]).split())


def test_installing_starts_nothing_and_purging_leaves_nothing(pair: Pair) -> None:
    machine = pair.machines["client"]
    before = set(machine.check(["find", "/opt", "/usr/bin", "/var/lib", "/etc/systemd", "-maxdepth", "1"]).split())
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)
    said = apt(machine, "install", *put(machine, pair.packages, [PACKAGE]))
    assert "nothing is enforced before this host is enrolled" in said
    for unit in UNITS:
        assert machine.show(unit, "UnitFileState") == "enabled"
        assert machine.show(unit, "ActiveState") == "inactive"
    assert not has_table(machine)
    assert "is not enrolled" in machine.run(["segctl-agent", "status"]).stderr
    assert machine.check(["stat", "-c", "%U %a", "/var/lib/segctl-agent"]).strip() == "segctl-agent 700"
    dpkg(machine, "--verify", PACKAGE)
    dpkg(machine, "--purge", PACKAGE)
    after = set(machine.check(["find", "/opt", "/usr/bin", "/var/lib", "/etc/systemd", "-maxdepth", "1"]).split())
    assert after == before - {"/var/lib/segctl-agent"}  # an empty one is there in every machine of the lab
    assert "segctl" not in machine.check(["systemctl", "list-unit-files", "--no-legend"])


def test_a_controller_and_a_host_need_one_command_each(pair: Pair) -> None:
    assert pair.control.show(CONTROLLER, "ActiveState") == "active"
    assert pair.control.show(CONTROLLER, "UnitFileState") == "enabled"
    owners = pair.control.check(["sh", "-c", "stat -c %U /var/lib/segctl-controller/* | sort -u"])
    assert owners.split() == ["segctl"]
    for unit in UNITS:
        assert pair.server.show(unit, "UnitFileState") == "enabled"
        assert pair.server.show(unit, "ActiveState") == "active"
    assert pair.host_states() == {"server": "in-sync"}


def test_with_sudo_the_first_credentials_belong_to_whoever_asked(pair: Pair) -> None:
    machine = pair.machines["client"]
    state = "/var/lib/other"
    machine.check(["install", "-d", "-o", "shop", "-m", "700", state])
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    dpkg(machine, "--install", *put(machine, pair.packages, ["segctl-controller", "segctl"]))
    done = machine.run(["segctl", "init", "--state", state, "--name", "c"], environment={"SUDO_USER": "alice"})
    assert done.returncode == 0, done.stderr
    found = machine.check(["sh", "-c", f"stat -c '%U %a %n' /home/alice/.config/segctl/key.pem {state}/ca.key"])
    assert found.splitlines() == ["alice 600 /home/alice/.config/segctl/key.pem", f"shop 600 {state}/ca.key"]
    again = machine.run(["segctl", "init", "--state", state, "--name", "c"], environment={"SUDO_USER": "alice"})
    assert again.returncode == 1
    assert "/home/alice/.config/segctl holds client.json" in again.stderr


def test_upgrade_and_downgrade_leak_nothing_and_drop_nothing(pair: Pair, newer: Packages) -> None:
    first = pair.running_version()
    with pair.probing() as prober:
        pair.install_version(newer)
        assert pair.running_version() == first + NEWER
        pair.install_version({PACKAGE: pair.packages[PACKAGE]})
        assert pair.running_version() == first
        until("there were enough probes", lambda: prober.probes >= ENOUGH or not prober.running, 120)
        counts, wrong = prober.finish()
    assert wrong == []
    assert (counts.wrongly_allowed, counts.wrongly_dropped, counts.stalled) == (0, 0, 0)
    assert counts.probes >= ENOUGH
    assert len(copies(pair.server)) == 1
    pair.await_in_sync()


def test_a_half_installed_version_is_never_run(pair: Pair, newer: Packages) -> None:
    """dpkg has unpacked the newer version and not yet configured it: hours may lie between the two."""
    first, old = pair.running_version(), pair.server.main_pid(AGENT)
    dpkg(pair.server, "--unpack", *put(pair.server, newer, [PACKAGE]))
    pair.server.kill_unit(AGENT)
    until("systemd starts the agent anew", lambda: pair.server.main_pid(AGENT) not in (0, old), 20)
    until("it is ready", lambda: pair.server.show(AGENT, "ActiveState") == "active", 20)
    assert pair.running_version() == first
    assert pair.server.check(["segctl-agent", "--version"]).split()[-1] == first
    dpkg(pair.server, "--configure", PACKAGE)
    assert pair.running_version() == first + NEWER
    pair.await_in_sync()


def test_what_a_process_still_runs_from_stays_until_the_next_version(pair: Pair, newer: Packages) -> None:
    held = next(iter(copies(pair.server)))
    program = f"/opt/segctl/live/{held}/bin/python3"
    sleeper = pair.server.popen([program, "-I", "-c", "import time; print('up', flush=True); time.sleep(600)"])
    try:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "up\n"
        pair.install_version({PACKAGE: pair.packages[PACKAGE]})
        assert held in copies(pair.server)
    finally:
        pair.server.run(["pkill", "-f", f"{program} -I -c"])
        sleeper.wait(10)
    pair.install_version(newer)
    assert held not in copies(pair.server)


def test_removal_says_that_the_rules_stay_and_a_new_installation_goes_on(pair: Pair) -> None:
    with pair.probing() as prober:
        said = dpkg(pair.server, "--remove", PACKAGE)
        removed = prober.probes
        until("there were some probes more", lambda: prober.probes > removed + 1000 or not prober.running, 60)
        counts, wrong = prober.finish()
    assert "STAY in force until it boots again" in said
    assert "nft delete table inet segctl" in said
    assert has_table(pair.server)
    assert wrong == []
    assert (counts.wrongly_allowed, counts.wrongly_dropped, counts.stalled) == (0, 0, 0)
    dpkg(pair.server, "--install", *put(pair.server, pair.packages, [PACKAGE]))
    pair.await_in_sync()


def test_purge_opens_the_host_and_removes_its_identity(pair: Pair) -> None:
    said = dpkg(pair.server, "--purge", PACKAGE)
    assert "EVERY PACKET PASSES" in said
    assert not has_table(pair.server)
    assert "EVERY PACKET PASSES" in pair.server.check(["journalctl", "-o", "cat", "-t", PACKAGE])
    gone = pair.server.run(["ls", "/var/lib/segctl-agent", "/opt/segctl"])
    assert gone.stdout == ""
