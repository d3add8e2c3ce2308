"""Deleting an account: what goes, what stays, and who may not yet."""

import logging
from threading import Thread

import pytest
from sqlalchemy import inspect, text

from models import Mail, Order, Ticket, TicketType, User, db, now
from routes.selling.inventory import check_inventory

from .conftest import PASSWORD, bearer, log_in, stored_user

pytestmark = pytest.mark.usefixtures("shop")
NAME, EMAIL = 'Zoë "Z" Quaternion', "zoe.quaternion@example.com"


@pytest.fixture
def zoe(make_user):
    return make_user(name=NAME, email=EMAIL)


@pytest.fixture
def leave(client, zoe):
    """Have Zoë delete her account."""

    def delete(password=PASSWORD):
        return client.delete("/me", json={"current_password": password}, headers=zoe.headers)

    return delete


@pytest.fixture
def account(context, zoe):
    return lambda: stored_user(zoe.id)


@pytest.fixture
def end(app):
    """Let all events be over."""

    def move():
        with app.app_context():
            db.session.execute(text("UPDATE events SET starts_at = '2020-01-01 10:00', ends_at = '2020-01-01 12:00'"))
            db.session.commit()

    return move


def everything():
    """All that all tables hold, as text."""
    db.session.rollback()
    tables = inspect(db.engine).get_table_names()
    return "\n".join(str(row) for table in tables for row in db.session.execute(text(f"SELECT * FROM {table}")))


class TestForgetting:
    def test_name_and_address_are_in_no_table_outbox_or_log(
        self, client, zoe, staff, make_ticket_type, place, pay, leave, end, mail_server, send_mails, context, caplog
    ):
        caplog.set_level(logging.DEBUG)
        logging.getLogger("mail.log").setLevel(logging.WARNING)  # the mail server's own
        mail_server.answers[EMAIL] = ["250 OK", f"550 {EMAIL} is unknown here"]
        free = place(zoe, make_ticket_type(price=0), **{"Idempotency-Key": "mine"}).get_json()
        place(zoe, make_ticket_type(), **{"Idempotency-Key": "another"})
        order = place(zoe, make_ticket_type(), 2).get_json()
        body, headers = {"method": "cash", "amount": order["total"]}, {**staff.headers, "Idempotency-Key": "theirs"}
        client.post(f"/orders/{order['code']}/payments", json=body, headers=headers)
        ticket = f"/tickets/{free['tickets'][0]['code']}"
        client.patch(ticket, json={"attendee_name": "Dot Quaternion"}, headers=zoe.headers)
        client.post(f"{ticket}/check-in", headers={**staff.headers, "Idempotency-Key": "door"})
        send_mails()
        client.patch("/me", json={"email": f"new.{EMAIL}", "current_password": PASSWORD}, headers=zoe.headers)
        client.post("/password-resets", json={"email": EMAIL})
        assert "Quaternion" in everything()
        end()
        assert leave().status_code == 204
        found = everything().lower() + caplog.text.lower()
        assert [word for word in ("zoë", "zo\\u00eb", "quaternion") if word in found] == []

    def test_kept_answers_about_the_tickets_go(self, client, zoe, staff, make_ticket_type, place, leave, end, context):
        [ticket] = place(zoe, make_ticket_type(price=0)).get_json()["tickets"]
        headers = {**staff.headers, "Idempotency-Key": "door"}
        assert client.post(f"/tickets/{ticket['code']}/check-in", headers=headers).status_code == 200
        end()
        leave()
        assert db.session.scalars(text("SELECT body FROM idempotency_keys")).all() == []

    def test_name_of_staff_goes_from_answers_to_their_colleagues(
        self, client, admin, staff, buyer, make_user, make_ticket_type, place, context
    ):
        zoe = make_user("staff", name=NAME, email=EMAIL)
        order = place(buyer, make_ticket_type()).get_json()
        body = {"method": "mobile_money", "reference": "1", "amount": order["total"]}
        for who in (zoe, staff):
            headers = {**who.headers, "Idempotency-Key": "desk"}
            client.post(f"/orders/{order['code']}/payments", json=body, headers=headers)
        assert client.delete(f"/users/{zoe.id}", headers=admin.headers).status_code == 204
        assert "Quaternion" not in everything()

    def test_sent_mails_stay_on_the_list_without_the_address(
        self, client, admin, zoe, make_ticket_type, place, leave, end, send_mails
    ):
        place(zoe, make_ticket_type(price=0))
        send_mails()
        end()
        leave()
        [mail] = client.get("/mails", headers=admin.headers).json
        assert (mail["kind"], mail["status"], mail["to"], mail["user_id"]) == ("order_paid", "sent", "", zoe.id)

    def test_mails_that_wait_are_not_sent(self, zoe, make_ticket_type, place, leave, end, send_mails):
        place(zoe, make_ticket_type(price=0))
        end()
        leave()
        assert send_mails() == []

    def test_mail_that_is_being_sent_brings_the_address_not_back(
        self, zoe, make_ticket_type, place, leave, end, while_sending, context
    ):
        place(zoe, make_ticket_type(price=0))
        end()
        assert while_sending(leave).status_code == 204
        assert "quaternion" not in everything()


