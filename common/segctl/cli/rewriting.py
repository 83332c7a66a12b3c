"""Changes of policy files: as a patch, and on the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from pathlib import Path

from segctl.cli.exits import CliError, Exit
from segctl.policy.source import SourceFile

NO_NEWLINE = "\\ No newline at end of file\n"


def patch(files: Sequence[SourceFile], changed: Mapping[str, bytes]) -> str:
    """A unified diff that `git apply` and `patch -p1` take; empty without a change."""
    return "".join(_hunks(file, changed[file.name]) for file in files if file.name in changed)


def _hunks(file: SourceFile, content: bytes) -> str:
    name = file.name.removeprefix("./").lstrip("/")
    old, new = (list(_lines(text.decode())) for text in (file.content, content))
    told = unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(text if text.endswith("\n") else f"{text}\n{NO_NEWLINE}" for text in told)


def _lines(text: str) -> Iterator[str]:
    """Ended by \\n alone: other line ends are part of a line."""
    *ended, rest = text.split("\n")
    yield from (f"{one}\n" for one in ended)
    if rest:
        yield rest


def replace_files(files: Sequence[SourceFile], changed: Mapping[str, bytes]) -> tuple[str, ...]:
    """Each file is there whole, as it was or as it is to be; the names of those that were written.

    Raises CliError, before anything is written, when one of them is not what was read any more.
    """
    for file in files:
        if file.name in changed and _read(file.name) != file.content:
            raise CliError(f"{file.name}: changed since it was read; nothing was written", "Run the command again.")
    for name, content in changed.items():
        try:
            _replace(Path(os.path.realpath(name)), content)
        except OSError as error:
            raise CliError(f"{name}: {error.strerror or error}", "Check who may write there.", Exit.USAGE) from error
    return tuple(changed)


def _read(name: str) -> bytes | None:
    try:
        return Path(name).read_bytes()
    except OSError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Its owner keeps it, whoever runs this: who may not give it away owns it now."""
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        was = path.stat()
        with os.fdopen(descriptor, "wb") as stream:
            with suppress(PermissionError):
                os.fchown(descriptor, was.st_uid, was.st_gid)
            os.fchmod(descriptor, was.st_mode & 0o7777)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        Path(made).replace(path)
    except OSError:
        Path(made).unlink(missing_ok=True)
        raise
