"""CgroupWatcher on the kernel's own cgroup2."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from segctl_agent.facts.cgroups import CgroupWatcher, find_cgroup2_root

from tests.netns.spaces import CGROUPS, in_namespaces
from tests.patience import patience

pytestmark = pytest.mark.kernel


class Follower:
    """What a watcher told, replayed: `ids` must end up as the truth."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.calls: list[tuple[dict[str, int], dict[str, int]]] = []
        self.changed = asyncio.Event()

    def __call__(self, added: dict[str, int], removed: dict[str, int]) -> None:
        for path, number in removed.items():
            assert self.ids.pop(path) == number
        for path, number in added.items():
            assert path not in self.ids
            self.ids[path] = number
        self.calls.append((added, removed))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(patience(10)):
            while not condition():
                await self.changed.wait()
                self.changed.clear()


async def _started() -> tuple[CgroupWatcher, Follower]:
    watcher, follower = CgroupWatcher(CGROUPS), Follower()
    watcher.start(asyncio.get_running_loop(), follower)
    return watcher, follower


def test_the_mount_is_found():
    assert in_namespaces(find_cgroup2_root) == CGROUPS


def test_200_creations_are_each_seen_with_their_id_within_milliseconds():
    async def body() -> list[float]:
        watcher, follower = await _started()
        seen_at: dict[str, float] = {}

        def note(added: dict[str, int], removed: dict[str, int]) -> None:
            for path in added:
                seen_at[path] = time.perf_counter()
            follower(added, removed)

        watcher.close()
        watcher = CgroupWatcher(CGROUPS)
        watcher.start(asyncio.get_running_loop(), note)
        (CGROUPS / "system.slice").mkdir()
        # Made by another process, as the system manager does.
        maker = await asyncio.create_subprocess_exec(
            "/usr/bin/python3",
            "-c",
            "import os, time\n"
            "for i in range(200):\n"
            "    print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)\n"
            f"    os.mkdir('{CGROUPS}/system.slice/u%d.service' % i)\n"
            "    time.sleep(0.003)\n",
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await maker.communicate()
        await follower.until(lambda: len(follower.ids) == 201)
        assert follower.ids == watcher.scan() == watcher.current()
        for path, number in follower.ids.items():
            assert (CGROUPS / path).stat().st_ino == number
            assert watcher.path_of(number) == path
        started = [float(line) for line in output.split()]
        return [(seen_at[f"system.slice/u{i}.service"] - at) * 1000 for i, at in enumerate(started)]

    latencies = in_namespaces(lambda: asyncio.run(body()))
    median = statistics.median(latencies)
    print(f"cgroup seen after {median:.2f} ms (median), {sorted(latencies)[189]:.2f} ms (p95)")
    assert len(latencies) == 200
    assert median < 5


def test_trees_made_in_one_go_are_seen_whole():
    async def body() -> int:
        watcher, follower = await _started()
        trees = [f"a{i}.slice/b.slice/c.service/d/e/f" for i in range(60)]
        makers = [
            await asyncio.create_subprocess_exec("mkdir", "-p", *(str(CGROUPS / t) for t in trees[n::3]))
            for n in range(3)
        ]
        for maker in makers:
            assert await maker.wait() == 0
        await follower.until(lambda: len(follower.ids) == 360)
        assert follower.ids == watcher.scan()
        return len(follower.ids)

    assert in_namespaces(lambda: asyncio.run(body())) == 360


def test_removal_and_a_new_cgroup_of_the_same_name():
    async def body() -> None:
        watcher, follower = await _started()
        unit = CGROUPS / "x.service"
        (unit / "below").mkdir(parents=True)
        await follower.until(lambda: "x.service/below" in follower.ids)
        old = dict(follower.ids)
        follower.calls.clear()
        (unit / "below").rmdir()
        unit.rmdir()
        unit.mkdir()
        (unit / "below").mkdir()
        await follower.until(lambda: follower.ids.keys() == old.keys() and follower.ids != old)
        assert len(follower.calls) == 1
        added, removed = follower.calls[0]
        assert removed == old
        assert added == follower.ids == watcher.scan()
        assert watcher.path_of(old["x.service"]) is None
        # The new directory is watched too.
        (unit / "later").mkdir()
        await follower.until(lambda: "x.service/later" in follower.ids)

    in_namespaces(lambda: asyncio.run(body()))


def test_churn_ends_in_the_truth():
    async def body() -> None:
        watcher, follower = await _started()
        script = f"""
import os, random
r = random.Random(7)
for i in range(1500):
    p = '{CGROUPS}/s%d.slice' % r.randrange(6)
    q = p + '/u%d.service' % r.randrange(4)
    for make in (p, q):
        try: os.mkdir(make)
        except OSError: pass
    for gone in r.choice(((), (q,), (q, p))):
        try: os.rmdir(gone)
        except OSError: pass
"""
        maker = await asyncio.create_subprocess_exec("/usr/bin/python3", "-c", script)
        assert await maker.wait() == 0
        truth = watcher.scan()
        await follower.until(lambda: follower.ids == truth)
        assert watcher.current() == truth

    in_namespaces(lambda: asyncio.run(body()))


def test_path_of_knows_a_cgroup_before_the_loop_came_to_its_event():
    async def body() -> None:
        watcher, follower = await _started()
        (CGROUPS / "new.service").mkdir()
        number = (CGROUPS / "new.service").stat().st_ino
        assert follower.ids == {}
        assert watcher.path_of(number) == "new.service"
        assert watcher.path_of(CGROUPS.stat().st_ino) == ""
        assert follower.ids == {"new.service": number}

    in_namespaces(lambda: asyncio.run(body()))


def test_the_limit_of_watches_is_named():
    """In a user namespace of its own the limit is the test's alone."""
    script = f"""
import asyncio, os, sys
from segctl.errors import StateError
from segctl_agent.facts.cgroups import CgroupWatcher
open('/proc/sys/user/max_inotify_{{}}'.format(sys.argv[1]), 'w').write(sys.argv[2])
try:
    CgroupWatcher(__import__('pathlib').Path('{CGROUPS}')).start(asyncio.new_event_loop(), lambda a, r: None)
except StateError as error:
    print(error)
"""

    def body(kind: str, limit: str) -> str:
        import sys

        for i in range(10):
            (CGROUPS / f"u{i}").mkdir()
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", sys.executable, "-c", script, kind, limit],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "fs.inotify.max_user_watches is reached" in in_namespaces(lambda: body("watches", "5"))
    assert "fs.inotify.max_user_instances is reached" in in_namespaces(lambda: body("instances", "0"))


def test_where_only_version_1_is_mounted_the_message_says_what_to_do(tmp_path: Path):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n")
    with pytest.raises(Exception, match="mount -t cgroup2"):
        find_cgroup2_root(mountinfo)
