"""A process of the bench that takes orders: method calls over a pipe, pickled, one at a time.

The object that serves them is made in the new process by a factory; its coroutines are the orders.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench.fleet.limits import raise_file_limit

END_SECONDS = 10.0


class Orders:
    """The end that gives them."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        self._pipe = pipe
        self.pid = pid

    def give(self, method: str, **arguments: object) -> None:
        """Without waiting; each needs its `answer`."""
        self._pipe.send((method, arguments))

    def answer(self) -> Any:  # noqa: ANN401  what the method returned
        """Raises RuntimeError with what the other process raised."""
        done, value = self._pipe.recv()
        if not done:
            raise RuntimeError(f"a process of the bench: {value}")
        return value

    def call(self, method: str, **arguments: object) -> Any:  # noqa: ANN401
        self.give(method, **arguments)
        return self.answer()


def call_all(processes: Sequence[Orders], method: str, **arguments: object) -> list[Any]:
    """The same order to all, at the same time."""
    for process in processes:
        process.give(method, **arguments)
    return [process.answer() for process in processes]


@contextmanager
def processes(factory: Callable[..., object], each: Iterable[Sequence[object]]) -> Iterator[list[Orders]]:
    """A process for each of `each`, the arguments of `factory`; they end with the block."""
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    try:
        for arguments in each:
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs, factory, arguments), name="bench", daemon=True)
            child.start()
            theirs.close()
            pipes.append(ours)
            children.append(child)
        yield [Orders(pipe, child.pid or 0) for pipe, child in zip(pipes, children, strict=True)]
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join(END_SECONDS)
            if child.is_alive():
                child.kill()
                child.join()


def _serve(pipe: Connection, factory: Callable[..., object], arguments: Sequence[object]) -> None:
    raise_file_limit()
    asyncio.run(_take_orders(pipe, factory, arguments))


async def _take_orders(pipe: Connection, factory: Callable[..., object], arguments: Sequence[object]) -> None:
    """Until the other end of the pipe is closed."""
    served, readable = factory(*arguments), asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), readable.set)
    while True:
        await readable.wait()
        readable.clear()
        while pipe.poll():
            try:
                method, keywords = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send((True, await getattr(served, method)(**keywords)))
            except Exception as error:  # noqa: BLE001  whatever it is, the measurement that asked has to say it
                pipe.send((False, f"{type(error).__name__}: {error}"))
