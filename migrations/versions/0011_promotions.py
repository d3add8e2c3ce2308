"""Promo codes, pools of places and hidden ticket types"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Added in place, also on SQLite: a table that is rebuilt would forget which ids it has given already.
COLUMNS = {
    "ticket_types": {
        "pool_id": "INTEGER CONSTRAINT fk_ticket_types_pool_id_pools REFERENCES pools (id)",
    },
    "orders": {
        "promo_code_id": "INTEGER CONSTRAINT fk_orders_promo_code_id_promo_codes REFERENCES promo_codes (id)",
    },
    "order_items": {
        "discount": "INTEGER DEFAULT '0' NOT NULL\n"
        "CONSTRAINT ck_order_items_discount CHECK (discount >= 0 AND (uses_promo OR discount = 0))\n",
    },
}
FLAGS = {"ticket_types": "hidden", "order_items": "uses_promo"}
HAS_CODE = sa.text("promo_code_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "pools",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("event_id", sa.Integer(), sa.ForeignKey("events.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("sold", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("quantity BETWEEN 0 AND 2000000000", name="quantity"),
        sa.CheckConstraint("sold >= 0 AND held >= 0 AND sold + held <= quantity", name="places"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_pools_event_id", "pools", ["event_id"])
    op.create_table(
        "promo_codes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("event_id", sa.Integer(), sa.ForeignKey("events.id"), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("percent", sa.Integer()),
        sa.Column("amount", sa.Integer()),
        sa.Column("max_uses", sa.Integer()),
        sa.Column("max_per_buyer", sa.Integer()),
        sa.Column("starts_at", sa.DateTime(timezone=True)),
        sa.Column("ends_at", sa.DateTime(timezone=True)),
        sa.Column("unlocks", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rules_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.UniqueConstraint("event_id", "folded"),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name="percent"),
        sa.CheckConstraint("amount BETWEEN 1 AND 1000000000", name="amount"),
        sa.CheckConstraint("percent IS NULL OR amount IS NULL", name="discount"),
        sa.CheckConstraint("unlocks OR percent IS NOT NULL OR amount IS NOT NULL", name="unlocks"),
        sa.CheckConstraint("max_uses BETWEEN 0 AND 2000000000", name="max_uses"),
        sa.CheckConstraint("max_per_buyer BETWEEN 1 AND 2000000000", name="max_per_buyer"),
        sa.CheckConstraint("used >= 0 AND held >= 0 AND (max_uses IS NULL OR used + held <= max_uses)", name="uses"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "promo_code_types",
        sa.Column("promo_code_id", sa.Integer(), sa.ForeignKey("promo_codes.id"), primary_key=True),
        sa.Column("ticket_type_id", sa.Integer(), sa.ForeignKey("ticket_types.id"), primary_key=True),
    )
    op.create_index("ix_promo_code_types_ticket_type_id", "promo_code_types", ["ticket_type_id"])
    for table, name in FLAGS.items():
        op.add_column(table, sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))
    for table, columns in COLUMNS.items():
        for name, definition in columns.items():
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
    op.create_index("ix_ticket_types_pool_id", "ticket_types", ["pool_id"])
    columns = ["promo_code_id", "user_id"]
    op.create_index("ix_orders_with_promo_code", "orders", columns, postgresql_where=HAS_CODE, sqlite_where=HAS_CODE)


def downgrade() -> None:
    op.drop_index("ix_orders_with_promo_code", "orders")
    op.drop_index("ix_ticket_types_pool_id", "ticket_types")
    for table, columns in COLUMNS.items():
        for name in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    for table, name in FLAGS.items():
        op.drop_column(table, name)
    for table in ("promo_code_types", "promo_codes", "pools"):
        op.drop_table(table)
