"""Links that are mailed, for a new password and for an address: what they open, for whom and how long."""

import re
from threading import Thread

import pytest
from sqlalchemy import inspect, text

from app import create_app
from models import Mail, MailToken, db, now
from routes.http.limits import limiter

from .conftest import PASSWORD, bearer, dispose, log_in, plain_text, stored_user

pytestmark = pytest.mark.usefixtures("shop")
NEW = "brand new password"
PERHAPS = {"message": "If there is an account for this address, a mail is on its way"}
BAD_LINK = {"message": {"token": "The link is no longer good"}}


def token_in(message):
    return re.search(r"https://shop\.example/\w+#token=([\w-]{43})", plain_text(message))[1]


@pytest.fixture
def ask(client):
    """Ask for a new password."""
    return lambda email, **headers: client.post("/password-resets", json={"email": email}, headers=headers)


@pytest.fixture
def choose(client):
    """Choose a new password with a token."""

    def confirm(token, password=NEW):
        return client.post("/password-resets/confirm", json={"token": token, "password": password})

    return confirm


@pytest.fixture
def reset_token(ask, buyer, send_mails):
    """A token for a new password of the buyer, as it arrived."""
    ask(buyer.email)
    return token_in(send_mails()[-1])


@pytest.fixture
def rename(client, buyer):
    """Have the buyer name another address."""

    def patch(email="new@example.com", **more):
        body = {"email": email, "current_password": PASSWORD} | more
        return client.patch("/me", json=body, headers=buyer.headers)

    return patch


@pytest.fixture
def confirm(client):
    return lambda token: client.post("/verifications", json={"token": token})


@pytest.fixture
def address_token(rename, send_mails):
    rename()
    return token_in(send_mails()[-1])


@pytest.fixture
def account(context, buyer):
    """The buyer's account as it is now."""

    return lambda: stored_user(buyer.id)


