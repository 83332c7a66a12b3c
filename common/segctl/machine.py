"""What `doctor` looks at on every machine: units of systemd, the journal, the clock, free space."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from segctl.doctor import Finding, ok, problem, unknown, warning
from segctl.journal import SOCKET

LITTLE, NOTHING = 64 << 20, 4 << 20
"""Free bytes: told below the first, a problem below the second."""
SECONDS = 10.0
_PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NRestarts"


def look_units(*units: str) -> Iterator[Finding]:
    if not Path("/run/systemd/system").exists() or shutil.which("systemctl") is None:
        yield unknown("units", "systemd does not run this machine: what starts segctl is not known")
        return
    done = subprocess.run(
        ["systemctl", "show", f"--property={_PROPERTIES}", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode:
        yield unknown("units", f"systemctl does not answer: {done.stderr.strip()}")
        return
    for block in done.stdout.strip().split("\n\n"):
        yield from judge_unit(dict(line.split("=", 1) for line in block.splitlines() if "=" in line))


def judge_unit(shown: dict[str, str]) -> Iterator[Finding]:
    """`shown` is what `systemctl show` says of one unit."""
    name = shown.get("Id", "?")
    if shown.get("LoadState") != "loaded":
        text = f"{name} is not installed ({shown.get('LoadState', '?')})"
        yield problem(
            "units", text, "install segctl's package, or copy systemd/*.service, then systemctl daemon-reload"
        )
        return
    if shown.get("UnitFileState") not in ("enabled", "enabled-runtime", "static", "generated"):
        what = "nothing is enforced from boot on" if "boot" in name else "it does not start at boot"
        text = f"{name} is {shown.get('UnitFileState') or 'not enabled'}: {what}"
        yield problem("units", text, f"systemctl enable {name}")
    if shown.get("ActiveState") != "active":
        text = f"{name} is {shown.get('ActiveState', '?')}"
        yield problem("units", text, f"systemctl start {name}; journalctl -u {name} -n 50")
        return
    restarts = int(shown.get("NRestarts") or 0)
    if restarts > 5:
        text = f"{name} was restarted {restarts} times since it was started"
        yield warning("units", text, f"journalctl -u {name} -p warning -n 100")
    else:
        yield ok("units", f"{name} is {shown.get('ActiveState')} and {shown.get('UnitFileState')}")


def look_journal() -> Iterator[Finding]:
    yield from judge_journal(SOCKET.exists(), any(Path("/var/log/journal").glob("*")))


def judge_journal(listens: bool, kept: bool) -> Iterator[Finding]:
    if not listens:
        yield unknown("journal", "journald does not run here: logs go to stderr")
    elif not kept:
        text = "the journal does not survive a reboot"
        yield warning("journal", text, "mkdir -p /var/log/journal && systemctl restart systemd-journald")
    else:
        yield ok("journal", "it is kept")


def look_clock() -> Iterator[Finding]:
    """adjtimex(2) with no mode set only reads; 5 (TIME_ERROR) says that nothing disciplines the clock."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    yield from judge_clock(int(state))


def judge_clock(state: int) -> Iterator[Finding]:
    if state < 0:
        yield unknown("clock", "the kernel does not say whether the clock is synchronised")
    elif state == 5:
        text = "nothing keeps this clock right: certificates and rules that expire depend on it"
        yield warning("clock", text, "timedatectl set-ntp true, or install chrony")
    else:
        yield ok("clock", "it is kept right")


def look_space(folder: Path) -> Iterator[Finding]:
    free = os.statvfs(folder)
    yield from judge_space(str(folder), free.f_bavail * free.f_frsize, free.f_files == 0 or free.f_favail > 0)


def judge_space(path: str, free: int, inodes: bool) -> Iterator[Finding]:
    then = f"free space on the file system of {path}: df -h {path}; df -i {path}"
    if free < NOTHING or not inodes:
        text = "the disk is full: what is new is not kept"
        yield problem("disk", text, then)
    elif free < LITTLE:
        yield warning("disk", f"only {free >> 20} MiB are free for {path}", then)
    else:
        yield ok("disk", f"{free >> 20} MiB are free")
