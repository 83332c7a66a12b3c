"""Debian packages for the bench alone: fetched with apt, unpacked below `bench/build`, never installed.

No maintainer script runs and no service starts: the machine's own firewall is left alone. What the packages need and
the machine has is not fetched; an overlay (see `bench.peers`) shows both as one `/usr` and `/etc`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_BUILD = Path(__file__).parent / "build"
_SECONDS = 120.0
_failures: dict[str, str] = {}
"""By name, of this process and those that it forks: a sandbox has no network, so it must not try again."""


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """The root of the unpacked packages and of what they need; RuntimeError with apt's message when it cannot be had.

    Kept from run to run: remove `bench/build` (`make clean`) to fetch anew.
    """
    root = _BUILD / f"debian-{name}"
    if root.exists():
        return root
    if name in _failures:
        raise RuntimeError(_failures[name])
    try:
        _make(root, _fetch(name, packages))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        _failures[name] = str(error)
        raise RuntimeError(_failures[name]) from error
    return root


def _make(root: Path, archives: Sequence[Path]) -> None:
    fresh = root.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for merged in ("bin", "sbin", "lib"):  # as on every Debian since 12, so that /lib/x of a package is /usr/lib/x
        (fresh / "usr" / merged).mkdir(parents=True)
        (fresh / merged).symlink_to(f"usr/{merged}")
    (fresh / "etc").mkdir()
    for archive in archives:
        _unpack(archive, fresh)
    fresh.rename(root)


def _fetch(name: str, packages: Sequence[str]) -> list[Path]:
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"{', '.join(packages)} come from Debian, and there is no apt-get here")
    cache = _BUILD / f"archives-{name}"
    (cache / "partial").mkdir(parents=True, exist_ok=True)
    # --reinstall: also what the machine has by itself, so that what is measured comes from here.
    command = ["apt-get", "-o", f"Dir::Cache::archives={cache}", "--download-only", "-y", "-qq", "--reinstall"]
    install = [*command, "--no-install-recommends", "install", *packages]
    said = _apt(install)
    if said is not None:  # a fresh container has no lists of packages
        said = _apt(["apt-get", "update", "-qq"]) or _apt(install)
    if said is not None:
        raise RuntimeError(f"apt-get cannot fetch {', '.join(packages)}: {said}")
    return sorted(cache.glob("*.deb"))


def _apt(command: Sequence[str]) -> str | None:
    """What it complained about, None when it succeeded."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command,
        text=True,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    return None if done.returncode == 0 else (done.stderr.strip()[-400:] or f"exit code {done.returncode}")


def _unpack(archive: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as content:
        tar = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
        done = subprocess.run(tar, stdin=content.stdout, text=True, capture_output=True, check=False)
    if content.returncode or done.returncode:
        raise RuntimeError(f"cannot unpack {archive.name}: {done.stderr.strip()[:400]}")
