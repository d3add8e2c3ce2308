"""Two scanners at one door, and what happens to a ticket in the same instant, on servers in processes of their own."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from threading import Barrier
from types import SimpleNamespace

import pytest
import requests
from flask_jwt_extended import create_access_token
from flask_migrate import upgrade

from app import create_app
from models import Event, Order, Ticket, Transfer, User, db
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.placing import place
from routes.selling.transfers import new_transfer_token

from .conftest import CONFIG, bearer, dispose, servers

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("RACE_ROUNDS", 15))
AT_ONCE = 4
HEAD_STARTS = [step % 15 * 0.001 for step in range(ROUNDS)]  # which of two calls comes first depends on the machine
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def door(make_database):
    """Two servers, each one process, on one database with an admin: `race` sends calls to them in the same instant."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        upgrade()
        admin = User.sign_up(name="Somebody", email="admin@example.com", password="correct horse")
        admin.role = "admin"
        category = create_category("Concerts")
        db.session.commit()
        token = create_access_token(identity=admin)
    with servers() as start, ThreadPoolExecutor(AT_ONCE) as pool:
        url = app.config["SQLALCHEMY_DATABASE_URI"]
        addresses = [start(url, WEB_CONCURRENCY="1").address for _ in range(2)]
        clients = [requests.Session() for _ in range(AT_ONCE)]
        for client in clients:
            client.headers.update(bearer(token))

        def race(*calls, head_start=0):
            """Send the calls at once, or the last one by `head_start` seconds earlier; their answers in order."""
            barrier = Barrier(len(calls))

            def send(place, call):
                method, path, body, headers = (*call, *(None,) * (4 - len(call)))
                barrier.wait()
                if place < len(calls) - 1:
                    time.sleep(head_start)
                url = addresses[place % 2] + path
                return clients[place].request(method, url, json=body, headers=headers, timeout=60)

            return list(pool.map(send, range(len(calls)), calls))

        yield SimpleNamespace(app=app, race=race, admin=admin.id, category=category.id)
    with app.app_context():
        dispose()


@pytest.fixture
def sell(door):
    """Sell tickets for a new event, each in an order of its own: rows of their codes and the order's."""

    def tickets(count):
        start = datetime.now(UTC) + timedelta(days=1)
        fields = {"name": "Concert", "description": "Music", "venue": "Hall", "status": "published"}
        fields |= {"starts_at": start, "ends_at": start + timedelta(hours=3), "category_id": door.category}
        with door.app.app_context():
            ticket_type = create_ticket_type(
                create_event(fields).id, {"name": "Regular", "price": 0, "quantity": count, "max_per_buyer": None}
            )
            db.session.commit()
            for _ in range(count):
                place(door.admin, [(ticket_type.id, 1)])
                db.session.commit()
            rows = db.select(Ticket.code, Ticket.event_id, Order.code.label("order")).join(Ticket.purchase)
            return db.session.execute(rows.where(Ticket.event_id == ticket_type.event_id)).all()

    return tickets


def check_in(ticket):
    return "POST", f"/tickets/{ticket.code}/check-in"


def rename(ticket):
    return "PATCH", f"/tickets/{ticket.code}", {"attendee_name": "Zoë"}


def refund_named(ticket):
    return "POST", f"/orders/{ticket.order}/refund", {"tickets": [ticket.code]}


def undo(ticket):
    return "DELETE", f"/tickets/{ticket.code}/check-in"


def refund(ticket):
    return "POST", f"/orders/{ticket.order}/refund"


def cancel(ticket):
    return "PATCH", f"/events/{ticket.event_id}", {"status": "canceled"}


def reasons(responses):
    """Why the calls were refused, or `done`, sorted."""
    return sorted(response.json().get("reason", "done") for response in responses)


def refusal_at(door, call):
    """Why the call is refused once it is made alone."""
    return door.race(call)[0].json().get("reason")


def random_email():
    return f"{token_hex(8)}@example.com"


def stored(door, tickets, *columns):
    """What the database holds of the tickets, their orders and events, in the order of the tickets."""
    rows = db.select(*columns).join(Ticket.purchase).join(Ticket.event).order_by(Ticket.id)
    with door.app.app_context():
        return db.session.execute(rows.where(Ticket.code.in_(ticket.code for ticket in tickets))).all()


class TestTwoScanners:
    def test_let_one_person_in_and_tell_the_others_since_when(self, door, sell):
        for ticket in sell(ROUNDS):
            let_in, *refused = sorted(door.race(*[check_in(ticket)] * AT_ONCE), key=lambda answer: answer.status_code)
            entered_at = let_in.json()["ticket"]["checked_in_at"]
            assert [answer.json()["reason"] for answer in refused] == ["already_checked_in"] * (AT_ONCE - 1)
            assert {answer.json()["checked_in_at"] for answer in refused} == {entered_at}


class TestCheckInAgainstUndoing:
    def test_counts_who_is_inside(self, door, sell):
        for ticket in sell(ROUNDS):
            door.race(check_in(ticket))
            came, came_too, left, left_too = door.race(*[check_in(ticket)] * 2, *[undo(ticket)] * 2)
            inside = 1 + came.ok + came_too.ok - left.ok - left_too.ok
            assert stored(door, [ticket], Ticket.status) == [("used",) if inside == 1 else ("valid",)]
            assert inside in (0, 1)


