"""Payments: what they buy, what is due back, and that none is forgotten."""

import re
from json import dumps

import pytest
from sqlalchemy.exc import IntegrityError

from models import Event, Order, Payment, TicketType, check_inventory, db

METHODS = ("cash", "bank_transfer", "mobile_money", "card")
DUE = [("refund_due", 5000)]


@pytest.fixture
def id(make_ticket_type):
    return make_ticket_type(quantity=3)


@pytest.fixture
def order(buyer, place, id):
    """A pending order of two of three places."""
    return place(buyer, id, 2).get_json()


@pytest.fixture
def get(client, admin):
    """An order as it is now."""
    return lambda order: client.get(f"/orders/{order['code']}", headers=admin.headers).get_json()


@pytest.fixture
def look(get):
    """The status of an order, its payments' status and amounts, and how many tickets it has."""

    def read(order):
        now = get(order)
        return now["status"], [(it["status"], it["amount"]) for it in now["payments"]], len(now["tickets"])

    return read


@pytest.fixture
def counters(app, id):
    def read():
        with app.app_context():
            return tuple(db.session.execute(db.select(TicketType.sold, TicketType.held).filter_by(id=id)).one())

    return read


@pytest.fixture
def expire(app, lapse):
    """Let an order lapse and have that written down."""

    def run(order):
        lapse(order)
        with app.app_context():
            assert [Order.lapse(event_id) for event_id in Order.events_with_lapsed()]
            db.session.commit()

    return run


@pytest.fixture
def cancel(client, buyer):
    return lambda order: client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)


@pytest.fixture
def refund(client, admin):
    return lambda order: client.post(f"/orders/{order['code']}/refund", headers=admin.headers)


@pytest.fixture
def cancel_event(app, client, admin):
    def patch():
        with app.app_context():
            event_id = db.session.scalar(db.select(Event.id))
        assert (
            client.patch(f"/events/{event_id}", json={"status": "canceled"}, headers=admin.headers).status_code == 200
        )

    return patch


@pytest.fixture
def refused(client, staff, order):
    """Send a payment that is no good, and return the fields that the 400 names."""

    def send(body):
        json = {"data": dumps(body), "content_type": "application/json"}
        response = client.post(f"/orders/{order['code']}/payments", headers=staff.headers, **json)
        assert response.status_code == 400
        return set(response.get_json()["message"])

    return send


