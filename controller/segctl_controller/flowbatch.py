"""Flows and hits as a host reports them, taken as hostile: every column bounded, every time brought near our clock.

What does not hold together is refused whole. Times never are: a clock that jumps makes honest hosts tell strange ones.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from segctl.errors import WireError
from segctl.model.processes import MAX_IDENTITY, is_identity
from segctl.policy.syntax.grammar import MAX_NAME, NAME_PATTERN
from segctl.proto.v1 import agent_pb2

from segctl_controller.errors import LimitError
from segctl_controller.flowstore.columns import FlowColumns, Integers, split_remotes
from segctl_controller.flowstore.records import DAY_US, HOUR_US, LARGEST_COUNT, FlowVerdict
from segctl_controller.store.records import HitRecord

MOST_FLOWS = 10_000
MOST_HITS = 4096
MOST_NAMES = 4096
LONGEST_WINDOW = DAY_US
OLDEST = 30 * DAY_US
FUTURE = HOUR_US
ADDRESS = 16
LARGEST = {
    "direction": 1,
    "protocol": 255,
    "port": 65535,
    "flows": LARGEST_COUNT,
    "bytes_sent": LARGEST_COUNT,
    "bytes_received": LARGEST_COUNT,
    "first_ms": 2**32 - 1,
    "last_ms": 2**32 - 1,
    "verdict": max(FlowVerdict),
}
"""Columns of plain numbers with the largest that each may hold."""
_NAME = re.compile(NAME_PATTERN)


def columns_of(batch: agent_pb2.FlowBatch, now_us: int) -> FlowColumns:
    """Raises LimitError over the bounds, WireError for a batch that does not hold together."""
    rows = len(batch.workload)
    if rows > MOST_FLOWS or max(map(len, (batch.workloads, batch.rules, batch.processes))) > MOST_NAMES:
        raise LimitError(
            f"a report holds at most {MOST_FLOWS} flows of {MOST_NAMES} workloads, {MOST_NAMES} rules and {MOST_NAMES} "
            "processes"
        )
    if batch.lost > LARGEST_COUNT:
        raise WireError("flows need a sane lost count")
    if len(batch.remotes) != rows * ADDRESS:
        raise WireError(f"the column remotes of {rows} flows has {len(batch.remotes)} bytes, not {ADDRESS} a flow")
    largest = {**LARGEST, "workload": len(batch.workloads) - 1, "rule": len(batch.rules) - 1}
    told = {name: _column(name, getattr(batch, name), rows, most) for name, most in largest.items()}
    _check_names("workload", batch.workloads)
    _check_names("rule", (rule for rule in batch.rules if rule))
    processes, process = _processes(batch, rows)
    start, end = _window(batch.from_us, batch.until_us, now_us)
    last_us = np.minimum(start + told.pop("last_ms") * 1000, end)
    first_us = np.minimum(start + told.pop("first_ms") * 1000, last_us)
    high, low = split_remotes(batch.remotes)
    return FlowColumns(
        workloads=tuple(batch.workloads),
        rules=tuple(batch.rules),
        processes=processes,
        process=process,
        ingress=told.pop("direction"),
        remote_high=high,
        remote_low=low,
        first_us=first_us,
        last_us=last_us,
        **told,
    )


def _processes(batch: agent_pb2.FlowBatch, rows: int) -> tuple[tuple[str, ...], Integers]:
    """The dictionary and the column; an older agent tells neither, and knows of no process."""
    if not batch.processes and not batch.process:
        return ("",), np.zeros(rows, dtype=np.int64)
    # What cannot be printed is unknown, and no error: which characters can, each version of Python tells anew.
    told = tuple(text if text.isprintable() else "" for text in batch.processes)
    for text in told:
        if text and not is_identity(text):
            raise WireError(f"{text[:MAX_IDENTITY]!r} in a report is no identity of a process")
    return told, _column("process", batch.process, rows, len(batch.processes) - 1)


def _column(name: str, column: Sequence[int], rows: int, largest: int) -> Integers:
    if len(column) != rows:
        raise WireError(f"the column {name} holds {len(column)} of {rows} flows")
    numbers = np.frombuffer(array("Q", column[:]), dtype=np.uint64)  # numpy itself takes longer over a list
    if rows and (most := int(numbers.max())) > largest:
        raise WireError(f"the column {name} of flows holds {most}, which is over {largest}")
    return numbers.view(np.int64)


def _check_names(what: str, names: Iterable[str]) -> None:
    """Names that a policy could have. The host's policy of the time may be gone by now, so more cannot be asked."""
    for name in names:
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            raise WireError(f"{name[:MAX_NAME]!r} in a report is no name of a {what}")


def _window(from_us: int, until_us: int, now_us: int) -> tuple[int, int]:
    """One that lies in the future, or further back than flows are kept, comes from a wrong clock: it ended just now, as
    far as we can know. One that has no sane length was just now."""
    length = until_us - from_us
    if not 0 <= length <= LONGEST_WINDOW:
        return now_us, now_us
    if now_us - OLDEST < until_us <= now_us + FUTURE:
        return from_us, until_us
    return now_us - length, now_us


def hits_of(
    host: str, messages: Sequence[agent_pb2.RuleHits], known: frozenset[str], now_us: int
) -> tuple[tuple[HitRecord, ...], tuple[str, ...]]:
    """The hits of rules that this host was sent, and the names of the others: a host speaks for its own rules only.

    Raises LimitError over the bounds, WireError for a malformed field.
    """
    if len(messages) > MOST_HITS:
        raise LimitError(f"a report holds at most {MOST_HITS} hits")
    _check_names("rule", (hit.rule for hit in messages))
    if any(hit.count > LARGEST_COUNT or hit.last_hit_us < 0 for hit in messages):
        raise WireError("hits need a sane count and a time after 1970")
    taken = tuple(
        HitRecord(host, hit.rule, hit.ingress, hit.count, min(hit.last_hit_us, now_us))
        for hit in messages
        if hit.rule in known
    )
    return taken, tuple(sorted({hit.rule for hit in messages if hit.rule not in known}))
