"""Buying by card while processes die and notices come as they like: one charge, one payment, one set of tickets.

Stripe's fake stands outside, and the servers are several processes of their own.
"""

import os
import random
from functools import partial
from secrets import token_hex
from threading import Event as Signal

import pytest

from models import Mail, Order, Payment, Refund, db
from tests.fakes.stripe import FakeStripe

from .conftest import free_port, servers, wait_until
from .house import house_on, insist, kill

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("RACE_ROUNDS", 12))
KILLS = max(3, ROUNDS // 6)
TO_REFUND = 500 if ROUNDS >= 100 else 60
SECRET = "whsec_fake"


@pytest.fixture
def shop(make_database):
    """A house that takes cards, with two processes that are there to be killed; `fake` is the provider."""
    url, port = make_database(), free_port()
    webhook = f"http://127.0.0.1:{port}/webhooks/stripe"
    with FakeStripe(webhook=webhook, secret=SECRET) as fake, servers() as start, house_on(url) as house:
        settings = {"STRIPE_SECRET_KEY": f"sk_test_{port}", "STRIPE_WEBHOOK_SECRET": SECRET, "SMTP_URL": "log:"}
        settings |= {"STRIPE_API_BASE": fake.address, "SHOP_URL": "https://shop.example", "PORT": str(port)}
        settings |= {"WEB_CONCURRENCY": "2", "MAX_PENDING_ORDERS": "1000000", "LOG_LEVEL": "ERROR"}
        server = start(url, **settings)
        house.serve([server.address])
        house.server, house.fake = server.process.pid, fake
        yield house


def checkout(shop, person, order):
    """The page on which the order is paid, as the fake knows it; None where it can't be paid any more."""
    answer = insist(partial(shop.send, "POST", person, f"/orders/{order['code']}/checkout", {}))
    pages = {page["url"]: page["id"] for page in shop.fake.all("checkout.session")}
    return pages[answer.json()["url"]] if answer.ok else None


def pay_by_card(shop, person, order):
    page = checkout(shop, person, order)
    if page and not shop.fake.find(page)["payment_intent"]:
        shop.fake.pay(page)


def settle(shop, person, order):
    return shop.send("POST", person, f"/orders/{order['code']}/checkout/settle")


def settle_down(shop):
    """Let all come to its end: every notice once more, and the thread, which asks for what it was not told."""
    shop.fake.set(notices="calm")
    shop.fake.replay()
    wait_until(lambda: shop.fake.undelivered() == 0)
    open_refunds = db.select(Refund.id).where(Refund.status != "succeeded")
    in_between = db.select(Payment.id).where(Payment.provider.is_not(None), Payment.status == "refund_due")
    wait_until(lambda: not shop.rows(open_refunds) and not shop.rows(in_between))


def judge(shop):
    """One payment for each charge, one refund for each that was made, one mail for each order that was bought."""
    charged = {it["payment_intent"]: it["amount_total"] for it in paid_pages(shop)}
    by_card = db.select(Payment.reference, Payment.amount).where(Payment.provider.is_not(None))
    assert sorted(map(tuple, shop.rows(by_card))) == sorted(charged.items())
    returned = [(it["payment_intent"], it["amount"]) for it in shop.fake.all("refund")]
    rows = shop.rows(db.select(Payment.reference, Refund.amount).join(Refund.payment).where(Payment.provider != ""))
    assert sorted(returned) == sorted(map(tuple, rows))
    bought = shop.rows(db.select(Order.id).where(Order.state.in_(("paid", "refunded"))))
    mails = shop.rows(db.select(Mail.order_id).where(Mail.kind == "order_paid"))
    assert sorted(id for (id,) in mails) == sorted(id for (id,) in bought)
    shop.agrees()


def paid_pages(shop):
    return [page for page in shop.fake.all("checkout.session") if page["payment_status"] == "paid"]


@pytest.mark.parametrize("notices", ["calm", "doubled", "reversed", "dropped"])
def test_processes_are_killed_while_people_pay(shop, notices):
    id, over = shop.ticket_type(100_000, max_per_order=1000), Signal()
    shop.fake.set(notices=notices)

    def buy():
        person = shop.person()
        while not over.is_set():
            key = {"Idempotency-Key": token_hex(8)}
            order = insist(partial(shop.order, person, (id, random.randint(1, 3)), **key)).json()
            pay_by_card(shop, person, order)
            if random.random() < 0.5:
                insist(partial(settle, shop, person, order))
            if random.random() < 0.3:
                insist(partial(shop.refund, order))
            if random.random() < 0.2:
                insist(partial(shop.cancel, order))

    shop.at_once(partial(kill, shop, over, KILLS), *[buy] * 5)
    settle_down(shop)
    judge(shop)
    assert paid_pages(shop)


def test_all_that_may_become_of_an_order_at_once(shop):
    id = shop.ticket_type(1000, max_per_order=1000)
    for number in range(max(ROUNDS // 2, 4)):
        person = shop.person()
        order = shop.order(person, (id, 2)).json()
        page = checkout(shop, person, order)
        calls = [
            partial(shop.fake.pay, page),
            partial(settle, shop, person, order),
            partial(shop.pay, order, reference=token_hex(8)),
            partial(shop.cancel, order),
            partial(shop.lapse, order),
            shop.expire,
        ]
        shop.at_once(*random.sample(calls, len(calls)), head_start=0.002 * (number % 3))
        settle_down(shop)
        confirmed = db.select(Payment.id).join(Order).where(Order.code == order["code"], Payment.status == "confirmed")
        assert len(shop.rows(confirmed)) == (shop.look(order)[0] == "paid")
    judge(shop)


def test_two_cancels_and_refunds_and_a_check_in_at_once(shop):
    id = shop.ticket_type(1000, max_per_order=1000)
    for _ in range(max(ROUNDS // 4, 3)):
        person = shop.person()
        order = shop.order(person, (id, 2)).json()
        pay_by_card(shop, person, order)
        settle(shop, person, order)
        codes = [it["code"] for it in shop.send("GET", person, f"/orders/{order['code']}").json()["tickets"]]
        part = {"tickets": codes[:1]}
        shop.at_once(
            *[partial(shop.refund, order)] * 2,
            *[partial(shop.send, "POST", shop.admin, f"/orders/{order['code']}/refund", part)] * 2,
            partial(shop.send, "POST", shop.staff, f"/tickets/{codes[1]}/check-in"),
        )
        settle_down(shop)
        shop.agrees()
    judge(shop)


def test_fifty_calls_of_checkout_are_one_page(shop):
    person = shop.person()
    order = shop.order(person, (shop.ticket_type(10), 1)).json()
    calls = [partial(shop.send, "POST", person, f"/orders/{order['code']}/checkout", {}) for _ in range(25)]
    answers = [*shop.at_once(*calls), *shop.at_once(*calls)]
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["url"] for answer in answers}) == 1
    assert len(shop.fake.all("checkout.session")) == 1


def test_canceled_event_refunds_each_once_though_it_is_killed(shop):
    event_id, over = shop.event(), Signal()
    id = shop.ticket_type(100_000, event_id, max_per_order=1000)

    def buy(count):
        person = shop.person()
        for _ in range(count):
            order = shop.order(person, (id, 1)).json()
            pay_by_card(shop, person, order)
            settle(shop, person, order)

    shop.at_once(*[partial(buy, TO_REFUND // 10)] * 10)
    paid = db.select(Order.id).where(Order.state == "paid")
    wait_until(lambda: len(shop.rows(paid)) == TO_REFUND)
    shop.send("PATCH", shop.admin, f"/events/{event_id}", {"status": "canceled"})
    path, body = f"/events/{event_id}/refund-all", {"reason": "Illness"}
    assert shop.send("POST", shop.admin, path, body).status_code == 202
    kill(shop, over, KILLS)
    assert insist(partial(shop.send, "POST", shop.admin, path, body)).json()["orders"] == TO_REFUND
    left = db.select(Order.id).where(Order.state != "refunded")
    while before := len(shop.rows(left)):  # half a minute for each few
        wait_until(partial(lambda before: len(shop.rows(left)) < before, before))
    settle_down(shop)
    judge(shop)
    assert len(shop.fake.all("refund")) == TO_REFUND
    told = db.select(Mail.order_id).where(Mail.kind == "order_refunded")
    assert len(shop.rows(told)) == len({id for (id,) in shop.rows(told)}) == TO_REFUND
