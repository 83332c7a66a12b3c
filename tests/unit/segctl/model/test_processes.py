"""What identifies a process, and what people call it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.model.processes import (
    MAX_IDENTITY,
    UNIT,
    executable_identity,
    identity,
    is_called,
    is_identity,
    name_of,
    unit_identity,
)


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("nginx.service", "unit:nginx.service"),
        ("postgresql@15-main.service", "unit:postgresql@15-main.service"),
        ("redis@6379.service", "unit:redis@6379.service"),
        ("init.scope", "unit:init.scope"),
        ("ssh.socket", "unit:ssh.service"),
        ("sshd@3-10.0.0.1:22-10.0.0.9:51234.service", "unit:sshd@*.service"),
        ("sshd@3-10.0.0.1:22-10.0.0.9:51234-4711.service", "unit:sshd@*.service"),
        ("sshd@12-2001:db8::1:22-2001:db8::9:51234.service", "unit:sshd@*.service"),
        ("varlink@7-4711-1000.service", "unit:varlink@*.service"),
        ("docker-" + "0af9" * 16 + ".scope", "unit:docker-*.scope"),
        ("snap.a.b-f81d4fae-7dec-11d0-a765-00a0c91e6bf6.scope", "unit:snap.a.b-*.scope"),
        ("session-3.scope", ""),
        ("session-c12.scope", ""),
        ("user@1000.service", ""),
        ("run-u42.service", ""),
        ("run-r0123456789abcdef0123456789abcdef.scope", ""),
        ("run-p12-i34.service", ""),
        ("runner.service", "unit:runner.service"),
        ("system.slice", ""),
        ("noise", ""),
        ("", ""),
        ("n\x1b[2J.service", ""),
    ],
)
def test_a_unit_is_the_same_after_every_restart(unit: str, told: str) -> None:
    assert unit_identity(unit) == told


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/usr/bin/psql", "exe:/usr/bin/psql"),
        ("/usr/sbin/nginx (deleted)", "exe:/usr/sbin/nginx"),
        ("/opt/my app/run", "exe:/opt/my app/run"),
        ("psql", ""),
        ("", ""),
        ("/x\n", ""),
        ("/" + "x" * MAX_IDENTITY, ""),
    ],
)
def test_an_executable_is_its_path(path: str, told: str) -> None:
    assert executable_identity(path) == told


@pytest.mark.parametrize("text", ["", "nginx", ":x", "unit:", "pod:x", "Unit:x", "unit:a\tb", "unit:" + "x" * 252])
def test_no_identity(text: str) -> None:
    assert not is_identity(text)


def test_people_call_a_process_by_every_part_of_its_identity() -> None:
    unit = "unit:postgresql@15-main.service"
    for wanted in (unit, unit[5:], "postgresql@15-main", "postgresql@*", "unit:*", "*main.service"):
        assert is_called(unit, wanted), wanted
    assert not any(is_called(unit, w) for w in ("postgresql", "unit", "main", "exe:*", "", "[", "POSTGRESQL@*"))
    program = "exe:/usr/bin/psql"
    assert [is_called(program, w) for w in ("psql", "/usr/bin/psql", "/usr/*", "exe:*", "sql", "bin")] == [
        *[True] * 4,
        *[False] * 2,
    ]
    assert (name_of(unit), name_of(program), name_of("container:db"), name_of("")) == (unit[5:], "psql", "db", "")


@given(st.text(max_size=400))
def test_whatever_the_name_an_identity_is_one_or_unknown(name: str) -> None:
    for told in (identity(UNIT, name), unit_identity(f"{name}.service"), executable_identity(f"/{name}")):
        assert told == "" or (is_identity(told) and is_called(told, told))
