"""The log: what must be answerable later is in it, each line with its request, and no secret or person is."""

import json
import logging
import sys

import pytest
import requests
from sqlalchemy.exc import IntegrityError

from models import User, db
from routes.http.logs import Discreet

from .conftest import PASSWORD, bearer


@pytest.fixture
def audit(caplog):
    """The facts of the lines of this message."""
    caplog.set_level(logging.INFO)

    def lines(message):
        names = ("user_id", "by", "role", "active", "call", "limit")
        found = [record for record in caplog.records if record.getMessage() == message]
        return [{name: getattr(record, name) for name in names if hasattr(record, name)} for record in found]

    return lines


class TestAudit:
    @pytest.mark.parametrize("change", [{"role": "staff"}, {"active": False}, {"role": "admin", "active": True}])
    def test_says_who_changed_whose_role_or_state(self, client, admin, buyer, audit, change):
        client.patch(f"/users/{buyer.id}", json=change, headers=admin.headers)
        assert audit("account changed") == [{"user_id": buyer.id, "by": admin.id, **change}]

    def test_says_nothing_of_a_change_that_is_refused(self, client, admin, audit):
        client.patch(f"/users/{admin.id}", json={"active": False}, headers=admin.headers)
        assert audit("account changed") == []

    def test_says_whose_password_changed(self, client, buyer, audit):
        change = {"password": "brand new one", "current_password": PASSWORD}
        client.patch("/me", json=change, headers=buyer.headers)
        assert audit("password changed") == [{"user_id": buyer.id}]

    def test_says_nothing_of_a_password_where_there_is_none(self, client, buyer, audit):
        client.patch("/me", json={"name": "New"}, headers=buyer.headers)
        assert audit("password changed") == []

    @pytest.mark.parametrize("known", [True, False])
    def test_says_which_account_refused_a_log_in(self, client, buyer, audit, known):
        email = buyer.email if known else "nobody@example.com"
        client.post("/login", json={"email": email, "password": "wrong"})
        assert audit("log-in refused") == [{"user_id": buyer.id if known else None}]

    def test_says_nothing_of_a_log_in_that_is_fine(self, buyer, audit):
        assert audit("log-in refused") == []


class TestTraceback:
    def test_quotes_no_row(self, context):
        """PostgreSQL quotes the row that breaks a rule, SQLAlchemy its parameters: neither is for the log."""
        row = {"name": "Ann\nLee", "email": "ann@example.com", "password": "$2b$04$hash", "role": "king"}
        try:
            db.session.execute(db.insert(User.__table__).values(row))
        except IntegrityError:
            text = Discreet().formatException(sys.exc_info())
        db.session.rollback()
        assert "INSERT INTO users" in text
        assert not any(secret in text for secret in ("Lee", "ann@example.com", "$2b$"))


@pytest.mark.slow
class TestProduction:
    @pytest.fixture
    def start(self, migrated, start_server):
        """Start the server with all that can be logged: in the test, for only then its output is captured."""
        with migrated.app_context():
            User.sign_up(name="Boss", email="boss@example.com", password=PASSWORD).role = "admin"
            db.session.commit()
        settings = {"LOG_LEVEL": "DEBUG", "SQLALCHEMY_ECHO": "true", "RATELIMIT_ENABLED": "true"}
        return lambda: start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], **settings).address

    def test_lines_are_json_with_the_request_and_without_secrets_at_any_level(self, start, capfd):
        server = start()
        secrets = [
            "Ann Smith",
            "ann@example.com",
            "boss@example.com",
            "127.0.0.1",
            "192.0.2.1",
            PASSWORD,
            "wrong one",
            "$2b$",
        ]

        def call(method, path, body=None, token=None):
            headers = {"X-Request-ID": "mine", **(bearer(token) if token else {})}
            return requests.request(method, server + path, json=body, headers=headers, timeout=10)

        def log_in(email, password=PASSWORD):
            login = call("POST", "/login", {"email": email, "password": password})
            secrets.extend(value for name, value in login.json().items() if name.endswith("token"))
            return login

        call("POST", "/sign-up", {"name": "Ann Smith", "email": "ann@example.com", "password": PASSWORD})
        call("POST", "/sign-up", {"name": "Ann Smith", "email": "ann@example.com", "password": PASSWORD})
        ann, boss = log_in("ann@example.com").json(), log_in("boss@example.com").json()
        call("POST", "/refresh", token=ann["refresh_token"])
        call("GET", "/me", token=ann["access_token"] + "x")
        call("GET", "/users", token=boss["access_token"])
        change = {"password": "wrong one too", "email": "new@example.com", "current_password": PASSWORD}
        changed = call("PATCH", "/me", change, ann["access_token"]).json()
        secrets.extend(value for name, value in changed.items() if name.endswith("token"))
        assert 429 in [log_in("ann@example.com", "wrong one").status_code for _ in range(21)]
        call("PATCH", f"/users/{ann['user']['id']}", {"role": "staff"}, boss["access_token"])
        call("POST", "/logout", token=boss["access_token"])

        output = "".join(capfd.readouterr())
        lines = [json.loads(line) for line in output.splitlines()]
        assert {"time", "level", "logger", "message", "request_id"} <= set.intersection(*map(set, lines))
        messages = {line["message"] for line in lines if line["request_id"] == "mine"}
        assert {"log-in refused", "limit reached", "password changed", "account changed"} <= messages
        assert any("UPDATE users" in message for message in messages)
        assert [secret for secret in secrets if secret in output] == []
