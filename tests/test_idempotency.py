"""The Idempotency-Key: what is sent again is done once and answered as it was."""

import json
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import Engine, event

from models import IdempotencyKey, Order, Payment, TicketType, db

KEY = "3f8a"
REUSED = (409, "idempotency_key_reused")


@pytest.fixture
def id(make_ticket_type):
    return make_ticket_type(quantity=3)


@pytest.fixture
def send(client, buyer):
    """Send a body, as JSON or as its text, with a key, and return the response."""

    def post(body, key=KEY, user=buyer, path="/orders"):
        data = body if isinstance(body, str) else json.dumps(body)
        headers = {**user.headers, "Idempotency-Key": key}
        return client.post(path, data=data, content_type="application/json", headers=headers)

    return post


@pytest.fixture
def order(id):
    """The body of an order."""
    return lambda quantity=1: {"items": [{"ticket_type_id": id, "quantity": quantity}]}


@pytest.fixture
def count(app):
    """How many rows of a model there are."""

    def rows(model):
        with app.app_context():
            return db.session.scalar(db.select(db.func.count()).select_from(model))

    return rows


@pytest.fixture
def held(app, id):
    def read():
        with app.app_context():
            return db.session.scalar(db.select(TicketType.held).filter_by(id=id))

    return read


@contextmanager
def before(beginning, act):
    """Act on the cursor, once, before the first statement that begins like this."""
    seen = []

    def look(connection, cursor, statement, *args):
        if statement.startswith(beginning) and not seen:
            seen.append(statement)
            act(cursor)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert seen


def refusal(response):
    return response.status_code, response.get_json().get("reason")


class TestOrders:
    def test_again_answers_what_the_first_answered(self, send, order):
        first, again = send(order()), send(order())
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.data == first.data
        assert again.headers["Location"] == first.headers["Location"]
        assert again.content_type == first.content_type

    def test_only_the_repetition_says_so(self, send, order):
        first, again = send(order()), send(order())
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_again_orders_nothing(self, send, order, count, held):
        for _ in range(3):
            send(order(2))
        assert (count(Order), held()) == (1, 2)

    def test_without_a_key_each_is_an_order(self, client, buyer, order, count):
        for _ in range(2):
            client.post("/orders", json=order(), headers=buyer.headers)
        assert count(Order) == 2

    def test_other_key_is_another_order(self, send, order, count):
        assert send(order(), "a").headers["Location"] != send(order(), "b").headers["Location"]
        assert count(Order) == 2

    def test_again_answers_what_the_first_answered_whatever_has_become_of_it(self, client, buyer, send, order):
        first = send(order())
        client.post(f"{first.headers['Location']}/cancel", headers=buyer.headers)
        assert send(order()).data == first.data

    def test_free_order_is_answered_again_with_its_tickets(self, send, make_ticket_type):
        body = {"items": [{"ticket_type_id": make_ticket_type(price=0), "quantity": 2}]}
        first, again = send(body), send(body)
        assert again.data == first.data
        assert len(again.get_json()["tickets"]) == 2

    @pytest.mark.parametrize(
        "form",
        [
            '{{"items":[{{"quantity":1,"ticket_type_id":{id}}}]}}',
            ' {{ "items" :\r\n\t[ {{ "ticket_type_id" : {id} , "quantity" : 1 }} ] }} ',
            '{{"\\u0069tems": [{{"ticket_type_id": {id}, "quantity": 1}}]}}',
        ],
    )
    def test_spaces_and_the_order_of_fields_do_not_matter(self, send, order, id, form):
        first = send(order())
        assert send(form.format(id=id)).data == first.data

    def test_other_body_is_refused(self, send, order, count):
        send(order(1))
        assert refusal(send(order(2))) == REUSED
        assert count(Order) == 1

    @pytest.mark.parametrize("note", ["x", None])
    def test_field_more_is_another_body(self, send, order, count, note):
        send(order())
        assert refusal(send(order() | {"note": note})) == REUSED
        assert count(Order) == 1

    def test_one_and_true_are_not_the_same(self, send, order):
        send(order() | {"note": 1})
        assert refusal(send(order() | {"note": True})) == REUSED

    def test_other_users_key_is_his_own(self, send, order, make_user, count):
        first, others = send(order()), send(order(), user=make_user())
        assert "Idempotent-Replayed" not in others.headers
        assert (others.status_code, count(Order)) == (201, 2)
        assert first.headers["Location"] != others.headers["Location"]

    def test_no_key_is_kept_for_a_call_without_one(self, client, buyer, order, count):
        client.post("/orders", json=order(), headers=buyer.headers)
        assert count(IdempotencyKey) == 0


