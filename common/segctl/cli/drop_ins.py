"""Writes drop-ins into one directory of units, and removes those of ours that are no longer wanted. Nothing outside it:
no link is followed, and every file is replaced whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from segctl.cli.exits import CliError, Exit
from segctl.policy.prepare import DROP_IN, HEADER, DropIn

_MAX_BYTES = 65536
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Written:
    """Relative paths. What was right already is in none of them."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


def write_drop_ins(files: Sequence[DropIn], directory: Path) -> Written:
    """Raises CliError (exit 2) for a place that cannot be written, for a link in it, and for a file of that name that
    `host prepare` did not write; the files before it are written then, and a second run does the rest."""
    wanted = {file.path: file.content.encode() for file in files}
    changed: list[str] = []
    removed: list[str] = []
    with _opened(directory, None, str(directory)) as root:
        for path, content in sorted(wanted.items()):
            folder, _, name = path.partition("/")
            with suppress(FileExistsError), _explained(directory / folder):
                os.mkdir(folder, 0o755, dir_fd=root)
            with _opened(Path(folder), root, str(directory / folder)) as where:
                if _write(where, name, content, directory / path):
                    changed.append(path)
        for folder in _ours(root, directory):
            path = f"{folder}/{DROP_IN}"
            if path not in wanted:
                with _opened(Path(folder), root, str(directory / folder)) as where, _explained(directory / path):
                    os.unlink(DROP_IN, dir_fd=where)
                with suppress(OSError):  # someone else's drop-ins are in it
                    os.rmdir(folder, dir_fd=root)
                removed.append(path)
    return Written(tuple(changed), tuple(removed))


def _write(where: int, name: str, content: bytes, shown: Path) -> bool:
    """False when it is there already."""
    with _explained(shown):
        before = _read(where, name)
        if before == content:
            return False
        if before is not None and not _is_ours(before):
            raise CliError(f"{shown}: somebody else wrote this file", "Rename it, then run this again.", Exit.USAGE)
        new = f".{name}.{secrets.token_hex(6)}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=where)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            os.rename(new, name, src_dir_fd=where, dst_dir_fd=where)
        except OSError:
            os.unlink(new, dir_fd=where)
            raise
        os.fsync(where)
    return True


def _ours(root: int, directory: Path) -> Iterator[str]:
    """The folders of drop-ins that hold a file which we wrote."""
    with _explained(directory):
        names = sorted(name for name in os.listdir(root) if name.endswith(".d"))
    for name in names:
        with suppress(OSError, CliError), _opened(Path(name), root, name) as where:
            content = _read(where, DROP_IN)
            if content is not None and _is_ours(content):
                yield name


def _is_ours(content: bytes) -> bool:
    return content.startswith(HEADER.encode() + b"\n")


def _read(where: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=where)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(_MAX_BYTES)


@contextmanager
def _opened(path: Path, below: int | None, shown: str) -> Iterator[int]:
    """The directory that the administrator named may be a link; what is in it may not."""
    with _explained(Path(shown)):
        descriptor = os.open(path, _DIRECTORY | (os.O_NOFOLLOW if below is not None else 0), dir_fd=below)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _explained(shown: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        mend = "Name a directory of units that you may write to, without links in it: /etc/systemd/system."
        raise CliError(f"{shown}: {error.strerror or error}", mend, Exit.USAGE) from error
