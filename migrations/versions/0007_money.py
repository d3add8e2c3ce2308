"""Currencies and time zones of events, references compared without their case, and what searches need"""

import logging
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from flask import current_app

revision = "0007"
down_revision = "0006"

log = logging.getLogger("alembic.runtime.migration")
NEEDS_REFERENCE = "method = 'cash' OR reference IS NOT NULL"
NOT_GIVEN_BACK = sa.text("status <> 'refunded'")


def upgrade() -> None:
    op.add_column("events", sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False))
    op.add_column("events", sa.Column("currency", sa.Text(), server_default="USD", nullable=False))
    op.add_column("events", sa.Column("contact", sa.Text(), nullable=True))
    settle_currencies()
    op.create_index("ix_orders_in_state", "orders", ["status", "id"])
    op.add_column("users", sa.Column("folded", sa.Text(), server_default="", nullable=False))
    fill("users", "name", "folded", caseless)
    for name, column in (("ix_users_folded", "folded"), ("ix_users_email_start", "email")):
        op.create_index(name, "users", [column], postgresql_ops={column: "text_pattern_ops"})
    rebuild_payments()
    fill("payments", "reference", "reference_key", comparable)
    part_keys()
    unique_key = {"postgresql_where": NOT_GIVEN_BACK, "sqlite_where": NOT_GIVEN_BACK}
    op.create_index("uq_payments_method", "payments", ["method", "reference_key"], unique=True, **unique_key)
    for name, column in (("with_method", "method"), ("in_status", "status"), ("taken_by", "taken_by")):
        op.create_index(f"ix_payments_{name}", "payments", [column, "created_at", "id"])
    op.create_index("ix_payments_listed", "payments", ["created_at", "id"])


def downgrade() -> None:
    for name in ("with_method", "in_status", "taken_by", "listed"):
        op.drop_index(f"ix_payments_{name}", "payments")
    op.drop_index("uq_payments_method", "payments")
    give_references()
    with op.batch_alter_table("payments") as batch:
        batch.drop_constraint(op.f("ck_payments_reference"), type_="check")
        batch.alter_column("reference", existing_type=sa.Text(), nullable=False)
        batch.drop_constraint(op.f("fk_payments_taken_by_users"), type_="foreignkey")
        batch.drop_column("reference_key")
        batch.drop_column("taken_by")
        batch.create_unique_constraint(op.f("uq_payments_method"), ["method", "reference"])
    for name in ("ix_users_folded", "ix_users_email_start"):
        op.drop_index(name, "users")
    op.drop_column("users", "folded")
    op.drop_index("ix_orders_in_state", "orders")
    for column in ("contact", "currency", "time_zone"):
        op.drop_column("events", column)


def settle_currencies() -> None:
    """An event's currency is that of its newest order, or what is configured now."""
    newest = "SELECT currency FROM orders WHERE event_id = events.id ORDER BY id DESC LIMIT 1"
    currencies = sa.text(f"UPDATE events SET currency = coalesce(({newest}), :configured), time_zone = :time_zone")
    config = current_app.config
    op.execute(currencies.bindparams(configured=config["CURRENCY"], time_zone=config["TIME_ZONE"]))
    several = "SELECT event_id FROM orders GROUP BY event_id HAVING min(currency) <> max(currency) ORDER BY event_id"
    for id in op.get_bind().scalars(sa.text(several)).all():
        currency = op.get_bind().scalar(sa.text("SELECT currency FROM events WHERE id = :id"), {"id": id})
        log.warning("Event %s has orders in several currencies: it is in %s now, as its newest order is", id, currency)


def rebuild_payments() -> None:
    with op.batch_alter_table("payments") as batch:
        batch.drop_constraint(op.f("uq_payments_method"), type_="unique")
        batch.alter_column("reference", existing_type=sa.Text(), nullable=True)
        batch.add_column(sa.Column("reference_key", sa.Text(), nullable=True))
        batch.add_column(sa.Column("taken_by", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f("fk_payments_taken_by_users"), "users", ["taken_by"], ["id"])
        batch.create_check_constraint(op.f("ck_payments_reference"), NEEDS_REFERENCE)
    if op.get_bind().dialect.name == "sqlite":  # as it stores times that have a fraction, to compare them as text
        op.execute("UPDATE payments SET created_at = created_at || '.000000' WHERE length(created_at) = 19")


def caseless(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def comparable(reference: str) -> str:
    return " ".join(caseless(reference).split())


def fill(table: str, source: str, target: str, fold: Callable[[str], str]) -> None:
    """Fold one column into another, a thousand rows at a time."""
    rows = sa.table(table, sa.column("id"), sa.column(source), sa.column(target))
    folded = rows.update().where(rows.c.id == sa.bindparam("row")).values({target: sa.bindparam("folded")})
    for found in batches(sa.select(rows.c.id, rows.c[source]), rows.c.id):
        values = [{"row": row.id, "folded": fold(row[1])} for row in found if row[1] is not None]
        if values:
            op.get_bind().execute(folded, values)


def batches(query: sa.Select[Any], id: sa.ColumnElement[int]) -> Iterator[Any]:
    after = 0
    while found := op.get_bind().execute(query.where(id > after).order_by(id).limit(1000)).all():
        yield found
        after = found[-1].id


def part_keys() -> None:
    """Of payments that only the case of their references told apart, all but the first get their id behind the key."""
    again = "payments.method = one.method AND payments.reference_key = one.reference_key AND payments.id > one.id"
    later = sa.text(f"SELECT DISTINCT payments.id FROM payments JOIN payments AS one ON {again} ORDER BY payments.id")
    while ids := op.get_bind().scalars(later).all():
        for id in ids:
            one = {"id": id}
            op.get_bind().execute(
                sa.text("UPDATE payments SET reference_key = reference_key || ' ' || id WHERE id = :id"), one
            )
            log.warning("Payment %s has another's reference, but for its case: look whether it was paid twice", id)


def give_references() -> None:
    """Each payment has a reference of its own again: cash that has none its order's code, if no other has it."""
    op.execute("""
        UPDATE payments SET reference = (SELECT code FROM orders WHERE orders.id = payments.order_id) || CASE
            WHEN EXISTS (SELECT 1 FROM payments AS other WHERE other.order_id = payments.order_id
                AND other.reference IS NULL AND other.id < payments.id) OR EXISTS (
                SELECT 1 FROM payments AS other JOIN orders ON orders.code = other.reference
                WHERE orders.id = payments.order_id AND other.method = payments.method)
            THEN ' ' || id ELSE '' END
        WHERE reference IS NULL""")
    op.execute("""
        UPDATE payments SET reference = reference || ' ' || id WHERE status = 'refunded' AND EXISTS (
            SELECT 1 FROM payments AS other WHERE other.method = payments.method
                AND other.reference = payments.reference AND other.id <> payments.id)""")
