"""Marks on real files, with a marker that remembers what it was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from segctl_agent.execgate.marks import MOST_LINKS, Marks, names_on_the_way
from segctl_agent.execgate.targets import Target
from segctl_agent.inotify import Inotify


class Marker:
    """The inodes that are marked."""

    def __init__(self) -> None:
        self.inodes: set[int] = set()
        self.refuse = False

    def mark(self, descriptor: int) -> None:
        if self.refuse:
            raise OSError(28, "No space left on device")
        self.inodes.add(os.fstat(descriptor).st_ino)

    def unmark(self, descriptor: int) -> None:
        self.inodes.remove(os.fstat(descriptor).st_ino)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, Marker()
        self.marks = Marks(self.marker, Inotify())

    def name(self, **paths: str) -> bool:
        return self.marks.set_targets(Target(w, str(self.folder / p)) for w, p in paths.items())

    def file(self, name: str) -> int:
        (self.folder / name).write_text("x")
        return (self.folder / name).stat().st_ino

    @property
    def workloads(self) -> dict[int, str]:
        return {inode: workload for (_, inode), workload in self.marks.files.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_file_is_marked_and_its_mark_goes_with_its_name(bench: Bench) -> None:
    inode = bench.file("a")
    assert bench.name(w="a")
    assert (bench.marker.inodes, bench.workloads) == ({inode}, {inode: "w"})
    assert not bench.name(v="a")  # the same file, of another workload
    assert bench.workloads == {inode: "v"}
    assert not bench.name()
    assert (bench.marker.inodes, bench.workloads) == (set(), {})


def test_a_replaced_file_is_noticed_and_marked(bench: Bench) -> None:
    bench.file("a")
    bench.name(w="a")
    bench.marks.concerned()
    new = bench.file("b")
    assert not bench.marks.concerned()  # of no interest
    (bench.folder / "b").rename(bench.folder / "a")
    assert bench.marks.concerned()
    assert bench.marks.refresh()
    assert bench.workloads == {new: "w"}
    assert new in bench.marker.inodes


def test_a_file_that_comes_later_is_marked_then(bench: Bench) -> None:
    assert not bench.name(w="sub/a")
    (bench.folder / "sub").mkdir()
    inode = bench.file("sub/a")
    assert bench.marks.refresh()
    assert bench.workloads == {inode: "w"}
    (bench.folder / "sub" / "a").unlink()
    assert bench.marks.concerned()
    assert not bench.marks.refresh()
    assert bench.workloads == {}


def test_links_are_followed_to_the_file_each_name_of_which_is_watched(bench: Bench) -> None:
    inode, other = bench.file("real"), bench.file("other")
    (bench.folder / "link").symlink_to("real")
    (bench.folder / "far").symlink_to(bench.folder / "link")
    bench.name(w="far")
    assert bench.workloads == {inode: "w"}
    bench.marks.concerned()
    (bench.folder / "link").unlink()
    (bench.folder / "link").symlink_to("other")
    assert bench.marks.concerned()
    assert bench.marks.refresh()
    assert bench.workloads == {other: "w"}


def test_two_names_of_one_file_share_its_mark(bench: Bench) -> None:
    inode = bench.file("a")
    (bench.folder / "b").hardlink_to(bench.folder / "a")
    bench.name(v="a", w="b")
    assert bench.workloads == {inode: "v"}
    bench.name(w="b")
    assert (bench.marker.inodes, bench.workloads) == ({inode}, {inode: "w"})


def test_what_is_no_file_or_cannot_be_marked_is_left_out(bench: Bench) -> None:
    os.mkfifo(bench.folder / "pipe")
    (bench.folder / "folder").mkdir()
    (bench.folder / "loop").symlink_to("loop")
    assert not bench.name(p="pipe", f="folder", l="loop", d="nothing/here")
    assert bench.workloads == {}
    bench.marker.refuse = True
    inode = bench.file("a")
    assert not bench.name(w="a")
    bench.marker.refuse = False
    assert bench.marks.refresh()
    assert bench.workloads == {inode: "w"}


def test_a_loop_of_links_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert names_on_the_way(tmp_path / "loop").count(tmp_path / "loop") == MOST_LINKS + 1


def test_every_name_on_the_way_counts(tmp_path: Path) -> None:
    (tmp_path / "v1" / "bin").mkdir(parents=True)
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "v1" / "bin" / "a").symlink_to("../real")
    found = [
        str(n.relative_to(tmp_path)) for n in names_on_the_way(tmp_path / "current/bin/a") if n.is_relative_to(tmp_path)
    ]
    assert found == [".", "current", "v1", "v1/bin", "v1/bin/a", "v1/real"]


@pytest.mark.parametrize("switch", ["a link", "a folder"])
def test_another_version_is_noticed_when_the_way_to_it_changes(bench: Bench, switch: str) -> None:
    for version in ("v1", "v2"):
        (bench.folder / version).mkdir()
    first, second = bench.file("v1/a"), bench.file("v2/a")
    if switch == "a link":
        (bench.folder / "now").symlink_to("v1")
    else:
        (bench.folder / "v1").rename(bench.folder / "now")
    bench.name(w="now/a")
    assert bench.workloads == {first: "w"}
    bench.marks.concerned()
    if switch == "a link":
        (bench.folder / "new").symlink_to("v2")
        (bench.folder / "new").rename(bench.folder / "now")
    else:
        (bench.folder / "now").rename(bench.folder / "old")
        (bench.folder / "v2").rename(bench.folder / "now")
    assert bench.marks.concerned()
    assert bench.marks.refresh()
    assert bench.workloads == {second: "w"}


def test_closing_takes_the_marks_away(bench: Bench) -> None:
    bench.file("a")
    bench.name(w="a")
    bench.marks.close()
    assert bench.marker.inodes == set()
