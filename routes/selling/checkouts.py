"""Pages on which orders are paid: when one may be made, and what it means for the order what a provider says of it.

Nothing here goes outside. A notice is a hint, what was looked up is the truth, and `apply` writes it: once, however
often and by whomever it is brought, in whatever order.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

from flask import current_app
from sqlalchemy import ColumnElement, or_, select, update

from models import (
    PAYABLE,
    UNSETTLED,
    UNSYNCHRONIZED,
    Checkout,
    EventCanceled,
    Missing,
    Order,
    OrderNotPending,
    Payment,
    db,
    lock_rows,
    note_work,
    now,
)
from routes.outside.provider import Facts, Line, PaymentRequest, Started
from routes.selling.orders import lock_order
from routes.selling.places import abandon_checkouts, lock_to_pay
from routes.selling.settling import pay_by_provider

PAGE_SECONDS = 35 * 60  # Stripe wants 30 minutes at least, from when it hears of it
LEAST_SECONDS = 30 * 60 + 30
LATE_SECONDS = 60  # after its end, a page that nobody knows of is gone for sure
ASK_AGAIN = 2  # seconds, for who waits for his payment
LOOK_AGAIN = 120
LEASE = 60


class Page(NamedTuple):
    """What it takes to look a page up."""

    id: int
    reference: str
    status: str


def open_checkout(order: Order, *, provider: str, return_url: str) -> Checkout:
    """The page of a pending order: the one there is, or a new row for one that is to be made.

    With the first one, the places are held a little longer, so that nobody's hold ends while he types his number.
    """
    lock_order(order)
    if order.status != "pending":
        raise OrderNotPending(status=order.status)
    if order.event.status == "canceled":
        raise EventCanceled
    live = lock_live(order)
    if live and (live.provider != provider or (live.status == "starting" and ends_within(live, LEAST_SECONDS))):
        abandon_checkouts(Checkout.id == live.id)
        live = None
    return live or add_checkout(order, provider=provider, return_url=return_url)


def lock_live(order: Order) -> Checkout | None:
    live = select(Checkout).where(Checkout.order_id == order.id, Checkout.status.in_(PAYABLE))
    return cast(Checkout | None, lock_rows(live).one_or_none())


def ends_within(checkout: Checkout, seconds: float) -> bool:
    return bool(db.session.scalar(select(Checkout.ends_at <= now(seconds)).where(Checkout.id == checkout.id)))


def add_checkout(order: Order, *, provider: str, return_url: str) -> Checkout:
    if db.session.scalar(select(Checkout.id).where(Checkout.order_id == order.id).limit(1)) is None:
        hold_longer(order)
    checkout = Checkout(order=order, provider=provider, status="starting", return_url=return_url)
    checkout.amount, checkout.currency = order.total, order.currency
    checkout.ends_at, checkout.due_at = now(PAGE_SECONDS), now(PAGE_SECONDS)
    db.session.add(checkout)
    db.session.flush()
    return checkout


def hold_longer(order: Order) -> None:
    until = now(current_app.config["CHECKOUT_GRACE_SECONDS"])
    held = update(Order).where(Order.id == order.id, Order.expires_at < until).values(expires_at=until)
    db.session.execute(held, execution_options=UNSYNCHRONIZED)
    db.session.refresh(order, ["expires_at"])


def page_request(checkout: Checkout) -> PaymentRequest:
    """What the page is made of: only what is stored."""
    order = checkout.order
    return PaymentRequest(
        code=checkout.code,
        order_code=order.code,
        lines=[Line(name=it.name, quantity=it.quantity, unit_amount=it.unit_price) for it in order.items],
        currency=checkout.currency,
        email=order.buyer.email,
        return_url=checkout.return_url,
        cancel_url=checkout.return_url,
        ends_at=checkout.ends_at,
    )


def write_started(id: int, started: Started) -> Checkout:
    """There is a page. Whatever has become of the order meanwhile stands: then nobody gets its address."""
    checkout = lock_checkout(id)
    checkout.reference = checkout.reference or started.reference
    if checkout.status == "starting" and checkout.order.status == "pending":
        checkout.status, checkout.url, checkout.due_at = "open", started.url, now(LOOK_AGAIN)
    elif checkout.status in ("starting", "abandoned"):
        checkout.status, checkout.due_at = "abandoned", now()
        note_work()
    db.session.flush()
    return checkout


def write_declined(id: int) -> None:
    """There is no page, and there never will be one with this code."""
    checkout = lock_checkout(id)
    if checkout.status in ("starting", "abandoned") and checkout.reference is None:
        checkout.status = "expired"
    db.session.flush()


def lock_checkout(id: int) -> Checkout:
    """With its order first, and with those whose places the order may get."""
    order = db.session.scalar(select(Order).join(Checkout, Checkout.order_id == Order.id).where(Checkout.id == id))
    if order is None:
        raise Missing
    lock_to_pay(order)
    checkout: Checkout = lock_rows(select(Checkout).where(Checkout.id == id)).one()
    return checkout


def apply(id: int, facts: Facts) -> None:
    """What the provider says of a page becomes true here."""
    checkout = lock_checkout(id)
    checkout.reference = checkout.reference or facts.reference
    if facts.state == "paid":
        take(checkout, facts)
    elif facts.state == "open":
        checkout.due_at = now(LOOK_AGAIN)
    elif checkout.status in UNSETTLED:
        checkout.status = "expired"
    db.session.flush()


def take(checkout: Checkout, facts: Facts) -> None:
    """Keep what was paid on a page, once."""
    kept = select(Payment).where(Payment.provider == checkout.provider, Payment.reference == facts.payment_reference)
    payment = db.session.scalars(kept).one_or_none()
    if payment is None:
        as_asked = (facts.amount, facts.currency) == (checkout.amount, checkout.currency)
        if not as_asked:
            log = "Another amount or currency was paid than was asked for"
            current_app.logger.error(log, extra={"checkout": checkout.id, "reference": facts.payment_reference})
        payment = pay_by_provider(checkout.order, checkout.provider, facts, as_asked=as_asked)
    checkout.status, checkout.payment_id = "paid", payment.id


def forget_page(id: int) -> None:
    """The provider knows no such page, as after a change of its key: nobody can pay there."""
    checkout = lock_checkout(id)
    if checkout.status in UNSETTLED:
        checkout.status = "expired"
    db.session.flush()


def latest_checkout(order: Order) -> Checkout:
    """The page to be paid on, or the last one there was."""
    latest = select(Checkout).where(Checkout.order_id == order.id).order_by(Checkout.id.desc()).limit(1)
    checkout = db.session.scalar(latest)
    if checkout is None:
        raise Missing
    return checkout


def claim_pages_of(order: Order, provider: str) -> list[Page]:
    """The pages of an order that are not settled, but for those that were asked about just now."""
    latest_checkout(order)
    lock_order(order)
    again = or_(Checkout.asked_at.is_(None), Checkout.asked_at <= now(-ASK_AGAIN))
    due = update(Checkout).where(Checkout.order_id == order.id, to_look_up(provider), again).values(asked_at=now())
    rows = db.session.execute(due.returning(*PAGE), execution_options=UNSYNCHRONIZED)
    return [Page(row.id, row.reference or "", row.status) for row in rows]


PAGE = Checkout.id, Checkout.reference, Checkout.status


def to_look_up(provider: str) -> ColumnElement[bool]:
    return Checkout.status.in_(UNSETTLED) & Checkout.reference.is_not(None) & (Checkout.provider == provider)


def claim_page(provider: str) -> Page | None:
    """The next page that is to be closed or looked up, which nobody else does until the lease ends."""
    due = select(Checkout.id).where(to_look_up(provider), Checkout.due_at <= now())
    due_one = due.order_by(Checkout.due_at, Checkout.id).limit(1).with_for_update(skip_locked=True).cte("due")
    claimed = update(Checkout).where(Checkout.id.in_(select(due_one.c.id))).values(due_at=now(LEASE), asked_at=now())
    row = db.session.execute(claimed.returning(*PAGE), execution_options=UNSYNCHRONIZED).one_or_none()
    return Page(row.id, row.reference or "", row.status) if row else None


def pages_to_settle(provider: str) -> Sequence[Page]:
    """All that are not settled, due or not."""
    return [
        Page(row.id, row.reference or "", row.status)
        for row in db.session.execute(select(*PAGE).where(to_look_up(provider)).order_by(Checkout.id))
    ]


def expire_unmade() -> None:
    """Pages whose address nobody ever had, once the provider's own end has come."""
    unmade = update(Checkout).where(Checkout.status.in_(("starting", "abandoned")), Checkout.reference.is_(None))
    db.session.execute(
        unmade.where(Checkout.ends_at < now(-LATE_SECONDS)).values(status="expired"), execution_options=UNSYNCHRONIZED
    )


def page_of(provider: str, reference: str) -> int | None:
    """The id of the checkout with the provider's reference."""
    same = Checkout.provider == provider, Checkout.reference == reference
    return db.session.scalar(select(Checkout.id).where(*same))


def page_with_code(provider: str, code: str) -> tuple[int, str | None] | None:
    """The id and the reference of the checkout that we gave this code."""
    same = Checkout.provider == provider, Checkout.code == code
    row = db.session.execute(select(Checkout.id, Checkout.reference).where(*same)).one_or_none()
    return (row.id, row.reference) if row else None


def payment_by(provider: str, reference: str) -> int | None:
    """The id of the payment with the provider's reference."""
    same = Payment.provider == provider, Payment.reference == reference
    return db.session.scalar(select(Payment.id).where(*same))
