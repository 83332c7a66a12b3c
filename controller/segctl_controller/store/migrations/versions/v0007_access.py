"""The audit log becomes a chain, and access: scopes of operators, API tokens, groups of the OpenID provider."""

import sqlalchemy as sa
from alembic import op
from segctl.auditchain import GENESIS, link_hash

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

UNLOCK = ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete")
LOCK = tuple(
    f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for verb in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    for name in ("identity", "peer", "previous", "hash"):
        op.add_column("audit", sa.Column(name, TEXT, nullable=False, server_default=""))
    _chain()
    op.add_column("operators", sa.Column("scope", TEXT, nullable=False, server_default="{}"))
    op.create_table(
        "api_tokens",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("sha256", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("name", TEXT, nullable=False, unique=True),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("scope", TEXT, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("last_used_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "group_roles",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("scope", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", "role", "scope"),
    )


def _chain() -> None:
    """What was written before is chained as it is: from now on it cannot be changed unseen."""
    connection = op.get_bind()
    wanted = "SELECT sequence, at_us, actor, action, subject, detail FROM audit ORDER BY sequence"
    found = connection.execute(sa.text(wanted)).all()
    if not found:
        return
    sqlite = connection.dialect.name == "sqlite"
    for statement in UNLOCK if sqlite else ("ALTER TABLE audit DISABLE TRIGGER audit_no_change",):
        op.execute(statement)
    # Numbers run without a gap in the chain; in the old log one could be missing. Negative first: none is taken twice.
    op.execute("UPDATE audit SET sequence = -sequence")
    previous = GENESIS
    change = sa.text("UPDATE audit SET sequence = :new, previous = :previous, hash = :hash WHERE sequence = -:old")
    for number, (old, at_us, *texts) in enumerate(found, 1):
        chained = link_hash(previous, number, at_us, *texts, "", "")
        connection.execute(change, {"new": number, "previous": previous, "hash": chained, "old": old})
        previous = chained
    for statement in LOCK if sqlite else ("ALTER TABLE audit ENABLE TRIGGER audit_no_change",):
        op.execute(statement)