class TestCheckInAgainstRefund:
    def test_one_of_them_comes_true(self, door, sell):
        tickets = sell(ROUNDS)
        for ticket, head_start in zip(tickets, HEAD_STARTS, strict=True):
            responses = door.race(check_in(ticket), refund(ticket), head_start=head_start)
            assert reasons(responses) in (["checked_in", "done"], ["done", "void"])
        assert set(stored(door, tickets, Ticket.status, Order.state)) <= {("used", "paid"), ("void", "refunded")}

    def test_tells_since_when_it_is_void(self, door, sell):
        tickets = sell(ROUNDS)
        with door.app.app_context():
            db.session.execute(db.update(Order).values(updated_at=LONG_AGO))
            db.session.commit()
        for ticket, head_start in zip(tickets, HEAD_STARTS, strict=True):
            answer, _ = door.race(check_in(ticket), refund(ticket), head_start=head_start)
            assert not answer.json().get("since", "").startswith("2020")


class TestCheckInAgainstCancellation:
    def test_nobody_enters_once_it_is_canceled(self, door, sell):
        for head_start in HEAD_STARTS:
            tickets = sell(AT_ONCE - 1)
            responses = door.race(*map(check_in, tickets), cancel(tickets[0]), head_start=head_start)
            assert set(reasons(responses)) <= {"done", "event_canceled"}
            entered = stored(door, tickets, Ticket.checked_in_at, Event.canceled_at)
            assert not [row for row in entered if row.checked_in_at and row.checked_in_at > row.canceled_at]


class TestRenaming:
    @pytest.mark.parametrize("rival, reason", [(check_in, "used"), (refund, "void")])
    def test_comes_first_or_is_refused(self, door, sell, rival, reason):
        tickets, renamed = sell(ROUNDS), []
        for ticket, head_start in zip(tickets, HEAD_STARTS, strict=True):
            done, answer = door.race(rival(ticket), rename(ticket), head_start=head_start)
            assert done.ok
            assert answer.json().get("reason", "done") in ("done", reason)
            renamed.append("Zoë" if answer.ok else None)
        assert [row.attendee_name for row in stored(door, tickets, Ticket.attendee_name)] == renamed


class TestPassingOn:
    """A ticket is accepted while something else happens to it: one of them comes first, and the other sees it."""

    @pytest.fixture
    def offered(self, door):
        """The calls by which users accept tickets that are on their way: a token for each ticket."""

        def offer(tickets):
            with door.app.app_context():
                for code in [ticket.code for ticket in tickets]:
                    ticket = db.session.scalar(db.select(Ticket).where(Ticket.code == code))
                    fields = {"ticket": ticket, "giver": ticket.owner, "to": "friend@example.com"}
                    transfer = Transfer(status="pending", expires_at=ticket.event.ends_at, **fields)
                    db.session.add(transfer)
                    db.session.flush()
                    token = new_transfer_token(transfer)
                    db.session.commit()
                    yield "POST", "/transfers/accept", {"token": token}

        return offer

    @pytest.fixture
    def friends(self, door):
        """Headers of users who accept."""
        with door.app.app_context():
            users = [User.sign_up(name="Friend", email=random_email(), password="correct horse") for _ in range(2)]
            db.session.commit()
            return [bearer(create_access_token(identity=user)) for user in users]

    @pytest.mark.parametrize(
        "rival, lost, won",
        [
            (check_in, "used", "void"),
            (refund_named, "void", None),
            (refund, "void", "transferred"),
            (rename, None, None),
        ],
    )
    def test_against_another_change(self, door, sell, offered, friends, rival, lost, won):
        tickets = sell(ROUNDS)
        for ticket, accept, head_start in zip(tickets, offered(tickets), HEAD_STARTS, strict=True):
            calls = (*accept, friends[0]), rival(ticket)
            accepted, other = door.race(*random.sample(calls, 2), head_start=head_start)
            if "transfers" not in accepted.url:
                accepted, other = other, accepted
            if accepted.ok:
                assert other.ok or other.status_code in (400, 404) or other.json()["reason"] == won
                assert refusal_at(door, check_in(ticket)) == "void"
            else:
                assert other.ok
                assert accepted.json()["reason"] == lost

    def test_two_accept_and_one_has_it(self, door, sell, offered, friends):
        tickets = sell(ROUNDS)
        for accept, head_start in zip(offered(tickets), HEAD_STARTS, strict=True):
            answers = door.race(*((*accept, friend) for friend in friends), head_start=head_start)
            assert sorted(answer.status_code for answer in answers) == [200, 400]

    def test_taken_back_or_accepted(self, door, sell, offered, friends):
        tickets = sell(ROUNDS)
        for ticket, accept, head_start in zip(tickets, offered(tickets), HEAD_STARTS, strict=True):
            withdraw = "DELETE", f"/tickets/{ticket.code}/transfer"
            accepted, back = door.race((*accept, friends[0]), withdraw, head_start=head_start)
            assert (accepted.status_code, back.status_code) in ((200, 404), (400, 204))
