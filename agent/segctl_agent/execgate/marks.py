"""Which files are marked, kept true while packages replace them: a mark is on an inode, a policy names a path.

inotify on the folder of every name on the way to the file tells at once, also of a link or a folder that is switched to
another version; a look at each path every second sees the rest (a mount).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from segctl_agent.execgate.fanotify import open_to_mark
from segctl_agent.execgate.targets import Target
from segctl_agent.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    EventSource,
)

MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""
MOST_NAMES = 512
_WATCHED = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR
File = tuple[int, int]
"""(device, inode)."""
log = logging.getLogger(__name__)


class Marker(Protocol):
    """What marks need of fanotify."""

    def mark(self, descriptor: int) -> None: ...

    def unmark(self, descriptor: int) -> None: ...


def names_on_the_way(path: Path) -> list[Path]:
    """Every name that a look-up of the absolute `path` goes over, folders and symbolic links included (symlink(7)): a
    change of any of them may lead to another file."""
    names: list[Path] = []
    here, ahead, links = Path("/"), list(reversed(path.parts[1:])), 0
    while ahead and len(names) < MOST_NAMES:
        part = ahead.pop()
        if part == "..":
            here = here.parent
            continue
        name = here / part
        names.append(name)
        if links < MOST_LINKS and name.is_symlink():
            links += 1
            target = name.readlink()
            here = Path("/") if target.is_absolute() else here
            ahead.extend(reversed([part for part in target.parts if part != "/"]))
        else:
            here = name
    return names


class Marks:
    """`files` maps what is marked to its workload."""

    def __init__(self, marker: Marker, watches: EventSource) -> None:
        self._marker, self._watches = marker, watches
        self.files: dict[File, str] = {}
        self._targets: tuple[Target, ...] = ()
        self._held: dict[str, File] = {}  # path -> what is marked there
        self._names: set[str] = set()
        self._problems: dict[str, str] = {}

    def set_targets(self, targets: Iterable[Target]) -> bool:
        """True when another file is marked than before."""
        self._targets = tuple(targets)
        for path in self._held.keys() - {t.path for t in self._targets}:
            self._release(path)
        return self.refresh()

    def concerned(self) -> bool:
        """Whether something happened to a name on the way to one of our files since the last call."""
        found = [event.mask & IN_Q_OVERFLOW or event.name in self._names for event in self._watches.read()]
        return any(found)

    def refresh(self) -> bool:
        """Makes the marks true. True when a file is marked that was not before."""
        before = set(self.files)
        names: set[str] = set()
        for target in self._targets:
            for name in names_on_the_way(Path(target.path)):
                names.add(name.name)
                self._watch(name.parent)
            self._look(target.path)
        self._names = names
        self.files = {}
        for target in self._targets:
            if target.path in self._held:
                self.files.setdefault(self._held[target.path], target.workload)
        return not set(self.files) <= before

    def close(self) -> None:
        for path in tuple(self._held):
            self._release(path)

    def _look(self, path: str) -> None:
        held = self._held.get(path)
        try:
            found = os.stat(path)  # noqa: PTH116 - every second for each file
            if held == (found.st_dev, found.st_ino):
                return
            if held is not None:
                self._release(path)
            self._mark(path)
            self._problems.pop(path, None)
        except OSError as error:
            if path in self._held:
                self._release(path)
            problem = error.strerror or "it cannot be marked"
            if self._problems.get(path) != problem:
                log.warning("%s is not marked: %s. Nothing that runs it gets its permissions", path, problem)
                self._problems[path] = problem

    def _mark(self, path: str) -> None:
        descriptor = open_to_mark(Path(path))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(0, "it is not a regular file")
            self._marker.mark(descriptor)
        finally:
            os.close(descriptor)  # an open file would keep its file system from being unmounted
        self._held[path] = (found.st_dev, found.st_ino)
        log.info("%s is marked: device %d, inode %d", path, found.st_dev, found.st_ino)

    def _release(self, path: str) -> None:
        """Two paths may lead to one file: its mark stays for the other. A file that was deleted took its mark along;
        one that was moved away keeps it, and is allowed as what it is: no file of ours."""
        file = self._held.pop(path)
        if file in self._held.values():
            return
        try:
            descriptor = open_to_mark(Path(path))
        except OSError:
            return
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == file:
                self._marker.unmark(descriptor)
        except OSError as error:
            log.warning("the mark of %s cannot be removed: %s", path, error.strerror)
        finally:
            os.close(descriptor)

    def _watch(self, folder: Path) -> None:
        try:
            self._watches.add(folder, _WATCHED)
        except OSError:
            return  # not there, or no watch is left: the look every second finds the file when it comes
