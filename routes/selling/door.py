"""The door: each ticket lets one person in, once, by the name that it was given."""

from datetime import datetime
from typing import Any

from sqlalchemy import select

from models import (
    AlreadyCheckedIn,
    Event,
    EventCanceled,
    NotCheckedIn,
    Order,
    Ticket,
    TicketCode,
    TicketUsed,
    TicketVoid,
    WrongEvent,
    as_json,
    db,
    keep_rows,
    now,
)
from routes.selling.appointments import is_appointed
from routes.selling.audit import acts_for_himself, name_of, record
from routes.selling.orders import lock_ticket, locked_ticket


def check_in(ticket: Ticket, code: str, event_id: int | None = None, *, to: Any = None) -> None:
    """Let one person in, once, by the `code` that is shown; at the door of `event_id`, if it is given.

    The event can't be canceled meanwhile.

    Who is appointed for another event alone is not told whose ticket it is; `to` is the user who asks.
    """
    canceled_at = keep_rows(select(Event.canceled_at).where(Event.id == ticket.event_id), key_share=False).one_or_none()
    locked_ticket(ticket.id)
    if event_id not in (None, ticket.event_id):
        facts = {"event": {"id": ticket.event_id, "name": ticket.event.name}}
        knows = to is None or ticket.visible_to(to) or is_appointed(to.id, ticket.event_id)
        raise WrongEvent(**facts, **(shown(ticket) if knows else {}))
    if ticket.code != code:
        passed_on = select(TicketCode.void_since).where(TicketCode.code == code)
        raise TicketVoid(since=db.session.scalar(passed_on), **shown(ticket))
    if ticket.status == "void":
        raise TicketVoid(since=void_since(ticket), **shown(ticket))
    if ticket.status == "used":
        raise AlreadyCheckedIn(**shown(ticket))
    if canceled_at is not None:
        raise EventCanceled(since=canceled_at, **shown(ticket))
    ticket.status, ticket.checked_in_at = "used", now()
    db.session.flush()
    db.session.refresh(ticket, ["checked_in_at"])


def undo_check_in(ticket: Ticket) -> None:
    lock_ticket(ticket)
    if ticket.status != "used":
        raise NotCheckedIn(status=ticket.status, **shown(ticket))
    record(
        "check_in.undone",
        name_of(ticket),
        ticket.event_id,
        status=["used", "valid"],
        checked_in_at=[ticket.checked_in_at, None],
    )
    ticket.status, ticket.checked_in_at = "valid", None


def rename(ticket: Ticket, attendee_name: str | None) -> None:
    """Say who comes with the ticket; None for its buyer. The code stays, so that what is printed stays good."""
    lock_ticket(ticket)
    if ticket.status == "void":
        raise TicketVoid(since=void_since(ticket), **shown(ticket))
    if ticket.status == "used":
        raise TicketUsed(**shown(ticket))
    if attendee_name != ticket.attendee_name and not acts_for_himself(ticket.user_id):
        record("ticket.renamed", name_of(ticket), ticket.event_id, attendee_name=[None, None])
    ticket.attendee_name = attendee_name


def void_since(ticket: Ticket) -> datetime | None:
    return db.session.scalar(select(Order.updated_at).where(Order.id == ticket.order_id))


def shown(ticket: Ticket) -> dict[str, Any]:
    """What a refusal says of the ticket to who may see it: whose it is, and whether he is inside."""
    return as_json(ticket, ("holder", "ticket_type.id", "ticket_type.name", "checked_in_at"))
