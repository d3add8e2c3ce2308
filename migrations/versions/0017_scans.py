"""Scans at the door, with and without a network, and what has changed since a door looked last"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    for table in ("tickets", "ticket_codes"):
        op.add_column(table, sa.Column("changed", sa.BigInteger(), server_default="0", nullable=False))
        op.create_index(f"ix_{table}_changed", table, ["changed"])
    op.create_table(
        "scans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("ticket_id", sa.Integer(), nullable=True),
        sa.Column("code_hash", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("conflict", sa.Boolean(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('accepted', 'already_checked_in', 'void', 'wrong_event', 'unknown')",
            name=op.f("ck_scans_outcome"),
        ),
        sa.CheckConstraint("(device IS NULL) = (nonce IS NULL)", name=op.f("ck_scans_nonce")),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_scans_event_id_events"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name=op.f("fk_scans_ticket_id_tickets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["first_id"], ["scans.id"], name=op.f("fk_scans_first_id_scans"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_scans_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scans")),
        sa.UniqueConstraint("event_id", "device", "nonce", name=op.f("uq_scans_event_id")),
        sqlite_autoincrement=True,
    )
    conflict = sa.text("conflict")
    op.create_index(
        "ix_scans_in_conflict", "scans", ["event_id", "id"], postgresql_where=conflict, sqlite_where=conflict
    )
    op.create_index("ix_scans_of_event", "scans", ["event_id", "id"])
    for column in ("ticket_id", "first_id", "user_id"):
        op.create_index(op.f(f"ix_scans_{column}"), "scans", [column])


def downgrade() -> None:
    op.drop_table("scans")
    for table in ("ticket_codes", "tickets"):
        op.drop_index(f"ix_{table}_changed", table)
        op.drop_column(table, "changed")
