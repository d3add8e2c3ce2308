"""Guesses run out, for the one who guesses and for nobody else."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import requests
from flask import Flask
from flask_limiter import Limiter

from app import create_app
from models import User, bcrypt, db
from routes.http.limits import big_orders

from .conftest import CONFIG, PASSWORD, bearer, dispose, order_body, together

REDIS = os.environ.get("TEST_REDIS_URL")
NO_REDIS = pytest.mark.skipif(not REDIS, reason="TEST_REDIS_URL is not set: limits are not tested on Redis")


def address():
    """A client that no other test has counted."""
    return f"10.{'.'.join(str(number) for number in secrets.token_bytes(3))}"


@pytest.fixture
def make_client(app):
    """An application with limits on the tables of `app`, as a client of it."""
    made = []

    def make(storage="memory://", **config):
        config |= {"RATELIMIT_ENABLED": True, "RATELIMIT_STORAGE_URI": storage}
        made.append(create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": app.config["SQLALCHEMY_DATABASE_URI"], **config}))
        return made[-1].test_client()

    yield make
    for limited in made:
        with limited.app_context():
            dispose()


@pytest.fixture(params=["memory://", pytest.param(REDIS, marks=NO_REDIS)])
def client(make_client, request):
    return make_client(request.param)


@pytest.fixture
def email(app):
    """The address of an account."""
    email = f"{secrets.token_hex(4)}@example.com"
    with app.app_context():
        User.sign_up(name="Somebody", email=email, password=PASSWORD)
        db.session.commit()
    return email


@pytest.fixture
def log_in(client):
    """Log in from an address, and return the status."""

    def try_once(email, password, source, **headers):
        origin = {"REMOTE_ADDR": source}
        body = {"email": email, "password": password}
        return client.post("/login", json=body, environ_overrides=origin, headers=headers).status_code

    return try_once


class TestLogin:
    def test_eleventh_wrong_guess_in_a_minute_is_too_many(self, client, email):
        origin = {"REMOTE_ADDR": address()}
        body = {"email": email, "password": "wrong"}
        answers = [client.post("/login", json=body, environ_overrides=origin) for _ in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert answers[-1].json == {"message": "Too many attempts. Please try again later."}
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert "Retry-After" not in answers[0].headers

    def test_then_the_right_one_has_to_wait_too(self, log_in, email):
        source = address()
        guesses = [log_in(email, "wrong", source) for _ in range(10)]
        assert [*guesses, log_in(email, PASSWORD, source)] == [401] * 10 + [429]

    def test_right_password_uses_up_nothing(self, log_in, email):
        source = address()
        assert {log_in(email, PASSWORD, source) for _ in range(12)} == {200}
        assert [log_in(email, "wrong", source) for _ in range(11)] == [401] * 10 + [429]

    def test_guesses_made_at_once_learn_no_more(self, log_in, email):
        source = address()
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda number: log_in(email, "wrong", source), range(32)))
        assert (statuses.count(401), statuses.count(429)) == (10, 22)

    def test_right_one_among_too_many_at_once_is_told_nothing(self, log_in, email, monkeypatch):
        source = address()

        def check_slowly(*args):
            monkeypatch.undo()
            assert {log_in(email, "wrong", source) for _ in range(10)} == {401}
            return bcrypt.check_password_hash(*args)

        monkeypatch.setattr(bcrypt, "check_password_hash", check_slowly)
        assert log_in(email, PASSWORD, source) == 429

    def test_right_ones_at_once_all_get_in(self, log_in, email):
        source = address()
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(lambda number: log_in(email, PASSWORD, source), range(32))) == {200}

    def test_owner_gets_in_from_elsewhere(self, log_in, email):
        source = address()
        assert [log_in(email, "wrong", source) for _ in range(11)][-1] == 429
        assert log_in(email, PASSWORD, address()) == 200

    def test_others_get_in_from_there(self, log_in, email, make_user):
        source = address()
        assert [log_in("nobody@example.com", "wrong", source) for _ in range(11)][-1] == 429
        assert log_in(email, PASSWORD, source) == 200

    def test_address_counts_however_it_is_spelled(self, log_in, email):
        source = address()
        spellings = [
            email,
            email.upper(),
            f" {email}",
            email.replace("example", "ｅxample"),
            email.replace("example", "eXample"),
        ]
        assert [log_in(spelling, "wrong", source) for spelling in spellings * 2] == [401] * 10
        assert log_in(email, "wrong", source) == 429

    def test_hundred_an_hour_are_enough_for_one_client(self, log_in, email):
        source = address()
        statuses = [log_in(f"{number}@example.com", "wrong", source) for number in range(101)]
        assert statuses == [401] * 100 + [429]
        assert log_in(email, PASSWORD, address()) == 200

    def test_what_cannot_be_read_uses_up_nothing(self, log_in, email):
        source = address()
        assert {log_in(email, 5, source) for _ in range(11)} == {400}
        assert log_in(email, "wrong", source) == 401


class TestAccount:
    """What is guessed from everywhere, each time by another client."""

    @pytest.fixture
    def exhausted(self, log_in, email):
        """The answers to a hundred guesses at the account and one more."""
        return [log_in(email, "wrong", address()) for _ in range(101)]

    def test_hundred_an_hour_are_enough_for_one_account(self, exhausted, log_in, email):
        assert exhausted == [401] * 100 + [429]
        assert log_in(email, PASSWORD, address()) == 429

    def test_others_get_in(self, exhausted, log_in, make_user):
        assert log_in(make_user().email, PASSWORD, address()) == 200

    def test_new_password_is_the_way_round(self, exhausted, client, log_in, email):
        run = client.application.test_cli_runner().invoke
        assert run(args=["set-password", email, "--password", "the owner's new one"]).exit_code == 0
        assert log_in(email, "the owner's new one", address()) == 200

    def test_address_without_an_account_is_answered_the_same(self, log_in):
        unknown = f"{secrets.token_hex(4)}@example.com"
        assert [log_in(unknown, "wrong", address()) for _ in range(101)] == [401] * 100 + [429]


class TestCurrentPassword:
    """A wrong one counts as a failed log-in: a lent token is no way to guess."""

    @pytest.fixture
    def change(self, client, email):
        body = {"email": email, "password": PASSWORD}
        login = client.post("/login", json=body, environ_overrides={"REMOTE_ADDR": address()}).json
        headers = bearer(login["access_token"])

        def patch(source, **fields):
            return client.patch("/me", json=fields, headers=headers, environ_overrides={"REMOTE_ADDR": source})

        return patch

    def test_eleventh_in_a_minute_is_too_many(self, change, log_in, email):
        source = address()
        wrong = {"password": "brand new one", "current_password": "wrong"}
        assert [change(source, **wrong).status_code for _ in range(11)] == [400] * 10 + [429]
        assert log_in(email, PASSWORD, source) == 429

    def test_right_one_has_to_wait_too(self, change):
        source = address()
        for _ in range(10):
            change(source, password="brand new one", current_password="wrong")
        assert change(source, password="brand new one", current_password=PASSWORD).status_code == 429

    def test_name_needs_no_password_and_never_waits(self, change):
        source = address()
        for _ in range(11):
            change(source, password="brand new one", current_password="wrong")
        assert change(source, name="New").status_code == 200


class TestAddressChange:
    def test_sixty_an_hour_are_enough_for_one_client(self, make_client, make_user):
        client, source, user, other = make_client(), {"REMOTE_ADDR": address()}, make_user(), make_user()

        def change(email):
            body = {"email": email, "current_password": PASSWORD}
            return client.patch("/me", json=body, headers=user.headers, environ_overrides=source).status_code

        assert [change(other.email) for _ in range(61)] == [409] * 60 + [429]
        assert change("new@example.com") == 429
        assert (
            client.patch("/me", json={"name": "N"}, headers=user.headers, environ_overrides=source).status_code == 200
        )


class TestNumbers:
    @pytest.mark.parametrize(
        "setting", ["FAILED_LOGINS_PER_MINUTE", "FAILED_LOGINS_PER_HOUR", "ACCOUNT_FAILED_LOGINS_PER_HOUR"]
    )
    def test_of_failed_log_ins_are_configured(self, make_client, email, setting):
        client, body = make_client(**{setting: 3}), {"email": email, "password": "wrong"}
        source = {"REMOTE_ADDR": address()}
        assert [client.post("/login", json=body, environ_overrides=source).status_code for _ in range(4)] == [
            *[401] * 3,
            429,
        ]

    def test_of_sign_ups_is_configured(self, make_client, email):
        client, source = make_client(SIGN_UPS_PER_HOUR=2), {"REMOTE_ADDR": address()}
        body = {"name": "Ann", "email": email, "password": PASSWORD}
        assert [client.post("/sign-up", json=body, environ_overrides=source).status_code for _ in range(3)] == [
            409,
            409,
            429,
        ]

    def test_of_changes_of_address_is_configured(self, make_client, make_user):
        client, user, source = make_client(ADDRESS_CHANGES_PER_HOUR=1), make_user(), {"REMOTE_ADDR": address()}
        body = {"email": "new@example.com", "current_password": "wrong"}
        answers = [client.patch("/me", json=body, headers=user.headers, environ_overrides=source) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [400, 429]


class TestSignUp:
    def test_hundred_an_hour_are_enough_for_one_client(self, client, email):
        def sign_up(email, source):
            body = {"name": "Ann", "email": email, "password": PASSWORD}
            return client.post("/sign-up", json=body, environ_overrides={"REMOTE_ADDR": source}).status_code

        source = address()
        assert sign_up("no address", source) == 400
        assert [sign_up(email, source) for _ in range(101)] == [409] * 100 + [429]
        assert sign_up("ann@example.com", address()) == 201


class TestClient:
    """Who counts as one. What is kept of it is the same wherever it is kept: in memory is enough here."""

    @pytest.fixture
    def log_in(self, make_client, email):
        def guess(*sources, proxies=0, number=11):
            client = make_client(TRUSTED_PROXIES=proxies)
            body = {"email": email, "password": "wrong"}
            return [
                client.post("/login", json=body, headers=headers, environ_overrides={"REMOTE_ADDR": source}).status_code
                for source, headers in (sources * number)[:number]
            ]

        return guess

    def test_forged_address_gains_nothing(self, log_in):
        forged = [("192.0.2.1", {"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(11)]
        assert log_in(*forged)[-1] == 429

    def test_forged_address_gains_nothing_behind_a_proxy(self, log_in):
        forged = [("192.0.2.1", {"X-Forwarded-For": f"10.0.0.{number}, 198.51.100.1"}) for number in range(11)]
        assert log_in(*forged, proxies=1)[-1] == 429

    def test_clients_behind_a_proxy_are_several(self, log_in):
        clients = [("192.0.2.1", {"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(11)]
        assert log_in(*clients, proxies=1) == [401] * 11

    def test_two_proxies_are_counted(self, log_in):
        clients = [("192.0.2.1", {"X-Forwarded-For": f"10.0.0.{number}, 198.51.100.1"}) for number in range(11)]
        assert log_in(*clients, proxies=2) == [401] * 11

    def test_port_that_a_proxy_names_gains_nothing(self, log_in):
        clients = [("192.0.2.1", {"X-Forwarded-For": f"198.51.100.1:{port}"}) for port in range(4000, 4011)]
        assert log_in(*clients, proxies=1)[-1] == 429

    def test_network_of_ipv6_is_one(self, log_in):
        assert log_in(*((f"2001:db8::{number}", {}) for number in range(1, 12)))[-1] == 429

    def test_networks_of_ipv6_are_several(self, log_in):
        assert log_in(*((f"2001:db8:0:{number}::1", {}) for number in range(11))) == [401] * 11

    def test_large_network_of_ipv6_has_ten_times_as_many(self, make_client):
        client = make_client(SIGN_UPS_PER_HOUR=1)
        body = {"name": "Ann", "email": "ann@example.com", "password": PASSWORD}

        def sign_up(source):
            return client.post("/sign-up", json=body, environ_overrides={"REMOTE_ADDR": source}).status_code

        network = f"2001:db8:{secrets.token_hex(2)}"
        assert [sign_up(f"{network}:{number}::1") for number in range(11)] == [201] + [409] * 9 + [429]
        assert sign_up(f"2001:db9:{secrets.token_hex(2)}::1") == 409

    def test_addresses_of_ipv4_in_ipv6_are_several(self, log_in):
        assert log_in(*((f"::ffff:10.0.0.{number}", {}) for number in range(11))) == [401] * 11

    @pytest.mark.parametrize("source", ["", "unix:", "fe80::1%eth0", "not an address"])
    def test_what_is_no_address_is_one(self, log_in, source):
        assert log_in((source, {})) == [401] * 10 + [429]


class TestInForce:
    @pytest.mark.parametrize("config", [{"TESTING": True}, {"RATELIMIT_ENABLED": False}])
    @pytest.mark.parametrize("late", [False, True])
    def test_not_while_testing_or_switched_off(self, app, make_client, email, config, late):
        client = make_client(**({} if late else config))
        client.application.config.update(config)
        body = {"email": email, "password": "wrong"}
        assert {client.post("/login", json=body).status_code for _ in range(11)} == {401}

    def test_nothing_else_is_limited(self, make_client):
        client = make_client()
        assert {client.get("/me").status_code for _ in range(150)} == {401}


class TestLibrary:
    def test_hook_that_is_taken_out_is_still_there(self, make_client):
        """Flask-Limiter 4.1.1 puts it into every application by this name."""
        bare = Flask("bare")
        limiter = Limiter(address, app=bare, storage_uri="memory://")
        assert bare.before_request_funcs[None] == [limiter._check_request_limit]
        hooks = make_client().application.before_request_funcs[None]
        assert "_check_request_limit" not in {hook.__name__ for hook in hooks}


@pytest.mark.slow
class TestRedis:
    """The production server, with several processes."""

    @pytest.fixture
    def guess(self, migrated, start_server):
        """Start the server, and return what eleven wrong guesses and one right one are answered, and the server."""
        with migrated.app_context():
            User.sign_up(name="Ann", email="ann@example.com", password=PASSWORD)
            db.session.commit()

        def run(storage):
            settings = {"RATELIMIT_ENABLED": "true", "RATELIMIT_STORAGE_URI": storage, "TRUSTED_PROXIES": "1"}
            server = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], WEB_CONCURRENCY="3", **settings)
            headers = {"X-Forwarded-For": address()}

            def log_in(password):
                body = {"email": "ann@example.com", "password": password}
                return requests.post(f"{server.address}/login", json=body, headers=headers, timeout=10).status_code

            return [log_in(password) for password in [PASSWORD] + ["wrong"] * 11]

        return run

    @NO_REDIS
    def test_counts_for_all_processes_together(self, guess):
        assert guess(REDIS) == [200] + [401] * 10 + [429]

    def test_gone_people_can_still_log_in_and_the_log_says_so(self, guess, capfd):
        statuses = guess("redis://127.0.0.1:1")
        assert statuses[:11] == [200] + [401] * 10
        assert "Rate limit storage unreachable" in capfd.readouterr().err

    @pytest.fixture
    def keys(self, make_client, email):
        """The keys that a wrong guess leaves there."""
        source = address()
        make_client(REDIS).post(
            "/login", json={"email": email, "password": "wrong"}, environ_overrides={"REMOTE_ADDR": source}
        )
        return [key.decode() for key in redis.from_url(REDIS).scan_iter(f"*{source}*")]

    @NO_REDIS
    def test_learns_no_address_of_anybody(self, keys):
        assert keys and not any("@" in key for key in keys)

    @NO_REDIS
    def test_has_our_keys_under_a_prefix_of_our_own(self, keys):
        assert keys and all(key.startswith("ticketing:") for key in keys)


class TestBigOrders:
    """Orders of many tickets are written one at a time, so that nobody else waits for many of them."""

    @pytest.fixture
    def busy(self):
        """One is being written, and as many wait as may."""
        big_orders.working, big_orders.waiting = 1, 8
        yield
        big_orders.working = big_orders.waiting = 0

    @pytest.fixture
    def id(self, make_ticket_type):
        return make_ticket_type(quantity=1000, max_per_order=1000, price=0, max_per_buyer=None)

    def test_where_too_many_wait_is_a_503(self, busy, buyer, id, place):
        response = place(buyer, id, 51)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")

    def test_smaller_ones_do_not_wait(self, busy, buyer, id, place):
        assert place(buyer, id, 50).status_code == 201

    def test_are_written_one_after_the_other(self, app, make_user, id):
        users = [make_user() for _ in range(6)]
        body = order_body((id, 60))

        answers = together(app, *(("POST", "/orders", body, user.headers) for user in users))
        assert [answer.status_code for answer in answers] == [201] * 6
        assert (big_orders.working, big_orders.waiting) == (0, 0)
