"""An operator opens a host in an emergency: everybody is told, and the end of it brings what was pushed meanwhile."""

from lab.chapters import CRON_TO_API, WEB_TO_API
from lab.fleet import AGENT, AGENT_STATE
from lab.flows import wrong
from lab.wait import until


def on_web1(fleet, verb):
    return fleet.lab.hosts["web1"].check([*AGENT, verb, "--state", AGENT_STATE])


def web1(fleet):
    return next(host for host in fleet.document("status")["hosts"] if host["name"] == "web1")


def test_a_released_host_is_shown_and_catches_up(fleet, policy):
    before = fleet.document("history")[0]["number"]
    on_web1(fleet, "release")
    try:
        shown = until("the release is told", lambda: (h := web1(fleet))["state"] == "released" and h, 5)
        assert shown["kernel_generation"] == 0
        assert {w["mode"] for w in shown["workloads"]} == {""}
        assert ["segctl-agent load" in problem for problem in shown["problems"]] == [True]
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
