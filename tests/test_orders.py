"""Orders: placed, held, lapsed, listed, canceled and refunded."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from sqlalchemy.exc import IntegrityError

from models import Event, Order, OrderLine, Ticket, TicketType, db
from routes.http.paging import following
from routes.jobs.lapsing import lapse_in_steps
from routes.selling.inventory import check_inventory
from routes.selling.orders import order_list, search
from routes.selling.places import events_with_lapsed_orders

PAST, FUTURE = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
LARGEST_TOTAL = 1_000_000_000 * 1000 * 20


@pytest.fixture
def codes(client):
    """The codes in the list of orders that a user sees."""

    def read(viewer, **filters):
        listed = client.get("/orders", query_string=filters, headers=viewer.headers)
        return [order["code"] for order in listed.get_json()]

    return read


@pytest.fixture
def available(client):
    """How many places a visitor sees left of a ticket type."""

    def read(event_id, ticket_type_id):
        types = client.get(f"/events/{event_id}").get_json()["ticket_types"]
        return next(kind["available"] for kind in types if kind["id"] == ticket_type_id)

    return read


def refusal_in_full(response):
    """Status and body of a refusal, without the text for people."""
    return response.status_code, {name: value for name, value in response.get_json().items() if name != "message"}


def shown(time):
    return time and f"{time:%Y-%m-%dT%H:%M:%SZ}"


class TestOrderListPost:
    def test_answers_pending_order(self, place_lines, make_ticket_type):
        id = make_ticket_type(name="Regular")
        placed = place_lines((id, 2)).get_json()
        assert (placed["status"], placed["total"], placed["currency"]) == ("pending", 5000, "USD")
        line = {"ticket_type_id": id, "name": "Regular", "quantity": 2, "unit_price": 2500, "full_price": 2500}
        assert (placed["items"], placed["promo_code"]) == ([line], None)
        assert placed["tickets"] == placed["payments"] == []

    def test_is_found_where_location_says(self, client, place_lines, buyer, make_ticket_type):
        placed = place_lines((make_ticket_type(), 2))
        found = client.get(placed.headers["Location"], headers=buyer.headers)
        assert (placed.status_code, found.get_json()) == (201, placed.get_json())

    def test_code_is_128_bits_of_letters_and_digits(self, place_lines, make_ticket_type):
        assert re.fullmatch("[0-9A-F]{32}", place_lines((make_ticket_type(), 1)).get_json()["code"])

    def test_holds_its_places(self, place_lines, make_event, make_ticket_type, counters, available):
        event_id = make_event()
        id = make_ticket_type(event_id, quantity=10)
        place_lines((id, 3))
        assert (counters(id), available(event_id, id)) == ((0, 3), 7)

    @pytest.mark.parametrize("lines", [1, 2])
    def test_holds_for_as_long_as_configured(self, app, place_lines, make_event, make_ticket_type, lines):
        app.config["ORDER_HOLD_SECONDS"] = 77
        event_id = make_event()
        placed = place_lines(*((make_ticket_type(event_id), 1) for _ in range(lines))).get_json()
        times = (datetime.fromisoformat(placed[name]) for name in ("expires_at", "created_at"))
        assert next(times) - next(times) in (timedelta(seconds=77), timedelta(seconds=78))

    @pytest.mark.parametrize("price", [0, 2500])
    @pytest.mark.parametrize("lines", [1, 2])
    def test_is_in_the_currency_of_its_event(self, app, place_lines, make_event, make_ticket_type, lines, price):
        event_id = make_event(currency="EUR")
        app.config["CURRENCY"] = "JPY"
        placed = place_lines(*((make_ticket_type(event_id, price=price), 1) for _ in range(lines))).get_json()
        assert placed["currency"] == "EUR"

    @pytest.mark.parametrize("price", [0, 2500])
    @pytest.mark.parametrize("lines", [1, 2])
    def test_shows_its_event_and_its_buyer(
        self, client, place_lines, buyer, make_event, make_ticket_type, lines, price
    ):
        event_id = make_event(time_zone="Asia/Tokyo")
        placed = place_lines(*((make_ticket_type(event_id, price=price), 1) for _ in range(lines))).get_json()
        event = client.get(f"/events/{event_id}").get_json()
        shown = ("id", "name", "venue", "starts_at", "ends_at", "time_zone", "status")
        assert placed["event"] == {name: event[name] for name in shown}
        assert placed["buyer"] == {"id": buyer.id, "name": "Somebody", "email": buyer.email}
        assert placed["attention"] == []

    def test_takes_the_last_places(self, place_lines, make_ticket_type, counters):
        id = make_ticket_type(quantity=3)
        assert place_lines((id, 3)).status_code == 201
        assert counters(id) == (0, 3)

    def test_basket_holds_places_of_each_type(self, place_lines, make_event, make_ticket_type, counters):
        event_id = make_event()
        ids = [make_ticket_type(event_id, price=price) for price in (100, 200)]
        assert place_lines((ids[1], 2), (ids[0], 1)).get_json()["total"] == 500
        assert [counters(id) for id in ids] == [(0, 1), (0, 2)]

    def test_lines_of_one_type_are_one_item(self, place_lines, make_ticket_type, counters):
        id = make_ticket_type()
        placed = place_lines((id, 1), (id, 2)).get_json()
        assert [(item["ticket_type_id"], item["quantity"]) for item in placed["items"]] == [(id, 3)]
        assert counters(id) == (0, 3)

    def test_lines_of_one_type_count_together(self, place_lines, make_ticket_type):
        id = make_ticket_type(max_per_order=2)
        assert refusal_in_full(place_lines((id, 1), (id, 2)))[1]["reason"] == "max_per_order"

    def test_price_is_never_the_clients(self, client, buyer, make_ticket_type):
        line = {"ticket_type_id": make_ticket_type(price=2500), "quantity": 1, "unit_price": 1, "price": 1}
        sent = {"items": [line], "total": 1, "status": "paid", "currency": "XXX", "code": "A" * 32}
        placed = client.post("/orders", json=sent, headers=buyer.headers).get_json()
        assert (placed["total"], placed["items"][0]["unit_price"], placed["currency"]) == (2500, 2500, "USD")
        assert placed["status"] == "pending" and placed["code"] != "A" * 32

    def test_price_and_name_are_frozen(self, client, admin, place_lines, get_order, make_ticket_type):
        id = make_ticket_type(price=2500, name="Early")
        placed = place_lines((id, 2)).get_json()
        client.patch(f"/ticket-types/{id}", json={"price": 9900, "name": "Late"}, headers=admin.headers)
        assert get_order(placed) == placed

    def test_price_as_it_is_now(self, client, admin, place_lines, make_ticket_type):
        id = make_ticket_type(price=2500)
        client.patch(f"/ticket-types/{id}", json={"price": 9900}, headers=admin.headers)
        assert place_lines((id, 2)).get_json()["total"] == 19800

    def test_twenty_lines_are_taken(self, place_lines, make_event, make_ticket_type):
        event_id = make_event()
        placed = place_lines(*((make_ticket_type(event_id), 1) for _ in range(20)))
        assert (placed.status_code, len(placed.get_json()["items"])) == (201, 20)

    def test_largest_total_is_paid_and_counted(
        self, app, client, admin, place_lines, pay, make_event, make_ticket_type
    ):
        app.config["MAX_TICKETS_PER_ORDER"] = 20_000
        event_id = make_event()
        types = {"price": 1_000_000_000, "quantity": 2_000_000_000, "max_per_order": 1000}
        placed = place_lines(*((make_ticket_type(event_id, **types), 1000) for _ in range(20))).get_json()
        paid = pay(placed).get_json()
        sales = client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()
        assert placed["total"] == paid["amount"] == LARGEST_TOTAL
        assert (sales["total"]["revenue"], sales["total"]["sold"]) == (LARGEST_TOTAL, 20_000)

    def test_total_of_one_type_is_no_small_integer_either(self, place_lines, make_ticket_type):
        dear = make_ticket_type(price=1_000_000_000)
        assert place_lines((dear, 10)).get_json()["total"] == 10**10

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_everybody_who_is_signed_in_may_buy(self, place_lines, make_user, make_ticket_type, role):
        assert place_lines((make_ticket_type(), 1), user=make_user(role)).status_code == 201

    @pytest.mark.parametrize(
        "items",
        [
            None,
            [],
            {},
            "1",
            1,
            [None],
            [[]],
            ["1"],
            [{}],
            [{"quantity": 1}],
            [{"ticket_type_id": 1}],
            *([{"ticket_type_id": 1, "quantity": wrong}] for wrong in (0, -1, 1.0, True, "1", None, [], 2**31)),
            *([{"ticket_type_id": wrong, "quantity": 1}] for wrong in (0, -1, 1.0, True, "1", None, {}, 2**31)),
            [{"ticket_type_id": 1, "quantity": 1}] * 21,
        ],
    )
    def test_bad_items_are_refused(self, client, buyer, items):
        response = client.post("/orders", json={"items": items}, headers=buyer.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["items"])

    def test_no_items_are_refused(self, client, buyer):
        response = client.post("/orders", json={}, headers=buyer.headers)
        assert response.get_json() == {"message": {"items": "This field is required"}}

    def test_two_events_are_refused(self, place_lines, make_ticket_type, count_rows):
        response = place_lines((make_ticket_type(), 1), (make_ticket_type(), 1))
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["items"])
        assert count_rows(Order) == 0

    def test_unknown_ticket_type_is_not_found(self, place_lines, make_ticket_type):
        assert place_lines((make_ticket_type() + 1, 1)).status_code == 404

    def test_one_unknown_ticket_type_keeps_nothing(self, place_lines, make_ticket_type, counters, count_rows):
        id = make_ticket_type()
        assert place_lines((id, 1), (id + 1, 1)).status_code == 404
        assert (counters(id), count_rows(Order)) == ((0, 0), 0)

    def test_ticket_type_of_a_draft_is_not_found(self, place_lines, make_event, make_ticket_type):
        assert place_lines((make_ticket_type(make_event(status="draft")), 1)).status_code == 404

    @pytest.mark.parametrize("left", [0, 1])
    def test_sold_out(self, place_lines, make_ticket_type, counters, count_rows, left):
        id = make_ticket_type(quantity=2 + left)
        place_lines((id, 2))
        facts = {"reason": "sold_out", "ticket_type_id": id, "available": left}
        assert refusal_in_full(place_lines((id, left + 1))) == (409, facts)
        assert (counters(id), count_rows(Order), count_rows(OrderLine)) == ((0, 2), 1, 1)

    @pytest.mark.parametrize("scarce", [0, 1])
    def test_sold_out_line_keeps_nothing(self, place_lines, make_event, make_ticket_type, counters, count_rows, scarce):
        event_id = make_event()
        ids = [make_ticket_type(event_id, quantity=1 if scarce == place else 10) for place in range(2)]
        facts = {"reason": "sold_out", "ticket_type_id": ids[scarce], "available": 1}
        assert refusal_in_full(place_lines((ids[0], 2), (ids[1], 2))) == (409, facts)
        assert ([counters(id) for id in ids], count_rows(Order), count_rows(OrderLine)) == ([(0, 0), (0, 0)], 0, 0)

    @pytest.mark.parametrize(
        ("event_times", "type_times"),
        [
            ({}, {"sales_start": FUTURE}),
            ({}, {"sales_end": PAST}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {"sales_start": PAST - timedelta(9)}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {"sales_end": FUTURE}),
        ],
    )
    def test_sales_closed(self, place_lines, make_event, make_ticket_type, counters, event_times, type_times):
        id = make_ticket_type(make_event(**event_times), **type_times)
        times = {name: shown(type_times.get(name)) for name in ("sales_start", "sales_end")}
        assert refusal_in_full(place_lines((id, 1))) == (409, {"reason": "sales_closed", "ticket_type_id": id, **times})
        assert counters(id) == (0, 0)

    @pytest.mark.parametrize(
        ("event_times", "type_times"),
        [
            ({"starts_at": PAST, "ends_at": FUTURE}, {}),
            ({}, {"sales_start": PAST, "sales_end": FUTURE}),
        ],
    )
    def test_sales_open(self, place_lines, make_event, make_ticket_type, event_times, type_times):
        assert place_lines((make_ticket_type(make_event(**event_times), **type_times), 1)).status_code == 201

    def test_canceled_event_is_not_on_sale(self, place_lines, make_event, make_ticket_type, cancel_event):
        event_id = make_event()
        id = make_ticket_type(event_id)
        cancel_event(event_id)
        assert refusal_in_full(place_lines((id, 1))) == (409, {"reason": "not_on_sale", "ticket_type_id": id})

    @pytest.mark.parametrize("quantity", [3, 2**31 - 1])
    def test_max_per_order(self, place_lines, make_ticket_type, counters, quantity):
        id = make_ticket_type(max_per_order=2, quantity=2_000_000_000)
        facts = {"reason": "max_per_order", "ticket_type_id": id, "max_per_order": 2}
        assert refusal_in_full(place_lines((id, quantity))) == (409, facts)
        assert counters(id) == (0, 0)

    def test_max_per_order_of_more_than_any_integer(self, place_lines, make_ticket_type):
        id = make_ticket_type(quantity=2_000_000_000)
        assert refusal_in_full(place_lines(*[(id, 2**31 - 1)] * 20))[1]["reason"] == "max_per_order"

    @pytest.mark.parametrize("lines", [1, 2])
    def test_too_many_pending(self, app, place_lines, make_event, make_ticket_type, count_rows, lines):
        app.config["MAX_PENDING_ORDERS"] = 2
        event_id = make_event()
        basket = [(make_ticket_type(event_id), 1) for _ in range(lines)]
        assert [place_lines(*basket).status_code for _ in range(2)] == [201, 201]
        assert refusal_in_full(place_lines(*basket)) == (409, {"reason": "too_many_pending", "max_pending_orders": 2})
        assert count_rows(Order) == 2

    def test_pending_orders_of_others_do_not_count(self, app, place_lines, make_user, make_ticket_type):
        app.config["MAX_PENDING_ORDERS"] = 1
        id = make_ticket_type()
        assert [place_lines((id, 1), user=make_user()).status_code for _ in range(2)] == [201, 201]

    @pytest.mark.parametrize("end", ["pay", "cancel", "lapse"])
    def test_orders_no_longer_pending_do_not_count(self, request, app, place_lines, make_ticket_type, end):
        app.config["MAX_PENDING_ORDERS"] = 1
        id = make_ticket_type()
        request.getfixturevalue(end)(place_lines((id, 1)).get_json())
        assert place_lines((id, 1)).status_code == 201


class TestFreeOrder:
    def test_is_paid_at_once(self, place_lines, make_ticket_type, counters):
        id = make_ticket_type(price=0)
        placed = place_lines((id, 2)).get_json()
        assert (placed["status"], placed["total"], placed["payments"]) == ("paid", 0, [])
        assert [ticket["status"] for ticket in placed["tickets"]] == ["valid", "valid"]
        assert counters(id) == (2, 0)

    def test_is_refunded_without_a_payment(self, place_lines, refund, make_ticket_type, counters):
        id = make_ticket_type(price=0)
        refunded = refund(place_lines((id, 2)).get_json()).get_json()
        assert (refunded["status"], refunded["payments"]) == ("refunded", [])
        assert counters(id) == (0, 0)

    def test_is_not_counted_as_pending(self, app, place_lines, make_ticket_type):
        app.config["MAX_PENDING_ORDERS"] = 1
        place_lines((make_ticket_type(), 1))
        assert place_lines((make_ticket_type(price=0), 1)).status_code == 201

    def test_is_sold_out_like_any_other(self, place_lines, make_ticket_type, count_rows):
        id = make_ticket_type(price=0, quantity=1)
        facts = {"reason": "sold_out", "ticket_type_id": id, "available": 1}
        assert refusal_in_full(place_lines((id, 2))) == (409, facts)
        assert (count_rows(Order), count_rows(Ticket)) == (0, 0)

    def test_gets_places_of_lapsed_free_and_paid_baskets(self, place_lines, lapse, make_event, make_ticket_type):
        event_id = make_event()
        free, priced = make_ticket_type(event_id, price=0, quantity=1), make_ticket_type(event_id)
        lapse(place_lines((free, 1), (priced, 1)).get_json())
        assert place_lines((free, 1)).get_json()["status"] == "paid"

    def test_free_ticket_beside_a_priced_one_is_held(self, place_lines, make_event, make_ticket_type, counters):
        event_id = make_event()
        free, priced = make_ticket_type(event_id, price=0), make_ticket_type(event_id, price=2500)
        placed = place_lines((free, 1), (priced, 1)).get_json()
        assert (placed["status"], placed["total"], placed["tickets"]) == ("pending", 2500, [])
        assert counters(free) == (0, 1)


class TestLapsedOrder:
    """With nothing running but the server."""

    @pytest.fixture
    def event_id(self, make_event):
        return make_event()

    @pytest.fixture
    def id(self, event_id, make_ticket_type):
        return make_ticket_type(event_id, quantity=3)

    @pytest.fixture
    def lapsed(self, place_lines, lapse, id):
        placed = place_lines((id, 3)).get_json()
        lapse(placed)
        return placed

    def test_is_pending_until_then(self, place_lines, get_order, id):
        assert get_order(place_lines((id, 3)).get_json())["status"] == "pending"

    def test_shows_as_expired(self, get_order, lapsed):
        assert get_order(lapsed) == {**lapsed, "status": "expired", "expires_at": get_order(lapsed)["expires_at"]}

    def test_is_listed_as_expired(self, client, buyer, lapsed):
        [listed] = client.get("/orders", headers=buyer.headers).get_json()
        assert listed["status"] == "expired"

    @pytest.mark.parametrize("written", [False, True])
    def test_is_filtered_as_expired(self, app, admin, codes, lapsed, written):
        if written:
            with app.app_context():
                for event_id in events_with_lapsed_orders():
                    lapse_in_steps(event_id)
                db.session.commit()
        assert codes(admin, status="expired") == [lapsed["code"]]
        assert codes(admin, status="pending") == []

    def test_its_places_are_available(self, available, event_id, id, lapsed):
        assert available(event_id, id) == 3

    def test_its_places_are_in_the_list_of_sales(self, client, admin, event_id, lapsed):
        sales = client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()
        assert (sales["total"]["held"], sales["total"]["available"]) == (0, 3)

    def test_next_buyer_gets_its_places(self, place_lines, make_user, counters, id, lapsed):
        assert place_lines((id, 3), user=make_user()).status_code == 201
        assert counters(id) == (0, 3)

    def test_next_buyer_of_a_basket_gets_its_places(self, place_lines, event_id, make_ticket_type, id, lapsed):
        assert place_lines((make_ticket_type(event_id), 1), (id, 3)).status_code == 201

    def test_is_written_down_when_its_places_are_needed(self, context, place_lines, id, lapsed):
        place_lines((id, 1))
        assert db.session.scalar(db.select(Order.state).where(Order.code == lapsed["code"])) == "expired"
        assert check_inventory() == []

    def test_sold_out_says_what_lapsed_holds_leave(self, place_lines, make_user, id, lapsed):
        place_lines((id, 2), user=make_user())
        assert refusal_in_full(place_lines((id, 2)))[1]["available"] == 1

    def test_only_the_lapsed_hold_is_let_go(self, place_lines, lapse, id, counters):
        first, second = place_lines((id, 1)).get_json(), place_lines((id, 2)).get_json()
        lapse(first)
        assert (place_lines((id, 1)).status_code, place_lines((id, 1)).status_code) == (201, 409)
        assert second["status"] == "pending"

    def test_can_not_be_canceled(self, cancel, lapsed, counters, id):
        assert refusal_in_full(cancel(lapsed)) == (409, {"reason": "not_pending", "status": "expired"})
        assert counters(id) == (0, 3)

    def test_can_not_be_refunded(self, refund, lapsed):
        assert refusal_in_full(refund(lapsed)) == (409, {"reason": "not_paid", "status": "expired"})

    def test_paid_order_does_not_lapse(self, place_lines, pay, lapse, get_order, id):
        paid = place_lines((id, 3)).get_json()
        pay(paid)
        lapse(paid)
        assert get_order(paid)["status"] == "paid"
        assert place_lines((id, 1)).status_code == 409


class TestOrderListGet:
    def test_shows_own_orders_newest_first(self, place_lines, buyer, codes, make_ticket_type):
        id = make_ticket_type()
        placed = [place_lines((id, 1)).get_json()["code"] for _ in range(3)]
        assert codes(buyer) == placed[::-1]

    def test_shows_what_the_order_shows(self, client, buyer, paid_order):
        assert client.get("/orders", headers=buyer.headers).get_json() == [paid_order]

    def test_shows_nobody_elses(self, codes, make_user, paid_order):
        assert codes(make_user()) == []

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_shows_all_to_those_who_work_here(self, place_lines, codes, make_user, make_ticket_type, role):
        id = make_ticket_type()
        placed = [place_lines((id, 1), user=make_user()).get_json()["code"] for _ in range(2)]
        assert codes(make_user(role)) == placed[::-1]

    def test_says_to_those_who_work_here_who_took_the_payments(self, client, staff, paid_order):
        [order] = client.get("/orders", headers=staff.headers).get_json()
        assert [payment["by"]["id"] for payment in order["payments"]] == [staff.id]

    @pytest.mark.parametrize("role", ["user", "staff", "admin"])
    def test_everybody_filters_by_event(self, make_user, place_lines, codes, make_event, make_ticket_type, role):
        event_id, user = make_event(), make_user(role)
        wanted, _ = (
            place_lines((id, 1), user=user).get_json() for id in (make_ticket_type(event_id), make_ticket_type())
        )
        assert codes(user, event=event_id) == [wanted["code"]]

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_those_who_work_here_filter_by_user(self, place_lines, codes, make_user, make_ticket_type, role):
        id, somebody = make_ticket_type(), make_user()
        wanted, _ = (place_lines((id, 1), user=user).get_json() for user in (somebody, make_user()))
        assert codes(make_user(role), user=somebody.id) == [wanted["code"]]

    @pytest.mark.parametrize("who", ["buyer", "staff"])
    @pytest.mark.parametrize("status", ["pending", "paid", "canceled", "refunded"])
    def test_everybody_filters_by_status(
        self, request, place_lines, pay, cancel, refund, codes, make_ticket_type, status, who
    ):
        viewer = request.getfixturevalue(who)
        id = make_ticket_type()
        orders = {name: place_lines((id, 1)).get_json() for name in ("pending", "paid", "canceled", "refunded")}
        pay(orders["paid"])
        cancel(orders["canceled"])
        pay(orders["refunded"])
        refund(orders["refunded"])
        assert codes(viewer, status=status) == [orders[status]["code"]]

    def test_filters_narrow_together(self, admin, buyer, codes, make_user, paid_order):
        assert codes(admin, user=buyer.id, status="paid") == [paid_order["code"]]
        assert codes(admin, user=buyer.id, status="pending") == []

    @pytest.mark.parametrize("filters", [{"user": 0}, {"user": "x"}, {"q": "nobody"}, {"q": ""}])
    def test_filters_of_those_who_work_here_are_ignored_from_others(self, buyer, codes, paid_order, filters):
        assert codes(buyer, **filters) == [paid_order["code"]]

    @pytest.mark.parametrize("filters", ["user", "q", "event"])
    def test_filter_does_not_open_anothers_list(self, buyer, codes, make_user, paid_order, filters):
        values = {"user": buyer.id, "q": paid_order["code"], "event": paid_order["event"]["id"]}
        assert codes(make_user(), **{filters: values[filters]}) == []

    @pytest.mark.parametrize("wrong", ["event=x", "event=-1", "user=1.5", "status=lost", "limit=0", "after=x", "q=%20"])
    def test_bad_filters_are_refused(self, client, admin, wrong):
        response = client.get(f"/orders?{wrong}", headers=admin.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, [wrong.partition("=")[0]])

    def test_comes_in_pages(self, client, admin, place_lines, make_ticket_type):
        id = make_ticket_type()
        placed = [place_lines((id, 1)).get_json()["code"] for _ in range(3)]
        seen, url = [], "/orders?limit=2&status=pending"
        while url:
            response = client.get(url, headers=admin.headers)
            seen.append([found["code"] for found in response.get_json()])
            url = response.headers["Link"].split(">")[0].strip("<") if "Link" in response.headers else None
        assert seen == [[placed[2], placed[1]], [placed[0]]]

    def test_takes_as_many_statements_for_many_as_for_one(
        self, client, buyer, place_lines, pay, make_ticket_type, statements
    ):
        def listing(limit):
            return len(statements(lambda: client.get(f"/orders?limit={limit}", headers=buyer.headers)))

        for quantity in (1, 2, 3):
            pay(place_lines((make_ticket_type(), quantity)).get_json())
        assert listing(1) == listing(3) == len(["the token", "orders", "items", "payments", "refunds", "tickets"])


class TestOrderSearch:
    """`q`: the start of a code, of the buyer's name or of his address."""

    @pytest.fixture
    def sold(self, place_lines, make_user, make_ticket_type):
        """The codes of three orders, by the first name of each buyer."""
        id = make_ticket_type()
        people = {"Ann Lee": "anna@example.com", "Ärger_Bo": "bo%x@example.com", "Cy": "c@d.org"}
        buyers = {name[:2]: make_user(name=name, email=email) for name, email in people.items()}
        return {name: place_lines((id, 1), user=user).get_json()["code"] for name, user in buyers.items()}

    @pytest.mark.parametrize(
        ("q", "found"),
        [
            ("ann", ["An"]),
            ("ANN LEE", ["An"]),
            ("anna@", ["An"]),
            ("Lee", []),
            ("ärger", ["Är"]),
            ("A\u0308RGER_", ["Är"]),
            ("bo%", ["Är"]),
            ("%", []),
            ("_", []),
            ("cy", ["Cy"]),
            ("C@D.ORG", ["Cy"]),
            ("c@d.orgs", []),
            ("'", []),
        ],
    )
    def test_finds_by_name_and_address(self, staff, sold, codes, q, found):
        assert codes(staff, q=q) == [sold[name] for name in found]

    @pytest.mark.parametrize("spell", [str, str.lower, lambda code: f" {code[:4]}-{code[4:]}", lambda code: code[:10]])
    def test_finds_by_the_start_of_a_code(self, staff, sold, codes, spell):
        assert codes(staff, q=spell(sold["An"])) == [sold["An"]]

    def test_finds_nothing_by_the_end_of_a_code(self, staff, sold, codes):
        assert codes(staff, q=sold["An"][8:]) == codes(staff, q=sold["An"] + "0") == []

    def test_finds_a_changed_name(self, client, staff, sold, codes, place_lines, make_user, make_ticket_type):
        user = make_user(name="Dora")
        code = place_lines((make_ticket_type(), 1), user=user).get_json()["code"]
        client.patch("/me", json={"name": "Xenia"}, headers=user.headers)
        assert (codes(staff, q="dora"), codes(staff, q="xenia")) == ([], [code])

    def test_narrows_with_other_filters(self, staff, sold, codes):
        assert (codes(staff, q="ann", status="pending"), codes(staff, q="ann", status="paid")) == ([sold["An"]], [])

    def test_comes_in_pages(self, client, staff, place_lines, make_user, make_ticket_type):
        id, user = make_ticket_type(), make_user(name="Ann")
        placed = [place_lines((id, 1), user=user).get_json()["code"] for _ in range(3)]
        first = client.get("/orders?q=ann&limit=2", headers=staff.headers)
        second = client.get(first.headers["Link"].split(">")[0].strip("<"), headers=staff.headers)
        assert [it["code"] for it in first.get_json() + second.get_json()] == placed[::-1]

    def test_is_no_statement_more(self, client, staff, sold, statements):
        def listing(query):
            return len(statements(lambda: client.get(f"/orders{query}", headers=staff.headers)))

        assert listing("?q=ann&status=pending") == listing("")

    @pytest.mark.parametrize("filters", [{"q": "ann"}, {"q": "A1"}, {"event": 1}, {"status": "refunded"}, {"user": 1}])
    def test_reads_no_table_whole(self, tables_read_whole, filters):
        values = filters | (search(filters["q"]) if "q" in filters else {}) | {"limit": 51}
        status = values.pop("status", None)
        query = order_list(frozenset(filters) - {"status"}, status)
        assert tables_read_whole(following(query, (Order.id,), False, True), values) == []


