"""Who we are, API tokens, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from segctl.cli.output import Cell, Line, ago, ahead, bad, bold, count, dim, good, line, note, stamp, table
from segctl.cli.output_hosts import tags
from segctl.cli.views_access import ApiToken, AuditEntry, AuditProof, NewApiToken, WhoAmI

ENDS_SOON = timedelta(days=30)
SHOWN = 12
"""Letters of a hash that a person needs to tell it from others."""


def render_whoami(who: WhoAmI, now: datetime) -> list[Line]:
    owned = " or ".join(map(tags, who.scopes))
    part: list[Cell] = [bold(owned), " in "] if owned else []
    role: list[Cell] = [good(who.role), " of ", *part, f"the fleet {who.fleet}"]
    lines = [
        line(bold(who.name), ", ", *role),
        line(dim(f"controller {who.controller}, version {who.controller_version}")),
    ]
    if who.certificate_until is not None:
        until = f"your certificate ends {who.certificate_until:%Y-%m-%d}"
        if who.certificate_until - now > ENDS_SOON:
            return [*lines, line(dim(until))]
        lines.append(line(bad(until), f": have it renewed, segctl-controller admin renew {who.name} --out DIR"))
    elif who.until is not None:
        lines.append(line(dim(f"by {who.identity}, which ends {ahead(who.until, now)}")))
    return lines


def render_audit(entries: Sequence[AuditEntry], width: int, wide: bool = False) -> list[Line]:
    if not entries:
        return [line("The audit log holds no such entry.")]
    rows: list[list[Cell]] = [
        [
            str(e.sequence),
            stamp(e.at),
            e.actor,
            bold(e.action),
            e.subject,
            *([e.peer or dim("-"), e.identity or dim("-"), dim(e.hash[:SHOWN])] if wide else []),
            e.detail,
        ]
        for e in entries
    ]
    more = ("FROM", "SHOWING", "HASH") if wide else ()
    headers = ("SEQ", "TIME (UTC)", "WHO", "DID", "TO", *more, "DETAIL")
    return table(headers, rows, 0 if wide else width, last_gives=True)


def render_proof(proof: AuditProof) -> list[Line]:
    since = f", and holds the head {proof.since[:SHOWN]} that was noted" if proof.since else ""
    return [
        line(good("The audit log is whole"), f": {count(proof.entries, 'entry', 'entries')}{since}."),
        line("  head  ", bold(proof.head)),
        line("  ", note("→ "), f"note it elsewhere; later: segctl audit verify --since-head {proof.head[:SHOWN]}"),
    ]


def render_api_tokens(tokens: Sequence[ApiToken], now: datetime, width: int) -> list[Line]:
    if not tokens:
        return [line("There is no API token."), line("  ", note("→ "), "segctl api-token create NAME --role ROLE")]
    rows: list[list[Cell]] = [
        [
            t.id,
            bold(t.name),
            t.role,
            tags(t.scope) or dim("the fleet"),
            _expiry(t, now),
            ago(t.last_used, now),
            t.created_by,
        ]
        for t in tokens
    ]
    return table(("TOKEN", "NAME", "ROLE", "SCOPE", "EXPIRES", "USED", "BY"), rows, width)


def _expiry(token: ApiToken, now: datetime) -> Cell:
    words = ahead(token.expires, now)
    return bad(words) if words == "expired" else words


def render_new_api_token(made: NewApiToken, now: datetime) -> list[Line]:
    """What to say of a new API token: never the secret itself."""
    t = made.token
    of = f" of {tags(t.scope)}" if t.scope else ""
    return [
        line(good(f"API token {t.id}"), f" {t.name}, {t.role}{of}, was made and expires {ahead(t.expires, now)}."),
        line(f"  {made.file or 'The line on stdout'} holds it: keep it secret"),
        line("  ", note("→ "), f"use it: SEGCTL_TOKEN_FILE={made.file or 'FILE'} segctl whoami"),
    ]
