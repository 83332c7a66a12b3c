"""Who may do what on the Admin service: the role is in the store, by the certificate's name and serial number, by the
hash of an API token, or by the groups of an ID token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import TypeVar

from segctl.errors import SegctlError, StateError

from segctl_controller.bearers import NO_TOKEN, Bearers
from segctl_controller.clock import Clock
from segctl_controller.enrolment import FailureLimit, Quota, peer_network
from segctl_controller.errors import ForbiddenError, LimitError, ProviderError, UnauthenticatedError
from segctl_controller.limits import LIMITS, METHOD, Limit
from segctl_controller.pace import BoundedPaces
from segctl_controller.principal import Principal
from segctl_controller.revocation import RECHECK
from segctl_controller.rpc import Context, Refusing, caller_of, source_address
from segctl_controller.store.records import Entry, Role
from segctl_controller.store_thread import StoreThread

PATIENCE = 2.0
"""Seconds for which a call over its rate waits instead of being refused."""
FAILURES = 60
"""A minute and source address, before nothing more of it is even looked at."""
RECORDED, RECORDED_OF_ONE, WINDOW = 100, 10, 60.0
"""Refusals a minute that reach the audit log, of all and of one source: it must not fill the disk."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Gate:
    def __init__(self, fleet: str, db: StoreThread, clock: Clock | None = None, bearers: Bearers | None = None) -> None:
        self._fleet = fleet
        self._db = db
        self._clock = clock or Clock()
        self._bearers = bearers
        self._failures = FailureLimit(most=FAILURES)
        self._paces, self._recordings = BoundedPaces(), BoundedPaces()
        self._recorded = Quota(RECORDED, WINDOW)
        self._open: set[Passage] = set()

    async def admit(self, context: Context, need: Role) -> Principal:
        """Read from the store at each call, so that taking rights away works at once.

        Raises UnauthenticatedError for who is unknown, replaced, revoked or expired, ForbiddenError without the role,
        LimitError for a source address from which too many were not let in.
        """
        network = peer_network(source_address(context))
        self._failures.admit(network)
        who: Principal | None = None
        try:
            who = await self._who(context)
            who.require(need)
        except (UnauthenticatedError, ForbiddenError) as error:
            if who is None:
                self._failures.failed(network)
            await self._record(context, network, who, error)
            raise
        return who

    async def _who(self, context: Context) -> Principal:
        if not context.auth_context().get("x509_pem_cert"):
            if self._bearers is None:
                raise UnauthenticatedError("no client certificate was shown")
            return await self._bearers.principal(_bearer(context), _peer(context))
        caller = caller_of(context, self._fleet, "admin")
        operator = await self._db.call(self._db.store.operator, caller.name)
        if operator is None:
            raise UnauthenticatedError(
                f"the operator {caller.name!r} was removed; ask for a new certificate: segctl-controller admin add "
                f"{caller.name}"
            )
        if operator.serial != caller.serial:
            raise UnauthenticatedError(
                f"the operator {caller.name!r} has a newer certificate: use that one, or ask for another: "
                f"segctl-controller admin renew {caller.name} --out DIR"
            )
        scopes = (operator.scope,) if operator.scope.pairs else ()
        identity = f"certificate {caller.serial}"
        return Principal(operator.name, operator.role, identity, _peer(context), scopes, caller.until_us)

    async def _record(self, context: Context, network: str, who: Principal | None, error: SegctlError) -> None:
        one = self._recordings.take((network, ""), RECORDED_OF_ONE / WINDOW, RECORDED_OF_ONE, 0.0)
        if one is None or not self._recorded.take():
            log.warning("refused and, one of many, not in the audit log: peer=%s", _peer(context))
            return
        method, detail, now = METHOD.get().rpartition("/")[2], str(error)[:400], self._clock.now_us()
        entry = Entry(now, f"peer {_peer(context)}", "access-refused", method, detail, peer=_peer(context))
        try:
            known = who.entry(now, "access-refused", method, detail) if who is not None else entry
            await self._db.call(self._db.store.add_entry, known)
        except StateError as full:
            log.error("refused and not in the audit log: peer=%s: %s", _peer(context), full)

    async def pace(self, who: Principal) -> Limit | None:
        """Wait a little, or raise LimitError, where the caller calls this method more often than it may."""
        limit = LIMITS.get(METHOD.get())
        if limit is not None:
            name = METHOD.get().rpartition("/")[2]
            wait = self._paces.take((who.identity, METHOD.get()), limit.rate, limit.burst, PATIENCE)
            if wait is None:
                raise LimitError(f"{who.name!r} calls {name} too often: at most {limit.rate:g} a second; wait")
            if limit.streams and self._streams(who) >= limit.streams:
                raise LimitError(f"{who.name!r} has {limit.streams} of {name} open already; end one of them")
            await asyncio.sleep(wait)
        return limit

    def _streams(self, who: Principal) -> int:
        return sum(p.method == METHOD.get() and p.identity == who.identity for p in self._open)

    def look_again(self) -> None:
        """Somebody's rights were taken away: the streams that are open are looked at now."""
        for passage in self._open:
            passage.wake.set()

    def began(self, passage: Passage) -> None:
        self._open.add(passage)

    def ended(self, passage: Passage) -> None:
        self._open.discard(passage)

    def open(self, context: Context, need: Role) -> Passage:
        """The body of every Admin method: admit the caller, and turn errors into statuses."""
        return Passage(self, context, need)


class Passage(Refusing):
    """`async with` it: the admitted caller. What a stream waits for, it awaits by `within` or `each`: they end it, with
    the reason, when the caller's rights do. A task that is cancelled instead could be anywhere in gRPC, and the
    client would wait for a status in vain."""

    def __init__(self, gate: Gate, context: Context, need: Role) -> None:
        super().__init__(context)
        self._gate = gate
        self._need = need
        self.method, self.identity = METHOD.get(), ""
        self.wake = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[SegctlError] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Principal:  # type: ignore[override]
        await super().__aenter__()
        try:
            who = await self._gate.admit(self._context, self._need)
            limit = await self._gate.pace(who)
        except SegctlError as error:
            await super().__aexit__(type(error), error, None)
            raise
        if limit is not None and limit.streams:
            self.identity = who.identity
            self._gate.began(self)
            self._watch = asyncio.create_task(self._look_again(), name="rights")
        return who

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._gate.ended(self)
        if self._watch is not None:
            self._watch.cancel()
        await super().__aexit__(kind, error, trace)

    async def within(self, work: Awaitable[T]) -> T:
        """Its result. Raises what the caller's rights ended with, as soon as they do."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise self._lost.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def each(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Every item, each awaited by `within`."""
        while True:
            try:
                item = await self.within(anext(items))
            except StopAsyncIteration:
                return
            yield item

    async def _look_again(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK):
                    await self.wake.wait()
            self.wake.clear()
            try:
                await self._gate.admit(self._context, self._need)
            except (StateError, ProviderError):
                continue  # store or provider are in trouble: nobody's rights were taken
            except SegctlError as lost:
                self._lost.set_result(lost)
                return


def _peer(context: Context) -> str:
    return str(source_address(context) or "unknown")


def _bearer(context: Context) -> str:
    """RFC 6750, 2.1. Raises UnauthenticatedError."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(found) != 1:
        raise UnauthenticatedError(NO_TOKEN if not found else "several tokens were shown; show one")
    scheme, _, token = (found[0] if isinstance(found[0], str) else "").partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError("the metadata `authorization` is not: Bearer TOKEN")
    return token.strip()
