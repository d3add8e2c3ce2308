"""Errors: one shape whatever raised them, nothing told and nothing kept."""

import io
import logging
import time

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from app import create_app
from models import Category, EmailTaken, Event, User, autocommit_connection, bcrypt, db, refusing
from routes.selling.catalogue import create_category

from .conftest import CONFIG, NO_POSTGRESQL, PASSWORD, dispose


def message(response):
    assert response.mimetype == "application/json"
    return response.status_code, response.json["message"]


class TestAnswer:
    def test_unknown_path(self, client):
        assert message(client.get("/nowhere")) == (404, "Not Found")

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "PROPFIND", "login"])
    def test_wrong_method_names_the_right_ones(self, client, method):
        response = client.open("/login", method=method)
        assert message(response) == (405, "Method Not Allowed")
        assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}

    def test_wrong_type(self, client):
        assert message(client.post("/login", data="email=x"))[0] == 415

    def test_too_large(self, client):
        response = client.post("/login", data=b"x" * 2_000_000, content_type="application/json")
        assert message(response) == (413, "Request Entity Too Large")

    def test_too_large_in_chunks(self, client):
        body = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b"x" * 2_000_000)}
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        response = client.post("/login", headers=headers, environ_overrides=body)
        assert message(response) == (413, "Request Entity Too Large")

    def test_largest_in_chunks_is_read(self, client):
        content = b'{"more": "' + b"x" * (1024 * 1024 - 12) + b'"}'
        body = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(content)}
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        response = client.post("/login", headers=headers, environ_overrides=body)
        assert (len(content), response.status_code, len(response.json["message"])) == (1024 * 1024, 400, 2)

    def test_cut_off_is_no_body(self, client, context):
        body = b'{"name": "Ann", "email": "ann@example.com", "password": "correct horse"}'
        cut_off = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": "300"}
        response = client.post("/sign-up", content_type="application/json", environ_overrides=cut_off)
        assert (message(response)[0], db.session.scalars(db.select(User)).all()) == (400, [])

    def test_unknown_path_for_options_is_json_too(self, client):
        assert message(client.options("/nowhere")) == (404, "Not Found")

    def test_refusal_of_a_rule_says_which(self, client, admin):
        response = client.patch(f"/users/{admin.id}", json={"active": False}, headers=admin.headers)
        assert set(response.json) == {"message", "reason"}


@pytest.fixture
def crash(monkeypatch):
    """A body whose sign-up crashes: bcrypt, set up wrongly, raises a ValueError, which is a bug and no bad input."""
    monkeypatch.setattr(bcrypt, "_log_rounds", 99)
    return {"name": "Ann", "email": "ann@example.com", "password": PASSWORD}


class TestCrash:
    def test_tells_the_client_nothing(self, client, crash):
        assert message(client.post("/sign-up", json=crash)) == (500, "Internal Server Error")

    def test_is_logged_once_with_its_traceback(self, client, crash, caplog):
        client.post("/sign-up", json=crash)
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.exc_info[0] is ValueError

    def test_may_be_read_by_the_spa(self, client, crash):
        headers = client.post("/sign-up", json=crash, headers={"Origin": "http://localhost:3000"}).headers
        assert headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert headers["X-Request-ID"]

    def test_next_request_is_fine(self, client, crash):
        client.post("/sign-up", json=crash)
        assert client.get("/events").status_code == 200


