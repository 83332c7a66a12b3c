"""A base layer that is Debian 12 and nothing else, made once by debootstrap(8) and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from lab.instance import LabError
from lab.nspawn.packages import PACKAGES

STORE = Path("/var/cache/segctl-lab")
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
ALSO = (
    "ca-certificates",
    "iproute2",
    "iputils-ping",
    "libnftables1",
    "nftables",
    "procps",
    "python3",
    "python3-venv",
    "systemd-sysv",
)
"""What a server of the fleet has beside the lab's services: segctl needs nftables and Python."""


def debian_base(mirror: str = MIRROR) -> Path:
    """The root directory; made when it is missing, which takes one to three minutes and some 130 MB of downloads.
    Another list of packages is another directory. Raises LabError."""
    names = sorted({*PACKAGES, *ALSO} - {"systemd-container"})
    key = hashlib.sha256("\n".join([SUITE, *names]).encode()).hexdigest()[:8]
    base = STORE / f"{SUITE}-{key}"
    if base.exists():
        return base
    if shutil.which("debootstrap") is None:
        raise LabError("debootstrap not found: apt-get install debootstrap")
    STORE.mkdir(parents=True, exist_ok=True)
    unfinished = STORE / f"{base.name}.{os.getpid()}"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(names)}", SUITE, str(unfinished), mirror]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log = unfinished / "debootstrap" / "debootstrap.log"
            words = log.read_text() if log.exists() else done.stdout + done.stderr
            raise LabError(f"{' '.join(command)}:\n{words[-2000:]}")
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(unfinished / leftover, ignore_errors=True)
        unfinished.rename(base)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return base
