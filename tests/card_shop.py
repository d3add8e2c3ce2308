"""A shop that takes cards: Stripe's fake behind it, and what a buyer, the provider and the thread do."""

import json
import time
from threading import Event

import pytest

from models import Checkout, Refund, db, now
from routes.jobs.checkouts import refund_canceled_orders, settle_payments
from routes.selling.inventory import check_inventory
from tests.fakes.stripe import FakeStripe, sign

SECRET = "whsec_fake"


@pytest.fixture
def fake():
    with FakeStripe(secret=SECRET) as fake:
        yield fake


@pytest.fixture
def card_shop(app, fake):
    """A shop that takes cards."""
    settings = {"STRIPE_SECRET_KEY": f"sk_test_{fake.server.server_port}", "STRIPE_WEBHOOK_SECRET": SECRET}
    app.config.update(settings | {"STRIPE_API_BASE": fake.address, "SHOP_URL": "https://shop.example"})
    yield fake
    with app.app_context():
        assert check_inventory() == []


@pytest.fixture
def order(buyer, make_ticket_type, place, card_shop):
    return place(buyer, make_ticket_type(quantity=2), 2).get_json()


@pytest.fixture
def checkout(client, buyer):
    def post(order, user=buyer, **body):
        return client.post(f"/orders/{order['code']}/checkout", json=body, headers=user.headers)

    return post


@pytest.fixture
def settle(client, buyer):
    def post(order, user=buyer):
        return client.post(f"/orders/{order['code']}/checkout/settle", headers=user.headers)

    return post


@pytest.fixture
def page(checkout, order, card_shop):
    """The page of the order, as the fake has it."""
    assert checkout(order).status_code == 201
    return card_shop.all("checkout.session")[-1]["id"]


@pytest.fixture
def notice(client, card_shop):
    """Deliver what happened at the fake, or the last of it."""

    def post(event=None, secret=SECRET):
        body = json.dumps(event or card_shop.all("event")[-1]).encode()
        signature = sign(body, secret, int(time.time()))
        return client.post("/webhooks/stripe", data=body, headers={"Stripe-Signature": signature})

    return post


@pytest.fixture
def run_job(app):
    """What the server's thread does, with all that waits being due."""

    def run():
        with app.app_context():
            db.session.execute(db.update(Checkout).values(due_at=now(-1)))
            db.session.execute(db.update(Refund).values(due_at=now(-1)))
            db.session.commit()
            refund_canceled_orders(Event())
            settle_payments(Event())

    return run


@pytest.fixture
def stored(app):
    def look(column):
        with app.app_context():
            return list(db.session.scalars(db.select(column).order_by(column.class_.id)))

    return look


def reason(response):
    return response.status_code, response.get_json()["reason"]
