"""Reading orders and tickets, with all that their JSON shows, in a number of statements that does not grow."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate
from typing import Any

from sqlalchemy import Select, Text, bindparam, select, union_all
from sqlalchemy.orm import joinedload, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from models import (
    ORDER_IN_A_LIST,
    Event,
    Missing,
    Order,
    Payment,
    PromoCode,
    Refund,
    Ticket,
    TicketCode,
    TicketType,
    User,
    UTCDateTime,
    caseless,
    db,
    lock_rows,
    now,
    prefix_bounds,
    starts_with,
)
from routes.selling.appointments import is_appointed

MOST_TICKETS = 200  # that one page of orders shows, so that many who read such pages slow nobody else

EVENT_FIELDS = (Event.name, Event.venue, Event.starts_at, Event.ends_at, Event.time_zone, Event.status)


def load_ticket_fields() -> tuple[Any, ...]:
    return (
        joinedload(Ticket.event).load_only(*EVENT_FIELDS),
        joinedload(Ticket.ticket_type).load_only(TicketType.name),
        joinedload(Ticket.owner).load_only(User.name),
    )


def load_payment_fields() -> tuple[Any, ...]:
    return joinedload(Payment.by).load_only(User.name), selectinload(Payment.refunds)


def select_orders_without_tickets() -> Select[Order]:
    return select(Order).options(
        joinedload(Order.buyer).load_only(User.name, User.email),
        joinedload(Order.event).load_only(*EVENT_FIELDS),
        joinedload(Order.promo).load_only(PromoCode.code),
        selectinload(Order.items),
        selectinload(Order.payments).options(*load_payment_fields()),
    )


def select_orders() -> Select[Order]:
    return select_orders_without_tickets().options(selectinload(Order.tickets).options(*load_ticket_fields()))


def select_tickets() -> Select[Ticket]:
    return select(Ticket).options(*load_ticket_fields(), joinedload(Ticket.purchase).load_only(Order.code))


def order_for(user: Any, code: str) -> Order:
    """The order, if the user may see it; else it is not there."""
    order = db.session.scalar(select_orders().where(Order.code == code))
    if order is None or not (order.visible_to(user) or is_appointed(user.id, order.event_id, ("manager",))):
        raise Missing
    return order


def ticket_for(user: Any, code: str | None, *, event_id: int | None = None) -> Ticket:
    """The ticket, if the user may see it, or works at the event whose door it is shown at; else it is not there."""
    ticket = ticket_of(code)
    events = {ticket.event_id, event_id or ticket.event_id}
    if ticket.visible_to(user) or any(is_appointed(user.id, it) for it in events):
        return ticket
    raise Missing


def ticket_to_rename(user: Any, code: str) -> Ticket:
    """The ticket, for its owner and those who work here."""
    ticket = ticket_of(code)
    if not ticket.visible_to(user):
        raise Missing
    return ticket


def ticket_of(code: str | None) -> Ticket:
    """The ticket, for whoever has its code."""
    ticket = db.session.scalar(select_tickets().where(Ticket.code == code))
    if ticket is None:
        raise Missing
    return ticket


def ticket_at_door(user: Any, code: str, *, event_id: int | None = None) -> Ticket:
    """The ticket that is shown at a door, also by a code that it had before it was passed on."""
    with suppress(Missing):
        return ticket_for(user, code, event_id=event_id)
    passed_on = select(TicketCode.ticket_id).where(TicketCode.code == code).scalar_subquery()
    return ticket_for(user, db.session.scalar(select(Ticket.code).where(Ticket.id == passed_on)), event_id=event_id)


def ticket_exists(code: str) -> bool:
    return db.session.scalar(select(Ticket.id).where(Ticket.code == code)) is not None


def select_payments() -> Select[Payment]:
    order = joinedload(Payment.order)
    return select(Payment).options(
        *load_payment_fields(),
        order.load_only(Order.code, Order.state, Order.currency),
        order.undefer(Order.lapsed),
        order.joinedload(Order.event).load_only(Event.name),
    )


def payment_of(order_code: str, id: int) -> Payment:
    of_order = Payment.order.has(Order.code == order_code)
    payment = db.session.scalar(select_payments().where(of_order, Payment.id == id))
    if payment is None:
        raise Missing
    return payment


def begins(column: Any, name: str) -> Any:
    return starts_with(column, *(bindparam(f"{name}_{end}", type_=Text) for end in ("from", "to")))


# One after the other, as each has an index: joined by OR whole tables would be read.
FIND_BUYERS = union_all(
    select(User.id).where(begins(User.folded, "name")),
    select(User.id).where(begins(User.email, "email")),
)
FIND_ORDERS = union_all(
    select(Order.id).where(Order.code.between(bindparam("code_from"), bindparam("code_to"))),
    select(Order.id).where(Order.user_id.in_(FIND_BUYERS)),
)


def search(q: str) -> dict[str, str]:
    """The parameters that find the orders whose code, or whose buyer's name or address, begins with `q`."""
    found: dict[str, str] = {}
    bounds = {"code": code_bounds(q), "name": prefix_bounds(caseless(q)), "email": prefix_bounds(q.lower())}
    for name, (first, last) in bounds.items():
        found |= {f"{name}_from": first, f"{name}_to": last}
    return found


