"""Tickets that are passed on: who accepts one has it, with a new code, and the code that it had lets nobody in.

The money stays the buyer's. Where a ticket is used or refunded while it is on its way, the one who comes first wins.
"""

import secrets
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import Select, delete, func, insert, or_, select, update

from models import (
    UNSYNCHRONIZED,
    EventCanceled,
    EventOver,
    Invalid,
    Mail,
    Missing,
    Order,
    OwnTicket,
    Ticket,
    TicketCode,
    TicketUsed,
    TicketVoid,
    TooOften,
    Transfer,
    TransferPending,
    TransferToken,
    User,
    changed_rows,
    db,
    keep_rows,
    lock_rows,
    new_code,
    normal_email,
    now,
)
from routes.selling.door import shown, void_since
from routes.selling.mail_tokens import BadLink, hashed, lock_user
from routes.selling.mails import HOUR, require_mail, tell, tell_stranger
from routes.selling.orders import lock_ticket, locked_ticket, ticket_of

LIFETIME = timedelta(days=7)
MOST_AN_HOUR = 20  # by one account, which could else send mails to anybody


def own_ticket(user: Any, code: str) -> Ticket:
    """The ticket, if it is the user's own; else it is not there."""
    ticket = ticket_of(code)
    if ticket.user_id != user.id:
        raise Missing
    return ticket


def offer(ticket: Ticket, email: str) -> Transfer:
    """Mail a link to this address, by which the ticket can be accepted. Until then it stays its owner's."""
    require_mail()
    owner, address = lock_user(ticket.user_id), normal_email(email)
    if address == owner.email:
        raise Invalid(email="Must be somebody else's address")
    recent = select(func.count()).where(Transfer.user_id == owner.id, Transfer.created_at > now(-HOUR))
    if cast(int, db.session.scalar(recent)) >= MOST_AN_HOUR:
        raise TooOften
    lock_ticket(ticket)
    refuse_unless_good(ticket)
    lapsed = update(Transfer).where(Transfer.ticket_id == ticket.id, Transfer.status == "pending")
    db.session.execute(
        lapsed.where(Transfer.expires_at <= now()).values(status="lapsed"), execution_options=UNSYNCHRONIZED
    )
    pending = db.session.scalar(select(Transfer).where(Transfer.ticket_id == ticket.id, Transfer.status == "pending"))
    if pending:
        raise TransferPending(**pending.to_dict())
    time = db.session.scalars(select(now())).one()
    expires_at = min(time + LIFETIME, ticket.event.ends_at)
    transfer = Transfer(ticket=ticket, giver=owner, to=address, status="pending", expires_at=expires_at)
    db.session.add(transfer)
    db.session.flush()
    tell_stranger("ticket_transferred", address, f"offered-{transfer.id}", **about(transfer, "offered"))
    return transfer


def about(transfer: Transfer, letter: str) -> dict[str, Any]:
    """What a mail about a transfer is about; the `letter` says which of the three it is."""
    return {"ticket_id": transfer.ticket_id, "facts": {"transfer": transfer.id, "letter": letter}}


def refuse_unless_good(ticket: Ticket) -> None:
    """Raise a refusal for a locked ticket that lets nobody in any more."""
    if ticket.status == "void":
        raise TicketVoid(since=void_since(ticket), **shown(ticket))
    if ticket.status == "used":
        raise TicketUsed(**shown(ticket))
    if ticket.event.canceled_at is not None:
        raise EventCanceled(since=ticket.event.canceled_at)
    if ticket.event.ends_at <= db.session.scalars(select(now())).one():
        raise EventOver


def withdraw(ticket: Ticket) -> None:
    """Take the ticket back, if nobody has accepted it yet: the link is no longer good."""
    lock_ticket(ticket)
    pending = update(Transfer).where(Transfer.ticket_id == ticket.id, is_pending())
    if not changed_rows(pending.values(status="withdrawn")):
        raise Missing


def is_pending() -> Any:
    return (Transfer.status == "pending") & (Transfer.expires_at > now())


def select_transfer(token: str) -> Select[Transfer]:
    of_token = select(TransferToken.transfer_id).where(TransferToken.hash == hashed(token))
    return select(Transfer).where(Transfer.id.in_(of_token), is_pending())


def accept(token: str, user_id: int) -> Ticket:
    """Make the ticket that the token is for the user's own, under a new code."""
    transfer = db.session.scalar(select_transfer(token))
    if transfer is None:
        raise BadLink
    if keep_rows(select(User.id).where(User.id == user_id, User.active)).one_or_none() is None:
        raise Missing
    # A refund locks the order first, and looks at whose the tickets are.
    order_id = select(Ticket.order_id).where(Ticket.id == transfer.ticket_id).scalar_subquery()
    lock_rows(select(Order.id).where(Order.id == order_id)).one_or_none()
    ticket = locked_ticket(transfer.ticket_id)
    accepted = update(Transfer).where(Transfer.id == transfer.id, is_pending()).values(status="accepted")
    if not changed_rows(accepted):
        raise BadLink
    if ticket.user_id == user_id:
        raise OwnTicket
    refuse_unless_good(ticket)
    give(ticket, user_id)
    tell("ticket_transferred", user_id, f"received-{transfer.id}", **about(transfer, "received"))
    tell("ticket_transferred", transfer.user_id, f"given-{transfer.id}", **about(transfer, "given"))
    return ticket


def give(ticket: Ticket, user_id: int) -> None:
    """Make a locked ticket another user's. Who was to come with it is nobody's business any more."""
    db.session.add(TicketCode(code=ticket.code, ticket_id=ticket.id, user_id=ticket.user_id))
    ticket.code, ticket.user_id, ticket.attendee_name = new_code(), user_id, None
    db.session.flush()
    db.session.expire(ticket, ["owner"])


def new_transfer_token(transfer: Transfer) -> str:
    """A token for the mail to carry."""
    token = secrets.token_urlsafe(32)
    db.session.execute(insert(TransferToken).values(hash=hashed(token), transfer_id=transfer.id))
    return token


def forget_old_transfers() -> None:
    """The tokens of what is accepted, taken back or lapsed are good for nothing."""
    over = select(Transfer.id).where(or_(Transfer.status != "pending", Transfer.expires_at <= now()))
    old = delete(TransferToken).where(TransferToken.transfer_id.in_(over))
    db.session.execute(old, execution_options=UNSYNCHRONIZED)


def forget_transfers(user: User) -> None:
    """Forget whom a user gave tickets, and that he was given any, by his present address."""
    his = or_(Transfer.user_id == user.id, Transfer.to == user.email)
    transfers = lock_rows(select(Transfer).where(his).order_by(Transfer.id)).all()
    keys = [f"offered-{transfer.id}" for transfer in transfers]
    offers = Mail.kind == "ticket_transferred", Mail.key.in_(keys)
    db.session.execute(delete(Mail).where(*offers, Mail.has_status("waiting")), execution_options=UNSYNCHRONIZED)
    told = update(Mail).where(*offers).values(to="", error=None, facts=None)
    db.session.execute(told, execution_options=UNSYNCHRONIZED)
    for transfer in transfers:
        transfer.to = ""
        if transfer.status == "pending":
            transfer.status = "withdrawn"
