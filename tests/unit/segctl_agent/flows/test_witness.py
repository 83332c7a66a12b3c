"""What the witness asks, and for how long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
from segctl.errors import KernelError
from segctl_agent.conntrack.values import ConntrackRow
from segctl_agent.flows.attribution import Asked, Memory, Service
from segctl_agent.flows.observer import name_of
from segctl_agent.flows.witness import BURST_SECONDS, SHARE, Witness

from tests.unit.segctl_agent.flows.rows import Layout, mark, packed, row

WORKLOADS = {("out", 2): "host", ("in", 3): "host", ("out", 1): ""}
DB = Service("out", "host", packed("10.0.0.2"), 6, 5432)


def to_db(port: int = 5000, marked: int = mark(outgoing=2), protocol: int = 6) -> ConntrackRow:
    return row("10.0.0.1", port, "10.0.0.2", 5432, protocol, mark=marked)


class FakeEntries:
    """Readable as long as it has rows."""

    def __init__(self) -> None:
        self.rows: list[ConntrackRow] = []
        self.error, self.closed = "", False
        self._read, self._write = os.pipe()

    def comes(self, *rows: ConntrackRow) -> None:
        self.rows += rows
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read

    def read(self) -> Sequence[ConntrackRow]:
        if self.error:
            raise KernelError(self.error)
        rows, self.rows = self.rows, []
        return rows

    def close(self) -> None:
        self.closed = True


class Stage:
    def __init__(self) -> None:
        self.memory, self.asked = Memory(), list[Asked]()
        self.now = self.spent = self.each = 0.0
        self.opened: list[FakeEntries] = []
        self.witness = Witness(
            Layout(),
            lambda direction, number: WORKLOADS.get((direction, number)),
            self._processes,
            self.memory,
            self._listen,
            lambda: self.now,
            lambda: self.spent,
        )

    def _listen(self) -> FakeEntries:
        self.opened.append(FakeEntries())
        return self.opened[-1]

    def _processes(self, asked: Sequence[Asked]) -> Sequence[str]:
        self.spent += self.each
        self.asked += asked
        return ["" if one.local_port == 99 else f"unit:{one.local_port}.service" for one in asked]

    def takes(self, *rows: ConntrackRow) -> bool:
        entries = self._listen()
        entries.rows += rows
        return self.witness.take(entries)


def test_what_goes_out_is_asked_about_and_remembered() -> None:
    stage = Stage()
    others = (
        to_db(1, mark(incoming=3)),
        to_db(2, mark(outgoing=1)),  # an essential
        to_db(3, mark()),
        to_db(4, protocol=1),
        to_db(99),
    )
    assert stage.takes(to_db(), *others)
    assert [one.local_port for one in stage.asked] == [5000, 99]
    assert stage.memory.recall(DB) == "unit:5000.service"
    assert stage.memory.witnessed(name_of(to_db(), "out")) == "unit:5000.service"
    assert stage.memory.witnessed(name_of(to_db(99), "out")) == ""


def test_with_half_of_the_time_spent_only_unknown_services_are_asked_about() -> None:
    stage = Stage()
    stage.each = BURST_SECONDS * 0.6
    assert stage.takes(to_db(1))
    assert stage.takes(to_db(2))
    assert [one.local_port for one in stage.asked] == [1]
    assert not stage.takes(row("10.0.0.1", 3, "10.0.0.2", 443, mark=mark(outgoing=2)))
    stage.now += BURST_SECONDS / SHARE
    assert stage.takes(to_db(4))
    assert [one.local_port for one in stage.asked] == [1, 3, 4]


async def test_it_stops_listening_when_its_time_is_spent_and_begins_again() -> None:
    stage = Stage()
    stage.each = BURST_SECONDS * 1.1
    task = asyncio.create_task(stage.witness.run())
    await asyncio.sleep(0.01)
    [first] = stage.opened
    first.comes(to_db())
    stage.now += BURST_SECONDS  # earned meanwhile: far less than it asks for
    async with asyncio.timeout(5):
        while not first.closed:  # noqa: ASYNC110 - the loop's reader sets it
            await asyncio.sleep(0.01)
    assert (len(stage.opened), task.done()) == (1, False)
    task.cancel()
    stage.now += 1 / SHARE
    again = asyncio.create_task(stage.witness.run())
    await asyncio.sleep(0.01)
    assert len(stage.opened) == 2
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert stage.opened[1].closed


async def test_what_the_kernel_refuses_ends_it_quietly() -> None:
    stage = Stage()
    task = asyncio.create_task(stage.witness.run())
    await asyncio.sleep(0.01)
    stage.opened[0].error = "no more events"
    stage.opened[0].comes()
    async with asyncio.timeout(5):
        await task
    assert stage.opened[0].closed


def test_what_fails_is_paid_for_too() -> None:
    """Else a fault that comes again and again would have the whole core."""
    stage = Stage()
    before = stage.witness._earned()

    def fails(_asked: Sequence[Asked]) -> Sequence[str]:
        stage.spent += 0.01
        raise ValueError("unforeseen")

    stage.witness._processes_of = fails
    with pytest.raises(ValueError, match="unforeseen"):
        stage.takes(to_db())
    assert stage.witness._earned() == pytest.approx(before - 0.01)
