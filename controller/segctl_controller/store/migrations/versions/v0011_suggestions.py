"""What people decided about suggested rules."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "suggestion_decisions",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("verdict", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("suggested", TEXT, nullable=False),
        sa.Column("decided", TEXT, nullable=False),
    )
