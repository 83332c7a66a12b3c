"""Which moves of processes between cgroups are told, and which are how a system works."""

from __future__ import annotations

from segctl_agent.moves import Look, Move, Process, describe_move, find_moves

WEB, DB, JOB = "system.slice/web.service", "system.slice/db.service", "system.slice/cron.service"
SCOPE = "user.slice/user-1.slice/session-4.scope"
WORKLOADS = {WEB: "web", f"{WEB}/sub": "web", DB: "db", SCOPE: "logins"}
OLD, YOUNG = 10.0, 99.5


def workload_of(path: str) -> str:
    return WORKLOADS.get(path, "host")


def look(*processes: Process, at: float = 100.0, paths: tuple[str, ...] = (WEB, DB, JOB), listed: bool = True) -> Look:
    named = frozenset(p for p in paths if workload_of(p) != "host")
    return Look(at, {p.pid: p for p in processes}, frozenset(paths), named if listed else frozenset())


def moves(before: Look, *now: Process) -> tuple[Move, ...]:
    return find_moves(before, look(*now, at=103), workload_of, "host")


def test_from_one_workload_into_another() -> None:
    before = look(Process(7, OLD, WEB), Process(8, OLD, DB))
    assert moves(before, Process(7, OLD, DB), Process(8, OLD, DB)) == (Move(7, "web", "db", DB),)


def test_out_of_a_workload_into_the_rest() -> None:
    assert moves(look(Process(7, OLD, WEB)), Process(7, OLD, JOB)) == (Move(7, "web", "host", JOB),)


def test_from_the_rest_into_a_workload() -> None:
    assert moves(look(), Process(7, OLD, DB)) == (Move(7, "host", "db", DB),)


def test_into_a_cgroup_made_within_a_workload() -> None:
    assert moves(look(), Process(7, OLD, f"{WEB}/sub")) == (Move(7, "host", "web", f"{WEB}/sub"),)


def test_a_start_is_no_move() -> None:
    assert moves(look(), Process(7, YOUNG, DB)) == ()
    assert moves(look(Process(7, YOUNG, WEB)), Process(7, YOUNG, DB)) == ()


def test_staying_and_moving_within_a_workload_is_no_move() -> None:
    before = look(Process(7, OLD, WEB))
    assert moves(before, Process(7, OLD, WEB)) == moves(before, Process(7, OLD, f"{WEB}/sub")) == ()


def test_a_scope_made_for_a_process_is_how_logins_work_one_that_was_there_is_not() -> None:
    assert moves(look(Process(7, OLD, WEB)), Process(7, OLD, SCOPE)) == ()
    before = look(Process(7, OLD, WEB), paths=(WEB, SCOPE))
    assert moves(before, Process(7, OLD, SCOPE)) == (Move(7, "web", "logins", SCOPE),)


def test_the_exec_gate_moves_within_a_unit_and_into_another_it_would_be_a_move() -> None:
    before = look(Process(7, OLD, WEB))
    assert moves(before, Process(7, OLD, f"{WEB}/segctl-exe-prog")) == ()
    assert moves(look(Process(7, OLD, f"{WEB}/segctl-exe-prog")), Process(7, OLD, WEB)) == ()
    theirs = f"{DB}/segctl-exe-prog"
    assert moves(before, Process(7, OLD, theirs)) == (Move(7, "web", "db", theirs),)


def test_a_pid_that_came_again_is_another_process() -> None:
    assert moves(look(Process(7, OLD, WEB)), Process(7, YOUNG, DB)) == ()


def test_what_a_policy_names_since_has_not_moved() -> None:
    assert moves(look(listed=False), Process(7, OLD, DB)) == ()


def test_it_is_told_with_pid_name_and_both_workloads() -> None:
    told = describe_move(Move(7, "web", "db", DB), "nc")
    assert all(word in told for word in ("nc", "pid 7", "workload web", "workload db", DB))