class TestPaymentListPost:
    @pytest.mark.parametrize("method", METHODS)
    def test_pays_the_order(self, pay, order, look, method):
        response = pay(order, method=method, reference="R-1")
        payment = response.get_json()
        assert (response.status_code, payment["status"], payment["method"]) == (201, "confirmed", method)
        assert (payment["reference"], payment["amount"]) == ("R-1", 5000)
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_answers_what_the_order_shows(self, pay, order, get):
        payment = pay(order).get_json()
        assert get(order)["payments"] == [payment]
        assert set(payment) == {"id", "method", "reference", "amount", "status", "created_at"}

    def test_places_held_are_sold(self, pay, order, counters):
        pay(order)
        assert counters() == (2, 0)

    def test_tickets_are_of_the_order(self, client, buyer, pay, order, get):
        pay(order)
        tickets = get(order)["tickets"]
        assert client.get("/tickets", headers=buyer.headers).get_json() in (tickets, tickets[::-1])
        assert {(it["status"], it["ticket_type"]["id"]) for it in tickets} == {
            ("valid", order["items"][0]["ticket_type_id"])
        }
        assert all(re.fullmatch("[0-9A-F]{32}", it["code"]) for it in tickets)

    def test_basket_has_tickets_of_each_type(self, client, buyer, pay, get, make_event, make_ticket_type):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        items = [{"ticket_type_id": id, "quantity": number} for number, id in enumerate(ids, 1)]
        order = client.post("/orders", json={"items": items}, headers=buyer.headers).get_json()
        pay(order)
        assert [it["ticket_type"]["id"] for it in get(order)["tickets"]] == [ids[0], ids[1], ids[1]]

    @pytest.mark.parametrize(("role", "status"), [("user", 403), ("staff", 201), ("admin", 201)])
    def test_is_for_staff_and_admins(self, client, make_user, order, role, status):
        body = {"method": "cash", "amount": 5000}
        headers = make_user(role).headers
        assert client.post(f"/orders/{order['code']}/payments", json=body, headers=headers).status_code == status

    def test_buyer_does_not_pay_himself(self, client, buyer, order, look):
        body = {"method": "cash", "amount": 5000}
        assert client.post(f"/orders/{order['code']}/payments", json=body, headers=buyer.headers).status_code == 403
        assert look(order) == ("pending", [], 0)

    def test_unknown_order_is_not_there(self, pay):
        assert pay({"code": "0" * 32, "total": 5000}).status_code == 404

    @pytest.mark.parametrize("amount", [0, 1, 4999, 5001, 2**31, 2**53 - 1])
    def test_other_amount_is_refused(self, pay, order, look, amount):
        response = pay(order, amount=amount)
        assert response.status_code == 409
        assert (response.get_json()["reason"], response.get_json()["total"]) == ("amount_mismatch", 5000)
        assert look(order) == ("pending", [], 0)

    @pytest.mark.parametrize("amount", [-1, 5000.0, "5000", True, None, [], 2**53, 10**4000])
    def test_bad_amount_is_refused(self, refused, amount):
        assert refused({"method": "cash", "amount": amount}) == {"amount"}

    @pytest.mark.parametrize("method", ["cheque", "", "CASH", 1, True, None, ["cash"]])
    def test_bad_method_is_refused(self, refused, method):
        assert refused({"method": method, "amount": 5000}) == {"method"}

    @pytest.mark.parametrize("reference", ["", " ", "r" * 256, "a\0b", "\ud800", 1, True, None, ["r"]])
    def test_bad_reference_is_refused(self, refused, reference):
        assert refused({"method": "card", "amount": 5000, "reference": reference}) == {"reference"}

    def test_all_bad_fields_are_named(self, refused):
        assert refused({"reference": 1}) == {"method", "amount", "reference"}

    @pytest.mark.parametrize("method", METHODS[1:])
    def test_reference_is_required_except_for_cash(self, refused, look, order, method):
        assert refused({"method": method, "amount": 5000}) == {"reference"}
        assert refused({"method": method}) == {"reference", "amount"}
        assert look(order) == ("pending", [], 0)

    def test_reference_of_cash_is_the_orders_code(self, pay, order):
        assert pay(order).get_json()["reference"] == order["code"]

    @pytest.mark.parametrize("reference", ["r" * 255, "Ä'\"; --", " trimmed "])
    def test_reference_is_kept_as_it_is(self, pay, order, reference):
        assert pay(order, reference=reference).get_json()["reference"] == reference.strip()


class TestSameReference:
    @pytest.fixture
    def paid(self, pay, order):
        return pay(order, method="card", reference="R-1").get_json()

    @pytest.fixture
    def other(self, make_user, place, make_ticket_type):
        return place(make_user(), make_ticket_type(), 2).get_json()

    def test_again_answers_the_same_payment(self, pay, order, paid, look):
        response = pay(order, method="card", reference="R-1")
        assert (response.status_code, response.get_json()) == (200, paid)
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_again_without_a_reference_answers_the_same_payment(self, pay, order, look):
        assert [pay(order).status_code for _ in range(2)] == [201, 200]
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_again_after_the_refund_answers_the_refunded_payment(self, pay, order, paid, refund):
        refund(order)
        response = pay(order, method="card", reference="R-1")
        assert (response.status_code, response.get_json()) == (200, {**paid, "status": "refunded"})

    def test_again_for_what_is_due_answers_what_is_due(self, pay, order, cancel, look):
        cancel(order)
        assert [pay(order).status_code for _ in range(2)] == [201, 200]
        assert look(order) == ("canceled", DUE, 0)

    def test_other_amount_is_refused(self, pay, order, paid, look):
        response = pay(order, method="card", reference="R-1", amount=4999)
        assert (response.status_code, response.get_json()["reason"]) == (409, "reference_used")
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_other_order_is_refused(self, pay, paid, other, look):
        response = pay(other, method="card", reference="R-1")
        assert (response.status_code, response.get_json()["reason"]) == (409, "reference_used")
        assert look(other) == ("pending", [], 0)

    def test_other_orders_code_as_reference_is_refused(self, pay, order, other):
        pay(order)
        assert pay(other, reference=order["code"]).get_json()["reason"] == "reference_used"

    def test_other_method_is_another_payment(self, pay, paid, other, look):
        assert pay(other, method="mobile_money", reference="R-1").status_code == 201
        assert look(other) == ("paid", [("confirmed", 5000)], 2)


