"""The first chapters of the demo: a fleet gets a policy, and what that means. Each shows one thing and checks it."""

from __future__ import annotations

from typing import Any

from lab.flows import Flow
from lab.host import PROGRAM
from lab.story import Demo
from lab.wait import until

NGINX, API, DB = "nginx.service", "shop-api.service", "postgresql@15-main.service"
CLIENT_TO_WEB = Flow("client1", "", "web1", 80, True)
WEB_TO_API = Flow("web1", NGINX, "api1", 8080, True, say="ask", hears="postgres 15", user="www-data")
API_TO_DB = Flow("api1", API, "db1", 5432, True, user="shop")
CRON_TO_API = Flow("web1", "cron.service", "api1", 8080, False)
WEB_TO_DB = Flow("web1", NGINX, "db1", 5432, False)
DEV_TO_API = Flow("dev1", NGINX, "api1", 8080, False)


def the_fleet(demo: Demo) -> None:
    demo.story.step("A shop: web, api, database, bastion and a development host, each with an agent.")
    demo.story.segctl("status")
    hosts = demo.fleet.document("status")["hosts"]
    up = [host["name"] for host in hosts if host["connected"]]
    demo.story.check(len(up) == len(demo.fleet.managed), f"{len(up)} agents are connected", ", ".join(up))


def before(demo: Demo) -> None:
    demo.story.step("Before a policy, everything reaches everything.")
    anywhere = [Flow("dev1", NGINX, "db1", 5432, True), Flow("web1", "cron.service", "api1", 8080, True)]
    demo.story.flows(CLIENT_TO_WEB, *anywhere, Flow("web1", NGINX, "db1", 22, True))


def plan_and_push(demo: Demo) -> None:
    demo.story.step(
        "What would the shop's policy change?", "Rules by tag and process, one boundary, and its own tests."
    )
    demo.story.segctl("plan", demo.policy.name)
    demo.story.step("Push it.", "Every host answers with what it read back from its kernel.")
    demo.story.segctl("push", demo.policy.name, "--yes", "--message", "segment the shop", after="Generation")
    in_sync = [host["name"] for host in demo.fleet.document("status")["hosts"] if host["state"] == "in-sync"]
    demo.story.check(len(in_sync) == len(demo.fleet.managed), "every host proved it", ", ".join(in_sync))


def permitted(demo: Demo) -> None:
    demo.story.step("What the rules allow passes.")
    demo.story.flows(CLIENT_TO_WEB, WEB_TO_API, API_TO_DB)


def wrong_process(demo: Demo) -> None:
    demo.story.step(
        "The same destination, from another process of the same host.", "Not the host has access: nginx has."
    )
    demo.story.flows(WEB_TO_API, CRON_TO_API)


def wrong_listener(demo: Demo) -> None:
    demo.story.step("A listener that is not the named process.", "On api1 something else takes port 8080.")
    units, spec = demo.fleet.lab.units["api1"], demo.fleet.lab.spec("api1").unit(API)
    demo.story.typed("api1: systemctl stop shop-api; systemctl start rogue   # listens on 8080")
    units.stop(API)
    units.start("rogue.service", [*PROGRAM, "serve", "8080", "--banner", "give me your data"])
    demo.story.flows(Flow("web1", NGINX, "api1", 8080, False))
    units.stop("rogue.service")
    units.start_all([spec])


def boundary(demo: Demo) -> None:
    demo.story.step("Development stays out of production.", "A boundary: no rule can open it.")
    demo.story.flows(DEV_TO_API, Flow("dev1", "", "db1", 22, False))


def restart(demo: Demo) -> None:
    demo.story.step("A unit restarts and gets a new cgroup; its rules follow.")
    for host, name in (("web1", NGINX), ("api1", API)):
        demo.story.typed(f"{host}: systemctl restart {name}")
        old, new = demo.fleet.lab.units[host].restart(demo.fleet.lab.spec(host).unit(name))
        demo.story.check(old != new, f"{name} has another cgroup", f"{old} is now {new}")
    demo.story.flows(WEB_TO_API, CLIENT_TO_WEB)


def denials(demo: Demo) -> None:
    demo.story.step("Every refused connection comes back with its process, and what would allow it.")

    def told() -> list[dict[str, Any]]:
        found = demo.fleet.records("denied")
        wanted = {("web1", "egress"), ("api1", "ingress"), ("dev1", "egress")}
        return found if wanted <= {(one.get("host"), one.get("direction")) for one in found} else []

    found = until("the denials of web1, api1 and dev1 are at the controller", told, 5)
    demo.story.segctl("denied")
    demo.story.segctl("denied", "--host", "web1", "--limit", "1", "--wide", "--suggest")
    cron = next((one for one in found if is_cron(one)), None)
    process = (cron or {}).get("process") or {}
    named = {"user": "root", "unit": "cron.service"}
    holds = all(process.get(key) == value for key, value in named.items()) and process.get("pid", 0) > 0
    seen = f"{process.get('command', '')} (pid {process.get('pid')}, {process.get('user')}, {process.get('unit')})"
    demo.story.check(holds, "the process of web1's denial is named", seen)
    reasons = {one["rule"] for one in found if one.get("host") == "dev1"}
    demo.story.check("dev-stays-out-of-prod" in reasons, "dev1's denials name the boundary", ", ".join(sorted(reasons)))
    suggestion = (cron or {}).get("suggestion", "")
    demo.story.check("shop-api" in suggestion, "a rule is suggested")


def is_cron(one: dict[str, Any]) -> bool:
    unit = (one.get("process") or {}).get("unit")
    return one.get("host") == "web1" and unit == "cron.service" and one.get("peer_host") == "api1"


def explained(demo: Demo) -> None:
    demo.story.step("Why? The answer of the policy and of the live kernels.")
    demo.story.segctl("explain", "web1/host", "api1/shop-api", "tcp/8080", "--live")
    expected = [
        ("web1/shop-web", "api1/shop-api", "tcp/8080", "allowed"),
        ("web1/host", "api1/shop-api", "tcp/8080", "denied"),
        ("api1/shop-api", "db1/shop-db", "tcp/5432", "allowed"),
        ("web1/shop-web", "db1/shop-db", "tcp/5432", "denied"),
        ("dev1/shop-web", "api1/shop-api", "tcp/8080", "denied"),
        ("10.77.200.5", "web1/shop-web", "tcp/80", "allowed"),
        ("fd77:200::5", "web1/shop-web", "tcp/80", "allowed"),
        ("10.77.200.5", "db1/shop-db", "tcp/5432", "denied"),
    ]
    for source, destination, service, verdict in expected:
        told = demo.fleet.document("explain", source, destination, service, "--live")
        asked = {end["host"]: end["kernel_verdict"] for end in told["ends"] if end["host"]}
        holds = told["verdict"] == verdict and not told["differs"] and any(asked.values())
        what = f"{source} to {destination} {service}: {verdict}, policy and kernel agree"
        kernels = ", ".join(f"{host} {answer or 'not asked'}" for host, answer in asked.items())
        demo.story.check(holds, what, f"policy {told['verdict']}; kernels: {kernels}")
