"""Money given back: what of an order or a payment is refunded, each part of it once.

By hand it is done at once. A provider is asked after the commit (`claim_refund`), and what it says is written by
`write_answer` and `write_facts`, whoever brings it and however often.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, cast

from flask import current_app
from sqlalchemy import Text, Update, bindparam, func, select, update

from models import (
    UNSYNCHRONIZED,
    Event,
    EventNotCanceled,
    ExceedsPaid,
    Invalid,
    Missing,
    Order,
    OrderNotPaid,
    Payment,
    PaymentDisputed,
    Refund,
    RefundNotDue,
    RefundNotFailed,
    Ticket,
    TicketsTransferred,
    db,
    line_amount,
    lock_rows,
    new_code,
    note_work,
    now,
)
from routes.outside.provider import Dispute, PaymentFacts, RefundRequest, Returned
from routes.selling.audit import record, record_of_provider
from routes.selling.mails import tell_of_attention, tell_of_refund
from routes.selling.orders import lock_order
from routes.selling.places import let_go, let_go_of_canceled, let_go_of_tickets

LEASE = 120  # seconds: longer than a call to the provider takes with its repeats
PAUSES = (30, 120, 600, 3600)  # after the first attempt that came to nothing, the second...
LOOK_AGAIN = 3600  # at one that the provider has taken and not finished
MANY = 50  # orders of a canceled event that are refunded in one go


def refund(
    order: Order,
    *,
    tickets: Collection[str] | None = None,
    amount: int | None = None,
    reason: str | None = None,
    by: int | None = None,
) -> None:
    """Refund all of a paid order; or `tickets` by their codes, for what they cost or for `amount`; or an amount alone.

    `by` is the id of who does it.
    """
    if tickets is None and amount == 0:
        raise Invalid(amount="Must be more than 0 where no tickets are named")
    lock_order(order)
    if order.state != "paid":
        raise OrderNotPaid(status=order.status)
    payment = lock_payment_for(order)
    named = tickets_named(order, tickets or ())
    if tickets is None and amount is None:
        named, amount = valid_tickets(order), payment.left if payment else 0
        refuse_passed_on(order, named)
        let_go([order.id], was="paid", becomes="refunded")
    else:
        amount = price_of(order, named) if amount is None else amount
        let_go_of_tickets(order, named)
    give_back(payment, amount, reason=reason, by=by)
    db.session.expire(order, ["tickets", "payments", "state"])
    given: dict[str, list[Any]] = {"reason": [None, reason]} if reason else {}
    given |= {"amount": [None, amount], "tickets": [None, len(named)], "status": ["paid", order.state]}
    record("order.refunded", f"order:{order.code}", order.event_id, **given)
    way = "provider" if payment and payment.provider else "hand"
    key = f"{order.id}-{new_code()}"
    tell_of_refund(order, amount=amount, key=key, by=way, reason=reason, tickets=[ticket.id for ticket in named])


def lock_payment_for(order: Order) -> Payment | None:
    """The payment that bought the order, while there is something left of it."""
    confirmed = select(Payment).where(Payment.order_id == order.id, Payment.status == "confirmed")
    payment: Payment | None = lock_rows(confirmed).one_or_none()
    return payment


def tickets_named(order: Order, codes: Collection[str]) -> list[Ticket]:
    found = [ticket for ticket in order.tickets if ticket.code in set(codes)]
    if len(found) < len(set(codes)):
        raise Invalid(tickets="Must all be of this order")
    return found


def valid_tickets(order: Order) -> list[Ticket]:
    return list(db.session.scalars(select(Ticket).where(Ticket.order_id == order.id, Ticket.status == "valid")))


def refuse_passed_on(order: Order, tickets: Collection[Ticket]) -> None:
    """Refuse to take a ticket from somebody else who has it now, unless it is named."""
    passed_on = [ticket.code for ticket in tickets if ticket.user_id != order.user_id]
    if passed_on:
        raise TicketsTransferred(tickets=passed_on)


def price_of(order: Order, tickets: Collection[Ticket]) -> int:
    prices = {line.ticket_type_id: line.unit_price for line in order.items}
    return sum(line_amount(1, prices[ticket.ticket_type_id]) for ticket in tickets)


def give_back(
    payment: Payment | None, amount: int, *, reason: str | None = None, by: int | None = None, by_hand: bool = False
) -> None:
    """Give back an amount of a locked payment, never more than is left of it: by hand now, by its provider soon."""
    if not amount:
        return
    if payment is None:
        raise ExceedsPaid(left=0)
    if payment.disputed:
        raise PaymentDisputed
    if amount > payment.left:
        raise ExceedsPaid(left=payment.left)
    code = new_code()
    made = Refund(code=code, key=code, payment=payment, amount=amount, reason=reason, requested_by=by)
    asked = payment.provider is not None and not by_hand
    made.status, made.settled_at = ("requested", None) if asked else ("succeeded", now())
    payment.refunded += amount
    if payment.status == "confirmed" and not payment.left:
        payment.status = "refunded"
    db.session.add(made)
    db.session.flush()
    if asked:
        note_work()


def give_back_due(payment: Payment, *, by: int | None = None) -> None:
    """Give back by hand a payment that bought nothing, or what its provider has failed to give back."""
    payment = lock_payment(payment.id)
    outcomes = {refund.status for refund in payment.refunds}
    failed = "failed" in outcomes and not outcomes & {"requested", "pending"}
    if not (payment.left and failed if payment.provider else payment.status == "refund_due"):
        raise RefundNotDue(status=payment.status)
    amount = payment.left
    give_back(payment, amount, by=by, by_hand=True)
    payment.status = "refunded"
    db.session.flush()
    returned = {"payment": [None, payment.id], "amount": [None, amount], "status": ["refund_due", "refunded"]}
    record("payment.returned", f"order:{payment.order.code}", payment.order.event_id, **returned)


def refund_of(order_code: str, code: str) -> Refund:
    of_order = Refund.payment.has(Payment.order.has(Order.code == order_code))
    refund = db.session.scalar(select(Refund).where(Refund.code == code, of_order))
    if refund is None:
        raise Missing
    return refund


def retry(refund: Refund) -> None:
    """Ask the provider for one that has failed once more, by a new key: its old one stands for the failure."""
    payment = lock_payment(refund.payment_id)
    db.session.refresh(refund)
    if refund.status != "failed":
        raise RefundNotFailed(status=refund.status)
    if payment.disputed:
        raise PaymentDisputed
    if refund.amount > payment.left:
        raise ExceedsPaid(left=payment.left)
    payment.refunded += refund.amount
    refund.status, refund.key, refund.attempts = "requested", new_code(), 0
    refund.reference = refund.failure = refund.asked_at = refund.settled_at = None
    refund.due_at = now()
    db.session.flush()
    again = {"refund": [None, refund.code], "amount": [None, refund.amount], "status": ["failed", "requested"]}
    record("refund.retried", f"order:{payment.order.code}", payment.order.event_id, **again)
    note_work()


def lock_payment(id: int) -> Payment:
    payment: Payment = lock_rows(select(Payment).where(Payment.id == id)).one()
    db.session.expire(payment, ["refunds"])
    return payment


# What the provider is asked, and what it says.


@cache
def claim_statement() -> Update:
    due = (
        select(Refund.id)
        .join(Refund.payment)
        .where(
            Refund.status.in_(("requested", "pending")),
            Refund.due_at <= now(),
            Payment.provider == bindparam("provider", type_=Text),
        )
        .order_by(Refund.due_at, Refund.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Refund)
        .cte("due")
    )
    claimed = update(Refund).where(Refund.id.in_(select(due.c.id)))
    values = {"due_at": now(LEASE), "attempts": Refund.attempts + 1, "asked_at": func.coalesce(Refund.asked_at, now())}
    return claimed.values(values).returning(Refund)


def claim_refund(provider: str) -> tuple[int, int, RefundRequest] | None:
    """The next refund that is due: its id, how often it was claimed, and what to ask. Nobody else asks for it until its
    lease ends."""
    options = {"synchronize_session": False, "populate_existing": True}
    refund = db.session.scalar(claim_statement(), {"provider": provider}, execution_options=options)
    if refund is None:
        return None
    payment = refund.payment
    wanted = RefundRequest(
        payment_reference=payment.reference or "",
        amount=refund.amount,
        currency=payment.currency or payment.order.currency,
        key=refund.key,
        asked_at=refund.asked_at if refund.attempts > 1 else None,
    )
    return refund.id, refund.attempts, wanted


def put_off(id: int, attempts: int) -> None:
    pause = PAUSES[min(attempts, len(PAUSES)) - 1]
    later = update(Refund).where(Refund.id == id, Refund.attempts == attempts).values(due_at=now(pause))
    db.session.execute(later, execution_options=UNSYNCHRONIZED)


def make_due(provider: str) -> None:
    """Make due now all that the provider has not finished, but for what is being asked for."""
    of_provider = Refund.payment_id.in_(select(Payment.id).where(Payment.provider == provider))
    open_ones = Refund.status.in_(("requested", "pending")), of_provider, Refund.due_at > now(LEASE)
    db.session.execute(update(Refund).where(*open_ones).values(due_at=now()), execution_options=UNSYNCHRONIZED)


def write_answer(id: int, answer: Returned) -> None:
    """What the provider says of a refund that it was asked for."""
    refund = lock_refund(id)
    if answer.key in (None, refund.key):
        settle(refund, answer)


def write_failure(id: int, key: str, failure: str) -> None:
    """The provider will never give it back by this key."""
    refund = lock_refund(id)
    if refund.key == key and refund.status in ("requested", "pending"):
        fail(refund, failure)


def lock_refund(id: int) -> Refund:
    payment_id = db.session.scalar(select(Refund.payment_id).where(Refund.id == id))
    lock_payment(cast(int, payment_id))
    return cast(Refund, db.session.get(Refund, id, populate_existing=True))


def settle(refund: Refund, answer: Returned) -> None:
    """The status only goes on: requested, pending, succeeded, failed. Its payment is locked."""
    payment = refund.payment
    refund.reference = answer.reference
    if refund.status == "failed" or answer.status == refund.status:
        return
    if answer.status == "failed":
        fail(refund, answer.failure or "failed")
        return
    if refund.status != "succeeded":
        refund.status = answer.status
        refund.settled_at = now() if answer.status == "succeeded" else None
        refund.due_at = now(LOOK_AGAIN)
    db.session.flush()
    close_if_refunded(payment)


def fail(refund: Refund, failure: str) -> None:
    """The money is there again, and somebody must decide."""
    refund.payment.refunded -= refund.amount
    was = refund.status
    refund.status, refund.failure, refund.settled_at = "failed", failure, now()
    db.session.flush()
    order = refund.payment.order
    failed = {"refund": [None, refund.code], "amount": [None, refund.amount], "status": [was, "failed"]}
    record_of_provider("refund.failed", f"order:{order.code}", order.event_id, **failed)
    tell_of_attention(order, "refund_failed", key=refund.key)


def close_if_refunded(payment: Payment) -> None:
    """A payment is refunded once all of it is; one that bought nothing, only when the money is on its way for sure."""
    on_its_way = [refund for refund in payment.refunds if refund.status == "requested"]
    if not payment.left and not (payment.status == "refund_due" and on_its_way):
        payment.status = "refunded"
    db.session.flush()


def write_facts(payment_id: int, facts: PaymentFacts) -> None:
    """What became of a payment at the provider, whoever did it there. Tickets are left alone."""
    payment = lock_payment(payment_id)
    for answer in facts.refunds:
        known = next((it for it in payment.refunds if answer.key == it.key or answer.reference == it.reference), None)
        if known:
            settle(known, answer)
        elif answer.status != "failed":
            add_from_outside(payment, answer)
    note_disputes(payment, facts.disputes)


def add_from_outside(payment: Payment, answer: Returned) -> None:
    """Somebody gave money back at the provider. What we were about to give back of the same is not there any more."""
    ours = [refund for refund in payment.refunds if refund.status == "requested"]
    while answer.amount > payment.left and ours:
        fail(ours.pop(), "refunded_outside")
    if answer.amount > payment.left:
        current_app.logger.error("More was refunded than was paid", extra={"payment": payment.id})
        return
    code = new_code()
    made = Refund(code=code, key=code, payment=payment, amount=answer.amount, origin="outside", status=answer.status)
    made.reference, made.due_at = answer.reference, now(LOOK_AGAIN)
    made.settled_at = now() if answer.status == "succeeded" else None
    payment.refunded += answer.amount
    db.session.add(made)
    db.session.flush()
    close_if_refunded(payment)
    tell_of_attention(payment.order, "refunded_outside", key=code)
    seen = {"payment": [None, payment.id], "refund": [None, code], "amount": [None, answer.amount]}
    record_of_provider("refund.made_outside", f"order:{payment.order.code}", payment.order.event_id, **seen)


def note_disputes(payment: Payment, disputes: Sequence[Dispute]) -> None:
    """While the bank has not decided for us, the payment is disputed: also when it is lost."""
    against = [dispute for dispute in disputes if dispute.status != "won"]
    was = payment.disputed
    if against and not payment.disputed:
        payment.disputed_at = now()
        db.session.flush()
        tell_of_attention(payment.order, "disputed", key=against[0].reference)
    elif disputes and not against:
        payment.disputed_at = None
    db.session.flush()
    if bool(against) != was and disputes:
        changed = {"payment": [None, payment.id], "disputed": [was, bool(against)]}
        record_of_provider("payment.disputed", f"order:{payment.order.code}", payment.order.event_id, **changed)


# A canceled event.


def refund_all(event: Event, *, reason: str, by: int) -> dict[str, int]:
    """Say that all orders of a canceled event are to be refunded, which then happens a few at a time."""
    lock_rows(select(Event).where(Event.id == event.id)).one()
    if event.status != "canceled":
        raise EventNotCanceled(status=event.status)
    if event.refund_reason is None:
        event.refund_reason, event.refund_by = reason, by
        record("event.refunded", f"event:{event.id}", event.id, reason=[None, reason])
    db.session.flush()
    note_work()
    return {"orders": progress(event.id)["orders"]}


DISPUTED = Order.payments.any(Payment.disputed_at.is_not(None))


def progress(event_id: int) -> dict[str, int]:
    """How many orders of an event were bought, how many are refunded, and how many can be."""
    counts = select(
        func.count().filter(Order.state.in_(("paid", "refunded"))).label("orders"),
        func.count().filter(Order.state == "refunded").label("done"),
        func.count().filter(Order.state == "paid", ~DISPUTED).label("left"),
    ).where(Order.event_id == event_id)
    return dict(db.session.execute(counts).mappings().one())


def orders_to_refund() -> Sequence[int]:
    """Some orders of events whose orders are all to be refunded."""
    events = select(Event.id).where(Event.refund_reason.is_not(None), Event.status == "canceled")
    due = select(Order.id).where(Order.event_id.in_(events), Order.state == "paid", ~DISPUTED)
    return db.session.scalars(due.order_by(Order.id).limit(MANY)).all()


def refund_canceled(order_id: int) -> None:
    """Refund an order of a canceled event, with all its tickets: used ones stay used. What was paid by hand is due."""
    order = lock_rows(select(Order).where(Order.id == order_id)).one()
    payment = lock_payment_for(order)
    if order.state != "paid" or (payment and payment.disputed):
        return
    amount, event = payment.left if payment else 0, order.event
    if payment and payment.provider:
        give_back(payment, amount, reason=event.refund_reason, by=event.refund_by)
    elif payment:
        payment.status = "refund_due"
        db.session.flush()
    tickets = [ticket.id for ticket in valid_tickets(order)]
    let_go_of_canceled([order.id])
    way = "provider" if payment and payment.provider else "hand"
    tell_of_refund(order, amount=amount, key=str(order.id), by=way, reason=event.refund_reason, tickets=tickets)
