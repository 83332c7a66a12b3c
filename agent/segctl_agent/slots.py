"""Two slots on disk that hold the newest and the second newest of a value: one of them always reads.

A slot is MAGIC, sha256 of the rest (32 bytes), then big endian: sequence (8 bytes), turn (4), length (8), payload.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from segctl.errors import StateError, WireError

from segctl_agent.durable import write_durably

MAGIC = b"SEGCTL\x00\x01"
_FIXED = struct.Struct(">QIQ")
_DIGEST = 32
_MAX_PAYLOAD = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """What a slot held. `turn` tells which decision ids were given last (decisions.py)."""

    value: T
    turn: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The newest readable slot (None: nothing was ever stored) and what is wrong with the slots that do not read."""

    stored: Stored[T] | None
    damaged: tuple[str, ...] = ()


def pack(payload: bytes, sequence: int, turn: int) -> bytes:
    body = _FIXED.pack(sequence, turn, len(payload)) + payload
    return MAGIC + hashlib.sha256(body).digest() + body


def unpack(content: bytes) -> Stored[bytes]:
    """Raises StateError that says in which way the content is not a whole slot."""
    start = len(MAGIC) + _DIGEST
    if len(content) < start + _FIXED.size:
        raise StateError(f"it ends after {len(content)} bytes, within the header")
    if content[: len(MAGIC)] != MAGIC:
        raise StateError("it does not start as a generation file of this version")
    body = memoryview(content)[start:]
    sequence, turn, length = _FIXED.unpack_from(body)
    if length != len(body) - _FIXED.size:
        raise StateError(f"it holds {len(body) - _FIXED.size} bytes of payload where its header says {length}")
    if hashlib.sha256(body).digest() != content[len(MAGIC) : start]:
        raise StateError("its checksum does not fit its content")
    return Stored(bytes(body[_FIXED.size :]), turn, sequence)


class Slots:
    """The two files `NAME.0` and `NAME.1` in `folder`."""

    def __init__(self, folder: Path, name: str = "generation") -> None:
        self.paths = (folder / f"{name}.0", folder / f"{name}.1")

    def read(self, decode: Callable[[bytes], T]) -> Reading[T]:
        """Raises StateError when there are slots and none reads. A payload that `decode` refuses with WireError counts
        as damaged."""
        whole: list[tuple[Path, Stored[bytes]]] = []
        damaged: list[str] = []
        for path in self.paths:
            try:
                raw = self._load(path)
            except StateError as error:
                damaged.append(f"{path}: {error}")
                continue
            if raw is not None:
                whole.append((path, raw))
        newest: Stored[T] | None = None
        for path, raw in sorted(whole, key=lambda found: -found[1].sequence):
            try:
                newest = Stored(decode(raw.value), raw.turn, raw.sequence)
                break
            except WireError as error:
                damaged.append(f"{path}: {error}")
        if newest is None and damaged:
            raise StateError(
                "no stored generation can be read: " + "; ".join(damaged) + ". The controller sends it anew as soon as "
                "the agent reaches it; until then the host keeps the rules its kernel holds, or stays closed. "
                "`segctl-agent release` opens it in an emergency"
            )
        return Reading(newest, tuple(damaged))

    def write(self, payload: bytes, turn: int) -> None:
        """Stores `payload` durably in the slot that does not hold the newest value. Raises StateError (a full disk, a
        folder that cannot be written): the slots then read as before."""
        if len(payload) > _MAX_PAYLOAD:
            raise StateError(f"the generation is {len(payload)} bytes, the limit is {_MAX_PAYLOAD}")
        sequences = [self._sequence(path) for path in self.paths]
        target = self.paths[0] if sequences[0] <= sequences[1] else self.paths[1]
        try:
            write_durably(target, pack(payload, max(sequences) + 1, turn))
        except OSError as error:
            raise StateError(
                f"cannot store the generation in {target}: {error.strerror}. It is in force, but would not survive a "
                "reboot: make room or make the folder writable; the agent tries again"
            ) from error

    def clear(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _sequence(self, path: Path) -> int:
        """0 for a slot that is missing or damaged: it is the one to overwrite."""
        try:
            raw = self._load(path)
        except StateError:
            return 0
        return raw.sequence if raw else 0

    @staticmethod
    def _load(path: Path) -> Stored[bytes] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"it cannot be read: {error.strerror}") from error
        return unpack(content)
