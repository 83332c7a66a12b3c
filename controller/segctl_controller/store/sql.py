"""SqlStore: SQLAlchemy Core on SQLite and on PostgreSQL. What each call does is in the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from segctl.model.policy import Tags
from sqlalchemy import Connection

from segctl_controller.store import access, audit, decisions, generations, hits, hosts, operators, reports, tokens
from segctl_controller.store import proofs as stored_proofs
from segctl_controller.store import websessions as web
from segctl_controller.store.database import Database
from segctl_controller.store.leadership import Leadership
from segctl_controller.store.notices import Notices, Topic
from segctl_controller.store.protocol import Admit
from segctl_controller.store.records import (
    EVERY_ENTRY,
    ApiTokenRecord,
    Batch,
    DecisionRecord,
    DenialFilter,
    DenialRecord,
    Entry,
    EntryFilter,
    EventRecord,
    FactsRecord,
    GenerationRecord,
    GenerationState,
    GroupRecord,
    HostRecord,
    Limits,
    OperatorRecord,
    ProofRecord,
    RuleUse,
    TokenRecord,
    WebSessionRecord,
)
from segctl_controller.store.shared import SharedStore
from segctl_controller.store.sqlite import Sqlite
from segctl_controller.store.transactions import Transactions


class SqlStore:
    """Implements segctl_controller.store.protocol.Store."""

    def __init__(self, database: Database | Path, limits: Limits | None = None) -> None:
        """A path is that of an SQLite file, which is made when it is missing."""
        self._database = Sqlite(database) if isinstance(database, Path) else database
        self._limits = limits or Limits()
        self._engine = self._database.writer
        self._transactions = Transactions(self._database)

    def close(self) -> None:
        self._database.close()

    def notices(self) -> Notices:
        return self._database.notices(self._transactions.origin)

    def leadership(self) -> Leadership:
        return self._database.leadership()

    def shared(self) -> SharedStore | None:
        return self._database.shared(self._transactions)

    def batch(self) -> AbstractContextManager[None]:
        return self._transactions.batch()

    def _transaction(self) -> AbstractContextManager[Connection]:
        return self._transactions.begin()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Beside the transactions, on a thread of its own."""
        with self._database.translated(), self._database.reader.begin() as connection:
            yield connection

    def prove_writable(self) -> None:
        with self._transaction() as connection:
            self._database.write(connection)

    def add_generation(self, new: GenerationRecord, expect_base: int, entry: Entry, above: int = 0) -> GenerationRecord:
        with self._transaction() as connection:
            self._transactions.note(Topic.GENERATIONS)
            return generations.add(connection, new, expect_base, entry, above)

    def settle(self, number: int, state: GenerationState, why: str, entry: Entry) -> GenerationRecord:
        with self._transaction() as connection:
            self._transactions.note(Topic.GENERATIONS)
            return generations.settle(connection, number, state, why, entry)

    def generation(self, number: int) -> GenerationRecord | None:
        with self._transaction() as connection:
            return generations.one(connection, number)

    def generations(self, limit: int) -> tuple[GenerationRecord, ...]:
        with self._transaction() as connection:
            return generations.newest(connection, limit)

    def hosts(self) -> tuple[HostRecord, ...]:
        with self._transaction() as connection:
            return hosts.every(connection)

    def hosts_named(self, names: Collection[str]) -> tuple[HostRecord, ...]:
        with self._transaction() as connection:
            return hosts.named(connection, names)

    def enrol(self, sha256: bytes, now_us: int, admit: Admit, entry: Callable[[HostRecord], Entry]) -> HostRecord:
        with self._transaction() as connection:
            host = hosts.enrol(connection, sha256, now_us, admit, entry)
            self._transactions.note(Topic.HOSTS | Topic.TOKENS, host.name)
        return host

    def set_tags(self, name: str, was: Tags, tags: Tags, entry: Entry) -> None:
        with self._transaction() as connection:
            hosts.set_tags(connection, name, was, tags)
            audit.append(connection, entry)
            self._transactions.note(Topic.HOSTS, name)

    def set_facts(self, told: Sequence[FactsRecord]) -> None:
        with self._transaction() as connection:
            hosts.set_facts(connection, told)
            self._transactions.note(Topic.HOSTS, *(one.host for one in told))

    def seen(self, at_us: Mapping[str, int]) -> None:
        with self._transaction() as connection:
            hosts.seen(connection, at_us)

    def set_certificate(self, name: str, was: str, serial: str, renewal: bytes, entry: Entry | None = None) -> bool:
        with self._transaction() as connection:
            if not hosts.set_certificate(connection, name, was, serial, renewal):
                return False
            if entry is not None:
                audit.append(connection, entry)
            self._transactions.note(Topic.HOSTS, name)
        return True

    def add_told(self, host: str, identifier: str, entry: Entry) -> bool:
        with self._transaction() as connection:
            return hosts.add_told(connection, host, identifier, entry)

    def mark_restored(self, taken_us: int, entry: Entry) -> None:
        with self._transaction() as connection:
            hosts.mark_restored(connection, taken_us, entry)
            self._transactions.note(Topic.HOSTS | Topic.TOKENS, every=True)

    def remove_host(self, name: str, entry: Entry) -> None:
        with self._transaction() as connection:
            hosts.remove(connection, name, entry)
            self._transactions.note(Topic.HOSTS, name)

    def add_token(self, token: TokenRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            tokens.add(connection, token, entry)
            self._transactions.note(Topic.TOKENS)

    def tokens(self, now_us: int) -> tuple[TokenRecord, ...]:
        with self._transaction() as connection:
            return tokens.usable(connection, now_us)

    def remove_token(self, token_id: str, entry: Entry) -> None:
        with self._transaction() as connection:
            tokens.remove(connection, token_id, entry)
            self._transactions.note(Topic.TOKENS)

    def add_operator(self, operator: OperatorRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            operators.add(connection, operator, entry)
            self._transactions.note(Topic.OPERATORS)

    def operators(self) -> tuple[OperatorRecord, ...]:
        with self._transaction() as connection:
            return operators.every(connection)

    def operator(self, name: str) -> OperatorRecord | None:
        with self._transaction() as connection:
            return operators.named(connection, name)

    def renew_operator(self, name: str, serial: str, entry: Entry) -> None:
        with self._transaction() as connection:
            operators.renew(connection, name, serial, entry)
            self._transactions.note(Topic.OPERATORS)

    def remove_operator(self, name: str, entry: Entry) -> None:
        with self._transaction() as connection:
            operators.remove(connection, name, entry)
            self._transactions.note(Topic.OPERATORS)

    def add_proofs(self, proofs: Sequence[ProofRecord]) -> None:
        with self._transaction() as connection:
            stored_proofs.add(connection, proofs, self._limits.proofs)

    def last_proofs(self) -> dict[str, ProofRecord]:
        with self._transaction() as connection:
            return stored_proofs.last(connection)

    def proofs(self, host: str, limit: int) -> tuple[ProofRecord, ...]:
        with self._transaction() as connection:
            return stored_proofs.newest(connection, host, limit)

    def add_batch(self, batch: Batch) -> tuple[DenialRecord, ...] | None:
        with self._transaction() as connection:
            return reports.add_batch(connection, batch, self._limits)

    def denials(self, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
        with self._transaction() as connection:
            return reports.newest_denials(connection, wanted)

    def lost(self, host: str, since_us: int) -> int:
        with self._transaction() as connection:
            return reports.lost(connection, host, since_us)

    def rule_use(self, rule: str) -> tuple[RuleUse, ...]:
        with self._reading() as connection:
            return hits.rule_use(connection, rule)

    def rules_hit(self, host: str) -> frozenset[str]:
        with self._transaction() as connection:
            return hits.rules_hit(connection, host)

    def add_event(self, event: EventRecord, entry: Entry | None = None) -> None:
        with self._transaction() as connection:
            reports.add_event(connection, event, self._limits)
            if entry is not None:
                audit.append(connection, entry)

    def events(self, limit: int) -> tuple[EventRecord, ...]:
        with self._transaction() as connection:
            return reports.newest_events(connection, limit)

    def add_entry(self, entry: Entry) -> None:
        with self._transaction() as connection:
            audit.append(connection, entry)

    def entries(self, limit: int, wanted: EntryFilter = EVERY_ENTRY) -> tuple[Entry, ...]:
        with self._transaction() as connection:
            return audit.page(connection, limit, wanted)

    def add_api_token(self, token: ApiTokenRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            access.add_api_token(connection, token, entry)

    def api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        with self._transaction() as connection:
            return access.every_api_token(connection)

    def api_token(self, sha256: bytes) -> ApiTokenRecord | None:
        with self._transaction() as connection:
            return access.api_token(connection, sha256)

    def use_api_token(self, token_id: str, at_us: int) -> None:
        with self._transaction() as connection:
            access.use_api_token(connection, token_id, at_us)

    def remove_api_token(self, token_id: str, entry: Entry) -> None:
        with self._transaction() as connection:
            access.remove_api_token(connection, token_id, entry)
            self._transactions.note(Topic.OPERATORS)

    def add_web_session(self, session: WebSessionRecord, used_us: int, began_us: int) -> None:
        with self._transaction() as connection:
            web.add(connection, session, used_us, began_us, self._limits)

    def web_session(self, identifier: bytes) -> WebSessionRecord | None:
        with self._transaction() as connection:
            return web.one(connection, identifier)

    def use_web_session(self, identifier: bytes, at_us: int) -> None:
        with self._transaction() as connection:
            web.use(connection, identifier, at_us)

    def lease_web_session(self, identifier: bytes, version: int, now_us: int, until_us: int) -> bool:
        with self._transaction() as connection:
            return web.lease(connection, identifier, version, now_us, until_us)

    def keep_web_session(self, identifier: bytes, version: int, sealed: bytes) -> bool:
        with self._transaction() as connection:
            return web.keep(connection, identifier, version, sealed)

    def end_web_session(self, identifier: bytes) -> WebSessionRecord | None:
        with self._transaction() as connection:
            return web.end(connection, identifier)

    def groups(self) -> tuple[GroupRecord, ...]:
        with self._transaction() as connection:
            return access.groups(connection)

    def map_group(self, group: GroupRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            access.map_group(connection, group, entry)

    def unmap_group(self, name: str, entry: Entry) -> None:
        with self._transaction() as connection:
            access.unmap_group(connection, name, entry)
            self._transactions.note(Topic.OPERATORS)

    def decide(self, decision: DecisionRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            decisions.decide(connection, decision, entry)

    def decisions(self) -> tuple[DecisionRecord, ...]:
        with self._transaction() as connection:
            return decisions.decisions(connection)

    def forget_decision(self, identifier: str, entry: Entry) -> None:
        with self._transaction() as connection:
            decisions.forget(connection, identifier, entry)
