"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = "the audit log is append-only"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _serial(name: str) -> sa.Column[int]:
    return sa.Column(name, SERIAL, primary_key=True, autoincrement=True)


def _host() -> sa.Column[str]:
    return sa.Column("host", TEXT, sa.ForeignKey("hosts.name", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    """Create every table, and the triggers that keep the audit log append-only."""
    op.create_table(
        "generations",
        _serial("number"),
        _text("digest"),
        _text("author"),
        _text("message"),
        _big("created_us"),
        _blob("files"),
        _big("rollback_of"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hosts",
        sa.Column("name", TEXT, primary_key=True),
        _text("tags"),
        _text("networks"),
        _text("addresses"),
        _text("serial"),
        _big("enrolled_us"),
        _big("last_seen_us"),
        _text("agent_version"),
        _blob("facts"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("sha256", sa.LargeBinary, nullable=False, unique=True),
        _text("tags"),
        _text("networks"),
        _text("host"),
        sa.Column("uses", sa.Integer, nullable=False),
        _big("expires_us"),
        sa.Column("replace", sa.Boolean, nullable=False),
        _text("created_by"),
    )
    op.create_table(
        "operators",
        sa.Column("name", TEXT, primary_key=True),
        _text("role"),
        _text("serial"),
        _big("created_us"),
    )
    op.create_table(
        "proofs",
        _serial("id"),
        _text("host"),
        _big("generation"),
        _text("digest"),
        _text("kernel_digest"),
        _big("at_us"),
        sqlite_autoincrement=True,
    )
    op.create_index("proofs_host", "proofs", ["host", "id"])
    op.create_table(
        "denials",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=False),
        _host(),
        _text("workload"),
        _text("key"),
        _big("count"),
        _big("first_us"),
        _big("last_us"),
        _blob("body"),
    )
    op.create_index("denials_key", "denials", ["host", "key"], unique=True)
    op.create_table(
        "losses",
        _host(),
        _big("hour_us"),
        _big("lost"),
        sa.PrimaryKeyConstraint("host", "hour_us"),
    )
    op.create_table("report_cursors", _host(), _text("epoch"), _big("sequence"), sa.PrimaryKeyConstraint("host"))
    op.create_table(
        "events",
        _serial("id"),
        _text("host"),
        _text("kind"),
        _text("message"),
        _big("at_us"),
        _big("culprit_pid"),
        _text("culprit_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit",
        _serial("sequence"),
        _big("at_us"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("detail"),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_no_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_no_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
        )
