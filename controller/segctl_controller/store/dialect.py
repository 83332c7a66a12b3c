"""What SQLite and PostgreSQL say in different words, said once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Dialect, Table, TypeDecorator, types
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import ReturnTypeFromArgs

POSTGRESQL = "postgresql"
Serial = types.BigInteger().with_variant(types.Integer, "sqlite")
"""A number of 64 bits in both: SQLite numbers rows by itself in a column that is an INTEGER by name."""


class Text(TypeDecorator[str]):
    """Sorted by code point in both. PostgreSQL stores no NUL, and what hosts say may hold one: it becomes U+FFFD."""

    impl = types.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[str]:
        return types.Text(collation="C") if dialect.name == POSTGRESQL else types.Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return without_nul(value) if value and dialect.name == POSTGRESQL else value


def without_nul(value: str) -> str:
    return value.replace("\0", "\ufffd")


class least(ReturnTypeFromArgs[Any]):  # noqa: N801 - named as in SQL
    """The smallest of its arguments, which SQLite calls min()."""

    inherit_cache = True


class greatest(ReturnTypeFromArgs[Any]):  # noqa: N801 - as above
    """The largest of its arguments, which SQLite calls max()."""

    inherit_cache = True


class sum_of(ReturnTypeFromArgs[Any]):  # noqa: N801 - as above
    """The sum over rows, 0 over none; it never overflows: a float of SQLite's total(), PostgreSQL's numeric."""

    inherit_cache = True


def _arguments(element: ReturnTypeFromArgs[Any], compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - its own
    return compiler.process(element.clause_expr, **kw)


@compiles(least, "sqlite")
def _least(element: least, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as SQLAlchemy has it
    return f"min{_arguments(element, compiler, **kw)}"


@compiles(greatest, "sqlite")
def _greatest(element: greatest, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    return f"max{_arguments(element, compiler, **kw)}"


@compiles(sum_of, "sqlite")
def _total(element: sum_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    return f"total{_arguments(element, compiler, **kw)}"


@compiles(sum_of, POSTGRESQL)
def _sum(element: sum_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    return f"coalesce(sum{_arguments(element, compiler, **kw)}, 0)"


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT that takes ON CONFLICT; both dialects have the same methods for it."""
    return postgresql.insert(table) if connection.dialect.name == POSTGRESQL else sqlite.insert(table)
