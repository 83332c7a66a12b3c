"""SqlFlowStore: the flow store in SQL, on DuckDB or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from segctl.errors import StateError
from segctl.model.processes import is_called, is_identity
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import insert

from segctl_controller.flowstore import connections, mapping, queries
from segctl_controller.flowstore.claiming import Claims, claimed
from segctl_controller.flowstore.columns import joined_remote, split_remote
from segctl_controller.flowstore.database import Database, Work
from segctl_controller.flowstore.dictionary import NONE, Dictionary
from segctl_controller.flowstore.draftrows import DraftRows
from segctl_controller.flowstore.places import Places
from segctl_controller.flowstore.protocol import Keys
from segctl_controller.flowstore.records import (
    HOUR_US,
    LARGEST_COUNT,
    MAPPED,
    MINUTE_US,
    EndFilter,
    FarEnd,
    FlowFilter,
    FlowKey,
    FlowLimits,
    FlowRecord,
    FlowReport,
    FlowSize,
    FlowVerdict,
    KindRow,
    MapFilter,
    MapRow,
    Observation,
    ObservedEnd,
    OtherEnd,
    ProcessRow,
    Talker,
    UseRow,
)
from segctl_controller.flowstore.retention import AN_HOUR, Retention, lose
from segctl_controller.flowstore.stamping import NO_TAGS, Ends, Stamper
from segctl_controller.flowstore.tables import (
    CHANGES,
    SCHEMA,
    VERSION,
    cursors,
    losses,
    meta,
    names,
    rows,
    rule_days,
    tag_groups,
)
from segctl_controller.store.conninfo import Conninfo

Merged = tuple[dict[int, int], dict[int, str | None]]


class SqlFlowStore:
    """Implements segctl_controller.flowstore.protocol.FlowStore."""

    def __init__(self, database: Database, ends: Ends, limits: FlowLimits | None = None) -> None:
        """Raises StateError for a database that is newer than this code."""
        self._database = database
        database.prepare(SCHEMA)
        with database.transaction() as work:
            work.run(insert(meta).values(name="version", value=VERSION).on_conflict_do_nothing())
            [(version,)] = work.rows(select(meta.c.value).where(meta.c.name == "version"))
            for number in range(version + 1, VERSION + 1):
                work.run(sql(CHANGES[number]))
                work.run(update(meta).where(meta.c.name == "version").values(value=number))
        if version > VERSION:
            raise StateError(
                f"the flow store has version {version} of its tables, and this segctl-controller knows {VERSION}: "
                "install the newer one again"
            )
        self._names = Dictionary(database, names)
        self._groups = Dictionary(database, tag_groups)
        self._stamper = Stamper(self._names, self._groups, ends)
        self._retention = Retention(database, limits or FlowLimits())
        self._merged: tuple[frozenset[str] | None, int, Merged] = (None, -1, ({}, {}))
        self._places = Places(database, self._names)

    def close(self) -> None:
        self._database.close()

    # What changes it

    def add(self, reports: Sequence[FlowReport]) -> tuple[bool, ...]:
        stamped, which, refused = self._stamper.stamped(reports)
        with self._database.transaction() as work:
            fresh, places = self._places.look(work, reports)
            if not all(fresh):
                taken = np.array(fresh)[which]
                stamped = {name: column[taken] for name, column in stamped.items()}
            if len(stamped["minute"]):
                work.append(rows, stamped)
            self._lose(work, reports, fresh, refused)
            self._places.move(work, places)
        self._places.moved(places)
        self._retention.added(len(stamped["minute"]))
        return tuple(fresh)

    def _lose(self, work: Work, reports: Sequence[FlowReport], fresh: Sequence[bool], refused: Sequence[int]) -> None:
        lost: dict[tuple[int, int], int] = {}
        for report, new, more in zip(reports, fresh, refused, strict=True):
            if new and report.lost + more:
                key = (self._names.number(report.host), report.at_us // HOUR_US)
                lost[key] = min(lost.get(key, 0) + report.lost + more, LARGEST_COUNT)
        lose(work, lost)

    def forget(self, host: str) -> None:
        number = self._names.find(host)
        if number is None:
            return
        with self._database.transaction() as work:
            for table in (rows, losses, cursors):
                work.run(delete(table).where(table.c.host == number))
        self._places.forget(host)

    def hosts(self) -> frozenset[str]:
        with self._database.reading() as work:
            return self._places.hosts(work)

    def keep(self, now_us: int) -> None:
        self._retention.keep(now_us)

    @property
    def due(self) -> bool:
        return self._retention.due

    # Questions

    def flows(self, wanted: FlowFilter) -> tuple[FlowRecord, ...]:
        asked = {name: self._names.find(name) for name in (wanted.host, wanted.workload, wanted.rule) if name}
        if None in asked.values():
            return ()
        host, workload, rule = (asked.get(name) for name in (wanted.host, wanted.workload, wanted.rule))
        query = self._of_ends(queries.search(wanted, host, workload, rule, self._called(wanted.process)), wanted)
        with self._database.reading() as work:
            found = work.rows(query) if query is not None else []
        return tuple(self._record(row) for row in reversed(found))

    def _called(self, process: str) -> list[int] | None:
        """None: any."""
        if not process:
            return None
        return [n for n, known in self._names.all().items() if is_identity(known) and is_called(known, process)]

    def _record(self, row: tuple[int, ...]) -> FlowRecord:
        (
            host,
            workload,
            process,
            ingress,
            high,
            low,
            protocol,
            port,
            rule,
            verdict,
            peer,
            *sums,
            first,
            last,
            peer_workload,
        ) = row
        text = self._names.text
        remote = joined_remote(high, low)
        ends = (text(host), text(workload), bool(ingress), remote)
        key = FlowKey(*ends, protocol, port, text(rule), FlowVerdict(verdict), text(process))
        flows, sent, received = sums
        return FlowRecord(key, flows, sent, received, first, last, text(peer), text(peer_workload))

    def lost(self, host: str, since_us: int) -> int:
        number = self._names.find(host) if host else None
        if host and number is None:
            return 0
        with self._database.reading() as work:
            return int(work.rows(queries.lost(number, since_us))[0][0])

    def far_ends(self, asked: Sequence[FarEnd]) -> tuple[OtherEnd, ...]:
        hosts = [number for name in {one.host for one in asked} if (number := self._names.find(name)) is not None]
        remotes = sorted({remote for one in asked for remote in one.remotes})
        if not hosts or not remotes:
            return (OtherEnd(),) * len(asked)
        moments = [one.last_us for one in asked]
        told: dict[tuple[object, ...], set[tuple[int, int]]] = {}
        with self._database.reading() as work:
            for *place, workload, process, hour in work.rows(
                queries.far_ends(hosts, remotes, min(moments), max(moments))
            ):
                told.setdefault((*place, hour), set()).add((workload, process))
        return tuple(self._far_end(one, told) for one in asked)

    def _far_end(self, one: FarEnd, told: dict[tuple[object, ...], set[tuple[int, int]]]) -> OtherEnd:
        hour = one.last_us // HOUR_US * queries.MINUTES
        found: set[tuple[int, int]] = set()
        for remote in one.remotes:
            high, low = split_remote(remote)
            place = (self._names.find(one.host), int(one.ingress), high, low, one.protocol, one.port)
            for near in (hour - queries.MINUTES, hour, hour + queries.MINUTES):
                found |= told.get((*place, near), set())
        workloads, processes = {workload for workload, _ in found}, {process for _, process in found if process}
        return OtherEnd(*(self._names.text(one.pop()) if len(one) == 1 else "" for one in (workloads, processes)))

    def talkers(self, since_us: int, until_us: int, limit: int) -> tuple[Talker, ...]:
        with self._database.reading() as work:
            found = work.rows(queries.talkers(since_us, until_us, limit))
        return tuple(
            Talker(self._names.text(host), self._names.text(workload), *sums) for host, workload, *sums in found
        )

    def map(self, wanted: MapFilter) -> tuple[MapRow, ...]:
        groups, shown = self._merged_groups(wanted.keys)
        asked = self._of_ends(mapping.told(wanted), wanted)
        if asked is None:
            return ()
        with self._database.reading() as work:
            found = work.rows(mapping.mapped(asked, groups, wanted.limit))
        return tuple(self._map_row(row, shown, wanted) for row in found)

    def _of_ends(self, query: Select[Any], wanted: MapFilter | FlowFilter) -> Select[Any] | None:
        """None: no row has a name that is asked for."""
        source, destination = (self._numbered(end) if end else None for end in (wanted.source, wanted.destination))
        if any(end and len(end.names) < len(_names_in(end.wanted)) for end in (source, destination)):
            return None
        return mapping.of_ends(query, source, destination, wanted.starts)

    def _numbered(self, end: EndFilter) -> mapping.NumberedEnd:
        names = {text: number for text in _names_in(end) if (number := self._names.find(text)) is not None}
        groups = [number for number, text in self._groups.all().items() if end.carried(text)]
        return mapping.NumberedEnd(end, [NONE] if end.outside else groups, names)

    def _map_row(self, row: tuple[int, ...], shown: dict[int, str | None], wanted: MapFilter) -> MapRow:
        tags, workload, ingress, peer_tags, peer_workload, place, protocol, port, *more = row
        high, low, host, peer, process, span, flows, would_deny, observed, fresh, octets, last = more
        text = self._names.text
        return MapRow(
            shown[tags] or "",
            text(workload),
            bool(ingress),
            shown[peer_tags],
            text(peer_workload),
            joined_remote(*wanted.starts[place]) if place >= 0 else b"",
            protocol,
            port,
            flows,
            would_deny,
            observed,
            fresh,
            octets,
            last,
            text(host),
            text(peer),
            joined_remote(high, low) if wanted.blocks and place >= 0 else b"",
            span * MINUTE_US,
            text(process),
        )

    def process_map(self, since_us: int, until_us: int, limit: int, keys: Keys = None) -> tuple[ProcessRow, ...]:
        groups, shown = self._merged_groups(keys)
        with self._database.reading() as work:
            found = work.rows(connections.mapped_by_process(since_us, until_us, limit, groups))
        text = self._names.text
        return tuple(
            ProcessRow(shown[tags] or "", shown[peer_tags], bool(ingress), *rest, *map(text, processes))
            for tags, peer_tags, ingress, *rest, processes in ((*row[:-2], row[-2:]) for row in found)
        )

    def observations(self, since_us: int, until_us: int, limit: int) -> tuple[Observation, ...]:
        _, shown = self._merged_groups(None)
        with self._database.reading() as work:
            found = work.rows(connections.observations(since_us, until_us, limit))
        return tuple(self._observation(row, shown) for row in found)

    def outside(self, since_us: int, until_us: int, limit: int) -> tuple[bytes, ...]:
        with self._database.reading() as work:
            found = work.rows(queries.outside(since_us, until_us, limit))
        return tuple(joined_remote(high, low) for high, low in found)

    def _observation(self, row: tuple[int, ...], shown: dict[int, str | None]) -> Observation:
        ingress, tags, workload, process, peer_tags, peer_workload, peer_process, protocol, port, *rest = row
        high, low, addresses, hosts, peers, *measures = rest
        text = self._names.text
        near = ObservedEnd(shown[tags] or "", text(workload), text(process), hosts=hosts)
        if peer_tags:
            far = ObservedEnd(shown[peer_tags], text(peer_workload), text(peer_process), hosts=peers)
        else:
            remote = joined_remote(high, low)
            several = 120 if remote.startswith(MAPPED) else 64
            far = ObservedEnd(None, "", "", remote, 128 if addresses == 1 else several, addresses)
        ends = (far, near) if ingress else (near, far)
        return Observation(*ends, protocol, port, *measures)

    def judged_alike(
        self, since_us: int, until_us: int, limit: int, keys: Keys = None, claims: Claims | None = None
    ) -> DraftRows:
        groups, shown = self._merged_groups(keys)
        with self._database.reading() as work:
            now = claimed(work, self._names, claims, self._groups.all(), since_us, until_us)
            found = work.columns(queries.judged_alike(since_us, until_us, limit, groups, now.into))
        _, workload, *_, host, peer = found
        return DraftRows(found, shown, {**self._names.texts([*workload, *host, *peer]), **now.names}, now.before)

    def kinds(
        self,
        since_us: int,
        until_us: int,
        limit: int,
        keys: Keys = None,
        marks: Sequence[int] = (),
        claims: Claims | None = None,
    ) -> tuple[KindRow, ...]:
        groups, shown = self._merged_groups(keys)
        with self._database.reading() as work:
            now = claimed(work, self._names, claims, self._groups.all(), since_us, until_us)
            found = work.columns(queries.kinds(since_us, until_us, limit, groups, now.into, marks))
        *alike, process, days = found[: len(found) - len(marks)]
        _, workload, *_, host, peer = alike
        names = {**self._names.texts([*workload, *host, *peer, *process]), **now.names}
        rows, since = DraftRows(alike, shown, names), zip(*found[len(alike) + 2 :], strict=True)
        flows = list(since) if marks else [()] * len(rows)
        return tuple(map(KindRow, rows, flows, days, map(names.__getitem__, process)))

    def used(
        self, since_us: int, until_us: int, limit: int, rules: Collection[str], keys: Keys = None
    ) -> tuple[UseRow, ...]:
        numbers = [number for rule in rules if (number := self._names.find(rule)) is not None]
        groups, shown = self._merged_groups(keys)
        with self._database.reading() as work:
            found = work.rows(queries.used(since_us, until_us, limit, numbers, groups)) if numbers else []
        text = self._names.text
        return tuple(
            UseRow(text(rule), shown[tags] or "", text(own), bool(ingress), shown[far], text(peer), *rest)
            for rule, tags, own, ingress, far, peer, *rest in found
        )

    def rule_days(self) -> Mapping[str, frozenset[int]]:
        kept = select(rule_days.c.rule, func.array_agg(rule_days.c.day)).group_by(rule_days.c.rule)
        with self._database.reading() as work:
            days = {rule: set(found) for rule, found in work.rows(kept)}
            fresh = work.rows(queries.days_of_rules(rows.c.folded < AN_HOUR))
        for rule, day in fresh:
            days.setdefault(rule, set()).add(day)
        return {self._names.text(rule): frozenset(found) for rule, found in days.items()}

    def _merged_groups(self, keys: Keys) -> Merged:
        """By tag group the one that stands for it; and the tags of those, as far as they count. 0, no group, is itself:
        None. Kept for the next question with these keys."""
        every, asked = self._groups.all(), None if keys is None else frozenset(keys)
        known, number, merged = self._merged
        if known != asked or number != len(every):
            merged = _merged(every, asked)
            self._merged = (asked, len(every), merged)
        return merged

    def size(self) -> FlowSize:
        with self._database.reading() as work:
            [(number,)] = work.rows(select(func.count()).select_from(rows))
            return FlowSize(number, self._database.bytes(work))


def _names_in(end: EndFilter) -> set[str]:
    return {end.host, end.workload, end.process} - {""}


def _merged(every: dict[int, str], keys: frozenset[str] | None) -> Merged:
    groups, first, shown = {NONE: NONE}, dict[str, int](), dict[int, str | None]({NONE: None})
    for number, text in every.items():
        pairs = [] if text == NO_TAGS else text.split(",")
        tags = ",".join([pair for pair in pairs if keys is None or pair.partition("=")[0] in keys])
        groups[number] = first.setdefault(tags, number)
        shown[groups[number]] = tags
    return groups, shown


def flow_store_on(where: Path | Conninfo, ends: Ends, limits: FlowLimits | None = None) -> SqlFlowStore:
    """In a file of DuckDB, or in a PostgreSQL database. Raises StateError."""
    if isinstance(where, Path):
        from segctl_controller.flowstore.duck import DuckDatabase

        return SqlFlowStore(DuckDatabase(where), ends, limits)
    from segctl_controller.flowstore.postgres import PostgresDatabase  # its driver is an extra

    return SqlFlowStore(PostgresDatabase(where), ends, limits)
