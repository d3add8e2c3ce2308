"""Accounts: signing up, logging in and out, one's own account, and who may do what."""

import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from types import SimpleNamespace

import bcrypt
import flask_bcrypt
import jwt
import pytest
import requests
from flask_jwt_extended import create_access_token
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError

from models import Busy, Login, User, db, hashing, lock_rows
from routes.selling import accounts

from .conftest import JWT_KEY, PASSWORD, bearer, log_in, wait_until

FIELDS = {"id", "name", "email", "role", "active", "created_at", "updated_at"}
FIELDS |= {"email_verified_at", "pending_email"}
INVALID = {"message": "Invalid email or password"}


def account(**fields):
    return {"name": "Ann", "email": "ann@example.com", "password": PASSWORD} | fields


def users():
    return db.session.scalars(db.select(User).order_by(User.id)).all()


@pytest.fixture
def hashings(monkeypatch):
    """The cost of each hash that bcrypt makes."""
    costs = []
    make = bcrypt.hashpw

    def hashpw(password, salt):
        costs.append(int(salt[4:6]))
        return make(password, salt)

    monkeypatch.setattr(bcrypt, "hashpw", hashpw)
    return costs


@pytest.fixture
def failures(app):
    """The statements that the database refuses."""
    found = []
    note = lambda context: found.append(context.statement)  # noqa: E731
    event.listen(Engine, "handle_error", note)
    yield found
    event.remove(Engine, "handle_error", note)


@pytest.fixture
def composed(monkeypatch):
    """The texts whose letters are composed."""
    texts = []

    class Normalizing:
        def __getattr__(self, name):
            return getattr(unicodedata, name)

        def normalize(self, form, text):
            texts.append(text)
            return unicodedata.normalize(form, text)

    for module in ("email_validator.syntax", "email_validator.validate_email"):
        if hasattr(sys.modules.get(module), "unicodedata"):
            monkeypatch.setattr(sys.modules[module], "unicodedata", Normalizing())
    return texts


@pytest.fixture
def new_password(client, buyer):
    """A call that gives the buyer a new password."""
    change = {"password": "the owner's own", "current_password": PASSWORD}
    return lambda: client.application.test_client().patch("/me", json=change, headers=buyer.headers)


