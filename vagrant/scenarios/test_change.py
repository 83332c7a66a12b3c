"""Policies that change, parts that end, somebody who tampers: what is in force stays in force."""

from __future__ import annotations

import pytest

from lab.chapters import CRON_TO_API, NGINX
from lab.fleet import AGENT_UNIT, CONTROLLER_UNIT
from lab.flows import Flow, wrong
from lab.wait import until

WEB_TO_API = Flow("web1", NGINX, "api1", 8080, True)
CRON_RULE = """version: 1
rules:
  - {name: cron-to-api, from: {workload: host, role: web}, to: {workload: shop-api}, allow: [shop-api],
     owner: web, why: nightly job, review: 2030-01-01}
"""
SECONDS = 60
pytestmark = pytest.mark.needs("web1", "api1")


def test_a_rollback_cuts_the_session_it_no_longer_allows_and_no_other(fleet, policy):
    (policy / "more.yaml").write_text(CRON_RULE)
    fleet.push(policy)
    hold = [*fleet.program, "hold", "api1", "8080", "--timeout", str(fleet.patience)]
    sessions = {
        "revoked": fleet.popen("web1", hold, unit="cron.service"),
        "kept": fleet.popen("web1", [*hold, "--family", "6"], unit=NGINX),
    }
    try:
        assert [session.stdout.readline() for session in sessions.values()] == ["connected\n", "connected\n"]
        fleet.segctl_checked("rollback", "--yes", "--watch", "0", seconds=300)
        until("the revoked session ends", lambda: sessions["revoked"].poll() is not None, SECONDS)
        assert sessions["revoked"].stdout.read().startswith("cut: ")
        assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
        assert sessions["kept"].poll() is None
    finally:
        for session in sessions.values():
            session.kill()
            session.wait()


def test_a_push_that_breaks_a_policy_test_changes_nothing(fleet, policy):
    before = fleet.document("history")
    shop = policy / "shop.yaml"
    text = shop.read_text().replace("allow: [shop-api]\n    owner", "allow: [ssh]\n    owner")
    assert text != shop.read_text()
    shop.write_text(text)
    done = fleet.segctl("push", str(policy), "--yes", seconds=300)
    assert done.returncode == 1
    assert "shop.yaml" in done.stdout + done.stderr
    assert fleet.document("history") == before
    assert wrong(fleet, WEB_TO_API) == []


def test_without_their_controller_agents_enforce_and_follow(fleet):
    controller = fleet.topology.controller
    fleet.stop_unit(controller, CONTROLLER_UNIT)
    try:
        fleet.stop_unit("web1", NGINX)
        fleet.start_unit("web1", NGINX)
        assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    finally:
        fleet.start_unit(controller, CONTROLLER_UNIT)
    fleet.await_in_sync(SECONDS * 5)


def test_without_its_agent_a_host_enforces(fleet):
    fleet.kill_unit("web1", AGENT_UNIT)
    fleet.stop_unit("web1", AGENT_UNIT) if fleet.systemd else None
    try:
        assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    finally:
        fleet.start_unit("web1", AGENT_UNIT)
    fleet.await_in_sync(SECONDS * 5)
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []


def test_who_tampers_is_refused_or_undone_and_told(fleet):
    """Linux 6.9 keeps others out of the table; on an older one it is put back, and who changed it is told."""
    owned = fleet.document("host", "show", "web1")["table_guard"] == "owned"
    release = tuple(int(word) for word in fleet.run("web1", ["uname", "-r"]).stdout.split("-")[0].split(".")[:2])
    assert owned == (release >= (6, 9))
    seen = {event["at"] for event in fleet.document("status")["events"]}
    done = fleet.run("web1", ["nft", "insert", "rule", "inet", "segctl", "output", "accept"])
    assert (done.returncode != 0) == owned, done.stderr

    def tampers():
        new = [event for event in fleet.document("status")["events"] if event["at"] not in seen]
        return [event for event in new if (event["kind"], event["host"]) == ("tamper", "web1")]

    if not owned:
        assert until("the tampering is told", tampers, SECONDS)[0]["culprit_name"] == "nft"
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    if owned:
        assert tampers() == []


@pytest.mark.needs("client1")
def test_a_host_that_is_cut_off_keeps_its_rules_and_comes_back(fleet):
    fleet.partition("api1", cut=True)
    try:
        assert wrong(fleet, Flow("web1", NGINX, "api1", 8080, False)) == []
    finally:
        fleet.partition("api1", cut=False)
    fleet.await_in_sync(SECONDS * 5)
    assert wrong(fleet, WEB_TO_API, Flow("client1", "", "api1", 8080, False)) == []
