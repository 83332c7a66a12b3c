"""What the machines of the systemd lab are given, and that nothing of a lab stays."""

import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lab.host import REPOSITORY
from lab.instance import Instance, LabError, purge
from lab.nspawn.lab import NspawnLab, find_nspawn_lab
from lab.nspawn.units import server_command, write_machine
from lab.topology import HostSpec, Topology, Unit
from lab.wait import until

ALONE = HostSpec("alone", IPv4Address("10.77.0.2"), IPv6Address("fd77::2"), managed=False)
TOPOLOGY = Topology((ALONE,), "alone", 16, 16)
OWNER = """
import sys
from tests.unit.lab.test_nspawn import TOPOLOGY
from lab.nspawn.lab import NspawnLab
with NspawnLab(TOPOLOGY, name=sys.argv[1], installed=False):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_unit_behind_a_socket_is_enabled_by_its_socket_only(tmp_path: Path) -> None:
    unit = Unit("stock.service", port=8090, banner="stock", user="shop", socket=True)
    write_machine(tmp_path, HostSpec("api1", ALONE.v4, ALONE.v6, units=(unit,)), TOPOLOGY)
    system = tmp_path / "etc/systemd/system"
    assert "ListenStream=8090" in (system / "stock.socket").read_text()
    assert (system / "sockets.target.wants/stock.socket").is_symlink()
    assert not (system / "multi-user.target.wants/stock.service").exists()
    assert "--port" not in server_command(unit)
    assert "User=shop" in (system / "stock.service").read_text()


def test_a_session_is_nothing_that_could_be_written(tmp_path: Path) -> None:
    units = (Unit("user.slice/user-1000.slice/session-1.scope", "idle"), Unit("ops.service", "idle"))
    write_machine(tmp_path, HostSpec("bastion1", ALONE.v4, ALONE.v6, units=units), TOPOLOGY)
    written = {path.name for path in (tmp_path / "etc/systemd/system").iterdir()}
    assert written == {"ops.service", "multi-user.target.wants"}


def test_what_runs_by_a_timer_is_enabled_by_its_timer_only(tmp_path: Path) -> None:
    often = Unit("often.service", "task", command="/bin/true", every="15s", user="alice")
    once = Unit("once.service", "task", command="/bin/false")
    nightly = Unit("cron.service", "idle", command="* * * * * shop /bin/true")
    write_machine(tmp_path, HostSpec("office1", ALONE.v4, ALONE.v6, units=(often, once, nightly)), TOPOLOGY)
    system = tmp_path / "etc/systemd/system"
    assert "OnUnitActiveSec=15s" in (system / "often.timer").read_text()
    assert (system / "timers.target.wants/often.timer").is_symlink()
    assert "User=alice" in (system / "often.service").read_text()
    assert not (system / "multi-user.target.wants/often.service").exists()
    assert "ExecStart=/bin/false" in (system / "once.service").read_text()
    assert not (system / "once.timer").exists()
    assert (tmp_path / "etc/cron.d/lab").read_text() == "* * * * * shop /bin/true\n"


@pytest.mark.kernel
def test_a_machine_boots_keeps_what_it_wrote_and_leaves_nothing() -> None:
    with NspawnLab(TOPOLOGY, installed=False) as lab:
        machine = lab.machines["alone"]
        assert machine.run(["systemctl", "is-system-running"]).stdout == "running\n"
        assert machine.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
        machine.write("/root/note", "kept", mode=0o600)
        machine.crash()
        assert not machine.running
        with pytest.raises(LabError, match="alone is off"):
            machine.run(["true"])
        machine.write("/root/other", "written while it was off")
        machine.boot()
        assert machine.read("/root/note") == "kept"
        assert machine.read("/root/other") == "written while it was off"
        with pytest.raises(LabError, match="no such file"):
            machine.check(["sh", "-c", "echo no such file >&2; exit 3"])
        instance = lab.instance
    assert instance.remains() == []


@pytest.mark.kernel
def test_what_a_runner_that_was_killed_left_goes(tmp_path: Path) -> None:
    name = f"t{tmp_path.name[-8:]}".replace("_", "")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, name],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    living = find_nspawn_lab(name)
    assert living is not None
    assert living.places["alone"].leader() is not None
    owner.kill()
    owner.wait()
    until("its warden or a purge removed everything", lambda: purge() or not Instance(name).remains(), 20)
    until("nothing is left", lambda: not Instance(name).remains(), 20)
