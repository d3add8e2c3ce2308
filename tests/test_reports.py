"""Who comes and how it sells: attendees as JSON and CSV, and the sales."""

import csv
import io
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import requests
from flask_jwt_extended import create_access_token
from flask_migrate import upgrade
from sqlalchemy import text

from app import create_app
from models import Order, Payment, User, db
from routes.http import paging
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.orders import payment_list
from routes.selling.placing import place

from .conftest import bearer, dispose

COLUMNS = ["code", "status", "holder", "email", "ticket_type", "order", "checked_in_at"]
PAYMENT_COLUMNS = ["id", "created_at", "method", "reference", "amount", "currency", "status"]
PAYMENT_COLUMNS += ["order", "order_status", "event_id", "event", "by_id", "by"]
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


def headers_of(app, user):
    with app.app_context():
        return bearer(create_access_token(identity=user))


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
        fields |= {"category_id": create_category("Sports").id}
        event = create_event({"starts_at": start, "ends_at": start + timedelta(hours=2), **fields})
        ticket_type = create_ticket_type(event.id, {"name": "Stand", "price": 0, "quantity": CROWD})
        place(admin.id, [(ticket_type.id, 1)])
        order = db.session.scalars(db.select(Order)).one()
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {CROWD}) "
        tickets = "INSERT INTO tickets (code, order_id, event_id, user_id, ticket_type_id, status) "
        ids = f"{order.id}, {event.id}, {order.user_id}, {ticket_type.id}"
        values = f"SELECT 'C' || CAST(i AS TEXT), {ids}, 'valid' FROM n"
        db.session.execute(text(numbers + tickets + values))
        db.session.commit()
        db.session.execute(text("ANALYZE"))
        db.session.commit()
    headers = {**headers_of(app, admin), "Accept": "text/csv"}
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

    def test_shows_who_came_in_and_when(self, attendees, paid_order, check_in):
        ticket = paid_order["tickets"][0]
        answer = check_in(ticket["code"]).get_json()
        found = attendees(ticket["event"]["id"])[0]
        assert (found["status"], found["checked_in_at"]) == ("used", answer["ticket"]["checked_in_at"])

    def test_leaves_void_tickets_out(self, attendees, paid_order, refund):
        refund(paid_order)
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
        assert (response.status_code, response.get_json()) == (
            401,
            {"message": "Missing token", "reason": "token_missing"},
        )

    def test_needs_one_connection_of_each_pool(self, app, staff, event_id):
        made_of = ("SQLALCHEMY_ENGINE_OPTIONS", "SQLALCHEMY_BINDS")
        config = {name: value for name, value in app.config.items() if name not in made_of}
        small = create_app({**config, "DB_POOL_SIZE": 1})
        path = f"/events/{event_id}/attendees"
        assert small.test_client().get(path, headers=staff.headers).status_code == 200
        with small.app_context():
            dispose()


