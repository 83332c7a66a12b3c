"""How far the reports of each host were stored, so that one that comes again is not stored twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from segctl_controller.flowstore.database import Database, Work
from segctl_controller.flowstore.dictionary import Dictionary
from segctl_controller.flowstore.records import FlowReport
from segctl_controller.flowstore.tables import cursors

MOVE_ON = "UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence"
Place = tuple[str, int]


class Places:
    """Remembered where no other controller writes; else read, and locked, in each transaction."""

    def __init__(self, database: Database, names: Dictionary) -> None:
        self._names = names
        self._shared = database.shared
        self._known: dict[str, Place] = {}
        if not self._shared:
            with database.reading() as work:
                self._known = self._read(work, None)

    def look(self, work: Work, reports: Sequence[FlowReport]) -> tuple[list[bool], dict[str, Place]]:
        """Which reports were not stored before, also not by an earlier one of them; and where their hosts are then."""
        known = self._lock(work, sorted({report.host for report in reports})) if self._shared else self._known
        places: dict[str, Place] = {}
        fresh = []
        for report in reports:
            epoch, sequence = places.get(report.host) or known.get(report.host) or ("", 0)
            new = epoch != report.epoch or sequence < report.sequence
            fresh.append(new)
            if new:
                places[report.host] = (report.epoch, report.sequence)
        return fresh, places

    def move(self, work: Work, places: dict[str, Place]) -> None:
        if not places:
            return
        epochs = np.array([epoch for epoch, _ in places.values()], dtype=object)
        sequences = np.array([sequence for _, sequence in places.values()], dtype=np.int64)
        hosts = np.array([self._names.number(host) for host in places], dtype=np.int64)
        work.merge(cursors, {"host": hosts, "epoch": epochs, "sequence": sequences}, "host", MOVE_ON)

    def moved(self, places: dict[str, Place]) -> None:
        """The transaction of `move` is stored."""
        self._known.update(places if not self._shared else {})

    def forget(self, host: str) -> None:
        self._known.pop(host, None)

    def hosts(self, work: Work) -> frozenset[str]:
        return frozenset(self._read(work, None))

    def _lock(self, work: Work, hosts: Sequence[str]) -> dict[str, Place]:
        """Each row is made first, for one that is not there cannot be locked; in one order, so that replicas do not
        wait for each other in a circle."""
        ids = sorted(self._names.number(host) for host in hosts)
        new = [{"host": number, "epoch": "", "sequence": 0} for number in ids]
        work.run(insert(cursors).values(new).on_conflict_do_nothing())
        return self._read(work, ids)

    def _read(self, work: Work, hosts: Sequence[int] | None) -> dict[str, Place]:
        query = select(cursors.c.host, cursors.c.epoch, cursors.c.sequence)
        if hosts is not None:
            query = query.where(cursors.c.host.in_(hosts)).order_by(cursors.c.host).with_for_update()
        return {self._names.text(host): (epoch, sequence) for host, epoch, sequence in work.rows(query)}
