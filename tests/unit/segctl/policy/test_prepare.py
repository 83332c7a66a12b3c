"""Drop-ins for workloads by unit: which, for which units, and for which there are none."""

from __future__ import annotations

import pytest
from segctl.model.policy import Process, ProcessKind, Tags, Workload
from segctl.policy.prepare import HEADER, Preparation, prepare

UNIT = ProcessKind.UNIT


def of(*patterns: tuple[str, str], one_host: bool = True) -> Preparation:
    return prepare([Workload(n, Tags(), Process(UNIT, p)) for n, p in patterns], one_host=one_host)


def slices(found: Preparation) -> dict[str, str]:
    """path -> the slice that it sets, without the drop-in of slices.target."""
    files = {f.path.removesuffix("/50-segctl.conf"): f.content for f in found.files}
    return {path: text.rpartition("Slice=")[2].strip() for path, text in files.items() if "Slice=" in text}


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("nginx.service", {"nginx.service.d", "nginx.socket.d"}),
        ("pg@a.service", {"pg@a.service.d", "pg@a.socket.d"}),
        ("pg@*.service", {"pg@.service.d", "pg@.socket.d", "pg.socket.d"}),
        ("job-*.service", {"job-.service.d", "job-.socket.d"}),
        ("ssh.socket", {"ssh.socket.d"}),
        ("srv-data.mount", {"srv-data.mount.d"}),
    ],
)
def test_the_drop_ins_speak_of_exactly_the_units(pattern: str, paths: set[str]) -> None:
    assert slices(of(("shop-db", pattern))) == dict.fromkeys(paths, "seg-shop\\x2ddb.slice")


def test_the_content_of_a_drop_in() -> None:
    (service, _, target) = of(("shop-db", "nginx.service")).files
    assert service.content == f"{HEADER}\n# Workload shop-db.\n[Service]\nSlice=seg-shop\\x2ddb.slice\n"
    assert target.path == "slices.target.d/50-segctl.conf"
    assert target.content == f"{HEADER}\n[Unit]\nWants=seg-shop\\x2ddb.slice\n"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*.service", "no drop-in"),
        ("ngin?.service", "no drop-in"),
        ("a*b.service", "no drop-in"),
        ("batch.slice", "systemctl start 'batch.slice'"),
        ("run-*.scope", "--slice=seg-w.slice"),
        ("init.scope", "chooses its slice"),
        ("user@1000.service", "systemd places"),
        ("user@*.service", "systemd places"),
        ("user-*.service", "systemd places"),
        ("systemd-journald.service", "systemd places"),
        ("-.mount", "systemd places"),
    ],
)
def test_units_that_are_left_as_they_are(pattern: str, says: str) -> None:
    found = of(("w", pattern))
    assert (found.files, found.commands) == ((), ())
    assert says in found.unprepared[0].why


@pytest.mark.parametrize("kind", [ProcessKind.USER, ProcessKind.GROUP, ProcessKind.CGROUP])
def test_other_kinds_are_left_as_they_are(kind: ProcessKind) -> None:
    found = prepare([Workload("w", Tags(), Process(kind, "x"))], one_host=True)
    assert not found.files
    assert f"by {kind.value}" in found.unprepared[0].why


def test_on_one_host_precedence_decides_between_hosts_nobody() -> None:
    both = (("b", "x.service"), ("a", "x.service"))
    found = of(*both)
    assert set(slices(found).values()) == {"seg-a.slice"}
    assert [(u.workload, u.why) for u in found.unprepared] == [("b", "x.service belongs to a, which goes first")]
    found = of(*both, one_host=False)
    assert not found.files
    assert [u.workload for u in found.unprepared] == ["a", "b"]
    assert "--host" in found.unprepared[0].why


def test_a_socket_belongs_to_who_names_it_then_to_the_service_then_to_its_instances() -> None:
    named = slices(of(("i", "f@*.service"), ("s", "f.service"), ("k", "f@*.socket")))
    assert named["f.socket.d"] == "seg-s.slice"
    assert named["f@.socket.d"] == "seg-k.slice"
    assert slices(of(("i", "f@*.service"), ("k", "*.socket"))) == {"f@.service.d": "seg-i.slice"}


def test_the_commands_restart_services_and_name_the_sockets() -> None:
    found = of(("db", "pg@*.service"), ("web", "nginx.service"), ("ssh", "ssh.socket"))
    assert found.commands == (
        "systemctl daemon-reload",
        "systemctl start 'seg-db.slice' 'seg-ssh.slice' 'seg-web.slice'",
        "systemctl try-restart 'nginx.service' 'pg@*.service'",
    )
    assert found.sockets == ("nginx.socket", "pg.socket", "pg@*.socket", "ssh.socket")
    assert len(of(("ssh", "ssh.socket")).commands) == 2
