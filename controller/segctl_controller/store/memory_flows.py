"""Flows and hits of MemoryStore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from segctl_controller.store.flows import DAY_US, HOUR_US, LARGEST_COUNT, SLACK, hour_of
from segctl_controller.store.records import (
    Batch,
    FarEnd,
    FlowFilter,
    FlowKey,
    FlowRecord,
    HitRecord,
    Limits,
    RuleUse,
)


class MemoryFlows:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unchecked = limits.flows
        self._rows: dict[tuple[int, FlowKey], FlowRecord] = {}
        self._lost: Counter[tuple[str, int]] = Counter()
        self._hits: dict[tuple[str, str, bool], HitRecord] = {}
        self._before: Counter[tuple[str, str, bool]] = Counter()

    def add(self, batch: Batch) -> None:
        for flow in batch.flows:
            place = (hour_of(flow.last_us), flow.key)
            before = self._rows.get(place)
            self._rows[place] = _merged(before, flow) if before else flow
        self._lost[batch.host, hour_of(batch.at_us)] += batch.flows_lost
        oldest = hour_of(batch.at_us - self._limits.flow_days * DAY_US)
        self._rows = {place: row for place, row in self._rows.items() if place[0] >= oldest}
        self._lost = Counter({place: lost for place, lost in self._lost.items() if place[1] >= oldest})
        self._unchecked += len(batch.flows)
        if self._unchecked >= max(1, self._limits.flows // SLACK):
            self._prune()
            self._unchecked = 0
        for hit in batch.hits:
            key = (hit.host, hit.rule, hit.ingress)
            told = self._hits.get(key, hit)
            self._hits[key] = replace(hit, count=max(told.count, hit.count), last_us=max(told.last_us, hit.last_us))

    def _prune(self) -> None:
        while len(self._rows) > self._limits.flows:
            counts = Counter(key.host for _, key in self._rows)
            most = min(counts, key=lambda host: (-counts[host], host))
            oldest = min(hour for hour, key in self._rows if key.host == most)
            gone = [place for place in self._rows if place[0] == oldest and place[1].host == most]
            self._lost[most, oldest] += sum(self._rows.pop(place).flows for place in gone)

    def begin_anew(self, host: str) -> None:
        for key, hit in self._hits.items():
            if hit.host == host:
                self._before[key] += hit.count
                self._hits[key] = replace(hit, count=0)

    def forget(self, host: str) -> None:
        self._rows = {place: row for place, row in self._rows.items() if place[1].host != host}
        self._lost = Counter({place: lost for place, lost in self._lost.items() if place[0] != host})

    def forget_hits(self, host: str) -> None:
        self._hits = {key: hit for key, hit in self._hits.items() if hit.host != host}
        self._before = Counter({key: count for key, count in self._before.items() if key[0] != host})

    def sums(self, wanted: FlowFilter) -> tuple[FlowRecord, ...]:
        found: dict[FlowKey, FlowRecord] = {}
        for (_, key), row in tuple(self._rows.items()):
            asked = ((wanted.host, key.host), (wanted.workload, key.workload), (wanted.rule, key.rule))
            if row.last_us >= wanted.since_us and all(want in ("", have) for want, have in asked):
                found[key] = _merged(found[key], row) if key in found else row
        return tuple(sorted(found.values(), key=lambda row: row.last_us)[-wanted.limit :])

    def lost(self, host: str, since_us: int) -> int:
        told = (lost for (name, hour), lost in self._lost.items() if host in ("", name) and hour > since_us - HOUR_US)
        return min(sum(told), LARGEST_COUNT)

    def far_ends(self, asked: Sequence[FarEnd]) -> tuple[str, ...]:
        return tuple(self._far_end(one) for one in asked)

    def _far_end(self, one: FarEnd) -> str:
        names = {
            key.workload
            for hour, key in self._rows
            if abs(hour - hour_of(one.last_us)) <= HOUR_US
            and (key.host, key.ingress, key.protocol, key.port) == (one.host, one.ingress, one.protocol, one.port)
            and key.remote in one.remotes
        }
        return names.pop() if len(names) == 1 else ""

    def rules_hit(self, host: str) -> frozenset[str]:
        return frozenset(rule for name, rule, _ in self._hits if name == host)

    def rule_use(self, rule: str) -> tuple[RuleUse, ...]:
        counts = {key: hit.count + self._before[key] for key, hit in self._hits.items()}
        keys = [key for key, count in counts.items() if count and rule in ("", key[1])]
        return tuple(
            RuleUse(
                name,
                min(sum(counts[key] for key in keys if key[1] == name and not key[2]), LARGEST_COUNT),
                min(sum(counts[key] for key in keys if key[1] == name and key[2]), LARGEST_COUNT),
                max(self._hits[key].last_us for key in keys if key[1] == name),
                len({key[0] for key in keys if key[1] == name}),
            )
            for name in sorted({key[1] for key in keys})
        )


def _merged(one: FlowRecord, other: FlowRecord) -> FlowRecord:
    return FlowRecord(
        one.key,
        min(one.flows + other.flows, LARGEST_COUNT),
        min(one.bytes_sent + other.bytes_sent, LARGEST_COUNT),
        min(one.bytes_received + other.bytes_received, LARGEST_COUNT),
        min(one.first_us, other.first_us),
        max(one.last_us, other.last_us),
    )
