"""Takes over the flows that controllers before this one kept by the hour in their SQLite database."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from segctl.errors import StateError

from segctl_controller.flowstore.columns import FlowColumns, Integers, split_remotes
from segctl_controller.flowstore.protocol import FlowStore
from segctl_controller.flowstore.records import FlowReport

EPOCH = "import"
"""Of the reports that the hours are put into. What was taken over before an import was interrupted is not new, so it is
counted once."""
AT_ONCE = 50_000
ROWS = """
SELECT host, workload, rule, ingress, remote, protocol, port, verdict, flows, bytes_sent, bytes_received, first_us,
  last_us
FROM flows ORDER BY host, hour_us, remote, port, protocol, ingress, workload, rule, verdict
"""
TABLES = "SELECT name FROM sqlite_master WHERE name IN ('flows', 'flow_losses')"
LOSSES = "SELECT host, hour_us, lost FROM flow_losses ORDER BY host, hour_us"
log = logging.getLogger(__name__)


def import_hours(path: Path, flows: FlowStore) -> int:
    """How many rows were taken over; they are removed from the database at `path` when all are stored. Before agents
    report anything: their reports have places of their own. Raises StateError."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=30.0)) as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE name IN ('flows', 'flow_losses')"
            ).fetchall()
            if len(tables) < 2:
                return 0
            number = sum(_store(flows, reports) for reports in _reports(connection))
            if number:
                log.info("took over %d rows of flows by the hour from %s", number, path)
            with connection:
                connection.execute("DELETE FROM flows")
                connection.execute("DELETE FROM flow_losses")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StateError(f"{path}: the flows in it cannot be taken over into the flow store: {error}") from error
    return number


def _store(flows: FlowStore, reports: Sequence[FlowReport]) -> int:
    flows.add(reports)
    return sum(len(report.columns) for report in reports)


def _reports(connection: sqlite3.Connection) -> Iterator[list[FlowReport]]:
    """Numbered by host, always in the same way."""
    rows = groupby(connection.execute(ROWS), key=lambda row: row[0])
    lost = connection.execute(LOSSES).fetchall()
    numbers: dict[str, Iterator[int]] = {}
    for host, hours in rows:
        numbers[host] = count(1)
        while chunk := list(islice(hours, AT_ONCE)):
            yield [FlowReport(host, EPOCH, next(numbers[host]), 0, _columns(chunk))]
    losses = [
        FlowReport(host, EPOCH, next(numbers.setdefault(host, count(1))), hour_us, _columns(()), number)
        for host, hour_us, number in lost
    ]
    if losses:
        yield losses


def _columns(rows: Sequence[tuple[Any, ...]]) -> FlowColumns:
    columns: Sequence[Iterable[Any]] = list(zip(*rows, strict=True)) or [()] * 13
    _, workloads, rules, ingress, remotes, *numbers = columns
    workload_names, workload = _dictionary(workloads)
    rule_names, rule = _dictionary(rules)
    high, low = split_remotes(b"".join(remotes))
    shared = (_integers(ingress), high, low, *(_integers(n) for n in numbers))
    unknown = np.zeros(len(rows), dtype=np.int64)  # nobody told processes then
    return FlowColumns(workload_names, rule_names, ("",), workload, rule, unknown, *shared)


def _dictionary(texts: Iterable[str]) -> tuple[tuple[str, ...], Integers]:
    places: dict[str, int] = {}
    which = [places.setdefault(text, len(places)) for text in texts]
    return tuple(places), _integers(which)


def _integers(values: Iterable[int]) -> Integers:
    return np.fromiter(values, dtype=np.int64)