class TestNothingIsKept:
    """One application context is held open around the requests, so no session ends between them."""

    @pytest.fixture
    def kept(self, context, client, admin):
        """Whether what a refused call had changed is in the database after the next call that commits."""

        def look(method, path, body, status, user=admin):
            before = db.session.execute(
                db.select(User.name, User.role, User.active, User.email).order_by(User.id)
            ).all()
            before += db.session.execute(db.select(Event.name, Event.version)).all()
            assert client.open(path, method=method, json=body, headers=user.headers).status_code == status
            assert client.post("/categories", json={"name": "next"}, headers=admin.headers).status_code == 201
            after = db.session.execute(db.select(User.name, User.role, User.active, User.email).order_by(User.id)).all()
            after += db.session.execute(db.select(Event.name, Event.version)).all()
            return after != before

        return look

    def test_of_a_value_that_is_taken(self, kept, admin, buyer):
        change = {"name": "X", "email": admin.email, "current_password": PASSWORD}
        assert not kept("PATCH", "/me", change, 409, buyer)

    def test_of_a_rule_that_says_no(self, kept, admin):
        assert not kept("PATCH", f"/users/{admin.id}", {"role": "user"}, 409)

    def test_of_a_value_judged_in_the_domain(self, kept, make_event):
        change = {"name": "X", "ends_at": "1999-01-01T00:00:00Z"}
        assert not kept("PATCH", f"/events/{make_event()}", change, 400)

    def test_of_a_reference_to_nothing(self, kept, make_event):
        assert not kept("PATCH", f"/events/{make_event()}", {"name": "X", "category_id": 2147483647}, 400)

    def test_of_a_crash(self, kept, crash, admin):
        change = {"name": "X", "password": PASSWORD, "current_password": PASSWORD}
        assert not kept("PATCH", "/me", change, 500)

    def test_of_one_request_is_seen_by_the_next(self, context, client, admin, buyer):
        """Nor is what a request left in the session or in `g`."""
        assert client.get("/users", headers=admin.headers).status_code == 200
        assert client.get("/users", headers=buyer.headers).status_code == 401
        assert client.get("/users").status_code == 401
        client.patch(f"/users/{buyer.id}", json={"role": "admin"}, headers=admin.headers)
        assert db.session.get(User, buyer.id).role == "admin"

    def test_of_a_request_is_stale_in_the_next(self, context, client, admin):
        """The test holds the object, as the session would if it outlived its request."""
        category = create_category("Music")
        db.session.commit()
        client.patch(f"/categories/{category.id}", json={"name": "Noise"}, headers=admin.headers)
        assert category.name == "Noise"


class TestOtherViolation:
    def test_is_no_refusal(self, context):
        with pytest.raises(IntegrityError), refusing(EmailTaken, "uq_users_email"):
            db.session.execute(db.insert(Category).values(name=None, folded="x"))


class TestConnections:
    def test_when_all_are_taken_it_may_be_tried_again(self, app):
        options = app.config["SQLALCHEMY_ENGINE_OPTIONS"] | {"pool_size": 1, "pool_timeout": 0.1}
        small = create_app({**app.config, "SQLALCHEMY_ENGINE_OPTIONS": options, "SQLALCHEMY_BINDS": {}})
        with small.app_context():
            with db.engine.connect():
                response = small.test_client().get("/events")
            dispose()
        assert (message(response)[0], response.headers["Retry-After"]) == (503, "1")

    @pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=NO_POSTGRESQL)], indirect=True)
    def test_one_that_died_while_it_lay_idle_is_replaced(self, client, admin, context):
        engine = db.engines["autocommit"]
        with engine.connect() as connection:
            [pid] = connection.execute(db.text("SELECT pg_backend_pid()")).one()
        with db.engine.connect() as other:
            other.execute(db.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        time.sleep(1.1)
        assert client.get("/me", headers=admin.headers).status_code == 200

    @pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=NO_POSTGRESQL)], indirect=True)
    def test_answer_in_utc_wherever_the_database_is(self, app, buyer, make_ticket_type, place):
        def alter(change):
            with app.app_context():
                db.session.execute(db.text(f"ALTER DATABASE {db.engine.url.database} {change}"))
                db.session.commit()
                dispose()

        alter("SET timezone = 'Europe/Berlin'")
        created = place(buyer, make_ticket_type()).get_json()["created_at"]
        alter("RESET timezone")
        assert created.endswith("Z")

    @pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=NO_POSTGRESQL)], indirect=True)
    def test_of_single_statements_keep_no_plan_that_reads_a_whole_table(self, context):
        with autocommit_connection() as connection:
            assert connection.scalar(db.text("SHOW enable_seqscan")) == "off"

    @pytest.mark.parametrize("connect", [lambda: db.engine.connect(), autocommit_connection])
    def test_parameters_are_in_no_error(self, context, connect):
        with connect() as connection, pytest.raises(DBAPIError) as error:
            connection.execute(db.text("SELECT secret FROM nowhere WHERE x = :x"), {"x": "hidden"})
        assert "[parameters: " not in str(error.value)


class TestDatabaseGone:
    @pytest.fixture(params=["sqlite:////nowhere/at/all.db", "postgresql://postgres@127.0.0.1:1/postgres"])
    def client(self, request):
        return create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": request.param}).test_client()

    def test_health_says_so(self, client):
        assert message(client.get("/health"))[0] == 503

    def test_call_may_be_tried_again(self, client):
        response = client.get("/categories")
        assert message(response)[0] == 503
        assert int(response.headers["Retry-After"]) >= 1

    def test_is_logged_once(self, client, caplog):
        client.get("/categories")
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


class TestHealth:
    def test_is_ok(self, client):
        assert client.get("/health").json == {"status": "ok"}
