"""Who may be a host or an administrator of the fleet, and who may not any more."""

import shutil
import time

from lab.fleet import AGENT, AGENT_STATE, AGENT_UNIT, BIN, CONTROLLER, CONTROLLER_STATE, own_directory
from lab.flows import Flow, wrong
from lab.host import REPOSITORY
from lab.wait import until

SHOP = REPOSITORY / "examples" / "shop"


def steal(fleet, host, by):
    """Copy the whole agent state of `host` to the host `by`."""
    target = fleet.lab.hosts[by].state / "lib" / "segctl-agent"
    own_directory(target, "segctl-agent")
    shutil.copytree(fleet.lab.hosts[host].state / "lib" / "segctl-agent", target, dirs_exist_ok=True)
    fleet.lab.hosts[by].check(["chown", "-R", "segctl-agent:segctl-agent", AGENT_STATE])


def test_a_token_is_used_once(small_fleet):
    token = small_fleet.token("web1", "--replace")
    small_fleet.stop_agent("web1")
    shutil.rmtree(small_fleet.lab.hosts["web1"].state / "lib" / "segctl-agent")
    small_fleet.enrol("web1", token)
    own_directory(small_fleet.lab.hosts["client1"].state / "lib" / "segctl-agent", "segctl-agent")
    again = small_fleet.enrol_with("client1", token)
    assert again.returncode != 0
    assert "token" in again.stderr
    assert token not in again.stderr
    small_fleet.start_agent("web1")
    small_fleet.await_in_sync()


def test_an_unknown_token_and_no_token_are_refused(small_fleet):
    own_directory(small_fleet.lab.hosts["client1"].state / "lib" / "segctl-agent", "segctl-agent")
    assert small_fleet.enrol_with("client1", "bm90aGluZw").returncode != 0
    assert small_fleet.enrol_with("client1", "").returncode != 0
    assert set(small_fleet.host_states()) == {"web1", "api1"}


def test_a_removed_host_is_refused_with_its_old_identity(small_fleet):
    small_fleet.push(SHOP)
    steal(small_fleet, "web1", "client1")
    small_fleet.segctl_checked("host", "remove", "web1", "--yes")
    until("web1 is no host of the fleet", lambda: set(small_fleet.host_states()) == {"api1"}, 10)
    small_fleet.stop_agent("web1")
    small_fleet.start_agent("web1")
    log = small_fleet.lab.units["web1"].log(AGENT_UNIT)
    until("the agent says that it is refused", lambda: "removed" in log.read_text() or "revoked" in log.read_text(), 20)
    small_fleet.lab.units["client1"].start(AGENT_UNIT, [*AGENT, "run", "--state", AGENT_STATE])
    stolen = small_fleet.lab.units["client1"].log(AGENT_UNIT)
    until("the thief is refused too", lambda: "removed" in stolen.read_text() or "revoked" in stolen.read_text(), 20)
    assert set(small_fleet.host_states()) == {"api1"}


def test_two_agents_with_one_identity_are_noticed_and_slow(small_fleet):
    steal(small_fleet, "web1", "client1")
    began = time.monotonic()
    small_fleet.lab.units["client1"].start(AGENT_UNIT, [*AGENT, "run", "--state", AGENT_STATE])

    def noticed():
        status = small_fleet.document("status")
        problems = [text for host in status["hosts"] if host["name"] == "web1" for text in host["problems"]]
        events = [event for event in status["events"] if (event["host"], event["kind"]) == ("web1", "identity")]
        return len(events) == 1 and any("segctl host remove web1" in text for text in problems)

    until("status tells of the second agent and what to do", noticed, 20)
    log = small_fleet.lab.units["client1"].log(AGENT_UNIT)
    until("the thief came back six times", lambda: log.read_text().count("INFO session with the controller") >= 7, 40)
    # With all luck it waited 0.2, 0.2, 0.4, 0.8, 1.6 and 3.2 s between its sessions.
    assert time.monotonic() - began > 6.4

    small_fleet.segctl_checked("host", "remove", "web1", "--yes")
    small_fleet.stop_agent("web1")
    enrol = [*AGENT, "enrol", "--token-file", "-", "--replace", "--state", AGENT_STATE]
    small_fleet.lab.hosts["web1"].check(enrol, stdin=small_fleet.token("web1"))
    small_fleet.start_agent("web1")
    small_fleet.await_in_sync()
    host = next(h for h in small_fleet.document("status")["hosts"] if h["name"] == "web1")
    assert host["connected"]
    assert not any("identity" in text for text in host["problems"])


def test_a_viewer_may_look_and_not_push(small_fleet):
    directory = small_fleet.lab.instance.directory / "viewer"
    own_directory(directory, "segctl")
    add = [*CONTROLLER, "admin", "add", "bob", "--role", "viewer", "--out", str(directory), "--state", CONTROLLER_STATE]
    small_fleet.control.check(add)
    run = [str(BIN / "segctl"), "--config", str(directory)]
    assert small_fleet.control.run([*run, "status"]).returncode == 0
    push = small_fleet.control.run([*run, "push", str(SHOP), "--yes"])
    assert push.returncode == 4, push.stdout + push.stderr
    assert small_fleet.document("history") == []


def test_every_part_can_restart_at_every_step(small_fleet):
    def restart_everything():
        small_fleet.stop_controller()
        small_fleet.start_controller()
        for host in ("web1", "api1"):
            small_fleet.stop_agent(host)
            small_fleet.start_agent(host)
        small_fleet.kill_controller()
        for host in ("web1", "api1"):
            small_fleet.kill_agent(host)
            small_fleet.start_agent(host)
        small_fleet.start_controller()
        until("all are connected", lambda: connected(small_fleet) == {"web1", "api1"}, 60)

    flow = [Flow("web1", "cron.service", "api1", 8080, False)]
    restart_everything()
    small_fleet.push(SHOP)
    restart_everything()
    small_fleet.await_in_sync()
    assert wrong(small_fleet, *flow) == []
    small_fleet.push(SHOP, "--force")
    small_fleet.segctl_checked("rollback", "--yes")
    restart_everything()
    small_fleet.await_in_sync()
    assert wrong(small_fleet, *flow) == []


def connected(fleet):
    return {host["name"] for host in fleet.document("status")["hosts"] if host["connected"]}
