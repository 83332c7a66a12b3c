"""An operator opens a host in an emergency: everybody is told, and the end of it brings what was pushed meanwhile."""

import json
import re

from lab.chapters import CRON_TO_API, WEB_TO_API
from lab.fleet import AGENT, AGENT_STATE, AGENT_UNIT
from lab.flows import wrong
from lab.wait import until


def on_web1(fleet, verb, *options):
    return fleet.lab.hosts["web1"].check([*AGENT, verb, *options, "--state", AGENT_STATE])


def audit(fleet, *actions):
    """Details of the audit entries of these actions, the newest first."""
    return [e["detail"] for e in fleet.document("audit", "--limit", "50") if e["action"] in actions]


def web1(fleet):
    return next(host for host in fleet.document("status")["hosts"] if host["name"] == "web1")


def test_a_released_host_is_shown_and_catches_up(fleet, policy):
    before = fleet.document("history")[0]["number"]
    on_web1(fleet, "release", "--reason", "the shop is down", "--for", "1h")
    try:
        shown = until("the release is told", lambda: (h := web1(fleet))["state"] == "released" and h, 5)
        assert shown["kernel_generation"] == 0
        assert {w["mode"] for w in shown["workloads"]} == {""}
        assert ["segctl-agent load" in problem for problem in shown["problems"]] == [True]
        assert " until 20" in shown["problems"][0] and ": the shop is down" in shown["problems"][0]
        (told,) = until("the audit log has it", lambda: audit(fleet, "release"), 5)
        assert told.endswith("reason: the shop is down")
        status = fleet.segctl("status", "--exit-code")
        assert status.returncode == 1
        assert "All well" not in status.stdout
        explained = fleet.segctl("explain", "web1", "api1/shop-api", "tcp/8080")
        assert explained.returncode == 1, explained.stdout
        assert "released: nothing is enforced" in " ".join(explained.stdout.split())

        changed = policy.replace("shop.yaml", "customers use the shop", "customers use it")
        done = fleet.segctl("push", str(changed), "--yes", "--wait", "5")
        assert done.returncode == 5, done.stdout + done.stderr
        assert "enforces nothing" in done.stdout
        assert "keeps the generation before" not in done.stdout
    finally:
        on_web1(fleet, "load")
    until("web1 holds the newest", lambda: web1(fleet)["kernel_generation"] == before + 1, 10)
    fleet.await_in_sync()
    assert fleet.segctl("status", "--exit-code").returncode == 0
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []
    assert len(until("its end, too", lambda: audit(fleet, "release-ended"), 5)) == 1


def test_a_release_while_the_controller_is_away_is_told_later(fleet):
    """Also when it began and ended, and the agent was killed, before anybody heard of it."""
    before = len(audit(fleet, "release", "release-ended"))
    fleet.stop_controller()
    try:
        on_web1(fleet, "release", "--reason", "in the dark")
        on_web1(fleet, "load")
        fleet.kill_agent("web1")
    finally:
        fleet.start_controller()
    fleet.start_agent("web1")
    told = until("both are told", lambda: (a := audit(fleet, "release", "release-ended"))[before + 1 :] and a, 20)
    assert "in the dark" in told[1]
    assert len(told) == before + 2
    fleet.await_in_sync()


def test_a_renewed_certificate_changes_nothing_that_is_enforced(fleet):
    held = fleet.nft("web1", "list", "table", "inet", "segctl")
    state = fleet.lab.hosts["web1"].state / "lib" / "segctl-agent" / "identity" / "cert.pem"
    certificate = state.read_bytes()
    renewed = on_web1(fleet, "renew")
    assert "renewed: the certificate of web1 ends" in renewed
    assert state.read_bytes() != certificate
    log = fleet.lab.units["web1"].log(AGENT_UNIT)
    until("the agent uses it", lambda: "a new certificate is in use" in log.read_text(), 10)
    fleet.await_in_sync()
    assert any(e["action"] == "renew" and e["subject"] == "host web1" for e in fleet.document("audit"))
    assert _rules(fleet.nft("web1", "list", "table", "inet", "segctl")) == _rules(held)
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []


def test_a_host_that_enforces_is_enrolled_again_by_root(fleet):
    """Its certificate may have ended: the way to enrolment is an essential, of the agent's user alone."""
    web1 = fleet.lab.hosts["web1"]
    about = json.loads((web1.state / "lib" / "segctl-agent" / "identity" / "agent.json").read_text())
    address, _, port = about["enrolment"][0].rpartition(":")
    probe = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    assert web1.run(probe).returncode != 0, "other programs of root get there, too"
    enrol = [*AGENT, "enrol", "--token-file", "-", "--replace", "--state", AGENT_STATE]
    assert "enrolled: web1" in web1.check(enrol, stdin=f"{fleet.token('web1', '--replace')}\n")
    fleet.stop_agent("web1")
    fleet.start_agent("web1")
    fleet.await_in_sync()
    assert wrong(fleet, WEB_TO_API, CRON_TO_API) == []


def _rules(text):
    """Without what counts by itself."""
    return re.sub(r"packets \d+ bytes \d+|expires \S+", "", text)
