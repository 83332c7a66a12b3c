"""What changed, told to the other processes that use the database."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("origin", TEXT, nullable=False),
        sa.Column("topics", sa.Integer, nullable=False),
        sa.Column("hosts", TEXT, nullable=False),
    )
