"""How a flow's socket is asked for, and what is remembered of those that are gone."""

from __future__ import annotations

import pytest
from segctl.model.policy import Process, ProcessKind
from segctl_agent.flows.attribution import Asked, Few, Memory, Service, asked_of, declared

from tests.unit.segctl_agent.flows.rows import packed, row

DB = Service("out", "host", packed("10.0.0.2"), 6, 5432)
WEB = Service("in", "host", packed("10.0.0.9"), 6, 443)


def test_a_socket_is_asked_for_as_its_host_knows_it() -> None:
    sent = row("10.0.0.1", 5000, "10.96.0.1", 443)._replace(reply_source=packed("10.0.0.2"), reply_source_port=8443)
    assert asked_of(sent, "out") == Asked("out", 6, packed("10.0.0.1"), 5000, packed("10.96.0.1"), 443)
    taken = row("10.0.0.9", 6000, "10.0.0.1", 80)._replace(reply_source_port=8080)
    assert asked_of(taken, "in") == Asked("in", 6, packed("10.0.0.1"), 8080, packed("10.0.0.9"), 6000)


def test_who_called_a_service_is_remembered_by_its_address_and_who_offers_one_is_not() -> None:
    memory = Memory()
    memory.learn(DB, "unit:api.service")
    memory.learn(WEB, "unit:nginx.service")
    assert memory.recall(DB) == "unit:api.service"
    assert memory.recall(DB._replace(remote=packed("10.0.0.3"))) == ""
    assert memory.recall(WEB._replace(remote=packed("10.0.0.8"))) == "unit:nginx.service"
    for other in (WEB._replace(port=80), WEB._replace(protocol=17), WEB._replace(workload="web")):
        assert memory.recall(other) == ""
    memory.learn(DB, "unit:cron.service")
    assert memory.recall(DB) == "unit:cron.service"


def test_what_was_learned_longest_ago_makes_room() -> None:
    memory = Memory(most=2)
    for port in (1, 2, 1, 3):
        memory.learn(DB._replace(port=port), f"unit:{port}.service")
        memory.witness(port, f"unit:{port}.service")
    assert [memory.recall(DB._replace(port=port)) for port in (1, 2, 3)] == ["unit:1.service", "", "unit:3.service"]
    assert sum(bool(memory.witnessed(port)) for port in (1, 2, 3)) == 2


def test_a_flow_that_was_witnessed_is_told_once() -> None:
    memory = Memory()
    memory.witness(7, "unit:api.service")
    assert [memory.witnessed(7), memory.witnessed(7), memory.witnessed(8)] == ["unit:api.service", "", ""]


def test_identities_that_anybody_can_make_up_stay_few() -> None:
    few = Few(most=2, instances=2)
    assert [few.executable(f"exe:/{n}") for n in (1, 2, 3, 1)] == ["exe:/1", "exe:/2", "", "exe:/1"]
    jobs = [few.unit(f"unit:job@{n}.service") for n in (1, 2, 3, 4, 2)]
    assert jobs == ["unit:job@1.service", "unit:job@2.service", *["unit:job@*.service"] * 2, "unit:job@2.service"]
    for process in ("unit:other@1.service", "unit:nginx.service", "container:a", ""):
        assert few.unit(process) == process


@pytest.mark.parametrize(
    ("process", "told"),
    [
        (Process(ProcessKind.UNIT, "nginx.service"), "unit:nginx.service"),
        (Process(ProcessKind.CONTAINER, "web"), "container:web"),
        (Process(ProcessKind.UNIT, "postgresql@*.service"), ""),
        (Process(ProcessKind.UNIT, "seg-web.slice"), ""),
        (Process(ProcessKind.USER, "backup"), ""),
        (Process(ProcessKind.EXECUTABLE, "/usr/bin/psql"), ""),  # its flows bear its unit
        (None, ""),
    ],
)
def test_a_workload_may_name_its_process_by_itself(process: Process | None, told: str) -> None:
    assert declared(process) == told
