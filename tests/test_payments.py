"""Payments: what they buy, what is due back, and that none is forgotten."""

import re
from json import dumps

import pytest
from sqlalchemy.exc import IntegrityError

from models import Event, Payment, TicketType, db, now
from routes.commands import lapse_in_steps
from routes.selling.inventory import check_inventory
from routes.selling.places import events_with_lapsed_orders

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
def look(get_order, admin):
    """The status of an order, its payments' status and amounts, and how many tickets it has."""

    def read(order):
        order = get_order(order, admin)
        return order["status"], [(it["status"], it["amount"]) for it in order["payments"]], len(order["tickets"])

    return read


@pytest.fixture
def expire(app, lapse):
    """Let an order lapse and have that written down."""

    def run(order):
        lapse(order)
        with app.app_context():
            assert [lapse_in_steps(event_id) for event_id in events_with_lapsed_orders()]
            db.session.commit()

    return run


def by_hand(app, statement):
    with app.app_context():
        db.session.execute(statement)
        db.session.commit()


def check(app):
    with app.app_context():
        return check_inventory()


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

    def test_answers_what_the_order_shows(self, pay, order, get_order, admin):
        payment = pay(order).get_json()
        assert payment.pop("order")
        assert get_order(order, admin)["payments"] == [payment]
        shown = {"id", "method", "provider", "reference", "amount", "status", "created_at", "by"}
        assert set(payment) == shown | {"refunded", "refunds", "disputed"}

    def test_answers_with_its_order(self, pay, order):
        event = {"id": order["event"]["id"], "name": "Concert"}
        expected = {"code": order["code"], "status": "paid", "currency": "USD", "event": event}
        assert pay(order).get_json()["order"] == expected

    def test_says_who_took_it(self, pay, staff, order):
        assert pay(order).get_json()["by"] == {"id": staff.id, "name": "Somebody"}

    def test_who_took_it_is_not_for_the_buyer(self, client, buyer, pay, order):
        pay(order)
        listed = client.get("/orders", headers=buyer.headers).get_json()
        read = client.get(f"/orders/{order['code']}", headers=buyer.headers).get_json()
        assert [it["payments"][0]["by"] for it in (*listed, read)] == [None, None]

    def test_places_held_are_sold(self, pay, order, counters, id):
        pay(order)
        assert counters(id) == (2, 0)

    def test_tickets_are_of_the_order(self, client, buyer, pay, order, get_order, admin):
        pay(order)
        tickets = get_order(order, admin)["tickets"]
        assert client.get("/tickets", headers=buyer.headers).get_json() in (tickets, tickets[::-1])
        assert {(it["status"], it["ticket_type"]["id"]) for it in tickets} == {
            ("valid", order["items"][0]["ticket_type_id"])
        }
        assert all(re.fullmatch("[0-9A-F]{32}", it["code"]) for it in tickets)

    def test_basket_has_tickets_of_each_type(self, place_lines, pay, get_order, make_event, make_ticket_type, admin):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        order = place_lines((ids[0], 1), (ids[1], 2)).get_json()
        pay(order)
        assert [it["ticket_type"]["id"] for it in get_order(order, admin)["tickets"]] == [ids[0], ids[1], ids[1]]

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

    @pytest.mark.parametrize(
        "code", [0, 0x1F, 0x7F, 0xAD, 0x34F, 0x200B, 0x202E, 0x2800, 0x3164, 0xFE0F, 0xFEFF, 0xE0020]
    )
    @pytest.mark.parametrize("method", ["card", "cash"])
    def test_reference_with_what_can_not_be_seen_is_refused(self, refused, look, order, method, code):
        assert refused({"method": method, "amount": 5000, "reference": f"R{chr(code)}1"}) == {"reference"}
        assert look(order) == ("pending", [], 0)

    def test_cash_has_no_reference_unless_it_is_given_one(self, pay, order):
        assert pay(order).get_json()["reference"] is None

    @pytest.mark.parametrize("reference", ["r" * 255, "Ä'\"; --", " trimmed "])
    def test_reference_is_kept_as_it_is(self, pay, order, reference):
        assert pay(order, reference=reference).get_json()["reference"] == reference.strip()

    def test_reference_is_kept_composed(self, pay, order):
        assert pay(order, reference="Cafe\u0301").get_json()["reference"] == "Café"