class TestTicketsOfOnePage:
    @pytest.fixture
    def pages(self, client, buyer):
        """How many tickets the orders on each page of a list have."""

        def read(**filters):
            url, found = "/orders?" + urlencode(filters), []
            while url:
                answer = client.get(url, headers=buyer.headers)
                found.append([len(order["tickets"]) for order in answer.get_json()])
                url = answer.headers["Link"].split(">")[0].strip("<") if "Link" in answer.headers else None
            return found

        return read

    @pytest.mark.parametrize(
        ("quantities", "limit", "pages_of"),
        [
            ([120, 100, 100], 50, [[100, 100], [120]]),
            ([1, 200, 1], 50, [[1], [200], [1]]),
            ([1, 1, 1], 2, [[1, 1], [1]]),
        ],
    )
    def test_are_bounded(self, app, place_lines, make_ticket_type, pages, quantities, limit, pages_of):
        app.config["MAX_TICKETS_PER_ORDER"] = 2000
        id = make_ticket_type(price=0, quantity=5000, max_per_order=1000, max_per_buyer=None)
        for quantity in quantities:
            place_lines((id, quantity))
        assert pages(limit=limit) == pages_of

    def test_link_keeps_the_limit(self, app, client, place_lines, buyer, make_ticket_type):
        id = make_ticket_type(price=0, quantity=5000, max_per_order=1000, max_per_buyer=None)
        app.config["MAX_TICKETS_PER_ORDER"] = 1000
        place_lines((id, 1000)), place_lines((id, 1))
        assert "limit=7&" in client.get("/orders?limit=7", headers=buyer.headers).headers["Link"]


