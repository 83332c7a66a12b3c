"""The chapters of the demo about change: a rule comes, goes, comes back, and ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from subprocess import Popen

from lab.chapters import CRON_TO_API, DEV_TO_API, NGINX, WEB_TO_API, is_cron
from lab.flows import Flow
from lab.host import PROGRAM
from lab.story import Demo
from lab.wait import until

CRON = "cron.service"
CRON_RULE = "suggested.yaml"
CRON_ASKS = Flow("web1", CRON, "api1", 8080, True)
BOX_SECONDS = 10
"""Long enough for a push and a session on a slow machine."""


def allow_it(demo: Demo) -> None:
    demo.story.step("The owner takes the suggested rule into the policy.")
    cron = next(one for one in demo.fleet.records("denied") if is_cron(one))
    text = rule_file(cron["suggestion"])
    (demo.policy / CRON_RULE).write_text(text)
    demo.story.typed(f"cat {demo.policy.name}/{CRON_RULE}", text)
    demo.story.segctl("plan", demo.policy.name)
    push(demo, "cron on web1 may ask the api")
    demo.story.flows(CRON_ASKS, DEV_TO_API)


def rule_file(suggestion: str) -> str:
    """A policy file of one suggestion, with an owner and a reason where it asks for them."""
    filled = suggestion.replace("owner: CHANGE-ME", "owner: team-shop").replace("why: CHANGE-ME", "why: nightly job")
    return f"{filled.rstrip()}\n"


def push(demo: Demo, message: str) -> None:
    demo.story.segctl("push", demo.policy.name, "--yes", "--message", message, after="Generation")


def hold(demo: Demo, unit: str) -> Popen[str]:
    """A session from web1 to the api that speaks all the time; its start is checked."""
    session = demo.fleet.lab.hosts["web1"].popen([*PROGRAM, "hold", "api1", "8080"], unit=unit)
    assert session.stdout is not None
    demo.story.check(session.stdout.readline() == "connected\n", f"{unit} on web1 holds a session to the api")
    return session


def ended(demo: Demo, session: Popen[str], seconds: float) -> None:
    """Check that it is cut by the other end or its own system, not by a fault of its program."""
    assert session.stdout is not None
    until("the session ends", lambda: session.poll() is not None, seconds)
    how = session.stdout.read().strip()
    demo.story.check(how.startswith("cut:"), f"{CRON}'s session is cut", how)


def take_it_back(demo: Demo) -> None:
    demo.story.step(
        "The rule goes. Which connections would that cut?",
        "Asked of the agents before anything changes: two sessions are open, and one of them would end.",
    )
    cron, nginx = hold(demo, CRON), hold(demo, NGINX)
    aside = (demo.policy / CRON_RULE).rename(demo.policy.parent / CRON_RULE)
    demo.story.typed(f"mv {demo.policy.name}/{CRON_RULE} {aside.name}")
    demo.story.segctl("plan", demo.policy.name)
    plan = demo.fleet.document("plan", demo.policy.name)
    named = [(cut["host"], (cut["process"] or {}).get("unit"), cut["peer_host"]) for cut in plan["cuts"]]
    holds = named == [("web1", CRON, "api1")] and plan["cut_total"] == 1 and not plan["unasked"]
    demo.story.check(holds, f"the plan names {CRON}'s session, and no other", str(named))
    push(demo, "cron has no business there")
    ended(demo, cron, 10)
    demo.story.check(nginx.poll() is None, f"{NGINX}'s session, to the same port from the same host, lives")
    nginx.kill()
    nginx.wait()
    demo.story.flows(CRON_TO_API, WEB_TO_API)


def roll_back(demo: Demo) -> None:
    demo.story.step("The nightly job misses it: roll back.")
    (demo.policy.parent / CRON_RULE).rename(demo.policy / CRON_RULE)
    demo.story.segctl("rollback", "--yes", "--message", "the nightly job needs it", after="Generation")
    demo.story.flows(CRON_ASKS, DEV_TO_API)


def time_box(demo: Demo) -> None:
    demo.story.step("But for this night only: the rule gets an end.")
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=BOX_SECONDS)
    rule = demo.policy / CRON_RULE
    rule.write_text(f"{rule.read_text()}    expires: {ends:%Y-%m-%dT%H:%M:%SZ}\n")
    demo.story.typed(f"tail -n 3 {demo.policy.name}/{CRON_RULE}", "\n".join(rule.read_text().splitlines()[-3:]))
    push(demo, "cron, this night only")
    session = hold(demo, CRON)
    demo.story.step("Its time is up.", "Nobody pushes, and web1's agent is dead: the kernel keeps the time.")
    demo.story.typed("web1: kill -9 $(pidof segctl-agent)")
    demo.fleet.kill_agent("web1")
    until("the rule's last second", lambda: datetime.now(UTC) > ends - timedelta(seconds=1), BOX_SECONDS, every=0.005)
    demo.story.check(session.poll() is None, f"until a second before {ends:%H:%M:%S} UTC the session lives")
    ended(demo, session, 10)
    late = (datetime.now(UTC) - ends).total_seconds()
    demo.story.check(late > -0.1, "not before its moment", f"{late * 1000:.0f} ms after it")
    demo.story.flows(CRON_TO_API, WEB_TO_API)
    demo.fleet.start_agent("web1")
