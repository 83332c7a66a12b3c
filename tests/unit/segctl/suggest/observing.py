"""Observations by hand: four weeks that ended at NOW, day 0 is the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network

from segctl.model.inventory import Inventory
from segctl.model.policy import Policy, PortRange, Tags
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.suggest.engine import suggest
from segctl.suggest.observed import DAY_US, Observation, ObservedEnd, Window
from segctl.suggest.result import Refused, Suggestion, Suggestions

from tests.shop import fleet, host

DAYS = 28
START = 1_790_000_000_000_000 - 1_790_000_000_000_000 % DAY_US
WINDOW = Window.of(START, START + DAYS * DAY_US)
NOW = datetime.fromtimestamp(WINDOW.until_us / 1e6, UTC)
DAILY = range(DAYS)
POSTGRES, HTTPS, SSH = (PortRange("tcp", port, port) for port in (5432, 443, 22))
NGINX, PG, CRON = "unit:nginx.service", "unit:postgresql@15-main.service", "unit:cron.service"


def end(process: str = "", workload: str = "host", **tags: str) -> ObservedEnd:
    return ObservedEnd(Tags.of(tags), workload, process)


def outside(network: str) -> ObservedEnd:
    return ObservedEnd(network=ip_network(network))


def seen(
    source: ObservedEnd,
    destination: ObservedEnd,
    service: PortRange = POSTGRES,
    days: Iterable[int] = DAILY,
    hosts: int = 2,
    denied: int = 0,
) -> Observation:
    on = sorted(days)
    bins = sum(1 << day for day in on)
    first, last = START + on[0] * DAY_US, START + on[-1] * DAY_US + 1
    return Observation(source, destination, service, 10 * len(on), first, last, bins, hosts, 1, denied)


def web(app: str = "shop", env: str = "prod", process: str = NGINX) -> ObservedEnd:
    return end(process, app=app, env=env, role="web")


def db(app: str = "shop", env: str = "prod", process: str = PG) -> ObservedEnd:
    return end(process, app=app, env=env, role="db")


def fleet_of(
    apps: Sequence[str] = ("shop", "crm", "erp"), envs: Sequence[str] = ("prod", "dev"), each: int = 2
) -> Inventory:
    """Of each application and environment as many web servers and databases."""
    numbered = range(each)
    return fleet(
        *(
            host(f"{app}-{env}-{role}{n}", app=app, env=env, role=role)
            for app in apps
            for env in envs
            for role in ("web", "db")
            for n in numbered
        )
    )


def policy_of(text: str) -> Policy:
    parsed = parse_policy((SourceFile("policy.yaml", text.encode()),))
    assert parsed.policy is not None, parsed.findings
    return parsed.policy


VOCABULARY = "version: 1\ntags: {app: [shop, crm, erp], env: [prod, dev], role: [web, db, ops]}\n"


def suggested(
    *observations: Observation,
    inventory: Inventory | None = None,
    policy: Policy | None = None,
    refused: Sequence[Refused] = (),
) -> Suggestions:
    everything = inventory or fleet_of()
    return suggest(observations, WINDOW, everything, policy or Policy(), NOW, refused, owner="ops")


def only(found: Suggestions) -> Suggestion:
    assert len(found.suggestions) == 1, ([str(s.rule) for s in found.suggestions], found.left_out)
    return found.suggestions[0]


def reasons(found: Suggestions) -> set[str]:
    return {one.reason.value for one in found.left_out}
