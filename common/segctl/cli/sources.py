"""Reads policy files from the places an administrator names, within limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from segctl.cli.exits import CliError, Exit
from segctl.policy.source import SourceFile

MAX_FILE = 4 * 1024 * 1024
MAX_FILES = 1000
MAX_TOTAL = 16 * 1024 * 1024
SUFFIXES = {".yaml", ".yml"}
STDIN = "-"


def load_sources(paths: Sequence[str]) -> tuple[SourceFile, ...]:
    """The files of `paths`, in the order given; a directory gives its *.yaml and *.yml, sorted, hidden ones left out.

    Raises CliError for a path that cannot be read, a directory without policy files, and over any limit.
    """
    files: list[SourceFile] = []
    seen: set[str] = set()
    total = 0
    for path in (found for given in paths for found in _expand(given)):
        identity = path if path == STDIN else os.path.realpath(path)
        if identity in seen:
            continue
        seen.add(identity)
        if len(files) == MAX_FILES:
            raise _refused(f"more than {MAX_FILES:,} policy files", "Name the directory of the policy, not one above.")
        content = _read(path)
        total += len(content)
        if total > MAX_TOTAL:
            raise _refused(f"the policy files are larger than {MAX_TOTAL:,} bytes together", "Name fewer files.")
        files.append(SourceFile("<stdin>" if path == STDIN else path, content))
    return tuple(files)


def _expand(given: str) -> Iterator[str]:
    if given == STDIN or not Path(given).is_dir():
        yield given
        return
    found = sorted(_policy_files(Path(given)))
    if not found:
        raise _refused(f"{given}: no *.yaml or *.yml in this directory", "Name the directory that holds the policy.")
    yield from (str(path) for path in found)


def _policy_files(directory: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise _unreadable(str(error.filename), error) from error

    for folder, folders, names in os.walk(directory, onerror=fail):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(folder, n) for n in names if Path(n).suffix in SUFFIXES and not n.startswith("."))


def _read(path: str) -> bytes:
    """At most one byte over the limit is read, so that a device or a huge file costs nothing."""
    try:
        if path == STDIN:
            content = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with Path(path).open("rb") as stream:
                content = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > MAX_FILE:
        raise _refused(f"{path}: larger than {MAX_FILE:,} bytes", "Split the policy into several files.")
    return content


def _unreadable(path: str, error: OSError) -> CliError:
    return _refused(f"{path}: {error.strerror or error}", "Check the path and who may read it.")


def _refused(message: str, mend: str) -> CliError:
    return CliError(message, mend, Exit.USAGE)