class TestSignUpPost:
    def test_answers_as_documented(self, client):
        response = client.post("/sign-up", json=account())
        assert (response.status_code, response.json) == (201, {"message": "User created successfully"})

    def test_account_is_a_plain_user(self, client, context):
        client.post("/sign-up", json=account(role="admin", id=77, active=False, created_at="2000-01-01T00:00:00Z"))
        [user] = users()
        assert (user.role, user.active, user.id == 77, user.created_at.year > 2000) == ("user", True, False, True)

    def test_hash_is_what_the_documentation_checks(self, client, context):
        client.post("/sign-up", json=account())
        assert flask_bcrypt.check_password_hash(users()[0].password, PASSWORD)

    def test_name_is_trimmed_and_password_is_not(self, client, context):
        client.post("/sign-up", json=account(name="  Ann \n", password="  spaces  "))
        assert users()[0].name == "Ann"
        assert flask_bcrypt.check_password_hash(users()[0].password, "  spaces  ")

    @pytest.mark.parametrize("field", [{"name": "n" * 100}, {"password": "é" * 36}, {"password": "8 signs!"}])
    def test_longest_and_shortest_are_taken(self, client, field):
        assert client.post("/sign-up", json=account(**field)).status_code == 201

    @pytest.mark.parametrize("email", ["a@localhost", "a@box", "a@b.test", "a@b.local", "ü@exämple.com", " a@b.co\n"])
    def test_addresses_of_an_own_network_are_fine(self, client, email):
        assert client.post("/sign-up", json=account(email=email)).status_code == 201
        assert log_in(client, email).status_code == 200

    def test_missing_fields_are_named_together(self, client):
        response = client.post("/sign-up", json={})
        texts = {
            "name": "User name is required",
            "email": "Email address is required",
            "password": "Password is required",
        }
        assert (response.status_code, response.json) == (400, {"message": texts})

    @pytest.mark.parametrize(
        "email",
        ["ann", "ann@", "@example.com", "a b@example.com", "a@b@c.de", "a@b..c", "a@\0.de", "a" * 255 + "@b.co", ""],
    )
    def test_no_address_is_refused_as_documented(self, client, email):
        response = client.post("/sign-up", json=account(email=email))
        assert (response.status_code, response.json["message"]) == (400, {"email": "Please provide a valid email"})

    @pytest.mark.parametrize("password", ["1234567", " " * 8, "\u3000" * 8, "é" * 37, "p" * 73, "NUL\0 inside"])
    def test_password_that_cannot_be_one_is_refused(self, client, context, password):
        response = client.post("/sign-up", json=account(password=password))
        assert (response.status_code, list(response.json["message"])) == (400, ["password"])
        assert users() == []

    def test_limit_of_bcrypt_is_named(self, client):
        assert "72 bytes" in client.post("/sign-up", json=account(password="p" * 73)).json["message"]["password"]

    @pytest.mark.parametrize("email", ["ann@example.com", "ANN@Example.COM", "  ann@example.com ", "ann@ｅxample.com"])
    def test_address_is_taken_in_any_form(self, client, context, email):
        client.post("/sign-up", json=account())
        response = client.post("/sign-up", json=account(email=email))
        assert (response.status_code, response.json["reason"], list(response.json["message"])) == (
            409,
            "email_taken",
            ["email"],
        )
        assert len(users()) == 1

    def test_address_has_one_form_however_its_letters_are_put_together(self, client):
        forms = ["J\u030c@example.com", "j\u030c@example.com", "\u01f0@example.com"]
        client.post("/sign-up", json=account(email=forms[0]))
        assert [log_in(client, form).status_code for form in forms] == [200] * 3

    @pytest.mark.parametrize("marks", [1, 100, 5_000])
    def test_length_of_an_address_is_judged_before_its_letters_are_composed(self, client, composed, marks):
        email = "a" + "\u0301" * marks + "\u0316" * marks + "@example.com"
        assert client.post("/sign-up", json=account(email=email)).status_code == (201 if marks == 1 else 400)
        assert log_in(client, email).status_code == (200 if marks == 1 else 401)
        assert max(map(len, composed), default=0) < 300

    def test_model_refuses_what_is_no_address(self):
        with pytest.raises(ValueError, match="Please provide a valid email"):
            User(email="nobody")

    def test_taken_address_fails_no_statement(self, client, failures):
        """PostgreSQL would write it into its log, with the address and the hash."""
        answers = [client.post("/sign-up", json=account(name="N" * number)) for number in (1, 2)]
        assert [answer.status_code for answer in answers] == [201, 409]
        assert failures == []

    def test_of_twenty_at_once_one_has_the_address(self, app, context, failures):
        def sign_up(number):
            return app.test_client().post("/sign-up", json=account(name=str(number))).status_code

        with ThreadPoolExecutor(20) as pool:
            statuses = sorted(pool.map(sign_up, range(20)))
        assert statuses == [201] + [409] * 19
        assert len(users()) == 1
        assert failures == []


