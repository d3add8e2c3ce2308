"""Everything at once on one event, with each row written slowly: nobody waits for who waits for him."""

import os
import random
import time
from functools import partial
from secrets import token_hex

import pytest

from models import TicketType, db
from routes.jobs.lapsing import lapse_in_steps

from .conftest import servers
from .house import house_on

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("RACE_ROUNDS", 12))
AT_ONCE = 10
SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.01); RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $$;
"""
TABLES = ("orders", "order_items", "payments", "events", "ticket_types", "tickets")


@pytest.fixture(scope="module")
def house(make_database):
    """Two servers on one database, which takes its time on PostgreSQL: so locks are held long enough to meet."""
    url = make_database()
    with servers() as start, house_on(url) as house:
        if url.startswith("postgresql"):
            house.by_hand(db.text(SLOWLY))
            for table in TABLES:
                trigger = f"CREATE TRIGGER slowly BEFORE INSERT OR UPDATE OR DELETE ON {table}"
                house.by_hand(db.text(f"{trigger} FOR EACH ROW EXECUTE FUNCTION slowly()"))
        settings = {"WEB_CONCURRENCY": "1", "DB_POOL_SIZE": "8"}
        house.serve([start(url, **settings).address for _ in range(2)])
        yield house


@pytest.fixture
def deadlocks(house):
    """How many there have been. PostgreSQL counts them a second late."""

    def count():
        if house.app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
            return 0
        time.sleep(2)
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return house.rows(db.text(query))[0][0]

    return count


class Scene:
    """An event with two ticket types, of which few places are left, and orders of both in every state."""

    def __init__(self, house):
        self.house, self.event = house, house.event()
        self.types = [house.ticket_type(30, self.event) for _ in range(2)]
        self.spare = house.ticket_type(30, self.event)
        self.lapsed = [self.order(*self.types) for _ in range(4)] + [self.order(self.spare, self.types[0])]
        self.expired = [self.order(*self.types) for _ in range(2)]
        for order in self.expired:
            house.lapse(order)
        with house.app.app_context():
            lapse_in_steps(self.event)
        for order in self.lapsed:
            house.lapse(order)

    def order(self, *types, **headers):
        return self.house.order(self.house.person(), *((id, 1) for id in types), **headers).json()

    def fill(self):
        """Leave no place but those of lapsed orders."""
        full = db.update(TicketType).where(TicketType.id.in_(self.types))
        self.house.by_hand(full.values(quantity=TicketType.sold + TicketType.held))

    def edit(self, path, **changes):
        return partial(self.house.send, "PATCH", self.house.admin, path, changes)

    def delete(self, path):
        return partial(self.house.send, "DELETE", self.house.admin, path)

    def lapse(self):
        with self.house.app.app_context():
            lapse_in_steps(self.event)

    def calls(self):
        """What can be done with orders that came to nothing: all of it may succeed."""
        house, (low, high) = self.house, self.types
        new = {"name": "New", "price": 1, "quantity": 1}
        return [
            *(partial(house.order, house.person(), (id, 1)) for id in (low, high)),
            *(partial(house.order, house.person(), (high, 1), (low, 1)) for _ in range(2)),
            partial(house.order, house.person(), (high, 1), **{"Idempotency-Key": token_hex(8)}),
            *(partial(house.pay, order) for order in (*self.lapsed, *self.expired)),
            *(partial(house.cancel, order) for order in self.lapsed[:2]),
            self.lapse,
            self.edit(f"/ticket-types/{low}", quantity=12),
            self.edit(f"/ticket-types/{high}", quantity=12, price=5),
            self.edit(f"/events/{self.event}", status="canceled"),
            self.edit(f"/events/{self.event}", status="draft"),
            partial(house.send, "POST", house.admin, f"/events/{self.event}/ticket-types", new),
            *(self.delete(f"/ticket-types/{id}") for id in (self.spare, high)),
            *(self.delete(f"/events/{self.event}") for _ in range(2)),
        ]

    def more_calls(self):
        """What can be done with orders that are pending, paid and given back."""
        house = self.house
        guests = house.ticket_type(10, self.event, price=0)
        pending = [self.order(*self.types) for _ in range(3)]
        given, paid = self.order(guests), [self.order(*self.types) for _ in range(3)]
        for order in paid:
            house.pay(order)
        tickets = [house.send("GET", house.admin, f"/orders/{order['code']}").json()["tickets"] for order in paid]
        doors = [f"/tickets/{ticket['code']}/check-in" for both in tickets for ticket in both]
        house.send("POST", house.staff, doors[0])
        return [
            *(partial(house.pay, order) for order in pending[:2]),
            *(partial(house.cancel, order) for order in (*pending[1:], given, given)),
            *(partial(house.refund, order) for order in (*paid, paid[2])),
            *(partial(house.send, "POST", house.staff, door) for door in doors[1:4]),
            partial(house.send, "DELETE", house.staff, doors[0]),
            partial(house.order, house.person(), (guests, 1)),
            self.delete(f"/ticket-types/{guests}"),
        ]


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
@pytest.mark.parametrize("counts", [False, True], ids=["came to nothing", "all"])
def test_nobody_waits_in_a_circle(house, deadlocks, counts, full):
    before = deadlocks()
    for _ in range(ROUNDS):
        scene = Scene(house)
        calls = scene.calls() + (scene.more_calls() if counts else [])
        if full:
            scene.fill()
        house.at_once(*random.sample(calls, AT_ONCE))
    assert deadlocks() == before
    house.agrees()


def test_payment_and_deletion_of_the_event(house, deadlocks):
    before = deadlocks()
    for head_start in (0, 0.01, 0.02, 0.03):
        scene = Scene(house)
        pay, delete = partial(house.pay, scene.lapsed[0]), scene.delete(f"/events/{scene.event}")
        answers = [it.status_code for it in house.at_once(pay, delete, head_start=head_start)]
        assert answers in ([201, 409], [404, 204])
    assert deadlocks() == before


def test_deletion_of_the_ticket_type_and_many_who_order_in_steps(house, deadlocks):
    before = deadlocks()
    for head_start in (0, 0.01, 0.02, 0.03):
        id = house.ticket_type(100)

        def order(person, id=id):
            return [house.order(person, (id, 1), **{"Idempotency-Key": token_hex(8)}) for _ in range(3)]

        delete = partial(house.send, "DELETE", house.admin, f"/ticket-types/{id}")
        calls = [partial(order, house.person()) for _ in range(8)]
        deleted, *placed = house.at_once(delete, *calls, head_start=head_start)
        assert {it.status_code for three in placed for it in three} <= ({404} if deleted.ok else {201})
    assert deadlocks() == before
