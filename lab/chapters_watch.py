"""The last chapters of the demo: who talks, which rules are used, who tampers, and who changed what."""

from __future__ import annotations

from typing import Any

from lab.chapters import NGINX, WEB_TO_API, WEB_TO_DB
from lab.chapters_change import CRON
from lab.story import Demo
from lab.wait import until

REPORT_SECONDS = 20
"""Agents look at flows and hits every five seconds; a busy machine takes longer."""


def who_talks(demo: Demo) -> None:
    demo.story.step("Who talks to whom?", "What passed, with the workload of both ends and the rule that let it pass.")
    wanted = {"workload": "shop-web", "direction": "egress", "peer_host": "api1", "peer_workload": "shop-api"}

    def told() -> list[dict[str, Any]]:
        flows = demo.fleet.document("flows", "--host", "web1")["flows"]
        return [flow for flow in flows if wanted.items() <= flow.items() and flow["rule"] == "web-to-api"]

    found = until("web1 and api1 tell their ends of a flow", told, REPORT_SECONDS, every=0.5)
    demo.story.segctl("flows", "--host", "web1")
    number = sum(flow["flows"] for flow in found)
    demo.story.check(number > 0, "web1/shop-web to api1/shop-api, by rule web-to-api", f"{number} flows")


def the_map(demo: Demo) -> None:
    demo.story.step("The map of it.", "Roles instead of hosts, and what the policy says of each edge.")
    demo.story.segctl("map", "--by", "app,role")
    edges = demo.fleet.document("map", "--by", "app,role")["edges"]
    number = sum(edge["flows"] for edge in edges if edge["service"] == "tcp/8080")
    demo.story.check(number > 0, "web servers to the API, tcp/8080", f"{number} flows")


def which_rules_are_used(demo: Demo) -> None:
    demo.story.step("Which rules does anybody need?")

    def told() -> dict[str, int]:
        hits = {use["rule"]: use["hits"] for use in demo.fleet.document("report", "rules")}
        return hits if all(hits.get(rule) for rule in ("clients-to-web", "web-to-api", "api-to-db")) else {}

    hits = until("the hits of the shop's rules are told", told, REPORT_SECONDS, every=0.5)
    demo.story.segctl("report", "rules")
    demo.story.check(hits["web-to-api"] > 0, "web-to-api is used", f"{hits['web-to-api']} hits")
    demo.story.check(hits["bastion-ssh"] == 0, "bastion-ssh was never hit: nobody logged in")


def tampering(demo: Demo) -> None:
    """Linux 6.9 refuses changes of an owned table; an older kernel has it changed, and the agent puts it back."""
    host = demo.fleet.lab.hosts["web1"]
    owned = demo.fleet.document("host", "show", "web1")["table_guard"] == "owned"
    demo.story.step("Root on web1 opens a way out, by hand.")
    rule = ["insert", "rule", "inet", "segctl", "output", "accept"]
    done = host.run(["nft", *rule])
    demo.story.typed(f"web1: nft {' '.join(rule)}", done.stderr)
    if owned:
        refused = done.returncode != 0 and "not permitted" in done.stderr
        demo.story.check(refused, "the kernel refuses it: the table is the agent's")
    else:
        event = until("the tampering is told", lambda: _tampered(demo, "nft"), REPORT_SECONDS)
        demo.story.check(event["culprit_name"] == "nft", "it is undone and told", event["message"])
    demo.story.flows(WEB_TO_DB, WEB_TO_API)
    demo.story.step("Root moves cron into nginx's cgroup.", "This the kernel permits, so it is told.")
    units = demo.fleet.lab.units["web1"]
    pid = units.cgroup(CRON).joinpath("cgroup.procs").read_text().split()[0]
    units.cgroup(NGINX).joinpath("cgroup.procs").write_text(pid)
    demo.story.typed(f"web1: echo {pid} > /sys/fs/cgroup/system.slice/{NGINX}/cgroup.procs")
    event = until("the move is told", lambda: _tampered(demo, f"pid {pid}"), REPORT_SECONDS, every=0.5)
    demo.story.segctl("status")
    demo.story.check(NGINX in event["message"], "the event names the process and where it is now")
    demo.story.typed(f"web1: systemctl restart {CRON}")
    units.restart(demo.fleet.lab.spec("web1").unit(CRON))


def _tampered(demo: Demo, words: str) -> dict[str, Any]:
    events = demo.fleet.document("status")["events"]
    mine = [one for one in events if (one["kind"], one["host"]) == ("tamper", "web1")]
    return next((one for one in mine if words in f"{one['message']} {one['culprit_name']}"), {})


def account(demo: Demo) -> None:
    demo.story.step("Who did what.")
    demo.story.segctl("history")
    demo.story.segctl("audit", "--limit", "8")
    history = demo.fleet.document("history")
    rolled = [one["number"] for one in history if one["rollback_of"]]
    demo.story.check(len(history) == 5 and rolled == [4], "five generations, the fourth a rollback")
