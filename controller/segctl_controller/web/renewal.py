"""ID tokens of sessions, renewed in time, so that nobody has to sign in again every few minutes; and given back."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from segctl.oidcweb import WebError, fetch_json, post_form, token_claims

from segctl_controller.clock import Clock
from segctl_controller.web.sessions import Renewal, Session, Sessions

EARLY_US = 60_000_000
"""Before the end of an ID token, from when on it is renewed; of one that lasts less than twice as long, half of it."""
AGAIN_US = 10_000_000
"""After the provider could not be asked."""
POLL_SECONDS, PATIENCE = 0.2, 10.0
"""While another controller renews it, and how long we wait for that."""
log = logging.getLogger(__name__)


def due_us(until_us: int, now_us: int) -> int:
    """When an ID token that ends then should be renewed."""
    return until_us - min(EARLY_US, (until_us - now_us) // 2)


async def renew(session: Session, sessions: Sessions, clock: Clock) -> None:
    """Ends the session when the provider does not want it to go on. What the new token is worth, the gate judges.

    A visitor who leaves meanwhile stops nothing: the provider may have exchanged the refresh token for another.
    """
    if not _due(session, clock):
        return
    if session.renewing is None or session.renewing.done():
        session.renewing = asyncio.create_task(_renew(session, sessions, clock), name="renewal")
    await asyncio.shield(session.renewing)


def _due(session: Session, clock: Clock) -> bool:
    return session.renewal is not None and clock.now_us() >= session.renewal.due_us


async def _renew(session: Session, sessions: Sessions, clock: Clock) -> None:
    """One controller renews: at many providers a refresh token is good once, and whoever shows it again loses all."""
    began = time.monotonic()
    while not await sessions.lease(session):
        if time.monotonic() - began > PATIENCE:  # its clock may be ahead of ours; the token is good until it ends
            log.warning("a sign-in of %s was not renewed: another controller has been at it for too long", session.name)
            if session.renewal is not None:
                session.renewal = replace(session.renewal, due_us=clock.now_us() + AGAIN_US)
            return
        await asyncio.sleep(POLL_SECONDS)
        await sessions.look(session)
        if not _due(session, clock):
            return
    known = session.renewal
    if known is not None:
        await _exchange(session, sessions, clock, known)


async def _exchange(session: Session, sessions: Sessions, clock: Clock, known: Renewal) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": known.refresh_token, "client_id": known.client_id}
    try:
        answer = await asyncio.to_thread(fetch_json, known.token_endpoint, form)
    except WebError as error:
        log.info("a sign-in of %s was not renewed: %s", session.name, error)
        if error.code:
            await sessions.drop(session)
        else:  # the provider is away: the token that we have is good until it ends
            await sessions.keep(session, session.token, replace(known, due_us=clock.now_us() + AGAIN_US))
        return
    token, refresh = answer.get("id_token"), answer.get("refresh_token") or known.refresh_token
    claims = token_claims(token) if isinstance(token, str) else {}
    until = claims.get("exp")
    if f"oidc {claims.get('sub')}" != session.identity or not isinstance(until, int) or not isinstance(refresh, str):
        log.info("a sign-in of %s was not renewed: the provider gave no ID token of the same user", session.name)
        await sessions.drop(session)
        return
    renewed = replace(known, refresh_token=refresh, due_us=due_us(until * 1_000_000, clock.now_us()))
    if not await sessions.keep(session, str(token), renewed):  # it was ended meanwhile
        await give_back(renewed)


async def give_back(known: Renewal) -> None:
    """Nobody can renew the sign-in any more, where the provider revokes refresh tokens."""
    if not known.revocation_endpoint:
        return
    form = {"token": known.refresh_token, "token_type_hint": "refresh_token", "client_id": known.client_id}
    try:
        await asyncio.to_thread(post_form, known.revocation_endpoint, form)
    except WebError as error:
        log.warning("a sign-out is not known to the provider: %s", error)