class TestAttendeesFound:
    @pytest.fixture
    def found(self, client, staff):
        """The orders of the attendees that a query string leaves."""

        def get(event_id, query, **headers):
            response = client.get(f"/events/{event_id}/attendees?{query}", headers={**staff.headers, **headers})
            return [person["order"] for person in response.get_json()]

        return get

    @pytest.fixture
    def two(self, event_id, make_ticket_type, bought):
        """Orders of two people, each of a ticket type of his own."""
        people = [{"name": "Łukasz Öz", "email": "lukasz@mail.example"}, {"name": "50%_Ben/", "email": "b@example.com"}]
        return [bought(make_ticket_type(event_id), **person) for person in people]

    @pytest.mark.parametrize("q", ["łUKASZ", "kasz öz", "LUKASZ@", "mail.ex"])
    def test_by_name_or_address_in_any_case(self, found, event_id, two, q):
        assert found(event_id, f"q={quote(q)}") == [two[0]["code"]]

    @pytest.mark.parametrize("q", ["%", "_", "50%_", "/", "n/"])
    def test_by_characters_that_mean_something_to_a_database(self, found, event_id, two, q):
        assert found(event_id, f"q={quote(q, safe='')}") == [two[1]["code"]]

    def test_by_the_start_of_an_orders_code_as_typed(self, found, event_id, two):
        code = two[0]["code"].lower()
        assert found(event_id, f"q={code[:5]}-{code[5:12]}") == [two[0]["code"]]

    def test_by_the_start_of_a_code(self, found, attendees, event_id, two):
        assert found(event_id, f"q={attendees(event_id)[1]['code'][:12]}") == [two[1]["code"]]

    def test_by_the_name_on_the_ticket(self, client, staff, found, attendees, event_id, two):
        path = f"/tickets/{attendees(event_id)[1]['code']}"
        client.patch(path, json={"attendee_name": "ZOË Straße"}, headers=staff.headers)
        assert attendees(event_id)[1]["holder"] == "ZOË Straße"
        assert found(event_id, f"q={quote('zoë strasse')}") == [two[1]["code"]]

    def test_by_ticket_type(self, found, event_id, two):
        assert found(event_id, f"ticket_type={two[1]['items'][0]['ticket_type_id']}") == [two[1]["code"]]

    def test_by_status(self, found, attendees, check_in, event_id, two):
        check_in(attendees(event_id)[0]["code"])
        assert found(event_id, "status=used") == [two[0]["code"]]

    def test_void_ones_where_they_are_asked_for(self, found, refund, event_id, two):
        refund(two[0])
        assert found(event_id, "status=void") == [two[0]["code"]]

    def test_by_all_filters_at_once(self, found, event_id, two):
        assert found(event_id, f"q=lukasz&ticket_type={two[1]['items'][0]['ticket_type_id']}&status=valid") == []

    def test_on_every_page(self, client, staff, event_id, make_ticket_type, bought, two):
        more = bought(make_ticket_type(event_id), 2, name="Łukasz")
        first = client.get(f"/events/{event_id}/attendees?q={quote('łukasz')}&limit=2", headers=staff.headers)
        second = client.get(re.match("<(.+)>; rel=", first.headers["Link"])[1], headers=staff.headers)
        found = [person["order"] for page in (first, second) for person in page.get_json()]
        assert found == [two[0]["code"], more["code"], more["code"]]

    def test_in_csv(self, client, staff, event_id, two):
        path = f"/events/{event_id}/attendees?q=ben&status=valid"
        response = client.get(path, headers={**staff.headers, "Accept": "text/csv"})
        assert [row[COLUMNS.index("order")] for row in rows(response)[1:]] == [two[1]["code"]]

    @pytest.mark.parametrize("name, value", [("q", "%00"), ("q", "+"), ("ticket_type", "x"), ("status", "lost")])
    def test_refuse_a_bad_value(self, client, staff, event_id, name, value):
        response = client.get(f"/events/{event_id}/attendees?{name}={value}", headers=staff.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, [name])