class TestRefusals:
    def test_refusal_may_be_tried_again(self, client, buyer, place, id, send, order, count):
        taken = place(buyer, id, 3).get_json()
        assert refusal(send(order())) == (409, "sold_out")
        client.post(f"/orders/{taken['code']}/cancel", headers=buyer.headers)
        again = send(order())
        assert (again.status_code, "Idempotent-Replayed" in again.headers) == (201, False)

    def test_refusal_is_not_kept(self, send, order, count):
        send(order(4))
        assert (count(IdempotencyKey), count(Order)) == (0, 0)

    @pytest.mark.parametrize("bad", ["{", "[]", "{}", '{"items": []}', '{"items": [{"ticket_type_id": 0}]}'])
    def test_bad_body_leaves_the_key_free(self, send, order, bad):
        assert send(bad).status_code == 400
        assert send(order()).status_code == 201

    def test_what_is_not_found_leaves_the_key_free(self, send, order, id):
        assert send({"items": [{"ticket_type_id": id + 1, "quantity": 1}]}).status_code == 404
        assert send(order()).status_code == 201


class TestPayments:
    @pytest.fixture
    def path(self, buyer, place, id):
        return f"/orders/{place(buyer, id, 2).get_json()['code']}/payments"

    @pytest.fixture
    def pay(self, send, staff, path):
        """Send a payment for the order at `path`."""
        return lambda path=path, **body: send({"method": "cash", "amount": 5000} | body, user=staff, path=path)

    def test_again_answers_what_the_first_answered(self, pay, count):
        first, again = pay(), pay()
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.data == first.data
        assert again.headers["Idempotent-Replayed"] == "true"
        assert count(Payment) == 1

    def test_other_key_finds_the_same_payment(self, pay, send, staff, path):
        first = pay()
        for _ in range(2):
            again = send({"method": "cash", "amount": 5000}, "another", user=staff, path=path)
            assert (again.status_code, again.get_json()) == (200, first.get_json())

    def test_other_amount_is_refused(self, pay, count):
        pay()
        assert refusal(pay(amount=4999)) == REUSED
        assert count(Payment) == 1

    def test_other_order_is_refused(self, pay, buyer, place, make_ticket_type, count):
        other = place(buyer, make_ticket_type(), 2).get_json()
        pay()
        assert refusal(pay(path=f"/orders/{other['code']}/payments")) == REUSED
        assert count(Payment) == 1

    def test_key_of_an_order_is_not_one_of_a_payment(self, pay, send, staff, order, count):
        send(order(), user=staff)
        assert refusal(pay()) == REUSED
        assert count(Payment) == 0

    def test_refusal_may_be_tried_again(self, pay):
        assert refusal(pay(amount=1)) == (409, "amount_mismatch")
        assert pay().status_code == 201


class TestKey:
    @pytest.mark.parametrize("key", ["k", "k" * 255, "4c1c2f8e-0c1b-4f0e-9d7e-1f5a2b3c4d5e", "'; --", "a b"])
    def test_is_any_text(self, send, order, count, key):
        assert send(order(), key).data == send(order(), key).data
        assert count(Order) == 1

    @pytest.mark.parametrize("key", ["", " ", "k" * 256, "é", "a\tb"])
    def test_blank_too_long_or_foreign_is_refused(self, send, order, count, key):
        response = send(order(), key)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["Idempotency-Key"])
        assert count(Order) == 0

    def test_case_tells_keys_apart(self, send, order, count):
        send(order(), "a")
        send(order(), "A")
        assert count(Order) == 2

    def test_forgotten_in_the_middle_of_its_repetition_is_a_new_one(self, send, order, count):
        send(order())
        with before("SELECT idempotency_keys", lambda cursor: cursor.execute("DELETE FROM idempotency_keys")):
            assert send(order()).status_code == 201
        assert count(Order) == 2


class TestCrash:
    """What was done and the key are of one transaction: where it breaks off, neither is there."""

    def crash(self, cursor):
        raise RuntimeError("crash")

    @pytest.mark.parametrize(
        "beginning",
        ["INSERT INTO idempotency_keys", "INSERT INTO orders", "INSERT INTO order_items", "UPDATE idempotency_keys"],
    )
    def test_leaves_neither_order_nor_key(self, send, order, count, held, beginning):
        with before(beginning, self.crash):
            assert send(order()).status_code == 500
        assert (count(Order), count(IdempotencyKey), held()) == (0, 0, 0)
        assert send(order()).status_code == 201

    def test_leaves_neither_payment_nor_key(self, send, staff, buyer, place, id, count):
        path = f"{place(buyer, id, 2).headers['Location']}/payments"
        pay = partial(send, {"method": "cash", "amount": 5000}, user=staff, path=path)
        with before("UPDATE idempotency_keys", self.crash):
            assert pay().status_code == 500
        assert (count(Payment), count(IdempotencyKey)) == (0, 0)
        assert pay().status_code == 201
