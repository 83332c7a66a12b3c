"""Proposals are made of what hosts say, and are saved by operators as files of their policy."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from segctl.model.policy import PortRange, Tags
from segctl.policy.decide import Instance
from segctl.policy.parse import parse_policy
from segctl.policy.propose import End, Proposal, Seen, propose_rule

from tests.policies import after_vocabulary, policy, source

WEB = Instance("web1", "host", Tags.of({"role": "web"}))
PEER = ip_address("203.0.113.9")
PORT = PortRange("tcp", 8443, 8443)


def proposal(unit: str, *texts: str, user: str = "", end: Instance = WEB, to: End = PEER) -> Proposal:
    made = propose_rule(policy(*texts), end, to, PORT, Seen(unit, user))
    assert isinstance(made, Proposal), made
    assert parse_policy([*after_vocabulary(texts), source(made.text(), "z.yaml")]).policy == made.added_to(
        policy(*texts)
    )
    return made


def test_it_is_a_file_as_a_person_writes_it() -> None:
    db = Instance("db1", "shop-db", Tags.of({"app": "shop", "role": "db", "env": "prod"}))
    web = Instance("web1", "host", Tags.of({"app": "shop", "role": "web", "env": "prod"}))
    assert proposal("cron.service", end=web, to=db).text() == (
        "version: 1\n"
        "\n"
        "workloads:\n"
        "  cron:\n"
        "    on: {app: shop, env: prod, role: web}\n"
        "    process: {unit: cron.service}\n"
        "\n"
        "rules:\n"
        "  - name: cron-to-shop-db-tcp-8443\n"
        "    from: {workload: cron}\n"
        "    to: {workload: shop-db}\n"
        "    within: [app, env]\n"
        "    allow: [tcp/8443]\n"
        "    owner: CHANGE-ME\n"
        "    why: CHANGE-ME"
    )


def test_names_that_are_taken_get_a_number() -> None:
    long = "a" * 38 + "-x"
    taken = f"workloads:\n  {long}: {{on: {{role: db}}, process: {{unit: b.service}}}}\n"
    assert [w.name for w in proposal(long + ".service", taken).workloads] == ["a" * 34 + "-2"]
    rule = "rules: [{name: cron-to-office-tcp-8443, from: {}, to: {role: db}, allow: [ssh], owner: o, why: w}]\n"
    assert proposal("cron.service", rule).rule.name == "cron-to-office-tcp-8443-2"
    peers = "peers: {peer-192-0-2-1: [192.0.2.2]}\n"
    assert proposal("cron.service", peers, to=ip_address("192.0.2.1")).rule.destination.peer == "peer-192-0-2-1-2"


def test_tags_that_the_policy_does_not_declare_stay_out() -> None:
    odd = Instance("web1", "host", Tags.of({"role": "web", "rack": "4", "env": "lunar"}))
    assert proposal("cron.service", end=odd).workloads[0].on == Tags.of({"role": "web"})
    assert proposal("", end=odd).rule.source.tags == Tags.of({"role": "web"})


def test_an_address_of_no_peer_gets_one() -> None:
    (peer,) = proposal("cron.service", to=ip_address("2001:db8::")).peers
    assert [str(n) for n in peer.networks] == ["2001:db8::/128"]


def test_an_escaped_unit_name_survives_the_paste() -> None:
    unit = "dev-disk\\x2dby.service"
    assert [w.process.pattern for w in proposal(unit).workloads] == [unit]


def test_an_instance_stands_for_its_template() -> None:
    assert [str(w.process) for w in proposal("postgresql@15.2-main.service").workloads] == ["unit:postgresql@*.service"]


@pytest.mark.parametrize("unit", ["*.service", "a?.service", "[ab].service", 'x.service"}}', "a\nb.service", "plain"])
def test_what_is_no_unit_name_declares_no_workload(unit: str) -> None:
    made = proposal(unit)
    assert made.workloads == ()
    assert "    from: {workload: host, role: web}\n" in made.text()
    assert "  # opens every process of web1 that no workload names\n" in made.text()


@pytest.mark.parametrize("unit", ["session-3.scope", "session-c1.scope", "user@1000.service"])
def test_a_login_is_named_by_its_user(unit: str) -> None:
    (workload,) = proposal(unit, user="alice").workloads
    assert (workload.name, str(workload.process)) == ("alice", "user:alice")


@pytest.mark.parametrize("user", ["root", "0", "", "a b", '"}}'])
@pytest.mark.parametrize("unit", ["session-3.scope", "user@0.service"])
def test_a_login_of_root_or_of_nobody_known_opens_nothing(unit: str, user: str) -> None:
    made = propose_rule(policy(), WEB, PEER, PORT, Seen(unit, user))
    assert isinstance(made, str)
    assert unit in made
    assert "run the program as a service" in made


def test_root_as_a_service_is_a_workload() -> None:
    assert [str(w.process) for w in proposal("cron.service", user="root").workloads] == ["unit:cron.service"]


def test_port_0_has_no_literal() -> None:
    assert isinstance(propose_rule(policy(), WEB, PEER, PortRange("tcp", 0, 0)), str)


def test_a_container_is_named_by_its_name() -> None:
    (workload,) = proposal("container:shop_web.1").workloads
    assert (workload.name, str(workload.process)) == ("shop-web-1", "container:shop_web.1")
    for hostile in ("container:web*", "container:a b", "container:", 'container:"}}'):
        assert proposal(hostile).workloads == ()
