"""What became of each generation: those of before were all active once."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("generations", sa.Column("state", TEXT, nullable=False, server_default="confirmed"))
    op.add_column("generations", sa.Column("why", TEXT, nullable=False, server_default=""))
