"""What the units' hardening must not hide: programs told apart by the exec gate, and containers by their name."""

import shutil

import pytest

from tests.nspawn.conftest import POLICY

GATED, STRANGER = "/usr/local/bin/stock-report", "/usr/local/bin/other-report"
FETCH = ("-sS", "--noproxy", "*", "--max-time", "5", "http://10.77.2.11:8090/")
AS_UNIT = ("systemd-run", "--quiet", "--pipe", "--wait")
# Not limits of ours: a machine of the lab may not raise its own, and has no keyrings.
PODMAN = ("podman", "--log-level", "error", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "run", "--rm")
LIMITS = ("--privileged", "--pids-limit", "0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@pytest.fixture
def permit(fleet, tmp_path):
    """Let a process of web1 reach the stock service, until the end of the test."""

    def push(process):
        changed = shutil.copytree(POLICY, tmp_path / "policy")
        text = (changed / "shop.yaml").read_text()
        text = text.replace("\nmodes:\n", f"  report: {{on: {{role: web}}, process: {process}}}\n\nmodes:\n")
        rule = "  - {name: report-to-stock, from: {workload: report}, to: {workload: shop-stock}, allow: [stock], "
        (changed / "shop.yaml").write_text(f"{text}{rule}owner: t, why: reports, review: 2030-05-01}}\n")
        fleet.push(changed)

    yield push
    fleet.push(POLICY)


def test_a_named_program_reaches_what_its_neighbour_does_not(fleet, web1, permit):
    for program in (GATED, STRANGER):
        web1.check(["install", "-m", "755", "/usr/bin/curl", program])
    web1.systemctl("enable", "--now", "segctl-exec-gate.path")
    try:
        permit(f"{{executable: {GATED}}}")
        web1.await_restart("segctl-exec-gate.service", 0)
        allowed = web1.run([*AS_UNIT, GATED, *FETCH])
        assert allowed.stdout.startswith("stock: 2 orders"), (allowed, web1.journal("segctl-exec-gate.service"))
        refused = web1.run([*AS_UNIT, STRANGER, *FETCH])
        assert refused.returncode != 0, refused
        denial = fleet.denied("web1", direction="egress", peer_host="api1", process_exe=STRANGER)
        assert denial["process"]["unit"].startswith("run-")
    finally:
        web1.systemctl("disable", "--now", "segctl-exec-gate.path")


def test_a_named_container_reaches_what_its_neighbour_does_not(fleet, web1, permit):
    """Podman keeps names below /var/lib and /run; its storage is mounted after the agent started."""
    web1.check(["sh", "-c", "mkdir -p /mnt/box; mount -t tmpfs none /var/lib/containers; mount --bind / /mnt/box"])
    web1.write("/etc/containers/containers.conf", "[containers]\nkeyring = false\n")
    try:
        permit("{container: reporter}")
        run = [*AS_UNIT, *PODMAN, "--network", "host", *LIMITS]
        allowed = web1.run([*run, "--name", "reporter", "--rootfs", "/mnt/box", "curl", *FETCH])
        assert allowed.stdout.startswith("stock: 2 orders"), (allowed, fleet.document("host", "show", "web1"))
        refused = web1.run([*run, "--name", "stranger", "--rootfs", "/mnt/box", "curl", *FETCH])
        assert refused.returncode != 0, refused
        assert "connect" in refused.stderr, refused
    finally:
        web1.check(["umount", "/mnt/box"])