class TestSameReference:
    @pytest.fixture
    def paid(self, pay, order):
        return pay(order, method="card", reference="Ré-1").get_json()

    @pytest.fixture
    def other(self, make_user, place, make_ticket_type):
        return place(make_user(), make_ticket_type(), 2).get_json()

    @pytest.mark.parametrize("reference", ["Ré-1", "ré-1", "RE\u0301-1"])
    def test_again_answers_the_same_payment(self, pay, order, paid, look, reference):
        response = pay(order, method="card", reference=reference)
        assert (response.status_code, response.get_json()) == (200, paid)
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_again_after_the_refund_is_another_payment(self, pay, order, paid, refund, look):
        refund(order)
        response = pay(order, method="card", reference="ré-1")
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert look(order) == ("refunded", [("refunded", 5000), *DUE], 2)

    def test_third_time_after_the_refund_answers_the_second(self, pay, order, paid, refund):
        refund(order)
        second, third = (pay(order, method="card", reference="Ré-1") for _ in range(2))
        assert (third.status_code, third.get_json()) == (200, second.get_json())

    def test_other_order_may_not_have_a_refunded_reference_either(self, pay, order, paid, refund, other):
        refund(order)
        assert pay(other, method="card", reference="RÉ-1").get_json()["reason"] == "reference_used"

    def test_again_for_what_is_due_answers_what_is_due(self, pay, order, cancel, look):
        cancel(order)
        assert [pay(order, reference="R").status_code for _ in range(2)] == [201, 200]
        assert look(order) == ("canceled", DUE, 0)

    def test_other_amount_is_refused(self, pay, order, paid, look):
        response = pay(order, method="card", reference="ré-1", amount=4999)
        assert (response.status_code, response.get_json()["reason"]) == (409, "reference_used")
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    @pytest.mark.parametrize("reference", ["Ré-1", "RÉ-1", "re\u0301-1"])
    def test_other_order_is_refused(self, pay, paid, other, look, reference):
        response = pay(other, method="card", reference=reference)
        assert (response.status_code, response.get_json()["reason"]) == (409, "reference_used")
        assert look(other) == ("pending", [], 0)

    def test_other_blanks_are_the_same_reference(self, pay, order, other):
        pay(order, reference="R 1")
        assert pay(other, reference="R\u00a0 1").get_json()["reason"] == "reference_used"

    def test_other_method_is_another_payment(self, pay, paid, other, look):
        assert pay(other, method="mobile_money", reference="Ré-1").status_code == 201
        assert look(other) == ("paid", [("confirmed", 5000)], 2)


class TestCashWithoutReference:
    """Each time it is money taken anew."""

    def test_paid_order_is_not_paid_again(self, pay, order, look, get_order, admin):
        pay(order)
        response = pay(order)
        shown = response.get_json()
        assert (response.status_code, shown["reason"]) == (409, "already_paid")
        assert {name: shown["payment"][name] for name in get_order(order, admin)["payments"][0]} == get_order(
            order, admin
        )["payments"][0]
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_order_paid_by_card_is_not_paid_again(self, pay, order, look):
        payment = pay(order, method="card", reference="R").get_json()
        response = pay(order)
        assert (response.status_code, response.get_json()["payment"]) == (409, payment)
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_other_amount_for_a_paid_order_is_a_mismatch(self, pay, order):
        pay(order)
        assert pay(order, amount=1).get_json()["reason"] == "amount_mismatch"

    def test_each_for_a_canceled_order_is_due_back(self, pay, cancel, order, look):
        cancel(order)
        assert [pay(order).status_code for _ in range(2)] == [201, 201]
        assert look(order) == ("canceled", DUE * 2, 0)

    def test_after_a_refund_it_is_due_back(self, pay, refund, order, look):
        pay(order)
        refund(order)
        assert pay(order).status_code == 201
        assert look(order) == ("refunded", [("refunded", 5000), *DUE], 2)

    def test_late_payment_given_back_can_be_paid_again(
        self, client, admin, make_user, place, cancel, pay, lapse, order, look, id
    ):
        lapse(order)
        other = place(admin, id, 2).get_json()
        payment = pay(order).get_json()
        client.post(f"/orders/{order['code']}/payments/{payment['id']}/refund", headers=admin.headers)
        cancel(other, admin)
        assert pay(order).get_json()["status"] == "confirmed"
        assert look(order) == ("paid", [("refunded", 5000), ("confirmed", 5000)], 2)

    def test_same_key_is_one_payment(self, client, staff, order, look):
        headers = {**staff.headers, "Idempotency-Key": "click"}
        body = {"method": "cash", "amount": 5000}
        path = f"/orders/{order['code']}/payments"
        assert [client.post(path, json=body, headers=headers).status_code for _ in range(2)] == [201, 201]
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_refusal_is_not_kept_for_the_key(self, client, staff, pay, refund, order):
        pay(order)
        headers = {**staff.headers, "Idempotency-Key": "click"}
        body = {"method": "cash", "amount": 5000}
        path = f"/orders/{order['code']}/payments"
        assert client.post(path, json=body, headers=headers).status_code == 409
        refund(order)
        assert client.post(path, json=body, headers=headers).status_code == 201


