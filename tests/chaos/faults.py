"""What else befalls a fleet: its network, disks, clocks, files, slow and crowded peers, and backups.

Each function is one fault from its beginning to its end; what must hold during it is asserted in it, what must hold
after it by `Chaos.check`. It answers what it did, in words.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from lab.fleet import CONTROLLER_STATE
from lab.host import PYTHON, SOURCE, VENV
from lab.instance import LabError
from lab.wait import until
from tests.chaos.chaos import POLICIES, Chaos

HOUR = 3600
BACKDATED = 240
"""Seconds. Certificates are valid from five minutes before they were made, and here all are young."""
BEYOND_CERTIFICATES = 400 * 24 * HOUR
"""Those of hosts and operators last a year."""
KNOCKS = 20
LIGHT_CLIENTS = 100


# The network


def partition(chaos: Chaos) -> str:
    """A host's port at the switch goes down amid pushes, and comes up again."""
    host = chaos.random.choice(chaos.hosts)
    with chaos.witness.excuse():
        chaos.fleet.lab.partition(host, True)
        try:
            pushed = chaos.push(chaos.other(), "--wait", "2")
            chaos.sound()
        finally:
            chaos.fleet.lab.partition(host, False)
    return f"{host} was cut off; the push ended with {pushed.code}, {pushed.states}"


def deaf_agent(chaos: Chaos) -> str:
    """What the controller says does not reach one host; what that host says reaches the controller."""
    return _one_way(chaos, to_host=True)


def mute_agent(chaos: Chaos) -> str:
    """The other way round."""
    return _one_way(chaos, to_host=False)


def _one_way(chaos: Chaos, *, to_host: bool) -> str:
    host, controller = chaos.random.choice(chaos.hosts), chaos.fleet.control.name
    way = (controller, host) if to_host else (host, controller)
    chaos.fleet.lab.cut(*way)
    try:
        pushed = chaos.push(chaos.other(), "--wait", "2")
        chaos.sound()  # hosts among themselves notice nothing: no connection is excused
    finally:
        chaos.fleet.lab.mend()
    return f"nothing passed from {way[0]} to {way[1]}; the push ended with {pushed.code}, {pushed.states}"


# Peers that are slow, or many


def slow_agent(chaos: Chaos) -> str:
    """An agent that stands still: its host goes on enforcing, the others are not held up for longer than was asked."""
    host = chaos.random.choice(chaos.hosts)
    with chaos.fleet.stopped_agent(host, signal.SIGSTOP, signal.SIGCONT):
        began = time.monotonic()
        pushed = chaos.push(chaos.other(), "--wait", "2")
        took = time.monotonic() - began
        assert pushed.states.get(host) != "proven", pushed.text
        chaos.sound()
    return f"{host} stood still; the push ended with {pushed.code} after {took:.1f} s, {pushed.states}"


def slow_controller(chaos: Chaos) -> str:
    """A controller that stands still for longer than agents wait for it."""
    with chaos.stopped_controller():
        time.sleep(chaos.silence_seconds * chaos.random.uniform(0.5, 1.5))  # how long is what is tried
        chaos.sound()
    return "the controller stood still"


