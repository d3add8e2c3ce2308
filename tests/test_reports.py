"""Who comes and how it sells: attendees as JSON and CSV, and the sales."""

import csv
import io
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import requests
from flask_jwt_extended import create_access_token
from flask_migrate import upgrade
from sqlalchemy import text

from app import create_app
from models import Category, Event, Order, TicketType, User, db

from .conftest import dispose

COLUMNS = ["code", "status", "holder", "email", "ticket_type", "order", "checked_in_at"]
CROWD = 100_000
BUYERS, ORDERS_EACH, PLACES = 4, 12, 40
PRICES = {"Stand": 2500, "Guest": 0}


@pytest.fixture
def attendees(client, staff):
    """The attendees of an event as JSON."""
    return lambda event_id: client.get(f"/events/{event_id}/attendees", headers=staff.headers).get_json()


@pytest.fixture
def attendees_csv(client, staff):
    """The attendees of an event as the response with CSV."""

    def get(event_id):
        return client.get(f"/events/{event_id}/attendees", headers={**staff.headers, "Accept": "text/csv"})

    return get


@pytest.fixture
def sales(client, admin):
    return lambda event_id: client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()


@pytest.fixture
def bought(make_user, place, pay):
    """A paid order of a new user, who may have a name and an address to look at."""

    def buy(ticket_type_id, quantity=1, **user):
        order = place(make_user(**user), ticket_type_id, quantity).get_json()
        pay(order)
        return order

    return buy


@pytest.fixture
def event_id(make_event):
    return make_event()


def rows(response):
    return list(csv.reader(io.StringIO(response.get_data(as_text=True), newline="")))


def bearer(app, user):
    with app.app_context():
        return {"Authorization": f"Bearer {create_access_token(identity=user)}"}


@pytest.fixture(scope="module")
def crowd(make_database):
    """An event that 100,000 people come to, on a database of its own, and the headers of who asks for them."""
    app = create_app({"SQLALCHEMY_DATABASE_URI": make_database(), "BCRYPT_LOG_ROUNDS": 4})
    start = datetime.now(UTC) + timedelta(days=1)
    with app.app_context():
        upgrade()
        admin = User.sign_up(name="Somebody", email="admin@example.com", password="correct horse")
        admin.role = "admin"
        fields = {"name": "Match", "description": "Football", "venue": "Stadium", "status": "published"}
        fields |= {"category_id": Category.create("Sports").id}
        event = Event.create(starts_at=start, ends_at=start + timedelta(hours=2), **fields)
        ticket_type = TicketType.create(event, name="Stand", price=0, quantity=CROWD)
        Order.place(admin.id, [(ticket_type.id, 1)])
        order = db.session.scalars(db.select(Order)).one()
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {CROWD}) "
        tickets = "INSERT INTO tickets (code, order_id, event_id, ticket_type_id, status) "
        values = f"SELECT 'C' || CAST(i AS TEXT), {order.id}, {event.id}, {ticket_type.id}, 'valid' FROM n"
        db.session.execute(text(numbers + tickets + values))
        db.session.commit()
        db.session.execute(text("ANALYZE"))
        db.session.commit()
    headers = {**bearer(app, admin), "Accept": "text/csv"}
    yield SimpleNamespace(app=app, path=f"/events/{event.id}/attendees", headers=headers)
    with app.app_context():
        dispose()


