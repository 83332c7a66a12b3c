"""What others' tables do to ours is told once, with who made it so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from segctl_agent.facts.conntrack import ConntrackGauge
from segctl_agent.neighbours import Neighbours
from segctl_agent.nft.foreign import OtherRule, Snapshot, Where
from segctl_agent.nft.ruleset import BaseHook, Expr
from segctl_agent.nft.watch import UNKNOWN, TamperNotice

MASK = 0xFFFFFF80


def notrack(*tables: str) -> Snapshot:
    return Snapshot(tuple(OtherRule(Where("ip", t, "c"), (Expr("notrack", ()),)) for t in tables))


class Machine:
    def __init__(self) -> None:
        self.snapshot, self.reads = Snapshot(), 0
        self.told: list[tuple[str, TamperNotice | None]] = []
        self.neighbours = Neighbours(self.read, self.tell, MASK, settle=0.0, pause=0.01)

    def read(self) -> Snapshot:
        self.reads += 1
        return self.snapshot

    def tell(self, kind: str, message: str, culprit: TamperNotice | None) -> None:
        assert kind == "kernel"
        self.told.append((message, culprit))

    async def looked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.reads < times:  # noqa: ASYNC110 - it is counted in a thread
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.neighbours.run())
        await self.looked(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_each_thing_is_told_once_with_its_culprit() -> None:
    async with Machine() as machine:
        vpn = TamperNotice(5, 71, "vpnd", frozenset({"vpn"}))
        for table, notice in (("vpn", vpn), ("kube", TamperNotice(6, 72, "kube", frozenset({"kube"})))):
            machine.snapshot = notrack("vpn", table)
            machine.neighbours.changed_by(TamperNotice(4, 70, "other", frozenset({"elsewhere"})))
            machine.neighbours.changed_by(notice)
            await machine.looked(machine.reads + 1)
        assert [(c.pid, m.split(" made")[0]) for m, c in machine.told if c] == [
            (71, "vpnd (pid 71)"),
            (72, "kube (pid 72)"),
        ]
        assert "table ip vpn, chain c takes packets out of connection tracking" in machine.told[0][0]
        assert len(machine.told) == 2
        machine.snapshot = Snapshot()
        machine.neighbours.changed_by(UNKNOWN)
        await machine.looked(machine.reads + 1)
        machine.snapshot = notrack("vpn")
        machine.neighbours.changed_by(vpn)
        await machine.looked(machine.reads + 1)
        assert len(machine.told) == 3  # it went and came again


async def test_many_changes_are_one_look_and_many_findings_a_bounded_number_of_events() -> None:
    async with Machine() as machine:
        machine.snapshot = notrack(*(f"t{i}" for i in range(500)))
        for i in range(500):
            machine.neighbours.changed_by(TamperNotice(i, 9, "x", frozenset({f"t{i}"})))
        await machine.looked(2)
        assert machine.reads == 2
        assert len(machine.told) == 21
        assert "480 more" in machine.told[-1][0]


async def test_information_is_shown_and_not_told() -> None:
    async with Machine() as machine:
        machine.snapshot = Snapshot(bases=((Where("inet", "firewalld", "filter_INPUT"), BaseHook(1)),))
        machine.neighbours.changed_by(UNKNOWN)
        await machine.looked(2)
        assert machine.told == []
        assert "firewalld" in str(machine.neighbours.findings[0])


def test_a_full_connection_table_is_told_when_it_begins(tmp_path: Path) -> None:
    gauge = ConntrackGauge(tmp_path)
    assert gauge.look() == ""  # no such module
    (tmp_path / "nf_conntrack_max").write_text("1000\n")
    for count, told in ((899, False), (901, True), (950, False), (850, False), (920, False), (799, False), (901, True)):
        (tmp_path / "nf_conntrack_count").write_text(f"{count}\n")
        assert bool(gauge.look()) is told, count
    (tmp_path / "nf_conntrack_max").write_text("0\n")
    assert gauge.look() == ""
