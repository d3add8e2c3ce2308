"""Payments by a provider: what is written, done outside with nothing held, and written again."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Event
from time import monotonic
from typing import ParamSpec, TypeVar

from flask import Flask, current_app

from models import Checkout, NotConfigured, NotPayable, Order, ProviderUnavailable, db
from routes.outside.payments import connect
from routes.outside.provider import Declined, Facts, Provider, Unavailable
from routes.selling import checkouts, refunds
from routes.selling.checkouts import Page

logger = logging.getLogger(__name__)

ATTEMPTS = 3
EVERY = 600  # seconds between two looks for notices that got lost
LOOK_BACK = timedelta(hours=1)
LOOK_FAR_BACK = timedelta(days=3)
APART = 0.05  # seconds between two refunds: providers ask for no more than so many a second
GAVE_UP = "The provider does not answer"

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


@cache
def connected(key: str, secrets: str, base: str) -> Provider | None:
    return connect({"STRIPE_SECRET_KEY": key, "STRIPE_WEBHOOK_SECRET": secrets, "STRIPE_API_BASE": base})


def provider() -> Provider | None:
    """The provider that is configured, or None."""
    config = current_app.config
    own: Provider | None = current_app.extensions.get("payment_provider")
    return own or connected(config["STRIPE_SECRET_KEY"], config["STRIPE_WEBHOOK_SECRET"], config["STRIPE_API_BASE"])


def required_provider() -> Provider:
    found = provider()
    if found is None:
        raise NotConfigured(what="payments")
    return found


def check_settings(app: Flask) -> None:
    """A key that is set loads the provider's package now, and not while somebody waits to pay."""
    with app.app_context():
        provider()


def ask(call: Callable[Given, Answer], *given: Given.args, **more: Given.kwargs) -> Answer:
    """A call to the provider. What was written before is committed, so that nobody waits for the provider with us."""
    if db.session.registry.has() and db.session().in_transaction():
        raise RuntimeError("An outside call in a transaction")
    try:
        return call(*given, **more)
    except Unavailable as error:
        raise ProviderUnavailable(str(error)) from error


# A page to pay on.


def start(order: Order, return_url: str) -> tuple[Checkout, bool]:
    """The page on which an order can be paid, and whether it is new. Who repeats it finds the same one."""
    chosen = required_provider()
    for _ in range(ATTEMPTS):
        checkout = checkouts.open_checkout(order, provider=chosen.name, return_url=return_url)
        over = checkout.status == "open" and checkouts.ends_within(checkout, 0)
        wanted = checkouts.page_request(checkout)
        db.session.commit()
        if checkout.status == "open" and not over:
            return checkout, False
        if over:
            settle(chosen, Page(checkout.id, checkout.reference or "", checkout.status))
            continue
        try:
            started = ask(chosen.start, wanted)
        except Declined as refusal:
            give_up(checkout, refusal)
            continue
        checkout = checkouts.write_started(checkout.id, started)
        db.session.commit()
        if checkout.status == "open":
            return checkout, True
        close(chosen, started.reference)
    raise ProviderUnavailable


def give_up(checkout: Checkout, refusal: Declined) -> None:
    """There is no page by this code. Where another code may do, the caller tries again."""
    checkouts.write_declined(checkout.id)
    db.session.commit()
    if refusal.reason == "not_payable":
        raise NotPayable
    if refusal.reason not in ("key_reused", "too_late"):
        raise ProviderUnavailable(refusal.reason)


def close(chosen: Provider, reference: str) -> None:
    """Best effort: what is not closed now the job closes later."""
    try:
        ask(chosen.close, reference)
    except (Declined, ProviderUnavailable):
        logger.warning("A page to pay on could not be closed")


def settle_order(order: Order) -> None:
    """Ask about all pages of an order that are not settled."""
    chosen = required_provider()
    pages = checkouts.claim_pages_of(order, chosen.name)
    db.session.commit()
    for page in pages:
        settle(chosen, page)


def settle(chosen: Provider, page: Page) -> None:
    facts = look_up(chosen, page.reference)
    if facts is None:
        checkouts.forget_page(page.id)
    else:
        checkouts.apply(page.id, facts)
    db.session.commit()


def look_up(chosen: Provider, reference: str) -> Facts | None:
    """None: the provider has no such page."""
    try:
        return ask(chosen.look_up, reference)
    except Declined:
        return None


# Notices.


def take_notices(chosen: Provider, body: bytes, headers: Mapping[str, str]) -> None:
    """Do what a call to the webhook is about. Raises BadNotice, or ProviderUnavailable where it is to come again."""
    for notice in chosen.read_notice(body, headers):
        if notice.about == "page":
            take_page(chosen, notice.reference)
        else:
            take_payment(chosen, notice.reference)


