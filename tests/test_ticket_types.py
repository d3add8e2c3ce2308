"""Ticket types: what is on sale, how much of it is left, and what can no longer be changed."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from models import TicketType, db

SHOWN = {"id", "event_id", "name", "price", "currency", "quantity", "available"}
SHOWN |= {"sales_start", "sales_end", "max_per_order"}
EDGES = [
    *({"price": 0}, {"price": 1_000_000_000}, {"quantity": 0}, {"quantity": 2_000_000_000}),
    *({"max_per_order": 1}, {"max_per_order": 1000}, {"name": "é" * 100}),
    *({"sales_start": "1970-01-01T00:00:00Z"}, {"sales_end": "9999-12-31T23:59:59Z"}),
]
BEYOND = [
    *({"price": -1}, {"price": 1_000_000_001}, {"price": 2**31}, {"price": 1.0}, {"price": True}),
    *({"quantity": -1}, {"quantity": 2_000_000_001}, {"quantity": 2**63 - 1}, {"quantity": 1e3}),
    *({"max_per_order": 0}, {"max_per_order": 1001}, {"name": "é" * 101}),
    *({"sales_start": "1970-01-01T00:00:00+00:01"}, {"sales_end": "9999-12-31T23:59:59-00:01"}),
]


def moment(**ahead):
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**ahead)


def shown(time):
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def post(client, admin, make_event):
    """Put tickets on sale as an admin does, for a new event, and return the response."""
    path = f"/events/{make_event()}/ticket-types"
    usual = {"name": "Regular", "price": 2500, "quantity": 10}
    return lambda **fields: client.post(path, json=usual | fields, headers=admin.headers)


@pytest.fixture
def patch(client, admin):
    """Change a ticket type as an admin does, and return the response."""
    return lambda id, /, **fields: client.patch(f"/ticket-types/{id}", json=fields, headers=admin.headers)


@pytest.fixture
def available(client, context):
    """How many places the event shows to be left of a ticket type."""

    def left(id):
        path = f"/events/{db.session.get_one(TicketType, id).event_id}"
        return {found["id"]: found["available"] for found in client.get(path).get_json()["ticket_types"]}[id]

    return left


class TestPostTicketTypes:
    def test_puts_it_on_sale(self, app, post, context):
        app.config["CURRENCY"] = "KES"
        answer = post(name=" Regular ")
        body, made = answer.get_json(), db.session.scalars(db.select(TicketType)).one()
        assert (answer.status_code, set(body)) == (201, SHOWN)
        usual = {"id": made.id, "event_id": made.event_id, "name": "Regular", "price": 2500, "currency": "KES"}
        usual |= {"quantity": 10, "available": 10, "sales_start": None, "sales_end": None, "max_per_order": 10}
        assert body == usual

    @pytest.mark.parametrize("fields", EDGES)
    def test_takes_what_may_just_be(self, client, post, fields):
        body = post(**fields).get_json()
        assert body | fields == body
        assert client.get(f"/events/{body['event_id']}").get_json()["ticket_types"] == [body]

    def test_what_is_just_beyond_is_named(self, post, context):
        answers = [post(**fields) for fields in BEYOND]
        assert [list(answer.get_json()["message"]) for answer in answers] == [list(fields) for fields in BEYOND]
        assert db.session.scalars(db.select(TicketType)).all() == []

    def test_sales_end_after_they_start(self, post):
        time = shown(moment(days=1))
        answer = post(sales_start=time, sales_end=time)
        assert (answer.status_code, list(answer.get_json()["message"])) == (400, ["sales_end"])

    def test_unknown_event_is_404(self, client, admin):
        body = {"name": "Regular", "price": 2500, "quantity": 10}
        assert client.post("/events/2147483647/ticket-types", json=body, headers=admin.headers).status_code == 404


class TestPatchTicketType:
    def test_changes_only_what_is_sent(self, client, post, patch):
        before = post(sales_end=shown(moment(days=1))).get_json()
        answer = patch(before["id"], price=3000, event_id=7, sold=5, held=5, available=1)
        assert (answer.status_code, answer.get_json()) == (200, before | {"price": 3000})
        assert client.get(f"/events/{before['event_id']}").get_json()["ticket_types"] == [answer.get_json()]

    def test_changes_all(self, post, patch):
        fields = {"name": "Child", "price": 0, "quantity": 0, "max_per_order": 1}
        fields |= {"sales_start": shown(moment()), "sales_end": shown(moment(days=1))}
        answer = patch(post().get_json()["id"], **fields).get_json()
        assert answer | fields | {"available": 0} == answer

    def test_null_takes_the_limits_of_time_away(self, post, patch):
        id = post(sales_start=shown(moment()), sales_end=shown(moment(days=1))).get_json()["id"]
        answer = patch(id, sales_start=None, sales_end=None).get_json()
        assert (answer["sales_start"], answer["sales_end"]) == (None, None)

    @pytest.mark.parametrize("fields", [{"sales_start": shown(moment(days=3))}, {"sales_end": shown(moment(days=-3))}])
    def test_the_whole_must_be_valid(self, post, patch, context, fields):
        id = post(sales_start=shown(moment(days=-2)), sales_end=shown(moment(days=2))).get_json()["id"]
        answer = patch(id, **fields)
        assert (answer.status_code, list(answer.get_json()["message"])) == (400, ["sales_end"])
        assert db.session.get(TicketType, id).sales_end > moment()

    def test_not_below_what_is_sold_and_held(self, patch, buyer, make_ticket_type, place, pay, context):
        id = make_ticket_type()
        pay(place(buyer, id, 2).get_json()), place(buyer, id, 3)
        answer = patch(id, quantity=4)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "below_sold")
        assert db.session.get(TicketType, id).quantity == 10

    def test_down_to_what_is_sold_and_held(self, patch, buyer, make_ticket_type, place, pay):
        id = make_ticket_type()
        pay(place(buyer, id, 2).get_json()), place(buyer, id, 3)
        answer = patch(id, quantity=5).get_json()
        assert (answer["quantity"], answer["available"]) == (5, 0)

    def test_a_lapsed_hold_is_free(self, patch, buyer, make_ticket_type, place, lapse):
        id = make_ticket_type()
        place(buyer, id, 2)
        lapse(place(buyer, id, 3).get_json())
        assert patch(id, quantity=1).get_json()["reason"] == "below_sold"
        answer = patch(id, quantity=2).get_json()
        assert (answer["quantity"], answer["available"]) == (2, 0)

    def test_a_new_price_leaves_orders_as_they_are(self, client, patch, buyer, make_ticket_type, place):
        id = make_ticket_type()
        order = place(buyer, id).get_json()
        patch(id, price=9999, name="Dear")
        kept = client.get(f"/orders/{order['code']}", headers=buyer.headers).get_json()
        assert (kept["total"], kept["items"]) == (2500, order["items"])

    def test_unknown_one_is_404(self, patch):
        assert patch(2**31 - 1, quantity=1).status_code == 404


class TestDeleteTicketType:
    def test_is_gone(self, client, admin, make_ticket_type, context):
        id = make_ticket_type()
        answer = client.delete(f"/ticket-types/{id}", headers=admin.headers)
        assert (answer.status_code, answer.data) == (204, b"")
        assert db.session.scalars(db.select(TicketType)).all() == []

    @pytest.mark.parametrize("lapsed", [False, True])
    def test_stays_with_any_order(self, client, admin, make_ticket_type, buyer, place, lapse, context, lapsed):
        id = make_ticket_type()
        order = place(buyer, id).get_json()
        if lapsed:
            lapse(order)
        answer = client.delete(f"/ticket-types/{id}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")
        assert db.session.get(TicketType, id)

    def test_unknown_one_is_404(self, client, admin):
        assert client.delete("/ticket-types/2147483647", headers=admin.headers).status_code == 404


class TestAvailable:
    def test_is_what_is_neither_sold_nor_held(self, available, buyer, make_ticket_type, place, pay):
        id = make_ticket_type()
        pay(place(buyer, id, 2).get_json()), place(buyer, id, 3)
        assert available(id) == 5

    def test_counts_a_lapsed_hold_as_free(self, available, buyer, make_ticket_type, place, lapse, context):
        id = make_ticket_type()
        place(buyer, id, 2)
        lapse(place(buyer, id, 3).get_json())
        assert available(id) == 8
        assert db.session.get(TicketType, id).held == 5

    def test_of_one_type_is_not_of_another(self, available, buyer, make_event, make_ticket_type, place, lapse):
        event = make_event()
        id, other = make_ticket_type(event), make_ticket_type(event)
        lapse(place(buyer, id, 3).get_json())
        place(buyer, other, 4)
        assert (available(id), available(other)) == (10, 6)


class TestOnSale:
    @pytest.mark.parametrize(
        "start, end, status",
        [(None, None, 201), (-1, 1, 201), (1, None, 409), (1, 2, 409), (None, -1, 409), (-2, -1, 409)],
    )
    def test_from_sales_start_until_sales_end(self, make_ticket_type, buyer, place, start, end, status):
        times = {"sales_start": start and moment(hours=start), "sales_end": end and moment(hours=end)}
        answer = place(buyer, make_ticket_type(**times))
        assert (answer.status_code, answer.get_json().get("reason")) in [(201, None), (409, "sales_closed")]
        assert answer.status_code == status

    @pytest.mark.parametrize("over, sales_end, status", [(-1, None, 409), (-1, 1, 201), (1, None, 201)])
    def test_until_the_event_is_over_unless_said(
        self, make_event, make_ticket_type, buyer, place, over, sales_end, status
    ):
        id = make_event(starts_at=moment(hours=-3), ends_at=moment(hours=over))
        ticket_type = make_ticket_type(id, sales_end=sales_end and moment(hours=sales_end))
        assert place(buyer, ticket_type).status_code == status


class TestConstraints:
    @pytest.mark.parametrize(
        "values",
        [
            *({"price": -1}, {"price": 1_000_000_001}, {"quantity": -1}, {"quantity": 2_000_000_001}),
            *({"max_per_order": 0}, {"max_per_order": 1001}, {"sold": -1}, {"held": -1}, {"sold": 6, "held": 5}),
            *({"sold": 11}, {"held": 11}, {"sold": -1, "held": 1}, {"event_id": 2**31 - 1}),
            *({name: None} for name in ("event_id", "name", "price", "quantity", "sold", "held", "max_per_order")),
        ],
    )
    def test_database_refuses_a_bad_row(self, make_ticket_type, context, values):
        make_ticket_type()
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(TicketType).values(**values))
