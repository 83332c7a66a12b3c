"""From real connections to `segctl flows`, to what a push would cut, and to the end of a session that says nothing."""

from pathlib import Path

from lab.chapters import NGINX
from lab.host import PROGRAM, PYTHON
from lab.wait import until
from tests.e2e.conftest import SHOP

RULE = "  - {name: cron-to-api, from: {workload: host, role: web}, to: {workload: shop-api}, allow: [shop-api],\n"


def flow(fleet, **wanted):
    return next((f for f in fleet.document("flows")["flows"] if wanted.items() <= f.items()), None)


def test_a_silent_session_is_seen_foretold_and_ended(fleet, policy):
    fleet.push(policy.add(f"{RULE}     owner: web, why: nightly job, review: 2030-01-01}}\n"))
    web1 = fleet.lab.hosts["web1"]
    sessions = {
        "revoked": web1.popen([*PROGRAM, "hold", "api1", "8080", "--silent"], unit="cron.service"),
        "kept": web1.popen([*PROGRAM, "hold", "api1", "8080", "--silent", "--family", "6"], unit=NGINX),
    }
    try:
        assert [session.stdout.readline() for session in sessions.values()] == ["connected\n", "connected\n"]
        ends = {"service": "tcp/8080", "rule": "cron-to-api", "verdict": "allowed"}
        sent = {**ends, "host": "web1", "workload": "host", "direction": "egress", "peer_host": "api1"}
        taken = {**ends, "host": "api1", "workload": "shop-api", "direction": "ingress", "peer_host": "web1"}
        for one in (sent, taken):
            until(f"the flow is told by {one['host']}", lambda one=one: flow(fleet, **one), 40)
        plan = fleet.document("plan", str(SHOP))
        assert plan["unasked"] == []
        (cut,) = plan["cuts"]  # api1 knows no process of web1: to it web-to-api permits the same
        assert (cut["host"], cut["direction"], cut["rule"]) == ("web1", "egress", "cron-to-api")
        assert cut["process"]["unit"] == "cron.service"
        fleet.push(SHOP)
        until("the silent session ends", lambda: sessions["revoked"].poll() is not None, 5)
        assert sessions["revoked"].stdout.read().startswith("cut: ")
        assert sessions["kept"].poll() is None
    finally:
        for session in sessions.values():
            session.kill()
            session.wait()


UNSEGMENTED = """version: 1
tags: {role: [web, api, db, bastion], app: [shop], env: [dev, prod]}
rules: []
"""


def test_without_any_workload_flows_name_the_processes_of_both_ends(fleet, tmp_path):
    (tmp_path / "policy.yaml").write_text(UNSEGMENTED)
    fleet.push(tmp_path)
    ssh = {"service": "tcp/22", "workload": "host", "verdict": "observed", "peer_workload": "host"}
    python = f"exe:{Path(PYTHON).resolve()}"
    sessions = [
        fleet.lab.hosts["db1"].popen([*PROGRAM, "hold", "dev1", "22", "--silent"]),
        fleet.lab.hosts["api1"].popen([*PROGRAM, "hold", "web1", "22", "--silent"], unit="cron.service"),
    ]
    try:
        assert [session.stdout.readline() for session in sessions] == ["connected\n"] * 2
        for source, process, destination in (("db1", python, "dev1"), ("api1", "unit:cron.service", "web1")):
            sent = {**ssh, "host": source, "direction": "egress", "process": process, "peer_host": destination}
            taken = {**ssh, "host": destination, "direction": "ingress", "process": "unit:ssh.service"}
            sent["peer_process"], taken["peer_process"] = "unit:ssh.service", process
            for one in (sent, {**taken, "peer_host": source}):
                until(f"the flow is told by {one['host']}", lambda one=one: flow(fleet, **one), 40)
        found = fleet.document("flows", "--process", "cron", "--host", "api1")["flows"]
        assert {f["process"] for f in found} == {"unit:cron.service"}
        assert "web1/host (ssh)" in fleet.segctl("flows", "--host", "api1").stdout
        heading, *rows = fleet.segctl("flows", "--process", python, "--csv").stdout.splitlines()
        assert heading.endswith(",process,peer_process")
        assert any(row.endswith(f",{python},unit:ssh.service") for row in rows)
    finally:
        for session in sessions:
            session.kill()
            session.wait()
