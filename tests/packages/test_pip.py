"""The sdist and the wheel, which the packages are made from, install with pip and each extra in a clean environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.host import REPOSITORY
from lab.packages import Packages, build_packages

pytestmark = pytest.mark.timeout(900)

COMMANDS = {
    "": "segctl",
    "agent": "segctl-agent",
    "controller": "segctl-controller",
    "controller,postgres": "segctl-controller",
}
FOREIGN = {
    "": ("cryptography", "sqlalchemy"),
    "agent": ("sqlalchemy",),
    "controller": ("pyroute2", "psutil", "psycopg"),
    "controller,postgres": ("pyroute2", "psutil"),
}
"""What another extra needs, and this one does not."""


@pytest.fixture(scope="module")
def packages() -> Packages:
    return build_packages()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], text=True, capture_output=True, check=False)


@pytest.mark.parametrize("extra", COMMANDS)
def test_the_wheel_installs_with_an_extra(extra: str, packages: Packages, tmp_path: Path) -> None:
    (wheel,) = (REPOSITORY / "dist").glob("segctl-*.whl")
    (wheels,) = (REPOSITORY / "dist/build").glob("wheels-*")
    assert run("/usr/bin/python3", "-m", "venv", tmp_path).returncode == 0
    where = f"{wheel}[{extra}]" if extra else str(wheel)
    done = run(tmp_path / "bin/pip", "install", "--quiet", "--no-index", "--find-links", wheels, where)
    assert done.returncode == 0, done.stderr
    assert COMMANDS[extra] in run(tmp_path / "bin" / COMMANDS[extra], "--help").stdout
    assert run(tmp_path / "bin/pip", "check").returncode == 0
    for module in FOREIGN[extra]:
        assert run(tmp_path / "bin/python", "-c", f"import {module}").returncode != 0
