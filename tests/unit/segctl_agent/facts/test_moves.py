"""MoveWatcher on directories that look like cgroupfs and /proc, with names as a hostile user would choose them."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl_agent.facts import moves
from segctl_agent.facts.moves import MoveWatcher

WEB, DB = "system.slice/web.service", "system.slice/db.service"


class Host:
    """A cgroup tree and a /proc; everyone started one tick after boot."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        for path in (WEB, DB):
            (self.root / path).mkdir(parents=True)
            self.procs(path)
        self.watcher = MoveWatcher(self.root, self.proc)

    def procs(self, path: str, *pids: int) -> None:
        (self.root / path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def process(self, pid: int, path: str, name: str = "sh", started: int = 1) -> None:
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(f"1:name=systemd:/x\n0::/{path}\n")
        (self.proc / str(pid) / "stat").write_text(f"{pid} ({name}) S " + "0 " * 18 + f"{started} 0\n")

    def look(self) -> tuple[str, ...]:
        return self.watcher.look([WEB, DB], lambda path: {WEB: "web", DB: "db"}.get(path, "host"))


@pytest.mark.parametrize("name", ["sh", "a) S 1 1", "((", ")", "a\nb", "0::/system.slice/db.service"])
def test_a_name_changes_nothing(tmp_path: Path, name: str) -> None:
    host = Host(tmp_path)
    host.process(7, WEB, name)
    host.procs(WEB, 7)
    assert host.look() == ()
    host.procs(WEB)
    host.procs(DB, 7)
    (told,) = host.look()
    assert "workload web" in told
    assert host.look() == ()


@pytest.mark.parametrize(
    ("now", "count"),
    [("system.slice/other.service", 1), ("", 1), (WEB, 0), (f"{WEB} (deleted)", 0), ("../elsewhere", 0)],
)
def test_where_a_process_went(tmp_path: Path, now: str, count: int) -> None:
    host = Host(tmp_path)
    host.process(7, WEB)
    host.procs(WEB, 7)
    host.look()
    host.procs(WEB)
    host.process(7, now)
    assert len(host.look()) == count


def test_a_process_that_has_ended_or_is_another_now_went_nowhere(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for pid in (7, 8):
        host.process(pid, WEB)
    host.procs(WEB, 7, 8)
    host.look()
    host.procs(WEB)
    (host.proc / "7" / "stat").unlink()
    host.process(8, DB, started=2)
    assert host.look() == ()


@pytest.mark.parametrize("stat", [b"", b"7 (sh", b"7 (sh) S 1 2", b"7 (sh) " + b"x " * 40, b"\xff" * 50])
def test_what_stat_does_not_tell_is_no_process(tmp_path: Path, stat: bytes) -> None:
    host = Host(tmp_path)
    host.look()
    host.process(7, DB)
    (host.proc / "7" / "stat").write_bytes(stat)
    host.procs(DB, 7)
    assert host.look() == ()


def test_processes_of_another_pid_namespace_do_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.look()
    host.procs(DB, 0, 0)
    assert host.look() == ()


def test_beyond_a_limit_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MAX_PROCESSES", 1)
    host = Host(tmp_path)
    for pid in (7, 8):
        host.process(pid, DB)
    host.procs(DB, 7, 8)
    host.look()
    monkeypatch.setattr(moves, "MAX_PROCESSES", 10)
    assert host.look() == ()


def test_many_moves_are_told_in_short(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.look()
    pids = range(100, 130)
    for pid in pids:
        host.process(pid, DB)
    host.procs(DB, *pids)
    told = host.look()
    assert len(told) == moves.MOST + 1
    assert told[-1].startswith("10 more processes")
