"""The wall clock of a whole process moved, OpenSSL's and BoringSSL's too: an inner pytest under tests/chaos/clock.c.

`run_under_a_moved_clock(FILE, folder)` runs the tests of FILE there; they move time with `Clockwork`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tests/chaos/clock.c"
PLACE = "CHAOS_CLOCK"


class Clockwork:
    """Of this process, from a test that runs in it."""

    def __init__(self) -> None:
        self._path = Path(os.environ[PLACE])
        self._ahead = int.from_bytes(self._path.read_bytes(), sys.byteorder, signed=True)

    def forward(self, **span: float) -> None:
        """By so many days, hours, ...; negative: back."""
        before = time.time()
        by = int(timedelta(**span).total_seconds())
        self._ahead += by
        with self._path.open("r+b", buffering=0) as file:
            file.write(self._ahead.to_bytes(8, sys.byteorder, signed=True))
        assert abs(time.time() - before - by) < 5, "the clock does not move"


def run_under_a_moved_clock(tests: Path, folder: Path) -> None:
    library, clock = folder / "clock.so", folder / "clock"
    subprocess.run(["gcc", "-Wall", "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    clock.write_bytes(bytes(8))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--durations=8",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder / 'inner'}",
            tests,
        ],
        env={**os.environ, "LD_PRELOAD": str(library), PLACE: str(clock)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
