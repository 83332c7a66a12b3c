"""Reboot, power loss and partition of whole machines: enforcement is there first, and never opens."""

import shutil

from lab.wait import until
from tests.nspawn.conftest import POLICY
from tests.nspawn.watching import Watching

WEB1, WEB1_V6 = "10.77.1.11", "fd77:0:1::11"
FORBIDDEN = [f"closed,{family},{host},{port}" for family, host in (("4", WEB1), ("6", WEB1_V6)) for port in (22, 9000)]
"""Listeners that no rule opens to client1: sshd, and a socket that systemd opens before the network is up."""


def generation(fleet, host):
    return fleet.host(host)["kernel_generation"]


def test_no_forbidden_packet_passes_from_power_on(fleet, web1):
    with Watching(fleet.machines["client1"], *FORBIDDEN) as watching:
        web1.reboot()
        fleet.await_in_sync()
    assert watching.wrong == []
    assert min(watching.probes.values()) > 20, watching.probes
    assert fleet.fetch("client1", "http://web1/").open
    assert f"generation {generation(fleet, 'web1')} is in force from disk" in web1.journal(
        "segctl-agent-boot.service", "--boot"
    )


def test_without_the_boot_unit_forbidden_packets_would_pass(fleet, web1):
    """That the test above can fail."""
    web1.systemctl("mask", "segctl-agent-boot.service")
    try:
        with Watching(fleet.machines["client1"], *FORBIDDEN) as watching:
            web1.reboot()
            fleet.await_in_sync()
        assert watching.wrong, watching.probes
    finally:
        web1.systemctl("unmask", "segctl-agent-boot.service")


def test_a_host_cut_off_enforces_over_a_power_loss_and_converges_after(fleet, web1, tmp_path):
    before = generation(fleet, "web1")
    fleet.lab.partition("web1", cut=True, other="ctl")
    with Watching(fleet.machines["client1"], *FORBIDDEN) as watching:
        assert fleet.fetch("client1", "http://web1/").open, "who is cut off serves on"
        web1.power_loss()
        assert fleet.fetch("client1", "http://web1/api/", seconds=20).open
        until("the controller misses web1", lambda: not fleet.host("web1")["connected"], 60, every=0.5)
        changed = shutil.copytree(POLICY, tmp_path / "policy")
        text = (changed / "shop.yaml").read_text()
        (changed / "shop.yaml").write_text(text.replace("why: customers", "why: customers shop"))
        done = fleet.push_unchecked(changed, "--wait", "5")
        assert "web1" in done.stdout, done
    assert watching.wrong == []
    assert f"generation {before} is in force from disk" in web1.journal("segctl-agent-boot.service", "--boot")
    fleet.lab.partition("web1", cut=False, other="ctl")
    until("web1 takes what it missed", lambda: generation(fleet, "web1") == before + 1, 30, every=0.3)
    fleet.await_in_sync()
    assert not fleet.reach("client1", "web1", 9000).open
    assert fleet.fetch("client1", "http://web1/").open


def test_the_controllers_power_loss_costs_nothing(fleet):
    before = fleet.document("history")
    with Watching(fleet.machines["client1"], *FORBIDDEN, f"open,4,{WEB1},80") as watching:
        fleet.control.power_loss()
        fleet.await_in_sync(40)
    assert watching.wrong == []
    assert fleet.document("history") == before
