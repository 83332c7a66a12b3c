"""The live sessions, and what they mean for the fleet: membership, proofs and refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Protocol

from segctl.errors import SegctlError, StateError
from segctl.logs import Event, about
from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2

from segctl_controller.clock import Clock
from segctl_controller.contest import Origin
from segctl_controller.errors import StoppingError, UnauthenticatedError
from segctl_controller.facts import Claims, judge
from segctl_controller.fleet import Fleet, Refusal, Standing
from segctl_controller.reachable import Reachable
from segctl_controller.revocation import Revocations
from segctl_controller.serials import adoption, in_use
from segctl_controller.slices import AT_ONCE
from segctl_controller.store.records import Entry, EventRecord, FactsRecord, HostRecord, ProofRecord
from segctl_controller.store_thread import Gather, StoreThread
from segctl_controller.trial import Order

MOST_ERRORS = 32
LONGEST_ERROR = 512
log = logging.getLogger(__name__)


class LiveSession(Reachable, Protocol):
    """What the registry needs of a stream."""

    @property
    def origin(self) -> Origin: ...
    @property
    def lives(self) -> bool: ...
    def offer(self, orders: tuple[Order, ...], withdrawn: str = "") -> None: ...
    def withdraw(self, generation: int, digest: str, reason: str) -> None: ...
    def repeat(self) -> None: ...
    def renew_soon(self, within: int) -> None: ...
    def end(self, reason: SegctlError) -> None: ...


class Registry:
    """One live session a host. All methods run on the event loop."""

    def __init__(self, fleet_of: Callable[[Callable[[str], None]], Fleet], db: StoreThread, clock: Clock) -> None:
        self.fleet = fleet_of(self._offer)
        self._db = db
        self._clock = clock
        self._sessions: dict[str, LiveSession] = {}
        self._claims: dict[str, Claims] = {}
        self._versions: dict[str, str] = {}
        self._facts: Gather[FactsRecord] = Gather(lambda told: db.call(db.store.set_facts, told))
        self._proofs: Gather[ProofRecord] = Gather(lambda proofs: db.call(db.store.add_proofs, proofs))
        self._proved: dict[str, ProofRecord] = {}
        self._left: dict[str, int] = {}
        self._due: dict[str, str] = {}
        self._offering: asyncio.Task[None] | None = None
        self.controller_addresses: tuple[Address, ...] = ()
        self.revocations = Revocations()
        self.closed: Callable[[], str] = lambda: ""
        """Why no session may begin; empty: they may."""
        self.distant: Callable[[str], Reachable | None] = lambda _host: None
        """Of a host that another controller has."""

    def admit(self) -> None:
        """Raises StoppingError while no session may begin: the agent goes on to the next controller."""
        why = self.closed()
        if why:
            raise StoppingError(why)

    @property
    def sessions(self) -> Mapping[str, LiveSession]:
        return self._sessions

    def session(self, host: str) -> LiveSession | None:
        return self._sessions.get(host)

    def reach(self, host: str) -> Reachable | None:
        """None: it is connected nowhere."""
        return self._sessions.get(host) or self.distant(host)

    def verify(self, host: str, serial: str, issued_us: int = 0) -> HostRecord:
        """Raises UnauthenticatedError for a host that was removed or whose certificate was replaced. The first use of a
        new certificate ends the one before. `issued_us`: see Caller."""
        record = self.fleet.hosts.get(host)
        if record is None:
            raise UnauthenticatedError(
                f"host {host!r} is not enrolled, or was removed; to bring it back, enrol it with a new token"
            )
        if record.serial == serial and not record.restored_us:
            return record
        use = in_use(record, serial, issued_us)
        if use is None:
            raise UnauthenticatedError(
                f"the certificate of host {host!r} was replaced by a later enrolment or renewal; if this is the right "
                "machine, enrol it again with a token made with --replace"
            )
        entry = adoption(record, serial, issued_us, self._clock.now_us())
        # In memory at once; should the store not have it before a restart, the next use decides in the same way.
        self.fleet.put_host(use)
        self._db.post(self._db.store.set_certificate, host, record.serial, use.serial, use.renewal, entry)
        return use

    def register(self, session: LiveSession, hello: agent_pb2.Hello, reason: SegctlError) -> None:
        """Make the session the host's live one; an older one ends with `reason`."""
        older = self._sessions.get(session.host)
        if older is not None:
            self._contested(older, session.origin)
            older.end(reason)
        self._sessions[session.host] = session
        self._versions[session.host] = hello.agent_version
        standing = self.fleet.standing(session.host)
        standing.connected = True
        standing.refusal = None
        # What was proved on another stream may no longer be so: the agent proves again what it is sent.
        standing.proof = None
        standing.staged = standing.stored = ""
        standing.holds = hello.confirmed
        standing.released = _release(hello.released)
        if hello.HasField("trial_ended"):
            self._ended(standing, hello.trial_ended)
        standing.elsewhere = ""
        session.offer(self.fleet.orders(session.host))
        if hello.generation > hello.confirmed and self.fleet.holds_nothing(session.host):
            # Else it is sent what it must hold, which ends a trial.
            session.withdraw(hello.generation, hello.digest, self.fleet.withdrawn or "it is on trial no more")
        self.fleet.notify(session.host)

    def displace(self, host: str, newer: Origin, reason: SegctlError) -> None:
        """The host has a session with another controller, which is newer than the one here."""
        older = self._sessions.get(host)
        if older is not None:
            self._contested(older, newer)
            self.expel(host, reason)

    def elsewhere(self, host: str) -> None:
        """The host proves at another controller what is stored next."""
        self._proved.pop(host, None)

    def _contested(self, older: LiveSession, newer: Origin) -> None:
        host, now = older.host, self._clock.now_us()
        contest = self.fleet.standing(host).contest
        if not contest.replaced(older.origin, newer, older.lives, now):
            return
        message = contest.problem(host, now)
        log.warning("identity host=%s: %s", host, message, extra=about(Event.IDENTITY, host=host))
        entry = Entry(now, f"host {host}", "identity-contested", f"host {host}", contest.why)
        self._db.post(self._db.store.add_event, EventRecord(host, "identity", message, now), entry)

    def unregister(self, session: LiveSession) -> None:
        if self._sessions.get(session.host) is not session:
            return
        del self._sessions[session.host]
        self._claims.pop(session.host, None)
        record = self.fleet.hosts.get(session.host)
        if record is None:
            return
        now = self._clock.now_us()
        self.fleet.hosts[session.host] = replace(record, last_seen_us=now)
        self.fleet.standing(session.host).connected = False
        self.fleet.notify(session.host)
        if not self._left:
            asyncio.get_running_loop().call_soon(self._store_left)
        self._left[session.host] = now

    def _store_left(self) -> None:
        """Once for all sessions that ended at the same time."""
        left, self._left = self._left, {}
        self._db.post(self._db.store.seen, left)

    def _offer(self, host: str) -> None:
        """A few sessions at a time: a thousand that are woken at once would keep the loop from everything else."""
        if host not in self._sessions:
            return
        # Why a trial was undone must not get lost when the next one begins before this host was told.
        self._due[host] = self.fleet.withdrawn or self._due.get(host, "")
        if self._offering is None:
            self._offering = asyncio.get_running_loop().create_task(self._offer_due(), name="offer")

    async def _offer_due(self) -> None:
        try:
            while self._due:
                for host in [*islice(self._due, AT_ONCE)]:
                    withdrawn = self._due.pop(host)
                    session = self._sessions.get(host)
                    if session is not None:
                        session.offer(self.fleet.orders(host), withdrawn)
                await asyncio.sleep(0)
        finally:
            self._offering = None

    def close(self, reason: SegctlError) -> None:
        """End every session, so that a controller that stops need not wait for streams that never end."""
        for session in tuple(self._sessions.values()):
            session.end(reason)

    def end(self, host: str, reason: SegctlError) -> None:
        """End its session, if it has one: its agent comes back, here or to another controller."""
        session = self._sessions.get(host)
        if session is not None:
            session.end(reason)

    def expel(self, host: str, reason: SegctlError) -> None:
        session = self._sessions.pop(host, None)
        self._claims.pop(host, None)
        self._proved.pop(host, None)  # the store forgets it, too
        self.revocations.revoke(host, reason)
        if session is not None:
            session.end(reason)
            self.fleet.notify(host)

    async def claim(self, session: LiveSession, claims: Claims) -> None:
        """Judge the facts of a live session; accepted addresses become the host's."""
        if self._sessions.get(session.host) is not session:
            return
        self._claims[session.host] = claims
        released = await self._judge(session, claims)
        if released:
            await self.reconsider()

    async def reconsider(self) -> None:
        """Judge again what was refused: a holder let go of an address, was removed, or the policy changed."""
        for host in [h for h in self._claims if self.fleet.standing(h).refused_addresses]:
            session = self._sessions.get(host)
            if session is not None:
                await self._judge(session, self._claims[host])

    async def rejudge(self, host: str) -> None:
        """An address of the host turned out to be another's."""
        session, claims = self._sessions.get(host), self._claims.get(host)
        if session is not None and claims is not None:
            await self._judge(session, claims)

    async def _judge(self, session: LiveSession, claims: Claims) -> bool:
        """True when the host let go of an address."""
        record = self.fleet.hosts.get(session.host)
        if record is None:
            return False
        essentials = self.fleet.active.policy.essentials
        judged = judge(
            record, claims.addresses, self.fleet.holders, essentials, self.controller_addresses, session.origin.source
        )
        now = self._clock.now_us()
        version = self._versions.get(session.host, "")
        told = FactsRecord(session.host, judged.accepted, version, claims.facts, now)
        # In memory first and without waiting: two hosts that claim one address must not both find it free.
        self.fleet.put_host(
            replace(record, addresses=told.addresses, agent_version=version, facts=told.facts, last_seen_us=told.at_us)
        )
        standing = self.fleet.standing(session.host)
        news = [pair for pair in judged.refused if pair not in standing.refused_addresses]
        if judged.refused != standing.refused_addresses:
            standing.refused_addresses = judged.refused
            self.fleet.notify(session.host)
        if (record.addresses, record.agent_version, record.facts) != (told.addresses, version, told.facts):
            await self._keep(self._facts.add(told))
        await self._announce(session.host, news, now)
        return bool(set(record.addresses) - set(judged.accepted))

    async def _announce(self, host: str, refused: Iterable[tuple[Address, str]], now: int) -> None:
        for address, why in refused:
            told = about(Event.ADDRESS_REFUSED, host=host)
            log.warning("address refused host=%s address=%s: %s", host, address, why, extra=told)
            message = f"claims {address}: refused: {why}"
            entry = Entry(now, f"host {host}", "address-refused", str(address), why)
            await self._keep(self._db.call(self._db.store.add_event, EventRecord(host, "facts", message, now), entry))

    async def _keep(self, stored: Awaitable[object]) -> bool:
        """Store what an agent said. A full disk must not end its session, on which policies and expiries reach it."""
        try:
            await stored
            return True
        except StateError as error:
            log.error("kept in memory only, until the next restart: %s", error, extra=about(Event.STORE))
            return False

    def staged(self, session: LiveSession, digest: str, errors: Iterable[str]) -> None:
        """The host keeps the policy `digest` ready, or would have to refuse it."""
        if self._sessions.get(session.host) is not session:
            return
        standing = self.fleet.standing(session.host)
        texts = bounded(errors)
        if texts:
            standing.refusal = Refusal(digest, texts)
            told = about(Event.POLICY_REFUSED, host=session.host)
            log.warning("not staged host=%s: %s", session.host, texts[0], extra=told)
        else:
            standing.staged = digest
        self.fleet.notify(session.host)

    def took_back(self, session: LiveSession, ended: agent_pb2.TrialEnded) -> None:
        """The host's agent returned by itself to the generation before."""
        if self._sessions.get(session.host) is not session:
            return
        standing = self.fleet.standing(session.host)
        self._ended(standing, ended)
        standing.proof = None
        told = about(Event.TAKEN_BACK, host=session.host, generation=standing.ended[0])
        log.warning("took back host=%s generation=%d: %s", session.host, *standing.ended, extra=told)
        session.repeat()
        if not self.fleet.takes_part(session.host):
            self._offer(session.host)  # it was confirmed meanwhile, or is undone
        self.fleet.notify(session.host)

    @staticmethod
    def _ended(standing: Standing, ended: agent_pb2.TrialEnded) -> None:
        standing.ended = (ended.generation, next(iter(bounded((ended.reason,))), "it did not say why"))

    async def proved(
        self, session: LiveSession, proof: ProofRecord, notes: Iterable[str], *, stored: bool = False
    ) -> None:
        """Stored first; then it counts, unless a newer session of the host began meanwhile. `stored`: on the host's
        disk, too."""
        host = session.host
        before = self._proved.get(host)
        news = before is None or replace(before, at_us=proof.at_us) != proof
        if news and await self._keep(self._proofs.add(proof)) and host in self.fleet.hosts:
            self._proved[host] = proof
        standing = self.fleet.standing(host)
        if self._sessions.get(host) is not session or standing.released:
            return
        standing.proof, standing.refusal = proof, None
        standing.notes = bounded(notes)
        if stored:
            standing.stored = proof.digest
            standing.holds = max(standing.holds, proof.generation)
        if before is None or before.generation != proof.generation:  # and not each time that a host joins a group
            told = about(Event.PROVED, host=host, generation=proof.generation, digest=proof.digest)
            words = "proved host=%s generation=%d kernel=%s"
            log.info(words, host, proof.generation, proof.kernel_digest[:12], extra=told)
        self.fleet.notify(host)

    async def refused(self, session: LiveSession, generation: int, digest: str, errors: Iterable[str]) -> None:
        host = session.host
        texts = bounded(errors) or ("the agent gave no reason; see its log",)
        now = self._clock.now_us()
        message = f"refused generation {generation}: {'; '.join(texts)}"
        entry = Entry(now, f"host {host}", "refused", f"generation {generation}", "; ".join(texts)[:1000])
        event = EventRecord(host, "kernel", message[:2000], now)
        await self._keep(self._db.call(self._db.store.add_event, event, entry))
        if self._sessions.get(host) is not session:
            return
        standing = self.fleet.standing(host)
        standing.refusal = Refusal(digest, texts)
        if standing.proof is not None and standing.proof.digest == digest:
            standing.proof = None  # what it proved once it cannot hold any more
        told = about(Event.POLICY_REFUSED, host=host, generation=generation, digest=digest)
        log.warning("refused host=%s generation=%d: %s", host, generation, texts[0], extra=told)
        self.fleet.notify(host)

    def resend(self, session: LiveSession) -> None:
        """The host does not have what a change of members was to change."""
        if self._sessions.get(session.host) is session:
            session.repeat()
            self._offer(session.host)

    def in_force(self, session: LiveSession, released: str) -> None:
        """An operator of the host took the rules off it (`released`: who and when), or ended that (empty), or what was
        proved may hold no more (empty, too): then it is sent its policy again, and proves or refuses it."""
        if self._sessions.get(session.host) is not session:
            return
        standing = self.fleet.standing(session.host)
        standing.proof, standing.refusal, standing.notes = None, None, ()
        standing.released = _release(released)
        told = about(Event.RELEASED, host=session.host)
        words = standing.released or "is not released: it is sent its policy again"
        log.warning("host=%s %s", session.host, words, extra=told)
        session.repeat()
        if not standing.released:
            self._offer(session.host)
        self.fleet.notify(session.host)

    def load(self, hosts: Iterable[HostRecord], proofs: dict[str, ProofRecord]) -> None:
        self._proved = dict(proofs)
        for record in hosts:
            self.fleet.put_host(record)
            self.fleet.standings[record.name] = Standing(proof=proofs.get(record.name))


def _release(words: str) -> str:
    return next(iter(bounded((words,))), "") if words else ""


def bounded(texts: Iterable[str]) -> tuple[str, ...]:
    """What an agent says, in single short lines."""
    return tuple(" ".join(text[:LONGEST_ERROR].split()) for text, _ in zip(texts, range(MOST_ERRORS), strict=False))