class TestLoginPost:
    def test_answers_as_documented(self, client, buyer):
        response = log_in(client, buyer.email)
        assert response.status_code == 200
        assert response.json["message"] == "Login successful"
        assert set(response.json["user"]) == FIELDS
        assert set(response.json) == {"message", "user", "access_token", "refresh_token", "expires_in"}
        assert response.json["expires_in"] == 3600

    def test_token_says_who_and_until_when(self, staff):
        claims = jwt.decode(staff.login["access_token"], JWT_KEY, ["HS256"])
        assert (claims["sub"], claims["role"]) == (str(staff.id), "staff")
        assert claims["exp"] - claims["iat"] == 3600
        assert claims["jti"]

    @pytest.mark.parametrize("email", ["BOB@Example.com", " bob@example.com\t"])
    def test_address_counts_in_any_form(self, client, make_user, email):
        make_user(email="bob@example.com")
        assert log_in(client, email).status_code == 200

    @pytest.mark.parametrize(
        "email", ["nobody@example.com", "malformed", "", "a@b\0.co", "a" * 400 + "@b.co", "ann\n@b.co"]
    )
    def test_unknown_address_is_refused(self, client, email):
        response = log_in(client, email)
        assert (response.status_code, response.json) == (401, INVALID)

    @pytest.mark.parametrize(
        "password", ["wrong horse", "", " ", "short", "p" * 73, "p" * 10_000, "NUL\0", PASSWORD + " "]
    )
    def test_wrong_password_is_refused(self, client, buyer, password):
        response = log_in(client, buyer.email, password)
        assert (response.status_code, response.json) == (401, INVALID)

    def test_only_the_first_72_bytes_are_no_password(self, client):
        client.post("/sign-up", json=account(password="p" * 72))
        assert log_in(client, "ann@example.com", "p" * 73).status_code == 401

    @pytest.mark.parametrize("change", [{"active": False}, {"password": None}, {"password": "no hash"}])
    def test_account_that_cannot_log_in_is_refused(self, client, buyer, context, change):
        for name, value in change.items():
            setattr(db.session.get(User, buyer.id), name, value)
        db.session.commit()
        response = log_in(client, buyer.email)
        assert (response.status_code, response.json) == (401, INVALID)

    def test_short_password_of_old_logs_in(self, client, buyer, context):
        db.session.get(User, buyer.id).password = flask_bcrypt.generate_password_hash("old", 4).decode()
        db.session.commit()
        assert log_in(client, buyer.email, "old").status_code == 200

    @pytest.mark.parametrize(
        "email, password",
        [
            ("known@example.com", "wrong"),
            ("unknown@example.com", PASSWORD),
            ("malformed", PASSWORD),
            ("known@example.com", ""),
            ("known@example.com", "p" * 73),
            ("known@example.com", "\0"),
        ],
    )
    def test_every_refusal_costs_one_hash(self, client, make_user, hashings, email, password):
        make_user(email="known@example.com")
        hashings.clear()
        log_in(client, email, password)
        assert hashings == [4]

    def test_of_an_unknown_address_costs_what_is_configured(self, app, client, hashings):
        app.config["BCRYPT_LOG_ROUNDS"] = 5
        log_in(client, "unknown@example.com")
        assert hashings == [5]

    def test_account_without_a_password_costs_one_hash(self, client, buyer, context, hashings):
        db.session.get(User, buyer.id).password = None
        db.session.commit()
        hashings.clear()
        log_in(client, buyer.email)
        assert hashings == [4]

    def test_with_the_old_password_ends_with_it(self, client, buyer, before_first_write, new_password):
        """The password changes while it is checked."""
        before_first_write(new_password)
        login = log_in(client, buyer.email).json
        for method, path, token in (("GET", "/me", "access_token"), ("POST", "/refresh", "refresh_token")):
            assert client.open(path, method=method, headers=bearer(login[token])).status_code == 401


class TestHashAgain:
    """A hash of another cost would tell by its time that there is such an account."""

    @pytest.fixture
    def hash_at(self, client, buyer, context):
        def store(cost):
            hash = flask_bcrypt.generate_password_hash(PASSWORD, cost).decode()
            db.session.execute(db.update(User).values(password=hash))
            db.session.commit()
            return hash

        return store

    @pytest.mark.parametrize("cost", [5, 6])
    def test_is_done_at_the_log_in(self, client, buyer, hash_at, cost):
        hash_at(cost)
        assert log_in(client, buyer.email).status_code == 200
        [hash] = db.session.scalars(db.select(User.password)).all()
        assert hash.startswith("$2b$04$") and flask_bcrypt.check_password_hash(hash, PASSWORD)

    def test_is_not_done_for_a_wrong_password_or_the_right_cost(self, client, buyer, hash_at):
        known = hash_at(4)
        log_in(client, buyer.email)
        assert db.session.scalars(db.select(User.password)).all() == [known]
        known = hash_at(5)
        log_in(client, buyer.email, "wrong")
        assert db.session.scalars(db.select(User.password)).all() == [known]

    def test_ends_no_token(self, client, buyer, hash_at):
        hash_at(5)
        login = log_in(client, buyer.email).json
        for token in (buyer.login["access_token"], login["access_token"]):
            assert client.get("/me", headers=bearer(token)).status_code == 200


