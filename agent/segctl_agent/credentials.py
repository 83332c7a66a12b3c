"""The agent's identity on disk: STATE/identity/{key.pem, cert.pem, ca.pem, agent.json}, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from segctl.errors import StateError

from segctl_agent.certcheck import check_files
from segctl_agent.durable import sync_folder, write_durably

FOLDER = "identity"
LATE_SHARE = 0.75
"""Of a certificate's life, which is renewed at its half: from here on an operator is told that it does not succeed."""
_ENROL = "enrol this host again: `segctl token create` on the controller, then `segctl-agent enrol --replace`"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this host is. Key, certificate and CA are PEM, `ca` of two while the fleet's CA is rotated; `controllers` and
    `enrolment` are HOST:PORT. `enrolled_as` is the `enrolment_id` of an identity that was renewed."""

    fleet: str
    host: str
    controllers: tuple[str, ...]
    key: bytes
    certificate: bytes
    ca: bytes
    valid_from: datetime
    valid_until: datetime
    enrolment: tuple[str, ...] = ()
    enrolled_as: str = ""

    @property
    def channel(self) -> tuple[str, ...]:
        """What the agent's user must always reach: also where it is enrolled again when its certificate has ended."""
        return (*self.controllers, *self.enrolment)

    @property
    def enrolment_id(self) -> str:
        """Stays the same when the certificate is renewed."""
        return self.enrolled_as or hashlib.sha256(self.certificate).hexdigest()

    @property
    def spiffe(self) -> str:
        return f"spiffe://{self.fleet}/host/{self.host}"

    def late(self, now: datetime) -> bool:
        """It should have been renewed by `now`."""
        return now >= self.valid_from + (self.valid_until - self.valid_from) * LATE_SHARE

    def complaint(self, now: datetime) -> str:
        """Why the controller would refuse this certificate at `now`; empty when it would not. A refused certificate
        looks like any lost connection to a gRPC client, so the agent has to find out by itself."""
        clock = f"the local clock says {now:%Y-%m-%d %H:%M}"
        if now >= self.valid_until:
            by_key = "it is renewed with its old key as soon as a controller answers; where that is refused, "
            return (
                f"this host's certificate expired at {self.valid_until:%Y-%m-%d %H:%M} UTC; {clock}. If the clock is "
                f"right, {by_key if self.enrolment else ''}{_ENROL}"
            )
        if now < self.valid_from:
            start = f"{self.valid_from:%Y-%m-%d %H:%M} UTC"
            return f"this host's certificate is valid only from {start}; {clock}: set the clock"
        return ""


def load_identity(state: Path) -> Identity | None:
    """None when this host was never enrolled. Raises StateError for an identity that is incomplete, does not fit
    together, or whose key others may read."""
    before = identity_version(state)
    try:
        return _load(state)
    except StateError:
        if identity_version(state) == before:
            raise
    return _load(state)  # it was replaced while it was read


def identity_version(state: Path) -> tuple[int, int]:
    """Another value for another identity on disk; zeros when there is none or it cannot be told."""
    try:
        found = _place(state).stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_ctime_ns


def _place(state: Path) -> Path:
    """Where the identity is: a replacement that was cut off between its two renames leaves the old one aside. It stays
    there until the next replacement: who reads must not get in the way of one that is at work."""
    folder, previous = state / FOLDER, state / f"{FOLDER}.old"
    return previous if not folder.exists() and previous.exists() else folder


def _load(state: Path) -> Identity | None:
    try:
        folder = _place(state)
        if not folder.exists():
            return None
    except OSError as error:
        raise StateError(f"cannot look into {state}: {error.strerror}. {_hint(error)}") from error
    try:
        mode = (folder / "key.pem").stat().st_mode
        parts = {name: (folder / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem", "agent.json")}
    except OSError as error:
        raise StateError(f"cannot read the identity {error.filename}: {error.strerror}. {_hint(error)}") from error
    if mode & 0o077:
        raise StateError(
            f"{folder / 'key.pem'} can be read by others (mode {mode & 0o777:04o}): make it private (chmod 600), and "
            f"if someone may have read it, {_ENROL}"
        )
    try:
        about = json.loads(parts["agent.json"])
        checked = check_files(folder / "cert.pem", folder / "key.pem", parts["ca.pem"].decode())
        identity = Identity(
            fleet=str(about["fleet"]),
            host=str(about["host"]),
            controllers=tuple(str(c) for c in about["controllers"]),
            key=parts["key.pem"],
            certificate=parts["cert.pem"],
            ca=parts["ca.pem"],
            valid_from=checked.valid_from,
            valid_until=checked.valid_until,
            enrolment=tuple(str(e) for e in about.get("enrolment", ())),
            enrolled_as=str(about.get("enrolled_as", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"the identity in {folder} is damaged ({error}): {_ENROL}") from error
    if identity.spiffe not in checked.uris:
        raise StateError(
            f"the identity in {folder} is damaged: its certificate does not name {identity.spiffe}: {_ENROL}"
        )
    return identity


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "Run it as the user of the agent (root, or the unit's user)"
    return f"The identity is incomplete: {_ENROL}"


def save_identity(state: Path, identity: Identity) -> None:
    """Puts `identity` in place of whatever there was, all of it or nothing. Raises StateError."""
    folder, fresh, previous = state / FOLDER, state / f"{FOLDER}.new", state / f"{FOLDER}.old"
    about = {
        "fleet": identity.fleet,
        "host": identity.host,
        "controllers": list(identity.controllers),
        "enrolment": list(identity.enrolment),
        "enrolled_as": identity.enrolled_as,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        write_durably(fresh / "key.pem", identity.key)
        write_durably(fresh / "cert.pem", identity.certificate, 0o644)
        write_durably(fresh / "ca.pem", identity.ca, 0o644)
        write_durably(fresh / "agent.json", json.dumps(about, indent=2).encode() + b"\n", 0o644)
        _leave_to_owner(fresh, state)
        if folder.exists():  # else the old one lies aside already, and must stay until the new one is in place
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        fresh.rename(folder)
        sync_folder(state)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise StateError(f"cannot write the identity to {folder}: {error.strerror}. Make {state} writable") from error


def _leave_to_owner(folder: Path, state: Path) -> None:
    """root enrols, the agent's own user runs: the identity belongs to whom the state folder belongs."""
    owner = state.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in (*folder.iterdir(), folder):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def acting_as_owner(state: Path) -> Iterator[None]:
    """Sockets that root makes meanwhile are those of the agent's user (a socket's owner is its maker's fsuid), whose
    channel to the controller always passes: a host that enforces must not refuse its own enrolment."""
    owner = state.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        yield
        return
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(0)


def prepare_state(state: Path) -> None:
    """Makes the state folder (0700) and proves that it can be written. Raises StateError."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state / f".probe.{os.getpid()}"
        probe.write_bytes(b"segctl")
        probe.unlink()
    except OSError as error:
        raise StateError(
            f"the state folder {state} cannot be written: {error.strerror}. Run as root, or name another with --state"
        ) from error
