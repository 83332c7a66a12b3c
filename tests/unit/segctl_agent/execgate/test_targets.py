"""The list between agent and gate."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.errors import StateError
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind
from segctl_agent.execgate.lock import gate_runs, lock_gate
from segctl_agent.execgate.targets import FILE, MOST, Target, read_targets, target_notes, write_targets


def policy(*named: tuple[str, str], kind: ProcessKind = ProcessKind.EXECUTABLE) -> HostPolicy:
    workloads = [LocalWorkload(name, Process(kind, pattern), Mode.ENFORCE) for name, pattern in named]
    return HostPolicy("h", 1, "", (*workloads, LocalWorkload("host", None, Mode.OBSERVE)))


def test_what_the_agent_writes_the_gate_reads(tmp_path: Path) -> None:
    assert read_targets(tmp_path) == ()
    write_targets(tmp_path, policy(("b", "/usr/bin/b"), ("a", "/opt/a b/ü")))
    assert read_targets(tmp_path) == (Target("a", "/opt/a b/ü"), Target("b", "/usr/bin/b"))
    written = (tmp_path / FILE).stat()
    write_targets(tmp_path, policy(("a", "/opt/a b/ü"), ("b", "/usr/bin/b")))
    assert (tmp_path / FILE).stat().st_ino == written.st_ino  # the same is not written again
    write_targets(tmp_path, policy(("u", "a.service"), kind=ProcessKind.UNIT))
    assert not (tmp_path / FILE).exists()


def test_of_two_workloads_the_first_by_name_has_the_file(tmp_path: Path) -> None:
    write_targets(tmp_path, policy(("z", "/bin/x"), ("a", "/bin/x")))
    assert read_targets(tmp_path) == (Target("a", "/bin/x"),)


def test_there_is_a_bound_and_it_is_told(tmp_path: Path) -> None:
    many = policy(*((f"w{n:04}", f"/bin/x{n}") for n in range(MOST + 2)))
    write_targets(tmp_path, many)
    assert len(read_targets(tmp_path)) == MOST
    assert [note.split(":")[0] for note in target_notes(many)] == ["workload w0256", "workload w0257"]


ONE = {"workload": "w", "path": "/bin/x"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{}",
        b"null",
        b'["/bin/x"]',
        json.dumps([{**ONE, "workload": "../w"}]).encode(),
        json.dumps([{**ONE, "workload": "w" * 41}]).encode(),
        json.dumps([{**ONE, "workload": 7}]).encode(),
        json.dumps([{**ONE, "path": "bin/x"}]).encode(),
        json.dumps([{**ONE, "path": "/bin/../x"}]).encode(),
        json.dumps([{**ONE, "path": "/bin/*"}]).encode(),
        json.dumps([{**ONE, "path": "/bin/x\n"}]).encode(),
        json.dumps([{**ONE, "path": "/" + "x" * 300}]).encode(),
        json.dumps([ONE] * (MOST + 1)).encode(),
        b"[" * 100_000,
        b" " * (2 << 20),
    ],
)
def test_what_is_no_list_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StateError, match=FILE):
        read_targets(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("state")
    (folder / FILE).write_bytes(content)
    try:
        assert isinstance(read_targets(folder), tuple)
    except StateError as error:
        assert FILE in str(error)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot write"):
        write_targets(tmp_path / "missing", policy(("a", "/bin/x")))


def test_the_lock_tells_whether_a_gate_runs(tmp_path: Path) -> None:
    assert not gate_runs(tmp_path)
    descriptor = lock_gate(tmp_path)
    assert descriptor is not None
    assert gate_runs(tmp_path)
    assert lock_gate(tmp_path, patience=0) is None
    os.close(descriptor)
    assert not gate_runs(tmp_path)
