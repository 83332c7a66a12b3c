"""Which workload a cgroup belongs to, and which elements say so."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl.model.units import unit_of
from segctl_agent.facts.values import ContainerFact
from segctl_agent.identity import DEPTH, Identity, Inner, Leaf, cgroup_elements
from segctl_agent.nft.ruleset import goto

UNIT, CGROUP, USER, GROUP = ProcessKind.UNIT, ProcessKind.CGROUP, ProcessKind.USER, ProcessKind.GROUP


def policy(*processes: tuple[str, ProcessKind, str]) -> HostPolicy:
    named = [LocalWorkload(name, Process(kind, pattern), Mode.ENFORCE) for name, kind, pattern in processes]
    every = sorted([*named, LocalWorkload("host", None, Mode.OBSERVE)], key=lambda w: w.name)
    return HostPolicy("h", 1, "", tuple(every))


def place(path: str, *processes: tuple[str, ProcessKind, str]) -> Leaf | Inner:
    return Identity(policy(*processes), {"www-data": 33}).place(path)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("system.slice/nginx.service", "nginx.service"),
        ("system.slice/system-db.slice/db@1.service/payload", "db@1.service"),
        ("user.slice/user-33.slice/user@33.service/app.slice/nginx.service", "user@33.service"),
        ("init.scope", "init.scope"),
        ("system.slice", None),
        ("docker/abc", None),
        ("system.slice/__x.service", "_x.service"),
    ],
)
def test_the_unit_is_the_first_component_that_is_not_a_slice(path: str, unit: str | None) -> None:
    assert unit_of(path) == unit


def test_a_user_cannot_borrow_a_services_name() -> None:
    forged = "user.slice/user-33.slice/user@33.service/app.slice/nginx.service"
    assert place(forged, ("web", UNIT, "nginx.service")) == Leaf("host")
    assert place("system.slice/nginx.service", ("web", UNIT, "nginx.service")) == Leaf("web")


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ((CGROUP, "*.slice/a.service"), (UNIT, "a.service")),
        ((UNIT, "*.service"), (USER, "33")),
        ((UNIT, "a.service"), (UNIT, "?.service")),
        ((UNIT, "?.service"), (UNIT, "*")),
        ((CGROUP, "s.slice/a.service"), (CGROUP, "s.slice")),
        ((CGROUP, "s.slice"), (UNIT, "s.slice")),
        ((UNIT, "s.slice"), (UNIT, "a.service")),
        ((UNIT, "?.slice"), (UNIT, "a.service")),
        ((UNIT, "s.slice"), (UNIT, "[s].slice")),
    ],
)
def test_precedence(winner: tuple[ProcessKind, str], loser: tuple[ProcessKind, str]) -> None:
    """The loser has the name that would win."""
    assert place("s.slice/a.service", ("z", *winner), ("b", *loser)) == Leaf("z")


def test_of_equals_the_name_decides() -> None:
    assert place("s.slice/a.service", ("z", UNIT, "?.service"), ("b", UNIT, "*.service")) == Leaf("b")


def test_without_workloads_below_a_slice_is_a_leaf() -> None:
    assert place("system.slice") == Leaf("host")
    assert place("system.slice", ("web", UNIT, "a.service")) == Inner("host")
    assert place("app.slice", ("web", CGROUP, "app.slice")) == Leaf("web")
    assert place("app.slice", ("web", CGROUP, "app.slice"), ("db", CGROUP, "app.slice/db")) == Inner("web")
    assert place("other.slice", ("web", CGROUP, "app.slice/db")) == Leaf("host")


def test_a_slice_names_everything_in_it_wherever_systemd_puts_it() -> None:
    batch = ("batch", UNIT, "batch.slice")
    assert place("batch.slice", batch, ("web", UNIT, "nginx.service")) == Leaf("batch")
    assert place("batch.slice/batch-night.slice/nginx.service/x", batch, ("web", UNIT, "nginx.service")) == Leaf(
        "batch"
    )
    assert place("other.slice/batch.slice", batch).workload == "host"  # not where systemd puts batch.slice
    assert place("user.slice/user-33.slice/user@33.service/batch.slice", batch) == Leaf("host")
    assert place("docker/batch.slice", batch) == Leaf("host")
    assert place("system.slice/batch.slice", batch).workload == "host"


def test_a_slice_within_a_slice_may_be_another_workloads() -> None:
    outer, inner = ("outer", UNIT, "a.slice"), ("inner", UNIT, "a-b.slice")
    assert place("a.slice", outer, inner) == Inner("outer")
    assert place("a.slice/a-b.slice", outer, inner) == Leaf("inner")
    assert place("a.slice/a-c.slice/x.service", outer, inner) == Leaf("outer")
    assert place("a.slice", outer, ("inner", UNIT, "b.slice")) == Leaf("outer")
    assert place("a.slice", outer, ("glob", UNIT, "a-*.slice")) == Leaf("outer")  # a literal before a glob
    assert place("a.slice", ("glob", UNIT, "[a].slice"), inner) == Inner("glob")
    assert place("a.slice/a-b.slice", ("long", UNIT, "a-[b].slice"), ("short", UNIT, "a*.slice")) == Leaf("long")
    assert place("a.slice", ("long", UNIT, "a-[b].slice"), ("short", UNIT, "a*.slice")) == Inner("short")


def test_the_slice_made_for_a_workload_by_unit_is_its_own() -> None:
    db = ("shop-db", UNIT, "postgresql@*.service")
    assert place("seg.slice", db) == Inner("host")
    assert place("seg.slice/seg-shop\\x2ddb.slice", db, ("web", UNIT, "x.service")) == Leaf("shop-db")
    assert place("seg.slice/seg-shop\\x2ddb.slice/x.service", db, ("web", UNIT, "x.service")) == Leaf("shop-db")
    assert place("seg.slice/seg-shop.slice", db) == Inner("host")
    for other in (("shop-db", USER, "33"), ("shop-db", CGROUP, "a.slice"), ("shop-db", UNIT, "b.slice")):
        assert place("seg.slice/seg-shop\\x2ddb.slice", other).workload == "host"
    assert place("seg.slice/seg-shop\\x2ddb.slice", db, ("z", UNIT, "seg-shop\\x2ddb.slice")) == Leaf("z")


@pytest.mark.parametrize(
    ("unit", "pattern"),
    [
        ("foo.socket", "foo.service"),
        ("foo.socket", "f*.service"),
        ("foo.socket", "foo@*.service"),  # Accept=yes
        ("foo@1.socket", "foo@1.service"),
        ("foo@1.socket", "foo@*.service"),
    ],
)
def test_a_listener_of_a_socket_unit_is_its_services(unit: str, pattern: str) -> None:
    path = f"system.slice/{unit}"
    assert place(path, ("web", UNIT, pattern)) == Leaf("web")
    assert place(path, ("web", UNIT, pattern), ("a", UNIT, "*.socket")) == Leaf("a")
    assert place(path, ("web", UNIT, "other.service")) == Leaf("host")


def test_of_a_socket_the_services_own_name_goes_before_its_instances() -> None:
    assert place("s.slice/f.socket", ("a", UNIT, "f@*.service"), ("b", UNIT, "f.service")) == Leaf("b")


def test_a_group_has_no_cgroup() -> None:
    identity = Identity(
        policy(("adm", GROUP, "adm"), ("b", GROUP, "7"), ("c", USER, "adm")), {"group:adm": 4, "adm": 9}
    )
    assert identity.groups == {4: "adm", 7: "b"}
    assert identity.users == {9: "c"}
    assert Identity(policy(("adm", GROUP, "adm")), {"group:adm": 4}).place("system.slice") == Leaf("host")


def test_a_users_slice() -> None:
    user = ("apache", USER, "www-data")
    assert place("user.slice", user) == Inner("host")
    assert place("user.slice/user-33.slice", user) == Leaf("apache", by_user=True)
    assert place("user.slice/user-34.slice", user) == Leaf("host")
    assert place("user.slice/user-33.slice", user, ("web", UNIT, "a.service")) == Inner("apache", by_user=True)
    assert place("user.slice/user-33.slice", ("apache", USER, "nobody-here")) == Leaf("host")


def test_elements_of_a_leaf_an_inner_and_what_is_below_a_leaf() -> None:
    given_policy = policy(("web", UNIT, "a.service"))
    key = struct.pack("=Q", 7)
    leaf = cgroup_elements(given_policy, {}, "system.slice/a.service", 7)
    assert [(e.map, e.key, e.verdict) for e in leaf] == [
        ("cg2_in", key, goto("w_web_in")),
        ("cg2_out", key, goto("w_web_out")),
    ]
    inner = cgroup_elements(given_policy, {}, "system.slice/x.slice", 7)
    assert {(e.map, str(e.verdict)) for e in inner if e.map.endswith("_in")} == {
        ("cg2_in", "goto lvl3_in"),
        ("own2_in", "goto w_host_in"),
    }
    assert cgroup_elements(given_policy, {}, "system.slice/a.service/below", 7) == ()
    assert [e.map for e in cgroup_elements(given_policy, {}, "system.slice", 7)] == ["own1_in", "own1_out"]


def test_outgoing_the_owner_decides_for_a_user() -> None:
    elements = cgroup_elements(policy(("apache", USER, "33")), {}, "user.slice/user-33.slice", 7)
    assert {(e.map, str(e.verdict)) for e in elements} == {
        ("cg2_in", "goto w_apache_in"),
        ("cg2_out", "goto owner_apache_out"),
    }


def test_nothing_is_asked_beyond_the_depth() -> None:
    deep = policy(("deep", CGROUP, "/".join("abcdefghij")))
    identity = Identity(deep, {})
    assert isinstance(identity.place("a/b/c/d/e/f/g/h"), Leaf)
    assert identity.elements("a/b/c/d/e/f/g/h", 1)
    assert identity.elements("a/b/c/d/e/f/g/h/i", 1) == ()
    assert DEPTH == 8


_top = ("a.slice", "a-b.slice", "a-b-c.slice", "b.slice", "user.slice", "user-33.slice", "seg.slice", "seg-w0.slice")
_names = st.sampled_from((*_top, "a.service", "b.socket", "x"))
_services = ("a.service", "*.service", "?.service", "b.service")
_slices = ("a.slice", "a-b.slice", "a-*.slice", "*.slice", "?.slice", "a-b-[c].slice")
_patterns = st.one_of(
    st.tuples(st.just(UNIT), st.sampled_from((*_services, *_slices))),
    st.tuples(st.just(CGROUP), st.lists(st.sampled_from(("a.slice", "*", "b.service", "x")), min_size=1).map("/".join)),
    st.tuples(st.just(USER), st.just("33")),
)


@given(
    st.lists(_patterns, max_size=4), st.lists(_names, min_size=1, max_size=4), st.lists(_names, min_size=1, max_size=3)
)
def test_everything_below_a_leaf_belongs_to_it(
    patterns: list[tuple[ProcessKind, str]], above: list[str], below: list[str]
) -> None:
    processes = [(f"w{i}", kind, pattern) for i, (kind, pattern) in enumerate(patterns)]
    top = place("/".join(above), *processes)
    if isinstance(top, Leaf):
        assert place("/".join([*above, *below]), *processes).workload == top.workload


CONTAINER = ProcessKind.CONTAINER
ID = "ab" * 32
SCOPE = f"system.slice/docker-{ID}.scope"


def with_container(*processes: tuple[str, ProcessKind, str], cgroup: str = SCOPE, name: str = "web1") -> Identity:
    return Identity(policy(*processes), {}, (ContainerFact(ID, name, cgroup),))


@pytest.mark.parametrize(
    ("processes", "workload"),
    [
        ((("web", CONTAINER, "web*"),), "web"),
        ((("web", CONTAINER, "web*"), ("one", CONTAINER, "web1")), "one"),  # a literal before a glob
        ((("web", CONTAINER, "web*"), ("unit", UNIT, f"docker-{ID}.scope")), "web"),  # before its unit
        ((("web", CONTAINER, "web*"), ("path", CGROUP, "system.slice/docker-*.scope")), "path"),  # after a cgroup
        ((("web", CONTAINER, "api*"), ("unit", UNIT, "docker-*.scope")), "unit"),  # a container that no one names
        ((("web", CONTAINER, "api*"),), "host"),
    ],
)
def test_a_container_belongs_by_its_name(processes: tuple[tuple[str, ProcessKind, str], ...], workload: str) -> None:
    assert with_container(*processes).place(SCOPE) == Leaf(workload)
    assert with_container(*processes).place(f"{SCOPE}/init.scope") == Leaf(workload)


def test_a_container_without_a_name_yet_has_no_elements() -> None:
    """So the kernel holds its sockets for unknown: closed while anything enforces."""
    known = with_container(("web", CONTAINER, "web*"))
    assert [e.verdict for e in known.elements(SCOPE, 7)] == [goto("w_web_in"), goto("w_web_out")]
    other = SCOPE.replace("ab", "cd", 1)
    assert known.elements(other, 8) == ()
    assert Identity(policy(("x", UNIT, "x.service")), {}).elements(other, 8) != ()  # where nobody asks for names


def test_what_is_above_a_container_leads_to_it() -> None:
    cgroup = f"kubepods/burstable/pod1/{ID}"
    identity = with_container(("web", CONTAINER, "web*"), cgroup=cgroup)
    for above in ("kubepods", "kubepods/burstable", "kubepods/burstable/pod1"):
        assert identity.place(above) == Inner("host")
    assert [e.map for e in identity.elements(cgroup, 9)] == ["cg4_in", "cg4_out"]


def test_a_container_cannot_be_feigned_below_a_unit() -> None:
    feigned = f"system.slice/evil.service/docker-{ID}.scope"
    identity = with_container(("web", CONTAINER, "web*"), cgroup=feigned)
    assert identity.place(feigned) == Leaf("host")
    assert identity.elements(feigned, 9) == ()  # covered by its unit


def test_a_container_in_a_named_slice_is_the_slices() -> None:
    """So that the slice stays one element, and what starts in it is known from its first packet on."""
    cgroup = f"seg.slice/docker-{ID}.scope"
    processes = (("web", CONTAINER, "web*"), ("all", UNIT, "seg.slice"))
    identity = with_container(*processes, cgroup=cgroup)
    assert identity.place("seg.slice") == Leaf("all")
    assert identity.place(cgroup) == Leaf("all")
    assert identity.elements(cgroup, 9) == ()
