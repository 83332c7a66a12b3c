"""The tables of the flow store, the same in DuckDB and PostgreSQL.

Both speak SQLAlchemy's dialect of PostgreSQL, so every statement is written once. What a minute or an hour adds up to
is only ever a sum over rows: several rows of one key and minute are no mistake, and folding them is no hurry.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, Sequence, SmallInteger, Table, Text
from sqlalchemy.schema import CreateSequence, CreateTable, ExecutableDDLElement

VERSION = 2
metadata = MetaData()
rows = Table(
    "flow_rows",
    metadata,
    Column("minute", Integer, nullable=False),
    Column("folded", SmallInteger, nullable=False),
    Column("host", Integer, nullable=False),
    Column("workload", Integer, nullable=False),
    Column("process", Integer, nullable=False, server_default="0"),
    Column("tags", Integer, nullable=False),
    Column("ingress", SmallInteger, nullable=False),
    Column("remote_high", BigInteger, nullable=False),
    Column("remote_low", BigInteger, nullable=False),
    Column("peer", Integer, nullable=False),
    Column("peer_workload", Integer, nullable=False),
    Column("peer_tags", Integer, nullable=False),
    Column("protocol", SmallInteger, nullable=False),
    Column("port", Integer, nullable=False),
    Column("rule", Integer, nullable=False),
    Column("verdict", SmallInteger, nullable=False),
    Column("flows", BigInteger, nullable=False),
    Column("bytes_sent", BigInteger, nullable=False),
    Column("bytes_received", BigInteger, nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
)
"""`minute` counts from 1970, and is the first one of a row of an hour. `folded`: 0 as it was told, 1 a minute, 2 an
hour. Names and tag groups are numbers of their dictionaries; 0 is none."""
KEY = tuple(rows.c)[2:16]
SUMS = (rows.c.flows, rows.c.bytes_sent, rows.c.bytes_received)

numbers = Sequence("flow_numbers", metadata=metadata)
names = Table(
    "flow_names",
    metadata,
    Column("id", Integer, numbers, primary_key=True, autoincrement=False, server_default=numbers.next_value()),
    Column("text", Text, nullable=False, unique=True),
)
"""Names of hosts, workloads and rules, and identities of processes, which no name looks like."""
tag_groups = Table(
    "flow_tag_groups",
    metadata,
    Column("id", Integer, numbers, primary_key=True, autoincrement=False, server_default=numbers.next_value()),
    Column("text", Text, nullable=False, unique=True),
)
"""The tags that a host carried: `key=value,key=value`, sorted. A host without tags has a group, too."""
cursors = Table(
    "flow_cursors",
    metadata,
    Column("host", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)
losses = Table(
    "flow_lost",
    metadata,
    Column("host", Integer, primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("lost", BigInteger, nullable=False),
)
"""`hour` counts from 1970."""
cuts = Table(
    "flow_cuts",
    metadata,
    Column("host", Integer, primary_key=True, autoincrement=False),
    Column("before", Integer, nullable=False),
)
"""Empty but while rows are pruned: of `host` those of minutes before `before` go."""
rule_days = Table(
    "flow_rule_days",
    metadata,
    Column("rule", Integer, primary_key=True, autoincrement=False),
    Column("day", Integer, primary_key=True, autoincrement=False),
)
"""The days since 1970 (UTC) on which a rule permitted something, kept when its flows are gone: how often it is used."""
meta = Table("flow_meta", metadata, Column("name", Text, primary_key=True), Column("value", BigInteger, nullable=False))
"""The schema's `version`, and `imported` when the hours of an earlier controller were taken over."""

CHANGES = {2: "ALTER TABLE flow_rows ADD COLUMN IF NOT EXISTS process INTEGER DEFAULT 0"}
"""By version, what makes it of the tables of the version before, in both engines."""

SCHEMA: tuple[ExecutableDDLElement, ...] = (
    CreateSequence(numbers, if_not_exists=True),
    *(
        CreateTable(table, if_not_exists=True)
        for table in (names, tag_groups, rows, cursors, losses, cuts, rule_days, meta)
    ),
)