class TestAttendeesCSVGet:
    def test_is_saved_as_a_file(self, attendees_csv, event_id):
        name = f"attendees-{event_id}.csv"
        assert attendees_csv(event_id).headers["Content-Disposition"] == f'attachment; filename="{name}"'

    def test_has_the_names_as_its_header(self, attendees_csv, event_id):
        response = attendees_csv(event_id)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert rows(response) == [COLUMNS]

    def test_says_what_the_json_says(self, attendees, attendees_csv, paid_order, check_in):
        ticket = paid_order["tickets"][0]
        check_in(ticket["code"])
        expected = [[person[name] or "" for name in COLUMNS] for person in attendees(ticket["event"]["id"])]
        assert rows(attendees_csv(ticket["event"]["id"])) == [COLUMNS, *expected]

    def test_leaves_void_tickets_out(self, attendees_csv, paid_order, refund):
        refund(paid_order)
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

    @pytest.mark.slow
    def test_a_hundred_thousand_stream_in_flat_memory(self, crowd):
        response = crowd.app.test_client().get(crowd.path, headers=crowd.headers)
        before = sys.getallocatedblocks()
        parts = ((part, sys.getallocatedblocks() - before) for part in response.iter_encoded())
        lines, sizes, kept = zip(*((part.count(b"\n"), len(part), blocks) for part, blocks in parts), strict=True)
        assert sum(lines) == CROWD + 1
        assert max(sizes) < 500_000
        assert max(kept) < CROWD

    @pytest.mark.slow
    def test_no_connection_is_held_between_its_parts(self, crowd):
        parts = crowd.app.test_client().get(crowd.path, headers=crowd.headers).iter_encoded()
        next(parts), next(parts)
        with crowd.app.app_context():
            assert {engine.pool.checkedout() for engine in db.engines.values()} == {0}

    @pytest.mark.slow
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
            "refunded": 0,
            "refund_due": 0,
            "refund_all": {"orders": 0, "done": 0, "left": 0},
            "payments": [],
        }

    def test_counts_every_figure(
        self, client, staff, sales, buyer, make_ticket_type, place, bought, event_id, check_in
    ):
        ticket_type = make_ticket_type(event_id)
        code = bought(ticket_type, 3)["code"]
        place(buyer, ticket_type, 2)
        ticket = client.get(f"/orders/{code}", headers=staff.headers).get_json()["tickets"][0]["code"]
        check_in(ticket)
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
        self, sales, buyer, make_ticket_type, place, pay, event_id, cancel
    ):
        order = place(buyer, make_ticket_type(event_id)).get_json()
        cancel(order)
        assert pay(order).get_json()["status"] == "refund_due"
        assert sales(event_id)["total"]["revenue"] == 0

    def test_what_is_refunded_is_not_sold(self, sales, make_ticket_type, bought, event_id, refund):
        order = bought(make_ticket_type(event_id), 2)
        refund(order)
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

    def test_has_the_currency_of_the_event(self, app, sales, make_event):
        event_id = make_event(currency="EUR")
        app.config["CURRENCY"] = "JPY"
        assert sales(event_id)["currency"] == "EUR"

    def test_adds_payments_up_by_method(self, sales, make_ticket_type, make_user, place, pay, event_id, refund):
        ticket_type = make_ticket_type(event_id)
        orders = [place(make_user(), ticket_type).get_json() for _ in range(4)]
        for order in orders:
            pay(order)
        refund(orders[0])
        pay(orders[1], method="card", reference="R-1")
        found, zero = sales(event_id), {"confirmed": 0, "refunded": 0, "refund_due": 0}
        assert found["payments"] == [
            {"currency": "USD", "method": "card", **zero, "refund_due": 2500},
            {"currency": "USD", "method": "cash", **zero, "confirmed": 7500, "refunded": 2500},
        ]
        assert (found["refunded"], found["refund_due"], found["total"]["revenue"]) == (2500, 2500, 7500)

    def test_never_adds_currencies_up(self, app, sales, make_ticket_type, bought, event_id):
        """An event may have orders in several, from before it had one of its own."""
        ticket_type = make_ticket_type(event_id)
        old, _ = bought(ticket_type), bought(ticket_type)
        with app.app_context():
            db.session.execute(db.update(Order).where(Order.code == old["code"]).values(currency="JPY"))
            db.session.commit()
        found = sales(event_id)
        assert (found["total"]["sold"], found["total"]["revenue"]) == (2, 2500)
        assert [(it["currency"], it["confirmed"]) for it in found["payments"]] == [("JPY", 2500), ("USD", 2500)]

    def test_counts_in_one_statement(self, client, admin, statements, make_ticket_type, event_id):
        for _ in range(3):
            make_ticket_type(event_id)
        sent = statements(lambda: client.get(f"/events/{event_id}/sales", headers=admin.headers))
        assert len(sent) == len(["the token", "the event", "the figures", "the payments"])

    @pytest.mark.parametrize("role, status", [("user", 403), ("staff", 403), ("admin", 200)])
    def test_is_for_the_organizer(self, client, make_user, event_id, role, status):
        assert client.get(f"/events/{event_id}/sales", headers=make_user(role).headers).status_code == status

    def test_wants_a_token(self, client, event_id):
        assert client.get(f"/events/{event_id}/sales").status_code == 401

    def test_unknown_event_is_not_there(self, client, admin):
        response = client.get("/events/1/sales", headers=admin.headers)
        assert (response.status_code, response.get_json()) == (404, {"message": "Not Found"})


