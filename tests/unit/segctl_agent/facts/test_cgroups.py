"""CgroupWatcher on plain directories: overflow, limits and mounts, which a kernel does not do on demand."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path

import pytest
from segctl.errors import StateError
from segctl_agent.facts.cgroups import DEEPEST, CgroupWatcher, find_cgroup2_root
from segctl_agent.inotify import IN_Q_OVERFLOW, Event, Inotify, parse_events


class Lossy(Inotify):
    """Loses every event once told to, and says so as the kernel does."""

    losing = False
    limit = 10_000

    def read(self) -> list[Event]:
        events = super().read()
        return [Event(-1, IN_Q_OVERFLOW, "")] if self.losing and events else events

    def add(self, path: Path, mask: int) -> int:
        watch = super().add(path, mask)
        if watch > self.limit:
            raise OSError(errno.ENOSPC, "no space", str(path))
        return watch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "a.slice" / "b.service").mkdir(parents=True)
    return tmp_path


async def test_after_an_overflow_the_differences_are_told(root: Path):
    source = Lossy()
    calls: asyncio.Queue[tuple[dict[str, int], dict[str, int]]] = asyncio.Queue()
    watcher = CgroupWatcher(root, source)
    watcher.start(asyncio.get_running_loop(), lambda added, removed: calls.put_nowait((added, removed)))
    assert calls.get_nowait() == (watcher.scan(), {})
    before = watcher.current()
    source.losing = True
    shutil.rmtree(root / "a.slice" / "b.service")
    (root / "c.slice" / "d.service").mkdir(parents=True)
    async with asyncio.timeout(5):
        added, removed = await calls.get()
    assert set(added) == {"c.slice", "c.slice/d.service"}
    assert removed == {"a.slice/b.service": before["a.slice/b.service"]}
    assert watcher.overflows == 1
    assert watcher.current() == watcher.scan()
    # What was entered during the rescan is watched like the rest.
    source.losing = False
    (root / "c.slice" / "d.service" / "e").mkdir()
    async with asyncio.timeout(5):
        added, _ = await calls.get()
    assert set(added) == {"c.slice/d.service/e"}
    watcher.close()


async def test_a_scan_is_no_start_and_files_are_no_cgroups(root: Path):
    (root / "a.slice" / "cgroup.procs").touch()
    watcher = CgroupWatcher(root)
    assert set(watcher.scan()) == {"a.slice", "a.slice/b.service"}
    assert watcher.current() == {}
    watcher.close()


async def test_the_limit_of_watches_is_named(root: Path):
    source = Lossy()
    source.limit = 1
    with pytest.raises(StateError, match=r"fs\.inotify\.max_user_watches"):
        CgroupWatcher(root, source).start(asyncio.get_running_loop(), lambda added, removed: None)
    source.close()


async def test_cgroups_nested_without_end_are_followed_to_a_bound(root: Path):
    """A user may nest them until no path reaches the deepest, and must not end the watcher by that."""
    deep = root.joinpath("a.slice", "b.service", *["x"] * 20)
    deep.mkdir(parents=True)
    calls: asyncio.Queue[set[str]] = asyncio.Queue()
    watcher = CgroupWatcher(root)
    watcher.start(asyncio.get_running_loop(), lambda added, removed: calls.put_nowait(set(added)))
    known = calls.get_nowait()
    assert known == set(watcher.scan())
    assert max(len(path.split("/")) for path in known) == DEEPEST
    (deep / "y").mkdir()
    root.joinpath("a.slice", "b.service", *["x"] * (DEEPEST - 2), "z").mkdir()
    (root / "c.slice").mkdir()
    async with asyncio.timeout(5):
        assert await calls.get() == {"c.slice"}
    watcher.close()


async def test_without_watches_for_what_is_inside_units_slices_are_still_followed(root: Path):
    """A user can use up the limit of watches by cgroups of their own."""
    for number in range(50):
        (root / "a.slice" / "b.service" / f"x{number}").mkdir()
    (root / "a.slice" / "a-a.slice").mkdir()
    source = Lossy()
    source.limit = 10
    calls: asyncio.Queue[set[str]] = asyncio.Queue()
    watcher = CgroupWatcher(root, source)
    watcher.start(asyncio.get_running_loop(), lambda added, removed: calls.put_nowait(set(added)))
    assert calls.get_nowait() == set(watcher.scan())
    (root / "a.slice" / "a-a.slice" / "new.service").mkdir()
    async with asyncio.timeout(5):
        assert await calls.get() == {"a.slice/a-a.slice/new.service"}
    watcher.close()


def test_a_directory_that_is_no_cgroup2_is_refused(tmp_path: Path):
    with pytest.raises(StateError, match=r"no cgroup\.controllers.*unified_cgroup_hierarchy"):
        CgroupWatcher(tmp_path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["41 31 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"], "/sys/fs/cgroup/unified"),
        (
            [
                "40 31 0:37 / /mnt/my\\040groups rw - cgroup2 c rw",
                "41 31 0:37 / /sys/fs/cgroup rw shared:9 - cgroup2 c rw",
            ],
            "/sys/fs/cgroup",
        ),
        (["40 31 0:37 / /mnt/my\\040groups rw - cgroup2 c rw"], "/mnt/my groups"),
    ],
)
def test_the_mount_is_found(tmp_path: Path, lines: list[str], expected: str):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines))
    assert find_cgroup2_root(mountinfo) == Path(expected)


def test_events_are_cut_apart():
    data = (1).to_bytes(4, "little") + (0x100).to_bytes(4, "little") + bytes(4) + (16).to_bytes(4, "little")
    assert parse_events((data + b"x.service".ljust(16, b"\0")) * 2) == [Event(1, 0x100, "x.service")] * 2
