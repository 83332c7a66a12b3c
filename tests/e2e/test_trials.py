"""A push on trial, on real kernels: what ends it, and where every host then is."""

import json
import re
from contextlib import contextmanager

from lab.chapters import CRON_TO_API, WEB_TO_API
from lab.fleet import BIN
from lab.flows import wrong
from lab.wait import until
from tests.e2e.test_faults import CRON_RULES, egress_open, watched


@contextmanager
def on_trial(fleet, directory, *options):
    """A push that watches for a minute; gives its process as soon as every host proved it."""
    command = ["env", f"SEGCTL_CONFIG={fleet.admin_directory}", "PYTHONUNBUFFERED=1", str(BIN / "segctl"), "push"]
    push = fleet.control.popen([*command, str(directory), "--yes", "--json", "--watch", "60", *options])
    try:
        while json.loads(push.stdout.readline()).get("name") != "watching":
            assert push.poll() is None, "the push ended before it was on trial"
        yield push
    finally:
        push.kill()
        push.wait()


def outcome(push):
    """(exit code, the last record of the push)"""
    out, err = push.communicate(timeout=100)
    assert out, err
    return push.returncode, json.loads(out.splitlines()[-1])


def test_on_trial_it_is_in_force_and_a_rollback_ends_it(fleet, policy):
    with on_trial(fleet, policy.add(CRON_RULES)) as push:
        assert egress_open(fleet, "api1", 8080)
        trial = fleet.document("status")["trial"]
        assert (trial["phase"]["name"], trial["proven"]) == ("watching", len(fleet.managed))
        ended = fleet.segctl("rollback", "--yes")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        code, done = outcome(push)
        assert (code, done["undone"], done["why"]) == (1, True, "alice ended it")
    assert wrong(fleet, CRON_TO_API, WEB_TO_API) == []
    fleet.await_in_sync()
    newest, before = fleet.document("history", "--limit", "2")
    assert (newest["state"], before["active"]) == ("undone", True)


def test_a_host_that_loses_its_controller_on_trial_returns_and_all_with_it(fleet, policy):
    with on_trial(fleet, policy.add(CRON_RULES), "--wait", "5") as push:
        fleet.lab.partition("web1", True)
        try:
            until("web1 returned by itself", lambda: not egress_open(fleet, "api1", 8080), 60, every=0.5)
        finally:
            fleet.lab.partition("web1", False)
        code, done = outcome(push)
    assert (code, done["undone"]) == (1, True)
    assert "web1" in done["why"]
    fleet.await_in_sync(60)
    assert wrong(fleet, CRON_TO_API, WEB_TO_API) == []


def test_a_controller_that_dies_on_trial_leaves_the_generation_before(fleet, policy):
    with on_trial(fleet, policy.add(CRON_RULES)) as push:
        fleet.kill_controller()
        push.communicate()
        until("web1 returned by itself", lambda: not egress_open(fleet, "api1", 8080), 60, every=0.5)
        fleet.start_controller()
    fleet.await_in_sync(60)
    newest, before = fleet.document("history", "--limit", "2")
    assert (newest["state"], before["active"]) == ("undone", True)
    assert newest["why"] == "the controller ended while it was on trial"
    assert wrong(fleet, CRON_TO_API, WEB_TO_API) == []


def test_enforcement_that_breaks_what_was_seen_is_undone_unless_it_is_accepted(fleet, policy):
    path = policy.directory / "access.yaml"
    enforced = path.read_text()
    path.write_text(re.sub(r"(select: {env: prod}, mode:) \w+", r"\1 observe", enforced))
    fleet.push(policy.directory)
    with watched(fleet, "cron.service", "open,4,api1,8080"):
        until("the flow is known", lambda: seen(fleet), 30, every=0.5)
        path.write_text(enforced)
        pushed = fleet.segctl("push", str(policy.directory), "--yes", "--watch", "20")
        assert pushed.returncode == 1, pushed.stdout + pushed.stderr
        assert re.search(r"took it back: tcp/8080 .* passed before, and is denied", pushed.stdout)
        assert wrong(fleet, CRON_TO_API) != []  # it passes, as before
        accepted = fleet.segctl("push", str(policy.directory), "--yes", "--watch", "5", "--accept-denials")
        assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert wrong(fleet, CRON_TO_API, WEB_TO_API) == []


def seen(fleet):
    flows = fleet.document("flows", "--host", "web1")["flows"]
    return any(flow["peer_host"] == "api1" and flow["verdict"] == "observed" for flow in flows)