class TestLatePayment:
    @pytest.fixture
    def next_order(self, make_user, place, id):
        """Let the next buyer take two of the three places."""
        return lambda: place(make_user(), id, 2).get_json()

    def test_hold_that_lapsed_unseen_is_paid(self, pay, lapse, order, look, counters):
        lapse(order)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(order), counters()) == (("paid", [("confirmed", 5000)], 2), (2, 0))

    def test_expired_order_takes_free_places_again(self, pay, expire, order, look, counters):
        expire(order)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(order), counters()) == (("paid", [("confirmed", 5000)], 2), (2, 0))

    def test_expired_order_takes_places_of_a_lapsed_hold(self, pay, expire, lapse, order, next_order, look, counters):
        expire(order)
        lapsed = next_order()
        lapse(lapsed)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(lapsed)[0], counters()) == ("expired", (2, 0))

    def test_expired_order_without_room_is_due_back(self, pay, lapse, order, next_order, look, counters):
        lapse(order)
        next_order()
        response = pay(order)
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert (look(order), counters()) == (("expired", DUE, 0), (0, 2))

    def test_basket_takes_all_or_nothing(
        self, client, app, buyer, pay, expire, place, look, make_event, make_ticket_type
    ):
        event_id = make_event()
        ids = [make_ticket_type(event_id, quantity=1) for _ in range(2)]
        items = [{"ticket_type_id": id, "quantity": 1} for id in ids]
        order = client.post("/orders", json={"items": items}, headers=buyer.headers).get_json()
        expire(order)
        place(buyer, ids[1])
        pay(order)
        with app.app_context():
            assert db.session.scalar(db.select(TicketType.sold).filter_by(id=ids[0])) == 0
        assert look(order) == ("expired", DUE, 0)

    def test_next_order_is_not_disturbed(self, pay, lapse, order, next_order, look):
        lapse(order)
        following = next_order()
        pay(order)
        pay(following)
        assert look(following) == ("paid", [("confirmed", 5000)], 2)

    def test_paid_order_is_not_paid_twice(self, pay, order, look, counters):
        pay(order)
        response = pay(order, method="card", reference="again")
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert (look(order), counters()) == (("paid", [("confirmed", 5000), *DUE], 2), (2, 0))

    def test_free_order_is_not_paid_again(self, buyer, place, pay, look, make_ticket_type):
        free = place(buyer, make_ticket_type(price=0)).get_json()
        assert pay(free).get_json()["status"] == "refund_due"
        assert look(free) == ("paid", [("refund_due", 0)], 1)

    def test_canceled_order_stays_canceled(self, pay, cancel, order, look, counters):
        cancel(order)
        assert pay(order).status_code == 201
        assert (look(order), counters()) == (("canceled", DUE, 0), (0, 0))

    def test_refunded_order_stays_refunded(self, pay, refund, order, look, counters):
        pay(order)
        refund(order)
        assert pay(order, method="card", reference="again").status_code == 201
        assert (look(order), counters()) == (("refunded", [("refunded", 5000), *DUE], 2), (0, 0))

    @pytest.mark.parametrize("amount", [4999, 5001])
    def test_other_amount_is_refused_whatever_the_order_is(self, pay, cancel, order, amount):
        cancel(order)
        assert pay(order, amount=amount).get_json()["reason"] == "amount_mismatch"

    def test_canceled_event_sells_nothing(self, pay, cancel_event, order, look, counters):
        cancel_event()
        assert pay(order).status_code == 201
        assert (look(order), counters()) == (("pending", DUE, 0), (0, 2))

    def test_canceled_event_sells_nothing_to_an_expired_order(self, pay, cancel_event, expire, order, look):
        expire(order)
        cancel_event()
        assert pay(order).status_code == 201
        assert look(order) == ("expired", DUE, 0)

    @pytest.mark.parametrize("times", [1, 3])
    def test_no_payment_is_forgotten(self, context, pay, cancel, order, times):
        cancel(order)
        for number in range(times):
            pay(order, method="card", reference=str(number))
        assert db.session.scalar(db.select(db.func.sum(Payment.amount))) == 5000 * times
        assert check_inventory() == []


