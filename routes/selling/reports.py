"""Who comes to an event, and how it sells."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, case, func, or_, select

from models import Event, Order, OrderLine, Payment, Ticket, TicketType, User, caseless, db, line_amount
from routes.selling.orders import code_bounds
from routes.selling.places import free_places
from routes.selling.refunds import progress

NAMED = or_(
    Ticket.attendee_folded.like(bindparam("name"), escape="/"),
    User.folded.like(bindparam("name"), escape="/"),
    Ticket.code.between(bindparam("code_from"), bindparam("code_to")),
    Order.code.between(bindparam("code_from"), bindparam("code_to")),
)
HOLDER = func.coalesce(Ticket.attendee_name, User.name)
# By the owner's name and address too: who has forgotten whose name he gave is found all the same.
ATTENDEE_FILTERS = {
    "q": or_(NAMED, User.email.like(bindparam("email"), escape="/")),
    "q_but_address": NAMED,
    "ticket_type": Ticket.ticket_type_id == bindparam("ticket_type"),
    "status": Ticket.status == bindparam("status"),
}


def find_attendees(q: str) -> dict[str, str]:
    """The parameters that find those with `q` in a name or an address, or whose ticket's or order's code it begins."""
    code_from, code_to = code_bounds(q)
    return {"name": part(caseless(q)), "email": part(q.lower()), "code_from": code_from, "code_to": code_to}


def part(text: str) -> str:
    """The pattern of LIKE for all that has this text in it; `/` escapes what follows."""
    return "%" + re.sub("([/%_])", r"/\1", text) + "%"


@cache
def select_attendees(filters: frozenset[str] = frozenset()) -> Select[*tuple[Any, ...]]:
    """The query of rows of who may come in, or has, to the parameter `event_id`; the `id` is for the pages.

    It has the parameters of the `filters`. Void tickets are left out unless the status is one of them.
    """
    columns = Ticket.id, Ticket.code, Ticket.status, HOLDER.label("holder"), User.email, Ticket.checked_in_at
    more = TicketType.name.label("ticket_type"), Order.code.label("order")
    rows = select(*columns, *more).join(Ticket.purchase).join(Ticket.owner).join(Ticket.ticket_type)
    rows = rows.where(Ticket.event_id == bindparam("event_id"), *(ATTENDEE_FILTERS[name] for name in sorted(filters)))
    return rows if "status" in filters else rows.where(Ticket.status != "void")


def revenue(currency: str) -> ColumnElement[int]:
    """What the good tickets of a ticket type have cost, of paid orders in this currency."""
    good = select(func.count()).where(Ticket.order_id == OrderLine.order_id, Ticket.status != "void")
    good = good.where(Ticket.ticket_type_id == OrderLine.ticket_type_id).correlate(OrderLine)
    amount = line_amount(good.scalar_subquery(), OrderLine.unit_price.cast(BigInteger))
    paid = select(func.coalesce(func.sum(amount), 0).cast(BigInteger)).join(Order)
    paid = paid.where(OrderLine.ticket_type_id == TicketType.id, Order.state == "paid", Order.currency == currency)
    return paid.correlate(TicketType).scalar_subquery()


def sales(event: Event) -> dict[str, Any]:
    """How it sells, every figure of the ticket types from the one moment of one statement.

    What is in another currency, from before the event had one of its own, is in `payments` alone.
    """
    types = sales_of_types(event)
    payments = sums_of_payments(event.id)
    own = [row for row in payments if row["currency"] == event.currency]
    return {
        "event_id": event.id,
        "currency": event.currency,
        "ticket_types": [shown(row) for row in types],
        "total": {name: sum(row[name] for row in types) for name in FIGURES} | {"available": free_in_all(types)},
        "refunded": sum(row["refunded"] for row in own),
        "refund_due": sum(row["refund_due"] for row in own),
        "refund_all": progress(event.id) if event.refund_reason else dict.fromkeys(("orders", "done", "left"), 0),
        "payments": payments,
    }


FIGURES = ("quantity", "sold", "held", "available", "checked_in", "revenue")


def sales_of_types(event: Event) -> list[dict[str, Any]]:
    inside = select(func.count()).where(Ticket.ticket_type_id == TicketType.id, Ticket.status == "used")
    figures = {
        "quantity": TicketType.quantity,
        "sold": TicketType.sold,
        "held": TicketType.held - TicketType.lapsed.expression,
        "available": free_places(),
        "pool_id": TicketType.pool_id,
        "pool_free": TicketType.pool_free.expression,
        "checked_in": inside.scalar_subquery(),
        "revenue": revenue(event.currency),
    }
    columns = (figure.label(name) for name, figure in figures.items())
    rows = select(TicketType.id, TicketType.name, *columns).where(TicketType.event_id == event.id)
    return [dict(row) for row in db.session.execute(rows.order_by(TicketType.id)).mappings()]


def shown(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a ticket type. Its pool may have fewer places free than itself."""
    own, pool_free = figures["available"], figures["pool_free"]
    rest = {name: value for name, value in figures.items() if not name.startswith("pool_")}
    return rest | {"available": TicketType.least(own, pool_free)}


def free_in_all(types: Iterable[dict[str, Any]]) -> int:
    """How many places are free: of each pool no more than it has."""
    own: Counter[int | None] = Counter()
    pools: dict[int | None, int | None] = {}
    for row in types:
        own[row["pool_id"]] += row["available"]
        pools[row["pool_id"]] = row["pool_free"]
    return sum(TicketType.least(free, pools[id]) for id, free in own.items())


def sums_of_payments(event_id: int) -> list[dict[str, Any]]:
    """What was taken for an event, by currency and method, and what became of it: kept, given back, or owed."""
    kind = func.coalesce(Payment.currency, Order.currency).label("currency"), Payment.method
    left, kept = Payment.amount - Payment.refunded, Payment.status == "confirmed"
    parts = {"confirmed": case((kept, left), else_=0), "refunded": Payment.refunded}
    parts |= {"refund_due": case((kept, 0), else_=left)}
    amounts = (func.coalesce(func.sum(part), 0).cast(BigInteger).label(name) for name, part in parts.items())
    rows = select(*kind, *amounts).join(Payment.order).where(Order.event_id == event_id).group_by(*kind).order_by(*kind)
    return [dict(row) for row in db.session.execute(rows).mappings()]