class TestOrderGet:
    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_staff_and_admins_see_every_order(self, get_order, make_user, staff, paid_order, role):
        [payment] = paid_order["payments"]
        payment["by"] = {"id": staff.id, "name": "Somebody"}
        assert get_order(paid_order, user=make_user(role)) == paid_order

    def test_shows_tickets_and_payments(self, paid_order):
        [payment] = paid_order["payments"]
        assert (payment["status"], payment["amount"]) == ("confirmed", 5000)
        assert [ticket["ticket_type"]["name"] for ticket in paid_order["tickets"]] == ["Regular", "Regular"]

    def test_shows_nothing_inside(self, paid_order):
        assert set(paid_order) == {
            *("code", "status", "items", "total", "currency", "event", "buyer"),
            *("promo_code", "created_at", "expires_at", "tickets", "payments", "attention"),
        }

    def test_its_tickets_say_their_event_and_order(self, paid_order):
        assert [(it["event"], it["order"]) for it in paid_order["tickets"]] == [
            (paid_order["event"], paid_order["code"])
        ] * 2

    def test_says_that_its_event_is_canceled(self, get_order, paid_order, cancel_event):
        cancel_event(paid_order["event"]["id"])
        shown = get_order(paid_order)
        assert {it["event"]["status"] for it in (shown, *shown["tickets"])} == {"canceled"}

    def test_anothers_is_not_there(self, client, make_user, paid_order):
        response = client.get(f"/orders/{paid_order['code']}", headers=make_user().headers)
        assert response.status_code == 404

    @pytest.mark.parametrize("code", ["0" * 32, "1", "F" * 33, "%00", "f" * 32, "Ä" * 32])
    def test_no_code_is_not_there(self, client, admin, code):
        assert client.get(f"/orders/{code}", headers=admin.headers).status_code == 404

    def test_takes_as_many_statements_for_many_tickets_as_for_one(
        self, client, buyer, place_lines, pay, make_ticket_type, statements
    ):
        def reading(quantity):
            placed = place_lines((make_ticket_type(), quantity)).get_json()
            pay(placed)
            return len(statements(lambda: client.get(f"/orders/{placed['code']}", headers=buyer.headers)))

        assert reading(1) == reading(5)