class TestHashingQueue:
    """bcrypt takes a processor for a quarter of a second: few work at once, few wait."""

    @pytest.fixture
    def slow_hash(self, monkeypatch):
        """A bcrypt that works until it is let go; how many do, and how many did at most."""
        state = SimpleNamespace(now=0, most=0, go=Event(), lock=Lock())
        make = bcrypt.hashpw

        def hashpw(password, salt):
            with state.lock:
                state.now += 1
                state.most = max(state.most, state.now)
            state.go.wait(5)
            with state.lock:
                state.now -= 1
            return make(password, salt)

        monkeypatch.setattr(bcrypt, "hashpw", hashpw)
        yield state
        state.go.set()

    @pytest.fixture
    def calls(self, app, buyer):
        """One call of each kind that hashes or checks."""
        app.config.update(BCRYPT_AT_ONCE=2, BCRYPT_QUEUE=1)
        change = {"password": "brand new one", "current_password": PASSWORD}

        def call(method, path, body, headers=None):
            return lambda: app.test_client().open(path, method=method, json=body, headers=headers)

        return [
            call("POST", "/login", {"email": buyer.email, "password": PASSWORD}),
            call("POST", "/login", {"email": "unknown@example.com", "password": PASSWORD}),
            call("POST", "/sign-up", account()),
            call("PATCH", "/me", change, buyer.headers),
        ]

    @pytest.mark.parametrize("late", range(4))
    def test_full_queue_is_a_503(self, calls, slow_hash, late):
        with ThreadPoolExecutor(3) as pool:
            first = [pool.submit(calls[0]) for _ in range(3)]
            wait_until(lambda: slow_hash.now == 2 and hashing.waiting == 1)
            refused = calls[late]()
            slow_hash.go.set()
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            assert [it.result().status_code for it in first] == [200] * 3
        assert slow_hash.most == 2

    def test_turn_is_free_again_after_an_error(self, app, client, buyer, context):
        app.config.update(BCRYPT_AT_ONCE=1, BCRYPT_QUEUE=0)
        db.session.execute(db.update(User).values(password="no hash"))
        db.session.commit()
        assert [log_in(client, buyer.email).status_code for _ in range(3)] == [401] * 3

    def test_hashing_again_waits_for_nobody(self, app, client, buyer, context, monkeypatch):
        db.session.execute(db.update(User).values(password=flask_bcrypt.generate_password_hash(PASSWORD, 5).decode()))
        db.session.commit()

        def no_turn(password):
            raise Busy

        monkeypatch.setattr(accounts, "hash_password", no_turn)
        assert log_in(client, buyer.email).status_code == 200


class TestConnections:
    @pytest.fixture
    def held(self, app, monkeypatch):
        """How many connections are held whenever bcrypt works."""
        with app.app_context():
            pools = [engine.pool for engine in db.engines.values()]
        counts = []
        make = bcrypt.hashpw

        def hashpw(password, salt):
            counts.append(sum(pool.checkedout() for pool in pools))
            return make(password, salt)

        monkeypatch.setattr(bcrypt, "hashpw", hashpw)
        return counts

    def test_none_is_held_while_bcrypt_works(self, client, buyer, held):
        log_in(client, buyer.email)
        change = {"password": "brand new one", "current_password": PASSWORD}
        client.patch("/me", json=change, headers=buyer.headers)
        client.post("/sign-up", json=account())
        assert held == [0] * 4


