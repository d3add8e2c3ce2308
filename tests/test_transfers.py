"""Tickets that are passed on: the link, who accepts it, and what the code before is still good for."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from models import Event, Mail, Ticket, TicketCode, Transfer, db

from .conftest import PASSWORD, plain_text, refusal
from .test_access import signed

FRIEND = "friend@example.com"


@pytest.fixture
def paid_order(buyer, make_ticket_type, place, pay, get_order):
    order = place(buyer, make_ticket_type()).get_json()
    pay(order)
    return get_order(order)


@pytest.fixture
def code(paid_order):
    return paid_order["tickets"][0]["code"]


@pytest.fixture
def friend(make_user):
    return make_user(email=FRIEND, name="Grace Hopper")


@pytest.fixture
def offer(client, buyer, code, shop):
    def post(email=FRIEND, user=buyer, code=code):
        return client.post(f"/tickets/{code}/transfer", json={"email": email}, headers=user.headers)

    return post


@pytest.fixture
def withdraw(client, buyer, code):
    return lambda user=buyer, code=code: client.delete(f"/tickets/{code}/transfer", headers=user.headers)


@pytest.fixture
def mailed_token(send_mails):
    """The token of the last link that was mailed."""

    def read():
        links = [re.search(r"/transfer#token=(\S+)", plain_text(mail)) for mail in send_mails()]
        return [link[1] for link in links if link][-1]

    return read


@pytest.fixture
def accept(client, friend):
    def post(token, user=friend):
        return client.post("/transfers/accept", json={"token": token}, headers=user.headers)

    return post


@pytest.fixture
def passed_on(offer, accept, mailed_token):
    """The ticket, once the friend has accepted it."""
    offer()
    return accept(mailed_token()).get_json()


@pytest.fixture
def change_event(app, code):
    def change(**fields):
        with app.app_context():
            event = db.session.scalar(
                db.select(Event).join(Ticket, Ticket.event_id == Event.id).where(Ticket.code == code)
            )
            for name, value in fields.items():
                setattr(event, name, value)
            db.session.commit()

    return change


class TestOffer:
    def test_is_pending_for_a_week_and_mails_a_link(self, offer, send_mails):
        response = offer(" Friend@Example.com ")
        body = response.get_json()
        assert response.status_code == 201
        assert (body["status"], body["to"], set(body)) == ("pending", FRIEND, {"status", "to", "expires_at"})
        last = datetime.now(UTC) + timedelta(days=7)
        assert datetime.fromisoformat(body["expires_at"]) <= last
        mail = send_mails()[-1]
        assert FRIEND in mail["To"]
        assert "Somebody wants to pass a ticket on to you" in plain_text(mail)

    def test_ends_with_the_event(self, offer, change_event):
        start = datetime.now(UTC) + timedelta(hours=1)
        end = (start + timedelta(hours=2)).replace(microsecond=0)
        change_event(starts_at=start, ends_at=end)
        assert datetime.fromisoformat(offer().get_json()["expires_at"]) == end

    def test_one_at_a_time(self, offer):
        first = offer().get_json()
        assert refusal(offer("other@example.com")) == (409, "transfer_pending")
        assert offer().get_json().items() >= first.items()

    def test_anew_once_the_last_has_lapsed(self, app, offer):
        offer()
        with app.app_context():
            db.session.execute(db.update(Transfer).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
            db.session.commit()
        assert offer().status_code == 201

    @pytest.mark.parametrize("email", ["", "x", 5, None, "a" * 400 + "@example.com"])
    def test_wants_an_address(self, offer, email):
        response = offer(email)
        assert (response.status_code, set(response.get_json()["message"])) == (400, {"email"})

    def test_not_to_oneself(self, offer, buyer):
        response = offer(buyer.email.upper())
        assert (response.status_code, response.get_json()["message"]) == (
            400,
            {"email": "Must be somebody else's address"},
        )

    def test_its_owner_alone(self, offer, withdraw, staff, admin, friend):
        assert [offer(user=user).status_code for user in (friend, staff, admin)] == [404] * 3
        assert [withdraw(user).status_code for user in (friend, staff, admin)] == [404] * 3

    def test_used_and_void(self, offer, check_in, code, client, staff, refund, paid_order):
        check_in(code)
        assert refusal(offer()) == (409, "used")
        client.delete(f"/tickets/{code}/check-in", headers=staff.headers)
        refund(paid_order)
        assert refusal(offer()) == (409, "void")

    def test_canceled_event(self, offer, cancel_event, paid_order):
        cancel_event(paid_order["event"]["id"])
        assert refusal(offer()) == (409, "event_canceled")

    def test_event_that_is_over(self, offer, change_event):
        start = datetime.now(UTC) - timedelta(days=2)
        change_event(starts_at=start, ends_at=start + timedelta(hours=2))
        assert refusal(offer()) == (409, "event_over")

    def test_without_mail(self, app, offer):
        app.config["SMTP_URL"] = ""
        assert refusal(offer()) == (409, "not_configured")

    def test_so_many_an_hour(self, offer, withdraw):
        for _ in range(20):
            assert offer().status_code == 201
            assert withdraw().status_code == 204
        assert offer().status_code == 429


class TestWithdraw:
    def test_ends_the_link(self, offer, withdraw, mailed_token, accept, code, get_order, paid_order):
        offer()
        token = mailed_token()
        assert withdraw().status_code == 204
        assert withdraw().status_code == 404
        assert accept(token).get_json() == {"message": {"token": "The link is no longer good"}}
        assert get_order(paid_order)["tickets"][0]["code"] == code

    def test_before_the_mail_went_out(self, offer, withdraw, send_mails):
        offer()
        withdraw()
        assert not [mail for mail in send_mails() if FRIEND in mail["To"]]


class TestAccept:
    def test_gives_the_ticket_with_a_new_code(self, offer, mailed_token, accept, code, client, friend, buyer):
        client.patch(f"/tickets/{code}", json={"attendee_name": "Zoë"}, headers=buyer.headers)
        before = client.get(f"/tickets/{code}", headers=buyer.headers).get_json()
        offer()
        response = accept(mailed_token())
        ticket = response.get_json()
        assert response.status_code == 200
        assert ticket == before | {"code": ticket["code"], "holder": "Grace Hopper"}
        assert ticket["code"] != code
        own = [client.get("/tickets", headers=user.headers).get_json() for user in (buyer, friend)]
        assert own == [[], [ticket]]

    def test_once(self, offer, mailed_token, accept, make_user):
        offer()
        token = mailed_token()
        assert accept(token).status_code == 200
        for user in (make_user(), make_user()):
            assert accept(token, user).get_json() == {"message": {"token": "The link is no longer good"}}

    def test_both_links_of_a_mail_that_was_sent_twice(self, app, offer, mailed_token, accept, admin, client):
        offer()
        first = mailed_token()
        with app.app_context():
            mail = db.session.scalar(db.select(Mail.id).where(Mail.kind == "ticket_transferred"))
        client.post(f"/mails/{mail}/retry", headers=admin.headers)
        second = mailed_token()
        assert first != second
        assert accept(first).status_code == 200
        assert accept(second).status_code == 400

    @pytest.mark.parametrize("token", ["", "x", "\0", "ü", "a" * 100_000])
    def test_what_is_no_token(self, accept, token):
        response = accept(token)
        assert (response.status_code, set(response.get_json()["message"])) == (400, {"token"})

    def test_signed_token_of_another_kind(self, accept, buyer):
        assert accept(buyer.login["access_token"]).status_code == 400
        assert accept(signed(b"{}")).status_code == 400

    def test_not_its_owner(self, offer, mailed_token, accept, buyer, friend):
        offer()
        token = mailed_token()
        assert refusal(accept(token, buyer)) == (409, "own_ticket")
        assert accept(token).status_code == 200

    def test_lapsed(self, app, offer, mailed_token, accept):
        offer()
        token = mailed_token()
        with app.app_context():
            db.session.execute(db.update(Transfer).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
            db.session.commit()
        assert accept(token).status_code == 400

    def test_used_meanwhile(self, offer, mailed_token, accept, check_in, code):
        offer()
        token = mailed_token()
        assert check_in(code).status_code == 200
        assert refusal(accept(token)) == (409, "used")

    def test_refunded_meanwhile(self, offer, mailed_token, accept, refund, paid_order):
        offer()
        token = mailed_token()
        assert refund(paid_order).status_code == 200
        assert refusal(accept(token)) == (409, "void")

    def test_canceled_meanwhile(self, offer, mailed_token, accept, cancel_event, paid_order):
        offer()
        token = mailed_token()
        cancel_event(paid_order["event"]["id"])
        assert refusal(accept(token)) == (409, "event_canceled")

    def test_tells_both(self, passed_on, send_mails, buyer):
        received, given = [mail for mail in send_mails() if "pass a ticket on" not in plain_text(mail)][-2:]
        assert FRIEND in received["To"]
        assert "the ticket is yours now" in plain_text(received)
        assert passed_on["code"] in str(received)
        assert buyer.email in given["To"]
        assert f"that you passed on to {FRIEND} was accepted" in plain_text(given)
        assert passed_on["code"] not in str(given)

    def test_on_and_back_again(self, passed_on, offer, mailed_token, accept, friend, buyer, check_in, code):
        offer(buyer.email, friend, passed_on["code"])
        back = accept(mailed_token(), buyer).get_json()
        assert len({code, passed_on["code"], back["code"]}) == 3
        assert [refusal(check_in(it)) for it in (code, passed_on["code"])] == [(409, "void")] * 2
        assert check_in(back["code"]).status_code == 200


class TestCodeBefore:
    def test_is_void_at_the_door(self, passed_on, check_in, code):
        response = check_in(code)
        body = response.get_json()
        assert refusal(response) == (409, "void")
        assert (body["holder"], body["ticket_type"]) == ("Grace Hopper", passed_on["ticket_type"])
        assert datetime.fromisoformat(body["since"]) <= datetime.now(UTC)
        assert check_in(passed_on["code"]).status_code == 200
        assert refusal(check_in(code)) == (409, "void")

    def test_also_at_the_door_of_who_is_appointed(self, passed_on, code, client, admin, make_user):
        door = make_user()
        event = passed_on["event"]["id"]
        client.put(f"/events/{event}/staff/{door.id}", json={"role": "door"}, headers=admin.headers)
        response = client.post(f"/tickets/{code}/check-in", headers=door.headers)
        assert refusal(response) == (409, "void")

    def test_is_not_there_elsewhere(self, passed_on, code, client, admin, buyer, friend):
        for user in (buyer, friend, admin):
            assert client.get(f"/tickets/{code}", headers=user.headers).status_code == 404
            answer = client.patch(f"/tickets/{code}", json={"attendee_name": "X"}, headers=user.headers)
            assert answer.status_code == 404
            assert client.post(f"/tickets/{code}/transfer", json={"email": "a@example.com"}, headers=user.headers)
            assert client.delete(f"/tickets/{code}/transfer", headers=user.headers).status_code == 404
        assert client.get(f"/tickets/{code}/qr").status_code == 404
        assert client.get(f"/tickets/{code}/page").status_code == 404
        assert client.delete(f"/tickets/{code}/check-in", headers=admin.headers).status_code == 404


class TestBuyer:
    def test_sees_no_ticket_that_is_not_his(self, passed_on, client, buyer, admin, paid_order, friend):
        path = f"/orders/{paid_order['code']}"
        assert client.get(path, headers=buyer.headers).get_json()["tickets"] == []
        assert client.get("/orders", headers=buyer.headers).get_json()[0]["tickets"] == []
        for answer in (
            client.get(path, headers=admin.headers).get_json(),
            client.get("/orders", headers=admin.headers).get_json()[0],
        ):
            assert [it["code"] for it in answer["tickets"]] == [passed_on["code"]]
        assert client.get(path, headers=friend.headers).status_code == 404
        assert client.get(f"/tickets/{passed_on['code']}", headers=buyer.headers).status_code == 404

    def test_gets_no_mail_with_it(self, passed_on, client, buyer, paid_order, send_mails):
        before = len(send_mails())
        assert client.post(f"/orders/{paid_order['code']}/mail", headers=buyer.headers).status_code == 202
        assert len(send_mails()) == before

    def test_free_one_is_not_given_back(
        self, client, buyer, make_ticket_type, place, get_order, offer, mailed_token, accept, cancel
    ):
        order = place(buyer, make_ticket_type(price=0)).get_json()
        free = get_order(order)["tickets"][0]["code"]
        offer(code=free)
        ticket = accept(mailed_token()).get_json()
        assert refusal(cancel(order)) == (409, "transferred")
        assert cancel(order).get_json()["tickets"] == []
        assert ticket["status"] == "valid"

    def test_attendees_show_who_has_it(self, passed_on, client, admin):
        path = f"/events/{passed_on['event']['id']}/attendees"
        rows = client.get(path, headers=admin.headers).get_json()
        assert [(it["code"], it["holder"], it["email"]) for it in rows] == [(passed_on["code"], "Grace Hopper", FRIEND)]


class TestRefund:
    def test_of_all_names_what_was_passed_on(self, passed_on, refund, paid_order):
        response = refund(paid_order)
        assert refusal(response) == (409, "transferred")
        assert response.get_json()["tickets"] == [passed_on["code"]]

    def test_of_what_is_named_goes_to_the_buyer_and_tells_both(
        self, passed_on, client, admin, paid_order, send_mails, buyer
    ):
        before = len(send_mails())
        path = f"/orders/{paid_order['code']}/refund"
        response = client.post(path, json={"tickets": [passed_on["code"]]}, headers=admin.headers)
        assert response.get_json()["status"] == "refunded"
        to_buyer, to_friend = send_mails()[before:]
        assert buyer.email in to_buyer["To"]
        assert "25.00" in plain_text(to_buyer)
        assert passed_on["code"] not in str(to_buyer)
        assert FRIEND in to_friend["To"]
        assert "Void tickets" in to_friend["Subject"]
        assert "25.00" not in plain_text(to_friend)

    def test_of_an_amount_leaves_the_tickets(self, passed_on, client, admin, paid_order, check_in):
        path = f"/orders/{paid_order['code']}/refund"
        assert client.post(path, json={"amount": 100}, headers=admin.headers).status_code == 200
        assert check_in(passed_on["code"]).status_code == 200


class TestDeletedAccount:
    def test_of_the_buyer_leaves_the_ticket_and_forgets_whom_it_went_to(self, passed_on, client, buyer, app, check_in):
        password = {"current_password": PASSWORD}
        assert client.delete("/me", json=password, headers=buyer.headers).status_code == 204
        assert check_in(passed_on["code"]).status_code == 200
        with app.app_context():
            assert db.session.scalars(db.select(Transfer.to)).all() == [""]
            assert db.session.scalars(db.select(Mail.to).where(Mail.kind == "ticket_transferred")).all() == ["", FRIEND]

    def test_of_who_was_offered_one(self, offer, client, friend, app, mailed_token, accept, make_user, send_mails):
        offer()
        token = mailed_token()
        assert client.delete("/me", json={"current_password": PASSWORD}, headers=friend.headers).status_code == 204
        with app.app_context():
            assert db.session.scalars(db.select(Transfer.to)).all() == [""]
            assert db.session.scalars(db.select(Mail.to).where(Mail.kind == "ticket_transferred")).all() == [""]
        assert accept(token, make_user()).status_code == 400

    def test_codes_before_go_with_the_ticket(self, passed_on, app, code):
        with app.app_context():
            assert db.session.scalars(db.select(TicketCode.code)).all() == [code]
