"""Promo codes, pools and hidden ticket types: what they cost, what they count, and to whom they are shown."""

import pytest

from models import Pool, PromoCode, TicketType, db
from routes.selling.inventory import check_inventory

from .conftest import refusal, together

PRICES = (1, 99, 2500, 3333)
FEW = (1, 3, 33, 50, 67, 99)
PERCENTS = [pytest.param(it, marks=() if it in FEW else pytest.mark.slow) for it in range(1, 100)]


@pytest.fixture
def event_id(make_event):
    return make_event()


@pytest.fixture
def make_code(client, admin, event_id):
    def make(code="HALF", **fields):
        discount = {} if fields.keys() & {"percent", "amount", "unlocks"} else {"percent": 50}
        body = {"code": code} | discount | fields
        return client.post(f"/events/{event_id}/promo-codes", json=body, headers=admin.headers)

    return make


@pytest.fixture
def make_pool(client, admin, event_id):
    def make(quantity, *ticket_types):
        body = {"name": "Hall", "quantity": quantity, "ticket_types": list(ticket_types)}
        return client.post(f"/events/{event_id}/pools", json=body, headers=admin.headers)

    return make


@pytest.fixture
def order(client, buyer):
    """Order lines, pairs of ticket type id and quantity, with a promo code if there is one."""

    def send(*lines, code=None, user=buyer, **fields):
        body = {"items": [{"ticket_type_id": id, "quantity": number} for id, number in lines]} | fields
        return client.post("/orders", json=body | ({"promo_code": code} if code else {}), headers=user.headers)

    return send


@pytest.fixture
def stored(app):
    """Columns of a row, as they are stored."""

    def read(model, id, *names):
        with app.app_context():
            row = db.session.get_one(model, id, populate_existing=True)
            return tuple(getattr(row, name) for name in names)

    return read


@pytest.fixture
def uses(stored):
    """How many uses of a code are used and held."""
    return lambda code: stored(PromoCode, code.get_json()["id"], "used", "counted")


@pytest.fixture(autouse=True)
def recount(app):
    yield
    with app.app_context():
        assert check_inventory() == []


