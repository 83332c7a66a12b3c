"""The lab on the real kernel: hosts reach each other, labs never meet, and nothing of one stays whatever ends it."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.host import PROGRAM, REPOSITORY
from lab.instance import BASE, Instance, LabError, cgroup_mount
from lab.netns import SWITCH, Lab, find_lab
from lab.topology import HostSpec, Topology, Unit, load_topology
from lab.units import UnitError
from lab.wait import until

pytestmark = pytest.mark.kernel

PAIR = Path(__file__).parent / "pair.json"


@pytest.fixture(scope="module")
def lab():
    with Lab(load_topology(PAIR)) as lab:
        yield lab


def call(lab, destination, port, family="4", **options):
    command = [*PROGRAM, "call", destination, str(port), "--family", family, "--timeout", "1"]
    return lab.hosts["a"].run(command, **options).stdout.strip()


@pytest.mark.parametrize("family", ["4", "6"])
def test_hosts_reach_each_other(lab, family):
    assert call(lab, "b", 80, family) == "hello from b"


def test_a_command_runs_as_the_unit_and_the_user(lab):
    done = lab.hosts["b"].run(["sh", "-c", "hostname; id -un; cat /proc/self/cgroup"], unit="web.service", user="shop")
    host, user, *cgroups = done.stdout.split()
    assert (host, user, cgroups[-1]) == ("b", "shop", "0::/system.slice/web.service")


def test_a_host_has_a_cgroup_root_files_and_links_of_its_own(lab):
    listing = lab.hosts["a"].check(["sh", "-c", "ls /sys/class/net /var/lib; cat /proc/sys/kernel/hostname"])
    assert listing.split() == ["/sys/class/net:", "eth0", "lo", "/var/lib:", "a"]
    assert lab.hosts["a"].check(["ls", "-d", "/sys/fs/cgroup/system.slice"]).strip() == "/sys/fs/cgroup/system.slice"
    (lab.hosts["a"].state / "lib" / "mark").write_text("of a")
    assert lab.hosts["a"].check(["cat", "/var/lib/mark"]) == "of a"
    assert lab.hosts["b"].run(["cat", "/var/lib/mark"]).returncode != 0
    (lab.hosts["a"].state / "lib" / "mark").unlink()


def test_a_restarted_unit_has_a_new_cgroup(lab):
    before, after = lab.units["b"].restart(lab.spec("b").unit("web.service"))
    assert before != after
    assert call(lab, "b", 80) == "hello from b"


def test_a_cut_host_is_silent_until_its_port_is_up_again(lab):
    lab.partition("b", True)
    assert "no answer" in call(lab, "b", 80) or "No route" in call(lab, "b", 80)
    lab.partition("b", False)
    until("b answers again", lambda: call(lab, "b", 80) == "hello from b", 10)


def test_another_address_can_be_added_and_removed(lab):
    lab.add_address("b", "fd00:9::7")
    assert call(lab, "fd00:9::7", 80, "6") == "hello from b"
    lab.remove_address("b", "fd00:9::7")
    assert call(lab, "fd00:9::7", 80, "6") != "hello from b"


def test_a_unit_that_ends_at_once_is_an_error_with_its_log(lab):
    with pytest.raises(UnitError, match=r"(?s)bad\.service ended with code 3.*what a pity"):
        lab.units["a"].start("bad.service", ["sh", "-c", "echo what a pity; exit 3"])


def test_a_unit_that_never_is_ready_is_an_error_and_is_killed(lab):
    with pytest.raises(UnitError, match=r"slow\.service was not ready"):
        lab.units["a"].start("slow.service", ["sleep", "60"], seconds=0.3)
    assert not lab.units["a"].cgroup("slow.service").exists()


def test_two_labs_do_not_meet(lab):
    with Lab(load_topology(PAIR)) as other:
        other.units["b"].stop("web.service")
        assert "refused" in call(other, "b", 80)
        assert call(lab, "b", 80) == "hello from b"


def test_a_lab_of_a_name_is_there_once_and_can_be_found(lab):
    living = find_lab(lab.instance.name)
    assert living.place("b").pid == lab.hosts["b"].place.pid
    with pytest.raises(LabError, match=r"no host zz; there are a, b"):
        living.place("zz")
    with pytest.raises(LabError, match="is up: take it down first"), Lab(load_topology(PAIR), lab.instance.name):
        pass
    assert call(lab, "b", 80) == "hello from b"


def test_an_unknown_lab_is_not_found():
    assert find_lab("nobody-raised-this") is None


def test_a_lab_that_cannot_come_up_leaves_nothing():
    host = load_topology(PAIR).host("a")
    broken = HostSpec("a", host.v4, host.v6, units=(Unit("x.service", user="no-such-user"),))
    lab = Lab(Topology((broken,), "a", 16, 16))
    with pytest.raises(UnitError, match="no-such-user"), lab:
        pass
    assert lab.instance.remains() == []


RAISE = """
import sys, time
from pathlib import Path
from lab.netns import Lab
from lab.signals import leave_orderly
from lab.topology import load_topology
leave_orderly()
with Lab(load_topology(Path(sys.argv[1])), sys.argv[2]):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_when_the_owner_ends(number):
    name = f"ends-{number.name.lower()}"
    command = [sys.executable, "-c", RAISE, str(PAIR), name]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "up\n"
        owner.send_signal(number)
        owner.wait(20)
        until("nothing of the lab is left", lambda: not Instance(name).remains(), 10)


def test_the_rest_of_a_dead_lab_is_purged_by_the_next():
    BASE.mkdir(exist_ok=True)
    (BASE / "dead").mkdir()
    (cgroup_mount() / "segctl-lab-dead" / "host").mkdir(parents=True)
    with Lab(load_topology(PAIR)):
        assert Instance("dead").remains() == []


def test_a_lab_whose_directory_is_elsewhere_is_left_alone():
    """As seen from a container that shares only the cgroups: a cgroup that its owner holds, and no directory."""
    foreign = cgroup_mount() / "segctl-lab-foreign"
    foreign.mkdir()
    held = os.open(foreign, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with Lab(load_topology(PAIR)):
            assert foreign.exists()
        os.close(held)
        with Lab(load_topology(PAIR)):
            assert not foreign.exists()
    finally:
        if foreign.exists():
            foreign.rmdir()


def test_the_switch_is_no_host_of_the_topology(lab):
    assert SWITCH in lab.hosts
    assert SWITCH not in [host.name for host in lab.topology.hosts]
