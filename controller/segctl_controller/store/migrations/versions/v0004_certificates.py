"""Certificates that were given and not used yet, what a restore leaves open, and what hosts told the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    empty = "''" if op.get_bind().dialect.name == "postgresql" else "x''"
    op.add_column("hosts", sa.Column("renewal", sa.LargeBinary, nullable=False, server_default=sa.text(empty)))
    op.add_column("hosts", sa.Column("restored_us", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "told",
        sa.Column("host", TEXT, sa.ForeignKey("hosts.name", ondelete="CASCADE"), nullable=False),
        sa.Column("entry", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("host", "entry"),
        sqlite_with_rowid=False,
    )
