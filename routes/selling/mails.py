"""The outbox: a mail is a row, written in the transaction of what it tells, and sent afterwards by whoever claims it.

Nothing here sends, and no answer depends on what is sent. Without `SMTP_URL` no mail is written at all.
"""

from functools import cache
from typing import Any, cast

from flask import current_app
from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    func,
    inspect,
    literal,
    or_,
    select,
    true,
    update,
)

from models import (
    Event,
    JsonText,
    Mail,
    Missing,
    NotConfigured,
    Order,
    OrderNotPaid,
    Payment,
    Ticket,
    TooOften,
    User,
    changed_rows,
    db,
    insert_or_ignore,
    note_work,
    now,
    random_id,
    random_key,
)
from routes.selling.audit import acts_for_himself, record
from routes.selling.orders import lock_order

HOUR = 3600


def is_configured() -> bool:
    return bool(current_app.config["SMTP_URL"])


def require_mail() -> None:
    if not is_configured():
        raise NotConfigured(what="mail")


def tell(kind: str, user: Any, key: str | ColumnElement[str], **columns: Any) -> None:
    """Write a mail of this kind to the user with an id, or to each of those whom a condition finds.

    `kind` and `key` together are told once, however often it is tried; `columns` are further ones of the mail.
    """
    if not is_configured():
        return
    who = User.id == user if isinstance(user, int) else user
    values = {
        "kind": literal(kind, Text),
        "key": literal(key, Text) if isinstance(key, str) else key,
        "user_id": User.id,
        "to_email": User.email,
        "message_key": random_key(),
        "created_at": now(),
        "due_at": now(),
    } | {name: typed(name, value) for name, value in columns.items()}
    rows = select(*values.values()).where(who, User.deleted_at.is_(None))
    db.session.execute(insert_or_ignore(Mail.__table__).from_select(list(values), rows, include_defaults=False))
    note_work()


def tell_stranger(kind: str, address: str, key: str, **columns: Any) -> None:
    """Write a mail to an address that is perhaps nobody's here."""
    db.session.add(Mail(kind=kind, key=key, to=address, message_key=random_id(), **columns))
    db.session.flush()
    note_work()


TYPES: dict[str, Any] = {
    "to_email": Text(),
    "order_id": Integer(),
    "ticket_id": Integer(),
    "event_id": Integer(),
    "facts": JsonText(),
    "stamp": Text(),
}


def typed(column: str, value: Any) -> Any:
    """A column's value in a query, where PostgreSQL must be told of which type it is."""
    return value if isinstance(value, ColumnElement) else literal(value, TYPES[column])


def tell_of_tickets(order: Order) -> None:
    """The buyer gets his tickets."""
    tell("order_paid", order.user_id, str(order.id), order_id=order.id)


MOST_AN_HOUR = 3
REPEATED = Mail.key.contains("-")


def tell_of_tickets_again(order: Order) -> None:
    """His tickets once more, for who asks for them."""
    require_mail()
    if order.state != "paid":
        raise OrderNotPaid(status=order.status)
    tell("order_paid", order.user_id, f"{order.id}-{random_id()}", order_id=order.id)
    if not acts_for_himself(order.user_id):
        record("order.mailed", f"order:{order.code}", order.event_id)


def limit_repeats(order: Order) -> None:
    """Raise TooOften where the tickets were sent once more three times within the hour."""
    lock_order(order)
    recent = select(func.count()).where(
        Mail.order_id == order.id, Mail.kind == "order_paid", REPEATED, Mail.created_at > now(-HOUR)
    )
    if cast(int, db.session.scalar(recent)) >= MOST_AN_HOUR:
        raise TooOften


def tell_of_refund(
    order: Order, *, amount: int, key: str, tickets: list[int], by: str = "hand", reason: str | None = None
) -> None:
    """What goes back to the buyer, and which tickets, given by their ids, have just become void.

    Those that were passed on are told to who has them, and no money goes there.
    """
    facts = {"amount": amount, "by": by, "reason": reason, "tickets": tickets}
    tell("order_refunded", order.user_id, key, order_id=order.id, facts=facts)
    passed_on = select(Ticket.user_id).where(Ticket.id.in_(tickets), Ticket.user_id != order.user_id).distinct()
    for user_id in db.session.scalars(passed_on):
        tell("order_refunded", user_id, f"{key}-{user_id}", order_id=order.id, facts=facts | {"amount": 0})


def tell_of_attention(order: Order, reason: str, *, key: str) -> None:
    """The admins must look at an order."""
    admins = and_(User.role == "admin", User.active)
    keys = literal(f"{reason}-{key}-", Text) + User.id.cast(Text)
    tell("attention", admins, keys, order_id=order.id, facts={"reason": reason})


