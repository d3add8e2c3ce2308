"""What becomes of an order: it is paid, canceled or refunded."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, insert, select

from models import (
    AlreadyPaid,
    AmountMismatch,
    Checkout,
    Event,
    Invalid,
    NothingDue,
    Order,
    OrderNotPending,
    Payment,
    Pool,
    PromoCode,
    ReferenceUsed,
    Ticket,
    TicketsTransferred,
    TicketType,
    User,
    as_json,
    caseless,
    comparable,
    db,
    keep_rows,
    new_code,
    now,
    refusing,
)
from routes.outside.provider import Facts
from routes.selling.audit import acts_for_himself, record, record_of_provider
from routes.selling.mails import tell_of_payment_due, tell_of_tickets
from routes.selling.orders import lock_order
from routes.selling.places import (
    ON_SALE_NOW,
    Missed,
    abandon_checkouts,
    all_or_nothing,
    beyond_waiting,
    lapse_for,
    let_go,
    lock_to_pay,
    note_freed,
    take_places,
    uses_by,
    wanted_by,
)
from routes.selling.refunds import give_back


def cancel(order: Order) -> None:
    """Give up an order that is pending, or give back one that cost nothing while nobody has used a ticket of it."""
    lock_order(order)
    if order.status != "pending" and (order.state != "paid" or order.total):
        raise OrderNotPending(status=order.status)
    was = order.state
    passed_on = select(Ticket.id).where(Ticket.order_id == order.id, Ticket.user_id != order.user_id)
    if was == "paid" and db.session.scalar(passed_on.limit(1)) is not None:
        raise TicketsTransferred(tickets=[])  # their codes are not the buyer's
    let_go([order.id], was=was, becomes="canceled")
    db.session.expire(order, ["tickets"])
    if not acts_for_himself(order.user_id):
        record("order.canceled", f"order:{order.code}", order.event_id, status=[was, "canceled"])


LONGEST_HOLD = 30 * 24 * 3600  # seconds


def extend(order: Order, until: datetime) -> None:
    """Hold a pending order's places until then, for who pays by bank transfer."""
    lock_order(order)
    if order.status != "pending":
        raise OrderNotPending(status=order.status)
    last = db.session.scalars(select(now(LONGEST_HOLD))).one()
    if until <= order.expires_at:
        raise Invalid(expires_at="Must be later than it is")
    if until > min(last, order.event.ends_at):
        raise Invalid(expires_at="Must be within 30 days and before the event is over")
    record("order.extended", f"order:{order.code}", order.event_id, expires_at=[order.expires_at, until])
    order.expires_at = until
    db.session.flush()


def pay(
    order: Order, *, method: str, amount: int, reference: str | None = None, by: int | None = None
) -> tuple[Payment, bool]:
    """Keep the payment, and pay the order with it if it can be paid. Returns it and whether it is new.

    What was taken is never forgotten: where there is nothing to pay for any more, the payment is due for refund.
    Without a reference, which only cash may lack, it is money taken anew at each call. `by` is the id of who took it.
    """
    if reference is None and Payment.needs_reference(method):
        raise Invalid(reference="This field is required")
    taker = by and keep_rows(select(User).where(User.id == by)).one()
    lock_to_pay(order)
    if not order.total:
        raise NothingDue
    known = reference and payment_known(order, method, reference, amount)
    if known:
        return known, False
    if amount != order.total:
        raise AmountMismatch(total=order.total)
    if reference is None and order.state == "paid":
        raise AlreadyPaid(payment=payment_json(confirmed_payment(order)))
    payment = Payment(method=method, reference=reference, amount=amount, status="refund_due", by=taker, order=order)
    with refusing(ReferenceUsed, "uq_payments_method"):
        db.session.add(payment)
    if not buys(order, payment):
        tell_of_payment_due(order, payment)
    record("payment.taken", f"order:{order.code}", order.event_id, **taken(payment))
    return payment, True


def taken(payment: Payment) -> dict[str, list[Any]]:
    """What the audit tells of a new payment. Whoever wrote the reference may have put a name into it."""
    fields = {"payment": payment.id, "method": payment.method, "amount": payment.amount, "status": payment.status}
    return {name: [None, value] for name, value in fields.items()}


def buys(order: Order, payment: Payment) -> bool:
    """Pay the order with the payment, if it can be paid. There is nothing to be paid on another page any more."""
    if not secure_places(order):
        return False
    payment.status, order.state = "confirmed", "paid"
    issue_tickets(order)
    abandon_checkouts(Checkout.order_id == order.id)
    return True


def pay_by_provider(order: Order, provider: str, facts: Facts, *, as_asked: bool) -> Payment:
    """Keep what a provider took, which is never refused. What buys nothing is on its way back from this transaction on.

    The order is locked, by `lock_to_pay`.
    """
    payment = Payment(provider=provider, method=facts.method, reference=facts.payment_reference, order=order)
    payment.amount, payment.status = facts.amount or 0, "refund_due"
    payment.currency = None if facts.currency == order.currency else facts.currency
    db.session.add(payment)
    db.session.flush()
    if not (as_asked and buys(order, payment)):
        tell_of_payment_due(order, payment, by="provider", reason=None if as_asked else "mismatch")
        give_back(payment, payment.amount)
    record_of_provider("payment.taken", f"order:{order.code}", order.event_id, **taken(payment))
    return payment