class TestAttendeesGet:
    def test_lists_who_may_come_in(self, attendees, buyer, paid_order):
        ticket = paid_order["tickets"][0]
        found = attendees(ticket["event"]["id"])
        assert len(found) == 2
        assert found[0] == {
            "code": ticket["code"],
            "status": "valid",
            "holder": "Somebody",
            "email": buyer.email,
            "ticket_type": "Regular",
            "order": paid_order["code"],
            "checked_in_at": None,
        }

    def test_shows_who_came_in_and_when(self, client, attendees, staff, paid_order):
        ticket = paid_order["tickets"][0]
        answer = client.post(f"/tickets/{ticket['code']}/check-in", headers=staff.headers).get_json()
        found = attendees(ticket["event"]["id"])[0]
        assert (found["status"], found["checked_in_at"]) == ("used", answer["ticket"]["checked_in_at"])

    def test_leaves_void_tickets_out(self, client, attendees, admin, paid_order):
        client.post(f"/orders/{paid_order['code']}/refund", headers=admin.headers)
        assert attendees(paid_order["tickets"][0]["event"]["id"]) == []

    def test_leaves_other_events_out(self, attendees, paid_order, event_id):
        assert attendees(event_id) == []

    def test_leaves_pending_orders_out(self, attendees, buyer, make_ticket_type, place, event_id):
        place(buyer, make_ticket_type(event_id))
        assert attendees(event_id) == []

    def test_comes_in_pages(self, client, staff, attendees, make_ticket_type, bought, event_id):
        bought(make_ticket_type(event_id), 3)
        first = client.get(f"/events/{event_id}/attendees?limit=2", headers=staff.headers)
        second = client.get(re.match("<(.+)>; rel=", first.headers["Link"])[1], headers=staff.headers)
        assert first.get_json() + second.get_json() == attendees(event_id)
        assert (len(first.get_json()), "Link" in second.headers) == (2, False)

    @pytest.mark.parametrize("name, value", [("limit", "0"), ("limit", "101"), ("limit", "x"), ("after", "x")])
    def test_refuses_a_bad_page(self, client, staff, event_id, name, value):
        response = client.get(f"/events/{event_id}/attendees?{name}={value}", headers=staff.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, [name])

    @pytest.mark.parametrize("role, status", [("user", 403), ("staff", 200), ("admin", 200)])
    def test_is_for_the_door(self, client, make_user, event_id, role, status):
        response = client.get(f"/events/{event_id}/attendees", headers=make_user(role).headers)
        assert response.status_code == status

    @pytest.mark.parametrize("accept", ["application/json", "text/csv"])
    def test_unknown_event_is_not_there(self, client, staff, accept):
        response = client.get("/events/1/attendees", headers={**staff.headers, "Accept": accept})
        assert (response.status_code, response.get_json()) == (404, {"message": "Not Found"})

    @pytest.mark.parametrize("accept", ["text/csv", "application/json"])
    def test_wants_a_token(self, client, event_id, accept):
        response = client.get(f"/events/{event_id}/attendees", headers={"Accept": accept})
        assert (response.status_code, response.get_json()) == (401, {"message": "Missing token"})

    def test_needs_one_connection_of_each_pool(self, app, staff, event_id):
        made_of = ("SQLALCHEMY_ENGINE_OPTIONS", "SQLALCHEMY_BINDS")
        config = {name: value for name, value in app.config.items() if name not in made_of}
        small = create_app({**config, "DB_POOL_SIZE": 1})
        path = f"/events/{event_id}/attendees"
        assert small.test_client().get(path, headers=staff.headers).status_code == 200
        with small.app_context():
            dispose()