@pytest.fixture
def payments(client, admin):
    """The payments that the filters leave, as JSON."""

    def get(**filters):
        response = client.get("/payments", query_string=filters, headers=admin.headers)
        assert response.status_code == 200
        return response.get_json()

    return get


@pytest.fixture
def payments_csv(client, admin):
    """The payments that the filters leave, as rows of CSV."""

    def get(**filters):
        headers = {**admin.headers, "Accept": "text/csv"}
        return rows(client.get("/payments", query_string=filters, headers=headers))

    return get


class TestPaymentsGet:
    @pytest.fixture
    def paid(self, make_user, make_ticket_type, place, pay):
        """Pay an order of a new event, and return the payment as the answer showed it."""

        def buy(ticket_type_id=None, **fields):
            order = place(make_user(), ticket_type_id or make_ticket_type()).get_json()
            return pay(order, **fields).get_json()

        return buy

    def test_shows_what_was_answered_newest_first(self, payments, paid):
        made = [paid(), paid(method="card", reference="R")]
        assert payments() == made[::-1]

    @pytest.mark.parametrize("method", ["cash", "card", "bank_transfer"])
    def test_filters_by_method(self, payments, paid, method):
        made = {name: paid(method=name, reference=name) for name in ("cash", "card")}
        assert payments(method=method) == [made[name] for name in made if name == method]

    def test_filters_by_status(self, payments, paid, refund):
        refunded, confirmed = paid(), paid()
        refund(refunded["order"])
        assert payments(status="confirmed") == [confirmed]
        assert [it["id"] for it in payments(status="refunded")] == [refunded["id"]]
        assert payments(status="refund_due") == []

    def test_filters_by_event(self, payments, paid):
        first, second = paid(), paid()
        assert [payments(event=it["order"]["event"]["id"]) for it in (first, second)] == [[first], [second]]

    def test_filters_by_who_took_it(self, client, staff, admin, payments, paid, buyer, make_ticket_type, place):
        payment = paid()
        order = place(buyer, make_ticket_type()).get_json()
        body = {"method": "cash", "amount": order["total"]}
        other = client.post(f"/orders/{order['code']}/payments", json=body, headers=admin.headers).get_json()
        assert (payments(by=staff.id), payments(by=admin.id), payments(by=buyer.id)) == ([payment], [other], [])

    def test_filters_by_time(self, app, payments, paid):
        made = [paid() for _ in range(3)]
        for day, payment in enumerate(made, 1):
            with app.app_context():
                values = {"created_at": datetime(2026, 1, day, tzinfo=UTC)}
                db.session.execute(db.update(Payment).where(Payment.id == payment["id"]).values(values))
                db.session.commit()
        span = {"from": "2026-01-01T01:00:00+01:00", "to": "2026-01-02T00:00:00Z"}
        assert [it["id"] for it in payments(**span)] == [made[1]["id"], made[0]["id"]]
        assert [it["id"] for it in payments(**{"from": "2026-01-02T00:00:01Z"})] == [made[2]["id"]]

    def test_filters_narrow_together(self, payments, paid):
        payment = paid(method="card", reference="R")
        paid()
        event = payment["order"]["event"]["id"]
        assert payments(method="card", event=event, status="confirmed") == [payment]
        assert payments(method="cash", event=event) == []

    @pytest.mark.parametrize(
        "wrong", ["status=lost", "method=cheque", "event=x", "by=-1", "from=2026-01-01", "to=x", "limit=0", "after=x"]
    )
    def test_bad_filters_are_refused(self, client, admin, wrong):
        response = client.get(f"/payments?{wrong}", headers=admin.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, [wrong.partition("=")[0]])

    def test_comes_in_pages_of_one_moment(self, app, client, admin, payments, paid, make_ticket_type):
        """Also where many were taken in the same instant."""
        id = make_ticket_type()
        made = [paid(id)["id"] for _ in range(5)]
        with app.app_context():
            db.session.execute(db.update(Payment).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))
            db.session.commit()
        seen, url = [], "/payments?limit=2&method=cash"
        while url:
            response = client.get(url, headers=admin.headers)
            seen += [it["id"] for it in response.get_json()]
            url = response.headers["Link"].split(">")[0].strip("<") if "Link" in response.headers else None
        assert seen == made[::-1]

    def test_takes_as_many_statements_for_many_as_for_one(self, client, admin, paid, statements):
        def listing(limit):
            return len(statements(lambda: client.get(f"/payments?limit={limit}", headers=admin.headers)))

        for number in range(3):
            paid(method="card", reference=str(number))
        assert listing(1) == listing(3) == len(["the token", "the payments", "their refunds"])

    @pytest.mark.parametrize(
        "filters",
        [
            {"status": "refund_due"},
            {"method": "card"},
            {"event": 1},
            {"by": 1},
            {"taken_from": datetime(2026, 1, 1, tzinfo=UTC)},
        ],
    )
    def test_reads_no_table_whole(self, tables_read_whole, filters):
        query = paging.following(payment_list(frozenset(filters)), (Payment.created_at, Payment.id), False, True)
        assert tables_read_whole(query, filters | {"limit": 51}) == []

    @pytest.mark.parametrize("role, status", [("user", 403), ("staff", 403), ("admin", 200)])
    @pytest.mark.parametrize("accept", ["application/json", "text/csv"])
    def test_is_for_admins(self, client, make_user, role, status, accept):
        headers = {**make_user(role).headers, "Accept": accept}
        assert client.get("/payments", headers=headers).status_code == status

    def test_csv_has_the_names_as_its_header(self, payments_csv):
        assert payments_csv() == [PAYMENT_COLUMNS]

    def test_csv_says_what_the_json_says(self, payments_csv, paid):
        payment = paid(method="card", reference="=R")
        order, by = payment["order"], payment["by"]
        [_, row] = payments_csv()
        assert dict(zip(PAYMENT_COLUMNS, row, strict=True)) == {
            **{name: str(payment[name]) for name in ("id", "created_at", "method", "amount", "status")},
            **{"reference": "'=R", "currency": "USD", "order": order["code"], "order_status": "paid"},
            **{"event_id": str(order["event"]["id"]), "event": "Concert", "by_id": str(by["id"]), "by": "Somebody"},
        }

    def test_csv_is_whole_and_filtered(self, monkeypatch, client, admin, paid, payments_csv, make_ticket_type):
        monkeypatch.setattr(paging, "CHUNK", 2)
        id = make_ticket_type()
        made = [paid(id)["id"] for _ in range(5)]
        paid(method="card", reference="R")
        assert [int(row[0]) for row in payments_csv(method="cash", limit=1)[1:]] == made[::-1]


@pytest.mark.slow
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
        fields |= {"category_id": create_category("Sports").id}
        event = create_event({"starts_at": start, "ends_at": start + timedelta(hours=2), **fields})
        types = [
            create_ticket_type(event.id, {"name": name, "price": PRICES[name], "quantity": PLACES}).id
            for name in PRICES
        ]
        people = [User.sign_up(name="Somebody", email=f"{n}@example.com", password="-") for n in range(BUYERS + 1)]
        people[0].role = "admin"
        db.session.commit()
        admin, *buyers = (headers_of(migrated, person) for person in people)
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
