"""Which controllers serve, which of them has each host, and the trial that one of them runs."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "fleet",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("presence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("endpoint", TEXT, nullable=False),
        sa.Column("beats", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "presence",
        sa.Column("host", TEXT, primary_key=True),
        sa.Column("replica", TEXT, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("standing", TEXT, nullable=False),
    )
    op.create_index("presence_version", "presence", ["version"])
    op.create_table(
        "trials",
        sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("replica", TEXT, nullable=False),
        sa.Column("phases", TEXT, nullable=False),
        sa.Column("accept_denials", sa.Boolean, nullable=False),
        sa.Column("step", sa.LargeBinary, nullable=False),
        sa.Column("ended_by", TEXT, nullable=False),
    )
