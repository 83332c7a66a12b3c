"""Private network, mount and cgroup namespaces for tests on the real kernel.

A `Space` is held open by a child process. `run` forks, enters it and calls a function there, so a function may be a
closure; its result or exception comes back. `in_namespaces` does so in a space of its own. Nothing outside the space is
touched: cgroups are made in one subtree, and it goes at the end with every process that still is in it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import select
import signal
import struct
import subprocess
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from segctl_agent.facts.processes import process_ids

from tests.patience import patience

T = TypeVar("T")

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWNET = 0x00020000, 0x02000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)
CGROUPS = Path("/sys/fs/cgroup")

# What earlier tests left to the garbage collector stays the parent's: gRPC's finalizers wait for threads that a fork
# does not have.
os.register_at_fork(after_in_child=gc.freeze)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)} (these tests need root)")


def _cgroup2_mount() -> Path:
    """Where this machine has cgroup v2: /sys/fs/cgroup, or below it on a hybrid one."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise RuntimeError("no cgroup2 is mounted: kernel tests need it")


class Space:
    """One namespace of each kind, with its own cgroup subtree as the root of /sys/fs/cgroup."""

    def __init__(self, name: str = "test") -> None:
        self.outer = _cgroup2_mount() / f"segctl-{name}-{uuid.uuid4().hex[:8]}"
        self.outer.mkdir()
        ready, release = os.pipe(), os.pipe()
        self._release = release[1]
        self.pid = os.fork()
        if self.pid == 0:
            self._hold(ready[1], release)
        os.close(ready[1])
        os.close(release[0])
        error = b""
        while chunk := os.read(ready[0], 4096):
            error += chunk
        os.close(ready[0])
        if error != b"ready":
            self.close()
            raise RuntimeError(f"cannot make a namespace: {error.decode()}")

    def _hold(self, ready: int, release: tuple[int, int]) -> None:
        """The child: enter the cgroup first, because a cgroup namespace is rooted where it is made."""
        try:
            os.close(release[1])
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            (self.outer / "cgroup.procs").write_text("0")
            _check(_LIBC.unshare(_CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWCGROUP), "unshare")
            _check(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "make mounts private")
            _check(_LIBC.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount /sys")
            _check(_LIBC.mount(b"cgroup2", b"/sys/fs/cgroup", b"cgroup2", 0, None), "mount cgroup2")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            os.write(ready, b"ready")
        except (OSError, subprocess.CalledProcessError):
            os.write(ready, traceback.format_exc().encode())
        os.close(ready)
        os.read(release[0], 1)
        os._exit(0)

    def enter(self) -> None:
        """Move the calling process into the space."""
        for kind in ("cgroup", "net", "mnt"):
            fd = os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY)
            _check(_LIBC.setns(fd, 0), f"enter the {kind} namespace")
            os.close(fd)

    def run(self, function: Callable[[], T], seconds: float = 90.0) -> T:
        """Call `function` in a fork inside the space, from the root of its cgroups. Its exception is raised here with
        its traceback as a note. AssertionError when it takes longer than `seconds`."""
        _end_grpc()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._call(function, write)
        os.close(write)
        answer = _read_until(read, time.monotonic() + patience(seconds))
        if answer is None:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if answer is None:
            raise AssertionError(f"the function in the namespaces did not end in {seconds:g} s")
        if not answer:
            raise RuntimeError("the process in the namespace died without an answer")
        ok, value, trace = pickle.loads(answer)
        if ok:
            return value  # type: ignore[no-any-return]
        value.add_note(trace)
        raise value

    def _call(self, function: Callable[[], T], write: int) -> None:
        try:
            (self.outer / "cgroup.procs").write_text("0")
            self.enter()
            answer = pickle.dumps((True, function(), ""))
        except BaseException as error:  # noqa: BLE001 - everything must reach the parent
            try:
                answer = pickle.dumps((False, error, traceback.format_exc()))
                pickle.loads(answer)
            except Exception:  # noqa: BLE001 - an exception that cannot travel goes as text
                answer = pickle.dumps((False, RuntimeError(str(error)), traceback.format_exc()))
        with os.fdopen(write, "wb") as stream:
            stream.write(answer)
        os._exit(0)

    def sh(self, command: str) -> str:
        """Run a shell command inside; raises with its output when it fails."""

        def call() -> str:
            done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=patience(30))
            if done.returncode:
                raise RuntimeError(f"{command!r} failed: {done.stdout}{done.stderr}")
            return done.stdout

        return self.run(call)

    def cgroup(self, path: str) -> int:
        """Make a cgroup below the space's root and answer its id."""
        where = self.outer / path
        where.mkdir(parents=True, exist_ok=True)
        return where.stat().st_ino

    def cgroups(self) -> dict[str, int]:
        """What HostFacts.cgroups would say here."""
        return {str(p.relative_to(self.outer)): p.stat().st_ino for p in self.outer.rglob("*") if p.is_dir()}

    def close(self) -> None:
        """Forks of this process may hold the pipe too: a byte releases the child, the end of the pipe might not."""
        os.write(self._release, b"x")
        os.close(self._release)
        os.waitpid(self.pid, 0)
        deadline = time.monotonic() + 5
        while self.outer.exists():
            try:
                self._remove()
            except (OSError, ValueError):  # a process is still being reaped
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _remove(self) -> None:
        """End what the functions left behind, then remove the cgroups, deepest first."""
        cgroups = [*sorted((p for p in self.outer.rglob("*") if p.is_dir()), reverse=True), self.outer]
        for path in cgroups:
            for pid in process_ids(path):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for path in cgroups:
            path.rmdir()


def in_namespaces(function: Callable[[], T], seconds: float = 90.0) -> T:
    """Call `function` in a space of its own, and answer what it answers."""
    space = Space()
    try:
        return space.run(function, seconds)
    finally:
        space.close()


def run(*command: str, stdin: str | None = None) -> str:
    """A command's output; RuntimeError with its errors when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _read_until(descriptor: int, deadline: float) -> bytes | None:
    """Everything up to the end of the pipe; None when the deadline comes first."""
    data = b""
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = stream.read(65536)
            if not part:
                return data
            data += part
    return None


def cgroup_key(cgroup: int) -> bytes:
    return struct.pack("=Q", cgroup)


def join(left: Space, right: Space, left_end: str, right_end: str) -> None:
    """A veth pair between two spaces, both ends up."""
    names = [f"sg{uuid.uuid4().hex[:10]}" for _ in range(2)]
    subprocess.run(["ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1]], check=True)
    for space, name, end in ((left, names[0], left_end), (right, names[1], right_end)):
        subprocess.run(["ip", "link", "set", name, "netns", str(space.pid)], check=True)
        space.sh(f"ip link set {name} name {end} && ip link set {end} up")


def _end_grpc() -> None:
    """A fork while gRPC's thread works has a gRPC that does not. It ends with the last object of grpc.aio, which may
    be garbage of an earlier test."""
    working = [thread for thread in threading.enumerate() if "_poll_wrapper" in thread.name]
    if working:
        gc.collect()
        for thread in working:
            thread.join(1.0)
