"""The contract of segctl_controller.store.protocol.Store, for the stores on SQLite, on PostgreSQL and in memory."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from statistics import median

import pytest
from segctl.auditchain import Link, Verifier
from segctl.errors import EnrolmentError, SegctlError
from segctl.model.policy import Tags
from segctl.policy.source import SourceFile
from segctl_controller.errors import AlreadyExistsError, ConflictError, NotFoundError
from segctl_controller.store.protocol import FindHost, Store
from segctl_controller.store.records import (
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
    Role,
    TokenRecord,
)
from segctl_controller.store.sql import SqlStore
from segctl_controller.store.sqlite import Sqlite

from tests.contract.stores import make_store

LIMITS = Limits(denials=5, events=3, proofs=3)
ENTRY = Entry(1, "root", "act", "subject", "detail")
HOUR = 3_600_000_000
SECRET = hashlib.sha256(b"secret").digest()


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = make_store(request, tmp_path, LIMITS)
    yield made
    made.close()


def token(uses: int = 1, expires_us: int = 100, **fields: object) -> TokenRecord:
    values = {
        "id": "t-1",
        "sha256": SECRET,
        "tags": Tags.of({"role": "web"}),
        "host": "",
        "uses": uses,
        "expires_us": expires_us,
        "replace": False,
        "created_by": "root",
        "networks": (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
    }
    return TokenRecord(**{**values, **fields})  # type: ignore[arg-type]


def join(store: Store, name: str = "web1", serial: str = "aa", now: int = 50) -> HostRecord:
    def admit(found: TokenRecord, _find: FindHost) -> HostRecord:
        return HostRecord(name, found.tags, serial, now, found.networks)

    return store.enrol(SECRET, now, admit, lambda host: Entry(now, "peer", "enrol", host.name))


def enrolled(store: Store, *hosts: str) -> None:
    store.add_token(token(uses=len(hosts)), ENTRY)
    for host in hosts:
        join(store, host)


def denial(host: str = "web1", key: str = "a", count: int = 1, at: int = 10, workload: str = "host") -> DenialRecord:
    return DenialRecord(host, workload, key, count, at, at, b"body")


def generation(message: str = "first") -> GenerationRecord:
    return GenerationRecord("d" * 64, "root", message, 7, (SourceFile("a.yaml", b"\xff\x00version"),))


def test_generations_are_numbered_and_keep_their_files(store: Store) -> None:
    assert store.generation(0) is None
    first = store.add_generation(generation(), 0, ENTRY)
    second = store.add_generation(generation("second"), first.number, ENTRY)
    assert (first.number, second.number) == (1, 2)
    assert store.generation(0) == second
    assert store.generation(1) == first
    assert store.generation(9) is None
    assert [(g.number, g.files) for g in store.generations(10)] == [(2, ()), (1, ())]
    assert [e.subject for e in store.entries(10)] == ["generation 2", "generation 1"]


def test_a_push_against_an_old_base_stores_nothing(store: Store) -> None:
    store.add_generation(generation(), 0, ENTRY)
    store.add_generation(generation(), 1, ENTRY)
    with pytest.raises(ConflictError, match="planned against generation 1, active is 2"):
        store.add_generation(generation(), 1, ENTRY)
    assert len(store.generations(10)) == 2
    assert len(store.entries(10)) == 2


def trial(message: str = "tried") -> GenerationRecord:
    return replace(generation(message), state=GenerationState.TRIAL)


def test_a_generation_on_trial_is_not_the_active_one_until_it_is_confirmed(store: Store) -> None:
    first = store.add_generation(generation(), 0, ENTRY)
    tried = store.add_generation(trial(), first.number, ENTRY)
    assert (tried.number, store.generation(0)) == (2, first)
    with pytest.raises(ConflictError, match="generation 2 is on trial"):
        store.add_generation(trial(), first.number, ENTRY)
    confirmed = store.settle(2, GenerationState.CONFIRMED, "", replace(ENTRY, action="confirm"))
    assert confirmed == replace(tried, state=GenerationState.CONFIRMED)
    assert store.generation(0) == confirmed
    assert store.entries(1)[0].action == "confirm"


def test_what_was_undone_keeps_its_number_and_its_reason(store: Store) -> None:
    first = store.add_generation(generation(), 0, ENTRY)
    store.add_generation(trial(), 1, ENTRY)
    undone = store.settle(2, GenerationState.UNDONE, "db1 refused it", ENTRY)
    assert (undone.state, undone.why) == (GenerationState.UNDONE, "db1 refused it")
    assert store.generation(0) == first
    assert store.add_generation(trial(), 1, ENTRY).number == 3
    assert [(g.number, g.state.value) for g in store.generations(10)] == [(3, "trial"), (2, "undone"), (1, "confirmed")]


def test_only_what_is_on_trial_can_be_settled(store: Store) -> None:
    store.add_generation(generation(), 0, ENTRY)
    for number in (1, 9):
        with pytest.raises(ConflictError, match="not on trial"):
            store.settle(number, GenerationState.UNDONE, "", ENTRY)
    assert len(store.entries(10)) == 1


def test_a_number_can_be_asked_to_be_higher(store: Store) -> None:
    """Higher than what hosts hold that know more than this database, which is an old copy."""
    store.add_generation(generation(), 0, ENTRY)
    assert store.add_generation(generation(), 1, ENTRY, above=40).number == 41
    assert store.add_generation(generation(), 41, ENTRY, above=3).number == 42


def test_a_token_is_used_up_by_its_uses(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)
    join(store, "a")
    join(store, "b")
    with pytest.raises(EnrolmentError):
        join(store, "c")
    assert [h.name for h in store.hosts()] == ["a", "b"]
    assert store.tokens(0) == ()


def test_an_expired_or_unknown_token_enrols_nobody(store: Store) -> None:
    with pytest.raises(EnrolmentError):
        join(store)
    store.add_token(token(expires_us=50), ENTRY)
    with pytest.raises(EnrolmentError):
        join(store, now=50)
    assert store.hosts() == ()


def test_a_refused_admission_does_not_use_up_the_token(store: Store) -> None:
    store.add_token(token(), ENTRY)

    def admit(_token: TokenRecord, _find: FindHost) -> HostRecord:
        raise AlreadyExistsError("taken")

    with pytest.raises(AlreadyExistsError):
        store.enrol(SECRET, 50, admit, lambda _: ENTRY)
    assert [t.uses for t in store.tokens(0)] == [1]
    assert join(store).name == "web1"


def test_admission_sees_who_has_the_name(store: Store) -> None:
    store.add_token(token(uses=3), ENTRY)
    join(store)
    seen = []

    def admit(_token: TokenRecord, find: FindHost) -> HostRecord:
        seen.append(find("web1"))
        seen.append(find("nobody"))
        return HostRecord("web1", Tags(), "bb", 60)

    store.enrol(SECRET, 60, admit, lambda _: ENTRY)
    assert seen[0] is not None
    assert seen[0].serial == "aa"
    assert seen[1] is None
    assert [(h.name, h.serial) for h in store.hosts()] == [("web1", "bb")]


def test_a_revoked_token_is_gone(store: Store) -> None:
    store.add_token(token(), ENTRY)
    assert store.tokens(0) == (token(),)
    store.remove_token("t-1", ENTRY)
    with pytest.raises(EnrolmentError):
        join(store)
    with pytest.raises(NotFoundError):
        store.remove_token("t-1", ENTRY)


def test_a_host_keeps_everything_that_is_said_of_it(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    addresses = (ip_address("10.0.0.1"), ip_address("2001:db8::1"))
    store.set_facts([FactsRecord("web1", tuple(addresses), "1.0", b"facts", 70)])
    store.set_tags("web1", Tags.of({"role": "web"}), Tags.of({"role": "db"}), ENTRY)
    with pytest.raises(ConflictError, match="web1"):  # another controller was first
        store.set_tags("web1", Tags.of({"role": "web"}), Tags.of({"role": "web", "env": "prod"}), ENTRY)
    expected = HostRecord("web1", Tags.of({"role": "db"}), "aa", 50, token().networks, addresses, 70, "1.0", b"facts")
    assert store.hosts() == (expected,)
    store.seen({"web1": 80})
    assert store.hosts()[0].last_seen_us == 80


def test_unknown_hosts_are_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        store.set_tags("nobody", Tags(), Tags(), ENTRY)
    with pytest.raises(NotFoundError, match="nobody"):
        store.remove_host("nobody", ENTRY)
    store.set_facts([FactsRecord("nobody", (), "", b"", 1)])
    store.seen({"nobody": 1})
    assert store.hosts() == ()


def test_removing_a_host_takes_its_denials_with_it(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    store.add_batch(Batch("web1", "e", 1, 10, (denial(),), lost=4))
    store.remove_host("web1", ENTRY)
    assert store.hosts() == ()
    assert store.denials(DenialFilter()) == ()
    assert store.lost("", 0) == 0


def test_operators(store: Store) -> None:
    ann = OperatorRecord("ann", Role.EDITOR, "aa", 5)
    store.add_operator(ann, ENTRY)
    assert store.operator("ann") == ann
    assert store.operators() == (ann,)
    with pytest.raises(AlreadyExistsError, match="ann"):
        store.add_operator(ann, ENTRY)
    store.remove_operator("ann", ENTRY)
    assert store.operator("ann") is None
    with pytest.raises(NotFoundError, match="ann"):
        store.remove_operator("ann", ENTRY)


def test_a_repeated_proof_is_stored_once_and_proofs_are_bounded(store: Store) -> None:
    def prove(host: str, *numbers: int) -> None:
        for number in numbers:
            store.add_proofs([ProofRecord(host, number, "d", "k", 10 + number)])

    def held(host: str) -> list[int]:
        return [p.generation for p in store.proofs(host, 10)]

    enrolled(store, "web1", "web2", "other")
    prove("web2", 1, 2)
    prove("web1", 1, 1, 2, 1, 3, 4)  # its own go, and nobody else's
    assert (held("web1"), held("web2"), held("other")) == ([4, 3, 1], [2, 1], [])
    numbers = ((4, "web1"), (5, "web1"), (2, "web2"), (5, "web1"), (6, "web1"), (1, "other"))
    store.add_proofs([ProofRecord(host, number, "d", "k", 20) for number, host in numbers])
    assert (held("web1"), held("web2"), held("other")) == ([6, 5, 4], [2, 1], [1])
    assert {host: p.generation for host, p in store.last_proofs().items()} == {"web1": 6, "web2": 2, "other": 1}


def test_old_proofs_go_now_and_then(tmp_path: Path) -> None:
    with closing(SqlStore(tmp_path / "controller.db", Limits(proofs=32))) as store:
        enrolled(store, "web1", "web2")
        for number in range(0, 600, 6):
            told = [(host, number + more) for host in ("web1", "web2") for more in range(6)]
            store.add_proofs([ProofRecord(host, number, "d", "k", number) for host, number in told])
        for host in ("web1", "web2"):
            held = [p.generation for p in store.proofs(host, 1000)]
            assert held == list(range(599, 599 - len(held), -1))
            assert 32 <= len(held) < 400  # one look in two: it takes 60 in a row that are missed


def test_a_proof_costs_no_more_where_many_are_kept(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "controller.db")
    with closing(SqlStore(database, Limits(proofs=1000))) as store:
        hosts = [f"web{number}" for number in range(50)]
        enrolled(store, *hosts)

        def steps(generation: int) -> int:
            """Instructions of SQLite's machine, in hundreds, for a proof of each host."""
            counted: list[None] = []
            with closing(database.writer.raw_connection()) as connection:
                driver = connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.set_progress_handler(lambda: counted.append(None), 100)
            store.add_proofs([ProofRecord(host, generation, "d", "k", generation) for host in hosts])
            return len(counted)

        few = [steps(generation) for generation in range(1, 20)]
        for _ in range(40):
            store.add_proofs([ProofRecord(host, n, "d", "k", n) for host in hosts for n in range(20, 50)])
        many = [steps(generation) for generation in range(1200, 1220)]
        assert median(many) < 5 * median(few)


