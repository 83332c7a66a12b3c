"""The Debian packages of this checkout, and the same ones under another version, for machines of a lab."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.host import REPOSITORY
from lab.instance import LabError
from lab.nspawn.machine import Machine

AGENT, CONTROLLER, CLI = "segctl-agent", "segctl-controller", "segctl"
PLACE = "/var/cache/segctl"
"""Where a machine of the lab has them."""

Packages = Mapping[str, Path]
"""Name of a package -> its file."""


def build_packages(suffix: str = "") -> dict[str, Path]:
    """Builds them by `deploy/deb/build`, which needs the network the first time. Raises LabError with what it said."""
    done = subprocess.run([str(REPOSITORY / "deploy/deb/build"), suffix], text=True, capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"the packages cannot be built: {done.stderr.strip() or done.stdout.strip()}")
    files = [Path(word) for word in done.stdout.split() if word.endswith(".deb")]
    return {file.name.partition("_")[0]: REPOSITORY / file for file in files}


def other_version(packages: Packages, suffix: str, folder: Path) -> dict[str, Path]:
    """The same packages with `suffix` at the end of their version: also the program says that it is this version."""
    return {name: _other_version(name, file, suffix, folder) for name, file in packages.items()}


def _other_version(name: str, file: Path, suffix: str, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as text:
        root = Path(text) / "root"
        _run("dpkg-deb", "-R", str(file), str(root))
        control = root / "DEBIAN/control"
        version = next(x for x in control.read_text().splitlines() if x.startswith("Version: ")).split()[1]
        control.write_text(control.read_text().replace(f"Version: {version}\n", f"Version: {version}{suffix}\n"))
        python = next((root / f"opt/segctl/packages/{name}/lib").glob("python3*")).name
        module = root / f"opt/segctl/packages/{name}/lib/{python}/site-packages/segctl/__init__.py"
        module.write_text(module.read_text().replace(f'"{version}"', f'"{version}{suffix}"'))
        shutil.rmtree(module.parent / "__pycache__" / f"__init__.c{python}.pyc", ignore_errors=True)
        _run(f"/usr/bin/{python}", "-m", "compileall", "-qf", "--invalidation-mode", "unchecked-hash", str(module))
        target = folder / f"{name}_{version}{suffix}_{file.name.rpartition('_')[2]}"
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(root), str(target))
    return target


def _run(*command: str) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def put(machine: Machine, packages: Packages, names: Iterable[str]) -> list[str]:
    """Copies packages into a machine. Returns their paths there."""
    paths = []
    for name in names:
        path = f"{PLACE}/{packages[name].name}"
        machine.copy_in(packages[name], path)
        paths.append(path)
    return paths


def apt(machine: Machine, *arguments: str, seconds: float = 300) -> str:
    """apt-get in a machine, which has no network: what the packages need is there. Returns all that it said; raises
    LabError."""
    return _said(machine, ["apt-get", "-y", "-q", "--no-install-recommends", *arguments], seconds)


def dpkg(machine: Machine, *arguments: str, seconds: float = 300) -> str:
    """dpkg in a machine: what apt-get calls, for a tenth of the time. Returns all that it said; raises LabError."""
    return _said(machine, ["dpkg", *arguments], seconds)


def _said(machine: Machine, command: list[str], seconds: float) -> str:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    done = machine.run(["sh", "-c", 'exec "$@" 2>&1', "sh", *command], seconds=seconds, environment=environment)
    if done.returncode:
        raise LabError(f"{machine.name}: {' '.join(command)}: {done.stdout.strip()}")
    return done.stdout
