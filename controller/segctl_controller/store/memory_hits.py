"""Hits of MemoryStore."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from segctl_controller.store.records import LARGEST_COUNT, Batch, HitRecord, RuleUse


class MemoryHits:
    def __init__(self) -> None:
        self._hits: dict[tuple[str, str, bool], HitRecord] = {}
        self._before: Counter[tuple[str, str, bool]] = Counter()

    def add(self, batch: Batch) -> None:
        for hit in batch.hits:
            key = (hit.host, hit.rule, hit.ingress)
            told = self._hits.get(key, hit)
            self._hits[key] = replace(hit, count=max(told.count, hit.count), last_us=max(told.last_us, hit.last_us))

    def begin_anew(self, host: str) -> None:
        for key, hit in self._hits.items():
            if hit.host == host:
                self._before[key] += hit.count
                self._hits[key] = replace(hit, count=0)

    def forget(self, host: str) -> None:
        self._hits = {key: hit for key, hit in self._hits.items() if hit.host != host}
        self._before = Counter({key: count for key, count in self._before.items() if key[0] != host})

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