def test_denials_of_one_key_are_one_row_with_a_new_id(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    first = store.add_batch(Batch("web1", "e", 1, 10, (denial(at=10), denial(key="b", at=11))))
    second = store.add_batch(Batch("web1", "e", 2, 10, (denial(at=5, count=3),)))
    assert first is not None
    assert second is not None
    merged = second[0]
    assert (merged.count, merged.first_us, merged.last_us) == (4, 5, 10)
    assert merged.id > max(row.id for row in first)
    assert [row.key for row in store.denials(DenialFilter())] == ["b", "a"]


def test_a_batch_may_tell_one_key_twice(store: Store) -> None:
    enrolled(store, "web1")
    store.add_batch(Batch("web1", "e", 1, 10, (denial(count=5),)))
    told = (denial(at=20), denial(key="b"), denial(at=15, count=2), denial(key="c"))
    stored = store.add_batch(Batch("web1", "e", 2, 10, told)) or ()
    assert [(row.key, row.count, row.first_us, row.last_us) for row in stored] == [
        ("b", 1, 10, 10),
        ("a", 8, 10, 20),
        ("c", 1, 10, 10),
    ]
    assert [row.id for row in stored] == sorted({row.id for row in stored})
    assert store.denials(DenialFilter()) == stored


def test_a_batch_is_stored_once(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    batch = Batch("web1", "e", 3, 10, (denial(),), (EventRecord("web1", "tamper", "m", 5),), lost=2)
    assert store.add_batch(batch) is not None
    assert store.add_batch(batch) is None
    assert store.add_batch(Batch("web1", "e", 2, 10, (denial(),))) is None
    assert [row.count for row in store.denials(DenialFilter())] == [1]
    assert len(store.events(10)) == 1
    assert store.lost("web1", 0) == 2
    assert store.add_batch(Batch("web1", "other", 1, 10, (denial(),))) is not None


def test_a_batch_of_a_removed_host_is_dropped(store: Store) -> None:
    assert store.add_batch(Batch("gone", "e", 1, 10, (denial("gone"),))) == ()
    assert store.denials(DenialFilter()) == ()


def test_denials_are_filtered_and_bounded(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)
    join(store, "web1")
    join(store, "web2")
    rows = tuple(denial(key=str(n), at=n, workload="shop" if n % 2 else "host") for n in range(1, 5))
    store.add_batch(Batch("web1", "e", 1, 10, rows))
    store.add_batch(Batch("web2", "e", 1, 10, (denial("web2", at=9),)))
    assert [row.last_us for row in store.denials(DenialFilter(limit=2))] == [4, 9]
    assert [row.host for row in store.denials(DenialFilter(host="web2"))] == ["web2"]
    assert [row.last_us for row in store.denials(DenialFilter(workload="shop"))] == [1, 3]
    assert [row.last_us for row in store.denials(DenialFilter(since_us=4))] == [4, 9]
    store.add_batch(Batch("web1", "e", 2, 10, (denial(key="new", at=20),)))
    assert [row.last_us for row in store.denials(DenialFilter())] == [2, 3, 4, 9, 20]


def test_losses_add_up(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)
    join(store, "web1")
    join(store, "web2")
    store.add_batch(Batch("web1", "e", 1, HOUR * 5, lost=2))
    store.add_batch(Batch("web1", "e", 2, HOUR * 5 + 1, lost=3))
    store.add_batch(Batch("web2", "e", 1, HOUR * 9, lost=7))
    assert store.lost("web1", 0) == 5
    assert store.lost("", 0) == 12
    assert store.lost("", HOUR * 8) == 7


def test_events_are_bounded_and_newest_first(store: Store) -> None:
    for number in range(5):
        store.add_event(EventRecord("web1", "tamper", str(number), number, 7, "nft"), ENTRY)
    assert [e.message for e in store.events(10)] == ["4", "3", "2"]
    assert store.events(1)[0] == EventRecord("web1", "tamper", "4", 4, 7, "nft")
    assert len(store.entries(10)) == 5


def test_the_audit_log_counts_and_keeps_everything(store: Store) -> None:
    store.add_entry(ENTRY)
    store.add_entry(Entry(2, "ann", "push", "generation 1"))
    found = store.entries(10)
    assert [e.sequence for e in found] == [2, 1]
    assert (found[1].at_us, found[1].actor, found[1].action, found[1].subject, found[1].detail) == (
        1,
        "root",
        "act",
        "subject",
        "detail",
    )
    assert len(store.entries(1)) == 1


def test_every_error_is_one_of_ours(store: Store) -> None:
    with pytest.raises(SegctlError):
        store.remove_operator("x", ENTRY)


def test_a_host_that_floods_pushes_out_only_its_own(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)
    join(store, "web1")
    join(store, "web2")
    good = EventRecord("web1", "tamper", "m", 1)
    store.add_batch(Batch("web1", "e", 1, 10, (denial(key="1"), denial(key="2")), (good,)))
    flood = tuple(denial("web2", key=str(n)) for n in range(20))
    events = tuple(EventRecord("web2", "noise", str(n), 2) for n in range(20))
    store.add_batch(Batch("web2", "e", 1, 10, flood, events))
    assert len(store.denials(DenialFilter(host="web1"))) == 2
    assert [row.key for row in store.denials(DenialFilter(host="web2"))] == ["17", "18", "19"]
    assert [e.host for e in store.events(10)] == ["web2", "web2", "web1"]


def test_counts_stop_before_they_overflow(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    for sequence in (1, 2):
        store.add_batch(Batch("web1", "e", sequence, 10, (denial(count=2**53),) * 1100, lost=2**53))
    [row] = store.denials(DenialFilter())
    assert (row.count, type(row.count)) == (2**53, int)
    assert store.lost("", 0) == 2**53


def test_a_write_that_proves_and_changes_nothing(store: Store) -> None:
    store.add_entry(ENTRY)
    before = store.entries(10)
    store.prove_writable()
    assert store.entries(10) == before


def test_a_certificate_is_replaced_only_for_the_host_that_it_was_of(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)
    join(store)
    assert store.set_certificate("web1", "aa", "aa", b"der", ENTRY)
    assert [(h.serial, h.renewal) for h in store.hosts()] == [("aa", b"der")]
    assert store.set_certificate("web1", "aa", "bb", b"")
    assert [(h.serial, h.renewal) for h in store.hosts()] == [("bb", b"")]
    said = len(store.entries(100))
    assert not store.set_certificate("web1", "aa", "cc", b"", ENTRY)
    assert not store.set_certificate("nobody", "aa", "cc", b"", ENTRY)
    assert ([h.serial for h in store.hosts()], len(store.entries(100))) == (["bb"], said)
    store.set_certificate("web1", "bb", "bb", b"der")
    join(store, serial="dd")
    assert [(h.serial, h.renewal) for h in store.hosts()] == [("dd", b"")]


def test_what_a_host_told_the_audit_log_is_stored_once(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    said = len(store.entries(100))
    assert store.add_told("web1", "one", ENTRY)
    assert not store.add_told("web1", "one", ENTRY)
    assert store.add_told("web1", "two", ENTRY)
    assert not store.add_told("nobody", "one", ENTRY)
    assert len(store.entries(100)) == said + 2
    store.remove_host("web1", ENTRY)


def test_after_a_restore_tokens_are_gone_and_every_host_is_open_until_it_is_settled(store: Store) -> None:
    store.add_token(token(uses=3), ENTRY)
    join(store, "web1")
    join(store, "web2")
    store.mark_restored(70, replace(ENTRY, action="restore"))
    assert store.tokens(0) == ()
    assert store.entries(1)[0].action == "restore"
    assert store.set_certificate("web1", "aa", "bb", b"")
    assert [(h.name, h.restored_us) for h in store.hosts()] == [("web1", 0), ("web2", 70)]


def test_an_operators_certificate_is_replaced_and_the_role_stays(store: Store) -> None:
    store.add_operator(OperatorRecord("alice", Role.EDITOR, "aa", 1), ENTRY)
    store.renew_operator("alice", "bb", ENTRY)
    assert store.operator("alice") == OperatorRecord("alice", Role.EDITOR, "bb", 1)
    with pytest.raises(NotFoundError, match="bob"):
        store.renew_operator("bob", "bb", ENTRY)


def test_a_call_that_fails_in_a_batch_leaves_the_others(store: Store) -> None:
    store.add_token(token(uses=2), ENTRY)

    def admit(_token: TokenRecord, _find: FindHost) -> HostRecord:
        raise AlreadyExistsError("taken")

    with store.batch():
        join(store, "web1")
        with pytest.raises(AlreadyExistsError):
            store.enrol(SECRET, 50, admit, lambda _: ENTRY)
        with pytest.raises(NotFoundError):
            store.remove_host("nobody", ENTRY)
        assert store.add_generation(generation(), 0, ENTRY).number == 1
        with pytest.raises(ConflictError):
            store.add_generation(generation(), 7, ENTRY)
        assert store.generation(0) is not None
    assert [t.uses for t in store.tokens(0)] == [1]
    assert [h.name for h in store.hosts()] == ["web1"]
    assert [e.subject for e in store.entries(9)] == ["generation 1", "web1", "subject"]
    store.add_entry(ENTRY)  # a transaction of its own again
    assert len(store.entries(9)) == 4


def test_what_hosts_say_is_stored_whatever_it_holds(store: Store) -> None:
    store.add_token(token(), ENTRY)
    join(store)
    strange = "a\0b\x01\ud7ff\U0010ffff'\\%"
    event = EventRecord("web1", "tamper", strange, 1)
    told = denial(key=strange, workload=strange)
    assert store.add_batch(Batch("web1", strange, 1, 10, (told,), (event,))) is not None
    assert store.add_batch(Batch("web1", strange, 1, 10, (denial(key=strange),))) is None
    [row] = store.denials(DenialFilter(workload=strange))
    readable = strange.replace("\0", "\ufffd")
    assert row.key in (strange, readable)
    assert store.events(1)[0].message in (strange, readable)


def test_names_are_sorted_by_code_point(store: Store) -> None:
    names = ["Web", "a-b", "a.b", "ab", "web", "ä"]
    store.add_token(token(uses=9), ENTRY)
    for name in reversed(names):
        join(store, name)
    assert [host.name for host in store.hosts()] == names


def test_the_audit_log_is_one_chain_that_its_reader_verifies(store: Store) -> None:
    for number in range(1, 8):
        store.add_entry(
            Entry(number, "ann" if number % 2 else "bob", "push", "x", "d\u00e9tail\n", 0, "api-token 1", "::1")
        )
    verifier = Verifier()
    for after in (0, 3, 6):
        for entry in store.entries(3, EntryFilter(after=after, oldest_first=True)):
            verifier.take(Link(**asdict(entry)))
    assert (verifier.count, verifier.head) == (7, store.entries(1)[0].hash)
    assert len({e.hash for e in store.entries(10)}) == 7


def test_audit_entries_are_found_by_who_what_and_when(store: Store) -> None:
    for number, (actor, action) in enumerate((("ann", "push"), ("bob", "push"), ("ann", "tag")), 1):
        store.add_entry(Entry(number, actor, action, f"s{number}"))

    def found(**fields: object) -> list[int]:
        return [e.sequence for e in store.entries(10, EntryFilter(**fields))]  # type: ignore[arg-type]

    assert found(actor="ann") == [3, 1]
    assert found(actor="ann", oldest_first=True) == [1, 3]
    assert found(action="push", after=1) == [2]
    assert found(subject="s2") == [2]
    assert found(since_us=3) == [3]


def test_api_tokens_are_kept_by_the_hash_of_their_secret(store: Store) -> None:
    scope = Tags.of({"app": "shop"})
    token = ApiTokenRecord("a-1", SECRET, "ci", Role.OWNER, scope, "root", 5, 100)
    store.add_api_token(token, ENTRY)
    with pytest.raises(AlreadyExistsError, match="'ci'"):
        store.add_api_token(replace(token, id="a-2", sha256=b"other"), ENTRY)
    assert store.api_token(SECRET) == token
    assert store.api_token(b"other") is None
    store.use_api_token("a-1", 77)
    store.use_api_token("a-9", 77)
    assert store.api_tokens() == (replace(token, last_used_us=77),)
    store.remove_api_token("a-1", ENTRY)
    assert store.api_token(SECRET) is None
    with pytest.raises(NotFoundError, match="a-1"):
        store.remove_api_token("a-1", ENTRY)
    assert len(store.entries(10)) == 2


def test_a_group_may_have_several_scopes(store: Store) -> None:
    shop, crm = (GroupRecord("dev", Role.OWNER, Tags.of({"app": app})) for app in ("shop", "crm"))
    for group in (shop, crm, GroupRecord("ops", Role.ADMIN)):
        store.map_group(group, ENTRY)
    with pytest.raises(AlreadyExistsError, match="dev"):
        store.map_group(shop, ENTRY)
    assert store.groups() == (crm, shop, GroupRecord("ops", Role.ADMIN))
    store.unmap_group("dev", ENTRY)
    assert store.groups() == (GroupRecord("ops", Role.ADMIN),)
    with pytest.raises(NotFoundError, match="dev"):
        store.unmap_group("dev", ENTRY)
    assert len(store.entries(10)) == 4


def test_an_owner_keeps_its_scope(store: Store) -> None:
    owner = OperatorRecord("olga", Role.OWNER, "ab", 5, Tags.of({"app": "shop"}))
    store.add_operator(owner, ENTRY)
    assert store.operator("olga") == owner


def test_decisions_about_suggestions_are_kept_and_replaced(store: Store) -> None:
    accepted = DecisionRecord("aa", "accepted", "ann", 5, "", "rule", "rule")
    rejected = DecisionRecord("bb", "rejected", "bob", 4, "no", "other")
    for decision in (accepted, rejected):
        store.decide(decision, ENTRY)
    assert store.decisions() == (rejected, accepted)
    changed = replace(accepted, verdict="edited", at_us=9, decided="narrower")
    store.decide(changed, ENTRY)
    assert store.decisions() == (rejected, changed)
    store.forget_decision("bb", ENTRY)
    assert store.decisions() == (changed,)
    with pytest.raises(NotFoundError, match="bb"):
        store.forget_decision("bb", ENTRY)
    assert len(store.entries(10)) == 4