class TestAttendeesCSVGet:
    def test_has_the_names_as_its_header(self, attendees_csv, event_id):
        response = attendees_csv(event_id)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert rows(response) == [COLUMNS]

    def test_says_what_the_json_says(self, client, staff, attendees, attendees_csv, paid_order):
        ticket = paid_order["tickets"][0]
        client.post(f"/tickets/{ticket['code']}/check-in", headers=staff.headers)
        expected = [[person[name] or "" for name in COLUMNS] for person in attendees(ticket["event"]["id"])]
        assert rows(attendees_csv(ticket["event"]["id"])) == [COLUMNS, *expected]

    def test_leaves_void_tickets_out(self, client, admin, attendees_csv, paid_order):
        client.post(f"/orders/{paid_order['code']}/refund", headers=admin.headers)
        assert rows(attendees_csv(paid_order["tickets"][0]["event"]["id"])) == [COLUMNS]

    def test_is_whole_whatever_the_limit(self, client, staff, make_ticket_type, bought, event_id):
        bought(make_ticket_type(event_id), 3)
        headers = {**staff.headers, "Accept": "text/csv"}
        assert len(rows(client.get(f"/events/{event_id}/attendees?limit=1", headers=headers))) == 4

    @pytest.mark.parametrize(
        "name, cell",
        [(f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@\t\r\n＝＋－＠"]
        + [
            ("Anne;=1+1", "Anne;'=1+1"),
            ('Anne;"=1+1;', "Anne;\"'=1+1;"),
            ("Anne\n=1+1", "Anne\n'=1+1"),
            ("Anne\t@x", "Anne\t'@x"),
            ("\t=1", "'\t'=1"),
        ],
    )
    def test_no_name_runs_as_a_formula(self, attendees_csv, make_ticket_type, bought, event_id, name, cell):
        bought(make_ticket_type(event_id), name=name)
        assert rows(attendees_csv(event_id))[1][2] == cell

    @pytest.mark.parametrize("email", ["=1+1@example.com", "+1@example.com", "-1@example.com"])
    def test_no_address_runs_as_a_formula(self, attendees_csv, make_ticket_type, bought, event_id, email):
        bought(make_ticket_type(event_id), email=email)
        assert rows(attendees_csv(event_id))[1][3] == f"'{email}"

    def test_no_ticket_type_runs_as_a_formula(self, attendees_csv, make_ticket_type, bought, event_id):
        bought(make_ticket_type(event_id, name="=1+1"))
        assert rows(attendees_csv(event_id))[1][4] == "'=1+1"

    @pytest.mark.parametrize(
        "name", ['"Anne", she said', "Anne, Marie", "Anne\r\nMarie", "O'Neill", "Anne-Marie 李 🎫"]
    )
    def test_a_name_stays_in_its_cell(self, attendees_csv, make_ticket_type, bought, event_id, name):
        bought(make_ticket_type(event_id), name=name)
        assert [row[2] for row in rows(attendees_csv(event_id))] == ["holder", name]

    @pytest.mark.parametrize(
        "accept, mimetype",
        [
            (None, "application/json"),
            ("*/*", "application/json"),
            ("text/csv;q=0.5, application/json", "application/json"),
            ("text/csv;q=0, */*", "application/json"),
            ("text/html", "application/json"),
            (";;;", "application/json"),
            ("Text/CSV", "text/csv"),
            ("text/csv; charset=utf-8", "text/csv"),
            ("text/*", "text/csv"),
            ("text/csv, */*", "text/csv"),
            ("application/json;q=0.5, text/csv", "text/csv"),
        ],
    )
    def test_comes_where_it_is_preferred(self, client, staff, event_id, accept, mimetype):
        headers = staff.headers | ({} if accept is None else {"Accept": accept})
        assert client.get(f"/events/{event_id}/attendees", headers=headers).mimetype == mimetype

    def test_a_hundred_thousand_stream_in_flat_memory(self, crowd):
        response = crowd.app.test_client().get(crowd.path, headers=crowd.headers)
        before = sys.getallocatedblocks()
        parts = ((part, sys.getallocatedblocks() - before) for part in response.iter_encoded())
        lines, sizes, kept = zip(*((part.count(b"\n"), len(part), blocks) for part, blocks in parts), strict=True)
        assert sum(lines) == CROWD + 1
        assert max(sizes) < 500_000
        assert max(kept) < CROWD

    def test_no_connection_is_held_between_its_parts(self, crowd):
        parts = crowd.app.test_client().get(crowd.path, headers=crowd.headers).iter_encoded()
        next(parts), next(parts)
        with crowd.app.app_context():
            assert {engine.pool.checkedout() for engine in db.engines.values()} == {0}

    def test_slow_readers_hold_no_connection(self, crowd, start_server):
        url = crowd.app.config["SQLALCHEMY_DATABASE_URI"]
        server = start_server(url, DB_POOL_SIZE="1", WEB_CONCURRENCY="1")
        readers = [slow_reader(server, crowd) for _ in range(3)]
        assert requests.get(f"{server.address}/health", timeout=60).json() == {"status": "ok"}
        for reader in readers:
            reader.close()


def slow_reader(server, crowd):
    """Ask for the CSV and read no more of it than its beginning."""
    host, port = server.address.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    headers = "".join(f"{name}: {value}\r\n" for name, value in crowd.headers.items())
    reader.sendall(f"GET {crowd.path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
    assert b"200 OK" in reader.recv(100)
    return reader


class TestSalesGet:
    def test_starts_with_nothing_sold(self, sales, make_ticket_type, event_id):
        ticket_type = make_ticket_type(event_id)
        figures = {"quantity": 10, "sold": 0, "held": 0, "available": 10, "checked_in": 0, "revenue": 0}
        assert sales(event_id) == {
            "event_id": event_id,
            "currency": "USD",
            "ticket_types": [{"id": ticket_type, "name": "Regular", **figures}],
            "total": figures,
        }

    def test_counts_every_figure(self, client, staff, sales, buyer, make_ticket_type, place, bought, event_id):
        ticket_type = make_ticket_type(event_id)
        code = bought(ticket_type, 3)["code"]
        place(buyer, ticket_type, 2)
        ticket = client.get(f"/orders/{code}", headers=staff.headers).get_json()["tickets"][0]["code"]
        client.post(f"/tickets/{ticket}/check-in", headers=staff.headers)
        figures = {"quantity": 10, "sold": 3, "held": 2, "available": 5, "checked_in": 1, "revenue": 7500}
        assert sales(event_id)["ticket_types"] == [{"id": ticket_type, "name": "Regular", **figures}]

    def test_adds_the_ticket_types_up(self, sales, make_ticket_type, bought, event_id):
        bought(make_ticket_type(event_id, price=1000, quantity=20), 2)
        bought(make_ticket_type(event_id, price=300, quantity=5), 3)
        figures = {"quantity": 25, "sold": 5, "held": 0, "available": 20, "checked_in": 0, "revenue": 2900}
        assert sales(event_id)["total"] == figures

    def test_leaves_other_events_out(self, sales, make_ticket_type, bought, event_id):
        bought(make_ticket_type())
        assert sales(event_id)["ticket_types"] == []
        assert set(sales(event_id)["total"].values()) == {0}

    def test_lapsed_holds_are_available(self, sales, buyer, make_ticket_type, place, lapse, event_id):
        ticket_type = make_ticket_type(event_id)
        place(buyer, ticket_type, 4)
        lapse(place(buyer, ticket_type, 3).get_json())
        total = sales(event_id)["total"]
        assert (total["held"], total["available"], total["sold"]) == (4, 6, 0)

    def test_a_late_payment_counts(self, sales, buyer, make_ticket_type, place, pay, lapse, event_id):
        order = place(buyer, make_ticket_type(event_id), 3).get_json()
        lapse(order)
        pay(order)
        total = sales(event_id)["total"]
        assert (total["held"], total["available"], total["sold"], total["revenue"]) == (0, 7, 3, 7500)

    def test_a_payment_that_is_to_be_refunded_does_not_count(
        self, client, sales, buyer, make_ticket_type, place, pay, event_id
    ):
        order = place(buyer, make_ticket_type(event_id)).get_json()
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        assert pay(order).get_json()["status"] == "refund_due"
        assert sales(event_id)["total"]["revenue"] == 0

    def test_what_is_refunded_is_not_sold(self, client, admin, sales, make_ticket_type, bought, event_id):
        order = bought(make_ticket_type(event_id), 2)
        client.post(f"/orders/{order['code']}/refund", headers=admin.headers)
        total = sales(event_id)["total"]
        assert (total["sold"], total["available"], total["revenue"]) == (0, 10, 0)

    def test_free_tickets_are_sold_for_nothing(self, sales, buyer, make_ticket_type, place, event_id):
        place(buyer, make_ticket_type(event_id, price=0), 2)
        total = sales(event_id)["total"]
        assert (total["sold"], total["held"], total["revenue"]) == (2, 0, 0)

    def test_keeps_the_price_that_was_paid(self, client, admin, sales, make_ticket_type, bought, event_id):
        ticket_type = make_ticket_type(event_id)
        bought(ticket_type)
        client.patch(f"/ticket-types/{ticket_type}", json={"price": 9900}, headers=admin.headers)
        assert sales(event_id)["total"]["revenue"] == 2500

    def test_knows_no_sum_that_is_too_large(self, sales, make_ticket_type, bought, event_id):
        bought(make_ticket_type(event_id, price=1_000_000_000), 10)
        assert sales(event_id)["total"]["revenue"] == 10_000_000_000

    def test_has_its_currency(self, app, sales, event_id):
        app.config["CURRENCY"] = "EUR"
        assert sales(event_id)["currency"] == "EUR"

    def test_counts_in_one_statement(self, client, admin, statements, make_ticket_type, event_id):
        for _ in range(3):
            make_ticket_type(event_id)
        sent = statements(lambda: client.get(f"/events/{event_id}/sales", headers=admin.headers))
        assert len(sent) == len(["the token", "the event", "the figures"])

    @pytest.mark.parametrize("role, status", [("user", 403), ("staff", 403), ("admin", 200)])
    def test_is_for_the_organizer(self, client, make_user, event_id, role, status):
        assert client.get(f"/events/{event_id}/sales", headers=make_user(role).headers).status_code == status

    def test_wants_a_token(self, client, event_id):
        assert client.get(f"/events/{event_id}/sales").status_code == 401

    def test_unknown_event_is_not_there(self, client, admin):
        response = client.get("/events/1/sales", headers=admin.headers)
        assert (response.status_code, response.get_json()) == (404, {"message": "Not Found"})


class TestStampede:
    def test_every_answer_is_of_one_moment(self, house):
        """Read while many buy, pay, cancel, come in and are refunded, and some let their holds lapse."""
        with ThreadPoolExecutor(BUYERS) as pool:
            visits = [pool.submit(visit, house, buyer) for buyer in house.buyers]
            seen = [house.read()]
            while not all(visit.done() for visit in visits):
                seen.append(house.read())
        assert [visit.result() for visit in visits] == [None] * BUYERS
        for sales, codes in seen:
            assert [fault for ticket_type in sales["ticket_types"] for fault in faults(ticket_type)] == []
            assert len(set(codes)) == len(codes)
        sales, codes = house.read()
        assert sales["total"]["sold"] == len(codes)


@pytest.fixture
def house(migrated, start_server):
    """An event on a real server, to `call` as somebody and to `read` the sales and the attendees' codes of."""
    start = datetime.now(UTC) + timedelta(days=1)
    fields = {"name": "Match", "description": "Football", "venue": "Stadium", "status": "published"}
    with migrated.app_context():
        fields |= {"category_id": Category.create("Sports").id}
        event = Event.create(starts_at=start, ends_at=start + timedelta(hours=2), **fields)
        types = [TicketType.create(event, name=name, price=PRICES[name], quantity=PLACES).id for name in PRICES]
        people = [User.sign_up(name="Somebody", email=f"{n}@example.com", password="-") for n in range(BUYERS + 1)]
        people[0].role = "admin"
        db.session.commit()
        admin, *buyers = (bearer(migrated, person) for person in people)
    server = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], ORDER_HOLD_SECONDS="1")

    def call(who, method, path, json=None):
        response = requests.request(method, server.address + path, headers=who, json=json, timeout=60)
        assert response.status_code < 500
        return response

    def read():
        sales = call(admin, "GET", f"/events/{event.id}/sales").json()
        attendees = call({**admin, "Accept": "text/csv"}, "GET", f"/events/{event.id}/attendees").text
        return sales, [row["code"] for row in csv.DictReader(io.StringIO(attendees))]

    return SimpleNamespace(call=call, read=read, admin=admin, buyers=buyers, types=types)


def visit(house, buyer):
    for number in range(ORDERS_EACH):
        line = {"ticket_type_id": house.types[number % 4 == 0], "quantity": 2}
        order = house.call(buyer, "POST", "/orders", {"items": [line]}).json()
        if "code" not in order:  # sold out
            continue
        path = f"/orders/{order['code']}"
        if number % 4 == 1:
            house.call(buyer, "POST", f"{path}/cancel")
        if number % 4 == 2:
            house.call(house.admin, "POST", f"{path}/payments", {"method": "cash", "amount": order["total"]})
        tickets = house.call(buyer, "GET", path).json()["tickets"]
        for ticket in tickets[number % 3 :]:
            house.call(house.admin, "POST", f"/tickets/{ticket['code']}/check-in")
        if tickets:
            house.call(house.admin, "POST", f"{path}/refund")


def faults(row):
    """What can't be true of a ticket type at any one moment."""
    if row["sold"] + row["held"] + row["available"] != row["quantity"]:
        yield "places", row
    if row["revenue"] != row["sold"] * PRICES[row["name"]]:
        yield "revenue", row
    if not 0 <= row["checked_in"] <= row["sold"] or row["held"] < 0 or row["available"] < 0:
        yield "bounds", row
