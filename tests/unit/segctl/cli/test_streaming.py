"""Calls read in a thread: everything arrives in order, errors too, and leaving early cancels the call."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from segctl.cli.streaming import AHEAD, read_stream


class Call:
    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.cancelled = threading.Event()
        self.made = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.made = number + 1
            yield number
        if self.error:
            raise self.error

    def cancel(self) -> bool:
        self.cancelled.set()
        return True


def test_everything_arrives_in_order_however_long() -> None:
    assert list(read_stream(lambda: Call(3 * AHEAD))) == list(range(3 * AHEAD))


def test_the_error_comes_after_what_was_read() -> None:
    got: list[int] = []
    with pytest.raises(grpc.RpcError):
        for number in read_stream(lambda: Call(2, grpc.RpcError())):
            got.append(number)  # noqa: PERF402 - what came before the error counts
    assert got == [0, 1]


def test_leaving_early_cancels_the_call_and_little_is_read_ahead() -> None:
    call = Call(10**9)
    stream = read_stream(lambda: call)
    assert next(stream) == 0
    stream.close()
    assert call.cancelled.is_set()
    assert call.made <= AHEAD + 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_is_no_end_of_the_stream_and_hangs_nobody() -> None:
    stream = read_stream(lambda: Call(1, ValueError("a bug")))
    assert next(stream) == 0
    with pytest.raises(RuntimeError, match="died"):
        next(stream)
    for thread in threading.enumerate():
        if thread.name == "segctl-stream":
            thread.join(10)
