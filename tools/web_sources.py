"""Prints one line for each file that the web UI's bundle is made from, and for each that it is: SHA-256 and name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("web/src", "controller/segctl_controller/web/static")
ALONE = ("web/build.mjs", "web/package.json", "web/package-lock.json", "web/tsconfig.json")


def _files() -> Iterator[Path]:
    for place in PLACES:
        yield from (path for path in (ROOT / place).rglob("*") if path.is_file())
    yield from (ROOT / name for name in ALONE)


def text() -> str:
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}\n" for path in sorted(_files())
    )


if __name__ == "__main__":
    print(text(), end="")
