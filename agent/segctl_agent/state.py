"""The state folder of an agent: identity/, generation.0 and .1, endpoints.json, status.json, hold, trial, lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from segctl import wire
from segctl.errors import StateError, WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.proto.v1 import hostpolicy_pb2 as hp

from segctl_agent.decisions import Turn, turn_to_number
from segctl_agent.durable import sync_folder, write_briefly, write_durably
from segctl_agent.slots import Reading, Slots


def decode_policy(payload: bytes) -> HostPolicy:
    """Raises WireError."""
    try:
        return wire.host_policy_from_wire(hp.HostPolicy.FromString(payload), stored=True)
    except DecodeError as error:
        raise WireError("it does not hold a host policy") from error


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths and their formats. `path` exists once the host is enrolled."""

    path: Path

    def read_generation(self) -> Reading[HostPolicy]:
        """Raises StateError when something was stored and no slot reads."""
        return Slots(self.path).read(decode_policy)

    def write_generation(self, policy: HostPolicy, turn: Turn) -> None:
        """Raises StateError; the generations stored before still read."""
        Slots(self.path).write(wire.host_policy_to_wire(policy).SerializeToString(), turn_to_number(turn))

    def read_hits(self) -> bytes:
        """What `write_hits` wrote last; empty when there is nothing. Raises StateError."""
        try:
            return (self.path / "hits.json").read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StateError(f"cannot read {self.path / 'hits.json'}: {error.strerror}") from error

    def write_hits(self, content: bytes) -> None:
        """Raises StateError."""
        try:
            write_briefly(self.path / "hits.json", content, 0o600)
        except OSError as error:
            raise StateError(f"cannot write {self.path / 'hits.json'}: {error.strerror}") from error

    # Release: an operator opened this host in an emergency. Only an operator (or a reboot) ends that.

    @property
    def held(self) -> str:
        """Who released this host and when; empty: nobody did, the policy is to be enforced."""
        try:
            return (self.path / "hold").read_text(errors="replace").strip().partition("\n")[0] or "released"
        except OSError:
            return ""

    @property
    def hold_details(self) -> str:
        """What the release says to the agent (release.py); empty: nothing."""
        try:
            return (self.path / "hold").read_text(errors="replace").partition("\n")[2].strip()
        except OSError:
            return ""

    def hold(self, reason: str, details: str = "") -> None:
        """On a full disk the hold is without words: it opens the host all the same. Raises StateError."""
        path = self.path / "hold"
        try:
            write_durably(path, f"{reason}\n{details}".encode() + b"\n", 0o644)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise StateError(f"cannot write {path}: {error.strerror}. Run it as root") from error
            self._hold_without_words(path)

    @staticmethod
    def _hold_without_words(path: Path) -> None:
        try:
            path.touch(0o644)
        except OSError as error:
            raise StateError(f"cannot make {path}: {error.strerror}. Make room on its disk") from error

    def end_hold(self) -> None:
        try:
            (self.path / "hold").unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise StateError(f"cannot remove {self.path / 'hold'}: {error.strerror}") from error

    # The first generation on trial: there is none on disk to return to, and the table outlives this process.

    @property
    def first_trial(self) -> bool:
        return (self.path / "trial").exists()

    def begin_first_trial(self) -> None:
        """Raises StateError. Not for a power loss, after which there is no table either."""
        try:
            write_briefly(self.path / "trial", b"", 0o600)
        except OSError as error:
            raise StateError(f"cannot write {self.path / 'trial'}: {error.strerror}") from error

    def end_first_trial(self) -> None:
        with suppress(OSError):
            (self.path / "trial").unlink()

    def lock(self, patience: float = 0.0) -> int | None:
        """One agent a state folder: the descriptor of the lock, held until the process ends. None: another has it, and
        for longer than `patience` seconds (a command that only looks has it for a moment)."""
        until = time.monotonic() + patience
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateError(f"cannot open {self.path / 'lock'}: {error.strerror}") from error
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(descriptor)
                    return None
                time.sleep(0.01)
            else:
                return descriptor

    def lock_is_free(self) -> bool:
        """True when no agent runs here."""
        descriptor = self.lock()
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def write_status(self, status: dict[str, Any]) -> None:
        """Raises OSError: the caller decides whether that matters."""
        status["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_briefly(self.path / "status.json", json.dumps(status, indent=2).encode() + b"\n")

    def read_status(self) -> dict[str, Any] | None:
        """None: no agent ever ran here. Raises StateError."""
        try:
            found = json.loads((self.path / "status.json").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StateError(f"cannot read {self.path / 'status.json'}: {error}. Run it as root") from error
        return found if isinstance(found, dict) else None