class TestPrice:
    @pytest.mark.parametrize("percent", PERCENTS)
    def test_lines_total_charge_and_refund_agree(
        self, client, admin, event_id, make_ticket_type, make_code, order, pay, percent
    ):
        make_code(percent=percent)
        types = [make_ticket_type(event_id, price=price) for price in PRICES]
        placed = order(*((id, 3) for id in types), code="half").get_json()
        wanted = [price - (price * percent + 50) // 100 for price in PRICES]
        assert [line["unit_price"] for line in placed["items"]] == wanted
        assert [line["full_price"] for line in placed["items"]] == list(PRICES)
        assert (placed["promo_code"], placed["total"]) == ("HALF", 3 * sum(wanted))
        assert pay(placed).get_json()["amount"] == placed["total"]
        back = client.post(f"/orders/{placed['code']}/refund", headers=admin.headers).get_json()
        assert [payment["refunded"] for payment in back["payments"]] == [placed["total"]]

    def test_amount_takes_no_more_than_the_price(self, event_id, make_ticket_type, make_code, order):
        make_code(amount=1000)
        types = [make_ticket_type(event_id, price=price) for price in (2500, 900)]
        assert order(*((id, 1) for id in types), code="HALF").get_json()["total"] == 1500

    def test_all_of_it_is_paid_at_once(self, event_id, make_ticket_type, make_code, order, uses):
        code = make_code(percent=100, max_uses=2)
        placed = order((make_ticket_type(event_id), 2), code="HALF").get_json()
        assert (placed["status"], len(placed["tickets"]), uses(code)) == ("paid", 2, (2, 0))

    def test_others_cost_what_they_cost_and_are_not_counted(self, event_id, make_ticket_type, make_code, order, uses):
        listed, other = make_ticket_type(event_id), make_ticket_type(event_id)
        code = make_code(percent=50, ticket_types=[listed])
        placed = order((listed, 2), (other, 3), code="HALF").get_json()
        assert (placed["total"], uses(code)) == (2 * 1250 + 3 * 2500, (0, 2))

    def test_expected_total_is_the_one_with_the_code(self, event_id, make_ticket_type, make_code, order):
        make_code()
        id = make_ticket_type(event_id)
        assert order((id, 1), code="HALF", expected_total=1250).status_code == 201
        assert refusal(order((id, 1), code="HALF", expected_total=2500)) == (409, "price_changed")

    def test_ticket_refunded_alone_goes_back_for_what_it_cost(
        self, client, admin, event_id, make_ticket_type, make_code, order, pay, get_order, uses
    ):
        code = make_code(max_uses=3)
        placed = order((make_ticket_type(event_id), 3), code="HALF").get_json()
        pay(placed)
        ticket = get_order(placed)["tickets"][0]["code"]
        body = {"tickets": [ticket]}
        back = client.post(f"/orders/{placed['code']}/refund", json=body, headers=admin.headers).get_json()
        assert (back["payments"][0]["refunded"], uses(code)) == (1250, (2, 0))


class TestUses:
    def test_given_back_by_each_way_out(
        self, event_id, make_ticket_type, make_code, order, pay, cancel, refund, lapse, uses
    ):
        code, id = make_code(max_uses=2), make_ticket_type(event_id)
        for end in (cancel, lapse, lambda placed: (pay(placed), refund(placed))):
            placed = order((id, 2), code="HALF").get_json()
            end(placed)
        assert order((id, 2), code="HALF").status_code == 201
        assert uses(code) == (0, 2)

    def test_used_up_says_how_many_are_left_and_which_orders_hold_them(
        self, event_id, make_ticket_type, make_code, order
    ):
        make_code(max_uses=3)
        id = make_ticket_type(event_id)
        held = order((id, 2), code="HALF").get_json()["code"]
        answer = order((id, 2), code="HALF")
        assert refusal(answer) == (409, "promo_used_up")
        assert (answer.json["available"], answer.json["pending"]) == (1, [held])

    def test_each_buyer_has_his_share(self, event_id, make_ticket_type, make_code, order, make_user, pay):
        make_code(percent=50, max_per_buyer=2)
        id = make_ticket_type(event_id)
        pay(order((id, 1), code="HALF").get_json())
        assert refusal(order((id, 2), code="HALF")) == (409, "promo_used_up")
        assert order((id, 1), code="HALF").status_code == 201
        assert order((id, 2), code="HALF", user=make_user()).status_code == 201

    def test_late_payment_takes_them_again(self, event_id, make_ticket_type, make_code, order, pay, lapse, uses):
        code = make_code(max_uses=2)
        placed = order((make_ticket_type(event_id), 2), code="HALF").get_json()
        lapse(placed)
        assert pay(placed).get_json()["status"] == "confirmed"
        assert uses(code) == (2, 0)

    def test_late_payment_without_any_left_is_due(
        self, event_id, make_ticket_type, make_code, order, make_user, pay, lapse, uses
    ):
        code, id = make_code(max_uses=2), make_ticket_type(event_id)
        first = order((id, 2), code="HALF").get_json()
        lapse(first)
        assert order((id, 2), code="HALF", user=make_user()).status_code == 201
        assert pay(first).get_json()["status"] == "refund_due"
        assert uses(code) == (0, 2)

    def test_many_at_once_get_as_many_as_there_are(self, app, event_id, make_ticket_type, make_code, make_user, uses):
        code, id = make_code(max_uses=3), make_ticket_type(event_id)
        body = {"items": [{"ticket_type_id": id, "quantity": 1}], "promo_code": "HALF"}
        answers = together(app, *(("POST", "/orders", body, make_user().headers) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5
        assert uses(code) == (0, 3)

    def test_fewer_than_are_used_are_refused(self, client, admin, event_id, make_ticket_type, make_code, order):
        code = make_code(max_uses=3).get_json()
        order((make_ticket_type(event_id), 2), code="HALF")
        answer = client.patch(f"/promo-codes/{code['id']}", json={"max_uses": 1}, headers=admin.headers)
        assert (*refusal(answer), answer.json["held"]) == (409, "below_used", 2)


class TestCode:
    @pytest.mark.parametrize("code", ["NONE", " half\u200b", "."])
    def test_unknown_one_is_refused(self, event_id, make_ticket_type, make_code, order, code):
        make_code()
        assert refusal(order((make_ticket_type(event_id), 1), code=code)) == (409, "promo_invalid")

    @pytest.mark.parametrize(
        "fields", [{"starts_at": "2999-01-01T00:00:00Z"}, {"ends_at": "2020-01-01T00:00:00Z"}], ids=["early", "late"]
    )
    def test_one_that_is_not_good_now_is_refused(self, client, event_id, make_ticket_type, make_code, order, fields):
        make_code(percent=50, **fields)
        assert refusal(order((make_ticket_type(event_id), 1), code="HALF")) == (409, "promo_invalid")
        assert client.get(f"/events/{event_id}/promo-codes/HALF").status_code == 404

    def test_one_for_other_ticket_types_is_refused(self, event_id, make_ticket_type, make_code, order):
        make_code(percent=50, ticket_types=[make_ticket_type(event_id)])
        answer = order((make_ticket_type(event_id), 1), code="HALF")
        assert refusal(answer) == (409, "promo_not_applicable")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"unlocks": False}, "percent"),
            ({"percent": 0}, "percent"),
            ({"percent": 101}, "percent"),
            ({"percent": 5, "amount": 5}, "amount"),
            ({"amount": 0}, "amount"),
            ({"percent": 5, "code": "a b"}, "code"),
            ({"percent": 5, "code": "a/b"}, "code"),
            ({"percent": 5, "max_uses": True}, "max_uses"),
            ({"percent": 5, "ticket_types": [1, "2"]}, "ticket_types"),
            ({"percent": 5, "ticket_types": [2**31 - 1]}, "ticket_types"),
            ({"percent": 5, "starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}, "ends_at"),
        ],
    )
    def test_bad_field_is_named(self, client, admin, event_id, fields, field):
        answer = client.post(f"/events/{event_id}/promo-codes", json={"code": "X"} | fields, headers=admin.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, [field])

    def test_taken_whatever_its_case(self, make_code):
        make_code("Half")
        assert refusal(make_code("hALF")) == (409, "code_taken")

    def test_one_with_orders_stays(self, client, admin, event_id, make_ticket_type, make_code, order, cancel):
        path = f"/promo-codes/{make_code().get_json()['id']}"
        placed = order((make_ticket_type(event_id), 1), code="HALF").get_json()
        assert refusal(client.delete(path, headers=admin.headers)) == (409, "has_orders")
        cancel(placed)
        assert client.delete(path, headers=admin.headers).status_code == 204

    def test_ticket_type_that_it_lists_stays(self, client, admin, event_id, make_ticket_type, make_code):
        id = make_ticket_type(event_id)
        make_code(percent=50, ticket_types=[id])
        assert refusal(client.delete(f"/ticket-types/{id}", headers=admin.headers)) == (409, "in_use")

    def test_event_goes_with_its_codes_and_pools(self, client, admin, event_id, make_ticket_type, make_code, make_pool):
        id = make_ticket_type(event_id)
        make_code(percent=50, ticket_types=[id])
        make_pool(5, id)
        assert client.delete(f"/events/{event_id}", headers=admin.headers).status_code == 204

    def test_change_counts_for_the_next_order_alone(self, client, admin, event_id, make_ticket_type, make_code, order):
        code, id = make_code().get_json(), make_ticket_type(event_id)
        first = order((id, 1), code="HALF").get_json()
        body = {"percent": None, "amount": 100}
        changed = client.patch(f"/promo-codes/{code['id']}", json=body, headers=admin.headers).get_json()
        assert (changed["percent"], changed["amount"], changed["held"]) == (None, 100, 1)
        assert (first["total"], order((id, 1), code="HALF").get_json()["total"]) == (1250, 2400)

    def test_looked_up_it_says_the_prices(self, client, event_id, make_ticket_type, make_code):
        listed, _ = make_ticket_type(event_id), make_ticket_type(event_id)
        make_code(percent=20, ticket_types=[listed])
        shown = client.get(f"/events/{event_id}/promo-codes/%20half").get_json()
        assert (shown["code"], [(it["id"], it["promo_price"]) for it in shown["ticket_types"]]) == (
            "HALF",
            [(listed, 2000)],
        )

    @pytest.mark.parametrize("name", ["%00", "a%00b", "%F0%9F%8E%AB", "x" * 51, "%ED%A0%80", "NONE"])
    def test_what_is_none_is_not_there(self, client, event_id, make_code, name):
        make_code()
        assert client.get(f"/events/{event_id}/promo-codes/{name}").status_code == 404

    def test_used_up_one_is_not_there(self, client, make_code, event_id):
        make_code(percent=20, max_uses=0)
        assert client.get(f"/events/{event_id}/promo-codes/HALF").status_code == 404


class TestHidden:
    @pytest.fixture
    def hidden(self, event_id, make_ticket_type):
        return make_ticket_type(event_id, hidden=True)

    def test_is_shown_to_admins_alone(self, client, admin, buyer, event_id, hidden):
        for path in (f"/events/{event_id}", "/events?include=ticket_types", f"/events/{event_id}/ticket-types"):
            assert f'"id":{hidden},' in client.get(path, headers=admin.headers).text.replace(" ", "")
            for headers in ({}, buyer.headers):
                assert '"hidden":true' not in client.get(path, headers=headers).text
        path = f"/ticket-types/{hidden}"
        found = [client.get(path, headers=headers).status_code for headers in (admin.headers, buyer.headers, {})]
        assert found == [200, 404, 404]

    def test_without_the_code_it_is_like_one_that_is_not_there(self, order, hidden, make_code, make_ticket_type):
        make_code("OTHER")
        answers = [order((id, 1), code=code) for id in (hidden, 2**31 - 1) for code in (None, "OTHER", "NONE")]
        assert [answer.status_code for answer in answers] == [404] * 6
        mixed = order((hidden, 1), (make_ticket_type(), 1))
        assert mixed.status_code == 404

    def test_with_the_code_it_is_sold(self, client, order, event_id, hidden, make_code):
        make_code("DOOR", unlocks=True, ticket_types=[hidden])
        shown = client.get(f"/events/{event_id}/promo-codes/door").get_json()
        assert [it["id"] for it in shown["ticket_types"]] == [hidden]
        placed = order((hidden, 1), code="door")
        assert (placed.status_code, placed.get_json()["total"]) == (201, 2500)

    def test_hiding_it_ends_its_sale(self, client, admin, order, event_id, make_ticket_type):
        id = make_ticket_type(event_id)
        client.patch(f"/ticket-types/{id}", json={"hidden": True}, headers=admin.headers)
        assert order((id, 1)).status_code == 404


class TestPool:
    @pytest.fixture
    def types(self, event_id, make_ticket_type):
        return [make_ticket_type(event_id, quantity=6, max_per_order=20) for _ in range(2)]

    def test_all_its_types_share_its_places(self, client, types, make_pool, order):
        pool = make_pool(8, *types).get_json()
        assert order((types[0], 5)).status_code == 201
        answer = order((types[1], 4))
        assert (*refusal(answer), answer.json["pool_id"]) == (409, "sold_out", pool["id"])
        assert answer.json["available"] == 3
        assert [client.get(f"/ticket-types/{id}").get_json()["available"] for id in types] == [1, 3]

    def test_lines_of_one_order_count_together(self, types, make_pool, order, stored):
        pool = make_pool(8, *types).get_json()
        assert refusal(order((types[0], 5), (types[1], 4))) == (409, "sold_out")
        assert order((types[0], 4), (types[1], 4)).status_code == 201
        assert stored(Pool, pool["id"], "sold", "counted") == (0, 8)

    def test_given_back_by_each_way_out(self, types, make_pool, order, pay, cancel, refund, lapse, stored):
        pool = make_pool(6, *types).get_json()
        for end in (cancel, lapse, lambda placed: (pay(placed), refund(placed))):
            end(order((types[0], 3), (types[1], 3)).get_json())
        assert order((types[0], 3), (types[1], 3)).status_code == 201
        assert stored(Pool, pool["id"], "sold", "counted") == (0, 6)

    def test_lapsed_holds_of_another_type_make_room(self, types, make_pool, order, lapse, make_user):
        make_pool(6, *types)
        lapse(order((types[0], 6)).get_json())
        assert order((types[1], 6), user=make_user()).status_code == 201

    def test_late_payment_finds_it_full(self, types, make_pool, order, lapse, make_user, pay):
        make_pool(6, *types)
        late = order((types[0], 6)).get_json()
        lapse(late)
        order((types[1], 1), user=make_user())
        assert pay(late).get_json()["status"] == "refund_due"

    def test_many_at_once_get_as_many_as_there_are(self, app, types, make_pool, make_user, stored):
        pool = make_pool(5, *types).get_json()
        bodies = [{"items": [{"ticket_type_id": types[number % 2], "quantity": 1}]} for number in range(10)]
        answers = together(app, *(("POST", "/orders", body, make_user().headers) for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 5
        assert stored(Pool, pool["id"], "sold", "counted") == (0, 5)

    def test_type_brings_what_it_has_sold(self, types, make_pool, order, pay, stored):
        pay(order((types[0], 2)).get_json())
        order((types[0], 1))
        assert make_pool(2, *types).status_code == 409
        pool = make_pool(8, *types).get_json()
        assert (pool["sold"], pool["held"], pool["available"], pool["ticket_types"]) == (2, 1, 5, types)

    def test_type_that_has_sold_stays(self, client, admin, types, make_pool, order):
        pool = make_pool(8, *types).get_json()
        order((types[0], 1))
        path = f"/ticket-types/{types[0]}"
        assert refusal(client.patch(path, json={"pool_id": None}, headers=admin.headers)) == (409, "has_orders")
        body = {"ticket_types": [types[1]]}
        assert refusal(client.patch(f"/pools/{pool['id']}", json=body, headers=admin.headers)) == (409, "has_orders")
        assert client.patch(f"/ticket-types/{types[1]}", json={"pool_id": None}, headers=admin.headers).json["id"]

    def test_lowered_no_further_than_it_has_sold(self, client, admin, types, make_pool, order):
        path = f"/pools/{make_pool(8, *types).get_json()['id']}"
        order((types[0], 3))
        answer = client.patch(path, json={"quantity": 2}, headers=admin.headers)
        assert (*refusal(answer), answer.json["held"]) == (409, "below_sold", 3)
        assert client.patch(path, json={"quantity": 3}, headers=admin.headers).get_json()["available"] == 0

    def test_deleted_leaves_its_types_their_own_places(self, client, admin, types, make_pool, order, stored):
        pool = make_pool(3, *types).get_json()
        order((types[0], 3))
        assert client.delete(f"/pools/{pool['id']}", headers=admin.headers).status_code == 204
        assert order((types[0], 3)).status_code == 201
        assert stored(TicketType, types[0], "pool_id") == (None,)

    def test_pool_of_another_event_is_refused(self, client, admin, types, make_pool, make_ticket_type):
        pool = make_pool(3).get_json()
        path = f"/ticket-types/{make_ticket_type()}"
        answer = client.patch(path, json={"pool_id": pool["id"]}, headers=admin.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["pool_id"])

    def test_sales_add_up_what_is_free_once(self, client, admin, event_id, types, make_pool):
        make_pool(8, *types)
        report = client.get(f"/events/{event_id}/sales", headers=admin.headers).get_json()
        assert [row["available"] for row in report["ticket_types"]] == [6, 6]
        assert report["total"]["available"] == 8
