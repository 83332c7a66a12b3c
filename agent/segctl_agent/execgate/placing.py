"""Moves processes into the cgroups of their executables, and out again. Plain files of cgroup v2, no other state."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from segctl_agent.execgate.names import PREFIX, gate_cgroup, gated, made_by_gate, may_hold
from segctl_agent.identity import DEPTH

MOST_CGROUPS = 4096
"""Cgroups of ours on this host. A process that would need one more stays where it is."""
log = logging.getLogger(__name__)


class CannotPlaceError(Exception):
    """Why a process stays in the cgroup it is in: its unit's workload is its workload then."""


class Placing:
    """`root` is the cgroup2 mount, `proc` that of procfs."""

    def __init__(self, root: Path, proc: Path = Path("/proc")) -> None:
        self.root, self._proc = root, proc
        self._prefix = f"{root}/"
        self.cgroups: set[str] = set()
        """Ours, as paths below `root`."""

    def find(self) -> Iterator[str]:
        """Walks over all cgroups, and takes those of an earlier run for ours."""
        for directory, names, _ in os.walk(self.root):
            above = os.path.relpath(directory, self.root)
            paths = [f"{above}/{name}" for name in names if name.startswith(PREFIX) and above != "."]
            self.cgroups.update(path for path in paths if self._is_ours(path))
            yield above

    def path_of(self, pid: int) -> str:
        """The cgroup of a process, below the root. Raises CannotPlaceError where it has none that we could divide."""
        try:
            with open(f"{self._proc}/{pid}/cgroup", "rb", buffering=0) as file:  # noqa: PTH123 - an exec waits for it
                text = os.fsdecode(file.read())
        except OSError as error:
            raise CannotPlaceError(f"its cgroup cannot be read: {error.strerror}") from error
        path = next((line[3:].strip("/") for line in text.splitlines() if line.startswith("0::")), "")
        if not path or path.startswith(".."):
            raise CannotPlaceError("it is in the root cgroup, or outside of it")
        return path

    def place(self, pid: int, workload: str) -> bool:
        """Moves the process into the cgroup of `workload` below its own. True when that cgroup is new. Raises
        CannotPlaceError; then nothing was moved."""
        parts = self.path_of(pid).split("/")
        if gated(parts) is not None and self._is_ours("/".join(parts)):
            if parts[-1] == gate_cgroup(workload):
                return False
            parts = parts[:-1]
        if len(parts) >= DEPTH or not may_hold(parts):
            raise CannotPlaceError(f"no cgroup can be made below {'/'.join(parts)}: too deep, or a user's own")
        path = "/".join((*parts, gate_cgroup(workload)))
        if path in self.cgroups and self._joined(pid, path):
            return False
        new = self._make(path)
        try:
            self._move(pid, path)
        except OSError as error:
            if new:
                self.remove(path)
            raise CannotPlaceError(f"it cannot be moved to {path}: {error.strerror}") from error
        return new

    def _joined(self, pid: int, path: str) -> bool:
        """The way of all but the first: no look at what was looked at before. False for a cgroup that is gone."""
        try:
            self._move(pid, path)
        except OSError:
            return False
        return True

    def move_back(self, pid: int, path: str) -> None:
        """Out of the cgroup of ours at `path`, into the one above."""
        try:
            self._move(pid, path.rpartition("/")[0])
        except OSError as error:
            if error.errno != errno.ESRCH:
                log.warning("pid %d cannot leave %s: %s", pid, path, error.strerror)

    def processes(self, path: str) -> list[int] | None:
        """None when the cgroup is gone."""
        try:
            return [int(line) for line in (self.root / path / "cgroup.procs").read_text().split()]
        except OSError:
            return None

    def remove(self, path: str) -> None:
        """Whoever came in meanwhile keeps it there (EBUSY)."""
        try:
            (self.root / path).rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        self.cgroups.discard(path)

    def running(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Every process and the file that it runs."""
        for name in os.listdir(self._proc):  # noqa: PTH208 - a Path for each process costs more than the rest
            if name.isdigit() and (file := self.executable(int(name))) is not None:
                yield int(name), file

    def executable(self, pid: int) -> tuple[int, int] | None:
        """(device, inode) of what the process runs; None when it has ended, or is a thread of the kernel."""
        try:
            found = os.stat(f"{self._proc}/{pid}/exe")  # noqa: PTH116 - as above
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _make(self, path: str) -> bool:
        """Makes the cgroup unless it is there. One that is there and not ours is nobody's proof of anything."""
        if path not in self.cgroups and len(self.cgroups) >= MOST_CGROUPS:
            raise CannotPlaceError(f"there are {MOST_CGROUPS} cgroups of executables already")
        above = self.root / path.rpartition("/")[0]
        try:
            if above.lstat().st_uid != 0:
                raise CannotPlaceError(f"{above} is delegated to a user")
            (self.root / path).mkdir()
        except FileExistsError:
            if not self._is_ours(path):
                raise CannotPlaceError(f"{path} was made by somebody else") from None
            new = path not in self.cgroups
        except OSError as error:
            raise CannotPlaceError(f"{path} cannot be made: {error.strerror}") from error
        else:
            new = True
        self.cgroups.add(path)
        return new

    def _is_ours(self, path: str) -> bool:
        where = self.root / path
        try:
            return made_by_gate(where.lstat().st_uid, where.parent.lstat().st_uid)
        except OSError:
            return False

    def _move(self, pid: int, path: str) -> None:
        descriptor = os.open(f"{self._prefix}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d" % pid)
        finally:
            os.close(descriptor)
