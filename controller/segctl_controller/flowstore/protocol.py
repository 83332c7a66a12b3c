"""The flow store's contract. Both engines pass tests/contract/test_flowstore.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from segctl_controller.flowstore.claiming import Claims
from segctl_controller.flowstore.draftrows import DraftRows
from segctl_controller.flowstore.records import (
    FarEnd,
    FlowFilter,
    FlowRecord,
    FlowReport,
    FlowSize,
    KindRow,
    MapFilter,
    MapRow,
    Observation,
    OtherEnd,
    ProcessRow,
    Talker,
    UseRow,
)

Keys = Collection[str] | None


class FlowStore(Protocol):
    """Synchronous. What changes it is called from one thread, questions from one other. Raises StoreFullError when the
    disk is full (nothing of the call is stored) and StateError when the database cannot be used."""

    def add(self, reports: Sequence[FlowReport]) -> tuple[bool, ...]:
        """Store them in one transaction, durably, with the tag groups of now; for each whether it is new. Of one host
        and epoch, a sequence is stored once, and none that is below another one."""

    def forget(self, host: str) -> None:
        """The host left the fleet, or another machine has its name: all that it told goes."""

    def hosts(self) -> frozenset[str]:
        """Those that told anything and were not forgotten."""

    def keep(self, now_us: int) -> None:
        """Fold minutes and hours, and drop what is too old or too much: whole hours, those of the hosts with most rows.
        What is dropped before its age counts as lost."""

    @property
    def due(self) -> bool:
        """Whether so much came in since the last `keep` that the next one should not wait."""

    def flows(self, wanted: FlowFilter) -> tuple[FlowRecord, ...]:
        """Summed over the time asked for; the newest, oldest first."""

    def lost(self, host: str, since_us: int) -> int:
        """How many flows are in no row: their host could not tell them, or they were too many. `host` empty: of all."""

    def far_ends(self, asked: Sequence[FarEnd]) -> tuple[OtherEnd, ...]:
        """Who each was in about that hour."""

    def talkers(self, since_us: int, until_us: int, limit: int) -> tuple[Talker, ...]:
        """Those with most bytes, the largest first."""

    def map(self, wanted: MapFilter) -> tuple[MapRow, ...]:
        """Between tag groups, most flows first."""

    def process_map(self, since_us: int, until_us: int, limit: int, keys: Keys = None) -> tuple[ProcessRow, ...]:
        """Likewise, by the processes of both ends too. What both ends told of is one row, of the end that opened the
        connection; rows with `ingress` are of those where that end is no host of ours, or told nothing."""

    def observations(self, since_us: int, until_us: int, limit: int) -> tuple[Observation, ...]:
        """What rules could be made of: by tag group, workload, process and service of both ends, those that most hosts
        have first."""

    def judged_alike(
        self, since_us: int, until_us: int, limit: int, keys: Keys = None, claims: Claims | None = None
    ) -> DraftRows:
        """What a policy that asks for tags of `keys` has to decide once each, most flows first. With `claims`, flows
        are of the workload that has their process today, where the one that was told is not declared."""

    def kinds(
        self,
        since_us: int,
        until_us: int,
        limit: int,
        keys: Keys = None,
        marks: Sequence[int] = (),
        claims: Claims | None = None,
    ) -> tuple[KindRow, ...]:
        """Like `judged_alike`, with the days they came on; `since_us` is at most 62 days before `until_us`."""

    def used(
        self, since_us: int, until_us: int, limit: int, rules: Collection[str], keys: Keys = None
    ) -> tuple[UseRow, ...]:
        """What each of these rules permitted, most flows first. Of the tags, only those with one of `keys` count; None:
        all."""

    def rule_days(self) -> Mapping[str, frozenset[int]]:
        """The days since 1970 (UTC) on which each rule permitted something, also when its flows are gone."""

    def outside(self, since_us: int, until_us: int, limit: int) -> tuple[bytes, ...]:
        """The addresses (16 bytes) that no enrolled host held when flows to or from them were told."""

    def size(self) -> FlowSize: ...

    def close(self) -> None: ...
