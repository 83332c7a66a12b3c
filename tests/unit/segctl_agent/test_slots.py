"""The last good generation reads whatever happened to the disk or to the writer."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from segctl.errors import StateError, WireError
from segctl_agent.slots import MAGIC, Slots, Stored, pack, unpack


def identity(payload: bytes) -> bytes:
    return payload


def newest(slots: Slots) -> Stored[bytes]:
    stored = slots.read(identity).stored
    assert stored is not None
    return stored


def test_nothing_stored(tmp_path: Path) -> None:
    reading = Slots(tmp_path).read(identity)
    assert reading.stored is None
    assert reading.damaged == ()


def test_the_newest_wins_and_both_slots_are_used(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    for number in range(5):
        slots.write(b"generation %d" % number, turn=number + 1)
        assert newest(slots) == Stored(b"generation %d" % number, number + 1, number + 1)
    assert {unpack(p.read_bytes()).value for p in slots.paths} == {b"generation 3", b"generation 4"}
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in slots.paths)


def test_every_cut_and_every_flipped_byte_is_noticed() -> None:
    whole = pack(bytes(range(256)), sequence=7, turn=3)
    assert unpack(whole) == Stored(bytes(range(256)), 3, 7)
    for position in range(len(whole)):
        with pytest.raises(StateError):
            unpack(whole[:position])
        broken = bytearray(whole)
        broken[position] ^= 0x40
        with pytest.raises(StateError):
            unpack(bytes(broken))
    with pytest.raises(StateError, match="payload"):
        unpack(whole + b"x")


@pytest.mark.parametrize("damage", [b"", b"x", MAGIC, b"\0" * 4096], ids=["empty", "one byte", "magic only", "zeros"])
def test_a_damaged_newest_slot_falls_back_to_the_one_before(tmp_path: Path, damage: bytes) -> None:
    slots = Slots(tmp_path)
    slots.write(b"old", 1)
    slots.write(b"new", 2)
    slots.paths[1].write_bytes(damage)
    reading = slots.read(identity)
    assert reading.stored == Stored(b"old", 1, 1)
    assert len(reading.damaged) == 1
    assert str(slots.paths[1]) in reading.damaged[0]
    slots.write(b"newer", 3)  # the damaged slot is the one that is overwritten
    assert newest(slots).value == b"newer"
    assert slots.read(identity).damaged == ()


def test_a_payload_that_does_not_decode_counts_as_damaged(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.write(b"old", 1)
    slots.write(b"new", 2)

    def decode(payload: bytes) -> bytes:
        if payload == b"new":
            raise WireError("the digest does not fit")
        return payload

    assert slots.read(decode).stored == Stored(b"old", 1, 1)


def test_both_damaged_is_an_error_with_the_mend(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.write(b"old", 1)
    slots.write(b"new", 2)
    for path in slots.paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match=r"generation\.0.*generation\.1.*segctl-agent release"):
        slots.read(identity)


def test_the_only_slot_damaged_is_an_error_not_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.write(b"only", 1)
    slots.paths[0].write_bytes(b"garbage")
    with pytest.raises(StateError):
        slots.read(identity)


def test_kill_9_in_the_middle_of_writes_never_loses_what_was_stored(tmp_path: Path) -> None:
    """100 writers are killed at random moments: what was acknowledged before the kill is there after it, whole."""
    chance = random.Random(20261122)
    slots = Slots(tmp_path)
    number = 1
    for _ in range(100):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    slots.write(struct.pack(">Q", number) * 2000, turn=number % 2047 + 1)
                    os.write(write_end, struct.pack(">Q", number))
                    number += 1
            finally:
                os._exit(1)
        os.close(write_end)
        time.sleep(chance.uniform(0.0005, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        acknowledged = b""
        while chunk := os.read(read_end, 65536):
            acknowledged += chunk
        os.close(read_end)
        last = struct.unpack(">Q", acknowledged[-8:])[0] if acknowledged else number - 1
        reading = slots.read(identity)
        assert reading.damaged == ()
        if reading.stored is None:
            assert last == 0
            continue
        found = struct.unpack_from(">Q", reading.stored.value)[0]
        assert reading.stored.value == struct.pack(">Q", found) * 2000
        assert reading.stored.turn == found % 2047 + 1
        assert found in (last, last + 1)
        number = found + 1
    assert number > 20


FULL_DISK = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from segctl.errors import StateError
    from segctl_agent.slots import Slots
    folder = Path(sys.argv[1])
    slots = Slots(folder)
    slots.write(b"g" * 20000, 1)
    slots.write(b"h" * 20000, 2)
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(ballast, b"x" * 4096):
            pass
    except OSError:
        os.close(ballast)
    try:
        slots.write(b"i" * 20000, 3)
    except StateError as error:
        print("refused:", error)
    stored = slots.read(bytes).stored
    print("holds", stored.value[:1], stored.turn, sorted(p.name for p in folder.iterdir()))
    (folder / "ballast").unlink()
    slots.write(b"i" * 20000, 3)
    stored = slots.read(bytes).stored
    print("holds", stored.value[:1], stored.turn)
""")


def test_a_full_disk_is_an_error_and_the_slots_stay_whole(tmp_path: Path) -> None:
    """A tmpfs of 128 KiB in a mount namespace of its own."""
    mount = f'mount -t tmpfs -o size=128k none {tmp_path} && exec {sys.executable} -c "$SCRIPT" {tmp_path}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SCRIPT": FULL_DISK},
    )
    assert done.returncode == 0, done.stderr
    refused, held, after = done.stdout.splitlines()
    assert refused.startswith("refused: cannot store the generation")
    assert "No space left on device" in refused
    assert "make room" in refused
    assert held == "holds b'h' 2 ['ballast', 'generation.0', 'generation.1']"
    assert after == "holds b'i' 3"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "missing")
    with pytest.raises(StateError, match="cannot store the generation"):
        slots.write(b"x", 1)
