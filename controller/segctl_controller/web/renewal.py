"""ID tokens of sessions, renewed in time, so that nobody has to sign in again every few minutes."""

from __future__ import annotations

import asyncio
import logging

from segctl.oidcweb import WebError, fetch_json, token_claims

from segctl_controller.clock import Clock
from segctl_controller.web.sessions import Renewal, Session

EARLY_US = 60_000_000
"""Before the end of an ID token, from when on it is renewed."""
log = logging.getLogger(__name__)


async def renew(session: Session, clock: Clock) -> None:
    """Ends the session when the provider does not want it to go on. What the new token is worth, the gate judges."""
    async with session.renewing:
        known = session.renewal
        if known is None or known.until_us - clock.now_us() > EARLY_US:
            return
        form = {"grant_type": "refresh_token", "refresh_token": known.refresh_token, "client_id": known.client_id}
        try:
            answer = await asyncio.to_thread(fetch_json, known.token_endpoint, form)
        except WebError as error:
            log.info("a sign-in of %s was not renewed: %s", session.name, error)
            if error.code:
                session.end()
            return  # the provider is away: the token that we have is good until it ends
        token, refresh = answer.get("id_token"), answer.get("refresh_token") or known.refresh_token
        claims = token_claims(token) if isinstance(token, str) else {}
        until = claims.get("exp")
        if (
            f"oidc {claims.get('sub')}" != session.identity
            or not isinstance(until, int)
            or not isinstance(refresh, str)
        ):
            log.info("a sign-in of %s was not renewed: the provider gave no ID token of the same user", session.name)
            session.end()
            return
        if session.token:  # it may have been ended meanwhile
            session.token = str(token)
            session.renewal = Renewal(known.client_id, known.token_endpoint, refresh, until * 1_000_000)
