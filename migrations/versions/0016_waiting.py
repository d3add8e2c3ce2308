"""Who waits for tickets that are sold out"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    for column in ("waited", "waited_least"):
        op.add_column("ticket_types", sa.Column(column, sa.Integer(), server_default="0", nullable=False))
    op.add_column("orders", sa.Column("offered", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "waiting_entries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("ticket_type_id", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_waiting_entries_quantity")),
        sa.CheckConstraint(
            "status IN ('waiting', 'offered', 'bought', 'lapsed', 'left', 'closed')",
            name=op.f("ck_waiting_entries_status"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_waiting_entries_user_id_users")),
        sa.ForeignKeyConstraint(
            ["event_id"], ["events.id"], name=op.f("fk_waiting_entries_event_id_events"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["ticket_type_id"],
            ["ticket_types.id"],
            name=op.f("fk_waiting_entries_ticket_type_id_ticket_types"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.id"], name=op.f("fk_waiting_entries_order_id_orders"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waiting_entries")),
        sqlite_autoincrement=True,
    )
    there, waiting = sa.text("status IN ('waiting', 'offered')"), sa.text("status = 'waiting'")
    op.create_index(
        "uq_waiting_entries_active",
        "waiting_entries",
        ["user_id", "ticket_type_id"],
        unique=True,
        postgresql_where=there,
        sqlite_where=there,
    )
    op.create_index(
        "ix_waiting_entries_in_line",
        "waiting_entries",
        ["ticket_type_id", "id"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    op.create_index("ix_waiting_entries_of_event", "waiting_entries", ["event_id", "id"])
    op.create_index("ix_waiting_entries_of_user", "waiting_entries", ["user_id", "id"])
    for column in ("ticket_type_id", "order_id"):
        op.create_index(op.f(f"ix_waiting_entries_{column}"), "waiting_entries", [column])


def downgrade() -> None:
    op.drop_table("waiting_entries")
    op.drop_column("orders", "offered")
    for column in ("waited_least", "waited"):
        op.drop_column("ticket_types", column)
