"""The cgroups of this host, and each one that appears or goes, within a millisecond.

inotify on every directory of the cgroup2 tree. A directory is listed after its watch is in place, so nothing that
appears meanwhile is missed; every event only says "look at this path again", so late and doubled events do no harm.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from segctl.errors import StateError

from segctl_agent.execgate.names import PREFIX, made_by_gate
from segctl_agent.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_DONT_FOLLOW,
    IN_IGNORED,
    IN_ISDIR,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    Event,
    EventSource,
    Inotify,
)

log = logging.getLogger(__name__)

CGROUP_ROOT = Path("/sys/fs/cgroup")
OnChange = Callable[[dict[str, int], dict[str, int]], None]
"""added and removed: path below the root -> cgroup id. A cgroup made anew under the same path is in both."""

DEEPEST = 12
"""Levels that are followed. Identity ends at 8; a user may nest cgroups until no path reaches them (PATH_MAX)."""
_WATCHED = IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW


def find_cgroup2_root(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """Where cgroup v2 is mounted; /sys/fs/cgroup when it is one of several. StateError when nowhere (proc(5))."""
    mounts = []
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == "cgroup2":
            mounts.append(Path(_unescape(left.split(" ")[4])))
    if not mounts:
        raise StateError(
            f"no cgroup v2 file system is mounted (see {mountinfo}): boot with systemd.unified_cgroup_hierarchy=1, or "
            f"`mount -t cgroup2 none {CGROUP_ROOT}`"
        )
    return CGROUP_ROOT if CGROUP_ROOT in mounts else mounts[0]


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as \\040, \\011, \\012 and \\134."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


class CgroupWatcher:
    """Knows every cgroup below `root`. Paths have no leading slash; the root itself is left out.

    StateError when `root` is not a cgroup v2 directory, or when the limits of inotify are reached.
    """

    def __init__(self, root: Path = CGROUP_ROOT, source: EventSource | None = None) -> None:
        if not (root / "cgroup.controllers").exists():
            raise StateError(
                f"{root} is not a cgroup v2 directory (it has no cgroup.controllers): segctl tells processes apart by "
                "cgroup v2; boot with systemd.unified_cgroup_hierarchy=1, or give the directory of the cgroup2 mount"
            )
        self.root = root
        self._root = str(root)
        self._source = source
        self._ids: dict[str, int] = {}
        self._paths: dict[int, str] = {}
        self._children: dict[str, set[str]] = {"": set()}
        self._watches: dict[int, str] = {}
        self._watch_of: dict[str, int] = {}
        self._touched: dict[str, int | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_change: OnChange | None = None
        self.overflows = 0
        self._full = False  # no watch was left for the inside of a unit
        self._stale = False  # an error cut the last round short: events were read and not acted upon

    def scan(self) -> dict[str, int]:
        """What is there now, read from the file system. Works without `start`."""
        found: dict[str, int] = {}
        pending = [""]
        while pending:
            path = pending.pop()
            for name, number in self._list(path):
                below = f"{path}/{name}" if path else name
                found[below] = number
                pending.append(below)
        return found

    def current(self) -> dict[str, int]:
        """What the watcher knows: path -> id."""
        return dict(self._ids)

    def path_of(self, number: int) -> str | None:
        """The path of a cgroup id, "" for the root; looks at what the kernel has to tell before it gives up."""
        path = self._paths.get(number)
        if path is None and self._source is not None and self._on_change is not None:
            self._read()
            path = self._paths.get(number)
        if path is None and number == self.root.stat().st_ino:
            return ""
        return path

    def known_path(self, number: int) -> str | None:
        """As `path_of`, of what is known by now: for other threads than the loop's."""
        path = self._paths.get(number)
        return "" if path is None and number == self.root.stat().st_ino else path

    def start(self, loop: asyncio.AbstractEventLoop, on_change: OnChange) -> None:
        """Follow the tree. `on_change` is called at once with everything there is, then with every change, straight
        from the reader of the loop."""
        self._source = self._source or _open_source()
        self._loop, self._on_change = loop, on_change
        self._enter("")
        loop.add_reader(self._source.fileno(), self._read)
        self._publish()

    def close(self) -> None:
        if self._source is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._source.fileno())
        self._source.close()
        self._source = self._loop = self._on_change = None

    def _read(self) -> None:
        assert self._source is not None
        stale, self._stale = self._stale, True
        try:
            events = self._source.read()
            self._announce(events)
            for event in events:
                self._take(event)
            if stale:
                self._rescan()
            self._stale = False
        finally:
            self._publish()

    def _announce(self, events: list[Event]) -> None:
        """Tells of new cgroups before anything else is done about them: until then their first packets are dropped.
        The watch and the list of what they hold come right after; every event is acted upon once more."""
        for event in events:
            if event.mask & IN_CREATE and event.mask & IN_ISDIR and event.watch in self._watches:
                path = self._path(event)
                if path not in self._ids and path.count("/") < DEEPEST and not self._forged(path):
                    self._note_itself(path)
        self._publish()

    def _path(self, event: Event) -> str:
        parent = self._watches[event.watch]
        return f"{parent}/{event.name}" if parent else event.name

    def _take(self, event: Event) -> None:
        if event.mask & IN_Q_OVERFLOW:
            self.overflows += 1
            self._rescan()
        elif event.mask & IN_IGNORED:
            self._forget_watch(event.watch)
        elif event.mask & IN_ISDIR and event.watch in self._watches:
            self._examine(self._path(event))

    def _publish(self) -> None:
        """Tell the net difference since the last call: what came and went in between is no news."""
        touched, self._touched = self._touched, {}
        added, removed = {}, {}
        for path, before in touched.items():
            after = self._ids.get(path)
            if after == before:
                continue
            if before is not None:
                removed[path] = before
            if after is not None:
                added[path] = after
        if (added or removed) and self._on_change is not None:
            self._on_change(added, removed)

    def _rescan(self) -> None:
        """Events were lost: look at every path that was known or is there, parents first."""
        self._enter("")
        for path in sorted({*self._ids, *self.scan()}):
            self._examine(path)

    def _examine(self, path: str) -> None:
        """Make what we know of `path` and everything below it true."""
        if path.count("/") >= DEEPEST:
            return
        if self._forged(path):
            self._drop(path)
            return
        try:
            number = self._number(path)
        except FileNotFoundError:
            self._drop(path)
            return
        if path in self._ids and self._ids[path] != number:
            self._drop(path)
        self._enter(path)

    def _enter(self, path: str) -> None:
        """Watch, then note, then list. A directory that was replaced since its watch was placed has another watch
        descriptor, and is listed again."""
        pending = deque([path])
        while pending:
            path = pending.pop()
            known = self._watch_of.get(path)
            watch = self._watch(path)
            if watch is None and path and path not in self._ids:
                self._note_itself(path)
            if watch is None or watch == known:
                continue
            self._watches[watch] = path
            self._watch_of[path] = watch
            for name, number in self._list(path):
                below = f"{path}/{name}" if path else name
                if self._ids.get(below) != number:
                    self._drop(below)
                    self._note(below, number)
                # Slices first: what is inside a unit must not use up their watches.
                (pending.append if _of_slices(below) else pending.appendleft)(below)
            if path and path not in self._ids:
                self._note_itself(path)

    def _note_itself(self, path: str) -> None:
        try:
            self._note(path, self._number(path))
        except FileNotFoundError:
            self._drop(path)

    def _number(self, path: str) -> int:
        return os.lstat(f"{self._root}/{path}").st_ino

    def _note(self, path: str, number: int) -> None:
        self._touched.setdefault(path, self._ids.get(path))
        self._ids[path] = number
        self._paths[number] = path
        self._children.setdefault(path, set())
        self._children.setdefault(path.rpartition("/")[0], set()).add(path)

    def _drop(self, path: str) -> None:
        for child in tuple(self._children.get(path, ())):
            self._drop(child)
        self._children.pop(path, None)
        self._children.get(path.rpartition("/")[0], set()).discard(path)
        number = self._ids.pop(path, None)
        if number is not None:
            self._touched.setdefault(path, number)
            if self._paths.get(number) == path:
                del self._paths[number]
        watch = self._watch_of.pop(path, None)
        if watch is not None:
            self._watches.pop(watch, None)

    def _watch(self, path: str) -> int | None:
        assert self._source is not None
        try:
            return self._source.add(self.root / path, _WATCHED)
        except FileNotFoundError:
            self._drop(path)
            return None
        except OSError as error:
            failure = _limit(error, "fs.inotify.max_user_watches")
            if error.errno != errno.ENOSPC or _of_slices(path):
                raise failure from error
            if not self._full:
                log.warning("%s. Until then new cgroups inside of units are not seen", failure)
            self._full = True
            return None

    def _forget_watch(self, watch: int) -> None:
        path = self._watches.pop(watch, None)
        if path is not None and self._watch_of.get(path) == watch:
            del self._watch_of[path]

    def _list(self, path: str) -> list[tuple[str, int]]:
        if path.count("/") + 1 >= DEEPEST:
            return []
        try:
            with os.scandir(self.root / path) as entries:
                found = [(e.name, e.inode()) for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return []
            raise StateError(f"cannot list the cgroups in {self.root / path}: {error.strerror}") from error
        return [(name, number) for name, number in found if not self._forged(f"{path}/{name}")]

    def _forged(self, path: str) -> bool:
        """A cgroup that bears the exec gate's name and is not the gate's: it is never told, so that what is in it stays
        unknown, and closed where the host enforces."""
        above, _, name = path.rpartition("/")
        if not name.startswith(PREFIX):
            return False
        try:
            owner, owner_above = ((self.root / p.lstrip("/")).lstat().st_uid for p in (path, above))
        except FileNotFoundError:
            return True  # gone: a new one of the name is looked at anew
        return not made_by_gate(owner, owner_above)


def _of_slices(path: str) -> bool:
    """The root, and cgroups that may hold units; users cannot make such ones."""
    return all(part.endswith(".slice") for part in path.split("/") if part)


def _open_source() -> EventSource:
    try:
        return Inotify()
    except OSError as error:
        raise _limit(error, "fs.inotify.max_user_instances") from error


def _limit(error: OSError, sysctl: str) -> StateError:
    if error.errno in (errno.ENOSPC, errno.EMFILE):
        return StateError(
            f"cannot watch the cgroups: the limit {sysctl} is reached; raise it with `sysctl -w {sysctl}=N`"
        )
    return StateError(f"cannot watch the cgroups at {error.filename or 'inotify'}: {error.strerror}")