def reconnect_storm(chaos: Chaos) -> str:
    """A hundred agents more, and a controller that is killed: all come back in one moment, and pushes work."""
    fleet = chaos.fleet
    join = fleet.segctl_checked("token", "create", "--tag", "role=spare", "--uses", str(LIGHT_CLIENTS))
    path = ":".join((SOURCE, *(f"{SOURCE}/{part}" for part in ("agent", "controller", "common"))))
    address = f"{fleet.lab.spec(fleet.control.name).v4}:7443"
    crowd = fleet.lab.hosts["client1"].popen(
        [f"{VENV}/bin/python", "-m", "tests.chaos.storm", str(LIGHT_CLIENTS), str(fleet.admin_directory), address],
        stdin=subprocess.PIPE,
        environment={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert crowd.stdin is not None and crowd.stdout is not None
    try:
        crowd.stdin.write(join.stdout.strip().splitlines()[-1] + "\n")
        crowd.stdin.flush()
        _said(crowd, "connected")
        port = chaos.witness.knock(KNOCKS)
        fleet.kill_controller()
        began = time.monotonic()
        fleet.start_controller()
        fleet.await_in_sync(60)
        crowd.stdin.write("again\n")
        crowd.stdin.flush()
        _said(crowd, "connected")
        took = time.monotonic() - began
        pushed = chaos.push(chaos.other())
        assert pushed.code == 0, pushed.text
        chaos.await_denied("api1", port, KNOCKS)
        crowd.stdin.close()
        _said(crowd, "left")
    finally:
        crowd.kill()
        crowd.wait()
    return f"{LIGHT_CLIENTS} agents and {len(chaos.hosts)} real ones came back within {took:.1f} s"


def _said(crowd: subprocess.Popen[str], word: str) -> None:
    assert crowd.stdout is not None
    line = crowd.stdout.readline()
    assert line == f"{word}\n", f"the crowd did not say {word!r}: {line}{crowd.stdout.read()}"


# Disks


def full_disk_of_agent(chaos: Chaos) -> str:
    """It enforces what it cannot store, survives a crash meanwhile, and stores it when there is room."""
    host, target = chaos.random.choice(chaos.hosts), chaos.other()
    chaos.fleet.fill(host)
    try:
        pushed = chaos.push(target)
        chaos.sound()
        chaos.bury_agent(host)
        chaos.fleet.start_agent(host)
        chaos.sound()
    finally:
        chaos.fleet.empty(host)
    chaos.check()
    until(f"{host} has stored what it holds", lambda: chaos.stored(host) == chaos.active, 30, every=0.5)
    return f"the disk of {host} was full; the push ended with {pushed.code}, {pushed.states}"


def full_disk_of_controller(chaos: Chaos) -> str:
    """It refuses what it cannot store, and says why; agents keep what it cannot take, and nothing is lost."""
    fleet, name = chaos.fleet, chaos.fleet.control.name
    _empty_log(chaos)
    fleet.fill(name)
    try:
        port = chaos.witness.knock(KNOCKS)
        pushed = chaos.push(chaos.other())
        assert pushed.code == 1 and "disk" in pushed.error, pushed.text
        assert pushed.stored == 0, pushed.text
        chaos.sound()
    finally:
        fleet.empty(name)
    chaos.await_denied("api1", port, KNOCKS, 60)
    return f"the controller's disk was full: {pushed.error}"


def _empty_log(chaos: Chaos) -> None:
    """SQLite uses the place of its write-ahead log again and again: with none, the next write needs room."""
    database = f"{CONTROLLER_STATE}/controller.db"
    script = f"import sqlite3; sqlite3.connect('{database}', timeout=10).execute('PRAGMA wal_checkpoint(TRUNCATE)')"
    chaos.fleet.root(chaos.fleet.control.name, PYTHON, "-c", script)


def no_start_on_a_full_disk(chaos: Chaos) -> str:
    """A controller needs some room to start, and says so. Agents go on without it."""
    fleet, name = chaos.fleet, chaos.fleet.control.name
    fleet.stop_controller()
    fleet.fill(name)
    try:
        with pytest.raises(LabError, match="the disk of the controller's database is full"):
            fleet.start_controller()
        chaos.sound()
    finally:
        fleet.empty(name)
    fleet.start_controller()
    return "the controller did not start on a full disk, and did when there was room"


# Clocks


def clock_of_agent_jumps(chaos: Chaos) -> str:
    host = chaos.random.choice(chaos.hosts)
    _jumping(chaos, host)
    return f"the clock of {host} jumped, forward and back"


def clock_of_controller_jumps(chaos: Chaos) -> str:
    _jumping(chaos, chaos.fleet.control.name)
    return "the controller's clock jumped, forward and back"


def _jumping(chaos: Chaos, host: str) -> None:
    fleet = chaos.fleet
    fleet.give_clock(host)
    chaos.restart(host)
    fleet.await_in_sync(60)
    port = chaos.witness.knock(KNOCKS)
    seconds = chaos.random.choice((chaos.random.randrange(60, 6 * HOUR), -chaos.random.randrange(60, BACKDATED)))
    fleet.set_clock(host, seconds)
    pushed = chaos.push(chaos.other())
    assert pushed.code == 0, f"the clock is {seconds:+d} s off: {pushed.text}"
    chaos.check()
    chaos.await_denied("api1", port, KNOCKS)
    fleet.set_clock(host, 0)  # the other way
    chaos.check()
    fleet.take_clock(host)
    chaos.restart(host)


def certificates_expire(chaos: Chaos) -> str:
    """The controller takes nobody any more. Hosts enforce on, say what is wrong, and come back when it is put right:
    here the clocks."""
    fleet, host, controller = chaos.fleet, chaos.random.choice(chaos.hosts), chaos.fleet.control.name
    for name in (controller, host):
        fleet.give_clock(name)
        fleet.set_clock(name, BEYOND_CERTIFICATES)
        chaos.restart(name)
    until("the agent says that its certificate expired", lambda: "certificate expired" in chaos.log_of(host), 30)
    done = fleet.agent_command(host, "status")
    assert done.returncode == 3, done.stdout + done.stderr
    pushed = chaos.push(chaos.other())
    assert pushed.code not in (0, 5), f"an operator's certificate is over, too: {pushed.text}"
    chaos.sound()
    for name in (controller, host):
        fleet.take_clock(name)
    chaos.restart(controller)
    chaos.restart(host)
    return f"every certificate was over: {pushed.error}"


# Files


def one_generation_corrupt(chaos: Chaos) -> str:
    """The newest of the two: the other one is in force until the controller is heard."""
    host = chaos.random.choice(chaos.hosts)
    chaos.bury_agent(host)
    newest = chaos.newest_slot(host)
    _scribble(newest, chaos.random)
    chaos.fleet.start_agent(host)
    assert "damaged" in chaos.log_of(host)
    chaos.sound()
    return f"{newest.name} of {host} was damaged"


def all_generations_corrupt(chaos: Chaos) -> str:
    """The rules that the kernel holds stay in force."""
    host = chaos.random.choice(chaos.hosts)
    chaos.bury_agent(host)
    for number in (0, 1):
        _scribble(chaos.fleet.path(host, f"generation.{number}"), chaos.random)
    chaos.fleet.start_agent(host)
    assert "no stored generation can be read" in chaos.log_of(host)
    chaos.sound()
    return f"both generations of {host} were damaged"


def _scribble(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    if random.random() < 0.3:
        content = content[: random.randrange(len(content))]  # torn
    else:
        for _ in range(8):
            content[random.randrange(len(content))] ^= random.randrange(1, 256)
    path.write_bytes(content)


def corrupt_database(chaos: Chaos) -> str:
    """The controller does not start with it, says so, and what to do; agents go on. The backup brings it back."""
    fleet, name = chaos.fleet, chaos.fleet.control.name
    fleet.stop_controller()
    database = fleet.path(name, "controller.db")
    copy = fleet.lab.instance.directory / "controller.db"
    shutil.copyfile(database, copy)
    content = bytearray(copy.read_bytes())
    for at in range(4096 + 100, len(content), 512):
        content[at] ^= 0xFF
    database.write_bytes(content)
    try:
        with pytest.raises(LabError, match="the database is damaged"):
            fleet.start_controller()
        chaos.sound()
    finally:
        database.write_bytes(copy.read_bytes())
    fleet.start_controller()
    return "the controller's database was damaged"


def old_backup(chaos: Chaos) -> str:
    """A controller comes back with less than its agents hold: none of them takes an older generation for a newer one,
    and the next push is above what they hold."""
    fleet = chaos.fleet
    backup = fleet.admin_directory / "fleet.backup"
    backup.unlink(missing_ok=True)
    before, restored = max(chaos.numbers), chaos.active
    fleet.controller_command("backup", "--to", str(backup))
    pushed = chaos.push(chaos.other())
    assert pushed.code == 0, pushed.text
    chaos.check()
    held = chaos.active
    fleet.stop_controller()
    fleet.controller_command("restore", "--from", str(backup), "--replace")
    fleet.start_controller()
    until("the agents are back, and refuse", lambda: set(fleet.host_states().values()) == {"refused"}, 60, every=0.3)
    for host in chaos.hosts:
        assert chaos.whole(host) == held
    chaos.numbers = {number: policy for number, policy in chaos.numbers.items() if number <= before}
    chaos.confirmed = min(chaos.confirmed, before)
    pushed = chaos.push(next(name for name in POLICIES if name not in (held, restored)))
    assert pushed.code == 0, pushed.text
    assert pushed.stored > before + 1, f"generation {pushed.stored} is not above what the hosts held"
    return f"the controller came back with generation {before}, and pushed {pushed.stored}"


FAULTS = (
    partition,
    deaf_agent,
    mute_agent,
    slow_agent,
    slow_controller,
    full_disk_of_agent,
    full_disk_of_controller,
    no_start_on_a_full_disk,
    clock_of_agent_jumps,
    clock_of_controller_jumps,
    certificates_expire,
    one_generation_corrupt,
    all_generations_corrupt,
    corrupt_database,
    old_backup,
    reconnect_storm,
)
BY_HAND = frozenset(
    (
        mute_agent,
        deaf_agent,
        slow_agent,
        slow_controller,
        clock_of_agent_jumps,
        one_generation_corrupt,
        no_start_on_a_full_disk,
        certificates_expire,
        old_backup,
        reconnect_storm,
    )
)
"""Left out of every run, whose time is short; SEGCTL_CHAOS=all runs them too."""
