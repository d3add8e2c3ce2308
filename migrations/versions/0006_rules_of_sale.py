"""Limits of ticket types, and the version of the rules they are sold by"""

from alembic import op

revision = "0006"
down_revision = "0005"

# Added in place, also on SQLite: a table that is rebuilt would forget which ids it has given already.
COLUMNS = {
    "rules_version": "INTEGER DEFAULT '1' NOT NULL",
    "min_per_order": "INTEGER DEFAULT '1' NOT NULL\n"
    "CONSTRAINT ck_ticket_types_min_per_order CHECK (min_per_order BETWEEN 1 AND max_per_order)\n",
    "max_per_buyer": "INTEGER\n"
    "CONSTRAINT ck_ticket_types_max_per_buyer CHECK (max_per_buyer BETWEEN 1 AND 2000000000)\n",
}


def upgrade():
    for name, definition in COLUMNS.items():
        op.execute(f"ALTER TABLE ticket_types ADD COLUMN {name} {definition}")
    op.execute("UPDATE ticket_types SET max_per_buyer = max_per_order WHERE price = 0")


def downgrade():
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE ticket_types DROP COLUMN {name}")
