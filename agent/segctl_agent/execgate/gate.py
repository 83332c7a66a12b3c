"""The worker: answers execs first and at once, and keeps marks and cgroups true in between."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from segctl.errors import StateError

from segctl_agent.execgate.fanotify import ExecEvent, Fanotify
from segctl_agent.execgate.marks import File, Marks
from segctl_agent.execgate.names import PREFIX
from segctl_agent.execgate.placing import CannotPlaceError, Placing
from segctl_agent.execgate.targets import FILE, Target, read_targets
from segctl_agent.inotify import IN_CLOSE_WRITE, IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO, Inotify

LOOK_SECONDS = 1.0
"""Between looks at files and cgroups: how long a child that runs something else keeps the identity it was born with."""
IN_PROGRESS_SECONDS = 0.5
"""An exec that was allowed so short a time ago may not have happened yet."""
LINGER_SECONDS = 60.0
"""An empty cgroup is kept for the next process, whose first packet then finds it known."""
SETTLE_SECONDS = 0.003
"""What the first process in a new cgroup waits: the agent maps it within 0.6 ms (p95, docs/figures.md)."""
_TELL_AGAIN_SECONDS = 60.0
_SLICE = 64
_LIST_EVENTS = IN_MOVED_TO | IN_CREATE | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM
_T = TypeVar("_T")
log = logging.getLogger(__name__)


class Gate:
    """`alive` is called at least ten times a second while all is well: the watchdog counts on it."""

    def __init__(self, folder: Path, root: Path, alive: Callable[[], None]) -> None:
        self._folder, self._alive = folder, alive
        self._group = Fanotify()
        self._watches, self._list_watch = Inotify(), Inotify()
        self._marks = Marks(self._group, self._watches)
        self._placing = Placing(root)
        self._targets: tuple[Target, ...] = ()
        self._known: dict[File, str] = {}  # marked now, or replaced while processes still run it
        self._recent: dict[int, float] = {}  # pid -> when its exec was allowed
        self._empty: dict[str, float] = {}  # cgroup -> since when nobody is in it
        self._told: dict[str, float] = {}

    def start(self) -> bool:
        """Marks the files and takes what runs them already. False when there is nothing to do. Raises StateError, and
        OSError without CAP_SYS_ADMIN."""
        self._list_watch.add(self._folder, _LIST_EVENTS)
        self._targets = read_targets(self._folder)
        for _ in self._in_turns(self._placing.find()):
            pass
        if not self._targets:
            self._end()
            return False
        self._marks.set_targets(self._targets)
        self._adopt()
        return True

    def run(self) -> None:
        """Until the agent's list is gone."""
        poll = select.poll()
        for source in (self._group, self._watches, self._list_watch):
            poll.register(source.fileno(), select.POLLIN)
        due = time.monotonic() + LOOK_SECONDS
        while self._targets:
            poll.poll(min(100, max(0, int((due - time.monotonic()) * 1000) + 1)))
            self._alive()
            self._answer()
            if self._marks.concerned():
                self._refresh()
            if any(event.name == FILE for event in self._list_watch.read()):
                self._reload()
            if time.monotonic() >= due:
                self._look()
                due = time.monotonic() + LOOK_SECONDS
        self._end()

    def _answer(self) -> None:
        while events := self._group.read():
            for event in events:
                try:
                    self._place(event)
                finally:
                    self._group.allow(event)
            self._alive()

    def _place(self, event: ExecEvent) -> None:
        found = os.fstat(event.descriptor)
        workload = self._marks.files.get((found.st_dev, found.st_ino))
        if workload is None or event.pid <= 0:
            return
        self._recent[event.pid] = time.monotonic()
        self._move(event.pid, workload, settle=True)

    def _move(self, pid: int, workload: str, *, settle: bool) -> None:
        try:
            if self._placing.place(pid, workload) and settle:
                time.sleep(SETTLE_SECONDS)
        except CannotPlaceError as error:
            self._tell(f"a process of {workload} keeps the permissions of its unit: {error}")

    def _tell(self, what: str) -> None:
        """Once a minute for each thing, and no more things than a log can bear."""
        now = time.monotonic()
        if now - self._told.get(what, -_TELL_AGAIN_SECONDS) < _TELL_AGAIN_SECONDS:
            return
        self._told = {w: t for w, t in self._told.items() if now - t < _TELL_AGAIN_SECONDS}
        if len(self._told) < _SLICE:
            self._told[what] = now
            log.warning("%s", what)

    def _reload(self) -> None:
        try:
            self._targets = read_targets(self._folder)
        except StateError as error:
            self._tell(f"{error}; the list before stays in force")
            return
        log.info("%d files are named", len(self._targets))
        self._marks.set_targets(self._targets)
        self._adopt()

    def _refresh(self) -> None:
        self._known.update(self._marks.files)
        if self._marks.refresh():
            self._adopt()

    def _adopt(self) -> None:
        """What ran a file before it was marked. Its sockets keep the identity they were made with."""
        for pid, file in self._in_turns(self._placing.running()):
            workload = self._marks.files.get(file)
            if workload is not None:
                self._move(pid, workload, settle=False)

    def _look(self) -> None:
        """Who is in a cgroup of ours and runs something else goes back; who is not known yet is looked for."""
        self._refresh()
        now = time.monotonic()
        self._recent = {pid: at for pid, at in self._recent.items() if now - at < IN_PROGRESS_SECONDS}
        files = self._marks.files
        in_use: set[File] = set()
        for path in tuple(self._placing.cgroups):
            pids = self._placing.processes(path)
            if pids is None:
                self._placing.cgroups.discard(path)
            elif pids:
                self._empty.pop(path, None)
            elif now - self._empty.setdefault(path, now) >= LINGER_SECONDS:
                self._placing.remove(path)
            self._sort_out(path, pids or [], files, in_use)
        self._known = {f: w for f, w in {**self._known, **files}.items() if f in files or f in in_use}
        self._empty = {path: at for path, at in self._empty.items() if path in self._placing.cgroups}

    def _sort_out(self, path: str, pids: list[int], files: dict[File, str], in_use: set[File]) -> None:
        workload = path.rpartition("/")[2].removeprefix(PREFIX)
        named = {t.workload for t in self._targets}
        for pid in self._in_turns(iter(pids)):
            file = self._placing.executable(pid)
            if file is None or pid in self._recent:
                continue
            # A file that a package replaced is no longer marked; who ran it before goes on to be who they are.
            runs = files.get(file) or self._known.get(file)
            if runs == workload and workload in named:
                in_use.add(file)
            elif (other := files.get(file)) is not None:
                self._move(pid, other, settle=False)
            else:
                self._placing.move_back(pid, path)

    def _in_turns(self, work: Iterator[_T]) -> Iterator[_T]:
        """Execs do not wait for the rest of a long round."""
        for number, item in enumerate(work):
            if number % _SLICE == _SLICE - 1:
                self._alive()
                self._answer()
            yield item

    def _end(self) -> None:
        """No policy names an executable any more: everybody goes back, and the empty cgroups go."""
        self._marks.set_targets(())
        for path in tuple(self._placing.cgroups):
            for pid in self._placing.processes(path) or ():
                self._placing.move_back(pid, path)
            self._placing.remove(path)
