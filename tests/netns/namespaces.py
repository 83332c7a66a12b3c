"""A function in network, mount and cgroup namespaces of its own, as a forked child: the kernel for real, the machine
untouched. Needs root."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

CGROUPS = Path("/sys/fs/cgroup")
_T = TypeVar("_T")

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWNET = 0x0002_0000, 0x0200_0000, 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = count()


def in_namespaces(function: Callable[[], _T], seconds: float = 90.0) -> _T:
    """Call `function` with loopback up and an empty cgroup2 tree on /sys/fs/cgroup, and return what it returns (must
    pickle). AssertionError with its traceback when it raises; RuntimeError when namespaces cannot be had."""
    if os.geteuid() != 0:
        raise RuntimeError("this test makes namespaces of its own and needs root")
    home = _cgroup2_mount() / f"segctl-test-{os.getpid()}-{next(_NUMBERS)}"
    home.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        _child(function, home, writing)
    os.close(writing)
    signal_at = time.monotonic() + seconds
    try:
        return _answer(_read_until(reading, signal_at))
    finally:
        os.close(reading)
        _end(child, home)


def _child(function: Callable[[], object], home: Path, writing: int) -> None:
    try:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        if _LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "cgroup2", "none", str(CGROUPS))
        run("ip", "link", "set", "lo", "up")
        answer: tuple[str, object] = ("value", function())
    except BaseException:  # noqa: BLE001  everything goes to the parent, which raises it
        answer = ("error", traceback.format_exc())
    sys.stdout.flush()
    with os.fdopen(writing, "wb") as pipe:
        pickle.dump(answer, pipe)
    os._exit(0)


def run(*command: str, stdin: str | None = None) -> str:
    """A command's output; RuntimeError with its errors when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _cgroup2_mount() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split(" ")[4])
    raise RuntimeError("no cgroup2 is mounted on this machine: mount it for the kernel tests")


def _read_until(descriptor: int, deadline: float) -> bytes:
    os.set_blocking(descriptor, False)
    data = b""
    while time.monotonic() < deadline:
        try:
            part = os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        if not part:
            return data
        data += part
    raise AssertionError("the function in the namespaces did not end in time")


def _answer(data: bytes) -> object:
    if not data:
        raise AssertionError("the child in the namespaces died without an answer")
    kind, value = pickle.loads(data)
    if kind == "error":
        raise AssertionError(f"in the namespaces:\n{value}")
    return value


def _end(child: int, home: Path) -> None:
    """End the child and whatever it left, then remove its cgroups, deepest first."""
    kill = home / "cgroup.kill"
    if kill.exists():
        kill.write_text("1")
    else:
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    for path in sorted((p for p in (home, *home.rglob("*")) if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
        while path.exists() and time.monotonic() < deadline:
            try:
                path.rmdir()
            except OSError:  # its last process is still being reaped
                time.sleep(0.005)
