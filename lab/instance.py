"""One raised lab and what it owns on the machine: a directory, a cgroup, a lock. Nothing else of it has a name outside
its namespaces.

The lock says who is alive: the kernel lets go of it when the owner ends in whatever way, so anyone may purge the rest.
A warden, a process of its own, waits for the owner to go away and does so at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.wait import until

BASE = Path("/run/segctl-lab")
PREFIX = "segctl-lab-"


class LabError(Exception):
    """The lab cannot be raised or used; the message says why and what to do."""


def cgroup_mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """Where cgroup v2 is mounted on this machine. Format: proc_pid_mountinfo(5)."""
    for line in mountinfo.read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    raise LabError(
        "cgroup v2 is not mounted: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` or boot with unified cgroups"
    )


def remove_cgroup(cgroup: Path, seconds: float = 10.0) -> None:
    """Kill everything in `cgroup` and below, wait until it is empty, and remove it."""
    if not cgroup.exists():
        return

    def empty() -> bool:
        with contextlib.suppress(FileNotFoundError):
            (cgroup / "cgroup.kill").write_text("1")
            return "populated 0" in (cgroup / "cgroup.events").read_text()
        return True

    def removed() -> bool:
        for directory, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):  # busy for a moment after its last process, or gone already
                Path(directory).rmdir()
        return not cgroup.exists()

    until(f"the processes of {cgroup} have ended", empty, seconds)
    until(f"{cgroup} is removed", removed, seconds)


@contextlib.contextmanager
def _everything_locked() -> Iterator[None]:
    """Hold the lock that every lab takes to come and go. Its file goes with the last lab, so a lock may turn out to be
    on a file that is no longer there: then take the new one."""
    path = BASE / ".lock"
    while True:
        BASE.mkdir(mode=0o755, exist_ok=True)
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                yield
                return


def _remove_base_when_empty() -> None:
    if [path.name for path in BASE.iterdir()] == [".lock"]:
        (BASE / ".lock").unlink()
        BASE.rmdir()


class Instance:
    """The names of one lab. `claim` makes them ours and purges what dead labs left; `release` removes them."""

    def __init__(self, name: str = "") -> None:
        self.name = name or secrets.token_hex(3)
        self.directory = BASE / self.name
        self.cgroup = cgroup_mount() / f"{PREFIX}{self.name}"
        self._lock: int | None = None
        self._cgroup_lock: int | None = None
        self._warden: subprocess.Popen[bytes] | None = None

    def claim(self) -> None:
        with _everything_locked():
            purge_dead()
            if self.directory.exists():
                raise LabError(f"the lab {self.name} is up: take it down first (`make lab-down`)")
            self.directory.mkdir(mode=0o755)
            self._lock = os.open(self.directory / "lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._warden = subprocess.Popen(
                [sys.executable, "-m", "lab.instance", self.name],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self.cgroup.mkdir()
            # Seen also from where this lab's directory is not: a container that shares only the cgroups.
            self._cgroup_lock = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._cgroup_lock, fcntl.LOCK_EX)

    def kill(self) -> None:
        """SIGKILL to every process of the lab; the caller reaps its own children, then calls `release`."""
        with contextlib.suppress(FileNotFoundError):
            (self.cgroup / "cgroup.kill").write_text("1")

    def release(self) -> None:
        """Remove everything of this lab. May be called twice."""
        remove_cgroup(self.cgroup)
        if self._cgroup_lock is not None:
            os.close(self._cgroup_lock)
            self._cgroup_lock = None
        if self._warden is not None:
            self._warden.communicate()
            self._warden = None
        with _everything_locked():
            shutil.rmtree(self.directory, ignore_errors=True)
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
            _remove_base_when_empty()

    def remains(self) -> list[str]:
        """What is still there of this lab, in words; empty when nothing is. For use after `release`."""
        found = [f"directory {path}" for path in (self.directory, self.cgroup) if path.exists()]
        mark = f"{PREFIX}{self.name}"
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "cgroup").read_text() and not _is_buried_soon(process):
                    found.append(f"process {process.name} {(process / 'comm').read_text().strip()}")
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [
            f"mount {line.split()[4]}" for line in mounts.splitlines() if mark in line or str(self.directory) in line
        ]
        return found


def _is_buried_soon(process: Path) -> bool:
    """It has ended, and only waits for its parent, mostly init. `process` is of /proc (proc_pid_stat(5))."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def is_alive(directory: Path) -> bool:
    """True while the owner of the lab in `directory` lives."""
    try:
        with (directory / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_locked(directory: Path) -> bool:
    """True while somebody holds the directory itself, from whatever mount namespace."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def purge_dead() -> list[str]:
    """Remove what labs left whose owners died (SIGKILL, power). Returns their names."""
    purged = []
    for directory in sorted(path for path in BASE.iterdir() if path.is_dir()):
        if not is_alive(directory):
            remove_cgroup(cgroup_mount() / f"{PREFIX}{directory.name}")
            shutil.rmtree(directory, ignore_errors=True)
            purged.append(directory.name)
    for cgroup in cgroup_mount().glob(f"{PREFIX}*"):
        if not (BASE / cgroup.name.removeprefix(PREFIX)).exists() and not is_locked(cgroup):
            remove_cgroup(cgroup)
            purged.append(cgroup.name.removeprefix(PREFIX))
    return purged


def purge() -> list[str]:
    """Remove what dead labs left on this machine. Returns their names."""
    with _everything_locked():
        purged = purge_dead()
        _remove_base_when_empty()
    return purged


def _guard(name: str) -> None:
    """The warden: standard input ends with the owner. After an orderly end nothing is left to do."""
    sys.stdin.read()
    instance = Instance(name)
    if instance.cgroup.exists():
        instance.release()


if __name__ == "__main__":
    _guard(sys.argv[1])
