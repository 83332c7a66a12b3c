"""Where the cgroups of executables belong, and what they make of the cgroups around them."""

from __future__ import annotations

import pytest
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.execgate.names import gate_cgroup, gated, made_by_gate, may_hold
from segctl_agent.identity import DEPTH, Identity, Inner, Leaf

UNIT, CGROUP, USER, EXECUTABLE = ProcessKind.UNIT, ProcessKind.CGROUP, ProcessKind.USER, ProcessKind.EXECUTABLE


def identity(*processes: tuple[str, ProcessKind, str]) -> Identity:
    named = [LocalWorkload(name, Process(kind, pattern), Mode.ENFORCE) for name, kind, pattern in processes]
    return Identity(HostPolicy("h", 1, "", (*named, LocalWorkload("host", None, Mode.OBSERVE))), {"www-data": 33})


SHOP = identity(
    ("app", UNIT, "x.service"),
    ("all", CGROUP, "app.slice"),
    ("prog", EXECUTABLE, "/usr/bin/prog"),
    ("www", USER, "www-data"),
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("system.slice/x.service/segctl-exe-prog", Leaf("prog")),
        ("app.slice/anything/segctl-exe-prog", Leaf("prog")),
        ("user.slice/user-33.slice/session-1.scope/segctl-exe-prog", Leaf("prog")),
        ("system.slice/x.service/segctl-exe-gone", Leaf("app")),  # of a policy before
        ("user.slice/user-33.slice/segctl-exe-gone", Leaf("www", by_user=True)),
        ("segctl-exe-prog", Inner("host")),  # the gate makes none in the root
        ("system.slice/x.service", Inner("app")),
        ("system.slice/x.service/payload", Inner("app")),
        ("system.slice/y.service", Inner("host")),
        ("user.slice/user-33.slice/user@33.service", Leaf("www", by_user=True)),
        ("user.slice/user-33.slice/user@33.service/app.slice/segctl-exe-prog", Leaf("prog")),
        ("/".join("abcdefgh"), Leaf("host")),
        ("/".join("abcdefg"), Inner("host")),
    ],
)
def test_places(path: str, expected: Leaf | Inner) -> None:
    assert SHOP.place(path) == expected


def test_below_a_users_manager_the_gates_names_count_for_nothing() -> None:
    """The manager's cgroup is a leaf: what a user makes below it never gets an element of its own."""
    manager = "user.slice/user-33.slice/user@33.service"
    assert SHOP.elements(manager, 1)
    assert SHOP.elements(f"{manager}/app.slice/segctl-exe-prog", 2) == ()
    assert SHOP.elements("system.slice/x.service/segctl-exe-prog/below", 3) == ()


def test_without_an_executable_units_stay_leaves() -> None:
    plain = identity(("app", UNIT, "x.service"))
    assert plain.place("system.slice/x.service") == Leaf("app")
    assert plain.elements("system.slice/x.service/segctl-exe-prog", 1) == ()


def test_every_cgroup_on_the_way_to_a_program_leads_there() -> None:
    """From level to level: each inner cgroup sends on to the next, and has a chain of its own for what sits in it."""
    path = "/".join([*(f"c{n}" for n in range(1, DEPTH)), "segctl-exe-prog"])
    parts = path.split("/")
    for level in range(2, DEPTH):
        verdicts = {e.map: str(e.verdict) for e in SHOP.elements("/".join(parts[:level]), level)}
        assert verdicts[f"cg{level}_out"] == f"goto lvl{level + 1}_out"
        assert verdicts[f"own{level}_out"] == "goto w_host_out"
    assert {e.map: str(e.verdict) for e in SHOP.elements(path, 9)} == {
        f"cg{DEPTH}_in": "goto w_prog_in",
        f"cg{DEPTH}_out": "goto w_prog_out",
    }


def test_names() -> None:
    assert gated(("a", gate_cgroup("w"))) == "w"
    assert gated(("a", "segctl-exe")) is None
    assert not may_hold(("a", gate_cgroup("w")))
    assert may_hold(("user.slice", "user-7.slice", "session-1.scope"))


@pytest.mark.parametrize(("owner", "above", "ours"), [(0, 0, True), (7, 7, False), (7, 0, False), (0, 7, False)])
def test_only_root_below_root_is_the_gates(owner: int, above: int, ours: bool) -> None:
    assert made_by_gate(owner, above) is ours
