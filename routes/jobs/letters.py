"""What each mail tells, read from the tables at the moment it is sent."""

from collections.abc import Callable
from typing import Any, cast

from models import Event, Mail, Order, Ticket, Transfer, User, db
from routes.outside import messages
from routes.outside.messages import Recipient
from routes.selling.mail_tokens import new_mail_token
from routes.selling.orders import select_orders
from routes.selling.transfers import new_transfer_token


class Overtaken(Exception):
    """What the mail was to tell is no longer so: it is not sent."""


# To these addresses and no others: the account may have another one by now.
TO_ONE_ADDRESS = {"verify_address", "address_changed", "password_reset"}


def letter_of(mail: Mail) -> tuple[messages.Mail, Recipient]:
    """What the mail says, and to whom: else than its row says, where the user's address has changed since."""
    if mail.key.startswith("offered-"):
        return LETTERS[mail.kind](mail), Recipient(name="", address=mail.to)
    user = db.session.get(User, mail.user_id) if mail.user_id else None
    if user is None or user.deleted_at:
        raise Overtaken("The account is gone")
    address = mail.to if mail.kind in TO_ONE_ADDRESS else user.email
    return LETTERS[mail.kind](mail), Recipient(name=user.name, address=address)


def event_facts(event: Event) -> messages.Event:
    return messages.Event(
        id=event.id,
        version=event.version,
        status=event.status,
        name=event.name,
        description=event.description,
        venue=event.venue,
        starts_at=event.starts_at,
        ends_at=event.ends_at,
        updated_at=event.updated_at,
        time_zone=event.time_zone,
        contact=event.contact,
    )


def order_of(mail: Mail) -> Order:
    order = cast(Order | None, db.session.scalar(select_orders().where(Order.id == mail.order_id)))
    if order is None:
        raise Overtaken("The order is gone")
    return order


def event_of(mail: Mail) -> Event:
    event = db.session.get(Event, mail.event_id) if mail.event_id else None
    if event is None:
        raise Overtaken("The event is gone")
    return event


def facts_of(mail: Mail) -> dict[str, Any]:
    if mail.facts is None:
        raise Overtaken("What it told is forgotten")
    return mail.facts


def ticket_facts(ticket: Ticket) -> messages.Ticket:
    return messages.Ticket(code=ticket.code, ticket_type=ticket.ticket_type.name, holder=ticket.holder)


def order_paid(mail: Mail) -> messages.Mail:
    order = order_of(mail)
    tickets = [it for it in order.tickets if it.status != "void" and it.user_id == mail.user_id]
    if not tickets:
        raise Overtaken("The tickets are gone")
    return messages.OrderPaid(
        event=event_facts(order.event),
        order=order.code,
        currency=order.currency,
        total=order.total,
        lines=[
            messages.Line(name=line.name, quantity=line.quantity, unit_price=line.unit_price) for line in order.items
        ],
        payments=[
            messages.Payment(method=payment.method, amount=payment.amount, reference=payment.reference)
            for payment in order.payments
            if payment.status == "confirmed"
        ],
        tickets=[ticket_facts(ticket) for ticket in tickets],
    )


def money_back(order: Order, facts: dict[str, Any]) -> dict[str, Any]:
    """What every mail about money that goes back says of it."""
    of_order = {"event": event_facts(order.event), "order": order.code, "currency": order.currency}
    return of_order | {name: facts[name] for name in ("amount", "by", "reason")}


def order_refunded(mail: Mail) -> messages.Mail:
    order, facts = order_of(mail), facts_of(mail)
    told = [it for it in order.tickets if it.id in facts["tickets"] and it.user_id == mail.user_id]
    tickets = [ticket_facts(ticket) for ticket in told]
    return messages.OrderRefunded(**money_back(order, facts), tickets=tickets)


def attention(mail: Mail) -> messages.Mail:
    order, facts = order_of(mail), facts_of(mail)
    return messages.Attention(event=event_facts(order.event), order=order.code, reason=facts["reason"])


def payment_returned(mail: Mail) -> messages.Mail:
    return messages.PaymentReturned(**money_back(order_of(mail), facts_of(mail)))


def event_changed(mail: Mail) -> messages.Mail:
    event = event_of(mail)
    if event.status == "canceled":
        raise Overtaken("The event is canceled, which another mail tells")
    return messages.EventChanged(event=event_facts(event))


def event_canceled(mail: Mail) -> messages.Mail:
    return messages.EventCanceled(event=event_facts(event_of(mail)))


def ticket_transferred(mail: Mail) -> messages.Mail:
    facts = facts_of(mail)
    transfer = db.session.get(Transfer, facts["transfer"])
    if transfer is None:
        raise Overtaken("The ticket is gone")
    if facts["letter"] == "received":
        return transfer_received(transfer, mail.user_id)
    return transfer_offered(transfer) if facts["letter"] == "offered" else transfer_given(transfer)


def transfer_offered(transfer: Transfer) -> messages.Mail:
    if transfer.status != "pending":
        raise Overtaken("The ticket was accepted or taken back")
    event, ticket_type = transfer.ticket.event, transfer.ticket.ticket_type
    return messages.TransferOffered(
        event=event_facts(event),
        ticket_type=ticket_type.name,
        giver=transfer.giver.name,
        token=new_transfer_token(transfer),
        expires_at=transfer.expires_at,
    )


def transfer_received(transfer: Transfer, owner: int | None) -> messages.Mail:
    ticket = transfer.ticket
    if ticket.user_id != owner or ticket.status == "void":
        raise Overtaken("The ticket is void, or was passed on")
    return messages.TransferReceived(event=event_facts(ticket.event), ticket=ticket_facts(ticket))


def transfer_given(transfer: Transfer) -> messages.Mail:
    event, ticket_type = transfer.ticket.event, transfer.ticket.ticket_type
    return messages.TransferGiven(event=event_facts(event), ticket_type=ticket_type.name, to=transfer.to)


def waiting_offer(mail: Mail) -> messages.Mail:
    order = order_of(mail)
    if order.status != "pending":
        raise Overtaken("The offer is over")
    [line] = order.items
    return messages.WaitingOffer(
        event=event_facts(order.event),
        order=order.code,
        currency=order.currency,
        total=order.total,
        ticket_type=line.name,
        quantity=line.quantity,
        expires_at=order.expires_at,
    )


def token_of(mail: Mail) -> str:
    token = new_mail_token(mail)
    if token is None:
        raise Overtaken("The account has changed since")
    return token


def password_reset(mail: Mail) -> messages.Mail:
    return messages.PasswordReset(token=token_of(mail))


def verify_address(mail: Mail) -> messages.Mail:
    return messages.VerifyAddress(token=token_of(mail))


LETTERS: dict[str, Callable[[Mail], messages.Mail]] = {
    "order_paid": order_paid,
    "order_refunded": order_refunded,
    "payment_returned": payment_returned,
    "event_changed": event_changed,
    "event_canceled": event_canceled,
    "attention": attention,
    "ticket_transferred": ticket_transferred,
    "waiting_offer": waiting_offer,
    "password_reset": password_reset,
    "verify_address": verify_address,
    "address_changed": lambda mail: messages.AddressChanged(),
    "password_changed": lambda mail: messages.PasswordChanged(),
}
