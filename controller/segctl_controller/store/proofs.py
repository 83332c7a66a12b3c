"""Proofs in SQL: what each host proved to hold, the newest ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, true

from segctl_controller.store.records import ProofRecord
from segctl_controller.store.tables import hosts, proofs

_COLUMNS = (proofs.c.host, proofs.c.generation, proofs.c.digest, proofs.c.kernel_digest, proofs.c.at_us)
_NAMES = tuple(c.name for c in _COLUMNS)


def add(connection: Connection, told: Sequence[ProofRecord], keep: int) -> None:
    """See Store.add_proofs."""
    names = sorted({proof.host for proof in told})
    last = {p.host: (p.generation, p.digest, p.kernel_digest) for p in _last(connection, hosts.c.name.in_(names))}
    new: list[dict[str, Any]] = []
    for p in told:
        what = (p.generation, p.digest, p.kernel_digest)
        if last.get(p.host) != what:
            last[p.host] = what
            # By hand: asdict() of each takes longer than to store it.
            new.append(
                dict(zip(("generation", "digest", "kernel_digest"), what, strict=True), host=p.host, at_us=p.at_us)
            )
    if new:
        connection.execute(insert(proofs), new)
        _trim(connection, sorted({one["host"] for one in new}), keep)


def _trim(connection: Connection, names: Sequence[str], keep: int) -> None:
    """The oldest go. To find them is a walk over all that a host may keep, so it is done by chance, for one proof in so
    many: until then a host has as many too many, on average."""
    every = max(1, keep // 32)
    for name in [name for name in names if random.randrange(every) == 0]:  # noqa: S311  no secret
        kept = select(proofs.c.id).where(proofs.c.host == name).order_by(proofs.c.id.desc())
        newest_gone = connection.scalar(kept.offset(keep).limit(1))
        if newest_gone is not None:
            connection.execute(delete(proofs).where(proofs.c.host == name, proofs.c.id <= newest_gone))


def last(connection: Connection) -> dict[str, ProofRecord]:
    """Of each host that is enrolled."""
    return {proof.host: proof for proof in _last(connection, true())}


def newest(connection: Connection, host: str, limit: int) -> tuple[ProofRecord, ...]:
    wanted = select(*_COLUMNS).where(proofs.c.host == host).order_by(proofs.c.id.desc()).limit(limit)
    return tuple(ProofRecord(*row) for row in connection.execute(wanted))


def _last(connection: Connection, which: ColumnElement[bool]) -> list[ProofRecord]:
    """A look into the index for each host: a maximum by groups would walk over everything that is kept."""
    newest = select(func.max(proofs.c.id)).where(proofs.c.host == hosts.c.name).correlate(hosts).scalar_subquery()
    ids = select(newest).select_from(hosts).where(which)
    return [ProofRecord(*row) for row in connection.execute(select(*_COLUMNS).where(proofs.c.id.in_(ids)))]
