"""SqlStore: SQLAlchemy Core on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from segctl.errors import EnrolmentError
from segctl.model.inventory import Address
from segctl.model.policy import Tags
from sqlalchemy import Connection, delete, func, insert, select, update

from segctl_controller.errors import AlreadyExistsError, ConflictError, NotFoundError
from segctl_controller.store import flows, hits, rows, tables
from segctl_controller.store.protocol import Admit
from segctl_controller.store.records import (
    Batch,
    DenialFilter,
    DenialRecord,
    Entry,
    EventRecord,
    FarEnd,
    FlowFilter,
    FlowRecord,
    GenerationRecord,
    GenerationState,
    HostRecord,
    Limits,
    OperatorRecord,
    ProofRecord,
    RuleUse,
    TokenRecord,
)
from segctl_controller.store.reports import add_batch, add_event, lost, newest_denials, newest_events
from segctl_controller.store.sqlite import is_open, open_engine, open_reader, translated
from segctl_controller.store.transactions import Transactions


class SqlStore:
    """Implements segctl_controller.store.protocol.Store."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._path = path
        self._limits = limits or Limits()
        self._engine = open_engine(path)
        self._reader = open_reader(path)
        self._transactions = Transactions(self._engine, partial(translated, path), is_open)
        self._flow_table = flows.FlowTable(self._limits)

    def close(self) -> None:
        self._reader.dispose()
        self._engine.dispose()

    def prove_writable(self) -> None:
        """The cookie that SQLite leaves to applications: to set it writes a page, whatever it was."""
        with self._transaction() as connection:
            cookie = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql(f"PRAGMA user_version = {int(cookie)}")

    def batch(self) -> AbstractContextManager[None]:
        return self._transactions.batch()

    def _transaction(self) -> AbstractContextManager[Connection]:
        return self._transactions.begin()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Beside the transactions, on a thread of its own."""
        with translated(self._path), self._reader.begin() as connection:
            yield connection

    def add_generation(self, new: GenerationRecord, expect_base: int, entry: Entry, above: int = 0) -> GenerationRecord:
        table = tables.generations.c
        with self._transaction() as connection:
            confirmed = table.state == GenerationState.CONFIRMED.value
            active = connection.scalar(select(func.max(table.number)).where(confirmed)) or 0
            if expect_base not in (0, active):
                raise ConflictError(base_moved(expect_base, active))
            trial = connection.scalar(select(table.number).where(table.state == GenerationState.TRIAL.value))
            if trial is not None:
                raise ConflictError(on_trial(trial))
            newest = connection.scalar(select(func.max(table.number))) or 0
            stored = replace(new, number=max(newest, above) + 1)
            values = {"number": stored.number, **rows.generation_values(stored)}
            connection.execute(insert(tables.generations).values(values))
            _log(connection, replace(entry, subject=f"generation {stored.number}"))
        return stored

    def settle(self, number: int, state: GenerationState, why: str, entry: Entry) -> GenerationRecord:
        table = tables.generations
        which = (table.c.number == number) & (table.c.state == GenerationState.TRIAL.value)
        with self._transaction() as connection:
            changed = connection.execute(update(table).where(which).values(state=state.value, why=why))
            if changed.rowcount != 1:
                raise ConflictError(not_on_trial(number))
            _log(connection, entry)
            row = connection.execute(select(table).where(table.c.number == number)).mappings().one()
        return rows.generation_of(dict(row), with_files=True)

    def generation(self, number: int) -> GenerationRecord | None:
        table = tables.generations
        chosen = table.c.number == number if number else table.c.state == GenerationState.CONFIRMED.value
        wanted = select(table).where(chosen)
        with self._transaction() as connection:
            row = connection.execute(wanted.order_by(tables.generations.c.number.desc()).limit(1)).mappings().first()
        return rows.generation_of(dict(row), with_files=True) if row else None

    def generations(self, limit: int) -> tuple[GenerationRecord, ...]:
        columns = [c for c in tables.generations.c if c.name != "files"]
        wanted = select(*columns).order_by(tables.generations.c.number.desc()).limit(limit)
        with self._transaction() as connection:
            found = connection.execute(wanted).mappings().all()
        return tuple(rows.generation_of(dict(row), with_files=False) for row in found)

    def hosts(self) -> tuple[HostRecord, ...]:
        with self._transaction() as connection:
            found = connection.execute(select(tables.hosts).order_by(tables.hosts.c.name)).mappings().all()
        return tuple(rows.host_of(dict(row)) for row in found)

    def enrol(self, sha256: bytes, now_us: int, admit: Admit, entry: Callable[[HostRecord], Entry]) -> HostRecord:
        tokens, hosts = tables.tokens, tables.hosts
        redeem = (
            update(tokens)
            .where(tokens.c.sha256 == sha256, tokens.c.uses > 0, tokens.c.expires_us > now_us)
            .values(uses=tokens.c.uses - 1)
            .returning(*tokens.c)
        )
        with self._transaction() as connection:

            def find(name: str) -> HostRecord | None:
                row = connection.execute(select(hosts).where(hosts.c.name == name)).mappings().first()
                return rows.host_of(dict(row)) if row else None

            redeemed = connection.execute(redeem).mappings().first()
            if redeemed is None:
                raise EnrolmentError("this token is unknown, used up, expired or revoked")
            host = admit(rows.token_of(dict(redeemed)), find)
            # The old host goes with everything that hangs on it: a reinstalled server is another server.
            connection.execute(delete(hosts).where(hosts.c.name == host.name))
            hits.begin_anew(connection, host.name)
            connection.execute(insert(hosts).values(rows.host_values(host)))
            _log(connection, entry(host))
        return host

    def set_tags(self, name: str, tags: Tags, entry: Entry) -> None:
        with self._transaction() as connection:
            change = update(tables.hosts).where(tables.hosts.c.name == name).values(tags=rows.tags_text(tags))
            if not connection.execute(change).rowcount:
                raise NotFoundError(no_host(name))
            _log(connection, entry)

    def set_facts(self, name: str, addresses: Sequence[Address], version: str, facts: bytes, at_us: int) -> None:
        values = {"addresses": rows.texts(addresses), "agent_version": version, "facts": facts, "last_seen_us": at_us}
        with self._transaction() as connection:
            connection.execute(update(tables.hosts).where(tables.hosts.c.name == name).values(values))

    def seen(self, name: str, at_us: int) -> None:
        with self._transaction() as connection:
            connection.execute(update(tables.hosts).where(tables.hosts.c.name == name).values(last_seen_us=at_us))

    def set_certificate(self, name: str, was: str, serial: str, renewal: bytes, entry: Entry | None = None) -> bool:
        hosts = tables.hosts
        change = update(hosts).where(hosts.c.name == name, hosts.c.serial == was)
        with self._transaction() as connection:
            if not connection.execute(change.values(serial=serial, renewal=renewal, restored_us=0)).rowcount:
                return False
            if entry is not None:
                _log(connection, entry)
        return True

    def add_told(self, host: str, identifier: str, entry: Entry) -> bool:
        told = tables.told
        with self._transaction() as connection:
            enrolled = connection.scalar(select(func.count()).where(tables.hosts.c.name == host))
            before = select(func.count()).where(told.c.host == host, told.c.entry == identifier)
            if not enrolled or connection.scalar(before):
                return False
            connection.execute(insert(told).values(host=host, entry=identifier))
            _log(connection, entry)
        return True

    def mark_restored(self, taken_us: int, entry: Entry) -> None:
        with self._transaction() as connection:
            connection.execute(update(tables.hosts).values(restored_us=taken_us))
            connection.execute(delete(tables.tokens))
            _log(connection, entry)

    def remove_host(self, name: str, entry: Entry) -> None:
        with self._transaction() as connection:
            if not connection.execute(delete(tables.hosts).where(tables.hosts.c.name == name)).rowcount:
                raise NotFoundError(no_host(name))
            hits.forget(connection, name)
            _log(connection, entry)

    def add_token(self, token: TokenRecord, entry: Entry) -> None:
        with self._transaction() as connection:
            connection.execute(insert(tables.tokens).values(rows.token_values(token)))
            _log(connection, entry)

    def tokens(self, now_us: int) -> tuple[TokenRecord, ...]:
        table = tables.tokens
        wanted = select(table).where(table.c.uses > 0, table.c.expires_us > now_us).order_by(table.c.expires_us)
        with self._transaction() as connection:
            return tuple(rows.token_of(dict(row)) for row in connection.execute(wanted).mappings())

    def remove_token(self, token_id: str, entry: Entry) -> None:
        with self._transaction() as connection:
            if not connection.execute(delete(tables.tokens).where(tables.tokens.c.id == token_id)).rowcount:
                raise NotFoundError(no_token(token_id))
            _log(connection, entry)

    def add_operator(self, operator: OperatorRecord, entry: Entry) -> None:
        table = tables.operators
        with self._transaction() as connection:
            if connection.scalar(select(func.count()).where(table.c.name == operator.name)):
                raise AlreadyExistsError(operator_taken(operator.name))
            connection.execute(
                insert(table).values(
                    name=operator.name,
                    role=operator.role.value,
                    serial=operator.serial,
                    created_us=operator.created_us,
                )
            )
            _log(connection, entry)

    def operators(self) -> tuple[OperatorRecord, ...]:
        wanted = select(tables.operators).order_by(tables.operators.c.name)
        with self._transaction() as connection:
            return tuple(rows.operator_of(dict(row)) for row in connection.execute(wanted).mappings())

    def operator(self, name: str) -> OperatorRecord | None:
        wanted = select(tables.operators).where(tables.operators.c.name == name)
        with self._transaction() as connection:
            row = connection.execute(wanted).mappings().first()
        return rows.operator_of(dict(row)) if row else None

    def renew_operator(self, name: str, serial: str, entry: Entry) -> None:
        table = tables.operators
        with self._transaction() as connection:
            if not connection.execute(update(table).where(table.c.name == name).values(serial=serial)).rowcount:
                raise NotFoundError(no_operator(name))
            _log(connection, entry)

    def remove_operator(self, name: str, entry: Entry) -> None:
        with self._transaction() as connection:
            if not connection.execute(delete(tables.operators).where(tables.operators.c.name == name)).rowcount:
                raise NotFoundError(no_operator(name))
            _log(connection, entry)

    def add_proof(self, proof: ProofRecord) -> None:
        table = tables.proofs
        said = {
            "generation": proof.generation,
            "digest": proof.digest,
            "kernel_digest": proof.kernel_digest,
        }
        with self._transaction() as connection:
            wanted = select(table).where(table.c.host == proof.host).order_by(table.c.id.desc()).limit(1)
            last = connection.execute(wanted).mappings().first()
            if last and all(last[name] == value for name, value in said.items()):
                return
            connection.execute(insert(table).values(host=proof.host, at_us=proof.at_us, **said))
            of_host = select(table.c.id).where(table.c.host == proof.host).order_by(table.c.id.desc())
            oldest = connection.scalar(of_host.offset(self._limits.proofs).limit(1))
            if oldest is not None:
                connection.execute(delete(table).where(table.c.host == proof.host, table.c.id <= oldest))

    def proofs(self, host: str, limit: int) -> tuple[ProofRecord, ...]:
        table = tables.proofs
        wanted = select(table).where(table.c.host == host).order_by(table.c.id.desc()).limit(limit)
        with self._transaction() as connection:
            return tuple(
                ProofRecord(row["host"], row["generation"], row["digest"], row["kernel_digest"], row["at_us"])
                for row in connection.execute(wanted).mappings()
            )

    def add_batch(self, batch: Batch) -> tuple[DenialRecord, ...] | None:
        with self._transaction() as connection:
            return add_batch(connection, batch, self._limits, self._flow_table)

    def denials(self, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
        with self._transaction() as connection:
            return newest_denials(connection, wanted)

    def lost(self, host: str, since_us: int) -> int:
        with self._transaction() as connection:
            return lost(connection, host, since_us)

    def flows(self, wanted: FlowFilter) -> tuple[FlowRecord, ...]:
        with self._reading() as connection:
            return flows.sums(connection, wanted)

    def flows_lost(self, host: str, since_us: int) -> int:
        with self._reading() as connection:
            return flows.lost(connection, host, since_us)

    def far_ends(self, asked: Sequence[FarEnd]) -> tuple[str, ...]:
        with self._reading() as connection:
            return flows.far_ends(connection, asked)

    def rule_use(self, rule: str) -> tuple[RuleUse, ...]:
        with self._reading() as connection:
            return hits.rule_use(connection, rule)

    def rules_hit(self, host: str) -> frozenset[str]:
        with self._transaction() as connection:
            return hits.rules_hit(connection, host)

    def add_event(self, event: EventRecord, entry: Entry | None = None) -> None:
        with self._transaction() as connection:
            add_event(connection, event, self._limits)
            if entry is not None:
                _log(connection, entry)

    def events(self, limit: int) -> tuple[EventRecord, ...]:
        with self._transaction() as connection:
            return newest_events(connection, limit)

    def add_entry(self, entry: Entry) -> None:
        with self._transaction() as connection:
            _log(connection, entry)

    def entries(self, limit: int) -> tuple[Entry, ...]:
        table = tables.audit
        with self._transaction() as connection:
            found = connection.execute(select(table).order_by(table.c.sequence.desc()).limit(limit)).mappings().all()
        return tuple(
            Entry(row["at_us"], row["actor"], row["action"], row["subject"], row["detail"], row["sequence"])
            for row in found
        )


def _log(connection: Connection, entry: Entry) -> None:
    connection.execute(
        insert(tables.audit).values(
            at_us=entry.at_us, actor=entry.actor, action=entry.action, subject=entry.subject, detail=entry.detail
        )
    )


def base_moved(expected: int, active: int) -> str:
    return (
        f"another push came between: you planned against generation {expected}, active is {active}; "
        "run segctl plan again, look at the difference, then push"
    )


def on_trial(number: int) -> str:
    return (
        f"generation {number} is on trial: wait until it is confirmed or undone (segctl status shows it), or end it "
        "with segctl rollback"
    )


def not_on_trial(number: int) -> str:
    return f"generation {number} is not on trial any more"


def no_host(name: str) -> str:
    return f"no host {name!r} is enrolled; segctl host list shows those that are"


def no_token(token_id: str) -> str:
    return f"no token {token_id!r}; segctl token list shows those that can still be used"


def no_operator(name: str) -> str:
    return f"no operator {name!r}; segctl-controller admin list shows them"


def operator_taken(name: str) -> str:
    return f"an operator {name!r} exists already; remove it first: segctl-controller admin remove {name}"
