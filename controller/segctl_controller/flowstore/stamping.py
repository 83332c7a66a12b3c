"""Adds to reported columns what only the controller knows: who held the remote address, and the tags of both ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segctl_controller.flowstore.columns import SHARED, Integers, concatenated, joined_remotes
from segctl_controller.flowstore.dictionary import NONE, Dictionary
from segctl_controller.flowstore.records import MINUTE_US, FlowReport

NAMES_A_HOST = 5_000
"""Names of workloads and rules that one host may bring up, since the controller started. Nobody knows which names its
policies had, so a lie cannot be told from the truth; but it is not stored for ever."""
REFUSED = -1
MOST_CACHED = 200_000


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
        self._revision = -1
        self._peers: dict[bytes, tuple[int, int, str]] = {}

    def stamped(self, reports: Sequence[FlowReport]) -> tuple[dict[str, Integers], Integers, list[int]]:
        """The rows of all reports by column, the index of each row's report, and how many flows of each report are in
        no row, because their names were refused."""
        if self._ends.revision != self._revision or len(self._peers) > MOST_CACHED:
            self._revision = self._ends.revision
            self._peers.clear()
        self._learn(reports)
        columns = [report.columns for report in reports]
        lengths = [len(one) for one in columns]
        rows = {name: concatenated(columns, name) for name in SHARED}
        rows["host"] = np.repeat(_array(self._names.number(report.host) for report in reports), lengths)
        tags = [self._groups.number(self._ends_tags(report.host)) for report in reports]
        rows["tags"] = np.repeat(_array(tags), lengths)
        rows["workload"] = np.concatenate([self._numbers(one.workloads)[one.workload] for one in columns])
        rows["rule"] = np.concatenate([self._numbers(one.rules)[one.rule] for one in columns])
        rows["minute"] = rows["last_us"] // MINUTE_US
        rows["folded"] = np.zeros(len(rows["minute"]), dtype=np.int64)
        self._add_peers(rows)
        return self._without_refused(rows, np.repeat(np.arange(len(reports)), lengths), len(reports))

    def _without_refused(
        self, rows: dict[str, Integers], report: Integers, reports: int
    ) -> tuple[dict[str, Integers], Integers, list[int]]:
        refused = (rows["workload"] == REFUSED) | (rows["rule"] == REFUSED)
        if not refused.any():
            return rows, report, [0] * reports
        lost = [int(rows["flows"][refused & (report == at)].sum()) for at in range(reports)]
        return {name: column[~refused] for name, column in rows.items()}, report[~refused], lost

    def _learn(self, reports: Sequence[FlowReport]) -> None:
        """Store names and tag groups that are new, so that rows can have their numbers."""
        fresh = {report.host for report in reports}
        for report in reports:
            new = {n for n in (*report.columns.workloads, *report.columns.rules) if n and n not in self._names}
            if new - fresh and self._brought[report.host] + len(new) <= NAMES_A_HOST:
                self._brought[report.host] += len(new)
                fresh |= new
        self._names.add(fresh)
        self._groups.add(self._ends_tags(report.host) for report in reports)

    def _numbers(self, names: Sequence[str]) -> Integers:
        known = self._names
        return _array(NONE if not name else known.number(name) if name in known else REFUSED for name in names)

    def _ends_tags(self, host: str) -> str:
        """What a tag group is called in its dictionary, where the empty text means no group."""
        return self._ends.tags(host) or NO_TAGS

    def _add_peers(self, rows: dict[str, Integers]) -> None:
        remotes, which = np.unique(joined_remotes(rows["remote_high"], rows["remote_low"]), return_inverse=True)
        found = [self._peer(remote.ljust(16, b"\0")) for remote in remotes.tolist()]
        rows["peer"] = _array(number for number, _, _ in found)[which]
        rows["peer_tags"] = _array(group for _, group, _ in found)[which]
        rows["peer_workload"] = self._listeners(rows, [name for _, _, name in found], which)

    def _peer(self, remote: bytes) -> tuple[int, int, str]:
        known = self._peers.get(remote)
        if known is None:
            host = self._ends.holder(remote)
            known = (NONE, NONE, "")
            if host:
                self._names.add([host])
                self._groups.add([self._ends_tags(host)])
                known = (self._names.number(host), self._groups.number(self._ends_tags(host)), host)
            self._peers[remote] = known
        return known

    def _listeners(self, rows: dict[str, Integers], hosts: Sequence[str], which: NDArray[np.intp]) -> Integers:
        """Of what goes out to a host of the fleet; what comes in was opened by a process that nobody listens for."""
        listeners = np.zeros(len(which), dtype=np.int64)
        asked = np.flatnonzero((rows["ingress"] == 0) & (rows["peer"] != NONE))
        if not len(asked):
            return listeners
        places = (which[asked] << 24) | (rows["protocol"][asked] << 16) | rows["port"][asked]
        each, inverse = np.unique(places, return_inverse=True)
        names = [self._ends.listener(hosts[p >> 24], (p >> 16) & 0xFF, p & 0xFFFF) for p in each.tolist()]
        self._names.add(name for name in names if name)
        listeners[asked] = self._numbers(names)[inverse]
        return listeners


NO_TAGS = "-"
"""The group of hosts without tags: no tag is called so."""


def _array(numbers: object) -> Integers:
    return np.fromiter(numbers, dtype=np.int64)  # type: ignore[call-overload, no-any-return]