def code_bounds(q: str) -> tuple[str, str]:
    """The first and the last code that begin with `q`, as people type it.

    They are of one length, so they sort alike on every database.
    """
    code = re.sub(r"[\s-]", "", q).upper()
    if not re.fullmatch("[0-9A-F]{1,32}", code):
        return "", ""
    return code.ljust(32, "0"), code.ljust(32, "F")


# Few, and each kind has an index of its own.
FIND_ATTENTION = union_all(
    select(Payment.order_id).where(Payment.disputed_at.is_not(None)),
    select(Payment.order_id).join(Payment.refunds).where(Refund.status == "failed", Payment.refunded < Payment.amount),
    select(Payment.order_id).join(Payment.refunds).where(Refund.origin == "outside", Refund.status != "failed"),
)


@cache
def order_list(filters: frozenset[str] = frozenset(), status: str | None = None) -> Select[Order]:
    """The query of a list of orders, with a parameter for each of the `filters`: `user`, `event`, of `search`."""
    orders = select_orders_without_tickets().where(ORDER_IN_A_LIST)
    if "user" in filters:
        orders = orders.where(Order.user_id == bindparam("user"))
    if "event" in filters:
        orders = orders.where(Order.event_id == bindparam("event"))
    if "q" in filters:
        orders = orders.where(Order.id.in_(FIND_ORDERS))
    if "attention" in filters:
        orders = orders.where(Order.id.in_(FIND_ATTENTION))
    return orders if status is None else orders.where(Order.has_status(status))


def with_few_tickets(orders: Sequence[Order], *, owner: int | None = None) -> list[Order]:
    """The first of the orders that together have places for few enough tickets, one at least, with their tickets.

    With an `owner`, those of their tickets that belong to this user.
    """
    places = accumulate(sum(order.quantities.values()) for order in orders)
    few = [order for order, so_far in zip(orders, places, strict=True) if so_far <= MOST_TICKETS] or list(orders[:1])
    tickets = select(Ticket).options(*load_ticket_fields()).where(Ticket.order_id.in_([it.id for it in few]))
    if owner is not None:
        tickets = tickets.where(Ticket.user_id == owner)
    of_order: dict[int, list[Ticket]] = {order.id: [] for order in few}
    for ticket in db.session.scalars(tickets.order_by(Ticket.id)):
        of_order[ticket.order_id].append(ticket)
    for order in few:
        set_committed_value(order, "tickets", of_order[order.id])
    return few


PAYMENT_FILTERS = {
    "status": Payment.status == bindparam("status"),
    "method": Payment.method == bindparam("method"),
    "event": Payment.order_id.in_(select(Order.id).where(Order.event_id == bindparam("event"))),
    "by": Payment.taken_by == bindparam("by"),
    "taken_from": Payment.created_at >= bindparam("taken_from", type_=UTCDateTime),
    "taken_to": Payment.created_at <= bindparam("taken_to", type_=UTCDateTime),
}


@cache
def payment_list(filters: frozenset[str] = frozenset()) -> Select[Payment]:
    """The query of a list of payments, with a parameter for each of the `filters`."""
    return select_payments().where(*(PAYMENT_FILTERS[name] for name in sorted(filters)))


@cache
def payment_rows(filters: frozenset[str] = frozenset()) -> Select[*tuple[Any, ...]]:
    """The same list as rows, which need no session to be read."""
    columns = Payment.id, Payment.created_at, Payment.method, Payment.reference, Payment.amount, Payment.status
    order = Order.currency, Order.code.label("order"), Order.true_status().label("order_status")
    event = Event.id.label("event_id"), Event.name.label("event")
    by = User.id.label("by_id"), User.name.label("by")
    rows = select(*columns, *order, *event, *by).join(Payment.order).join(Order.event).outerjoin(Payment.by)
    return rows.where(*(PAYMENT_FILTERS[name] for name in sorted(filters)))


@cache
def ticket_list() -> Select[Ticket]:
    """The query of the tickets of the parameter `user_id`."""
    return select_tickets().where(Ticket.user_id == bindparam("user_id"))


@cache
def upcoming_tickets() -> Select[Ticket]:
    """The same list, of those that are good and for events that are not over."""
    of_event = ticket_list().join(Event, Ticket.event_id == Event.id)
    return of_event.where(Ticket.status != "void", Event.ends_at > now())


def lock_order(order: Order) -> None:
    """Nobody else pays, cancels, lapses or refunds this order until the commit."""
    if lock_rows(select(Order).where(Order.id == order.id)).one_or_none() is None:
        raise Missing  # it went with its event


def lock_ticket(ticket: Ticket) -> None:
    """Nobody else checks this ticket in, undoes that, refunds or accepts it until the commit.

    The code that it was found by must still be its own.
    """
    code = ticket.code
    if locked_ticket(ticket.id).code != code:
        raise Missing  # it was passed on


def locked_ticket(id: int) -> Ticket:
    """The ticket with this id as it is now, locked; by whatever code, and whosever it is."""
    ticket: Ticket | None = lock_rows(select_tickets().where(Ticket.id == id), of=Ticket).one_or_none()
    if ticket is None:
        raise Missing  # it went with its event
    if ticket.owner is None:  # PostgreSQL joined the one that was passed on a moment ago with who had it before
        db.session.expire(ticket, ["owner"])
    return ticket
