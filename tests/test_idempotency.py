"""The Idempotency-Key: what is sent again is done once and answered as it was."""

import json
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import Engine, event

from models import IdempotencyKey, Order, Payment

from .conftest import order_body, refusal

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
def body(id):
    """The body of an order."""
    return lambda quantity=1: order_body((id, quantity))


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


class TestOrders:
    def test_again_answers_what_the_first_answered(self, send, body):
        first, again = send(body()), send(body())
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.data == first.data
        assert again.headers["Location"] == first.headers["Location"]
        assert again.content_type == first.content_type

    def test_only_the_repetition_says_so(self, send, body):
        first, again = send(body()), send(body())
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_again_orders_nothing(self, send, body, count_rows, counters, id):
        for _ in range(3):
            send(body(2))
        assert (count_rows(Order), counters(id)) == (1, (0, 2))

    def test_without_a_key_each_is_an_order(self, client, buyer, body, count_rows):
        for _ in range(2):
            client.post("/orders", json=body(), headers=buyer.headers)
        assert count_rows(Order) == 2

    def test_other_key_is_another_order(self, send, body, count_rows):
        assert send(body(), "a").headers["Location"] != send(body(), "b").headers["Location"]
        assert count_rows(Order) == 2

    def test_again_answers_what_the_first_answered_whatever_has_become_of_it(self, client, buyer, send, body):
        first = send(body())
        client.post(f"{first.headers['Location']}/cancel", headers=buyer.headers)
        assert send(body()).data == first.data

    def test_free_order_is_answered_again_with_its_tickets(self, send, make_ticket_type):
        body = order_body((make_ticket_type(price=0), 2))
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
    def test_spaces_and_the_order_of_fields_do_not_matter(self, send, body, id, form):
        first = send(body())
        assert send(form.format(id=id)).data == first.data

    def test_other_body_is_refused(self, send, body, count_rows):
        send(body(1))
        assert refusal(send(body(2))) == REUSED
        assert count_rows(Order) == 1

    @pytest.mark.parametrize("note", ["x", None])
    def test_field_more_is_another_body(self, send, body, count_rows, note):
        send(body())
        assert refusal(send(body() | {"note": note})) == REUSED
        assert count_rows(Order) == 1

    def test_one_and_true_are_not_the_same(self, send, body):
        send(body() | {"note": 1})
        assert refusal(send(body() | {"note": True})) == REUSED

    def test_other_users_key_is_his_own(self, send, body, make_user, count_rows):
        first, others = send(body()), send(body(), user=make_user())
        assert "Idempotent-Replayed" not in others.headers
        assert (others.status_code, count_rows(Order)) == (201, 2)
        assert first.headers["Location"] != others.headers["Location"]

    def test_no_key_is_kept_for_a_call_without_one(self, client, buyer, body, count_rows):
        client.post("/orders", json=body(), headers=buyer.headers)
        assert count_rows(IdempotencyKey) == 0


class TestRefusals:
    def test_refusal_may_be_tried_again(self, buyer, place, id, send, body, count_rows, cancel):
        taken = place(buyer, id, 3).get_json()
        assert refusal(send(body())) == (409, "sold_out")
        cancel(taken)
        again = send(body())
        assert (again.status_code, "Idempotent-Replayed" in again.headers) == (201, False)

    def test_refusal_is_not_kept(self, send, body, count_rows):
        send(body(4))
        assert (count_rows(IdempotencyKey), count_rows(Order)) == (0, 0)

    @pytest.mark.parametrize("bad", ["{", "[]", "{}", '{"items": []}', '{"items": [{"ticket_type_id": 0}]}'])
    def test_bad_body_leaves_the_key_free(self, send, body, bad):
        assert send(bad).status_code == 400
        assert send(body()).status_code == 201

    def test_what_is_not_found_leaves_the_key_free(self, send, body, id):
        assert send(order_body((id + 1, 1))).status_code == 404
        assert send(body()).status_code == 201