class TestPaymentRefundPost:
    @pytest.fixture
    def due(self, pay, cancel, order):
        cancel(order)
        return pay(order).get_json()

    @pytest.fixture
    def give_back(self, client, admin):
        def post(order, payment, user=admin):
            return client.post(f"/orders/{order['code']}/payments/{payment['id']}/refund", headers=user.headers)

        return post

    def test_refunds_what_is_due(self, give_back, order, due, get):
        response = give_back(order, due)
        assert (response.status_code, response.get_json()) == (200, {**due, "status": "refunded"})
        assert get(order)["payments"] == [response.get_json()]

    def test_second_time_is_refused(self, give_back, order, due):
        give_back(order, due)
        response = give_back(order, due)
        assert response.status_code == 409
        assert (response.get_json()["reason"], response.get_json()["status"]) == ("not_due", "refunded")

    def test_confirmed_payment_stays(self, give_back, paid_order, get):
        response = give_back(paid_order, paid_order["payments"][0])
        assert response.status_code == 409
        assert (response.get_json()["reason"], response.get_json()["status"]) == ("not_due", "confirmed")
        assert get(paid_order) == paid_order

    @pytest.mark.parametrize("who", ["buyer", "staff"])
    def test_is_for_admins(self, request, give_back, order, due, look, who):
        assert give_back(order, due, user=request.getfixturevalue(who)).status_code == 403
        assert look(order)[1] == DUE

    def test_payment_of_another_order_is_not_there(self, give_back, paid_order, due, look, order):
        assert give_back(paid_order, due).status_code == 404
        assert look(order)[1] == DUE

    @pytest.mark.parametrize("unknown", [0, 2**31 - 1, 2**31, 10**30, "x", "-1"])
    def test_unknown_payment_is_not_there(self, give_back, order, due, unknown):
        assert give_back(order, {"id": unknown}).status_code == 404


class TestConstraints:
    @pytest.mark.parametrize(
        "values",
        [
            *({"method": "cheque"}, {"status": "lost"}, {"amount": -1}, {"order_id": 2**31 - 1}),
            *({name: None} for name in ("order_id", "method", "reference", "amount", "status")),
        ],
    )
    def test_database_refuses_a_bad_row(self, paid_order, context, values):
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(Payment).values(**values))

    @pytest.mark.parametrize("changed", [{"reference": "another"}, {"status": "refund_due"}])
    def test_database_refuses_a_second_confirmed_payment_and_a_second_reference(self, paid_order, context, changed):
        [payment] = db.session.scalars(db.select(Payment))
        fields = {name: getattr(payment, name) for name in ("order_id", "method", "reference", "amount", "status")}
        with pytest.raises(IntegrityError):
            db.session.execute(db.insert(Payment).values(fields | changed))