class TestUsersGet:
    def test_admin_sees_all_and_no_hash(self, client, admin, buyer):
        response = client.get("/users", headers=admin.headers)
        assert [user["id"] for user in response.json] == [admin.id, buyer.id]
        assert all(set(user) == FIELDS for user in response.json)

    @pytest.mark.parametrize("role", ["user", "staff"])
    def test_others_get_the_documented_401(self, client, make_user, role):
        response = client.get("/users", headers=make_user(role).headers)
        assert (response.status_code, response.json) == (401, {"message": "Unauthorized"})
        assert "WWW-Authenticate" in response.headers

    def test_pages_follow_their_links(self, client, admin, make_user):
        ids = [admin.id, *(make_user().id for _ in range(2))]
        first = client.get("/users?limit=2", headers=admin.headers)
        second = client.get(first.headers["Link"].partition(">")[0][1:], headers=admin.headers)
        assert [user["id"] for user in first.json + second.json] == ids
        assert "Link" not in second.headers

    @pytest.mark.parametrize(
        "query, names",
        [
            ("q=ann", ["Ann", "Joanna"]),
            ("q=ANN", ["Ann", "Joanna"]),
            ("q=bob@", ["Bob"]),
            ("q=%25", ["100%"]),
            ("q=_", []),
            ("q=%2F", []),
            ("role=staff", ["Bob"]),
            ("role=user&q=ann", ["Ann", "Joanna"]),
            ("role=staff&q=ann", []),
        ],
    )
    def test_filters(self, client, admin, make_user, query, names):
        for name, role in {"Ann": "user", "Joanna": "user", "Bob": "staff", "100%": "user"}.items():
            make_user(role, name=name, email=f"{'bob' if name == 'Bob' else 'x'}@{len(name)}{role}.example.com")
        assert [user["name"] for user in client.get(f"/users?{query}", headers=admin.headers).json] == names

    def test_filters_hold_on_every_page(self, client, admin, make_user):
        ids = [make_user(name="Ann").id for _ in range(3)]
        make_user(name="Bob")
        found, path = [], "/users?q=ann&role=user&limit=1"
        while path:
            page = client.get(path, headers=admin.headers)
            found += [user["id"] for user in page.json]
            path = page.headers.get("Link", "").partition(">")[0][1:]
        assert found == ids

    def test_filtered_list_is_a_page(self, client, admin, make_user):
        for _ in range(2):
            make_user(name="Ann")
        assert "Link" in client.get("/users?q=ann&limit=1", headers=admin.headers).headers

    @pytest.mark.parametrize("query", ["q=", "role=king", f"q={'x' * 101}", "role="])
    def test_bad_filter_is_refused(self, client, admin, query):
        assert client.get(f"/users?{query}", headers=admin.headers).status_code == 400

    def test_streams_many_in_few_statements(self, client, admin, context, statements):
        rows = [{"name": "N", "email": f"{number}@example.com"} for number in range(2500)]
        db.session.execute(db.insert(User.__table__), rows)
        db.session.commit()
        answers = []
        sent = statements(lambda: answers.append(client.get("/users", headers=admin.headers).json))
        assert len(answers[0]) == 2501
        assert len(sent) == 5  # the token's, one for each thousand, and one that finds no more

    def test_times_are_utc_to_the_second(self, client, admin):
        [user] = client.get("/users", headers=admin.headers).json
        made = datetime.strptime(user["created_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - made) < timedelta(minutes=5)


class TestMeGet:
    def test_shows_oneself(self, client, buyer):
        me = client.get("/me", headers=buyer.headers).json
        assert me == buyer.login["user"]
        assert set(me) == FIELDS


class TestMePatch:
    def test_new_name_needs_no_password(self, client, buyer):
        response = client.patch("/me", json={"name": " New "}, headers=buyer.headers)
        assert (response.status_code, response.json["name"]) == (200, "New")
        assert client.get("/me", headers=buyer.headers).json["name"] == "New"

    def test_nothing_changes_nothing(self, client, buyer):
        before = client.get("/me", headers=buyer.headers).json
        assert client.patch("/me", json={"id": 5, "role": "admin"}, headers=buyer.headers).json == before

    @pytest.mark.parametrize("change", [{"email": "new@example.com"}, {"password": "brand new one"}])
    @pytest.mark.parametrize("proof", [{}, {"current_password": "wrong"}, {"current_password": ""}])
    def test_address_and_password_need_the_right_password(self, client, buyer, context, change, proof):
        response = client.patch("/me", json={"name": "X", **change, **proof}, headers=buyer.headers)
        assert (response.status_code, list(response.json["message"])) == (400, ["current_password"])
        assert (users()[0].email, users()[0].name) == (buyer.email, "Somebody")

    def test_new_address_is_the_one_to_log_in_with(self, client, buyer):
        change = {"email": " NEW@example.com", "current_password": PASSWORD}
        assert client.patch("/me", json=change, headers=buyer.headers).json["email"] == "new@example.com"
        assert log_in(client, "new@example.com").status_code == 200
        assert log_in(client, buyer.email).status_code == 401

    def test_address_of_somebody_else_is_taken(self, client, buyer, staff):
        change = {"name": "X", "email": staff.email.upper(), "current_password": PASSWORD}
        response = client.patch("/me", json=change, headers=buyer.headers)
        assert (response.status_code, response.json["reason"]) == (409, "email_taken")
        assert client.get("/me", headers=buyer.headers).json["name"] == "Somebody"

    def test_new_password_ends_every_token(self, client, buyer):
        other = log_in(client, buyer.email).json
        change = {"password": "brand new one", "current_password": PASSWORD}
        assert client.patch("/me", json=change, headers=buyer.headers).status_code == 200
        for token in (buyer.login["access_token"], other["access_token"]):
            assert client.get("/me", headers=bearer(token)).status_code == 401
        assert client.post("/refresh", headers=bearer(other["refresh_token"])).status_code == 401
        assert log_in(client, buyer.email, "brand new one").status_code == 200

    @pytest.mark.parametrize("change", [{"email": "new@example.com"}, {"password": "brand new one"}])
    def test_password_that_was_right_a_moment_ago_is_not(self, client, buyer, before_first_write, new_password, change):
        before_first_write(new_password)
        response = client.patch("/me", json=change | {"current_password": PASSWORD}, headers=buyer.headers)
        assert (response.status_code, list(response.json["message"])) == (400, ["current_password"])
        assert log_in(client, buyer.email, "the owner's own").status_code == 200

    @pytest.mark.parametrize("change", [{"email": "new@example.com"}, {"password": "brand new one"}])
    def test_what_ends_tokens_answers_new_ones(self, client, buyer, change):
        other = log_in(client, buyer.email).json
        answer = client.patch("/me", json=change | {"current_password": PASSWORD}, headers=buyer.headers).json
        assert set(answer) == FIELDS | {"access_token", "refresh_token", "expires_in"}
        assert client.get("/me", headers=bearer(answer["access_token"])).status_code == 200
        assert client.post("/refresh", headers=bearer(answer["refresh_token"])).status_code == 200
        for old in (buyer.login, other):
            assert client.get("/me", headers=bearer(old["access_token"])).json["reason"] == "token_ended"
            assert client.post("/refresh", headers=bearer(old["refresh_token"])).json["reason"] == "token_ended"

    @pytest.mark.parametrize("change", [{"name": "New"}, {"email": "{own}"}, {}])
    def test_what_ends_no_token_answers_none(self, client, buyer, change):
        change = {name: value.format(own=buyer.email.upper()) for name, value in change.items()}
        response = client.patch("/me", json=change, headers=buyer.headers)
        assert (response.status_code, set(response.json)) == (200, FIELDS)

    def test_taken_address_fails_no_statement(self, client, buyer, staff, failures):
        change = {"email": staff.email, "current_password": PASSWORD}
        assert client.patch("/me", json=change, headers=buyer.headers).status_code == 409
        assert failures == []

    def test_address_that_is_just_being_taken_fails_no_statement(self, app, context, buyer, failures):
        change = {"email": "new@example.com", "current_password": PASSWORD}
        with ThreadPoolExecutor(1) as other:
            User.sign_up(name="Ann", email="new@example.com", password=PASSWORD)
            answer = other.submit(app.test_client().patch, "/me", json=change, headers=buyer.headers)
            time.sleep(0.3)
            db.session.commit()
            assert answer.result().status_code == 409
        assert failures == []

    def test_of_many_who_want_an_address_at_once_one_has_it(self, app, make_user, failures):
        people = [make_user() for _ in range(4)]
        change = {"email": "new@example.com", "current_password": PASSWORD}

        def want(person):
            if person is None:
                return app.test_client().post("/sign-up", json=account(email="new@example.com")).status_code
            return app.test_client().patch("/me", json=change, headers=person.headers).status_code

        with ThreadPoolExecutor(8) as pool:
            first, *others = sorted(pool.map(want, [*people, *[None] * 4]))
        assert (first in (200, 201), others) == (True, [409] * 7)
        assert failures == []

    def test_new_name_ends_no_token(self, client, buyer):
        client.patch("/me", json={"name": "New"}, headers=buyer.headers)
        assert client.get("/me", headers=buyer.headers).status_code == 200


class TestRefreshPost:
    def test_gives_a_token_that_works(self, client, buyer):
        response = client.post("/refresh", headers=bearer(buyer.login["refresh_token"]))
        assert (response.status_code, set(response.json)) == (200, {"access_token", "refresh_token", "expires_in"})
        assert client.get("/me", headers=bearer(response.json["access_token"])).json["id"] == buyer.id

    def test_new_token_carries_the_role(self, client, staff):
        token = client.post("/refresh", headers=bearer(staff.login["refresh_token"])).json["access_token"]
        assert jwt.decode(token, JWT_KEY, ["HS256"])["role"] == "staff"

    def test_new_password_meanwhile_ends_the_new_token_too(self, client, buyer, before_first_write, new_password):
        before_first_write(new_password)
        refreshed = client.post("/refresh", headers=bearer(buyer.login["refresh_token"])).json
        assert client.get("/me", headers=bearer(refreshed["access_token"])).status_code == 401

    def test_takes_no_access_token(self, client, buyer):
        assert client.post("/refresh", headers=buyer.headers).status_code == 401

    def test_refresh_token_opens_nothing_else(self, client, buyer):
        assert client.get("/me", headers=bearer(buyer.login["refresh_token"])).status_code == 401


class TestLogoutPost:
    def test_every_token_of_the_login_is_dead(self, client, buyer):
        refresh = bearer(buyer.login["refresh_token"])
        refreshed = bearer(client.post("/refresh", headers=refresh).json["access_token"])
        response = client.post("/logout", headers=refreshed)
        assert (response.status_code, response.data) == (204, b"")
        assert client.get("/me", headers=buyer.headers).status_code == 401
        assert client.get("/me", headers=refreshed).status_code == 401
        assert client.post("/refresh", headers=refresh).status_code == 401

    def test_other_logins_live_on(self, client, buyer):
        other = log_in(client, buyer.email).json
        client.post("/logout", headers=buyer.headers)
        assert client.get("/me", headers=bearer(other["access_token"])).status_code == 200

    def test_twice_at_once_is_once(self, client, buyer, context, before_first_write):
        def log_out():
            return client.application.test_client().post("/logout", headers=buyer.headers).status_code

        second = []
        before_first_write(lambda: second.append(log_out()))
        assert (log_out(), second) == (204, [204])
        assert [login.ended for login in db.session.scalars(db.select(Login))] == [True]


class TestUserGet:
    def test_admin_sees_anybody(self, client, admin, buyer):
        response = client.get(f"/users/{buyer.id}", headers=admin.headers)
        assert (response.status_code, response.json) == (200, buyer.login["user"])

    @pytest.mark.parametrize("role", ["user", "staff"])
    def test_others_are_refused(self, client, buyer, make_user, role):
        response = client.get(f"/users/{buyer.id}", headers=make_user(role).headers)
        assert (response.status_code, response.json) == (403, {"message": "Forbidden"})

    def test_unknown_user_is_missing(self, client, admin):
        assert client.get("/users/2147483647", headers=admin.headers).status_code == 404


class TestUserPatch:
    @pytest.mark.parametrize("change", [{"role": "staff"}, {"role": "admin"}, {"active": False}, {}])
    def test_admin_changes_role_and_state(self, client, admin, buyer, change):
        response = client.patch(f"/users/{buyer.id}", json=change, headers=admin.headers)
        assert response.status_code == 200
        assert response.json.items() >= ({"id": buyer.id, "role": "user", "active": True} | change).items()

    @pytest.mark.parametrize("change", [{"role": "staff"}, {"active": False}])
    def test_change_ends_the_tokens_of_the_one_it_is_about(self, client, admin, buyer, change):
        client.patch(f"/users/{buyer.id}", json=change, headers=admin.headers)
        assert client.get("/me", headers=buyer.headers).status_code == 401
        assert client.post("/refresh", headers=bearer(buyer.login["refresh_token"])).status_code == 401

    def test_change_and_back_ends_them_too(self, client, admin, buyer):
        for active in (False, True):
            client.patch(f"/users/{buyer.id}", json={"active": active}, headers=admin.headers)
        assert client.get("/me", headers=buyer.headers).status_code == 401
        assert log_in(client, buyer.email).status_code == 200

    def test_what_is_so_already_ends_no_token(self, client, admin, buyer):
        client.patch(f"/users/{buyer.id}", json={"role": "user", "active": True}, headers=admin.headers)
        assert client.get("/me", headers=buyer.headers).status_code == 200

    def test_admin_who_steps_down_is_none_at_once(self, client, admin, make_user):
        make_user("admin")
        assert client.patch(f"/users/{admin.id}", json={"role": "user"}, headers=admin.headers).status_code == 200
        assert client.get("/users", headers=admin.headers).status_code == 401

    @pytest.mark.parametrize("change", [{"role": "user"}, {"active": False}, {"role": "staff", "active": False}])
    def test_last_active_admin_stays(self, client, admin, make_user, context, change):
        db.session.get(User, make_user("admin").id).active = False
        db.session.commit()
        response = client.patch(f"/users/{admin.id}", json=change, headers=admin.headers)
        assert (response.status_code, response.json["reason"]) == (409, "last_admin")
        assert client.get("/users", headers=admin.headers).status_code == 200

    @pytest.mark.parametrize("change", [{"role": "user"}, {"active": False}])
    @pytest.mark.slow
    def test_two_who_demote_each_other_leave_one(self, app, context, make_user, change):
        def demote(one, other):
            return app.test_client().patch(f"/users/{other.id}", json=change, headers=one.headers).status_code

        with ThreadPoolExecutor(2) as pool:
            for _ in range(15):
                admins = [make_user("admin"), make_user("admin")]
                statuses = set(pool.map(demote, admins, reversed(admins)))
                left = db.select(db.func.count(User.id)).where(User.role == "admin", User.active)
                assert db.session.scalar(left) == 1, statuses
                db.session.execute(db.delete(User))
                db.session.commit()

    def test_two_who_demote_each_other_wait_for_a_third_in_order(self, app, context, make_user):
        """The third, whose id is the lowest, is locked: if each locked in an order of his own, they would be stuck."""
        third, *admins = (make_user("admin") for _ in range(3))

        def demote(one, other):
            return app.test_client().patch(f"/users/{other.id}", json={"role": "user"}, headers=one.headers).status_code

        with ThreadPoolExecutor(2) as pool:
            lock_rows(db.select(User).where(User.id == third.id)).one()
            answers = pool.map(demote, admins, reversed(admins))
            time.sleep(0.3)
            db.session.rollback()
            assert set(answers) <= {200, 401}

    def test_unknown_user_is_missing(self, client, admin):
        assert client.patch("/users/2147483647", json={"active": False}, headers=admin.headers).status_code == 404


class TestConstraints:
    @pytest.mark.parametrize(
        "values", [{"role": "king"}, {"role": None}, {"email": None}, {"name": None}, {"active": None}]
    )
    def test_database_refuses_a_bad_row(self, buyer, context, values):
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(User).values(**values))


class TestToken:
    def test_ends_with_an_account_that_was_closed_by_hand(self, client, buyer, context):
        db.session.execute(db.text("UPDATE users SET active = false"))
        db.session.commit()
        assert client.get("/me", headers=buyer.headers).status_code == 401

    def test_documented_call_makes_one_that_works(self, client, staff, context):
        user = db.session.get(User, staff.id)
        token = create_access_token(identity=user.id, additional_claims={"role": user.role})
        assert client.get("/me", headers=bearer(token)).status_code == 200
        assert jwt.decode(token, JWT_KEY, ["HS256"])["role"] == "staff"

    def test_role_in_it_is_only_told(self, client, buyer, context):
        token = create_access_token(identity=buyer.id, additional_claims={"role": "admin"})
        assert client.get("/users", headers=bearer(token)).json == {"message": "Unauthorized"}

    def test_user_who_is_gone_has_none(self, client, buyer, context):
        db.session.delete(db.session.get(User, buyer.id))
        db.session.commit()
        assert client.get("/me", headers=buyer.headers).status_code == 401

    def test_costs_one_statement_a_request_however_many_log_in(self, client, buyer, statements):
        for _ in range(3):
            headers = bearer(log_in(client, buyer.email).json["access_token"])
        client.post("/logout", headers=buyer.headers)
        sent = statements(lambda: client.get("/tickets", headers=headers))
        assert len(sent) == 2  # the other one is the list's own

    def test_using_it_stores_one_row_a_log_in(self, client, buyer, context):
        for _ in range(3):
            client.get("/me", headers=buyer.headers)
        assert db.session.scalars(db.select(Login.user_id)).all() == [buyer.id]

    @pytest.mark.slow
    def test_ends_in_every_process_at_once(self, migrated, start_server):
        with migrated.app_context():
            User.sign_up(name="Boss", email="boss@example.com", password=PASSWORD).role = "admin"
            db.session.commit()
        address = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], WEB_CONCURRENCY="3").address
        credentials = {"email": "boss@example.com", "password": PASSWORD}
        for _ in range(5):
            login = requests.post(f"{address}/login", json=credentials, timeout=10).json()
            headers = bearer(login["access_token"])
            # Each request opens a connection of its own, so that all processes get some of them.
            before = {requests.get(f"{address}/me", headers=headers, timeout=10).status_code for _ in range(10)}
            requests.post(f"{address}/logout", headers=headers, timeout=10)
            after = {requests.get(f"{address}/me", headers=headers, timeout=10).status_code for _ in range(10)}
            assert (before, after) == ({200}, {401})
