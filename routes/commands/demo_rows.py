"""The rows of `flask demo` on their way into the database, and what is counted from them there."""

import csv
import io
import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from typing import Any

from sqlalchemy import Select, case, func, select, text, update

from models import UNSYNCHRONIZED, Order, OrderLine, Pool, PromoCode, TicketType, db
from routes.selling.audit import visible

TABLE_COLUMNS = {
    "users": "id name folded email password role active stamp created_at updated_at",
    "categories": "id name folded",
    "events": "id name description venue category_id status canceled_at starts_at ends_at duration version"
    " time_zone currency created_at updated_at",
    "pools": "id event_id name quantity",
    "ticket_types": "id event_id name price quantity max_per_order sales_start sales_end hidden pool_id",
    "promo_codes": "id event_id code folded percent amount max_uses unlocks",
    "promo_code_types": "promo_code_id ticket_type_id",
    "event_staff": "event_id user_id role",
    "orders": "id code user_id number event_id status total currency expires_at created_at updated_at promo_code_id",
    "order_items": "id order_id ticket_type_id name quantity unit_price uses_promo discount",
    "payments": "id order_id method reference reference_key amount status refunded taken_by created_at",
    "refunds": "id code key payment_id amount status requested_by created_at due_at settled_at",
    "tickets": "id code order_id event_id user_id ticket_type_id status checked_in_at attendee_name attendee_folded",
    "audit": "at actor_id action subject event_id changes",
}
NUMBERED = [table for table, columns in TABLE_COLUMNS.items() if columns.startswith("id ")]


class Rows:
    """Rows that are written a batch at a time, with the chance and the present that they are made by."""

    def __init__(self, seed: int, *, first_user: int) -> None:
        self.random = random.Random(seed)
        self.now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        self.today = self.now.replace(hour=0, minute=0, second=0)
        self.ids = {table: count(1) for table in NUMBERED} | {"users": count(first_user)}
        self.waiting: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLE_COLUMNS}
        self.written = 0

    def add(self, table: str, *values: Any) -> int:
        """The id of a new row."""
        id = next(self.ids[table])
        self.waiting[table].append((id, *values))
        return id

    def join(self, table: str, *values: Any) -> None:
        """Add a row that has no id, or gets it from the database."""
        self.waiting[table].append(values)

    def record(self, age: float, actor: int, action: str, subject: str, event: int, **changes: list[Any]) -> None:
        """An entry of the audit, of so many days ago."""
        told = json.dumps(visible(changes))
        self.join("audit", self.ago(age), actor, action, subject, event, told)

    def write(self) -> None:
        for table, rows in self.waiting.items():
            write(table, rows)
            self.written += len(rows)
            rows.clear()

    def ago(self, days: float) -> str:
        return sql_time(self.now - timedelta(days=days))


@lru_cache(maxsize=10_000)
def sql_time(moment: datetime) -> str:
    """A time in UTC as both databases read it."""
    return moment.isoformat(" ", "microseconds")


def on_postgresql() -> bool:
    return db.engine.dialect.name == "postgresql"


def write(table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    cursor: Any = db.session.connection().connection.cursor()
    columns = TABLE_COLUMNS[table].split()
    if on_postgresql():
        lines = io.StringIO()
        csv.writer(lines).writerows(rows)
        lines.seek(0)
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT csv)", lines)
    else:
        marks = ", ".join("?" * len(columns))
        cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def sum_up() -> None:
    """Set what is sold, held and used from the orders. Where that is more than was on offer, it is all gone."""
    lines = select(OrderLine.ticket_type_id.label("id"), *sums()).join(Order).group_by(OrderLine.ticket_type_id)
    set_counters(TicketType, lines, of="quantity", names=("sold", "held"))
    sold, held = func.sum(TicketType.sold).label("done"), func.sum(TicketType.held).label("held")
    members = select(TicketType.pool_id.label("id"), sold, held).group_by(TicketType.pool_id)
    set_counters(Pool, members, of="quantity", names=("sold", "counted"))
    uses = select(Order.promo_code_id.label("id"), *sums()).join(Order.items).where(OrderLine.uses_promo)
    set_counters(PromoCode, uses.group_by(Order.promo_code_id), of="max_uses", names=("used", "counted"))


def sums() -> list[Any]:
    """How many places of lines are sold, and how many held."""
    wanted = {"done": "paid", "held": "pending"}
    return [
        func.sum(case((Order.state == state, OrderLine.quantity), else_=0)).label(name)
        for name, state in wanted.items()
    ]


def set_counters(model: Any, sums: Select[*tuple[Any, ...]], *, of: str, names: tuple[str, str]) -> None:
    """Set two counters of each row from what its `sums` are, and raise the limit `of` them to that, if there is one."""
    counted = sums.subquery()
    both, limit = counted.c.done + counted.c.held, getattr(model, of)
    raised = case((both > limit, both), else_=limit)
    values = dict(zip(names, (counted.c.done, counted.c.held), strict=True)) | {of: raised}
    rows = update(model).where(model.id == counted.c.id).values(values)
    db.session.execute(rows, execution_options=UNSYNCHRONIZED)


def finish() -> None:
    """Have the database know its new rows: where its ids go on, and how many there are of what."""
    for table in TABLE_COLUMNS:
        if on_postgresql() and table in NUMBERED:
            ids = f"setval(pg_get_serial_sequence('{table}', 'id'), max(id))"
            db.session.execute(text(f"SELECT {ids} FROM {table}"))
        db.session.execute(text(f"ANALYZE {table}"))
