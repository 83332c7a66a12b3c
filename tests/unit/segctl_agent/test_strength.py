"""How a workload is identified, and how strong that is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.facts.values import ContainerFact
from segctl_agent.messages import facts_message
from segctl_agent.strength import WorkloadFact, describe_identity

UNIT, CGROUP, USER, GROUP = ProcessKind.UNIT, ProcessKind.CGROUP, ProcessKind.USER, ProcessKind.GROUP
DB = Process(UNIT, "postgresql@*.service")
OWN = "seg.slice/seg-db.slice"


def policy(*others: Process, db: Process = DB) -> HostPolicy:
    named = [LocalWorkload("db", db, Mode.ENFORCE)]
    named += [LocalWorkload(f"z{n}", process, Mode.ENFORCE) for n, process in enumerate(others)]
    return HostPolicy("h", 1, "", (*named, LocalWorkload("host", None, Mode.ENFORCE)))


def of_db(policy: HostPolicy, *paths: str, users: Mapping[str, int] | None = None) -> WorkloadFact:
    every = {"/".join(p.split("/")[: n + 1]): 0 for p in paths for n in range(p.count("/") + 1)}
    (found,) = (f for f in describe_identity(policy, users or {}, every) if f.name == "db")
    return found


@pytest.mark.parametrize(
    ("paths", "identified", "strength", "says"),
    [
        ((), "unit", "closed-until-known", "segctl host prepare"),
        (("system.slice/postgresql@a.service",), "unit", "closed-until-known", "segctl host prepare"),
        ((f"{OWN}/postgresql@a.service",), "slice", "race-free", "seg-db.slice"),
        ((OWN,), "slice", "race-free", "seg-db.slice"),
        ((OWN, "system.slice/postgresql@a.service"), "unit", "closed-until-known", "restart it"),
        ((f"{OWN}/postgresql@a.service", f"{OWN}/x.service"), "slice", "best-effort", "x.service"),
        ((f"{OWN}/postgresql@a.socket",), "slice", "race-free", "seg-db.slice"),
    ],
)
def test_by_unit(paths: tuple[str, ...], identified: str, strength: str, says: str) -> None:
    found = of_db(policy(), *paths)
    assert (found.identified, found.strength) == (identified, strength)
    assert says in found.why


def test_a_slice_that_another_workload_may_divide_is_not_race_free() -> None:
    slices = policy(db=Process(UNIT, "batch.slice"))
    assert of_db(slices, "batch.slice/x.service").strength == "race-free"
    assert of_db(slices, "system.slice/batch.slice").strength == "closed-until-known"
    divided = policy(Process(UNIT, "batch-night.slice"), db=Process(UNIT, "batch.slice"))
    assert of_db(divided, "batch.slice/x.service").strength == "closed-until-known"
    assert of_db(policy(Process(CGROUP, f"{OWN}/x"), db=DB), OWN).strength == "closed-until-known"


@pytest.mark.parametrize(
    ("process", "users", "identified", "strength"),
    [
        (Process(USER, "pg"), {"pg": 7}, "user", "closed-until-known"),
        (Process(USER, "pg"), {}, "user", "best-effort"),
        (Process(GROUP, "pg"), {"group:pg": 7}, "group", "best-effort"),
        (Process(GROUP, "pg"), {"pg": 7}, "group", "best-effort"),
        (Process(CGROUP, "a/b"), {}, "cgroup", "closed-until-known"),
        (Process(CGROUP, "a.slice"), {}, "cgroup", "race-free"),
        (Process(CGROUP, "a*.slice"), {}, "cgroup", "closed-until-known"),
    ],
)
def test_other_kinds(process: Process, users: dict[str, int], identified: str, strength: str) -> None:
    found = of_db(policy(db=process), users=users)
    assert (found.identified, found.strength) == (identified, strength)


def test_an_owner_that_the_host_does_not_know_is_told() -> None:
    assert "knows no group pg" in of_db(policy(db=Process(GROUP, "pg")), users={"pg": 7}).why


def test_the_rest() -> None:
    alone = HostPolicy("h", 1, "", (LocalWorkload("host", None, Mode.ENFORCE),))
    assert [(f.name, f.identified, f.strength) for f in describe_identity(alone, {}, {})] == [
        ("host", "rest", "race-free")
    ]
    assert [(f.name, f.strength) for f in describe_identity(policy(), {}, {})][1:] == [("host", "closed-until-known")]


def test_it_is_told_to_the_controller() -> None:
    known = describe_identity(policy(), {}, {})
    message = facts_message([], {}, [], None, "6.18", known)
    assert [(w.name, w.identified, w.strength, w.why) for w in message.workloads] == [
        (f.name, f.identified, f.strength, f.why) for f in known
    ]


def test_by_executable_and_what_that_does_to_the_others() -> None:
    prog = Process(ProcessKind.EXECUTABLE, "/usr/bin/prog")
    (found,) = (f for f in describe_identity(policy(prog), {}, {}) if f.name == "z0")
    assert (found.identified, found.strength) == ("executable", "best-effort")
    assert "/usr/bin/prog" in found.why
    prepared = of_db(policy(prog), f"{OWN}/postgresql@a.service")
    assert (prepared.identified, prepared.strength) == ("slice", "closed-until-known")
    assert "executables" in prepared.why
    assert of_db(policy(prog), "system.slice/postgresql@a.service").strength == "closed-until-known"


def test_by_container() -> None:
    containers = policy(db=Process(ProcessKind.CONTAINER, "db*"))

    def described(*found: ContainerFact) -> WorkloadFact:
        return next(f for f in describe_identity(containers, {}, {}, containers=found) if f.name == "db")

    def container(number: int, name: str, network: int) -> ContainerFact:
        return ContainerFact(f"{number:064x}", name, f"docker/{number:064x}", network)

    none, shared = described(container(1, "web", 7)), described(container(2, "db1", 0))
    assert {none.identified, shared.identified} == {"container"}
    assert {none.strength, shared.strength} == {"closed-until-known"}
    assert "no container db* runs" in none.why
    assert "db1: by cgroup" in shared.why
    apart = described(container(2, "db1", 0), container(3, "db2", 9))
    assert apart.strength == "best-effort"
    assert apart.why.startswith("db2: by address")