class TestOrderCancellation:
    @pytest.fixture
    def id(self, make_ticket_type):
        return make_ticket_type()

    @pytest.fixture
    def placed(self, place_lines, id):
        return place_lines((id, 2)).get_json()

    @pytest.mark.parametrize("who", ["buyer", "staff", "admin"])
    def test_cancels(self, request, cancel, placed, counters, id, who):
        response = cancel(placed, user=request.getfixturevalue(who))
        assert (response.status_code, response.get_json()) == (200, {**placed, "status": "canceled"})
        assert counters(id) == (0, 0)

    def test_staff_cancel_their_own(self, cancel, place_lines, staff, id):
        assert cancel(place_lines((id, 1), user=staff).get_json(), user=staff).status_code == 200

    def test_anothers_is_not_there(self, cancel, get_order, make_user, placed):
        assert cancel(placed, user=make_user()).status_code == 404
        assert get_order(placed)["status"] == "pending"

    def test_unknown_order_is_not_there(self, cancel):
        assert cancel({"code": "0" * 32}).status_code == 404

    def test_basket_gives_back_places_of_each_type(self, cancel, place_lines, make_event, make_ticket_type, counters):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        cancel(place_lines((ids[0], 1), (ids[1], 2)).get_json())
        assert [counters(id) for id in ids] == [(0, 0), (0, 0)]

    def test_canceled_order_gives_nothing_back_again(self, cancel, placed, counters, id):
        cancel(placed)
        assert refusal_in_full(cancel(placed)) == (409, {"reason": "not_pending", "status": "canceled"})
        assert counters(id) == (0, 0)

    def test_paid_order_stays(self, cancel, paid_order, get_order):
        assert refusal_in_full(cancel(paid_order)) == (409, {"reason": "not_pending", "status": "paid"})
        assert get_order(paid_order) == paid_order

    def test_refunded_order_stays(self, cancel, refund, paid_order):
        refund(paid_order)
        assert refusal_in_full(cancel(paid_order)) == (409, {"reason": "not_pending", "status": "refunded"})

    def test_order_of_a_canceled_event_can_be_canceled(self, app, cancel, cancel_event, placed, counters, id):
        with app.app_context():
            cancel_event(db.session.scalar(db.select(Event.id)))
        assert cancel(placed).status_code == 200
        assert counters(id) == (0, 0)


