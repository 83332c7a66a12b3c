"""The CAs of a fleet in the state directory, and their rotation with overlap.

    steady ── rotate ──▶ prepared ── activate ──▶ active ── retire ──▶ steady
                              └───── cancel ─────▶ steady

The controller's own certificate is of the current CA until it is retired: a host that was away all the time knows no
other. Hosts and operators get theirs from the next CA once that is active, together with both CAs to trust. The next
one is ca-next.{pem,key}; what it is good for is in rotation.json alone, which is replaced atomically: killed anywhere,
a command leaves the stage before or the one after.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from segctl.errors import StateError

from segctl_controller.authority import Authority
from segctl_controller.errors import PreconditionError

STAGE_FILE = "rotation.json"
CURRENT, NEXT = "ca", "ca-next"
FILES = (f"{NEXT}.key", f"{NEXT}.pem", STAGE_FILE)
"""What a directory holds beside ca.key and ca.pem while its CA is rotated."""
LOCK_FILE = "ca.lock"


class Stage(StrEnum):
    STEADY = "steady"
    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRING = "retiring"
    """Only in the file, while the next CA's files take the names of the current one's."""


@dataclass(frozen=True, slots=True)
class CaSet:
    """`current` signs the controller's own certificate, `signing` those of hosts and operators. `first`: no CA of this
    fleet was retired yet."""

    stage: Stage
    current: Authority
    next: Authority | None = None
    first: bool = True

    @property
    def signing(self) -> Authority:
        return self.next if self.next is not None and self.stage is Stage.ACTIVE else self.current

    @property
    def trusted(self) -> tuple[Authority, ...]:
        return (self.current,) if self.next is None else (self.current, self.next)

    @property
    def pem(self) -> bytes:
        return b"".join(authority.ca_pem for authority in self.trusted)

    @property
    def der(self) -> tuple[bytes, ...]:
        return tuple(authority.ca_der for authority in self.trusted)

    def giver(self, serial: str) -> Authority | None:
        """The CA that gave a certificate; None for one that was retired. The first CA gave also what serial numbers of
        before do not tell."""
        if self.next is not None and self.next.gave(serial):
            return self.next
        return self.current if self.first or self.current.gave(serial) else None


def stage_version(directory: Path) -> tuple[int, int]:
    """Another value after each step."""
    try:
        found = os.stat(f"{directory}/{STAGE_FILE}")  # noqa: PTH116 - at each handshake, where a Path takes as long again
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def load_cas(directory: Path, fleet: str) -> CaSet:
    """Raises StateError."""
    stage, first = _read_stage(directory)
    if stage is Stage.RETIRING:
        return CaSet(Stage.STEADY, Authority.load(directory, fleet, NEXT), first=False)
    current = Authority.load(directory, fleet, CURRENT)
    following = Authority.load(directory, fleet, NEXT) if stage is not Stage.STEADY else None
    return CaSet(stage, current, following, first)


def _read_stage(directory: Path) -> tuple[Stage, bool]:
    """The stage, and whether no CA was retired yet. Raises StateError."""
    path = directory / STAGE_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Stage(found["stage"]), bool(found["first"])
    except FileNotFoundError:
        return Stage.STEADY, True
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path}: cannot be used: {error}; restore a backup") from error


@contextmanager
def rotating(directory: Path) -> Iterator[None]:
    """One command at a time; one that was killed is finished first. Raises StateError."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{directory / LOCK_FILE}: cannot be opened: {error.strerror}") from error
    try:
        _leave_to_owner(directory / LOCK_FILE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _read_stage(directory)[0] is Stage.RETIRING:
            _take_over(directory)
        yield
    finally:
        os.close(descriptor)


def prepare(directory: Path, fresh: Authority) -> None:
    """`fresh` is the next CA: trusted from now on, and signing nothing yet. Within `rotating`.

    Raises PreconditionError, OSError.
    """
    stage, first = _read_stage(directory)
    if stage is not Stage.STEADY:
        raise PreconditionError(f"a rotation is under way already ({stage}): segctl-controller ca status tells more")
    _clear(directory)  # of a command that was killed before it counted
    fresh.save(directory, NEXT)
    for name in (f"{NEXT}.key", f"{NEXT}.pem"):
        _leave_to_owner(directory / name)
    _write_stage(directory, Stage.PREPARED, first=first)


def activate(directory: Path) -> None:
    """The next CA signs from now on. Within `rotating`. Raises PreconditionError, OSError."""
    first = _demand(directory, Stage.PREPARED, "segctl-controller ca rotate makes the next CA")
    _write_stage(directory, Stage.ACTIVE, first=first)


def cancel(directory: Path) -> None:
    """The next CA goes: nothing is of it yet. Within `rotating`. Raises PreconditionError, OSError."""
    first = _demand(directory, Stage.PREPARED, "only a CA that never signed can be taken back")
    _write_stage(directory, Stage.STEADY, first=first)
    _clear(directory)


def retire(directory: Path) -> None:
    """The next CA becomes the only one; the key of the one before is gone. Within `rotating`.

    Raises PreconditionError, OSError.
    """
    _demand(directory, Stage.ACTIVE, "segctl-controller ca rotate, then ca activate, go before")
    _write_stage(directory, Stage.RETIRING, first=False)
    _take_over(directory)


def _take_over(directory: Path) -> None:
    """Until the stage is steady, ca-next.* are read; from then on ca.* are, which are the same files by then."""
    for suffix in ("key", "pem"):
        aside = directory / f".{CURRENT}.{suffix}.new"
        aside.unlink(missing_ok=True)
        os.link(directory / f"{NEXT}.{suffix}", aside)
        aside.replace(directory / f"{CURRENT}.{suffix}")
        aside.unlink(missing_ok=True)  # rename(2) leaves it when both were one file already
    _write_stage(directory, Stage.STEADY, first=False)
    _clear(directory)


def _demand(directory: Path, wanted: Stage, mend: str) -> bool:
    """What `_read_stage` says besides."""
    stage, first = _read_stage(directory)
    if stage is not wanted:
        raise PreconditionError(f"the rotation is {stage}, not {wanted}: {mend}")
    return first


def _clear(directory: Path) -> None:
    for name in (f"{NEXT}.key", f"{NEXT}.pem"):
        (directory / name).unlink(missing_ok=True)


def _write_stage(directory: Path, stage: Stage, *, first: bool) -> None:
    aside = directory / f".{STAGE_FILE}.new"
    with aside.open("w", encoding="utf-8") as file:
        json.dump({"stage": stage, "first": first}, file)
        file.flush()
        os.fsync(file.fileno())
    _leave_to_owner(aside)
    _sync(directory)  # the names of the next CA's files must not come to the disk later than what counts on them
    aside.replace(directory / STAGE_FILE)
    _sync(directory)


def _leave_to_owner(path: Path) -> None:
    """root may run the commands, the controller's user reads the files: they belong to whom the directory belongs."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
