"""How often rules were hit, in SQL. A host tells totals, so the same report twice changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, case, delete, func, select, update

from segctl_controller.store.dialect import greatest, least, sum_of, upsert
from segctl_controller.store.records import LARGEST_COUNT, HitRecord, RuleUse
from segctl_controller.store.tables import rule_hits


def add(connection: Connection, hits: Sequence[HitRecord]) -> None:
    """The largest count that the host told since it was enrolled."""
    if not hits:
        return
    statement = upsert(connection, rule_hits)
    new = statement.excluded
    merged = {
        "count": greatest(rule_hits.c.count, new.count),
        "last_us": greatest(rule_hits.c.last_us, new.last_us),
    }
    values = [
        {
            "host": hit.host,
            "rule": hit.rule,
            "ingress": int(hit.ingress),
            "before": 0,
            "count": hit.count,
            "last_us": hit.last_us,
        }
        for hit in hits
    ]
    connection.execute(statement.on_conflict_do_update(index_elements=["host", "rule", "ingress"], set_=merged), values)


def begin_anew(connection: Connection, host: str) -> None:
    """The host was enrolled anew and counts from zero: what it had counted is kept beside."""
    sum_ = least(rule_hits.c.before + rule_hits.c.count, LARGEST_COUNT)
    connection.execute(update(rule_hits).where(rule_hits.c.host == host).values(before=sum_, count=0))


def forget(connection: Connection, host: str) -> None:
    connection.execute(delete(rule_hits).where(rule_hits.c.host == host))


def rules_hit(connection: Connection, host: str) -> frozenset[str]:
    return frozenset(connection.scalars(select(rule_hits.c.rule).where(rule_hits.c.host == host)))


def rule_use(connection: Connection, rule: str) -> tuple[RuleUse, ...]:
    def total(ingress: int) -> ColumnElement[int]:
        counted = sum_of(case((rule_hits.c.ingress == ingress, rule_hits.c.before + rule_hits.c.count), else_=0))
        return least(counted, LARGEST_COUNT)

    hosts = func.count(rule_hits.c.host.distinct())
    query = select(rule_hits.c.rule, total(0), total(1), func.max(rule_hits.c.last_us), hosts)
    query = query.where(rule_hits.c.before + rule_hits.c.count > 0)
    if rule:
        query = query.where(rule_hits.c.rule == rule)
    found = connection.execute(query.group_by(rule_hits.c.rule).order_by(rule_hits.c.rule)).all()
    return tuple(RuleUse(name, int(out), int(into), last, number) for name, out, into, last, number in found)
