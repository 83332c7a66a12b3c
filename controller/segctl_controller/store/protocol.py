"""The store's contract. Every implementation passes tests/contract/test_store.py and test_store_hits.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from segctl.model.policy import Tags

from segctl_controller.store.leadership import Leadership
from segctl_controller.store.notices import Notices
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
    OperatorRecord,
    ProofRecord,
    RuleUse,
    TokenRecord,
    WebSessionRecord,
)

if TYPE_CHECKING:
    from segctl_controller.store.shared import SharedStore

FindHost = Callable[[str], HostRecord | None]
Admit = Callable[[TokenRecord, FindHost], HostRecord]


class Store(Protocol):
    """Synchronous; each method is one transaction and one thread calls at a time. What reads hits takes long, and may
    be called by one second thread.

    A method that takes an `Entry` writes it to the audit log in the same transaction. Raises StoreFullError when the
    disk is full (nothing of the call is stored) and StateError when the database cannot be used.
    """

    def batch(self) -> AbstractContextManager[None]:
        """Makes the calls within it, of the thread that writes, one transaction, durable when it ends. A call that
        raises undoes only what it did itself. What raises at the end, or is raised between the calls, undoes all."""

    def add_generation(self, new: GenerationRecord, expect_base: int, entry: Entry, above: int = 0) -> GenerationRecord:
        """Store under a number of its own, higher than `above`. Raises ConflictError unless `expect_base` is 0 or the
        active number, and while a generation is on trial."""

    def settle(self, number: int, state: GenerationState, why: str, entry: Entry) -> GenerationRecord:
        """What became of the generation on trial. Raises ConflictError when it is not on trial."""

    def generation(self, number: int) -> GenerationRecord | None:
        """One generation with its files; 0: the active one, which is the newest that is confirmed."""

    def generations(self, limit: int) -> tuple[GenerationRecord, ...]:
        """Newest first, without files."""

    def hosts(self) -> tuple[HostRecord, ...]:
        """Sorted by name."""

    def hosts_named(self, names: Collection[str]) -> tuple[HostRecord, ...]:
        """Those of them that are enrolled, sorted by name. `names` are some thousands at most."""

    def enrol(self, sha256: bytes, now_us: int, admit: Admit, entry: Callable[[HostRecord], Entry]) -> HostRecord:
        """Use up one use of the token and store the host that `admit` makes of it.

        Raises EnrolmentError for a token that is unknown, used up or expired. What `admit` raises undoes everything.
        """

    def set_tags(self, name: str, was: Tags, tags: Tags, entry: Entry) -> None:
        """In the place of `was`. Raises NotFoundError, and ConflictError for a host with other ones."""

    def set_facts(self, told: Sequence[FactsRecord]) -> None:
        """What hosts' agents said, after it was judged. Unknown hosts are ignored: they were just removed."""

    def seen(self, at_us: Mapping[str, int]) -> None:
        """When each host was heard last; unknown ones are ignored."""

    def set_certificate(self, name: str, was: str, serial: str, renewal: bytes, entry: Entry | None = None) -> bool:
        """Of the host whose certificate in use `was` that: the one in use, and the one that was given (DER). What a
        restore left open is settled. False, and nothing is stored, when there is no such host any more."""

    def add_told(self, host: str, identifier: str, entry: Entry) -> bool:
        """An audit entry that a host told; False, and nothing is stored, when it told it before or is not enrolled."""

    def mark_restored(self, taken_us: int, entry: Entry) -> None:
        """This database is a backup taken at `taken_us`: which certificates hosts use now is open, and join tokens and
        web sessions, which may be used up, revoked or ended by now, are removed."""

    def remove_host(self, name: str, entry: Entry) -> None:
        """Raises NotFoundError."""

    def add_token(self, token: TokenRecord, entry: Entry) -> None: ...

    def tokens(self, now_us: int) -> tuple[TokenRecord, ...]:
        """Those that can still be used, by expiry."""

    def remove_token(self, token_id: str, entry: Entry) -> None:
        """Raises NotFoundError."""

    def add_operator(self, operator: OperatorRecord, entry: Entry) -> None:
        """Raises AlreadyExistsError."""

    def operators(self) -> tuple[OperatorRecord, ...]: ...

    def operator(self, name: str) -> OperatorRecord | None: ...

    def renew_operator(self, name: str, serial: str, entry: Entry) -> None:
        """Another certificate, the same role. Raises NotFoundError."""

    def remove_operator(self, name: str, entry: Entry) -> None:
        """Raises NotFoundError."""

    def add_proofs(self, proofs: Sequence[ProofRecord]) -> None:
        """One after the other; each is appended unless it only repeats the last one of an enrolled host. Of a host with
        more than it may keep the oldest go, now and then."""

    def last_proofs(self) -> dict[str, ProofRecord]:
        """The newest one of each host that is enrolled."""

    def proofs(self, host: str, limit: int) -> tuple[ProofRecord, ...]:
        """Newest first."""

    def add_batch(self, batch: Batch) -> tuple[DenialRecord, ...] | None:
        """The denials as they are now stored, aggregated; None when this batch was stored before.

        Hits are totals, not increments: of each host, rule and direction the largest that was told counts. What a host
        told before it was enrolled anew is added to it.
        """

    def denials(self, wanted: DenialFilter) -> tuple[DenialRecord, ...]:
        """The newest, oldest first."""

    def lost(self, host: str, since_us: int) -> int:
        """How many denials were counted but never described; `host` empty: of all."""

    def rule_use(self, rule: str) -> tuple[RuleUse, ...]:
        """Every rule with a hit, by name; `rule` empty: all."""

    def rules_hit(self, host: str) -> frozenset[str]:
        """The rules that the host has told hits of, in either direction."""

    def add_event(self, event: EventRecord, entry: Entry | None = None) -> None: ...

    def events(self, limit: int) -> tuple[EventRecord, ...]:
        """Newest first."""

    def add_entry(self, entry: Entry) -> None: ...

    def entries(self, limit: int, wanted: EntryFilter = EVERY_ENTRY) -> tuple[Entry, ...]:
        """Of the audit log. Each holds the hash of the one before it: see segctl.auditchain."""

    def add_api_token(self, token: ApiTokenRecord, entry: Entry) -> None:
        """Raises AlreadyExistsError for a name that a token has."""

    def api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        """By name, those that have expired too."""

    def api_token(self, sha256: bytes) -> ApiTokenRecord | None: ...

    def use_api_token(self, token_id: str, at_us: int) -> None:
        """It was used. Unknown ones are ignored: it was just revoked."""

    def remove_api_token(self, token_id: str, entry: Entry) -> None:
        """With the web sessions that were begun with it. Raises NotFoundError."""

    def add_web_session(self, session: WebSessionRecord, used_us: int, began_us: int) -> None:
        """Those that were used or begun before these times go, and the least used ones where there are too many."""

    def web_session(self, identifier: bytes) -> WebSessionRecord | None: ...

    def use_web_session(self, identifier: bytes, at_us: int) -> None:
        """Unknown ones are ignored: it was just ended."""

    def lease_web_session(self, identifier: bytes, version: int, now_us: int, until_us: int) -> bool:
        """Whether it is still of this version, and nobody had a lease of it, who asks has one now."""

    def keep_web_session(self, identifier: bytes, version: int, sealed: bytes) -> bool:
        """In the place of what it held in this version; the lease ends. False, and nothing is stored, when it is of
        another one or was ended."""

    def end_web_session(self, identifier: bytes) -> WebSessionRecord | None:
        """The one that was ended by this."""

    def groups(self) -> tuple[GroupRecord, ...]:
        """By name."""

    def map_group(self, group: GroupRecord, entry: Entry) -> None:
        """Raises AlreadyExistsError when it is mapped so."""

    def unmap_group(self, name: str, entry: Entry) -> None:
        """All that the group was given. Raises NotFoundError."""

    def decide(self, decision: DecisionRecord, entry: Entry) -> None:
        """In the place of what was decided of that suggestion before. Raises LimitError when there are too many."""

    def decisions(self) -> tuple[DecisionRecord, ...]:
        """The oldest first."""

    def forget_decision(self, identifier: str, entry: Entry) -> None:
        """Raises NotFoundError."""

    def prove_writable(self) -> None:
        """A durable write that changes nothing."""

    def notices(self) -> Notices:
        """What other processes change in the same database; not this store."""

    def leadership(self) -> Leadership:
        """Among the processes that have the same database."""

    def shared(self) -> SharedStore | None:
        """What controllers that have the same database tell each other. None: there is only one."""

    def close(self) -> None: ...
