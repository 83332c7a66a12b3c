"""Compiles the native programs of the bench into `bench/build/` when their source is newer."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent / "native"
_BUILD = Path(__file__).parent / "build"


def native_program(name: str) -> Path:
    """The executable built from `native/NAME.c`; raises RuntimeError with the compiler's message."""
    source, program = _SOURCES / f"{name}.c", _BUILD / name
    newest = max(p.stat().st_mtime for p in (source, _SOURCES / "common.h"))
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    _BUILD.mkdir(exist_ok=True)
    done = subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(program), str(source)],
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"cc cannot build {source.name} (apt-get install gcc libc6-dev): {done.stderr.strip()[:800]}"
        )
    return program
