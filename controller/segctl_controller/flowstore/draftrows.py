"""Kinds of flows by column: of ten thousands hardly any is ever looked at as a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import overload

from segctl_controller.flowstore.columns import joined_remote, split_remote
from segctl_controller.flowstore.dictionary import NONE
from segctl_controller.flowstore.records import DraftRow


class DraftRows(Sequence[DraftRow]):
    """`groups` has the tags of the numbers in `tags` and `peer_tags` (of NONE: None), `names` the texts of the numbers
    in `workload`, `host` and `peer`. `high` and `low` are halves of addresses. `before` has those of the workloads that
    are others by the policy before."""

    def __init__(
        self,
        columns: Iterable[list[int]],
        groups: Mapping[int, str | None],
        names: Mapping[int, str],
        before: Mapping[int, str] | None = None,
    ) -> None:
        """Raises ValueError for another number of columns."""
        (
            self.tags,
            self.workload,
            self.ingress,
            self.peer_tags,
            self.high,
            self.low,
            self.protocol,
            self.port,
            self.flows,
            self.last_us,
            self.host,
            self.peer,
        ) = columns
        self.groups = groups
        self.names = names
        self._before = before or {}

    @classmethod
    def of(cls, rows: Iterable[DraftRow]) -> DraftRows:
        groups: dict[str | None, int] = {None: NONE}
        names: dict[str, int] = {}
        columns: list[list[int]] = [[] for _ in range(12)]
        for row in rows:
            tags, peer_tags = (groups.setdefault(text, len(groups)) for text in (row.tags, row.peer_tags))
            workload, host, peer = (names.setdefault(text, len(names)) for text in (row.workload, row.host, row.peer))
            high, low = split_remote(row.remote)
            numbers = (row.protocol, row.port, row.flows, row.last_us, host, peer)
            for column, value in zip(
                columns, (tags, workload, int(row.ingress), peer_tags, high, low, *numbers), strict=True
            ):
                column.append(value)
        return cls(columns, {at: text for text, at in groups.items()}, {at: text for text, at in names.items()})

    def __len__(self) -> int:
        return len(self.tags)

    @overload
    def __getitem__(self, at: int) -> DraftRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[DraftRow]: ...
    def __getitem__(self, at: int | slice) -> DraftRow | list[DraftRow]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        peer_tags = self.groups[self.peer_tags[at]]
        return DraftRow(
            self.groups[self.tags[at]] or "",
            self.names[self.workload[at]],
            bool(self.ingress[at]),
            peer_tags,
            self.remote(at) if peer_tags is None else b"",
            self.protocol[at],
            self.port[at],
            self.flows[at],
            self.last_us[at],
            self.names[self.host[at]],
            self.names[self.peer[at]],
            self._before.get(self.workload[at]),
        )

    def remote(self, at: int) -> bytes:
        """16 bytes; nothing but zeroes where a host held it."""
        return joined_remote(self.high[at], self.low[at])