class TestPayments:
    @pytest.fixture
    def path(self, buyer, place, id):
        return f"/orders/{place(buyer, id, 2).get_json()['code']}/payments"

    @pytest.fixture
    def pay(self, send, staff, path):
        """Send a payment for the order at `path`."""
        return lambda path=path, **body: send({"method": "cash", "amount": 5000} | body, user=staff, path=path)

    def test_again_answers_what_the_first_answered(self, pay, count_rows):
        first, again = pay(), pay()
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.data == first.data
        assert again.headers["Idempotent-Replayed"] == "true"
        assert count_rows(Payment) == 1

    def test_other_key_is_money_taken_anew(self, pay, send, staff, path):
        pay()
        for _ in range(2):
            again = send({"method": "cash", "amount": 5000}, "another", user=staff, path=path)
            assert (again.status_code, again.get_json()["reason"]) == (409, "already_paid")

    def test_other_amount_is_refused(self, pay, count_rows):
        pay()
        assert refusal(pay(amount=4999)) == REUSED
        assert count_rows(Payment) == 1

    def test_other_order_is_refused(self, pay, buyer, place, make_ticket_type, count_rows):
        other = place(buyer, make_ticket_type(), 2).get_json()
        pay()
        assert refusal(pay(path=f"/orders/{other['code']}/payments")) == REUSED
        assert count_rows(Payment) == 1

    def test_key_of_an_order_is_not_one_of_a_payment(self, pay, send, staff, body, count_rows):
        send(body(), user=staff)
        assert refusal(pay()) == REUSED
        assert count_rows(Payment) == 0

    def test_refusal_may_be_tried_again(self, pay):
        assert refusal(pay(amount=1)) == (409, "amount_mismatch")
        assert pay().status_code == 201


class TestKey:
    @pytest.mark.parametrize("key", ["k", "k" * 255, "4c1c2f8e-0c1b-4f0e-9d7e-1f5a2b3c4d5e", "'; --", "a b"])
    def test_is_any_text(self, send, body, count_rows, key):
        assert send(body(), key).data == send(body(), key).data
        assert count_rows(Order) == 1

    @pytest.mark.parametrize("key", ["", " ", "k" * 256, "é", "a\tb"])
    def test_blank_too_long_or_foreign_is_refused(self, send, body, count_rows, key):
        response = send(body(), key)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["Idempotency-Key"])
        assert count_rows(Order) == 0

    def test_path_is_the_same_however_its_code_is_written(self, send, staff, buyer, place, id, count_rows):
        code = place(buyer, id, 2).get_json()["code"]
        pay = partial(send, {"method": "cash", "amount": 5000}, user=staff)
        assert pay(path=f"/orders/{code.lower()}%0A/payments").status_code == 201
        again = pay(path=f"/orders/{code}/payments")
        assert (again.status_code, again.headers["Idempotent-Replayed"], count_rows(Payment)) == (201, "true", 1)

    def test_case_tells_keys_apart(self, send, body, count_rows):
        send(body(), "a")
        send(body(), "A")
        assert count_rows(Order) == 2

    def test_forgotten_in_the_middle_of_its_repetition_is_a_new_one(self, send, body, count_rows):
        send(body())
        with before("SELECT idempotency_keys", lambda cursor: cursor.execute("DELETE FROM idempotency_keys")):
            assert send(body()).status_code == 201
        assert count_rows(Order) == 2


class TestCrash:
    """What was done and the key are of one transaction: where it breaks off, neither is there."""

    def crash(self, cursor):
        raise RuntimeError("crash")

    @pytest.mark.parametrize(
        "beginning",
        ["INSERT INTO idempotency_keys", "INSERT INTO orders", "INSERT INTO order_items", "UPDATE idempotency_keys"],
    )
    def test_leaves_neither_order_nor_key(self, send, body, count_rows, counters, id, beginning):
        with before(beginning, self.crash):
            assert send(body()).status_code == 500
        assert (count_rows(Order), count_rows(IdempotencyKey), counters(id)) == (0, 0, (0, 0))
        assert send(body()).status_code == 201

    def test_leaves_neither_payment_nor_key(self, send, staff, buyer, place, id, count_rows):
        path = f"{place(buyer, id, 2).headers['Location']}/payments"
        pay = partial(send, {"method": "cash", "amount": 5000}, user=staff, path=path)
        with before("UPDATE idempotency_keys", self.crash):
            assert pay().status_code == 500
        assert (count_rows(Payment), count_rows(IdempotencyKey)) == (0, 0)
        assert pay().status_code == 201
