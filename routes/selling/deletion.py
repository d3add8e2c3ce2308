"""Deleting an account: orders, money and counts stay, and nothing that says whose they were."""

import json

from sqlalchemy import delete, func, or_, select, union_all, update

from models import (
    UNSYNCHRONIZED,
    Appointment,
    Event,
    HasTickets,
    IdempotencyKey,
    LastAdmin,
    Mail,
    MailToken,
    Order,
    OrderLine,
    Payment,
    Ticket,
    TicketCode,
    TicketType,
    User,
    db,
    lock_rows,
    now,
    random_id,
)
from routes.selling.audit import record
from routes.selling.places import let_go
from routes.selling.transfers import forget_transfers
from routes.selling.waiting import forget_waiting, types_waited_for

NOBODY = "Deleted account"


def delete_account(user: User) -> None:
    """Close the account for good and forget who it was. Its tokens end, and its address is free again."""
    admins = user.lock_with_admins()
    if [admin for admin in admins if admin.role == "admin" and admin.active] == [user]:
        raise LastAdmin
    close_orders(user.id)
    if has_tickets(user.id):
        raise HasTickets
    db.session.execute(delete(Appointment).where(Appointment.user_id == user.id), execution_options=UNSYNCHRONIZED)
    forget_answers(user)
    forget_attendees(user.id)
    forget_transfers(user)
    forget_mails(user.id)
    forget_waiting(user.id)
    user.name, user.email, user.password = NOBODY, f"{random_id()}@deleted.invalid", None
    user.role, user.active, user.deleted_at = "user", False, now()
    user.pending_email = user.email_verified_at = None
    db.session.flush()
    record("user.deleted", f"user:{user.id}")


def close_orders(user_id: int) -> None:
    """Cancel what is pending. What has lapsed is canceled too, so that no later payment makes tickets of it.

    The ticket types that he waits for are locked with those of the orders.
    """
    unpaid = select(Order).where(Order.user_id == user_id, Order.state.in_(("pending", "expired"))).order_by(Order.id)
    orders = lock_rows(unpaid).all()
    of_orders = select(OrderLine.ticket_type_id).where(OrderLine.order_id.in_([order.id for order in orders]))
    types = or_(TicketType.id.in_(of_orders), TicketType.id.in_(types_waited_for(user_id)))
    lock_rows(select(TicketType.id).where(types).order_by(TicketType.id)).all()
    let_go([order.id for order in orders if order.state == "pending"], was="pending", becomes="canceled")
    lapsed = update(Order).where(Order.id.in_([order.id for order in orders if order.state == "expired"]))
    db.session.execute(lapsed.values(state="canceled"), execution_options=UNSYNCHRONIZED)


def has_tickets(user_id: int) -> bool:
    """Whether he may still come in somewhere. As his orders are locked, nobody pays for him meanwhile."""
    valid = select(Ticket.id).join(Ticket.event)
    valid = valid.where(Ticket.user_id == user_id, Ticket.status == "valid", Event.ends_at > now())
    return db.session.scalar(valid.limit(1)) is not None


def forget_answers(user: User) -> None:
    """Forget his name and address in the answers that are kept for keys.

    His own answers are deleted, and those about his tickets, which may have other names on them. In others'
    answers, about orders that he placed or took money for, they are replaced.
    """
    taken = select(Payment.order_id).where(Payment.taken_by == user.id)
    orders = select(Order.code).where(or_(Order.user_id == user.id, Order.id.in_(taken)))
    passed_on = select(TicketCode.code).where(TicketCode.user_id == user.id)
    tickets = union_all(select(Ticket.code).where(Ticket.user_id == user.id), passed_on)
    of_tickets = func.substr(IdempotencyKey.path, len("/tickets/") + 1, 32).in_(tickets)
    gone = delete(IdempotencyKey).where(or_(IdempotencyKey.user_id == user.id, of_tickets))
    db.session.execute(gone, execution_options=UNSYNCHRONIZED)
    about = func.substr(IdempotencyKey.path, len("/orders/") + 1, 32).in_(orders)
    body = func.replace(IdempotencyKey.body, value_in_json(user.name), value_in_json(NOBODY))
    body = func.replace(body, value_in_json(user.email), value_in_json(""))
    db.session.execute(update(IdempotencyKey).where(about).values(body=body), execution_options=UNSYNCHRONIZED)


def forget_attendees(user_id: int) -> None:
    """His tickets have no other names than his own, of which nothing is left."""
    of_user = Ticket.user_id == user_id, Ticket.attendee_name.is_not(None)
    lock_rows(select(Ticket.id).where(*of_user).order_by(Ticket.id)).all()
    orders = update(Order).where(Order.user_id == user_id, Order.attendee_name.is_not(None)).values(attendee_name=None)
    db.session.execute(orders, execution_options=UNSYNCHRONIZED)
    unnamed = update(Ticket).where(*of_user).values(attendee_name=None, attendee_folded=None)
    db.session.execute(unnamed, execution_options=UNSYNCHRONIZED)


def value_in_json(text: str) -> str:
    """How a text stands in an answer as a field's value, and not as a field's name."""
    return f":{json.dumps(text, ensure_ascii=False)}"


def forget_mails(user_id: int) -> None:
    """His waiting mails are not sent. Those that were sent stay on the list, without the address."""
    db.session.execute(delete(MailToken).where(MailToken.user_id == user_id), execution_options=UNSYNCHRONIZED)
    mails = Mail.user_id == user_id
    waiting = delete(Mail).where(mails, Mail.has_status("waiting"))
    db.session.execute(waiting, execution_options=UNSYNCHRONIZED)
    told = update(Mail).where(mails).values(to="", error=None, facts=None)
    db.session.execute(told, execution_options=UNSYNCHRONIZED)
