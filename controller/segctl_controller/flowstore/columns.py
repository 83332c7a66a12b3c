"""The rows of a report as columns: numpy arrays of one length, from the wire to the database, and never a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FlowColumns:
    """`workload`, `rule` and `process` count in the dictionaries `workloads`, `rules` and `processes`. A remote address
    is two columns of 64 bits, signed, so that IPv4 is 0 in the high one."""

    workloads: tuple[str, ...]
    rules: tuple[str, ...]
    processes: tuple[str, ...]
    workload: Integers
    rule: Integers
    process: Integers
    ingress: Integers
    remote_high: Integers
    remote_low: Integers
    protocol: Integers
    port: Integers
    verdict: Integers
    flows: Integers
    bytes_sent: Integers
    bytes_received: Integers
    first_us: Integers
    last_us: Integers

    def __len__(self) -> int:
        return len(self.workload)


NAMED = ("workloads", "rules", "processes", "workload", "rule", "process")
SHARED = tuple(field.name for field in fields(FlowColumns) if field.name not in NAMED)
"""The columns that mean the same in every report."""


def split_remotes(remotes: bytes) -> tuple[Integers, Integers]:
    """(high, low) of addresses of 16 bytes each."""
    halves = np.frombuffer(remotes, dtype=">i8").reshape(-1, 2).astype(np.int64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def split_remote(remote: bytes) -> tuple[int, int]:
    return int.from_bytes(remote[:8], signed=True), int.from_bytes(remote[8:], signed=True)


def joined_remote(high: int, low: int) -> bytes:
    return high.to_bytes(8, signed=True) + low.to_bytes(8, signed=True)


def joined_remotes(high: Integers, low: Integers) -> NDArray[np.bytes_]:
    """As strings of 16 bytes, which numpy can sort. It hides zeroes at the end of each."""
    halves = np.empty((len(high), 2), dtype=">i8")
    halves[:, 0], halves[:, 1] = high, low
    return halves.view("S16").reshape(-1)


def concatenated(columns: Sequence[FlowColumns], name: str) -> Integers:
    return np.concatenate([getattr(one, name) for one in columns])
