"""Writes the policy files of a generation to a directory: nothing outside it, nothing over a file that is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from segctl.cli.exits import CliError, Exit
from segctl.cli.output import printable
from segctl.cli.sources import SUFFIXES
from segctl.cli.views import File

UNNAMED = "policy.yaml"
"""For a policy that came from stdin."""


def write_files(files: Sequence[File], directory: Path) -> tuple[Path, ...]:
    """The paths written. `segctl push DIRECTORY` reads the same files again: names that it would leave out are mended.

    Raises CliError (exit 2) when one of them exists already, before anything is written, or cannot be written.
    """
    paths = [directory / name for name in file_names([f.name for f in files])]
    taken = next((path for path in paths if os.path.lexists(path)), None)
    if taken:
        raise CliError(f"{taken}: exists already; nothing was written", "Name a new directory.", Exit.USAGE)
    for path, file in zip(paths, files, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="") as stream:
                stream.write(file.content)
        except OSError as error:
            mend = "Name a directory you may write to."
            raise CliError(f"{path}: {error.strerror or error}", mend, Exit.USAGE) from error
    return tuple(paths)


def file_names(given: Sequence[str]) -> tuple[str, ...]:
    """Relative names without the folders that all of them share. They were chosen by whoever pushed: `..`, a leading
    slash and control characters do not survive."""
    parts = [_parts(name) for name in given]
    shared = 0
    while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    names: list[str] = []
    for part in parts:
        path = PurePosixPath(*part[shared:])
        path = path if path.suffix in SUFFIXES else path.with_name(f"{path.name}.yaml")
        name, number = str(path), 2
        while name in names:
            name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            number += 1
        names.append(name)
    return tuple(names)


def _parts(name: str) -> list[str]:
    if name == "<stdin>":
        return [UNNAMED]
    cleaned = (printable(part).lstrip(".") for part in name.split("/"))
    return [part for part in cleaned if part] or [UNNAMED]
