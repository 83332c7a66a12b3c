"""The way of a fleet into enforcement: observe, then test, then enforce."""

import re

from lab.chapters import CRON_TO_API, WEB_TO_API
from lab.flows import Flow, wrong
from lab.host import PROGRAM
from lab.wait import until

PASSING = Flow("web1", "cron.service", "api1", 8080, True)


def of_cron(fleet, verdict, since):
    listed = fleet.records("denied", "--host", "web1", "--limit", "1000")
    told = [one for one in listed if one["kind"] == "denial"]
    return [one for one in told if one["verdict"] == verdict and one["generation"] >= since]


def modes(fleet):
    web1 = next(host for host in fleet.document("status")["hosts"] if host["name"] == "web1")
    return {workload["mode"] for workload in web1["workloads"]}


def pushed(fleet, policy, mode):
    """Push the policy with production in `mode`; returns the number of its generation."""
    path = policy.directory / "access.yaml"
    path.write_text(re.sub(r"(select: {env: prod}, mode:) \w+", rf"\1 {mode}", path.read_text()))
    fleet.push(policy.directory)
    return fleet.document("history")[0]["number"]


def test_observe_then_test_then_enforce(fleet, policy):
    observe = pushed(fleet, policy, "observe")
    assert modes(fleet) == {"observe"}
    assert wrong(fleet, PASSING, WEB_TO_API) == []

    test = pushed(fleet, policy, "test")
    assert modes(fleet) == {"test"}
    session = fleet.lab.hosts["web1"].popen([*PROGRAM, "hold", "api1", "8080"], unit="cron.service")
    try:
        assert session.stdout.readline() == "connected\n"
        one = until("the would-be denial is told", lambda: of_cron(fleet, "would-deny", test), 5)[0]
    finally:
        session.kill()
        session.wait()
    assert wrong(fleet, PASSING, WEB_TO_API) == []
    assert (one["peer_host"], one["service"], one["process"]["unit"]) == ("api1", "tcp/8080", "cron.service")
    assert of_cron(fleet, "denied", observe) == []
    assert [one for one in of_cron(fleet, "would-deny", observe) if one["generation"] < test] == []

    enforce = pushed(fleet, policy, "enforce")
    assert modes(fleet) == {"enforce"}
    assert wrong(fleet, CRON_TO_API, WEB_TO_API) == []
    assert until("the denial is told", lambda: of_cron(fleet, "denied", enforce), 5)