def take_page(chosen: Provider, reference: str) -> None:
    id = checkouts.page_of(chosen.name, reference)
    db.session.commit()
    facts = look_up(chosen, reference)
    if facts is None:
        return
    if id is None:
        if facts.code is None:
            return  # somebody else's, who has the same account
        id, _ = page_with_code(chosen, facts.code)
    checkouts.apply(id, facts)
    db.session.commit()


def page_with_code(chosen: Provider, code: str) -> tuple[int, str | None]:
    """The page that we gave this code. Where there is none, a back-up was restored: the notice is to come again."""
    found = checkouts.page_with_code(chosen.name, code)
    db.session.commit()
    if found is None:
        logger.error("A notice is about a page of ours that is not here")
        raise ProviderUnavailable("unknown page")
    return found


def take_payment(chosen: Provider, reference: str) -> None:
    """A refund or a dispute. Its payment may not have been heard of yet."""
    try:
        facts = ask(chosen.look_up_payment, reference)
    except Declined:
        return
    id = checkouts.payment_by(chosen.name, facts.payment_reference)
    db.session.commit()
    if id is None and facts.code is None:
        return
    if id is None:
        _, page = page_with_code(chosen, facts.code or "")
        if page:
            take_page(chosen, page)
        id = checkouts.payment_by(chosen.name, facts.payment_reference)
    if id is None:
        raise ProviderUnavailable("unknown payment")
    refunds.write_facts(id, facts)
    db.session.commit()


# What is due beside the calls.


def settle_payments(stop: Event) -> None:
    """Close and look up pages, ask for refunds, and look for notices that got lost, as far as it is due."""
    chosen = provider()
    if chosen is None:
        return
    try:
        settle_due_pages(chosen, stop)
        ask_for_refunds(chosen, stop)
        if not stop.is_set() and is_time_to_look_back():
            look_back(chosen, LOOK_BACK)
    except ProviderUnavailable:
        logger.warning(GAVE_UP)


def settle_everything(stop: Event) -> None:
    """The same for all that is not settled, due or not, and for notices of days. Raises ProviderUnavailable."""
    chosen = required_provider()
    pages = checkouts.pages_to_settle(chosen.name)
    db.session.commit()
    for page in pages:
        settle_page(chosen, page)
    refunds.make_due(chosen.name)
    db.session.commit()
    ask_for_refunds(chosen, stop)
    look_back(chosen, LOOK_FAR_BACK)


def settle_due_pages(chosen: Provider, stop: Event) -> None:
    checkouts.expire_unmade()
    db.session.commit()
    while not stop.is_set():
        page = checkouts.claim_page(chosen.name)
        db.session.commit()
        if page is None:
            return
        settle_page(chosen, page)


def settle_page(chosen: Provider, page: Page) -> None:
    if page.status == "abandoned":
        close(chosen, page.reference)
    settle(chosen, page)


def ask_for_refunds(chosen: Provider, stop: Event) -> None:
    while chosen.refunds and not stop.wait(APART):
        claimed = refunds.claim_refund(chosen.name)
        db.session.commit()
        if claimed is None:
            return
        ask_for_refund(chosen, *claimed)


def ask_for_refund(chosen: Provider, id: int, attempts: int, wanted: refunds.RefundRequest) -> None:
    """One that is refused was given back by somebody at the provider, perhaps: what is there is looked up first."""
    try:
        refunds.write_answer(id, ask(chosen.refund, wanted))
    except Declined as refusal:
        refunds.write_failure(id, wanted.key, refusal.reason)
        db.session.commit()
        take_payment(chosen, wanted.payment_reference)
    except ProviderUnavailable:
        refunds.put_off(id, attempts)
        db.session.commit()
        raise
    db.session.commit()


def is_time_to_look_back() -> bool:
    """Once in ten minutes in each process, the first time ten minutes after its start."""
    known = current_app.extensions.setdefault("payments_looked_at", {"at": monotonic()})
    if monotonic() - known["at"] < EVERY:
        return False
    known["at"] = monotonic()
    return True


def look_back(chosen: Provider, span: timedelta) -> None:
    """Refunds and disputes that somebody made at the provider, where no notice of them came."""
    for notice in ask(chosen.recent_notices, datetime.now(UTC) - span):
        try:
            take_payment(chosen, notice.reference)
        except ProviderUnavailable as error:
            if error.__cause__ is not None:
                raise  # it does not answer; else it is about a payment that we do not have
        finally:
            db.session.rollback()


def refund_canceled_orders(stop: Event) -> None:
    """Refund the orders of canceled events whose orders are all to be refunded, each in a transaction of its own."""
    while not stop.is_set():
        orders = refunds.orders_to_refund()
        db.session.commit()
        if not orders:
            return
        for id in orders:
            refunds.refund_canceled(id)
            db.session.commit()
