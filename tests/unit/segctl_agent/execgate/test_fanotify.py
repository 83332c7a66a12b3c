"""The layout of fanotify's events (linux/fanotify.h)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl_agent.execgate.fanotify import FAN_OPEN_EXEC_PERM, ExecEvent, parse_events


def event(descriptor: int, pid: int, mask: int = FAN_OPEN_EXEC_PERM, version: int = 3, more: bytes = b"") -> bytes:
    return struct.pack("=IBBHQii", 24 + len(more), version, 0, 24, mask, descriptor, pid) + more


def test_events_are_read_one_after_the_other() -> None:
    buffer = event(5, 100) + event(6, 0, more=b"\0" * 8) + event(7, 101)
    assert parse_events(buffer) == [ExecEvent(5, 100), ExecEvent(6, 0), ExecEvent(7, 101)]


def test_what_asks_for_nothing_is_left_out() -> None:
    overflow = event(-1, 0, mask=0x4000)
    assert parse_events(overflow + event(5, 1)) == [ExecEvent(5, 1)]


@pytest.mark.parametrize("buffer", [event(5, 1, version=4), struct.pack("=IBBHQii", 8, 3, 0, 24, 0, 5, 1)])
def test_another_layout_is_an_error(buffer: bytes) -> None:
    with pytest.raises(ValueError, match="fanotify speaks version"):
        parse_events(buffer)


@given(st.binary(max_size=200))
def test_any_bytes_end(buffer: bytes) -> None:
    try:
        assert len(parse_events(buffer)) <= len(buffer) // 24
    except ValueError:
        return
