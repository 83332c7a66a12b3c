"""What ends, is killed or goes away: the rules stay, nothing is half applied, and everything is whole again after."""

import json
import random
import subprocess
import time
from contextlib import contextmanager

import pytest

from lab.chapters import API, API_TO_DB, CLIENT_TO_WEB, CRON_TO_API, DB, DEV_TO_API, NGINX, WEB_TO_API
from lab.flows import Flow, wrong
from lab.host import PROGRAM
from lab.wait import until

CRON_RULES = """
  - {name: cron-to-api, from: {workload: host, role: web}, to: {workload: shop-api}, allow: [shop-api],
     owner: web, why: nightly job, review: 2030-01-01}
  - {name: cron-to-db, from: {workload: host, role: web}, to: {workload: shop-db}, allow: [postgres],
     owner: web, why: nightly job, review: 2030-01-01}
"""


@contextmanager
def watched(fleet, unit, *targets):
    """Connect to the targets (open|closed,4|6,HOST,PORT) from web1 without end; yields the report, filled when the
    block ends."""
    report = {}
    process = fleet.lab.hosts["web1"].popen([*PROGRAM, "watch", *targets], unit=unit, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "watching\n"
        yield report
        report.update(json.loads(process.communicate(timeout=20)[0]))
    finally:
        process.kill()
        process.wait()


def wrong_verdicts(report):
    assert all(seen["probes"] > 20 for seen in report.values()), report
    return [words for seen in report.values() for words in seen["wrong"]]


def test_without_their_controller_agents_enforce_and_follow_their_hosts(fleet):
    fleet.stop_controller()
    try:
        assert wrong(fleet, CLIENT_TO_WEB, WEB_TO_API, CRON_TO_API, DEV_TO_API) == []
        for host, unit in (("web1", NGINX), ("api1", API), ("db1", DB)):
            fleet.lab.units[host].restart(fleet.lab.spec(host).unit(unit))
        assert wrong(fleet, CLIENT_TO_WEB, WEB_TO_API, API_TO_DB, CRON_TO_API) == []
        assert wrong(fleet, Flow("db1", "cron.service", "bastion1", 4444, False)) == []
    finally:
        fleet.start_controller()
    fleet.await_in_sync(60)

    def told():
        return [
            one for one in fleet.records("denied", "--limit", "1000", "--host", "db1") if one["service"] == "tcp/4444"
        ]

    assert until("the denial of the time alone is told", told, 20)[0]["peer_host"] == "bastion1"


def test_an_agent_without_a_controller_restarts_into_its_last_generation(fleet):
    fleet.stop_controller()
    try:
        fleet.stop_agent("web1")
        fleet.nft("web1", "delete", "table", "inet", "segctl")
        began = time.monotonic()
        fleet.start_agent("web1")
        print(f"agent start to enforced from disk: {(time.monotonic() - began) * 1000:.0f} ms")
        assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    finally:
        fleet.start_controller()
    fleet.await_in_sync(60)


def test_a_restart_of_agents_leaves_no_gap(fleet):
    opened = watched(fleet, NGINX, "open,4,api1,8080", "open,6,api1,8080")
    closed = watched(fleet, "cron.service", "closed,4,api1,8080", "closed,6,api1,8080")
    with opened as passing, closed as refused:
        for host in ("web1", "api1"):
            fleet.stop_agent(host)
            fleet.start_agent(host)
            fleet.kill_agent(host)
            fleet.start_agent(host)
        fleet.await_in_sync()
    assert wrong_verdicts(passing) == []
    assert wrong_verdicts(refused) == []


def test_pushes_never_show_a_wrong_verdict(fleet, policy):
    """What both policies say stays so through every change."""
    opened = watched(fleet, NGINX, "open,4,api1,8080", "open,6,api1,8080")
    closed = watched(fleet, "cron.service", "closed,4,api1,22", "closed,6,api1,22")
    with opened as passing, closed as refused:
        for _ in range(4):
            fleet.push(policy.add(CRON_RULES))
            (policy.directory / "more.yaml").unlink()
            fleet.push(policy.directory)
    assert wrong_verdicts(passing) == []
    assert wrong_verdicts(refused) == []


def egress_open(fleet, host, port):
    """Does web1 let its cron out to there? An outgoing denial is told to the caller, at the latest with its first
    retransmit; silence or an answer means that web1 let it go."""
    answer = fleet.call("web1", host, port, unit="cron.service")
    return answer.open or "no answer" in answer.text


def test_an_agent_killed_while_it_applies_leaves_a_whole_generation(fleet, policy, push_in_background):
    rng = random.Random(20260801)
    more = policy.directory / "more.yaml"
    for with_cron in (True, False, True, False):
        if with_cron:
            policy.add(CRON_RULES)
        else:
            more.unlink()
        push = push_in_background(fleet, policy.directory, "--wait", "1")
        time.sleep(rng.uniform(0.0, 0.15))
        fleet.kill_agent("web1")
        push.communicate()  # undone, when the agent died in the middle of it
        verdicts = {egress_open(fleet, "api1", 8080), egress_open(fleet, "db1", 5432)}
        assert len(verdicts) == 1, "the kernel holds half a generation"
        assert wrong(fleet, WEB_TO_API) == []
        fleet.start_agent("web1")
        fleet.await_in_sync()
        opened = fleet.document("history")[0]["active"] == with_cron
        assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, opened)) == []
        fleet.push(policy.directory)
        assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, with_cron)) == []


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
def test_a_controller_killed_during_a_push_has_made_it_or_not(fleet, policy, push_in_background, delay):
    before = fleet.document("history")[0]["number"]
    push = push_in_background(fleet, policy.add(CRON_RULES))
    time.sleep(delay)  # when, not how long: the kill has to fall into the push
    fleet.kill_controller()
    push.communicate()
    fleet.start_controller()
    fleet.await_in_sync(60)
    newest = fleet.document("history")[0]
    made = newest["number"] == before + 1 and newest["active"]
    assert newest["active"] or newest["state"] == "undone"
    assert wrong(fleet, WEB_TO_API, Flow("web1", "cron.service", "api1", 8080, made)) == []


def test_a_host_that_was_cut_off_takes_what_it_missed(fleet, policy):
    fleet.lab.partition("web1", True)
    try:
        done = fleet.segctl("push", str(policy.add(CRON_RULES)), "--yes")
        assert done.returncode == 5, done.stdout + done.stderr
        assert "web1" in done.stdout + done.stderr
    finally:
        fleet.lab.partition("web1", False)
    fleet.await_in_sync(60)
    assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, True)) == []
