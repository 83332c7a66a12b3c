"""Accepted flows by the hour, what was lost of them, and how often each rule was hit."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _host() -> sa.Column[str]:
    return sa.Column("host", TEXT, sa.ForeignKey("hosts.name", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    """The key of flows begins with what is looked for: an hour, then a host, then the other end of one flow."""
    key = ("hour_us", "host", "remote", "port", "protocol", "ingress", "workload", "rule", "verdict")
    op.create_table(
        "flows",
        _big("hour_us"),
        _host(),
        sa.Column("remote", sa.LargeBinary, nullable=False),
        _small("port"),
        _small("protocol"),
        _small("ingress"),
        _text("workload"),
        _text("rule"),
        _small("verdict"),
        _big("flows"),
        _big("bytes_sent"),
        _big("bytes_received"),
        _big("first_us"),
        _big("last_us"),
        sa.PrimaryKeyConstraint(*key),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flow_losses",
        _big("hour_us"),
        _host(),
        _big("lost"),
        sa.PrimaryKeyConstraint("hour_us", "host"),
    )
    # No foreign key: the hits of a host that is enrolled anew are kept and added to.
    op.create_table(
        "rule_hits",
        _text("host"),
        _text("rule"),
        _small("ingress"),
        _big("before"),
        _big("count"),
        _big("last_us"),
        sa.PrimaryKeyConstraint("host", "rule", "ingress"),
        sqlite_with_rowid=False,
    )
