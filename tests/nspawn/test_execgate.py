"""The exec gate as its unit runs it, with all its hardening: two programs of one unit told apart."""

import shutil

from tests.nspawn.conftest import POLICY

GATED, STRANGER = "/usr/local/bin/stock-report", "/usr/local/bin/other-report"


def test_a_named_program_reaches_what_its_neighbour_does_not(fleet, web1, tmp_path):
    for program in (GATED, STRANGER):
        web1.check(["install", "-m", "755", "/usr/bin/curl", program])
    changed = shutil.copytree(POLICY, tmp_path / "policy")
    text = (changed / "shop.yaml").read_text()
    workload = f"  report: {{on: {{role: web}}, process: {{executable: {GATED}}}}}\n"
    rule = "  - {name: report-to-stock, from: {workload: report}, to: {workload: shop-stock}, allow: [stock], "
    text = text.replace("\nmodes:\n", f"{workload}\nmodes:\n")
    (changed / "shop.yaml").write_text(f"{text}{rule}owner: t, why: reports, review: 2030-05-01}}\n")
    web1.systemctl("enable", "--now", "segctl-exec-gate.path")
    try:
        fleet.push(changed)
        web1.await_restart("segctl-exec-gate.service", 0)
        fetch = ["-sS", "--noproxy", "*", "--max-time", "5", "http://10.77.2.11:8090/"]
        allowed = web1.run(["systemd-run", "--quiet", "--pipe", "--wait", GATED, *fetch])
        assert allowed.stdout.startswith("stock: 2 orders"), (allowed, web1.journal("segctl-exec-gate.service"))
        refused = web1.run(["systemd-run", "--quiet", "--pipe", "--wait", STRANGER, *fetch])
        assert refused.returncode != 0, refused
        denial = fleet.denied("web1", direction="egress", peer_host="api1", process_exe=STRANGER)
        assert denial["process"]["unit"].startswith("run-")
    finally:
        fleet.push(POLICY)
        web1.systemctl("disable", "--now", "segctl-exec-gate.path")
