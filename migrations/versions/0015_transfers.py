"""Tickets that are passed on, and the codes that they had before"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "ticket_codes",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("ticket_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("void_since", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name=op.f("fk_ticket_codes_ticket_id_tickets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_ticket_codes_user_id_users")),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_ticket_codes")),
    )
    op.create_table(
        "transfers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ticket_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("to_email", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'accepted', 'withdrawn', 'lapsed')", name=op.f("ck_transfers_status")
        ),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name=op.f("fk_transfers_ticket_id_tickets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_transfers_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "transfer_tokens",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("transfer_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfers.id"], name=op.f("fk_transfer_tokens_transfer_id_transfers"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_transfer_tokens")),
    )
    pending = sa.text("status = 'pending'")
    op.create_index(
        "uq_transfers_pending", "transfers", ["ticket_id"], unique=True, postgresql_where=pending, sqlite_where=pending
    )
    op.create_index("ix_transfers_of_user", "transfers", ["user_id", "created_at"])
    for column in ("ticket_id", "to_email"):
        op.create_index(op.f(f"ix_transfers_{column}"), "transfers", [column])
    for column in ("ticket_id", "user_id"):
        op.create_index(op.f(f"ix_ticket_codes_{column}"), "ticket_codes", [column])
    op.create_index(op.f("ix_transfer_tokens_transfer_id"), "transfer_tokens", ["transfer_id"])


def downgrade() -> None:
    for table in ("transfer_tokens", "transfers", "ticket_codes"):
        op.drop_table(table)
