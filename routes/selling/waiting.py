"""Waiting lists: who waits for places of a ticket type gets an offer, an order that holds them, before anybody else.

First come, first served: of those whose group fits into what is free, the one who came first. A bigger group is passed
over and keeps its place. Each offer is a transaction of its own (`routes/jobs/waiting.py`), made after the commit of
what freed the places, or at the next look of anybody: a buyer who is refused, whoever reads a list, the thread.
"""

from contextlib import suppress
from functools import cache
from typing import Any, cast

from flask import current_app
from sqlalchemy import (
    BigInteger,
    Insert,
    Integer,
    Row,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.orm import joinedload, undefer

from models import (
    UNSYNCHRONIZED,
    AlreadyWaiting,
    Event,
    Missing,
    Order,
    OrderLine,
    OverMaxPerBuyer,
    PlacesAvailable,
    PlacingRefused,
    Pool,
    TicketType,
    User,
    UTCDateTime,
    WaitingEntry,
    db,
    line_amount,
    lock_rows,
    now,
)
from routes.selling.mails import tell
from routes.selling.orders import order_for
from routes.selling.places import (
    Scarce,
    beyond_waiting,
    free_places,
    lapse,
    lapse_for,
    note_freed,
    take_places,
)
from routes.selling.placing import SELECT_OFFERS, Offer, insertion, judge_rules, lock_buyer, terms
from routes.selling.settling import cancel, issue_tickets


def join(buyer: int, event_id: int, ticket_type_id: int, quantity: int) -> WaitingEntry:
    """Let a user wait for places of a ticket type of the event, if there are none to buy."""
    lock_buyer(buyer)
    end_old_offer(buyer, ticket_type_id)
    offer = offer_of(buyer, ticket_type_id)
    if offer is None or offer.hidden or offer.event_status == "draft" or offer.event_id != event_id:
        raise Missing
    judge(offer, quantity)
    lock_rows(select(TicketType.id).where(TicketType.id == ticket_type_id)).one()
    active = WaitingEntry.state.in_(("waiting", "offered"))
    of_user = WaitingEntry.user_id == buyer, WaitingEntry.ticket_type_id == ticket_type_id
    if db.session.scalar(select(WaitingEntry.id).where(*of_user, active)) is not None:
        raise AlreadyWaiting
    left = beyond_waiting(cast(Offer, offer_of(buyer, ticket_type_id)))
    if quantity <= left:
        raise PlacesAvailable(available=left)
    entry = WaitingEntry(
        user_id=buyer, event_id=event_id, ticket_type_id=ticket_type_id, quantity=quantity, state="waiting"
    )
    db.session.add(entry)
    db.session.flush()
    count_waiting(ticket_type_id)
    return entry


def offer_of(buyer: int, ticket_type_id: int) -> Offer | None:
    """What a ticket type is sold by to this buyer."""
    values = {"ids": [ticket_type_id], "user_id": buyer}
    return db.session.connection().execute(SELECT_OFFERS, values).one_or_none()


def judge(offer: Offer, quantity: int) -> None:
    """Raise what an order of so many would be refused for, if there were places."""
    judge_rules(offer, quantity)
    if offer.left is not None and quantity > offer.left:
        raise OverMaxPerBuyer(ticket_type_id=offer.ticket_type_id, left=max(offer.left, 0))


def end_old_offer(user_id: int, ticket_type_id: int) -> None:
    """Write down what has become of an offer, so that its owner can wait again."""
    own = WaitingEntry.user_id == user_id, WaitingEntry.ticket_type_id == ticket_type_id
    entry = db.session.scalar(select(WaitingEntry).where(*own, WaitingEntry.state == "offered"))
    if entry is None or entry.status == "offered":
        return
    lapse(Order.id == entry.order_id)
    db.session.refresh(entry)
    entry.state = entry.status
    db.session.flush()


def count_waiting(ticket_type_id: int) -> None:
    """Write how many places are waited for into the ticket type, whose row is locked."""
    waiting = WaitingEntry.ticket_type_id == ticket_type_id, WaitingEntry.state == "waiting"
    total = select(func.coalesce(func.sum(WaitingEntry.quantity), 0)).where(*waiting).scalar_subquery()
    least = select(func.coalesce(func.min(WaitingEntry.quantity), 0)).where(*waiting).scalar_subquery()
    counted = update(TicketType).where(TicketType.id == ticket_type_id).values(waited=total, waited_least=least)
    db.session.execute(counted, execution_options=UNSYNCHRONIZED)


def leave(user: Any, id: int) -> None:
    """Wait no longer, or give up the offer. Its places go to the next one after the commit."""
    lock_buyer(user.id)
    entry = db.session.scalar(waiting_list().where(WaitingEntry.id == id, WaitingEntry.user_id == user.id))
    if entry is None or entry.status not in ("waiting", "offered"):
        raise Missing
    if entry.status == "offered":
        cancel(order_for(user, cast(str, entry.offer)))
        return
    lock_rows(select(TicketType.id).where(TicketType.id == entry.ticket_type_id)).one()
    lock_rows(select(WaitingEntry).where(WaitingEntry.id == id)).one()
    if entry.state != "waiting":
        raise Missing  # it was served, or left by another call, in this moment
    entry.state = "left"
    db.session.flush()
    count_waiting(entry.ticket_type_id)
    note_freed(TicketType, entry.ticket_type_id)


def forget_waiting(user_id: int) -> None:
    """Take a user off all lists. The ticket types are locked by now."""
    own = WaitingEntry.user_id == user_id
    types = db.session.scalars(select(WaitingEntry.ticket_type_id).where(own, WaitingEntry.state == "waiting")).all()
    db.session.execute(delete(WaitingEntry).where(own), execution_options=UNSYNCHRONIZED)
    for ticket_type_id in sorted(types):
        count_waiting(ticket_type_id)
        note_freed(TicketType, ticket_type_id)


def types_waited_for(user_id: int) -> Select[int]:
    """The query of the ticket types that a user waits for."""
    return select(WaitingEntry.ticket_type_id).where(WaitingEntry.user_id == user_id, WaitingEntry.state == "waiting")


@cache
def waiting_list() -> Select[WaitingEntry]:
    """The query of entries, with all that their JSON shows."""
    ticket_type = joinedload(WaitingEntry.ticket_type)
    return select(WaitingEntry).options(
        joinedload(WaitingEntry.event).load_only(Event.name),
        ticket_type.load_only(TicketType.name),
        ticket_type.undefer(TicketType.closed),
        joinedload(WaitingEntry.purchase).options(undefer(Order.lapsed)).load_only(Order.code, Order.state),
        joinedload(WaitingEntry.user).load_only(User.name),
    )


@cache
def entries_of_event() -> Select[WaitingEntry]:
    """The query of the entries for the parameter `event_id`."""
    return waiting_list().where(WaitingEntry.event_id == bindparam("event_id"))


@cache
def entries_of_user() -> Select[WaitingEntry]:
    """The query of the entries of the parameter `user_id`."""
    return waiting_list().where(WaitingEntry.user_id == bindparam("user_id"))


# Serving them.

SELECT_FREE = (
    select(
        Event.status,
        TicketType.closed.expression.label("closed"),
        free_places().label("free"),
        TicketType.pool_free.expression.label("pool_free"),
    )
    .join(TicketType.event)
    .where(TicketType.id == bindparam("id"))
)


def insertion_of_offer(status: str) -> Insert:
    return insertion(
        lambda *values: select(*values),
        event_id=bindparam("event_id", type_=Integer),
        status=literal_column(f"'{status}'"),
        total=bindparam("total", type_=BigInteger),
        expires_at=bindparam("until", type_=UTCDateTime),
        offered=true(),
    )


INSERT_OFFER, INSERT_GIFT = insertion_of_offer("pending"), insertion_of_offer("paid")


def next_in_line(ticket_type_id: int) -> Row[int, int] | None:
    """Id and user of the first entry whose group fits into what is free, also of holds that have lapsed."""
    places = db.session.execute(SELECT_FREE, {"id": ticket_type_id}).one_or_none()
    if places is None or places.status != "published" or places.closed == "not_yet":
        return None
    free = TicketType.least(places.free, places.pool_free)
    first = select(WaitingEntry.id, WaitingEntry.user_id).where(
        WaitingEntry.ticket_type_id == ticket_type_id, WaitingEntry.state == "waiting"
    )
    # Those that wait for what is over for good are closed one after the other.
    fitting = true() if places.closed else WaitingEntry.quantity <= free
    return db.session.execute(first.where(fitting).order_by(WaitingEntry.id).limit(1)).one_or_none()


def offer_places(entry_id: int, user_id: int, ticket_type_id: int) -> bool:
    """Offer an entry its places, if it is still the first that fits; or close it, where it can't be served any more."""
    user = lock_rows(select(User).where(User.id == user_id, User.active)).one_or_none()
    quantity = db.session.scalar(select(WaitingEntry.quantity).where(WaitingEntry.id == entry_id))
    pool_id = db.session.scalar(select(TicketType.pool_id).where(TicketType.id == ticket_type_id))
    if quantity is None:
        return False
    lapse_for({(TicketType, ticket_type_id): quantity} | ({(Pool, pool_id): quantity} if pool_id else {}))
    if not lock_rows(select(TicketType.id).where(TicketType.id == ticket_type_id)).all():
        return False
    lock_rows(select(Pool.id).where(Pool.members.any(TicketType.id == ticket_type_id))).all()
    first = next_in_line(ticket_type_id)
    if first is None or first.id != entry_id:
        return False
    entry = lock_rows(select(WaitingEntry).where(WaitingEntry.id == entry_id)).one()
    offer = offer_of(user_id, ticket_type_id)
    order = None
    if user is not None and offer is not None:
        with suppress(PlacingRefused):
            judge(offer, entry.quantity)
            order = write_offer(user_id, entry, offer)
    entry.state, entry.order_id = ("offered", order.id) if order else ("closed", None)
    db.session.flush()
    count_waiting(ticket_type_id)
    return order is not None


def write_offer(user_id: int, entry: WaitingEntry, offer: Offer) -> Offer:
    """The order that an offer is: pending until sales end at the latest, or paid where it costs nothing."""
    total = line_amount(entry.quantity, offer.price)
    until = db.session.scalars(select(now(current_app.config["OFFER_SECONDS"]))).one()
    ends = [time for time in (offer.sales_end, offer.event_ends_at) if time]
    values = terms(user_id) | {"event_id": offer.event_id, "currency": offer.currency, "total": total}
    values["until"] = min(until, *ends)
    order = db.session.connection().execute(INSERT_OFFER if total else INSERT_GIFT, values).one()
    rules: dict[Scarce, int] = {(TicketType, offer.ticket_type_id): offer.rules_version}
    places = {offer.ticket_type_id: entry.quantity}
    take_places(places, {}, rules, waited_for=True, held=int(total > 0), sold=int(total == 0))
    line = {"ticket_type_id": offer.ticket_type_id, "name": offer.name, "quantity": entry.quantity}
    db.session.execute(insert(OrderLine), [line | {"order_id": order.id, "unit_price": offer.price}])
    if total:
        tell("waiting_offer", user_id, str(entry.id), order_id=order.id)
    else:
        issue_tickets(db.session.get_one(Order, order.id))
    return order
