"""MemoryStore: the store in a process's memory, for tests that need no disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

from segctl.auditchain import GENESIS, link_hash
from segctl.errors import EnrolmentError
from segctl.model.policy import Tags

from segctl_controller.errors import AlreadyExistsError, ConflictError, NotFoundError
from segctl_controller.store.leadership import Alone
from segctl_controller.store.memory_access import MemoryAccess
from segctl_controller.store.memory_decisions import MemoryDecisions
from segctl_controller.store.memory_hits import MemoryHits
from segctl_controller.store.notices import NoNotices
from segctl_controller.store.protocol import Admit
from segctl_controller.store.records import (
    EVERY_ENTRY,
    HOUR_US,
    LARGEST_COUNT,
    Batch,
    DenialFilter,
    DenialRecord,
    Entry,
    EntryFilter,
    EventRecord,
    FactsRecord,
    GenerationRecord,
    GenerationState,
    HostRecord,
    Limits,
    OperatorRecord,
    ProofRecord,
    RuleUse,
    TokenRecord,
    of_each_key,
)
from segctl_controller.store.refusals import (
    NO_TOKEN,
    base_moved,
    no_host,
    no_operator,
    no_token,
    not_on_trial,
    on_trial,
    operator_taken,
    tags_moved,
)

Row = TypeVar("Row", DenialRecord, EventRecord)


class MemoryStore(MemoryDecisions, MemoryAccess):
    """Implements segctl_controller.store.protocol.Store."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__()
        self._limits = limits or Limits()
        self._generations: list[GenerationRecord] = []
        self._hosts: dict[str, HostRecord] = {}
        self._tokens: dict[str, TokenRecord] = {}
        self._operators: dict[str, OperatorRecord] = {}
        self._proofs: list[ProofRecord] = []
        self._denials: dict[tuple[str, str], DenialRecord] = {}
        self._next_denial = 1
        self._cursors: dict[str, tuple[str, int]] = {}
        self._told: set[tuple[str, str]] = set()
        self._losses: list[tuple[str, int, int]] = []
        self._events: list[EventRecord] = []
        self._audit: list[Entry] = []
        self._hits = MemoryHits()

    def prove_writable(self) -> None:
        return None

    def close(self) -> None:
        return

    def notices(self) -> NoNotices:
        return NoNotices()

    def leadership(self) -> Alone:
        return Alone()

    def shared(self) -> None:
        """Nobody else has it."""

    def batch(self) -> AbstractContextManager[None]:
        """Nothing here outlives the process, and each call checks before it changes anything."""
        return nullcontext()

    def add_generation(self, new: GenerationRecord, expect_base: int, entry: Entry, above: int = 0) -> GenerationRecord:
        active = self._active()
        if expect_base not in (0, active):
            raise ConflictError(base_moved(expect_base, active))
        for known in self._generations:
            if known.state is GenerationState.TRIAL:
                raise ConflictError(on_trial(known.number))
        newest = self._generations[-1].number if self._generations else 0
        stored = replace(new, number=max(newest, above) + 1)
        self._generations.append(stored)
        self.add_entry(replace(entry, subject=f"generation {stored.number}"))
        return stored

    def settle(self, number: int, state: GenerationState, why: str, entry: Entry) -> GenerationRecord:
        for at, known in enumerate(self._generations):
            if known.number == number and known.state is GenerationState.TRIAL:
                settled = self._generations[at] = replace(known, state=state, why=why)
                self.add_entry(entry)
                return settled
        raise ConflictError(not_on_trial(number))

    def _active(self) -> int:
        return max((g.number for g in self._generations if g.state is GenerationState.CONFIRMED), default=0)

    def generation(self, number: int) -> GenerationRecord | None:
        wanted = number or self._active()
        return next((g for g in self._generations if g.number == wanted), None)

    def generations(self, limit: int) -> tuple[GenerationRecord, ...]:
        return tuple(replace(g, files=()) for g in self._generations[::-1][:limit])

    def hosts(self) -> tuple[HostRecord, ...]:
        return self.hosts_named(self._hosts)

    def hosts_named(self, names: Collection[str]) -> tuple[HostRecord, ...]:
        return tuple(self._hosts[name] for name in sorted(names) if name in self._hosts)

    def enrol(self, sha256: bytes, now_us: int, admit: Admit, entry: Callable[[HostRecord], Entry]) -> HostRecord:
        token = next((t for t in self.tokens(now_us) if t.sha256 == sha256), None)
        if token is None:
            raise EnrolmentError(NO_TOKEN)
        redeemed = replace(token, uses=token.uses - 1)
        host = admit(redeemed, self._hosts.get)
        self._tokens[token.id] = redeemed
        self._forget(host.name)
        self._hits.begin_anew(host.name)
        self._hosts[host.name] = host
        self.add_entry(entry(host))
        return host

    def set_tags(self, name: str, was: Tags, tags: Tags, entry: Entry) -> None:
        if name not in self._hosts:
            raise NotFoundError(no_host(name))
        if self._hosts[name].tags != was:
            raise ConflictError(tags_moved(name))
        self._hosts[name] = replace(self._hosts[name], tags=tags)
        self.add_entry(entry)

    def set_facts(self, told: Sequence[FactsRecord]) -> None:
        for one in told:
            if one.host in self._hosts:
                self._hosts[one.host] = replace(
                    self._hosts[one.host],
                    addresses=one.addresses,
                    agent_version=one.agent_version,
                    facts=one.facts,
                    last_seen_us=one.at_us,
                )

    def seen(self, at_us: Mapping[str, int]) -> None:
        for name, at in at_us.items():
            if name in self._hosts:
                self._hosts[name] = replace(self._hosts[name], last_seen_us=at)

    def set_certificate(self, name: str, was: str, serial: str, renewal: bytes, entry: Entry | None = None) -> bool:
        if name not in self._hosts or self._hosts[name].serial != was:
            return False
        self._hosts[name] = replace(self._hosts[name], serial=serial, renewal=renewal, restored_us=0)
        if entry is not None:
            self.add_entry(entry)
        return True

    def add_told(self, host: str, identifier: str, entry: Entry) -> bool:
        if host not in self._hosts or (host, identifier) in self._told:
            return False
        self._told.add((host, identifier))
        self.add_entry(entry)
        return True

    def mark_restored(self, taken_us: int, entry: Entry) -> None:
        self._hosts = {name: replace(host, restored_us=taken_us) for name, host in self._hosts.items()}
        self._tokens.clear()
        self._web_sessions.clear()
        self.add_entry(entry)

    def remove_host(self, name: str, entry: Entry) -> None:
        if name not in self._hosts:
            raise NotFoundError(no_host(name))
        self._forget(name)
        self._hits.forget(name)
        self.add_entry(entry)

    def _forget(self, name: str) -> None:
        self._hosts.pop(name, None)
        self._cursors.pop(name, None)
        self._told = {pair for pair in self._told if pair[0] != name}
        self._denials = {key: row for key, row in self._denials.items() if row.host != name}
        self._losses = [loss for loss in self._losses if loss[0] != name]

    def add_token(self, token: TokenRecord, entry: Entry) -> None:
        self._tokens[token.id] = token
        self.add_entry(entry)

    def tokens(self, now_us: int) -> tuple[TokenRecord, ...]:
        usable = (t for t in self._tokens.values() if t.uses > 0 and t.expires_us > now_us)
        return tuple(sorted(usable, key=lambda t: t.expires_us))

    def remove_token(self, token_id: str, entry: Entry) -> None:
        if self._tokens.pop(token_id, None) is None:
            raise NotFoundError(no_token(token_id))
        self.add_entry(entry)

    def add_operator(self, operator: OperatorRecord, entry: Entry) -> None:
        if operator.name in self._operators:
            raise AlreadyExistsError(operator_taken(operator.name))
        self._operators[operator.name] = operator
        self.add_entry(entry)

    def operators(self) -> tuple[OperatorRecord, ...]:
        return tuple(self._operators[name] for name in sorted(self._operators))

    def operator(self, name: str) -> OperatorRecord | None:
        return self._operators.get(name)

    def renew_operator(self, name: str, serial: str, entry: Entry) -> None:
        if name not in self._operators:
            raise NotFoundError(no_operator(name))
        self._operators[name] = replace(self._operators[name], serial=serial)
        self.add_entry(entry)

    def remove_operator(self, name: str, entry: Entry) -> None:
        if self._operators.pop(name, None) is None:
            raise NotFoundError(no_operator(name))
        self.add_entry(entry)

    def add_proofs(self, proofs: Sequence[ProofRecord]) -> None:
        for proof in proofs:
            last = next(iter(self.proofs(proof.host, 1)), None)
            if last is None or replace(last, at_us=proof.at_us) != proof:
                kept = self.proofs(proof.host, self._limits.proofs - 1)[::-1]
                self._proofs = [*(p for p in self._proofs if p.host != proof.host), *kept, proof]

    def last_proofs(self) -> dict[str, ProofRecord]:
        return {proof.host: proof for proof in self._proofs}

    def proofs(self, host: str, limit: int) -> tuple[ProofRecord, ...]:
        return tuple(p for p in self._proofs[::-1] if p.host == host)[:limit]

    def add_batch(self, batch: Batch) -> tuple[DenialRecord, ...] | None:
        if batch.host not in self._hosts:
            return ()
        epoch, sequence = self._cursors.get(batch.host, ("", 0))
        if epoch == batch.epoch and sequence >= batch.sequence:
            return None
        self._cursors[batch.host] = (batch.epoch, batch.sequence)
        stored = tuple(map(self._merge, of_each_key(batch.denials)))
        kept = _pruned(sorted(self._denials.values(), key=lambda row: row.id), self._limits.denials)
        self._denials = {(row.host, row.key): row for row in kept}
        self._hits.add(batch)
        for event in batch.events:
            self.add_event(event)
        if batch.lost:
            self._losses.append((batch.host, batch.at_us - batch.at_us % HOUR_US, batch.lost))
        return stored

    def _merge(self, denial: DenialRecord) -> DenialRecord:
        key = (denial.host, denial.key)
        before = self._denials.get(key)
        row = replace(denial, id=self._next_denial)
        self._next_denial += 1
        if before is not None:
            row = replace(
                row,
                count=min(before.count + row.count, LARGEST_COUNT),
                first_us=min(before.first_us, row.first_us),
                last_us=max(before.last_us, row.last_us),
            )
        self._denials[key] = row
        return row

    def denials(self, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
        chosen = (
            row
            for row in self._denials.values()
            if row.last_us >= wanted.since_us
            and wanted.host in ("", row.host)
            and wanted.workload in ("", row.workload)
            and row.id > wanted.after
        )
        return tuple(sorted(chosen, key=lambda row: row.id)[-wanted.limit :])

    def lost(self, host: str, since_us: int) -> int:
        told = (n for name, hour, n in self._losses if host in ("", name) and hour > since_us - HOUR_US)
        return min(sum(told), LARGEST_COUNT)

    def rule_use(self, rule: str) -> tuple[RuleUse, ...]:
        return self._hits.rule_use(rule)

    def rules_hit(self, host: str) -> frozenset[str]:
        return self._hits.rules_hit(host)

    def add_event(self, event: EventRecord, entry: Entry | None = None) -> None:
        self._events = _pruned([*self._events, event], self._limits.events)
        if entry is not None:
            self.add_entry(entry)

    def events(self, limit: int) -> tuple[EventRecord, ...]:
        return tuple(self._events[::-1][:limit])

    def add_entry(self, entry: Entry) -> None:
        sequence, previous = len(self._audit) + 1, self._audit[-1].hash if self._audit else GENESIS
        chained = link_hash(previous, sequence, entry.at_us, *entry.texts)
        self._audit.append(replace(entry, sequence=sequence, previous=previous, hash=chained))

    def entries(self, limit: int, wanted: EntryFilter = EVERY_ENTRY) -> tuple[Entry, ...]:
        chosen = [
            e
            for e in self._audit[wanted.after :]
            if e.at_us >= wanted.since_us
            and wanted.actor in ("", e.actor)
            and wanted.action in ("", e.action)
            and wanted.subject in ("", e.subject)
        ]
        return tuple(chosen if wanted.oldest_first else chosen[::-1])[:limit]


def _pruned(rows: Iterable[Row], keep: int) -> list[Row]:
    """At most `keep` of the rows, which are in the order of their ids: the oldest of the hosts that have most of them
    go, row by row."""
    kept = list(rows)
    while len(kept) > keep:
        counts = Counter(row.host for row in kept)
        kept.remove(next(row for row in kept if counts[row.host] == max(counts.values())))
    return kept
