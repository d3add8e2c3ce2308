"""A house that sells: an application on its database, people to use it, and the servers that they call, all at once."""

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from secrets import token_hex
from threading import Barrier, local

import requests
from flask_jwt_extended import create_access_token
from flask_migrate import upgrade

from app import create_app
from models import Order, Payment, Ticket, TicketType, User, db, now
from routes.jobs.lapsing import lapse_in_steps
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.inventory import check_inventory
from routes.selling.places import events_with_lapsed_orders

from .conftest import CONFIG, bearer, dispose, order_body

BUYERS = 30


class House:
    """An application's database, people to use it, and the servers that serve it."""

    def __init__(self, app, threads):
        self.app = app
        self.sessions = local()
        self.pool = ThreadPoolExecutor(threads)
        with app.app_context():
            upgrade()
            self.category = create_category("Music").id
            db.session.commit()
        self.staff, self.admin = self.person("staff"), self.person("admin")

    def serve(self, addresses):
        """Each thread has a client of its own; the clients are spread over the addresses."""
        self.addresses = cycle(addresses)

    def person(self, role="user"):
        with self.app.app_context():
            user = User(name="Somebody", email=f"{token_hex(8)}@example.com", role=role)
            db.session.add(user)
            db.session.commit()
            return bearer(create_access_token(identity=user))

    def event(self):
        start = datetime.now(UTC) + timedelta(days=1)
        fields = {"name": "Concert", "description": "Music", "venue": "Hall", "status": "published"}
        fields |= {"starts_at": start, "ends_at": start + timedelta(hours=3), "category_id": self.category}
        with self.app.app_context():
            event = create_event(fields)
            db.session.commit()
            return event.id

    def ticket_type(self, quantity, event_id=None, **fields):
        event_id = event_id or self.event()
        with self.app.app_context():
            fields = {"name": "Regular", "price": 2500, "quantity": quantity} | fields
            ticket_type = create_ticket_type(event_id, fields)
            db.session.commit()
            return ticket_type.id

    def send(self, method, person, path, json=None, **headers):
        """One call by the thread's own client. Whatever happens, nobody gets a 500."""
        if not hasattr(self.sessions, "client"):
            self.sessions.client, self.sessions.address = requests.Session(), next(self.addresses)
        url, headers = self.sessions.address + path, {**person, **headers}
        response = self.sessions.client.request(method, url, json=json, headers=headers, timeout=60)
        assert response.status_code < 500, response.text
        return response

    def order(self, person, *lines, **headers):
        return self.send("POST", person, "/orders", order_body(*lines), **headers)

    def pay(self, order, **fields):
        fields = {"method": "cash", "amount": order["total"]} | fields
        return self.send("POST", self.staff, f"/orders/{order['code']}/payments", fields)

    def cancel(self, order):
        return self.send("POST", self.admin, f"/orders/{order['code']}/cancel")

    def refund(self, order):
        return self.send("POST", self.admin, f"/orders/{order['code']}/refund")

    def placed(self, ticket_type_id, quantity=1):
        return self.order(self.person(), (ticket_type_id, quantity)).json()

    def by_hand(self, statement):
        with self.app.app_context():
            result = db.session.execute(statement)
            db.session.commit()
            return result.rowcount

    def lapse(self, order):
        self.by_hand(db.update(Order).where(Order.code == order["code"]).values(expires_at=now(-1)))

    def expire(self):
        """What `flask expire-orders` does, in this process."""
        with self.app.app_context():
            for event_id in events_with_lapsed_orders():
                lapse_in_steps(event_id)

    def rows(self, query):
        with self.app.app_context():
            return db.session.execute(query).all()

    def count(self, model):
        return self.rows(db.select(db.func.count()).select_from(model))[0][0]

    def look(self, order):
        """The stored status of an order, its payments' and its tickets'."""
        wanted = Order.code == order["code"]
        [(state,)] = self.rows(db.select(Order.state).where(wanted))
        payments = self.rows(db.select(Payment.status).join(Order).where(wanted).order_by(Payment.status))
        tickets = self.rows(db.select(Ticket.status).join(Order).where(wanted))
        return state, [status for (status,) in payments], [status for (status,) in tickets]

    def counters(self, id):
        [row] = self.rows(db.select(TicketType.sold, TicketType.held).where(TicketType.id == id))
        return tuple(row)

    def at_once(self, *calls, head_start=0):
        """Make the calls in the same instant, or the first by `head_start` seconds earlier; their answers in order."""
        barrier = Barrier(len(calls))

        def run(place, call):
            barrier.wait()
            if place:
                time.sleep(head_start)
            return call()

        return list(self.pool.map(run, range(len(calls)), calls))

    def agrees(self):
        with self.app.app_context():
            assert check_inventory() == []


@contextmanager
def house_on(url, threads=BUYERS):
    house = House(create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url}), threads)
    try:
        with house.pool:
            yield house
    finally:
        with house.app.app_context():
            dispose()


def reasons(responses):
    """Why calls were refused, or `done`, sorted."""
    return sorted("done" if response.ok else response.json()["reason"] for response in responses)


def insist(call):
    """Repeat the call until it is answered."""
    for _ in range(600):
        try:
            return call()
        except requests.RequestException:
            time.sleep(0.02)
    raise AssertionError("nobody answers any more")


def workers(server):
    found = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True)
    return {int(child) for child in found.stdout.split()}


def kill(house, over, times):
    """Kill a process of `house.server`, now and then all of them; each time others take their place."""
    whole = len(workers(house.server))
    try:
        for number in range(times):
            time.sleep(random.uniform(0, 0.4))
            alive = sorted(workers(house.server))
            killed = alive if number % 4 == 1 else [random.choice(alive)]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            wait_for_others(house.server, whole, killed)
    finally:
        over.set()


def wait_for_others(server, whole, killed):
    for _ in range(300):
        alive = workers(server)
        if len(alive) == whole and alive.isdisjoint(killed):
            return
        time.sleep(0.05)
    raise AssertionError(f"of {whole} processes there are {len(alive)} after a kill")