class TestOrderRefund:
    @pytest.fixture
    def id(self, paid_order):
        return paid_order["items"][0]["ticket_type_id"]

    def test_refunds(self, refund, paid_order, counters, id):
        response = refund(paid_order)
        refunded = response.get_json()
        assert (response.status_code, refunded["status"]) == (200, "refunded")
        assert [payment["status"] for payment in refunded["payments"]] == ["refunded"]
        assert [ticket["status"] for ticket in refunded["tickets"]] == ["void", "void"]
        assert counters(id) == (0, 0)

    def test_is_kept(self, refund, get_order, admin, paid_order):
        assert refund(paid_order).get_json() == get_order(paid_order, user=admin)

    def test_places_are_sold_again(self, refund, place_lines, pay, make_ticket_type):
        id = make_ticket_type(quantity=2)
        paid = place_lines((id, 2)).get_json()
        pay(paid)
        refund(paid)
        assert place_lines((id, 2)).status_code == 201

    @pytest.mark.parametrize("who", ["buyer", "staff"])
    def test_is_for_admins(self, request, refund, get_order, paid_order, who):
        assert refund(paid_order, user=request.getfixturevalue(who)).status_code == 403
        assert get_order(paid_order) == paid_order

    def test_unknown_order_is_not_there(self, refund):
        assert refund({"code": "0" * 32}).status_code == 404

    def test_second_time_is_refused(self, refund, paid_order, counters, id):
        refund(paid_order)
        assert refusal_in_full(refund(paid_order)) == (409, {"reason": "not_paid", "status": "refunded"})
        assert counters(id) == (0, 0)

    def test_pending_order_stays(self, refund, get_order, place_lines, make_ticket_type):
        placed = place_lines((make_ticket_type(), 1)).get_json()
        assert refusal_in_full(refund(placed)) == (409, {"reason": "not_paid", "status": "pending"})
        assert get_order(placed) == placed

    def test_canceled_order_stays(self, cancel, refund, place_lines, make_ticket_type):
        placed = place_lines((make_ticket_type(), 1)).get_json()
        cancel(placed)
        assert refusal_in_full(refund(placed)) == (409, {"reason": "not_paid", "status": "canceled"})

    def test_nothing_is_refunded_while_somebody_is_inside(self, refund, get_order, paid_order, counters, id, check_in):
        code = paid_order["tickets"][0]["code"]
        check_in(code)
        assert refusal_in_full(refund(paid_order)) == (409, {"reason": "checked_in", "tickets": [code]})
        after = get_order(paid_order)
        assert (after["status"], after["payments"]) == ("paid", paid_order["payments"])
        assert sorted(ticket["status"] for ticket in after["tickets"]) == ["used", "valid"]
        assert counters(id) == (2, 0)

    def test_check_in_undone_can_be_refunded(self, client, staff, refund, paid_order):
        url = f"/tickets/{paid_order['tickets'][0]['code']}/check-in"
        client.post(url, headers=staff.headers)
        client.delete(url, headers=staff.headers)
        assert refund(paid_order).status_code == 200

    def test_payment_that_is_due_anyway_stays_due(self, refund, pay, paid_order):
        pay(paid_order, method="card", reference="again")
        payments = refund(paid_order).get_json()["payments"]
        assert [payment["status"] for payment in payments] == ["refunded", "refund_due"]

    def test_order_of_a_canceled_event_is_refunded(self, app, cancel_event, refund, paid_order):
        with app.app_context():
            cancel_event(db.session.scalar(db.select(Event.id)))
        assert refund(paid_order).status_code == 200


