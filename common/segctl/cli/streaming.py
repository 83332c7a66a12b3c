"""gRPC calls made and read in a thread of their own.

Ctrl-C raises KeyboardInterrupt wherever the main thread is. Inside gRPC that may leave a lock taken and the process
hanging; waiting on a queue, it is harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Generic, Protocol, TypeVar

import grpc

Reply = TypeVar("Reply")
Reply_co = TypeVar("Reply_co", covariant=True)
AHEAD = 1000
"""Messages read ahead of who shows them: a terminal that is paused holds the stream back, not the memory."""


class Stream(Protocol[Reply_co]):
    def __iter__(self) -> Iterator[Reply_co]: ...
    def cancel(self) -> object: ...


class Single(Generic[Reply]):
    """A call with one reply, as a stream of it."""

    def __init__(self, future: grpc.Future[Reply]) -> None:
        self._future = future

    def __iter__(self) -> Iterator[Reply]:
        yield self._future.result()

    def cancel(self) -> object:
        return self._future.cancel()


def read_stream(start: Callable[[], Stream[Reply]]) -> Iterator[Reply]:
    """The messages of the call that `start` makes. Raises the call's grpc.RpcError; cancels it when nobody reads on."""
    arrivals: Queue[tuple[Reply] | Exception | None] = Queue(AHEAD)
    calls: Queue[Stream[Reply]] = Queue()
    abandoned = threading.Event()

    def read() -> None:
        try:
            call = start()
            calls.put(call)
            for message in call:
                arrivals.put((message,))
                if abandoned.is_set():
                    return
        except grpc.RpcError as error:
            arrivals.put(error)
        else:
            arrivals.put(None)
        finally:
            # Read only when neither came before it: a bug above must not look like the end of the stream.
            arrivals.put(RuntimeError("the thread that reads the controller's reply died"))

    threading.Thread(target=read, name="segctl-stream", daemon=True).start()
    try:
        while (arrival := arrivals.get()) is not None:
            if isinstance(arrival, Exception):
                raise arrival
            yield arrival[0]
    finally:
        abandoned.set()
        if not calls.empty():
            calls.get().cancel()
