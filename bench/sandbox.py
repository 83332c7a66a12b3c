"""Namespaces that a measurement owns: nothing of the machine's own network, cgroups or nftables is touched.

The cgroup namespace matters: `socket cgroupv2 level N` counts from the cgroup namespace root of the process that loads
the rule, so that inside the sandbox `system.slice/x.service` is at level 2 as on a server.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/sched.h, linux/mount.h
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWNET = 0x00020000, 0x02000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18

CGROUP_MOUNT = Path("/sys/fs/cgroup")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}; the bench needs root and namespaces")


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def _setns(descriptor: int, kind: int) -> None:
    _checked(_libc.setns(descriptor, kind), "setns")


def _mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    kind_bytes = None if kind is None else kind.encode()
    result = _libc.mount(source.encode(), str(target).encode(), kind_bytes, ctypes.c_ulong(flags), None)
    _checked(result, f"mount {source} on {target}")


def cgroup2_root() -> Path:
    """Where the machine's cgroup v2 tree is mounted; raises OSError when it has none."""
    for candidate in (CGROUP_MOUNT / "unified", CGROUP_MOUNT):
        if (candidate / "cgroup.controllers").exists():
            return candidate
    raise OSError(f"no cgroup v2 tree under {CGROUP_MOUNT}: mount one (mount -t cgroup2 cgroup2 DIR)")


def enter_sandbox(cgroup: Path) -> None:
    """Moves this (single-threaded) process into new network, mount and cgroup namespaces rooted at `cgroup`."""
    cgroup.mkdir(parents=True, exist_ok=True)
    (cgroup / "cgroup.procs").write_text("0")
    _unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWNET)
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    _mount("cgroup2", CGROUP_MOUNT, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # Out of the root: a socket in the root cgroup has no cgroup for nftables.
    join_cgroup("init.scope")


def join_cgroup(path: str) -> Path:
    """Makes the cgroup below this namespace's root, moves the whole process into it and returns its directory."""
    directory = CGROUP_MOUNT / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("0")
    return directory


def cgroup_id(path: str) -> int:
    """The id of a cgroup below this namespace's root: its inode number."""
    return (CGROUP_MOUNT / path).stat().st_ino


def remove_cgroups(root: Path, seconds: float = 5.0) -> None:
    """Kills what still runs below `root`, which we made, and removes the tree; raises OSError at the deadline."""
    if not root.exists():
        return
    (root / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + seconds
    for directory, _, _ in os.walk(root, topdown=False):
        while True:
            try:
                Path(directory).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


@contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """This thread, and what it starts, is in the network namespace of the descriptor."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _setns(descriptor, CLONE_NEWNET)
    try:
        yield
    finally:
        _setns(own, CLONE_NEWNET)
        os.close(own)


class NetworkNamespace:
    """A new network namespace with its loopback up, alive as long as this object is open."""

    def __init__(self) -> None:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _unshare(CLONE_NEWNET)
            self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            run_ip("link set lo up")
        finally:
            _setns(own, CLONE_NEWNET)
            os.close(own)

    @property
    def path(self) -> str:
        """A path that other processes can open while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is inside."""
        with entered(self.descriptor):
            yield

    def close(self) -> None:
        os.close(self.descriptor)


def run_ip(*commands: str) -> None:
    """Runs ip(8) commands in the current network namespace; raises RuntimeError with its message."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip -batch failed: {done.stderr.strip()} in: {'; '.join(commands)}")


def run_nft(text: str) -> None:
    """Loads nft text in the current network namespace; raises RuntimeError with nft's message."""
    done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nft -f failed: {done.stderr.strip()[:600]}")
