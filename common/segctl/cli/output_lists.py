"""The plain lists: generations and join tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segctl.cli.output import Cell, Line, ago, ahead, bold, dim, good, line, note, stamp, table, warn
from segctl.cli.output_hosts import tags
from segctl.cli.views import Generation
from segctl.cli.views_access import NewToken, Token


def render_history(generations: Sequence[Generation], now: datetime, width: int) -> list[Line]:
    if not generations:
        return [line("No policy was pushed yet."), line("  ", note("→ "), "segctl push PATH")]
    rows: list[list[Cell]] = [
        [
            good("*") if g.active else MARKS.get(g.state, " "),
            str(g.number),
            ago(g.created, now),
            g.author,
            dim(g.digest[:12]),
            _message(g),
        ]
        for g in generations
    ]
    return table(("", "GEN", "WHEN", "AUTHOR", "DIGEST", "MESSAGE"), rows, width, last_gives=True)


MARKS: dict[str, Cell] = {"trial": warn("?"), "undone": dim("x")}


def _message(g: Generation) -> str:
    told = ["on trial"] if g.state == "trial" else [f"undone, {g.why}"] if g.state == "undone" else []
    told += [f"rollback to {g.rollback_of}"] if g.rollback_of else []
    return ": ".join([*told, *([g.message] if g.message else [])]) or "-"


def render_generation(g: Generation) -> list[Line]:
    state = (
        good("active") if g.active else {"trial": "on trial", "undone": f"undone: {g.why}"}.get(g.state, "not active")
    )
    lines = [
        line(bold(f"Generation {g.number}"), "  ", state),
        line(dim("  digest   "), g.digest),
        line(dim("  author   "), g.author),
        line(dim("  created  "), f"{stamp(g.created)} UTC"),
        line(dim("  message  "), g.message or "-"),
    ]
    if g.rollback_of:
        lines.append(line(dim("  rollback "), f"to generation {g.rollback_of}"))
    for file in g.files:
        lines += [line(), line(bold(f"# {file.name}")), *(line(text) for text in file.content.splitlines())]
    return lines


def render_tokens(tokens: Sequence[Token], now: datetime, width: int) -> list[Line]:
    if not tokens:
        return [line("No join token is valid now."), line("  ", note("→ "), "segctl token create --tag KEY=VALUE")]
    rows: list[list[Cell]] = [
        [
            t.id,
            ahead(t.expires, now),
            str(t.uses_left),
            t.host or dim("its own name"),
            tags(t.tags) or dim("none"),
            ", ".join(t.networks) or dim("any"),
            t.created_by,
        ]
        for t in tokens
    ]
    return table(("TOKEN", "EXPIRES", "USES", "HOST", "TAGS", "NETWORKS", "BY"), rows, width)


def render_new_token(token: NewToken, now: datetime) -> list[Line]:
    """What to say of a new token: never the secret itself."""
    where = token.file or "The line on stdout"
    enrol = token.file or "FILE"
    return [
        line(good(f"Token {token.id}"), f" was made and expires {ahead(token.expires, now)}."),
        line(f"  {where} holds it: keep it secret"),
        line("  ", note("→ "), f"on the new host: segctl-agent enrol --token-file {enrol}"),
    ]