class TestRequest:
    def test_link_arrives_and_opens(self, client, buyer, reset_token, choose):
        answer = choose(reset_token)
        assert (answer.status_code, answer.json) == (200, {"message": "Password changed"})
        assert log_in(client, buyer.email, NEW).status_code == 200

    def test_address_in_any_case_is_the_same(self, ask, buyer, send_mails):
        ask(f" {buyer.email.upper()} ")
        assert len(send_mails()) == 1

    @pytest.mark.parametrize("email", ["nobody@example.com", "no address", "", "a\0@b.example", "x" * 100_000])
    def test_unknown_address_is_answered_the_same_and_leaves_nothing(self, ask, email, context):
        answer = ask(email)
        assert (answer.status_code, answer.json) == (202, PERHAPS)
        assert db.session.scalars(db.select(Mail)).all() == []

    def test_closed_account_gets_none(self, client, admin, ask, buyer, send_mails):
        client.patch(f"/users/{buyer.id}", json={"active": False}, headers=admin.headers)
        assert (ask(buyer.email).json, send_mails()) == (PERHAPS, [])

    def test_account_gets_three_an_hour_and_nobody_sees_it(self, ask, buyer, send_mails):
        answers = [ask(buyer.email) for _ in range(5)]
        assert {(answer.status_code, answer.json["message"]) for answer in answers} == {(202, PERHAPS["message"])}
        assert len(send_mails()) == 3

    def test_asked_for_ten_times_at_once_it_gets_three(self, app, buyer, context):
        def ask():
            app.test_client().post("/password-resets", json={"email": buyer.email})

        calls = [Thread(target=ask) for _ in range(10)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert len(db.session.scalars(db.select(Mail)).all()) == 3

    def test_every_address_costs_the_same_statements(self, client, admin, ask, buyer, make_user, statements):
        closed, busy = make_user(), make_user()
        client.patch(f"/users/{closed.id}", json={"active": False}, headers=admin.headers)
        for _ in range(3):
            ask(busy.email)
        emails = buyer.email, "nobody@example.com", closed.email, busy.email, "no address"
        sent = {tuple(statements(lambda email=email: ask(email))) for email in emails}
        assert len(sent) == 1

    def test_missing_address_is_named(self, client):
        answer = client.post("/password-resets", json={})
        assert (answer.status_code, answer.json) == (400, {"message": {"email": "Email address is required"}})

    def test_client_may_ask_twenty_times_an_hour(self, app):
        limited = create_app({**app.config, "RATELIMIT_ENABLED": True})
        limiter.reset()
        client = limited.test_client()
        emails = [f"p{number}@example.com" for number in range(21)]
        answers = [client.post("/password-resets", json={"email": email}).status_code for email in emails]
        with limited.app_context():
            dispose()
        assert answers == [202] * 20 + [429]

    def test_without_a_mail_server_it_is_refused(self, app, ask, buyer):
        app.config["SMTP_URL"] = ""
        answer = ask(buyer.email)
        assert (answer.status_code, answer.json["reason"]) == (409, "not_configured")

    def test_forged_host_reaches_no_link(self, ask, buyer, send_mails):
        ask(
            buyer.email,
            **{"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"},
        )
        [message] = send_mails()
        assert "evil" not in message.as_string()
        assert "https://shop.example/reset#token=" in plain_text(message)


class TestReset:
    def test_ends_all_tokens_and_is_told(self, client, buyer, reset_token, choose, send_mails):
        choose(reset_token)
        assert client.get("/me", headers=buyer.headers).json["reason"] == "token_ended"
        assert client.post("/refresh", headers=bearer(buyer.login["refresh_token"])).status_code == 401
        assert send_mails()[-1]["Subject"] == "Your password was changed"

    def test_counts_as_a_confirmed_address(self, reset_token, choose, account):
        choose(reset_token)
        assert account().email_verified_at is not None

    def test_forgets_an_address_that_was_pending(self, rename, reset_token, choose, account):
        rename()
        choose(reset_token)
        assert account().pending_email is None

    def test_bad_password_uses_nothing_up(self, reset_token, choose):
        assert choose(reset_token, "short").status_code == 400
        assert choose(reset_token).status_code == 200

    def test_twice_is_once(self, reset_token, choose):
        assert [choose(reset_token).status_code for _ in range(2)] == [200, 400]

    def test_of_two_at_once_one_is_good(self, app, reset_token):
        answers = []

        def choose(password):
            body = {"token": reset_token, "password": password}
            answers.append(app.test_client().post("/password-resets/confirm", json=body).status_code)

        calls = [Thread(target=choose, args=(f"password {number}",)) for number in range(4)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert sorted(answers) == [200, 400, 400, 400]

    @pytest.mark.parametrize("token", ["", "x", "A" * 43, "\0", "é" * 1000])
    def test_one_that_was_never_made_is_refused(self, choose, token):
        answer = choose(token)
        assert (answer.status_code, answer.json) == (400, BAD_LINK)

    def test_expired_one_is_refused(self, reset_token, choose, context):
        [expires_at] = db.session.scalars(db.select(MailToken.expires_at))
        assert 1790 < (expires_at - db.session.scalar(db.select(now()))).total_seconds() <= 1800
        db.session.execute(db.update(MailToken).values(expires_at=now()))
        db.session.commit()
        assert choose(reset_token).json == BAD_LINK

    def test_one_of_another_kind_is_refused(self, address_token, choose):
        assert choose(address_token).json == BAD_LINK

    @pytest.mark.parametrize("change", [{"role": "staff"}, {"active": False}])
    def test_one_from_before_a_change_of_role_or_state_is_refused(
        self, client, admin, buyer, reset_token, choose, change
    ):
        client.patch(f"/users/{buyer.id}", json=change, headers=admin.headers)
        client.patch(f"/users/{buyer.id}", json={"active": True}, headers=admin.headers)
        assert choose(reset_token).json == BAD_LINK

    def test_one_from_before_a_change_of_password_is_refused(self, client, buyer, reset_token, choose):
        body = {"password": "another one", "current_password": PASSWORD}
        client.patch("/me", json=body, headers=buyer.headers)
        assert choose(reset_token).json == BAD_LINK

    def test_one_from_before_a_change_of_address_is_refused(self, reset_token, rename, confirm, choose, send_mails):
        rename()
        assert confirm(token_in(send_mails()[-1])).status_code == 200
        assert choose(reset_token).json == BAD_LINK

    @pytest.mark.parametrize("copy", [0, 1])
    def test_mail_that_is_sent_twice_leaves_both_links_good(self, ask, buyer, send_mails, choose, context, copy):
        ask(buyer.email)
        send_mails()
        db.session.execute(db.update(Mail).values(sent_at=None, due_at=now()))
        db.session.commit()
        links = [token_in(message) for message in send_mails()]
        assert (len(set(links)), choose(links[copy]).status_code) == (2, 200)

    def test_mail_that_waits_while_the_account_changes_carries_no_link(self, client, admin, ask, buyer, send_mails):
        """Else a link for the new state would go to who asked in the old one, at an address that may be lost."""
        ask(buyer.email)
        client.patch(f"/users/{buyer.id}", json={"role": "staff"}, headers=admin.headers)
        assert send_mails() == []
        [mail] = client.get("/mails?status=failed", headers=admin.headers).json
        assert mail["error"] == "The account has changed since"

    def test_token_stands_in_no_table_and_no_log(self, reset_token, choose, context, caplog):
        choose(reset_token)
        rows = [
            str(row)
            for table in inspect(db.engine).get_table_names()
            for row in db.session.execute(text(f"SELECT * FROM {table}"))
        ]
        assert [row for row in rows if reset_token in row] == []
        assert reset_token not in caplog.text


class TestNewAddress:
    def test_waits_until_it_is_confirmed(self, client, buyer, rename, send_mails):
        answer = rename()
        assert (answer.json["email"], answer.json["pending_email"]) == (buyer.email, "new@example.com")
        [message] = send_mails()
        assert message["To"] == "Somebody <new@example.com>"
        assert client.get("/me", headers=buyer.headers).status_code == 200
        assert log_in(client, "new@example.com", PASSWORD).status_code == 401

    def test_is_the_account_s_once_confirmed(self, client, buyer, address_token, confirm, account):
        answer = confirm(address_token)
        assert (answer.status_code, answer.json) == (200, {"message": "Address confirmed"})
        assert log_in(client, "new@example.com", PASSWORD).status_code == 200
        assert log_in(client, buyer.email, PASSWORD).status_code == 401
        assert (account().pending_email, account().email_verified_at is None) == (None, False)

    def test_ends_the_tokens_when_it_is_confirmed(self, client, buyer, address_token, confirm):
        confirm(address_token)
        assert client.get("/me", headers=buyer.headers).json["reason"] == "token_ended"

    def test_is_told_to_the_old_one_without_its_name(self, buyer, address_token, confirm, send_mails):
        confirm(address_token)
        told = send_mails()[-1]
        assert (told["To"], told["Subject"]) == (f"Somebody <{buyer.email}>", "Your email address was changed")
        assert "new@example.com" not in told.as_string()

    def test_stolen_token_alone_moves_nothing(self, client, buyer, account):
        answer = client.patch("/me", json={"email": "new@example.com"}, headers=buyer.headers)
        assert (answer.status_code, account().pending_email) == (400, None)

    def test_one_that_is_taken_is_refused_when_it_is_named(self, rename, staff):
        answer = rename(staff.email)
        assert (answer.status_code, answer.json["reason"]) == (409, "email_taken")

    def test_one_that_was_taken_meanwhile_is_refused_when_it_is_confirmed(
        self, address_token, confirm, make_user, account
    ):
        make_user(email="new@example.com")
        answer = confirm(address_token)
        assert (answer.status_code, answer.json["reason"]) == (409, "email_taken")
        assert account().pending_email == "new@example.com"

    def test_two_who_wait_for_the_same_one_get_it_once(self, app, client, buyer, make_user, send_mails, rename):
        other = make_user()
        rename()
        body = {"email": "new@example.com", "current_password": PASSWORD}
        assert client.patch("/me", json=body, headers=other.headers).status_code == 200
        tokens = [token_in(message) for message in send_mails()]
        answers = []

        def confirm(token):
            answers.append(app.test_client().post("/verifications", json={"token": token}).status_code)

        calls = [Thread(target=confirm, args=(token,)) for token in tokens]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert sorted(answers) == [200, 409]

    def test_twice_is_once(self, address_token, confirm):
        assert [confirm(address_token).status_code for _ in range(2)] == [200, 400]

    def test_old_link_does_not_revert_a_later_change(self, rename, address_token, confirm, send_mails, account):
        rename("later@example.com")
        assert confirm(address_token).json == BAD_LINK
        assert account().pending_email == "later@example.com"

    def test_link_for_another_kind_is_refused(self, reset_token, confirm):
        assert confirm(reset_token).json == BAD_LINK

    def test_expired_link_is_refused(self, address_token, confirm, context):
        db.session.execute(db.update(MailToken).values(expires_at=now()))
        db.session.commit()
        assert confirm(address_token).json == BAD_LINK

    def test_link_from_before_a_new_role_is_refused(self, client, admin, buyer, address_token, confirm):
        client.patch(f"/users/{buyer.id}", json={"role": "staff"}, headers=admin.headers)
        assert confirm(address_token).json == BAD_LINK

    def test_naming_the_present_one_takes_it_back(self, rename, buyer, address_token, confirm, account):
        assert rename(buyer.email).json["pending_email"] is None
        assert confirm(address_token).json == BAD_LINK

    def test_fourth_link_within_the_hour_is_refused(self, rename, account):
        answers = [rename(f"new{number}@example.com").status_code for number in range(4)]
        assert (answers, account().pending_email) == ([200] * 3 + [429], "new2@example.com")

    def test_with_a_new_password_the_link_is_good_for_the_new_version(self, rename, send_mails, confirm):
        answer = rename(password=NEW)
        assert "access_token" in answer.json
        [link] = [message for message in send_mails() if message["Subject"] == "Confirm your email address"]
        assert confirm(token_in(link)).status_code == 200

    def test_without_a_mail_server_it_is_the_account_s_at_once(self, app, rename):
        app.config["SMTP_URL"] = ""
        answer = rename()
        assert (answer.json["email"], answer.json["pending_email"]) == ("new@example.com", None)
        assert "access_token" in answer.json

    def test_new_password_of_one_s_own_is_told(self, client, buyer, send_mails):
        body = {"password": NEW, "current_password": PASSWORD}
        client.patch("/me", json=body, headers=buyer.headers)
        assert [message["Subject"] for message in send_mails()] == ["Your password was changed"]


class TestVerification:
    @pytest.fixture
    def ask(self, client, buyer):
        return lambda: client.post("/me/verification", headers=buyer.headers)

    def test_confirms_the_address_there_is_and_ends_nothing(self, client, buyer, ask, send_mails, confirm):
        assert ask().status_code == 202
        assert confirm(token_in(send_mails()[0])).status_code == 200
        assert client.get("/me", headers=buyer.headers).json["email_verified_at"] is not None

    def test_goes_to_the_pending_one(self, rename, ask, send_mails):
        rename()
        ask()
        assert {message["To"] for message in send_mails()} == {"Somebody <new@example.com>"}

    def test_confirmed_one_needs_none(self, ask, send_mails, confirm):
        ask()
        confirm(token_in(send_mails()[0]))
        answer = ask()
        assert (answer.status_code, answer.json["reason"]) == (409, "verified")

    def test_fourth_within_the_hour_is_refused(self, ask):
        answers = [ask() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202] * 3 + [429]
        assert "Retry-After" in answers[-1].headers

    def test_without_a_mail_server_it_is_refused(self, app, ask):
        app.config["SMTP_URL"] = ""
        assert ask().json["reason"] == "not_configured"
