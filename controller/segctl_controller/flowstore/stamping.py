"""Adds to reported columns what only the controller knows: who held the remote address, and the tags of both ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from segctl_controller.flowstore.columns import SHARED, Integers, concatenated, joined_remotes
from segctl_controller.flowstore.dictionary import NONE, Dictionary
from segctl_controller.flowstore.lookup import Lookup
from segctl_controller.flowstore.records import LARGEST_COUNT, MINUTE_US, FlowReport

NAMES_A_HOST = 5_000
"""Names of workloads and rules that one host may bring up, since the controller started. Nobody knows which names its
policies had, so a lie cannot be told from the truth; but it is not stored for ever."""
PROCESSES_A_HOST = 2_000
"""Identities of processes, likewise. Beyond it they are stored as unknown: their flows are true all the same."""
REFUSED = -1
MOST_KNOWN = 200_000
"""Addresses, and services of peers, that are remembered until the fleet changes."""
LISTENERS_SECONDS = 10.0
"""After which it is asked again who listens: hosts tell that without a change of the fleet's revision."""


class Ends(Protocol):
    """The fleet as it is now. Asked from the thread of the flow store."""

    @property
    def revision(self) -> int:
        """Grows with every change of membership, tags and addresses."""

    def tags(self, host: str) -> str:
        """`key=value,key=value`, sorted; empty for a host that is not enrolled, too."""

    def holder(self, remote: bytes) -> str:
        """The enrolled host with this address (16 bytes), or empty."""

    def listener(self, host: str, protocol: int, port: int) -> str:
        """The workload that listens there by the host's facts; empty when that is not known."""


class Stamper:
    def __init__(self, names: Dictionary, groups: Dictionary, ends: Ends) -> None:
        self._names = names
        self._groups = groups
        self._ends = ends
        self._brought: Counter[str] = Counter()
        self._brought_processes: Counter[str] = Counter()
        self._revision = -1
        self._asked_at = 0.0
        self._peers = Lookup(self._ask_peers, 2, np.empty(0, dtype="S16"), MOST_KNOWN)
        self._listeners = Lookup(self._ask_listeners, 1, np.empty(0, dtype=np.int64), MOST_KNOWN)

    def stamped(self, reports: Sequence[FlowReport]) -> tuple[dict[str, Integers], Integers, list[int]]:
        """The rows of all reports by column, the index of each row's report, and how many flows of each report are in
        no row, because their names were refused."""
        self._forget_what_changed()
        self._learn(reports)
        groups = [self._group(report.host) for report in reports]
        self._groups.add(groups)
        columns = [report.columns for report in reports]
        lengths = [len(one) for one in columns]
        rows = {name: concatenated(columns, name) for name in SHARED}
        rows["host"] = np.repeat(_array(self._names.number(report.host) for report in reports), lengths)
        rows["tags"] = np.repeat(_array(self._groups.number(group) for group in groups), lengths)
        rows["workload"] = np.concatenate([self._numbers(one.workloads)[one.workload] for one in columns])
        rows["rule"] = np.concatenate([self._numbers(one.rules)[one.rule] for one in columns])
        rows["process"] = np.concatenate([self._numbers(one.processes, NONE)[one.process] for one in columns])
        rows["minute"] = rows["last_us"] // MINUTE_US
        rows["folded"] = np.zeros(len(rows["minute"]), dtype=np.int64)
        self._add_peers(rows)
        return self._without_refused(rows, np.repeat(np.arange(len(reports)), lengths), len(reports))

    def _forget_what_changed(self) -> None:
        revision, now = self._ends.revision, time.monotonic()
        if revision != self._revision:
            self._peers.forget()
        if revision != self._revision or now - self._asked_at > LISTENERS_SECONDS:
            self._listeners.forget()
            self._asked_at = now
        self._revision = revision

    def _without_refused(
        self, rows: dict[str, Integers], report: Integers, reports: int
    ) -> tuple[dict[str, Integers], Integers, list[int]]:
        refused = (rows["workload"] == REFUSED) | (rows["rule"] == REFUSED)
        if not refused.any():
            return rows, report, [0] * reports
        told = rows["flows"].astype(np.float64)  # a sum of counts can be wider than 64 bits
        lost = [min(int(told[refused & (report == at)].sum()), LARGEST_COUNT) for at in range(reports)]
        return {name: column[~refused] for name, column in rows.items()}, report[~refused], lost

    def _learn(self, reports: Sequence[FlowReport]) -> None:
        """Store names that are new, so that rows can have their numbers."""
        fresh = {report.host for report in reports}
        for report in reports:
            new = {n for n in (*report.columns.workloads, *report.columns.rules) if n and n not in self._names}
            if new - fresh and self._brought[report.host] + len(new) <= NAMES_A_HOST:
                self._brought[report.host] += len(new)
                fresh |= new
            processes = {p for p in report.columns.processes if p and p not in self._names}
            if processes - fresh and self._brought_processes[report.host] + len(processes) <= PROCESSES_A_HOST:
                self._brought_processes[report.host] += len(processes)
                fresh |= processes
        self._names.add(fresh)

    def _numbers(self, names: Sequence[str], otherwise: int = REFUSED) -> Integers:
        known = self._names
        return _array(NONE if not name else known.number(name) if name in known else otherwise for name in names)

    def _group(self, host: str) -> str:
        """What a tag group is called in its dictionary, where the empty text means no group."""
        return self._ends.tags(host) or NO_TAGS

    def _add_peers(self, rows: dict[str, Integers]) -> None:
        found = self._peers.of(joined_remotes(rows["remote_high"], rows["remote_low"]))
        rows["peer"], rows["peer_tags"] = np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1])
        listeners = np.zeros(len(found), dtype=np.int64)
        # What comes in was opened by a process that nobody listens for.
        out = np.flatnonzero((rows["ingress"] == 0) & (rows["peer"] != NONE))
        places = (rows["peer"][out] << 24) | (rows["protocol"][out] << 16) | rows["port"][out]
        listeners[out] = self._listeners.of(places)[:, 0]
        rows["peer_workload"] = listeners

    def _ask_peers(self, remotes: list[bytes]) -> list[tuple[int, ...]]:
        """(peer, tag group) of each; numpy took the zeroes from their ends."""
        hosts = [self._ends.holder(remote.ljust(16, b"\0")) for remote in remotes]
        tags = {host: self._group(host) for host in set(hosts) if host}
        self._names.add(tags)
        self._groups.add(tags.values())
        return [(self._names.number(host), self._groups.number(tags[host])) if host else (NONE, NONE) for host in hosts]

    def _ask_listeners(self, places: list[int]) -> list[tuple[int, ...]]:
        """The workload that listens at each peer << 24 | protocol << 16 | port."""
        text = self._names.text
        names = [self._ends.listener(text(p >> 24), (p >> 16) & 0xFF, p & 0xFFFF) for p in places]
        self._names.add(name for name in names if name)
        return [(number,) for number in self._numbers(names).tolist()]


NO_TAGS = "-"
"""The group of hosts without tags: no tag is called so."""


def _array(numbers: object) -> Integers:
    return np.fromiter(numbers, dtype=np.int64)  # type: ignore[call-overload, no-any-return]