class TestAccount:
    def test_is_gone_for_everybody(self, client, admin, zoe, leave):
        leave()
        assert client.get(f"/users/{zoe.id}", headers=admin.headers).status_code == 404
        assert client.patch(f"/users/{zoe.id}", json={"active": True}, headers=admin.headers).status_code == 404
        assert zoe.id not in [user["id"] for user in client.get("/users", headers=admin.headers).json]

    def test_tokens_have_ended(self, client, zoe, leave):
        leave()
        for token in (zoe.login["access_token"], zoe.login["refresh_token"]):
            path = "/me" if token == zoe.login["access_token"] else "/refresh"
            answer = client.open(path, method="GET" if path == "/me" else "POST", headers=bearer(token))
            assert (answer.status_code, answer.json["reason"]) == (401, "token_ended")

    def test_nobody_logs_in(self, client, zoe, leave):
        leave()
        assert log_in(client, EMAIL, PASSWORD).status_code == 401

    def test_address_is_free_again(self, client, leave):
        leave()
        body = {"name": "Zoë", "email": EMAIL, "password": PASSWORD}
        assert client.post("/sign-up", json=body).status_code == 201

    def test_leaves_an_address_that_nobody_can_foresee_and_take(self, leave, zoe, account):
        leave()
        name, _, domain = account().email.partition("@")
        assert (str(zoe.id) in name.split("-"), len(name), domain) == (False, 16, "deleted.invalid")

    @pytest.mark.parametrize("body", [{}, {"current_password": "wrong one"}, {"current_password": None}])
    def test_wants_the_present_password(self, client, zoe, body, account):
        answer = client.delete("/me", json=body, headers=zoe.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["current_password"])
        assert account().name == NAME

    def test_admin_deletes_others(self, client, admin, zoe):
        assert client.delete(f"/users/{zoe.id}", headers=admin.headers).status_code == 204
        assert client.delete(f"/users/{zoe.id}", headers=admin.headers).status_code == 404

    def test_last_admin_stays(self, client, admin):
        answers = [
            client.delete(f"/users/{admin.id}", headers=admin.headers),
            client.delete("/me", json={"current_password": PASSWORD}, headers=admin.headers),
        ]
        assert [(answer.status_code, answer.json["reason"]) for answer in answers] == [(409, "last_admin")] * 2

    def test_of_two_admins_who_delete_each_other_one_stays(self, app, admin, make_user, context):
        other = make_user("admin")
        answers = []

        def delete(who, whom):
            answers.append(app.test_client().delete(f"/users/{whom.id}", headers=who.headers).status_code)

        calls = [Thread(target=delete, args=pair) for pair in ((admin, other), (other, admin))]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert len(db.session.scalars(db.select(User.id).where(User.role == "admin", User.active)).all()) == 1


class TestOrders:
    def test_valid_ticket_for_what_is_not_over_keeps_it(
        self, client, admin, zoe, make_ticket_type, place, leave, account
    ):
        place(zoe, make_ticket_type(price=0))
        answers = [leave(), client.delete(f"/users/{zoe.id}", headers=admin.headers)]
        assert [(answer.status_code, answer.json["reason"]) for answer in answers] == [(409, "has_tickets")] * 2
        assert account().active

    @pytest.mark.parametrize("status", ["used", "void"])
    def test_ticket_that_is_used_or_void_does_not(self, zoe, make_ticket_type, place, leave, status, context):
        place(zoe, make_ticket_type(price=0))
        checked_in_at = now() if status == "used" else None
        db.session.execute(db.update(Ticket).values(status=status, checked_in_at=checked_in_at))
        db.session.commit()
        assert leave().status_code == 204

    def test_pending_order_gives_its_places_back(self, zoe, make_ticket_type, place, leave, context):
        place(zoe, make_ticket_type(), 2)
        leave()
        assert db.session.scalars(db.select(Order.state)).all() == ["canceled"]
        assert db.session.scalars(db.select(TicketType.held)).all() == [0]

    @pytest.mark.parametrize("lapsed", [False, True])
    def test_later_payment_is_due_for_refund_and_nobody_is_told(
        self, zoe, make_ticket_type, place, pay, lapse, leave, lapsed, context
    ):
        order = place(zoe, make_ticket_type()).get_json()
        if lapsed:
            lapse(order)
        leave()
        assert pay(order).json["status"] == "refund_due"
        assert db.session.scalars(db.select(Mail)).all() == []

    def test_order_that_lapsed_and_was_written_down_is_closed_too(
        self, app, zoe, make_ticket_type, place, pay, lapse, leave, context
    ):
        order = place(zoe, make_ticket_type()).get_json()
        lapse(order)
        app.test_cli_runner().invoke(args=["expire-orders"])
        leave()
        assert pay(order).json["status"] == "refund_due"

    def test_orders_money_and_counts_stay(self, client, admin, zoe, make_ticket_type, place, pay, leave, end, context):
        order = place(zoe, make_ticket_type(), 2).get_json()
        pay(order)
        end()
        leave()
        kept = client.get(f"/orders/{order['code']}", headers=admin.headers).json
        assert (kept["status"], kept["total"], len(kept["payments"])) == ("paid", 5000, 1)
        assert {ticket["holder"] for ticket in kept["tickets"]} == {"Deleted account"}
        assert check_inventory() == []

    def test_payment_in_the_same_moment_wins_or_is_due(self, app, zoe, staff, make_ticket_type, place, context):
        """Never does an account go that has a valid ticket, nor is a ticket made for one that has gone."""
        for _ in range(5):
            order = place(zoe, make_ticket_type()).get_json()
            answers = {}

            def pay(order=order, answers=answers):
                body = {"method": "bank_transfer", "reference": order["code"], "amount": order["total"]}
                path = f"/orders/{order['code']}/payments"
                answers["paid"] = app.test_client().post(path, json=body, headers=staff.headers).json["status"]

            def leave(answers=answers):
                body = {"current_password": PASSWORD}
                answers["left"] = app.test_client().delete("/me", json=body, headers=zoe.headers).status_code

            calls = [Thread(target=pay), Thread(target=leave)]
            for call in calls:
                call.start()
            for call in calls:
                call.join()
            assert answers in ({"paid": "confirmed", "left": 409}, {"paid": "refund_due", "left": 204})
            if answers["left"] == 204:
                return
