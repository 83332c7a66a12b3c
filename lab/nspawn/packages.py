"""Debian packages of the lab with systemd machines, where its base layer is this machine's own root: they are installed
here and run only there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.instance import LabError

PACKAGES: dict[str, tuple[str, ...]] = {
    "cron": ("cron.service",),
    "curl": (),
    "dbus": (),
    "libpam-systemd": (),
    "nginx-light": ("nginx.service",),
    "openssh-server": ("ssh.service",),
    "postgresql": ("postgresql.service",),
    "prometheus-node-exporter": ("prometheus-node-exporter.service",),
    "python3-psycopg2": (),
    "systemd-container": (),
}
"""Each with the units that its installation enables."""
NEVER_START = "#!/bin/sh\n# The lab installs packages: their services do not start here (invoke-rc.d(8)).\nexit 101\n"
POLICY = Path("/usr/sbin/policy-rc.d")
APT_SECONDS = 600


def missing_packages() -> list[str]:
    return [name for name in PACKAGES if not _is_installed(name)]


def _is_installed(package: str) -> bool:
    command = ["dpkg-query", "-W", "-f=${Status}", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.endswith("ok installed")


def install_packages() -> list[str]:
    """Install what is missing; no service of it is started or enabled on this machine. Returns the packages' names.
    Raises LabError."""
    missing = missing_packages()
    if not missing:
        return []
    if shutil.which("apt-get") is None:
        raise LabError(f"this is no Debian: install {' '.join(missing)} in its own way")
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text(NEVER_START)
        POLICY.chmod(0o755)
    try:
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *missing)
    finally:
        if ours:
            POLICY.unlink()
    units = [unit for package in missing for unit in PACKAGES[package]]
    if units:
        subprocess.run(["systemctl", "--root=/", "--quiet", "disable", *units], capture_output=True, check=False)
    return missing


def _apt(verb: str, *arguments: str) -> None:
    """Waits for others that hold apt's lock."""
    command: Sequence[str] = ("apt-get", "-o", f"DPkg::Lock::Timeout={APT_SECONDS}", verb, *arguments)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * APT_SECONDS,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if done.returncode != 0 and verb != "update":
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    if done.returncode != 0:
        print("lab: apt-get update failed, trying with the lists that are here", file=sys.stderr)


if __name__ == "__main__":
    try:
        installed = install_packages()
    except (LabError, OSError) as error:
        sys.exit(f"lab: {error}")
    if installed:
        print(f"lab: installed {' '.join(installed)}; none of their services runs on this machine")
