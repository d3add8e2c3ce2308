"""Categories, events and ticket types"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table(
        "categories",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_categories")),
        sa.UniqueConstraint("folded", name=op.f("uq_categories_folded")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("poster", sa.Text(), nullable=True),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("canceled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("(status = 'canceled') = (canceled_at IS NOT NULL)", name=op.f("ck_events_canceled_at")),
        sa.CheckConstraint("status IN ('draft', 'published', 'canceled')", name=op.f("ck_events_status")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_events_ends_at")),
        sa.ForeignKeyConstraint(["category_id"], ["categories.id"], name=op.f("fk_events_category_id_categories")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_in_category", "events", ["status", "category_id", "starts_at", "id"])
    op.create_index("ix_events_listed", "events", ["status", "starts_at", "id"])
    op.create_index("ix_events_longest", "events", ["status", "duration"])
    op.create_table(
        "ticket_types",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("sold", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_per_order", sa.Integer(), server_default="10", nullable=False),
        sa.Column("sales_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sales_end", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("max_per_order BETWEEN 1 AND 1000", name=op.f("ck_ticket_types_max_per_order")),
        sa.CheckConstraint("price BETWEEN 0 AND 1000000000", name=op.f("ck_ticket_types_price")),
        sa.CheckConstraint("quantity BETWEEN 0 AND 2000000000", name=op.f("ck_ticket_types_quantity")),
        sa.CheckConstraint("sold >= 0 AND held >= 0 AND sold + held <= quantity", name=op.f("ck_ticket_types_places")),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_ticket_types_event_id_events")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ticket_types")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_ticket_types_event_id"), "ticket_types", ["event_id"])


def downgrade():
    op.drop_table("ticket_types")
    op.drop_table("events")
    op.drop_table("categories")
