"""What a stranger on one host can make of the suggestions in four weeks, and what the reviewer is told of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from segctl.model.policy import PortRange
from segctl.suggest.observed import Observation, ObservedEnd
from segctl.suggest.result import Confidence, Rhythm

from tests.shop import fleet, host
from tests.unit.segctl.suggest.observing import (
    DAILY,
    HTTPS,
    NGINX,
    SSH,
    VOCABULARY,
    db,
    end,
    fleet_of,
    only,
    outside,
    policy_of,
    reasons,
    seen,
    suggested,
    web,
)

APPS, ENVS, ROLES = ("shop", "crm", "erp"), ("prod", "dev"), ("web", "db")
EXPORTER = PortRange("tcp", 9100, 9100)
WEEKLY = (5, 12, 19, 26)
SERVE = [seen(web(app, env), db(app, env), hosts=4) for app, env in product(APPS, ENVS)]
FLEET = fleet(
    *fleet_of(each=4).hosts.values(),
    *(host(f"mon-{env}", env=env, role="mon") for env in ENVS),
    host("ops1", env="prod", role="ops"),
)
INTRUDER = end("unit:agentx.service", env="prod", role="ops")


def exporters(*envs: str) -> list[ObservedEnd]:
    unit = "unit:prometheus-node-exporter.service"
    return [end(unit, app=app, env=env, role=role) for app, env, role in product(APPS, envs, ROLES)]


SCRAPE = [
    seen(end("unit:prometheus.service", env=env, role="mon"), each, EXPORTER, hosts=1)
    for env in ENVS
    for each in exporters(env)
]


def test_one_host_that_bears_the_name_of_a_program_of_others_is_not_vouched_for_by_them() -> None:
    spoof = [seen(web(process="unit:prometheus.service"), each, EXPORTER, hosts=1) for each in exporters("prod")]
    found = suggested(*SERVE, *SCRAPE, *spoof, inventory=FLEET)
    honest = suggested(*SERVE, *SCRAPE, inventory=FLEET)
    assert found.suggestions == honest.suggestions
    (left,) = found.left_out
    assert (left.reason, set(left.observations)) == ("one-host", set(spoof))
    assert "one host alone of 4" in left.why


def test_a_program_that_one_host_of_each_group_runs_has_its_rule() -> None:
    leaders = [seen(web(app, env, "unit:leader.service"), db(app, env), hosts=1) for app, env in product(APPS, ENVS)]
    (one,) = (s for s in suggested(*SERVE, *leaders, inventory=FLEET).suggestions if "leader" in s.rule.name)
    assert (one.rule.within, one.evidence.hosts, one.evidence.of_hosts) == (("app", "env"), 6, 24)


@pytest.mark.parametrize("days", [DAILY, WEEKLY, range(0, 28, 3)])
def test_slow_and_regular_connections_of_one_host_of_several_are_left_out(days: range) -> None:
    calls = [seen(web(), db("crm"), days=days, hosts=1), seen(web(process="unit:x.service"), db(), SSH, days, hosts=1)]
    found = suggested(*SERVE, *calls, inventory=FLEET)
    assert only(found).rule.within == ("app", "env")
    assert reasons(found) == {"one-host"}


def test_calls_home_of_one_host_are_left_out_however_regular() -> None:
    home = [seen(INTRUDER, outside("192.0.2.66"), HTTPS, days, hosts=1) for days in (DAILY, WEEKLY)]
    assert reasons(suggested(*home, inventory=FLEET)) == {"outside"}


def test_who_has_no_like_is_suggested_and_what_began_late_is_called_new() -> None:
    """Nobody can tell it from a service: the reviewer sees one host of one, and since when."""
    always = seen(INTRUDER, db(), SSH, hosts=1)
    one = only(suggested(always, inventory=FLEET))
    assert (one.confidence, one.evidence.hosts, one.evidence.of_hosts) == (Confidence.MEDIUM, 1, 1)
    assert one.remarks == ()
    late = seen(INTRUDER, db(), SSH, range(10, 28), hosts=1)
    alive = seen(INTRUDER, outside("192.0.2.1"), HTTPS, hosts=1)
    one = only(suggested(late, seen(web(), db(), SSH, [0]), alive, inventory=FLEET))
    assert one.remarks == ("new: its hosts were there for 10 days before it began; ask who began it",)
    young = only(suggested(late, seen(web(), db(), SSH, [0]), inventory=FLEET))
    assert young.remarks == ()  # so are its hosts


def scan(days: range | tuple[int, ...], ports: range) -> list[Observation]:
    doors = [end(app=app, env=env, role=role) for app, env, role in product(APPS, ENVS, ROLES)]
    return [seen(INTRUDER, door, PortRange("tcp", port, port), days, hosts=1) for door in doors for port in ports]


@pytest.mark.parametrize("days", [(3,), WEEKLY, DAILY])
def test_a_scan_is_a_scan_at_the_pace_of_a_backup_too_and_however_much_it_tries(days: tuple[int, ...]) -> None:
    probes = scan(days, range(1000, 1012))
    found = suggested(*SERVE, *probes, inventory=FLEET)
    assert only(found).rule.within == ("app", "env")
    assert {(one.reason.value, one.flows) for one in found.left_out} == {("scan", sum(p.flows for p in probes))}


def test_a_scan_of_one_door_at_the_pace_of_a_backup_looks_like_one() -> None:
    """Where somebody listens everywhere, it is what a backup does: weekly, from one host of one."""
    doors = [end("unit:ssh.service", app=app, env=env, role=role) for app, env, role in product(APPS, ENVS, ROLES)]
    one = only(suggested(*(seen(INTRUDER, door, SSH, WEEKLY, hosts=1) for door in doors), inventory=FLEET))
    assert (one.confidence, one.evidence.rhythm) == (Confidence.MEDIUM, Rhythm.WEEKLY)
    assert one.remarks == ("runs weekly: seen on 4 days",)
    nobody = list(suggested(*SERVE, *scan(WEEKLY, range(4444, 4445)), inventory=FLEET).suggestions)
    (low,) = (one for one in nobody if one.rule.source.workload == "agentx")
    assert low.confidence is Confidence.LOW
    assert "nobody could tell which one it was" in low.remarks[0]


QUARANTINE = (
    f"{VOCABULARY.rstrip().removesuffix('}')}, quarantine: ['yes']}}\n"
    "boundaries: [{name: in, from: {}, to: {quarantine: 'yes'}}, {name: out, from: {quarantine: 'yes'}, to: {}}]\n"
)


def test_nothing_that_could_reach_a_host_in_quarantine_is_suggested() -> None:
    sick = host("sick", app="shop", env="prod", role="web", quarantine="yes")
    inventory = fleet(*FLEET.hosts.values(), sick)
    into = seen(web(), end(NGINX, app="shop", env="prod", role="web", quarantine="yes"), HTTPS, hosts=4)
    before = seen(INTRUDER, web(), HTTPS, hosts=1)  # of a time when the host had no such tag
    found = suggested(*SERVE, into, before, inventory=inventory, policy=policy_of(QUARANTINE))
    assert reasons(found) == {"boundary"}
    assert {o for left in found.left_out for o in left.observations} >= {into, before}
    after = suggested(*SERVE, before, inventory=FLEET, policy=policy_of(QUARANTINE))
    assert before in {o for one in after.suggestions for o in one.explains}


def test_a_web_server_that_strangers_find_is_not_opened_for_ssh() -> None:
    strangers = [seen(outside(f"{n}.7.1.2"), web(process="unit:ssh.service"), SSH, [n % 28]) for n in range(20, 60)]
    assert reasons(suggested(*strangers, *SERVE, inventory=FLEET)) == {"from-everywhere"}


def test_one_host_alone_in_the_name_of_the_logins_is_left_out() -> None:
    logins = [seen(replace(web(), process="exe:/usr/bin/ssh"), db(), SSH, hosts=1)]
    assert reasons(suggested(*SERVE, *logins, inventory=FLEET)) == {"one-host"}


def test_two_hosts_without_their_like_that_did_something_once_do_not_vouch_for_each_other() -> None:
    """Of seed 507 of the bench: one was a mistake, and one an attack."""
    inventory = fleet(*FLEET.hosts.values(), host("ops2", env="dev", role="ops"))
    other = replace(INTRUDER, tags=end(env="dev", role="ops").tags)
    logins = [seen(one, db(), SSH, [day], hosts=1) for one, day in ((INTRUDER, 9), (other, 24))]
    assert reasons(suggested(*SERVE, *logins, inventory=inventory)) == {"once"}


def test_an_episode_of_all_hosts_of_a_group_is_no_habit_of_theirs() -> None:
    """Of seed 607: two attackers had the two servers of a group for some days."""
    guesses = seen(web(), INTRUDER, SSH, days=[2, 3, 5], hosts=4)
    assert reasons(suggested(*SERVE, guesses, inventory=FLEET)) == {"young"}


def test_an_episode_of_one_host_does_not_widen_what_its_group_does_every_day() -> None:
    """Of seed 823: a server of prod called the database of another environment on three days."""
    spread = seen(web(), db(env="dev"), days=[4, 5, 6], hosts=1)
    found = suggested(seen(web(), db(), hosts=4), spread, inventory=fleet_of(("shop",), each=4))
    assert spread not in {o for one in found.suggestions for o in one.explains}
    assert {o for left in found.left_out for o in left.observations} == {spread}


def test_two_visits_a_week_apart_are_no_weekly_job() -> None:
    """Of seed 843: a mistake, and an attack a week later."""
    visits = seen(INTRUDER, db(), SSH, days=[16, 23, 24], hosts=1)
    assert reasons(suggested(*SERVE, visits, inventory=FLEET)) == {"young"}
