"""Orders: placed, held, lapsed, listed, canceled and refunded."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from models import Event, Order, OrderItem, Ticket, TicketType, check_inventory, db

PAST, FUTURE = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
LARGEST_TOTAL = 1_000_000_000 * 1000 * 20


@pytest.fixture
def order(client, buyer):
    """Order lines, pairs of ticket type id and quantity, and return the response."""

    def post(*lines, user=buyer, **fields):
        items = [{"ticket_type_id": id, "quantity": quantity} for id, quantity in lines]
        return client.post("/orders", json={"items": items, **fields}, headers=user.headers)

    return post


@pytest.fixture
def get(client, buyer):
    """What the buyer, or `user`, sees of an order given as its JSON."""

    def read(order, user=buyer):
        return client.get(f"/orders/{order['code']}", headers=user.headers).get_json()

    return read


@pytest.fixture
def codes(client):
    """The codes in the list of orders that a user sees."""

    def read(viewer, **filters):
        listed = client.get("/orders", query_string=filters, headers=viewer.headers)
        return [order["code"] for order in listed.get_json()]

    return read


@pytest.fixture
def cancel(client, buyer):
    def post(order, user=buyer):
        return client.post(f"/orders/{order['code']}/cancel", headers=user.headers)

    return post


@pytest.fixture
def refund(client, admin):
    def post(order, user=admin):
        return client.post(f"/orders/{order['code']}/refund", headers=user.headers)

    return post


@pytest.fixture
def cancel_event(client, admin):
    return lambda id: client.patch(f"/events/{id}", json={"status": "canceled"}, headers=admin.headers)


@pytest.fixture
def counters(app):
    """What a ticket type counts as sold and held."""

    def read(id):
        with app.app_context():
            return tuple(db.session.execute(db.select(TicketType.sold, TicketType.held).filter_by(id=id)).one())

    return read


@pytest.fixture
def available(client):
    """How many places a visitor sees left of a ticket type."""

    def read(event_id, ticket_type_id):
        types = client.get(f"/events/{event_id}").get_json()["ticket_types"]
        return next(kind["available"] for kind in types if kind["id"] == ticket_type_id)

    return read


@pytest.fixture
def rows(app):
    """How many rows of a model there are."""

    def count(model):
        with app.app_context():
            return db.session.scalar(db.select(db.func.count()).select_from(model))

    return count


def refusal(response):
    """Status and body of a refusal, without the text for people."""
    return response.status_code, {name: value for name, value in response.get_json().items() if name != "message"}


class TestOrderListPost:
    def test_answers_pending_order(self, order, make_ticket_type):
        id = make_ticket_type(name="Regular")
        placed = order((id, 2)).get_json()
        assert (placed["status"], placed["total"], placed["currency"]) == ("pending", 5000, "USD")
        assert placed["items"] == [{"ticket_type_id": id, "name": "Regular", "quantity": 2, "unit_price": 2500}]
        assert placed["tickets"] == placed["payments"] == []

    def test_is_found_where_location_says(self, client, order, buyer, make_ticket_type):
        placed = order((make_ticket_type(), 2))
        found = client.get(placed.headers["Location"], headers=buyer.headers)
        assert (placed.status_code, found.get_json()) == (201, placed.get_json())

    def test_code_is_128_bits_of_letters_and_digits(self, order, make_ticket_type):
        assert re.fullmatch("[0-9A-F]{32}", order((make_ticket_type(), 1)).get_json()["code"])

    def test_holds_its_places(self, order, make_event, make_ticket_type, counters, available):
        event_id = make_event()
        id = make_ticket_type(event_id, quantity=10)
        order((id, 3))
        assert (counters(id), available(event_id, id)) == ((0, 3), 7)

    @pytest.mark.parametrize("lines", [1, 2])
    def test_holds_for_as_long_as_configured(self, app, order, make_event, make_ticket_type, lines):
        app.config["ORDER_HOLD_SECONDS"] = 77
        event_id = make_event()
        placed = order(*((make_ticket_type(event_id), 1) for _ in range(lines))).get_json()
        times = (datetime.fromisoformat(placed[name]) for name in ("expires_at", "created_at"))
        assert next(times) - next(times) in (timedelta(seconds=77), timedelta(seconds=78))

    def test_is_in_the_configured_currency(self, app, order, make_ticket_type):
        app.config["CURRENCY"] = "EUR"
        assert order((make_ticket_type(), 1)).get_json()["currency"] == "EUR"

    def test_takes_the_last_places(self, order, make_ticket_type, counters):
        id = make_ticket_type(quantity=3)
        assert order((id, 3)).status_code == 201
        assert counters(id) == (0, 3)

    def test_basket_holds_places_of_each_type(self, order, make_event, make_ticket_type, counters):
        event_id = make_event()
        ids = [make_ticket_type(event_id, price=price) for price in (100, 200)]
        assert order((ids[1], 2), (ids[0], 1)).get_json()["total"] == 500
        assert [counters(id) for id in ids] == [(0, 1), (0, 2)]

    def test_lines_of_one_type_are_one_item(self, order, make_ticket_type, counters):
        id = make_ticket_type()
        placed = order((id, 1), (id, 2)).get_json()
        assert [(item["ticket_type_id"], item["quantity"]) for item in placed["items"]] == [(id, 3)]
        assert counters(id) == (0, 3)

    def test_lines_of_one_type_count_together(self, order, make_ticket_type):
        id = make_ticket_type(max_per_order=2)
        assert refusal(order((id, 1), (id, 2)))[1]["reason"] == "max_per_order"

    def test_price_is_never_the_clients(self, client, buyer, make_ticket_type):
        line = {"ticket_type_id": make_ticket_type(price=2500), "quantity": 1, "unit_price": 1, "price": 1}
        sent = {"items": [line], "total": 1, "status": "paid", "currency": "XXX", "code": "A" * 32}
        placed = client.post("/orders", json=sent, headers=buyer.headers).get_json()
        assert (placed["total"], placed["items"][0]["unit_price"], placed["currency"]) == (2500, 2500, "USD")
        assert placed["status"] == "pending" and placed["code"] != "A" * 32

    def test_price_and_name_are_frozen(self, client, admin, order, get, make_ticket_type):
        id = make_ticket_type(price=2500, name="Early")
        placed = order((id, 2)).get_json()
        client.patch(f"/ticket-types/{id}", json={"price": 9900, "name": "Late"}, headers=admin.headers)
        assert get(placed) == placed

    def test_price_as_it_is_now(self, client, admin, order, make_ticket_type):
        id = make_ticket_type(price=2500)
        client.patch(f"/ticket-types/{id}", json={"price": 9900}, headers=admin.headers)
        assert order((id, 2)).get_json()["total"] == 19800

    def test_twenty_lines_are_taken(self, order, make_event, make_ticket_type):
        event_id = make_event()
        placed = order(*((make_ticket_type(event_id), 1) for _ in range(20)))
        assert (placed.status_code, len(placed.get_json()["items"])) == (201, 20)

    def test_largest_total_is_paid_and_counted(self, client, admin, order, pay, make_event, make_ticket_type):
        event_id = make_event()
        types = {"price": 1_000_000_000, "quantity": 2_000_000_000, "max_per_order": 1000}
        placed = order(*((make_ticket_type(event_id, **types), 1000) for _ in range(20))).get_json()
        paid = pay(placed).get_json()
        sales = client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()
        assert placed["total"] == paid["amount"] == LARGEST_TOTAL
        assert (sales["total"]["revenue"], sales["total"]["sold"]) == (LARGEST_TOTAL, 20_000)

    def test_total_of_one_type_is_no_small_integer_either(self, order, make_ticket_type):
        dear = make_ticket_type(price=1_000_000_000)
        assert order((dear, 10)).get_json()["total"] == 10**10

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_everybody_who_is_signed_in_may_buy(self, order, make_user, make_ticket_type, role):
        assert order((make_ticket_type(), 1), user=make_user(role)).status_code == 201

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

    def test_two_events_are_refused(self, order, make_ticket_type, rows):
        response = order((make_ticket_type(), 1), (make_ticket_type(), 1))
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["items"])
        assert rows(Order) == 0

    def test_unknown_ticket_type_is_not_found(self, order, make_ticket_type):
        assert order((make_ticket_type() + 1, 1)).status_code == 404

    def test_one_unknown_ticket_type_keeps_nothing(self, order, make_ticket_type, counters, rows):
        id = make_ticket_type()
        assert order((id, 1), (id + 1, 1)).status_code == 404
        assert (counters(id), rows(Order)) == ((0, 0), 0)

    def test_ticket_type_of_a_draft_is_not_found(self, order, make_event, make_ticket_type):
        assert order((make_ticket_type(make_event(status="draft")), 1)).status_code == 404

    @pytest.mark.parametrize("left", [0, 1])
    def test_sold_out(self, order, make_ticket_type, counters, rows, left):
        id = make_ticket_type(quantity=2 + left)
        order((id, 2))
        facts = {"reason": "sold_out", "ticket_type_id": id, "available": left}
        assert refusal(order((id, left + 1))) == (409, facts)
        assert (counters(id), rows(Order), rows(OrderItem)) == ((0, 2), 1, 1)

    @pytest.mark.parametrize("scarce", [0, 1])
    def test_sold_out_line_keeps_nothing(self, order, make_event, make_ticket_type, counters, rows, scarce):
        event_id = make_event()
        ids = [make_ticket_type(event_id, quantity=1 if scarce == place else 10) for place in range(2)]
        facts = {"reason": "sold_out", "ticket_type_id": ids[scarce], "available": 1}
        assert refusal(order((ids[0], 2), (ids[1], 2))) == (409, facts)
        assert ([counters(id) for id in ids], rows(Order), rows(OrderItem)) == ([(0, 0), (0, 0)], 0, 0)

    @pytest.mark.parametrize(
        ("event_times", "type_times"),
        [
            ({}, {"sales_start": FUTURE}),
            ({}, {"sales_end": PAST}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {"sales_start": PAST - timedelta(9)}),
        ],
    )
    def test_sales_closed(self, order, make_event, make_ticket_type, counters, event_times, type_times):
        id = make_ticket_type(make_event(**event_times), **type_times)
        assert refusal(order((id, 1))) == (409, {"reason": "sales_closed", "ticket_type_id": id})
        assert counters(id) == (0, 0)

    @pytest.mark.parametrize(
        ("event_times", "type_times"),
        [
            ({"starts_at": PAST, "ends_at": FUTURE}, {}),
            ({"starts_at": PAST - timedelta(1), "ends_at": PAST}, {"sales_end": FUTURE}),
            ({}, {"sales_start": PAST, "sales_end": FUTURE}),
        ],
    )
    def test_sales_open(self, order, make_event, make_ticket_type, event_times, type_times):
        assert order((make_ticket_type(make_event(**event_times), **type_times), 1)).status_code == 201

    def test_canceled_event_is_not_on_sale(self, order, make_event, make_ticket_type, cancel_event):
        event_id = make_event()
        id = make_ticket_type(event_id)
        cancel_event(event_id)
        assert refusal(order((id, 1))) == (409, {"reason": "not_on_sale", "ticket_type_id": id})

    @pytest.mark.parametrize("quantity", [3, 2**31 - 1])
    def test_max_per_order(self, order, make_ticket_type, counters, quantity):
        id = make_ticket_type(max_per_order=2, quantity=2_000_000_000)
        facts = {"reason": "max_per_order", "ticket_type_id": id, "max_per_order": 2}
        assert refusal(order((id, quantity))) == (409, facts)
        assert counters(id) == (0, 0)

    def test_max_per_order_of_more_than_any_integer(self, order, make_ticket_type):
        id = make_ticket_type(quantity=2_000_000_000)
        assert refusal(order(*[(id, 2**31 - 1)] * 20))[1]["reason"] == "max_per_order"

    @pytest.mark.parametrize("lines", [1, 2])
    def test_too_many_pending(self, app, order, make_event, make_ticket_type, rows, lines):
        app.config["MAX_PENDING_ORDERS"] = 2
        event_id = make_event()
        basket = [(make_ticket_type(event_id), 1) for _ in range(lines)]
        assert [order(*basket).status_code for _ in range(2)] == [201, 201]
        assert refusal(order(*basket)) == (409, {"reason": "too_many_pending", "max_pending_orders": 2})
        assert rows(Order) == 2

    def test_pending_orders_of_others_do_not_count(self, app, order, make_user, make_ticket_type):
        app.config["MAX_PENDING_ORDERS"] = 1
        id = make_ticket_type()
        assert [order((id, 1), user=make_user()).status_code for _ in range(2)] == [201, 201]

    @pytest.mark.parametrize("end", ["pay", "cancel", "lapse"])
    def test_orders_no_longer_pending_do_not_count(self, request, app, order, make_ticket_type, end):
        app.config["MAX_PENDING_ORDERS"] = 1
        id = make_ticket_type()
        request.getfixturevalue(end)(order((id, 1)).get_json())
        assert order((id, 1)).status_code == 201


class TestFreeOrder:
    def test_is_paid_at_once(self, order, make_ticket_type, counters):
        id = make_ticket_type(price=0)
        placed = order((id, 2)).get_json()
        assert (placed["status"], placed["total"], placed["payments"]) == ("paid", 0, [])
        assert [ticket["status"] for ticket in placed["tickets"]] == ["valid", "valid"]
        assert counters(id) == (2, 0)

    def test_is_refunded_without_a_payment(self, order, refund, make_ticket_type, counters):
        id = make_ticket_type(price=0)
        refunded = refund(order((id, 2)).get_json()).get_json()
        assert (refunded["status"], refunded["payments"]) == ("refunded", [])
        assert counters(id) == (0, 0)

    def test_is_not_counted_as_pending(self, app, order, make_ticket_type):
        app.config["MAX_PENDING_ORDERS"] = 1
        order((make_ticket_type(), 1))
        assert order((make_ticket_type(price=0), 1)).status_code == 201

    def test_is_sold_out_like_any_other(self, order, make_ticket_type, rows):
        id = make_ticket_type(price=0, quantity=1)
        facts = {"reason": "sold_out", "ticket_type_id": id, "available": 1}
        assert refusal(order((id, 2))) == (409, facts)
        assert (rows(Order), rows(Ticket)) == (0, 0)

    def test_gets_places_of_lapsed_free_and_paid_baskets(self, order, lapse, make_event, make_ticket_type):
        event_id = make_event()
        free, priced = make_ticket_type(event_id, price=0, quantity=1), make_ticket_type(event_id)
        lapse(order((free, 1), (priced, 1)).get_json())
        assert order((free, 1)).get_json()["status"] == "paid"

    def test_free_ticket_beside_a_priced_one_is_held(self, order, make_event, make_ticket_type, counters):
        event_id = make_event()
        free, priced = make_ticket_type(event_id, price=0), make_ticket_type(event_id, price=2500)
        placed = order((free, 1), (priced, 1)).get_json()
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
    def lapsed(self, order, lapse, id):
        placed = order((id, 3)).get_json()
        lapse(placed)
        return placed

    def test_is_pending_until_then(self, order, get, id):
        assert get(order((id, 3)).get_json())["status"] == "pending"

    def test_shows_as_expired(self, get, lapsed):
        assert get(lapsed) == {**lapsed, "status": "expired", "expires_at": get(lapsed)["expires_at"]}

    def test_is_listed_as_expired(self, client, buyer, lapsed):
        [listed] = client.get("/orders", headers=buyer.headers).get_json()
        assert listed["status"] == "expired"

    @pytest.mark.parametrize("written", [False, True])
    def test_is_filtered_as_expired(self, app, admin, codes, lapsed, written):
        if written:
            with app.app_context():
                for event_id in Order.events_with_lapsed():
                    Order.lapse(event_id)
                db.session.commit()
        assert codes(admin, status="expired") == [lapsed["code"]]
        assert codes(admin, status="pending") == []

    def test_its_places_are_available(self, available, event_id, id, lapsed):
        assert available(event_id, id) == 3

    def test_its_places_are_in_the_list_of_sales(self, client, admin, event_id, lapsed):
        sales = client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()
        assert (sales["total"]["held"], sales["total"]["available"]) == (0, 3)

    def test_next_buyer_gets_its_places(self, order, make_user, counters, id, lapsed):
        assert order((id, 3), user=make_user()).status_code == 201
        assert counters(id) == (0, 3)

    def test_next_buyer_of_a_basket_gets_its_places(self, order, event_id, make_ticket_type, id, lapsed):
        assert order((make_ticket_type(event_id), 1), (id, 3)).status_code == 201

    def test_is_written_down_when_its_places_are_needed(self, context, order, id, lapsed):
        order((id, 1))
        assert db.session.scalar(db.select(Order.state).where(Order.code == lapsed["code"])) == "expired"
        assert check_inventory() == []

    def test_sold_out_says_what_lapsed_holds_leave(self, order, make_user, id, lapsed):
        order((id, 2), user=make_user())
        assert refusal(order((id, 2)))[1]["available"] == 1

    def test_only_the_lapsed_hold_is_let_go(self, order, lapse, id, counters):
        first, second = order((id, 1)).get_json(), order((id, 2)).get_json()
        lapse(first)
        assert (order((id, 1)).status_code, order((id, 1)).status_code) == (201, 409)
        assert second["status"] == "pending"

    def test_can_not_be_canceled(self, cancel, lapsed, counters, id):
        assert refusal(cancel(lapsed)) == (409, {"reason": "not_pending", "status": "expired"})
        assert counters(id) == (0, 3)

    def test_can_not_be_refunded(self, refund, lapsed):
        assert refusal(refund(lapsed)) == (409, {"reason": "not_paid", "status": "expired"})

    def test_paid_order_does_not_lapse(self, order, pay, lapse, get, id):
        paid = order((id, 3)).get_json()
        pay(paid)
        lapse(paid)
        assert get(paid)["status"] == "paid"
        assert order((id, 1)).status_code == 409


class TestOrderListGet:
    def test_shows_own_orders_newest_first(self, order, buyer, codes, make_ticket_type):
        id = make_ticket_type()
        placed = [order((id, 1)).get_json()["code"] for _ in range(3)]
        assert codes(buyer) == placed[::-1]

    def test_shows_what_the_order_shows(self, client, buyer, paid_order):
        assert client.get("/orders", headers=buyer.headers).get_json() == [paid_order]

    @pytest.mark.parametrize("role", ["user", "staff"])
    def test_shows_nobody_elses(self, codes, make_user, paid_order, role):
        assert codes(make_user(role)) == []

    def test_shows_all_to_an_admin(self, admin, order, codes, make_user, make_ticket_type):
        id = make_ticket_type()
        placed = [order((id, 1), user=make_user()).get_json()["code"] for _ in range(2)]
        assert codes(admin) == placed[::-1]

    def test_admin_filters_by_event(self, admin, order, codes, make_event, make_ticket_type):
        event_id = make_event()
        wanted, _ = (order((id, 1)).get_json() for id in (make_ticket_type(event_id), make_ticket_type()))
        assert codes(admin, event=event_id) == [wanted["code"]]

    def test_admin_filters_by_user(self, admin, order, codes, make_user, make_ticket_type):
        id, somebody = make_ticket_type(), make_user()
        wanted, _ = (order((id, 1), user=user).get_json() for user in (somebody, make_user()))
        assert codes(admin, user=somebody.id) == [wanted["code"]]

    @pytest.mark.parametrize("status", ["pending", "paid", "canceled", "refunded"])
    def test_admin_filters_by_status(self, admin, order, pay, cancel, refund, codes, make_ticket_type, status):
        id = make_ticket_type()
        orders = {name: order((id, 1)).get_json() for name in ("pending", "paid", "canceled", "refunded")}
        pay(orders["paid"])
        cancel(orders["canceled"])
        pay(orders["refunded"])
        refund(orders["refunded"])
        assert codes(admin, status=status) == [orders[status]["code"]]

    def test_filters_narrow_together(self, admin, buyer, codes, make_user, paid_order):
        assert codes(admin, user=buyer.id, status="paid") == [paid_order["code"]]
        assert codes(admin, user=buyer.id, status="pending") == []

    @pytest.mark.parametrize(
        "filters", [{"status": "canceled"}, {"user": 0}, {"event": 0}, {"status": "lost", "user": "x", "event": 2**99}]
    )
    def test_filters_of_others_are_ignored(self, buyer, codes, paid_order, filters):
        assert codes(buyer, **filters) == [paid_order["code"]]

    @pytest.mark.parametrize("role", ["user", "staff"])
    def test_filter_does_not_open_anothers_list(self, buyer, codes, make_user, paid_order, role):
        assert codes(make_user(role), user=buyer.id) == []

    @pytest.mark.parametrize("wrong", ["event=x", "event=-1", "user=1.5", "status=lost", "limit=0", "after=x"])
    def test_bad_filters_are_refused(self, client, admin, wrong):
        response = client.get(f"/orders?{wrong}", headers=admin.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, [wrong.partition("=")[0]])

    def test_comes_in_pages(self, client, admin, order, make_ticket_type):
        id = make_ticket_type()
        placed = [order((id, 1)).get_json()["code"] for _ in range(3)]
        seen, url = [], "/orders?limit=2&status=pending"
        while url:
            response = client.get(url, headers=admin.headers)
            seen.append([found["code"] for found in response.get_json()])
            url = response.headers["Link"].split(">")[0].strip("<") if "Link" in response.headers else None
        assert seen == [[placed[2], placed[1]], [placed[0]]]

    def test_takes_as_many_statements_for_many_as_for_one(
        self, client, buyer, order, pay, make_ticket_type, statements
    ):
        def listing(limit):
            return len(statements(lambda: client.get(f"/orders?limit={limit}", headers=buyer.headers)))

        for quantity in (1, 2, 3):
            pay(order((make_ticket_type(), quantity)).get_json())
        assert listing(1) == listing(3)


class TestOrderGet:
    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_staff_and_admins_see_every_order(self, get, make_user, paid_order, role):
        assert get(paid_order, user=make_user(role)) == paid_order

    def test_shows_tickets_and_payments(self, paid_order):
        [payment] = paid_order["payments"]
        assert (payment["status"], payment["amount"]) == ("confirmed", 5000)
        assert [ticket["ticket_type"]["name"] for ticket in paid_order["tickets"]] == ["Regular", "Regular"]

    def test_shows_nothing_inside(self, paid_order):
        assert set(paid_order) == {
            *("code", "status", "items", "total", "currency"),
            *("created_at", "expires_at", "tickets", "payments"),
        }

    def test_anothers_is_not_there(self, client, make_user, paid_order):
        response = client.get(f"/orders/{paid_order['code']}", headers=make_user().headers)
        assert response.status_code == 404

    @pytest.mark.parametrize("code", ["0" * 32, "1", "F" * 33, "%00", "f" * 32, "Ä" * 32])
    def test_no_code_is_not_there(self, client, admin, code):
        assert client.get(f"/orders/{code}", headers=admin.headers).status_code == 404

    def test_takes_as_many_statements_for_many_tickets_as_for_one(
        self, client, buyer, order, pay, make_ticket_type, statements
    ):
        def reading(quantity):
            placed = order((make_ticket_type(), quantity)).get_json()
            pay(placed)
            return len(statements(lambda: client.get(f"/orders/{placed['code']}", headers=buyer.headers)))

        assert reading(1) == reading(5)


class TestOrderCancellation:
    @pytest.fixture
    def id(self, make_ticket_type):
        return make_ticket_type()

    @pytest.fixture
    def placed(self, order, id):
        return order((id, 2)).get_json()

    @pytest.mark.parametrize("who", ["buyer", "admin"])
    def test_cancels(self, request, cancel, placed, counters, id, who):
        response = cancel(placed, user=request.getfixturevalue(who))
        assert (response.status_code, response.get_json()) == (200, {**placed, "status": "canceled"})
        assert counters(id) == (0, 0)

    def test_is_not_for_staff(self, cancel, staff, placed, counters, id):
        response = cancel(placed, user=staff)
        assert (response.status_code, response.get_json()) == (403, {"message": "Forbidden"})
        assert counters(id) == (0, 2)

    def test_staff_cancel_their_own(self, cancel, order, staff, id):
        assert cancel(order((id, 1), user=staff).get_json(), user=staff).status_code == 200

    def test_anothers_is_not_there(self, cancel, get, make_user, placed):
        assert cancel(placed, user=make_user()).status_code == 404
        assert get(placed)["status"] == "pending"

    def test_unknown_order_is_not_there(self, cancel):
        assert cancel({"code": "0" * 32}).status_code == 404

    def test_basket_gives_back_places_of_each_type(self, cancel, order, make_event, make_ticket_type, counters):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        cancel(order((ids[0], 1), (ids[1], 2)).get_json())
        assert [counters(id) for id in ids] == [(0, 0), (0, 0)]

    def test_canceled_order_gives_nothing_back_again(self, cancel, placed, counters, id):
        cancel(placed)
        assert refusal(cancel(placed)) == (409, {"reason": "not_pending", "status": "canceled"})
        assert counters(id) == (0, 0)

    def test_paid_order_stays(self, cancel, paid_order, get):
        assert refusal(cancel(paid_order)) == (409, {"reason": "not_pending", "status": "paid"})
        assert get(paid_order) == paid_order

    def test_refunded_order_stays(self, cancel, refund, paid_order):
        refund(paid_order)
        assert refusal(cancel(paid_order)) == (409, {"reason": "not_pending", "status": "refunded"})

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

    def test_is_kept(self, refund, get, paid_order):
        assert refund(paid_order).get_json() == get(paid_order)

    def test_places_are_sold_again(self, refund, order, pay, make_ticket_type):
        id = make_ticket_type(quantity=2)
        paid = order((id, 2)).get_json()
        pay(paid)
        refund(paid)
        assert order((id, 2)).status_code == 201

    @pytest.mark.parametrize("who", ["buyer", "staff"])
    def test_is_for_admins(self, request, refund, get, paid_order, who):
        assert refund(paid_order, user=request.getfixturevalue(who)).status_code == 403
        assert get(paid_order) == paid_order

    def test_unknown_order_is_not_there(self, refund):
        assert refund({"code": "0" * 32}).status_code == 404

    def test_second_time_is_refused(self, refund, paid_order, counters, id):
        refund(paid_order)
        assert refusal(refund(paid_order)) == (409, {"reason": "not_paid", "status": "refunded"})
        assert counters(id) == (0, 0)

    def test_pending_order_stays(self, refund, get, order, make_ticket_type):
        placed = order((make_ticket_type(), 1)).get_json()
        assert refusal(refund(placed)) == (409, {"reason": "not_paid", "status": "pending"})
        assert get(placed) == placed

    def test_canceled_order_stays(self, cancel, refund, order, make_ticket_type):
        placed = order((make_ticket_type(), 1)).get_json()
        cancel(placed)
        assert refusal(refund(placed)) == (409, {"reason": "not_paid", "status": "canceled"})

    def test_nothing_is_refunded_while_somebody_is_inside(self, client, staff, refund, get, paid_order, counters, id):
        client.post(f"/tickets/{paid_order['tickets'][0]['code']}/check-in", headers=staff.headers)
        assert refusal(refund(paid_order)) == (409, {"reason": "checked_in"})
        after = get(paid_order)
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
            *((OrderItem, {name: -1}) for name in ("quantity", "unit_price")),
            *((OrderItem, {"quantity": 0}), (OrderItem, {"order_id": 2**31 - 1}), (OrderItem, {"name": None})),
            (OrderItem, {"ticket_type_id": 2**31 - 1}),
        ],
    )
    def test_database_refuses_a_bad_row(self, order, make_ticket_type, context, model, values):
        order((make_ticket_type(), 1))
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(model).values(**values))

    @pytest.mark.parametrize("model, same", [(Order, ["code"]), (Order, ["user_id", "number"])])
    def test_database_refuses_a_second_row(self, order, make_ticket_type, context, model, same):
        order((make_ticket_type(), 1)), order((make_ticket_type(), 1))
        first = db.session.scalar(db.select(model))
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(model).values({name: getattr(first, name) for name in same}))

    def test_database_refuses_a_second_line_for_a_ticket_type(self, order, make_ticket_type, make_event, context):
        event_id = make_event()
        order(*((make_ticket_type(event_id), 1) for _ in range(2)))
        with pytest.raises(IntegrityError):
            first = db.select(db.func.min(TicketType.id)).scalar_subquery()
            db.session.execute(db.update(OrderItem).values(ticket_type_id=first))
