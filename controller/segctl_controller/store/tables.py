"""The tables as SQLAlchemy Core sees them. Their definition over time is in migrations/versions."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table

from segctl_controller.store.dialect import Serial, Text

metadata = MetaData()

generations = Table(
    "generations",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("files", LargeBinary, nullable=False),
    Column("rollback_of", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text, nullable=False),
    sqlite_autoincrement=True,
)

hosts = Table(
    "hosts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("tags", Text, nullable=False),
    Column("networks", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("enrolled_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    Column("renewal", LargeBinary, nullable=False, server_default=""),
    Column("restored_us", BigInteger, nullable=False, server_default="0"),
)

told = Table(
    "told",
    metadata,
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True),
    Column("entry", Text, primary_key=True),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    Column("tags", Text, nullable=False),
    Column("networks", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("replace", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
)

operators = Table(
    "operators",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("scope", Text, nullable=False, server_default="{}"),
)

proofs = Table(
    "proofs",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("kernel_digest", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

Index("proofs_host", proofs.c.host, proofs.c.id)

denials = Table(
    "denials",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=False),
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), nullable=False),
    Column("workload", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

Index("denials_key", denials.c.host, denials.c.key, unique=True)

losses = Table(
    "losses",
    metadata,
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True),
    Column("hour_us", BigInteger, primary_key=True),
    Column("lost", BigInteger, nullable=False),
)

cursors = Table(
    "report_cursors",
    metadata,
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)

flows = Table(
    "flows",
    metadata,
    Column("hour_us", BigInteger, primary_key=True),
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True),
    Column("remote", LargeBinary, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("protocol", Integer, primary_key=True),
    Column("ingress", Integer, primary_key=True),
    Column("workload", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("verdict", Integer, primary_key=True),
    Column("flows", BigInteger, nullable=False),
    Column("bytes_sent", BigInteger, nullable=False),
    Column("bytes_received", BigInteger, nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

flow_losses = Table(
    "flow_losses",
    metadata,
    Column("hour_us", BigInteger, primary_key=True),
    Column("host", Text, ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True),
    Column("lost", BigInteger, nullable=False),
)

"""Both hold nothing any more: flows of controllers before the flow store, which takes them over when it is opened."""

rule_hits = Table(
    "rule_hits",
    metadata,
    Column("host", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("ingress", Integer, primary_key=True),
    Column("before", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("culprit_pid", BigInteger, nullable=False),
    Column("culprit_name", Text, nullable=False),
    sqlite_autoincrement=True,
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Serial, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("identity", Text, nullable=False, server_default=""),
    Column("peer", Text, nullable=False, server_default=""),
    Column("previous", Text, nullable=False, server_default=""),
    Column("hash", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("last_used_us", BigInteger, nullable=False),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("identity", Text, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    Column("used_us", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("leased_us", BigInteger, nullable=False),
)

group_roles = Table(
    "group_roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
)

suggestion_decisions = Table(
    "suggestion_decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("verdict", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("suggested", Text, nullable=False),
    Column("decided", Text, nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=False),
    Column("origin", Text, nullable=False),
    Column("topics", Integer, nullable=False),
    Column("hosts", Text, nullable=False),
)

fleet = Table(
    "fleet",
    metadata,
    Column("id", Text, primary_key=True),
    Column("presence", BigInteger, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("beats", BigInteger, nullable=False),
)

presence = Table(
    "presence",
    metadata,
    Column("host", Text, primary_key=True),
    Column("replica", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("standing", Text, nullable=False),
)

Index("presence_version", presence.c.version)

trials = Table(
    "trials",
    metadata,
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("replica", Text, nullable=False),
    Column("phases", Text, nullable=False),
    Column("accept_denials", Boolean, nullable=False),
    Column("step", LargeBinary, nullable=False),
    Column("ended_by", Text, nullable=False),
)

questions = Table(
    "questions",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("asker", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("target", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("answer", LargeBinary),
    Column("error", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)
