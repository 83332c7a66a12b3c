"""A recording is read as it was written, and what is none is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.recording import (
    RecordedFlows,
    RecordedHost,
    RecordedListener,
    Recording,
    RecordingError,
    read_recording,
    write_recording,
)

LISTENER = RecordedListener("tcp", "::", 5432, "postgres", 110, "system.slice/postgresql.service")
HOSTS = (
    RecordedHost("db1", ("10.0.0.2", "fd00::2"), True, (("env", "prod"), ("role", "db")), (LISTENER,)),
    RecordedHost("office1", ("10.0.0.9",), managed=False),
)
FLOWS = (RecordedFlows(0, "db1", True, "unit:ssh.service", "10.0.0.9", 6, 22, 3, 700, 800, 1500, 59_000),)
RECORDING = Recording("2030-01-01T00:00:00+00:00", 60, 2, 1, HOSTS, FLOWS)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_recording(RECORDING, tmp_path / "r.json")
    read = read_recording(tmp_path / "r.json")
    assert read == RECORDING
    assert [host.name for host in read.managed] == ["db1"]
    assert (read.holder("10.0.0.9"), read.holder("192.0.2.1")) == ("office1", "")
    assert json.loads(read.policy()) == {"version": 1, "tags": {"env": ["prod"], "role": ["db"]}, "rules": []}


def test_each_row_is_a_line(tmp_path: Path) -> None:
    write_recording(replace(RECORDING, flows=FLOWS * 5), tmp_path / "r.json")
    assert len((tmp_path / "r.json").read_text().splitlines()) == 5 + len(HOSTS) + 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 0}, "another format than this code: record it anew"),
        ({"columns": ["day"]}, "another format than this code: record it anew"),
        ({"flows": [[0, "db1"]]}, "TypeError"),
        ({"hosts": [{"name": "db1"}]}, "TypeError"),
        ({"days": None, "hosts": 1}, "TypeError"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    path = tmp_path / "r.json"
    write_recording(RECORDING, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RecordingError, match=r"r\.json") as caught:
        read_recording(path)
    assert complaint in str(caught.value)


def test_no_file_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"none\.json"):
        read_recording(tmp_path / "none.json")