def tell_of_payment_due(order: Order, payment: Payment, *, by: str = "hand", reason: str | None = None) -> None:
    """A payment bought nothing, and goes back."""
    facts = {"amount": payment.amount, "by": by, "reason": reason or why_due(order)}
    tell("payment_returned", order.user_id, str(payment.id), order_id=order.id, facts=facts)


def why_due(order: Order) -> str:
    if order.state == "paid":
        return "double"
    if order.state in ("canceled", "refunded") or order.event.status == "canceled":
        return "canceled"
    return "late"


def tell_of_changes(event: Event) -> None:
    """Tell all who have tickets what is about to be written: that it is canceled, or its time or venue are others.

    An event that is over concerns nobody any more.
    """
    changed = {name for name in ("status", "starts_at", "ends_at", "venue") if has_changed(event, name)}
    if event.status == "canceled":
        if "status" in changed:
            tell_ticket_holders(event, "event_canceled", version="")
    elif changed & {"starts_at", "ends_at", "venue"}:
        tell_ticket_holders(event, "event_changed", version=f"-{event.version}")


def has_changed(event: Event, field: str) -> bool:
    return inspect(event).attrs[field].history.has_changes()


def tell_ticket_holders(event: Event, kind: str, *, version: str) -> None:
    """One statement, however many they are."""
    paid = select(Order.user_id).where(Order.event_id == event.id, Order.state == "paid")
    coming = select(Event.id).where(Event.id == event.id, Event.ends_at > now()).exists()
    key = literal(f"{event.id}{version}-", Text) + User.id.cast(Text)
    owners = select(Ticket.user_id).where(Ticket.event_id == event.id, Ticket.status != "void")
    tell(kind, or_(User.id.in_(paid), User.id.in_(owners)) & coming, key, event_id=event.id, bulk=true())


LEASE = 180  # seconds: longer than the slowest mail server is given for one mail
PAUSES = (60, 5 * 60, 30 * 60, 2 * HOUR, 6 * HOUR, 24 * HOUR)  # after the first failure, the second...


@cache
def claim_statement() -> Update:
    due = (
        select(Mail.id)
        .where(Mail.has_status("waiting"), Mail.due_at <= now())
        .order_by(Mail.bulk, Mail.due_at, Mail.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = update(Mail).where(Mail.id.in_(select(due.c.id)))
    return claimed.values(due_at=now(LEASE), attempts=Mail.attempts + 1).returning(Mail)


def claim_mail() -> Mail | None:
    """The next mail that is due, which nobody else sends until its lease ends."""
    options = {"synchronize_session": False, "populate_existing": True}
    return cast(Mail | None, db.session.scalar(claim_statement(), execution_options=options))


def mark_sent(mail: Mail, to: str) -> None:
    """The mail server has it: that stays true even where the lease had ended and another one sends it again."""
    unsent = update(Mail).where(Mail.id == mail.id, Mail.sent_at.is_(None))
    changed_rows(unsent.values(sent_at=now(), failed_at=None, error=None, to=to))


def mark_failed(mail: Mail, error: str) -> None:
    changed_rows(leased(mail).values(failed_at=now(), error=error))


def put_off(mail: Mail, error: str) -> None:
    """Try again later, each time after a longer pause; after the last one it has failed."""
    if mail.attempts > len(PAUSES):
        mark_failed(mail, error)
    else:
        changed_rows(leased(mail).values(due_at=now(PAUSES[mail.attempts - 1]), error=error))


def leased(mail: Mail) -> Update:
    """The row, as long as nobody has claimed or asked for the mail since."""
    return update(Mail).where(Mail.id == mail.id, Mail.due_at == mail.due_at, Mail.has_status("waiting"))


def retry(id: int) -> None:
    """Send it now, whatever has come of it, with all its attempts before it."""
    require_mail()
    again = {"sent_at": None, "failed_at": None, "error": None, "attempts": 0, "due_at": now()}
    if not changed_rows(update(Mail).where(Mail.id == id).values(again)):
        raise Missing
    record("mail.retried", f"mail:{id}")
    note_work()


@cache
def mail_list(filters: frozenset[str] = frozenset(), status: str | None = None) -> Select[Mail]:
    """The query of a list of mails, with a parameter `user` if it is one of the `filters`."""
    mails = select(Mail)
    if "user" in filters:
        mails = mails.where(Mail.user_id == bindparam("user"))
    return mails if status is None else mails.where(Mail.has_status(status))
