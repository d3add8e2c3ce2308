"""Who owns a ticket, who comes with it, and that name as it is searched for"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

BATCH = 10_000
FILL = sa.text("""
    UPDATE tickets SET user_id = (SELECT orders.user_id FROM orders WHERE orders.id = tickets.order_id)
    WHERE id > :after AND id <= :last""")


def upgrade() -> None:
    with op.batch_alter_table("tickets") as batch:
        batch.add_column(sa.Column("user_id", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("attendee_name", sa.Text(), nullable=True))
        batch.add_column(sa.Column("attendee_folded", sa.Text(), nullable=True))
    for after in range(0, op.get_bind().scalar(sa.text("SELECT max(id) FROM tickets")) or 0, BATCH):
        op.execute(FILL.bindparams(after=after, last=after + BATCH))
    with op.batch_alter_table("tickets") as batch:
        batch.alter_column("user_id", existing_type=sa.Integer(), nullable=False)
        batch.create_foreign_key(op.f("fk_tickets_user_id_users"), "users", ["user_id"], ["id"])
    op.create_index("ix_tickets_of_user", "tickets", ["user_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_tickets_of_user", "tickets")
    with op.batch_alter_table("tickets") as batch:
        batch.drop_constraint(op.f("fk_tickets_user_id_users"), type_="foreignkey")
        for column in ("attendee_folded", "attendee_name", "user_id"):
            batch.drop_column(column)
