"""Who works for a single event: at its door, or as its manager."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Boolean, ColumnElement, Select, and_, bindparam, delete, or_, select, union_all
from sqlalchemy.orm import joinedload

from models import (
    APPOINTMENTS,
    UNSYNCHRONIZED,
    Appointment,
    Event,
    Missing,
    NotAllowed,
    Order,
    Pool,
    PromoCode,
    Ticket,
    TicketCode,
    TicketType,
    User,
    autocommit_connection,
    db,
    keep_rows,
    lock_rows,
)
from routes.selling.audit import record


class Standing(NamedTuple):
    """What a user is to something that belongs to an event."""

    appointment: str | None
    sees: bool


def select_standing(key: ColumnElement[Any], *joins: Any, sees: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """The query of the user's appointment for what has this key, and of whether he sees it without one."""
    appointed = and_(Appointment.event_id == Event.id, Appointment.user_id == bindparam("user"))
    rows = select(Appointment.role, sees.label("sees")).select_from(Event)
    for join in joins:
        rows = rows.join(*join)
    return rows.outerjoin(Appointment, appointed).where(key)


SHOWN = or_(Event.status != "draft", Appointment.role == "manager")
WORKS_HERE = bindparam("works_here", type_=Boolean)
OWN_ORDER, OWN_TICKET = Order.user_id == bindparam("user"), Ticket.user_id == bindparam("user")
BY_CODE = select(Ticket.id).where(Ticket.code == bindparam("code"))
BY_CODE_BEFORE = select(TicketCode.ticket_id).where(TicketCode.code == bindparam("code"))  # it was passed on
# By the first word of the path.
STANDINGS = {
    "events": select_standing(Event.id == bindparam("id"), sees=SHOWN),
    "ticket-types": select_standing(
        TicketType.id == bindparam("id"), (TicketType, TicketType.event_id == Event.id), sees=SHOWN
    ),
    "pools": select_standing(Pool.id == bindparam("id"), (Pool, Pool.event_id == Event.id), sees=SHOWN),
    "promo-codes": select_standing(
        PromoCode.id == bindparam("id"), (PromoCode, PromoCode.event_id == Event.id), sees=SHOWN
    ),
    "orders": select_standing(
        Order.code == bindparam("code"),
        (Order, Order.event_id == Event.id),
        sees=or_(OWN_ORDER, Appointment.role == "manager", WORKS_HERE),
    ),
    "tickets": select_standing(
        Ticket.id.in_(union_all(BY_CODE, BY_CODE_BEFORE)),
        (Ticket, Ticket.event_id == Event.id),
        sees=or_(OWN_TICKET, Appointment.role.is_not(None), WORKS_HERE),
    ),
}

OPEN_KINDS = ("events", "ticket-types")


def standing(user: Any, kind: str, path: Mapping[str, Any]) -> Standing | None:
    """What the user is to what a path of this kind is about, given its ids; None where there is nothing."""
    values = {**path, "user": user.id, "works_here": user.role != "user"}
    with autocommit_connection() as connection:
        row = connection.execute(STANDINGS[kind], values).one_or_none()
    return None if row is None else Standing(row.role, bool(row.sees))


def appointment_of(user_id: int, event_id: int) -> str | None:
    """The user's role at the event now."""
    of_event = select(Appointment.role).where(Appointment.user_id == user_id, Appointment.event_id == event_id)
    return db.session.scalar(of_event)


def is_appointed(user_id: int, event_id: int, roles: Collection[str] = APPOINTMENTS) -> bool:
    return appointment_of(user_id, event_id) in roles


def works_somewhere(user_id: int) -> bool:
    """Whether the user is appointed for any event."""
    any_event = select(Appointment.role).where(Appointment.user_id == user_id).limit(1)
    return db.session.scalar(any_event) is not None


def appoint(event_id: int, user_id: int, role: str, *, over: Collection[str] = APPOINTMENTS) -> Appointment:
    """Give a user this role at the event. It and the role that it replaces must be among `over`, the caller's to give.

    The event is not deleted meanwhile.
    """
    user = lock_for_appointment(user_id)
    if keep_rows(select(Event.id).where(Event.id == event_id)).one_or_none() is None:
        raise Missing
    found = db.session.get(Appointment, (event_id, user_id), populate_existing=True)
    was = found.role if found else None
    if not {role, was or role} <= set(over):
        raise NotAllowed
    appointment = found or Appointment(event_id=event_id, user=user)
    appointment.role = role
    db.session.add(appointment)
    db.session.flush()
    if role != was:
        record("staff.appointed", f"user:{user_id}", event_id, role=[was, role])
    return appointment


def dismiss(event_id: int, user_id: int, *, over: Collection[str] = APPOINTMENTS) -> None:
    """End an appointment, if its role is among `over`, the caller's to give."""
    lock_for_appointment(user_id)
    found = db.session.get(Appointment, (event_id, user_id), populate_existing=True)
    if found is None:
        raise Missing
    if found.role not in over:
        raise NotAllowed
    ended = Appointment.event_id == event_id, Appointment.user_id == user_id
    db.session.execute(delete(Appointment).where(*ended), execution_options=UNSYNCHRONIZED)
    record("staff.dismissed", f"user:{user_id}", event_id, role=[found.role, None])


def lock_for_appointment(user_id: int) -> User:
    """Nobody else appoints or dismisses this user until the commit, or deletes the account."""
    user: User | None = lock_rows(select(User).where(User.id == user_id)).one_or_none()
    if user is None or user.deleted_at:
        raise Missing
    return user


@cache
def appointment_list() -> Select[Appointment]:
    """The query of those who are appointed for the parameter `event_id`."""
    people = select(Appointment).options(joinedload(Appointment.user).load_only(User.name))
    return people.where(Appointment.event_id == bindparam("event_id"))
