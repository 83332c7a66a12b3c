"""MoveWatcher on the kernel's own cgroups and /proc."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.facts.moves import MoveWatcher
from segctl_agent.moves import SETTLED_SECONDS

from tests.netns.spaces import CGROUPS, Space
from tests.patience import patience

pytestmark = pytest.mark.kernel

WEB, DB = "system.slice/web.service", "system.slice/db.service"


def workload_of(path: str) -> str:
    return {WEB: "web", DB: "db"}.get(path, "host")


def put(pid: int, path: str) -> None:
    (CGROUPS / path / "cgroup.procs").write_text(str(pid))


@contextmanager
def sleeping(path: str) -> Iterator[int]:
    made = subprocess.Popen(["/bin/sleep", "60"])
    put(made.pid, path)
    try:
        yield made.pid
    finally:
        made.kill()
        made.wait()


def test_a_process_that_was_put_elsewhere_by_hand_is_told_once(space: Space) -> None:
    def inside() -> list[tuple[str, ...]]:
        for path in ("init.scope", "system.slice/other.service", WEB, DB):
            (CGROUPS / path).mkdir(parents=True)
        paths = CgroupWatcher(CGROUPS).scan()
        watcher = MoveWatcher(CGROUPS)
        with sleeping(WEB) as moved, sleeping("system.slice/other.service") as joined, sleeping(DB):
            time.sleep(SETTLED_SECONDS + 0.1)
            told = [watcher.look(paths, workload_of), watcher.look(paths, workload_of)]
            put(moved, DB)
            put(joined, DB)
            with sleeping(DB):  # a start
                told += [watcher.look(paths, workload_of), watcher.look(paths, workload_of)]
            put(moved, "system.slice/other.service")
            told.append(watcher.look(paths, workload_of))
        told.append(watcher.look(paths, workload_of))
        return told

    first, second, both, after, out, ended = space.run(inside)
    assert first == second == after == ended == ()
    assert sorted("of workload web was moved" in text for text in both) == [False, True]
    assert all("sleep (pid" in text and f"into {DB} of workload db" in text for text in both)
    assert len(out) == 1
    assert "workload host" in out[0]


def test_a_look_costs_little(space: Space) -> None:
    def inside() -> tuple[float, float]:
        paths = [f"system.slice/u{n}.service" for n in range(200)]
        for path in paths:
            (CGROUPS / path).mkdir(parents=True)
        made = subprocess.Popen(["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done; wait"])
        put(made.pid, paths[0])
        watcher = MoveWatcher(CGROUPS)
        times = []
        for _ in range(5):
            started = time.process_time()
            watcher.look(paths, lambda path: path)
            times.append(time.process_time() - started)
        return times[0], sorted(times[1:])[1]

    _, again = space.run(inside)
    print(f"a look at 200 cgroups costs {again * 1000:.1f} ms")
    assert again < patience(0.1)