def payment_known(order: Order, method: str, reference: str, amount: int) -> Payment | None:
    """The payment that is made once more, unless it was given back; one reference is for one order and amount."""
    same = select(Payment).where(Payment.method == method, Payment.reference_key == comparable(reference))
    found = db.session.scalars(same, execution_options={"populate_existing": True}).all()
    if any((it.order_id, it.amount) != (order.id, amount) for it in found):
        raise ReferenceUsed
    return next((it for it in found if it.status != "refunded"), None)


def confirmed_payment(order: Order) -> Payment:
    confirmed = select(Payment).where(Payment.order_id == order.id, Payment.status == "confirmed")
    return db.session.scalars(confirmed, execution_options={"populate_existing": True}).one()


def payment_json(payment: Payment) -> dict[str, Any]:
    """A payment with the order that it is for."""
    return as_json(payment, Payment.serialize_only + Payment.of_order)


SELECT_TERMS = (
    select(
        TicketType.id,
        TicketType.rules_version,
        Event.status,
        (Event.ends_at <= now()).label("over"),
        ON_SALE_NOW.label("on_sale_now"),
        (TicketType.quantity - TicketType.sold - TicketType.held).label("free"),
        TicketType.pool_id,
        TicketType.waited,
        TicketType.waited_least,
        (Pool.quantity - Pool.sold - Pool.counted).label("pool_free"),
    )
    .join(TicketType.event)
    .outerjoin(TicketType.pool)
    .where(TicketType.id.in_(bindparam("ids", expanding=True)))
)
SELECT_USES = select(
    PromoCode.rules_version, (PromoCode.max_uses - PromoCode.used - PromoCode.counted).label("free")
).where(PromoCode.id == bindparam("id"))


def secure_places(order: Order) -> bool:
    """Whether the order now has its places for good: those it held, or after it lapsed, what is still free."""
    if order.state not in ("pending", "expired"):
        return False
    held = order.state == "pending"
    if not held:
        lapse_for(wanted_by(order), codes=uses_by(order), skip_locked=True)
    while True:
        terms = db.session.execute(SELECT_TERMS, {"ids": list(order.quantities)}).all()
        promo = db.session.execute(SELECT_USES, {"id": order.promo_code_id}).one_or_none()
        if not all(payable(order, it) for it in terms) or not (held or has_what_it_needs(order, terms, promo)):
            return False
        versions: dict[Any, int] = {(TicketType, it.id): it.rules_version for it in terms}
        versions |= {(PromoCode, id): promo.rules_version for id in uses_by(order) if promo}
        with suppress(Missed), all_or_nothing():
            take_places(order.quantities, uses_by(order), versions, held=-1 if held else 0, sold=1)
            return True


def payable(order: Order, terms: Row[*tuple[Any, ...]]) -> bool:
    """Whether a payment buys places of a ticket type: nothing for what is canceled or over; and once the order has
    lapsed, nothing that a new one would not get."""
    if terms.status != "published" or terms.over:
        return False
    if order.status == "pending":
        return True
    wanted = order.quantities[terms.id]
    spare = beyond_waiting(terms, own=wanted if order.state == "pending" else 0)
    if terms.waited and spare < wanted:
        note_freed(TicketType, terms.id)
        return False
    return bool(terms.on_sale_now)


def has_what_it_needs(
    order: Order, terms: Sequence[Row[*tuple[Any, ...]]], promo: Row[*tuple[Any, ...]] | None
) -> bool:
    """Whether an order that holds nothing any more finds places, also in the pools, and uses of its promo code."""
    if order.promo_uses and (promo is None or (promo.free is not None and promo.free < order.promo_uses)):
        return False
    in_pools: Counter[int] = Counter()
    for it in terms:
        in_pools[it.pool_id] += order.quantities[it.id]
    return all(
        beyond_waiting(it) >= order.quantities[it.id] and (it.pool_id is None or it.pool_free >= in_pools[it.pool_id])
        for it in terms
    )


def issue_tickets(order: Order) -> None:
    """Make the tickets of a paid order: one for each place."""
    rows = [
        {
            "code": new_code(),
            "order_id": order.id,
            "event_id": order.event_id,
            "user_id": order.user_id,
            "ticket_type_id": item.ticket_type_id,
            "status": "valid",
            "attendee_name": order.attendee_name,
            "attendee_folded": order.attendee_name and caseless(order.attendee_name),
        }
        for item in order.items
        for _ in range(item.quantity)
    ]
    db.session.execute(insert(Ticket), rows)
    db.session.expire(order, ["tickets"])
    tell_of_tickets(order)
