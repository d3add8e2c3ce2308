"""Payments by a provider: the pages to pay on, and refunds of their own"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

TIME = sa.DateTime(timezone=True)
NEW_CODE = {
    "sqlite": "hex(randomblob(16))",
    "postgresql": "upper(replace(gen_random_uuid()::text, '-', ''))",
}
GIVEN_BACK = """
    INSERT INTO refunds (code, key, payment_id, amount, status, created_at, due_at, settled_at)
    SELECT code, code, id, amount, 'succeeded', created_at, created_at, created_at
    FROM (SELECT {new_code} AS code, id, amount, created_at FROM payments WHERE status = 'refunded' AND amount > 0) AS p
"""


def only_where(condition: str) -> dict[str, sa.TextClause]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:
    with op.batch_alter_table("events") as batch:
        batch.add_column(sa.Column("refund_reason", sa.Text(), nullable=True))
        batch.add_column(sa.Column("refund_by", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_events_refund_by_users"), "users", ["refund_by"], ["id"])
    op.create_index("ix_events_to_refund", "events", ["id"], **only_where("refund_reason IS NOT NULL"))
    extend_payments()
    create_refunds()
    create_checkouts()
    op.execute("UPDATE payments SET refunded = amount WHERE status = 'refunded'")
    op.execute(GIVEN_BACK.format(new_code=NEW_CODE[op.get_bind().dialect.name]))


def extend_payments() -> None:
    op.drop_index("uq_payments_method", "payments")
    with op.batch_alter_table("payments") as batch:
        batch.add_column(sa.Column("provider", sa.Text(), nullable=True))
        batch.add_column(sa.Column("currency", sa.Text(), nullable=True))
        batch.add_column(sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False))
        batch.add_column(sa.Column("disputed_at", TIME, nullable=True))
        batch.create_check_constraint(op.f("ck_payments_refunded"), "refunded BETWEEN 0 AND amount")
        batch.create_check_constraint(
            op.f("ck_payments_provider"), "provider IS NULL OR reference IS NOT NULL AND reference_key IS NULL"
        )
    by_hand = only_where("status <> 'refunded' AND provider IS NULL")
    op.create_index("uq_payments_method", "payments", ["method", "reference_key"], unique=True, **by_hand)
    op.create_index("uq_payments_provider", "payments", ["provider", "reference"], unique=True)
    op.create_index("ix_payments_disputed", "payments", ["order_id"], **only_where("disputed_at IS NOT NULL"))


def create_refunds() -> None:
    op.create_table(
        "refunds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Integer(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), server_default="here", nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("due_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("asked_at", TIME, nullable=True),
        sa.Column("settled_at", TIME, nullable=True),
        sa.CheckConstraint("status IN ('requested', 'pending', 'succeeded', 'failed')", name=op.f("ck_refunds_status")),
        sa.CheckConstraint("origin IN ('here', 'outside')", name=op.f("ck_refunds_origin")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refunds_amount")),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed')) = (settled_at IS NOT NULL)", name=op.f("ck_refunds_settled_at")
        ),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_refunds_payment_id_payments")),
        sa.ForeignKeyConstraint(["requested_by"], ["users.id"], name=op.f("fk_refunds_requested_by_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("code", name=op.f("uq_refunds_code")),
        sa.UniqueConstraint("key", name=op.f("uq_refunds_key")),
        sa.UniqueConstraint("payment_id", "reference", name=op.f("uq_refunds_payment_id")),
    )
    op.create_index(op.f("ix_refunds_payment_id"), "refunds", ["payment_id"])
    op.create_index("ix_refunds_due", "refunds", ["due_at", "id"], **only_where("status IN ('requested', 'pending')"))
    wrong = only_where("status = 'failed' OR origin = 'outside'")
    op.create_index("ix_refunds_attention", "refunds", ["payment_id"], **wrong)


def create_checkouts() -> None:
    op.create_table(
        "checkouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("return_url", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("payment_id", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("ends_at", TIME, nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("asked_at", TIME, nullable=True),
        sa.CheckConstraint(
            "status IN ('starting', 'open', 'paid', 'expired', 'abandoned')", name=op.f("ck_checkouts_status")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_checkouts_amount")),
        sa.CheckConstraint("status <> 'open' OR reference IS NOT NULL", name=op.f("ck_checkouts_reference")),
        sa.CheckConstraint("status <> 'paid' OR payment_id IS NOT NULL", name=op.f("ck_checkouts_payment_id")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_checkouts_order_id_orders")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_checkouts_payment_id_payments")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkouts")),
        sa.UniqueConstraint("code", name=op.f("uq_checkouts_code")),
        sa.UniqueConstraint("provider", "reference", name=op.f("uq_checkouts_provider")),
    )
    op.create_index(op.f("ix_checkouts_order_id"), "checkouts", ["order_id"])
    payable, unsettled = "status IN ('starting', 'open')", "status IN ('starting', 'open', 'abandoned')"
    op.create_index("uq_checkouts_payable", "checkouts", ["order_id"], unique=True, **only_where(payable))
    op.create_index("ix_checkouts_due", "checkouts", ["due_at", "id"], **only_where(unsettled))


def downgrade() -> None:
    """Payments by a provider stay, as ones by hand with the provider's reference."""
    op.drop_table("checkouts")
    op.drop_table("refunds")
    for index in ("uq_payments_method", "uq_payments_provider", "ix_payments_disputed"):
        op.drop_index(index, "payments")
    with op.batch_alter_table("payments") as batch:
        batch.drop_constraint(op.f("ck_payments_provider"), type_="check")
        batch.drop_constraint(op.f("ck_payments_refunded"), type_="check")
        for column in ("disputed_at", "refunded", "currency"):
            batch.drop_column(column)
    op.execute("UPDATE payments SET reference_key = lower(reference) || ' ' || id WHERE provider IS NOT NULL")
    with op.batch_alter_table("payments") as batch:
        batch.drop_column("provider")
    not_given_back = only_where("status <> 'refunded'")
    op.create_index("uq_payments_method", "payments", ["method", "reference_key"], unique=True, **not_given_back)
    op.drop_index("ix_events_to_refund", "events")
    with op.batch_alter_table("events") as batch:
        batch.drop_constraint(op.f("fk_events_refund_by_users"), type_="foreignkey")
        batch.drop_column("refund_by")
        batch.drop_column("refund_reason")
