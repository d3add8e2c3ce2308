"""Log-ins"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade():
    op.create_table(
        "logins",
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_logins_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_logins")),
    )
    op.create_index(op.f("ix_logins_expires_at"), "logins", ["expires_at"])
    # Their tokens may have been made to live longer than was known when they ended: they are kept for ever.
    op.execute("INSERT INTO logins (sid, ended) SELECT sid, true FROM ended_logins")
    op.drop_table("ended_logins")


def downgrade():
    op.create_table(
        "ended_logins",
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_ended_logins")),
    )
    op.create_index(op.f("ix_ended_logins_expires_at"), "ended_logins", ["expires_at"])
    op.execute(
        "INSERT INTO ended_logins (sid, expires_at) "
        "SELECT sid, coalesce(expires_at, '9999-12-31 00:00:00.000000') FROM logins WHERE ended"
    )
    op.drop_table("logins")
