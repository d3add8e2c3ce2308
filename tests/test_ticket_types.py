"""Ticket types: what is on sale, how much of it is left, and what can no longer be changed."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from models import Order, TicketType, db
from routes.selling.catalogue import SELECT_TICKET_TYPES

from .conftest import CAME_TO_NOTHING, COUNTS, ON_POSTGRESQL

SHOWN = {"id", "event_id", "name", "price", "currency", "quantity", "available"}
SHOWN |= {"hidden", "pool_id", "sales_start", "sales_end", "min_per_order", "max_per_order", "max_per_buyer", "state"}
EDGES = [
    *({"price": 0}, {"price": 1_000_000_000}, {"quantity": 0}, {"quantity": 2_000_000_000}),
    *({"max_per_order": 1}, {"max_per_order": 1000}, {"name": "é" * 100}),
    *({"min_per_order": 10}, {"min_per_order": 1000, "max_per_order": 1000}),
    *({"max_per_buyer": 1}, {"max_per_buyer": 2_000_000_000}, {"max_per_buyer": None}),
    {"price": 0, "max_per_buyer": None},
    *({"sales_start": "1970-01-01T00:00:00Z"}, {"sales_end": "9999-12-31T23:59:59Z"}),
]
BEYOND = [
    *({"price": -1}, {"price": 1_000_000_001}, {"price": 2**31}, {"price": 1.0}, {"price": True}),
    *({"quantity": -1}, {"quantity": 2_000_000_001}, {"quantity": 2**63 - 1}, {"quantity": 1e3}),
    *({"max_per_order": 0}, {"max_per_order": 1001}, {"name": "é" * 101}),
    *({"min_per_order": 0}, {"min_per_order": 11}, {"min_per_order": None}, {"max_per_order": None}),
    *({"max_per_buyer": 0}, {"max_per_buyer": 2_000_000_001}, {"max_per_buyer": 1.0}, {"max_per_buyer": "1"}),
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


class TestGetTicketTypes:
    def test_lists_those_of_the_event(self, client, make_event, make_ticket_type):
        event = make_event()
        make_ticket_type(event), make_ticket_type(), make_ticket_type(event)
        listed = client.get(f"/events/{event}/ticket-types").get_json()
        assert (len(listed), listed) == (2, client.get(f"/events/{event}").get_json()["ticket_types"])

    def test_comes_in_pages(self, client, make_event, make_ticket_type):
        event = make_event()
        made = [make_ticket_type(event) for _ in range(3)]
        first = client.get(f"/events/{event}/ticket-types?limit=2")
        second = client.get(first.headers["Link"].partition(">")[0][1:])
        assert [it["id"] for it in first.get_json() + second.get_json()] == made

    def test_unknown_event_is_404(self, client):
        assert client.get("/events/2147483647/ticket-types").status_code == 404


class TestGetTicketType:
    def test_anyone_finds_it_where_location_says(self, client, post):
        made = post()
        answer = client.get(made.headers["Location"])
        assert (answer.status_code, answer.get_json()) == (200, made.get_json())

    def test_unknown_one_is_404(self, client):
        assert client.get("/ticket-types/2147483647").status_code == 404


class TestState:
    @pytest.fixture
    def shown(self, client):
        """State and available, the same wherever the ticket type is shown."""

        def show(id):
            found = client.get(f"/ticket-types/{id}").get_json()
            assert client.get(f"/events/{found['event_id']}").get_json()["ticket_types"] == [found]
            assert client.get(f"/events/{found['event_id']}/ticket-types").get_json() == [found]
            return found["state"], found["available"]

        return show

    @pytest.mark.parametrize(
        "fields, expected",
        [
            ({}, ("on_sale", 10)),
            ({"quantity": 0}, ("sold_out", 0)),
            ({"sales_start": 1}, ("not_yet", 10)),
            ({"sales_start": 1, "quantity": 0}, ("not_yet", 0)),
            ({"sales_end": -1}, ("over", 0)),
            ({"sales_start": -2, "sales_end": -1, "quantity": 0}, ("over", 0)),
        ],
    )
    def test_is_the_first_that_holds(self, shown, make_ticket_type, fields, expected):
        times = {name: moment(hours=value) if "sales" in name else value for name, value in fields.items()}
        assert shown(make_ticket_type(**times)) == expected

    @pytest.mark.parametrize("sales_end", [None, 1])
    def test_is_over_with_the_event(self, shown, make_event, make_ticket_type, sales_end):
        id = make_event(starts_at=moment(hours=-3), ends_at=moment(hours=-1))
        assert shown(make_ticket_type(id, sales_end=sales_end and moment(hours=sales_end))) == ("over", 0)

    def test_canceled_goes_before_all(self, shown, make_event, make_ticket_type):
        id = make_event(status="canceled", starts_at=moment(hours=-3), ends_at=moment(hours=-1))
        assert shown(make_ticket_type(id, quantity=0)) == ("canceled", 0)

    def test_is_sold_out_while_all_are_held(self, shown, make_ticket_type, buyer, place, lapse):
        id = make_ticket_type(quantity=2)
        order = place(buyer, id, 2).get_json()
        assert shown(id) == ("sold_out", 0)
        lapse(order)
        assert shown(id) == ("on_sale", 2)

    def test_is_in_the_answer_to_a_change(self, patch, make_ticket_type):
        answer = patch(make_ticket_type(), sales_end=shown(moment(hours=-1)))
        assert (answer.get_json()["state"], answer.get_json()["available"]) == ("over", 0)


class TestPostTicketTypes:
    def test_puts_it_on_sale(self, post, context):
        answer = post(name=" Regular ")
        body, made = answer.get_json(), db.session.scalars(db.select(TicketType)).one()
        assert (answer.status_code, set(body)) == (201, SHOWN)
        usual = {"id": made.id, "event_id": made.event_id, "name": "Regular", "price": 2500, "currency": "USD"}
        usual |= {"quantity": 10, "available": 10, "state": "on_sale", "sales_start": None, "sales_end": None}
        usual |= {"min_per_order": 1, "max_per_order": 10, "max_per_buyer": None, "hidden": False, "pool_id": None}
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


class TestMaxPerBuyer:
    def test_of_what_costs_nothing_is_max_per_order_unless_said(self, post):
        assert post(price=0, max_per_order=4).get_json()["max_per_buyer"] == 4

    def test_of_what_costs_nothing_from_now_on_too(self, patch, make_ticket_type):
        assert patch(make_ticket_type(), price=0).get_json()["max_per_buyer"] == 10

    def test_stays_none_where_that_was_said(self, patch, make_ticket_type):
        assert patch(make_ticket_type(price=0, max_per_buyer=None), price=0).get_json()["max_per_buyer"] is None


class TestRulesVersion:
    @pytest.fixture
    def version(self, context):
        return lambda id: db.session.scalar(db.select(TicketType.rules_version).where(TicketType.id == id))

    @pytest.mark.parametrize(
        "change",
        [
            *({"price": 1}, {"quantity": 9}, {"sales_start": None}, {"sales_end": None}),
            *({"min_per_order": 2}, {"max_per_order": 2}, {"max_per_buyer": 2}),
        ],
    )
    def test_rises_with_what_it_is_sold_by(self, patch, make_ticket_type, version, change):
        id = make_ticket_type()
        before = version(id)
        patch(id, **change)
        assert version(id) == before + 1

    @pytest.mark.parametrize(
        "change", [{"status": "canceled"}, {"status": "draft"}, {"ends_at": shown(moment(days=9))}]
    )
    def test_of_all_its_types_rises_with_the_event(self, client, admin, make_event, make_ticket_type, version, change):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        before = [version(id) for id in ids]
        client.patch(f"/events/{event_id}", json=change, headers=admin.headers)
        assert [version(id) for id in ids] == [it + 1 for it in before]

    def test_stays_with_a_new_name(self, client, admin, make_event, make_ticket_type, version):
        event_id = make_event()
        id = make_ticket_type(event_id)
        before = version(id)
        for path in (f"/ticket-types/{id}", f"/events/{event_id}"):
            client.patch(path, json={"name": "Another"}, headers=admin.headers)
        assert version(id) == before


class TestDeleteTicketType:
    def test_is_gone(self, client, admin, make_ticket_type, context):
        id = make_ticket_type()
        answer = client.delete(f"/ticket-types/{id}", headers=admin.headers)
        assert (answer.status_code, answer.data) == (204, b"")
        assert db.session.scalars(db.select(TicketType)).all() == []

    @pytest.mark.parametrize("fate", COUNTS)
    def test_stays_with_an_order_that_counts(self, client, admin, make_ticket_type, ordered, context, fate):
        id = make_ticket_type()
        ordered(id, fate)
        answer = client.delete(f"/ticket-types/{id}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")
        assert db.session.get(TicketType, id)

    @pytest.mark.parametrize("fate", CAME_TO_NOTHING)
    def test_takes_along_orders_that_came_to_nothing(self, client, admin, make_ticket_type, ordered, context, fate):
        id = make_ticket_type()
        ordered(id, fate)
        assert client.delete(f"/ticket-types/{id}", headers=admin.headers).status_code == 204
        assert db.session.scalar(db.select(db.func.count(Order.id))) == 0

    def test_gives_back_what_a_lapsed_order_held_of_others(
        self, client, admin, place_lines, make_event, make_ticket_type, lapse, context
    ):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        lapse(place_lines(*((id, 1) for id in ids)).get_json())
        client.delete(f"/ticket-types/{ids[0]}", headers=admin.headers)
        assert db.session.scalars(db.select(TicketType.held)).all() == [0]

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

    @pytest.mark.parametrize("over, sales_end, status", [(-1, None, 409), (-1, 1, 409), (1, None, 201)])
    def test_until_the_event_is_over_whatever_is_said(
        self, make_event, make_ticket_type, buyer, place, over, sales_end, status
    ):
        id = make_event(starts_at=moment(hours=-3), ends_at=moment(hours=over))
        ticket_type = make_ticket_type(id, sales_end=sales_end and moment(hours=sales_end))
        assert place(buyer, ticket_type).status_code == status


@ON_POSTGRESQL
class TestPlan:
    def test_made_on_an_empty_table_reads_holds_by_their_index(self, make_ticket_type, context):
        make_ticket_type()
        with db.engine.connect() as connection:
            connection.execute(db.text("SET LOCAL enable_seqscan = off"))
            SELECT_TICKET_TYPES.execute(connection, {"id": 1})
            plan = connection.execute(db.text(f"EXPLAIN {SELECT_TICKET_TYPES.call}"), {"id": 1}).scalars().all()
        assert (
            re.findall(r"\w+_order\w+_\w+", "".join(plan)) == ["ix_orders_event_holds", "uq_order_items_order_id"] * 2
        )


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
