"""Two hosts on a wire whose sockets one process holds: a socket stays in the network namespace it was made in."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.netns.spaces import Space, join

T = TypeVar("T")

HERE, THERE = "10.77.0.1", "10.77.0.2"
HERE6, THERE6 = "fd77::1", "fd77::2"


class TwoHosts:
    """`call` runs a function on the first host; what it makes `there` is on the second."""

    def __init__(self) -> None:
        self.here, self.there = Space(), Space()
        join(self.here, self.there, "wire", "wire")
        for space, four, six in ((self.here, HERE, HERE6), (self.there, THERE, THERE6)):
            space.sh(f"ip addr add {four}/24 dev wire; ip addr add {six}/64 dev wire nodad")

    def call(self, function: Callable[[], T]) -> T:
        return self.here.run(function)

    @contextmanager
    def over_there(self) -> Iterator[None]:
        with open("/proc/self/ns/net") as back, open(f"/proc/{self.there.pid}/ns/net") as to:  # noqa: PTH123
            _setns(to.fileno())
            try:
                yield
            finally:
                _setns(back.fileno())

    def close(self) -> None:
        self.here.close()
        self.there.close()


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):  # os.setns: Python 3.12
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def server(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def session(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """(client, accepted), after a word each way."""
    client = socket.create_connection(listener.getsockname()[:2], timeout=5)
    accepted, _ = listener.accept()
    assert talks(client, accepted)
    return client, accepted


def talks(one: socket.socket, other: socket.socket) -> bool:
    for sender, receiver in ((one, other), (other, one)):
        receiver.settimeout(5)
        sender.sendall(b"word")
        if receiver.recv(16) != b"word":
            return False
    return True
