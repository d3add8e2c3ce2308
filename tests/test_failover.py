"""The database dies while it sells: whoever was told that he has an order has it, and selling goes on by itself."""

import threading
import time

import pytest
import requests

from models import Order, TicketType, db
from routes.selling.inventory import check_inventory

from .conftest import ON_POSTGRESQL, application, order_body, servers
from .house import house_on
from .servers import own_pair, own_postgresql

pytestmark = [pytest.mark.slow, ON_POSTGRESQL]
BUYERS = 8


class Rush(threading.Thread):
    """A buyer who orders one ticket after the other, whatever he is answered."""

    def __init__(self, address, person, type_id, stopping):
        super().__init__()
        self.call = {"url": f"{address}/orders", "headers": person, "json": order_body((type_id, 1)), "timeout": 30}
        self.stopping, self.answers = stopping, []

    def run(self):
        with requests.Session() as client:
            while not self.stopping.is_set():
                answer = client.post(**self.call)
                self.answers.append((time.monotonic(), answer))


def rush(house, address, strike):
    """Sell while it strikes; when that was over, and all answers, each with its time."""
    event_id = house.event()
    type_id = house.ticket_type(100_000, event_id, max_per_order=1000)
    stopping = threading.Event()
    buyers = [Rush(address, house.person(), type_id, stopping) for _ in range(BUYERS)]
    for buyer in buyers:
        buyer.start()
    time.sleep(2)
    strike()
    over = time.monotonic()
    time.sleep(5)
    stopping.set()
    for buyer in buyers:
        buyer.join()
    return over, sorted((answer for buyer in buyers for answer in buyer.answers), key=lambda it: it[0])


def judge(app, over, answers):
    """All that was sold is there, nothing but 503 was said in between, and selling went on."""
    assert {answer.status_code for _, answer in answers} <= {201, 503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for _, answer in answers if answer.status_code == 503)
    sold = {answer.json()["code"]: at for at, answer in answers if answer.status_code == 201}
    with app.app_context():
        there = set(db.session.scalars(db.select(Order.code)))
        assert check_inventory() == []
        assert db.session.scalar(db.select(TicketType.held)) == len(there)
    assert not set(sold) - there
    assert [at for at in sold.values() if at < over] and [at for at in sold.values() if at > over]


@pytest.fixture
def serve(backend):
    with servers() as start:
        yield lambda url: start(url, WEB_CONCURRENCY="2", MAX_PENDING_ORDERS="100000").address


def test_primary_is_killed_and_the_standby_promoted(serve):
    with own_pair() as (primary, standby):
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        with house_on(url, threads=BUYERS) as house:

            def strike():
                primary.kill()
                time.sleep(1)
                standby.promote()

            over, answers = rush(house, serve(url), strike)
        with application(standby.url()) as app:
            judge(app, over, answers)


def test_it_is_restarted(serve):
    with own_postgresql() as server, house_on(server.url(), threads=BUYERS) as house:

        def strike():
            server.stop()
            server.start()

        over, answers = rush(house, serve(server.url()), strike)
        judge(house.app, over, answers)


def test_connections_are_cut_one_by_one(serve):
    with own_postgresql() as server, house_on(server.url(), threads=BUYERS) as house:

        def strike():
            for _ in range(40):
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                    "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                )
                time.sleep(0.05)

        over, answers = rush(house, serve(server.url()), strike)
        judge(house.app, over, answers)