class TestConstraints:
    @pytest.mark.parametrize(
        "model, values",
        [
            *((Order, {"state": state}) for state in ("lost", None)),
            *((Order, {"total": total}) for total in (-1, None)),
            *((Order, {name: 2**31 - 1}) for name in ("user_id", "event_id")),
            *((Order, {name: None}) for name in ("code", "user_id", "number", "event_id", "currency", "expires_at")),
            *((OrderLine, {name: -1}) for name in ("quantity", "unit_price")),
            *((OrderLine, {"quantity": 0}), (OrderLine, {"order_id": 2**31 - 1}), (OrderLine, {"name": None})),
            (OrderLine, {"ticket_type_id": 2**31 - 1}),
        ],
    )
    def test_database_refuses_a_bad_row(self, place_lines, make_ticket_type, context, model, values):
        place_lines((make_ticket_type(), 1))
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(model).values(**values))

    @pytest.mark.parametrize("model, same", [(Order, ["code"]), (Order, ["user_id", "number"])])
    def test_database_refuses_a_second_row(self, place_lines, make_ticket_type, context, model, same):
        place_lines((make_ticket_type(), 1)), place_lines((make_ticket_type(), 1))
        first = db.session.scalar(db.select(model))
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(model).values({name: getattr(first, name) for name in same}))

    def test_database_refuses_a_second_line_for_a_ticket_type(self, place_lines, make_ticket_type, make_event, context):
        event_id = make_event()
        place_lines(*((make_ticket_type(event_id), 1) for _ in range(2)))
        with pytest.raises(IntegrityError):
            first = db.select(db.func.min(TicketType.id)).scalar_subquery()
            db.session.execute(db.update(OrderLine).values(ticket_type_id=first))