class TestLatePayment:
    @pytest.fixture
    def next_order(self, make_user, place, id):
        """Let the next buyer take two of the three places."""
        return lambda: place(make_user(), id, 2).get_json()

    def test_hold_that_lapsed_unseen_is_paid(self, pay, lapse, order, look, counters, id):
        lapse(order)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(order), counters(id)) == (("paid", [("confirmed", 5000)], 2), (2, 0))

    def test_expired_order_takes_free_places_again(self, pay, expire, order, look, counters, id):
        expire(order)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(order), counters(id)) == (("paid", [("confirmed", 5000)], 2), (2, 0))

    def test_expired_order_takes_places_of_a_lapsed_hold(
        self, pay, expire, lapse, order, next_order, look, counters, id
    ):
        expire(order)
        lapsed = next_order()
        lapse(lapsed)
        assert pay(order).get_json()["status"] == "confirmed"
        assert (look(lapsed)[0], counters(id)) == ("expired", (2, 0))

    def test_expired_order_without_room_is_due_back(self, pay, lapse, order, next_order, look, counters, id):
        lapse(order)
        next_order()
        response = pay(order)
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert (look(order), counters(id)) == (("expired", DUE, 0), (0, 2))

    def test_basket_takes_all_or_nothing(
        self, app, buyer, pay, expire, place, place_lines, look, make_event, make_ticket_type
    ):
        event_id = make_event()
        ids = [make_ticket_type(event_id, quantity=1) for _ in range(2)]
        order = place_lines(*((id, 1) for id in ids)).get_json()
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

    def test_paid_order_is_not_paid_twice(self, pay, order, look, counters, id):
        pay(order)
        response = pay(order, method="card", reference="again")
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert (look(order), counters(id)) == (("paid", [("confirmed", 5000), *DUE], 2), (2, 0))

    @pytest.mark.parametrize("end", [None, "refund"])
    @pytest.mark.parametrize("fields", [{}, {"reference": "R"}, {"method": "card", "reference": "R"}, {"amount": 1}])
    def test_nothing_is_due_for_a_free_order(self, request, buyer, place, pay, look, make_ticket_type, fields, end):
        free = place(buyer, make_ticket_type(price=0)).get_json()
        if end:
            request.getfixturevalue(end)(free)
        response = pay(free, **fields)
        assert (response.status_code, response.get_json()["reason"]) == (409, "nothing_due")
        assert look(free)[1] == []

    def test_canceled_order_stays_canceled(self, pay, cancel, order, look, counters, id):
        cancel(order)
        assert pay(order).status_code == 201
        assert (look(order), counters(id)) == (("canceled", DUE, 0), (0, 0))

    def test_refunded_order_stays_refunded(self, pay, refund, order, look, counters, id):
        pay(order)
        refund(order)
        assert pay(order, method="card", reference="again").status_code == 201
        assert (look(order), counters(id)) == (("refunded", [("refunded", 5000), *DUE], 2), (0, 0))

    @pytest.mark.parametrize("amount", [4999, 5001])
    def test_other_amount_is_refused_whatever_the_order_is(self, pay, cancel, order, amount):
        cancel(order)
        assert pay(order, amount=amount).get_json()["reason"] == "amount_mismatch"

    def test_canceled_event_sells_nothing(self, pay, cancel_event, order, look, counters, id):
        cancel_event(order["event"]["id"])
        assert pay(order).status_code == 201
        assert (look(order), counters(id)) == (("pending", DUE, 0), (0, 2))

    def test_canceled_event_sells_nothing_to_an_expired_order(self, pay, cancel_event, expire, order, look):
        expire(order)
        cancel_event(order["event"]["id"])
        assert pay(order).status_code == 201
        assert look(order) == ("expired", DUE, 0)

    @pytest.mark.parametrize("written", [False, True])
    @pytest.mark.parametrize("closed", [{"sales_end": -1}, {"sales_start": 1}])
    def test_late_payment_gets_nothing_that_is_no_longer_on_sale(
        self, app, pay, lapse, expire, order, look, counters, id, closed, written
    ):
        (expire if written else lapse)(order)
        times = {name: now(days * 86_400) for name, days in closed.items()}
        by_hand(app, db.update(TicketType).where(TicketType.id == id).values(times))
        response = pay(order)
        assert (response.status_code, response.get_json()["status"]) == (201, "refund_due")
        assert look(order) == ("expired", DUE, 0)
        assert (counters(id), check(app)) == ((0, 0 if written else 2), [])

    def test_payment_in_time_is_good_after_sales_closed(self, app, pay, order, look, id):
        by_hand(app, db.update(TicketType).where(TicketType.id == id).values(sales_end=now(-1)))
        pay(order)
        assert look(order) == ("paid", [("confirmed", 5000)], 2)

    def test_late_payment_for_a_basket_wants_all_of_it_on_sale(
        self, app, place_lines, pay, lapse, look, make_event, make_ticket_type
    ):
        event_id = make_event()
        ids = [make_ticket_type(event_id) for _ in range(2)]
        order = place_lines(*((id, 1) for id in ids)).get_json()
        lapse(order)
        by_hand(app, db.update(TicketType).where(TicketType.id == ids[1]).values(sales_end=now(-1)))
        pay(order)
        assert look(order) == ("expired", DUE, 0)

    @pytest.mark.parametrize("state", ["pending", "lapsed", "expired"])
    def test_event_that_is_over_sells_nothing(self, request, app, pay, order, look, id, state):
        if state != "pending":
            request.getfixturevalue({"lapsed": "lapse", "expired": "expire"}[state])(order)
        over = {"starts_at": now(-7200), "ends_at": now(-3600)}
        by_hand(app, db.update(Event).values(over))
        by_hand(app, db.update(TicketType).where(TicketType.id == id).values(sales_end=now(3600)))
        assert pay(order).get_json()["status"] == "refund_due"
        assert look(order)[1:] == (DUE, 0)

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

    def test_refunds_what_is_due(self, give_back, order, due, get_order, admin):
        response = give_back(order, due)
        [refund] = response.get_json()["refunds"]
        assert (refund["amount"], refund["status"]) == (due["amount"], "succeeded")
        back = {"status": "refunded", "refunded": due["amount"], "refunds": [refund]}
        assert (response.status_code, response.get_json()) == (200, due | back)
        assert [it["status"] for it in get_order(order, admin)["payments"]] == ["refunded"]

    def test_second_time_is_refused(self, give_back, order, due):
        give_back(order, due)
        response = give_back(order, due)
        assert response.status_code == 409
        assert (response.get_json()["reason"], response.get_json()["status"]) == ("not_due", "refunded")

    def test_confirmed_payment_stays(self, give_back, paid_order, look):
        response = give_back(paid_order, paid_order["payments"][0])
        assert response.status_code == 409
        assert (response.get_json()["reason"], response.get_json()["status"]) == ("not_due", "confirmed")
        assert look(paid_order) == ("paid", [("confirmed", 5000)], 2)

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
            *({"taken_by": 2**31 - 1}, {"method": "card"}),
            *({name: None} for name in ("order_id", "method", "amount", "status")),
        ],
    )
    def test_database_refuses_a_bad_row(self, paid_order, context, values):
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(Payment).values(**values))

    @pytest.mark.parametrize("changed", [{"reference_key": "another"}, {"status": "refund_due"}])
    def test_database_refuses_a_second_confirmed_payment_and_a_second_reference(self, pay, order, context, changed):
        pay(order, reference="R")
        [payment] = db.session.scalars(db.select(Payment))
        fields = {name: getattr(payment, name) for name in ("order_id", "method", "reference_key", "amount", "status")}
        with pytest.raises(IntegrityError):
            db.session.execute(db.insert(Payment).values(fields | changed))
