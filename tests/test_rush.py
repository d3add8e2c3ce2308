"""An admin changes the rules while a crowd buys: he is answered, and then nothing goes by the old rule any more."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_hex
from threading import Event as Signal

import pytest

from models import Order, OrderLine, Payment, db

from .conftest import servers
from .house import house_on, reasons

pytestmark = pytest.mark.slow
CROWD = 36
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


@pytest.fixture(scope="module")
def house(make_database):
    """Three servers, each one process, on one database."""
    url = make_database()
    with servers() as start, house_on(url, threads=CROWD + 1) as house:
        settings = {"WEB_CONCURRENCY": "1", "MAX_PENDING_ORDERS": "1000000"}
        house.serve([start(url, **settings).address for _ in range(3)])
        yield house


class Rush:
    """A crowd that does the same again and again while an admin changes something."""

    def __init__(self, house, old):
        self.house, self.over, self.old = house, Signal(), old

    def go_on(self, act):
        while not self.over.is_set():
            act()

    def change(self, path, json):
        """Change it in the middle of the rush. Keeps the answer, how long it took, and what had come to be by then."""
        time.sleep(1)
        began = time.monotonic()
        self.answer = self.house.send("PATCH", self.house.admin, path, json)
        self.seconds = time.monotonic() - began
        self.then = self.house.rows(self.old)
        time.sleep(1)
        self.over.set()
        print(f"{path} {json}: {self.seconds:.2f} s, {self.then} before")

    def run(self, acts, path, json):
        self.house.at_once(*(partial(self.go_on, act) for act in acts), partial(self.change, path, json))
        return self.house.rows(self.old)


def orders_of(event_id, *conditions):
    return db.select(db.func.count(Order.id)).join(OrderLine).where(Order.event_id == event_id, *conditions)


def buyers(house, id, quantity):
    """Half of them with a key: those orders are placed in steps, the others by one statement where that can be."""

    def with_key(person):
        house.order(person, (id, quantity), **{"Idempotency-Key": token_hex(8)})

    people = [house.person() for _ in range(CROWD)]
    half = CROWD // 2
    steps = [partial(with_key, person) for person in people[:half]]
    return steps + [partial(house.order, person, (id, quantity)) for person in people[half:]]


CHANGES = {
    "canceled": ("/events/{event}", {"status": "canceled"}, ()),
    "over": ("/events/{event}", {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-01T01:00:00Z"}, ()),
    "sales closed": ("/ticket-types/{type}", {"sales_end": PAST}, ()),
    "price raised": ("/ticket-types/{type}", {"price": 9900}, (OrderLine.unit_price == 2500,)),
    "fewer an order": ("/ticket-types/{type}", {"max_per_order": 1}, ()),
    "more an order": ("/ticket-types/{type}", {"min_per_order": 3}, ()),
    "fewer a buyer": ("/ticket-types/{type}", {"max_per_buyer": 1}, ()),
}


class TestOrders:
    @pytest.mark.parametrize("name", CHANGES)
    def test_none_goes_by_the_old_rule_after_the_answer(self, house, name):
        path, change, conditions = CHANGES[name]
        id = house.ticket_type(1_000_000, max_per_order=1000)
        [(event_id,)] = house.rows(db.text(f"SELECT event_id FROM ticket_types WHERE id = {id}"))
        rush = Rush(house, orders_of(event_id, *conditions))
        afterwards = rush.run(buyers(house, id, 2), path.format(event=event_id, type=id), change)
        assert rush.answer.status_code == 200, rush.answer.text
        assert afterwards == rush.then and rush.then[0][0] > 0
        house.agrees()

    def test_draft_is_answered_while_a_crowd_is_refused(self, house):
        event_id = house.event()
        id = house.ticket_type(0, event_id)
        rush = Rush(house, orders_of(event_id))
        assert rush.run(buyers(house, id, 2), f"/events/{event_id}", {"status": "draft"}) == [(0,)]
        assert rush.answer.status_code == 200
        assert house.order(house.person(), (id, 1)).status_code == 404

    def test_draft_has_no_orders(self, house):
        for _ in range(6):
            event_id = house.event()
            crowd = buyers(house, house.ticket_type(100, event_id), 1)[:24:2]
            draft = partial(house.send, "PATCH", house.admin, f"/events/{event_id}", {"status": "draft"})
            *_, answer = house.at_once(*crowd, draft)
            [(orders,)] = house.rows(orders_of(event_id))
            assert reasons([answer]) == (["has_orders"] if orders else ["done"])


class TestPayments:
    def test_none_is_confirmed_after_the_event_is_canceled(self, house):
        event_id = house.event()
        id = house.ticket_type(1_000_000, event_id, max_per_order=1000)
        buyer = house.person()
        orders = iter([house.order(buyer, (id, 1)).json() for _ in range(400)])
        confirmed = db.select(db.func.count(Payment.id)).join(Order)
        confirmed = confirmed.where(Order.event_id == event_id, Payment.status == "confirmed")
        rush = Rush(house, confirmed)

        def pay():
            order = next(orders, None)
            if order is None:
                time.sleep(0.01)
            else:
                house.pay(order)

        afterwards = rush.run([pay] * CROWD, f"/events/{event_id}", {"status": "canceled"})
        assert afterwards == rush.then and 0 < rush.then[0][0] < 400
        house.agrees()
