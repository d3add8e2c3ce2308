"""Indexes of orders that only some statements may use: a plan made on an empty table stays"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

INDEXES = {
    "ix_orders_of_event": (["event_id", "id"], "id > 0"),
    "ix_orders_in_state": (["status", "id"], "id > 0"),
    "ix_orders_user_holds": (["user_id", "status", "expires_at"], "user_id > 0"),
}


def upgrade() -> None:
    for name, (columns, condition) in INDEXES.items():
        op.drop_index(name, "orders")
        only_where = {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}
        op.create_index(name, "orders", columns, **only_where)


def downgrade() -> None:
    for name, (columns, _) in INDEXES.items():
        op.drop_index(name, "orders")
        op.create_index(name, "orders", columns)