class TestAttendeeName:
    @pytest.mark.parametrize("price", [0, 2500])
    def test_stands_on_all_tickets(self, client, buyer, pay, get_order, make_ticket_type, price):
        line = {"ticket_type_id": make_ticket_type(price=price), "quantity": 2}
        body = {"items": [line], "attendee_name": " Bob "}
        order = client.post("/orders", json=body, headers=buyer.headers).get_json()
        if price:
            pay(order)
        assert [ticket["holder"] for ticket in get_order(order)["tickets"]] == ["Bob", "Bob"]

    @pytest.mark.parametrize("name", ["", " ", None, 5, "x" * 101, "a\nb"])
    def test_is_a_name(self, client, buyer, make_ticket_type, name):
        body = {"items": [{"ticket_type_id": make_ticket_type(), "quantity": 2}], "attendee_name": name}
        answer = client.post("/orders", json=body, headers=buyer.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["attendee_name"])


class TestExtend:
    def extend(self, client, user, order, until):
        body = {"expires_at": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return client.post(f"/orders/{order['code']}/extend", json=body, headers=user.headers)

    def test_holds_it_longer(self, client, staff, pending_order):
        until = datetime.now(UTC) + timedelta(days=3)
        answer = self.extend(client, staff, pending_order, until)
        assert (answer.status_code, answer.json["status"]) == (200, "pending")
        assert answer.json["expires_at"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")

    @pytest.mark.parametrize("days", [-1, 0, 6.9 + 1, 31], ids=["past", "sooner", "after the end", "too long"])
    def test_refuses_other_times(self, client, staff, pending_order, days):
        answer = self.extend(client, staff, pending_order, datetime.now(UTC) + timedelta(days=days))
        assert (answer.status_code, list(answer.json["message"])) == (400, ["expires_at"])

    def test_is_not_for_buyers(self, client, buyer, pending_order):
        assert self.extend(client, buyer, pending_order, datetime.now(UTC) + timedelta(days=1)).status_code == 403

    def test_one_that_has_lapsed_stays_so(self, client, staff, pending_order, lapse):
        lapse(pending_order)
        answer = self.extend(client, staff, pending_order, datetime.now(UTC) + timedelta(days=1))
        assert (answer.status_code, answer.json["reason"], answer.json["status"]) == (409, "not_pending", "expired")
