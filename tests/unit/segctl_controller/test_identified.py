"""What an agent says about how it tells workloads apart and who guards its table: bounded, kept and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl.proto.v1 import agent_pb2
from segctl_controller.errors import LimitError
from segctl_controller.facts import MOST_WORKLOADS, read_claims

from tests.controller_harness import running_controller
from tests.unit.segctl_controller.policies import SHOP

MASK = 0xFFFFFF80
WEAK = agent_pb2.WorkloadFact(
    name="shop-db", identified="executable", strength="best-effort", why="the program runs\nbefore it is told"
)
REST = agent_pb2.WorkloadFact(name="host", identified="rest", strength="closed-until-known")


def kept(**fields: object) -> agent_pb2.Facts:
    return agent_pb2.Facts.FromString(read_claims(agent_pb2.Facts(**fields)).facts)  # type: ignore[arg-type]


def test_words_are_kept_and_unknown_ones_are_told_as_unknown() -> None:
    newer = agent_pb2.WorkloadFact(name="w", identified="enclave", strength="perfect")
    facts = kept(workloads=[WEAK, newer, agent_pb2.WorkloadFact(name="x")], mark_mask=MASK, table_guard="owned")
    assert [(w.name, w.identified, w.strength, w.why) for w in facts.workloads] == [
        ("shop-db", "executable", "best-effort", "the program runs before it is told"),
        ("w", "unknown", "unknown", ""),
        ("x", "", "", ""),
    ]
    assert (facts.mark_mask, facts.table_guard) == (MASK, "owned")
    assert kept(table_guard="dragon").table_guard == "unknown"
    assert kept().table_guard == ""
    assert read_claims(agent_pb2.Facts(mark_mask=MASK)).mark_mask == MASK


@pytest.mark.parametrize(
    "workloads",
    [
        [agent_pb2.WorkloadFact(name="w")] * (MOST_WORKLOADS + 1),
        [agent_pb2.WorkloadFact(name="w" * 129)],
        [agent_pb2.WorkloadFact(name="w", why="y" * 501)],
    ],
)
def test_facts_over_the_bounds_are_refused(workloads: list[agent_pb2.WorkloadFact]) -> None:
    with pytest.raises(LimitError):
        read_claims(agent_pb2.Facts(workloads=workloads))


async def test_a_host_shows_how_it_tells_its_workloads_apart_also_after_a_restart(tmp_path: Path) -> None:
    stray = agent_pb2.WorkloadFact(name="elsewhere", identified="unit", strength="race-free")
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {"role": "db"})
        await lab.push(SHOP)
        told = {"workloads": [WEAK, REST, stray], "mark_mask": MASK, "table_guard": "watched"}
        async with db.session(["10.0.0.2"], **told) as session:
            await session.acknowledge()
            shown = (await lab.hosts())["db1"]
            assert list(shown.problems) == []
    async with running_controller(tmp_path) as lab:
        again = (await lab.hosts())["db1"]
    for host in (shown, again):
        assert (host.table_guard, host.mark_mask) == ("watched", MASK)
        assert [(w.name, w.identified, w.strength) for w in host.workloads] == [
            ("host", "rest", "closed-until-known"),
            ("shop-db", "executable", "best-effort"),
        ]
        assert host.workloads[1].why == "the program runs before it is told"


async def test_words_of_a_newer_agent_are_a_problem_with_its_mend(tmp_path: Path) -> None:
    async with running_controller(tmp_path) as lab:
        db = await lab.enrol("db1", {"role": "db"})
        strange = [agent_pb2.WorkloadFact(name=f"w{n}", identified="enclave") for n in range(5)]
        async with db.session(["10.0.0.2"], workloads=strange, table_guard="dragon") as session:
            await session.receive()
            [problem] = (await lab.hosts())["db1"].problems
        assert problem.startswith("its agent speaks of workload w0, workload w1, workload w2 and 3 more in words")
        assert problem.endswith("install the controller that belongs to the agent's version")
