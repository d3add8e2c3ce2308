"""A database that is away, refuses or changes under a running server: a 503 that names it, and nothing half done."""

import csv
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from flask_restful import Resource
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

from models import Category, User, autocommit_connection, db
from routes.http import paging
from routes.http.api import TicketingApi
from routes.selling.catalogue import create_category, create_event, create_ticket_type
from routes.selling.placing import place

from .conftest import ON_POSTGRESQL, ON_SQLITE, PASSWORD, application, bearer, dispose
from .servers import own_postgresql

WRITABLE = "?options=-c%20default_transaction_read_only%3Doff"
SPA = {"Origin": "http://localhost:3000"}


@pytest.fixture
def url(app):
    return app.config["SQLALCHEMY_DATABASE_URI"]


@pytest.fixture
def probe(url):
    """Make a client of an application whose `GET /probe` does what it is given."""
    with application(url) as app:

        def make(work):
            class Probe(Resource):
                def get(self):
                    work()
                    return "done"

            api = TicketingApi()
            api.add_resource(Probe, "/probe")
            api.init_app(app)
            return app.test_client()

        yield make


def fail(code):
    """Have PostgreSQL fail with this code."""
    db.session.execute(db.text(f"DO $$ BEGIN RAISE EXCEPTION 'hidden' USING ERRCODE = '{code}'; END $$"))


def assert_unavailable(response, words):
    assert (response.status_code, words in response.json["message"]) == (503, True), response.json
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["X-Request-ID"]


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@ON_POSTGRESQL
class TestCode:
    @pytest.mark.parametrize(
        "code, words",
        [
            *(("25006", "takes no writes"), ("55P03", "locked"), ("57014", "took too long"), ("53100", "no room")),
            *(("57P01", "does not answer"), ("57P02", "does not answer"), ("57P03", "does not answer")),
            *(("25P03", "does not answer"), ("08006", "does not answer"), ("25P04", "took too long")),
            *(("53300", "connections are in use"), ("53000", "connections are in use"), ("53200", "no room")),
            *(("40001", "same time"), ("40P01", "same time"), ("26000", "has changed"), ("58030", "files")),
            *(("42P01", "tables of this version"), ("42703", "tables of this version"), ("42501", "does not let")),
        ],
    )
    def test_is_a_503_that_names_it(self, probe, caplog, code, words):
        response = probe(lambda: fail(code)).get("/probe", headers=SPA)
        assert_unavailable(response, words)
        assert response.headers["Access-Control-Allow-Origin"] == SPA["Origin"]
        assert [words in message for message in errors(caplog)] == [True]

    @pytest.mark.parametrize("code", ["23514", "22P02", "42601", "XX000", "54001", "25P02"])
    def test_of_a_bug_is_a_crash(self, probe, code):
        response = probe(lambda: fail(code)).get("/probe", headers=SPA)
        assert (response.status_code, response.json) == (500, {"message": "Internal Server Error"})
        assert response.headers["Access-Control-Allow-Origin"] == SPA["Origin"]


class TestConflict:
    """What a deadlock or a serialization failure undid is done once more, if nothing was committed."""

    @pytest.fixture
    def calls(self):
        return []

    @ON_POSTGRESQL
    @pytest.mark.parametrize("code", ["40001", "40P01", "26000"])
    def test_is_tried_again(self, probe, calls, code):
        def work():
            calls.append(1)
            if len(calls) == 1:
                fail(code)

        assert (probe(work).get("/probe").json, len(calls)) == ("done", 2)

    @ON_POSTGRESQL
    def test_is_tried_again_once(self, probe, calls):
        response = probe(lambda: (calls.append(1), fail("40P01"))).get("/probe")
        assert (response.status_code, len(calls)) == (503, 2)

    @ON_POSTGRESQL
    def test_is_not_tried_again_after_a_commit(self, probe, calls):
        def work():
            calls.append(create_category(f"Music {len(calls)}"))
            db.session.commit()
            fail("40P01")

        assert (probe(work).get("/probe").status_code, len(calls)) == (503, 1)

    @ON_POSTGRESQL
    def test_is_not_tried_again_after_another_fault(self, probe, calls):
        assert probe(lambda: (calls.append(1), fail("25006"))).get("/probe").status_code == 503
        assert len(calls) == 1

    @ON_POSTGRESQL
    def test_nothing_of_the_first_try_is_kept(self, probe, calls, context):
        def work():
            calls.append(create_category(f"Music {len(calls)}"))
            if len(calls) == 1:
                fail("40001")
            db.session.commit()

        probe(work).get("/probe")
        assert db.session.scalars(db.select(Category.name)).all() == ["Music 1"]

    @ON_POSTGRESQL
    def test_real_deadlock_costs_nobody_his_call(self, probe, context):
        """Each of two calls locks a category, waits for the other, and wants the other's."""
        ids = [create_category("One").id, create_category("Two").id]
        db.session.commit()
        both, turns = threading.Barrier(2), iter([ids, ids[::-1]])

        def work():
            mine = next(turns, None)
            for number, id in enumerate(mine or ids):
                db.session.execute(db.select(Category.id).where(Category.id == id).with_for_update())
                if mine and not number:
                    both.wait(10)

        client = probe(work)
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: client.application.test_client().get("/probe"), range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]

    @ON_SQLITE
    def test_stale_snapshot_is_tried_again(self, probe, calls, url):
        """Somebody writes between what a transaction has read and what it wants to write."""

        def work():
            db.session.connection().exec_driver_sql("BEGIN")
            db.session.scalars(db.select(Category.id)).all()
            if not calls:
                calls.append(1)
                write(url, "INSERT INTO categories (name, folded) VALUES ('x', 'x')")
            db.session.execute(db.insert(Category).values(name="y", folded="y"))

        assert probe(work).get("/probe").json == "done"


def write(url, statement):
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(db.text(statement))
    engine.dispose()


@ON_POSTGRESQL
class TestIsolation:
    @pytest.mark.parametrize("pool", [None, "autocommit", "orders", "search"])
    def test_is_ours_whatever_the_database_has(self, url, pool):
        """By `repeatable read`, most of those who want one row at once would fail."""
        other = altered(url, "SET default_transaction_isolation = 'repeatable read'")
        with other, application(url) as app, app.app_context(), db.engines[pool].connect() as connection:
            assert connection.scalar(db.text("SHOW transaction_isolation")) == "read committed"


@contextmanager
def altered(url, change):
    """The database with another default, for as long as the block lasts."""
    name = make_url(url).database
    write(url, f"ALTER DATABASE {name} {change}")
    try:
        yield
    finally:
        write(f"{url}{WRITABLE}", f"ALTER DATABASE {name} RESET ALL")


class TestReadOnly:
    @pytest.fixture
    def client(self, url, backend, admin):
        """A client of an application whose database takes no writes."""
        if backend == "sqlite":
            with application(f"sqlite:///file:{make_url(url).database}?mode=ro&uri=true") as app:
                yield app.test_client()
            return
        with altered(url, "SET default_transaction_read_only = on"), application(url) as app:
            yield app.test_client()

    def test_write_is_a_503_that_says_so(self, client, admin, caplog):
        response = client.post("/categories", json={"name": "Music"}, headers=admin.headers | SPA)
        assert_unavailable(response, "takes no writes")
        assert errors(caplog) == ["The database takes no writes"]

    def test_read_is_answered(self, client, admin):
        assert client.get("/me", headers=admin.headers).status_code == 200

    def test_health_says_so(self, client):
        response = client.get("/health")
        assert_unavailable(response, "takes no writes")

    @ON_POSTGRESQL
    def test_end_of_it_is_seen_by_the_next_call(self, client, admin, url):
        """A connection that was told it may not write is given up: a new one may find another server, or the end."""
        client.post("/categories", json={"name": "Music"}, headers=admin.headers)
        write(f"{url}{WRITABLE}", f"ALTER DATABASE {make_url(url).database} RESET ALL")
        assert client.post("/categories", json={"name": "Music"}, headers=admin.headers).status_code == 201


@ON_SQLITE
class TestSQLite:
    def test_health_is_fine_while_somebody_writes(self, client, url):
        engine = create_engine(url, connect_args={"isolation_level": None})
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            assert client.get("/health").status_code == 200
        engine.dispose()

    def test_lock_that_is_not_let_go_is_a_503_that_says_so(self, url, admin):
        engine = create_engine(url, connect_args={"isolation_level": None})
        options = {"connect_args": {"timeout": 0.1}}
        with application(url, SQLALCHEMY_ENGINE_OPTIONS=options) as app, engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            response = app.test_client().post("/categories", json={"name": "Music"}, headers=admin.headers)
        engine.dispose()
        assert_unavailable(response, "locked")

    def test_file_that_is_full_is_a_503_that_says_so(self, probe):
        def work():
            db.session.execute(db.text("PRAGMA max_page_count = 1"))
            db.session.execute(db.insert(Category), [{"name": "x" * 10_000, "folded": str(n)} for n in range(5000)])

        assert_unavailable(probe(work).get("/probe"), "no room")


class TestSQLiteFile:
    def test_that_is_no_database_is_a_503_that_says_so(self, tmp_path):
        (tmp_path / "test.db").write_text("This is a letter. " * 1000)
        with application(f"sqlite:///{tmp_path}/test.db") as app:
            assert_unavailable(app.test_client().get("/categories"), "files")

    def test_without_tables_is_a_503_that_says_so(self, tmp_path):
        with application(f"sqlite:///{tmp_path}/test.db") as app:
            assert_unavailable(app.test_client().get("/categories"), "tables of this version")


ENDLESS = {
    "postgresql": "SELECT pg_sleep(30)",
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}


class TestTime:
    @pytest.mark.parametrize("pool", ["autocommit", "search"])
    def test_of_a_statement_is_limited(self, url, pool, backend):
        with application(url, DB_STATEMENT_SECONDS=1) as app:

            @app.get("/endless")
            def endless():
                with autocommit_connection(pool) as connection:
                    connection.execute(db.text(ENDLESS[backend]))

            assert_unavailable(app.test_client().get("/endless"), "took too long")

    @ON_POSTGRESQL
    def test_of_waiting_for_a_lock_is_limited(self, url, admin, client):
        id = client.post("/categories", json={"name": "Music"}, headers=admin.headers).json["id"]
        with application(url, DB_STATEMENT_SECONDS=1) as app, client.application.app_context():
            db.session.execute(db.select(Category.id).with_for_update())
            change = {"name": "Noise"}
            response = app.test_client().patch(f"/categories/{id}", json=change, headers=admin.headers)
        assert_unavailable(response, "locked")

    @ON_POSTGRESQL
    @pytest.mark.parametrize("pool, name", [("autocommit", "statement_timeout"), (None, "lock_timeout")])
    def test_that_the_address_says_is_kept(self, url, pool, name):
        with application(f"{url}?options=-c%20{name}%3D1234") as app, app.app_context():
            connection = db.engines[pool].connect()
            assert connection.scalar(db.text(f"SHOW {name}")) == "1234ms"
            connection.close()


class TestSearch:
    def test_others_that_are_slow_keep_no_call_waiting(self, url, admin, make_event):
        """All connections for searches are taken, and a signed-in call needs none of them."""
        make_event()
        with application(url) as app, app.app_context():
            client, taken = app.test_client(), [autocommit_connection("search") for _ in range(2)]
            assert_unavailable(client.get("/events?q=concert"), "connections are in use")
            assert client.get("/me", headers=admin.headers).status_code == 200
            assert len(client.get("/events").json) == 1
            for connection in taken:
                connection.close()

    @ON_POSTGRESQL
    def test_orders_that_wait_keep_no_call_waiting(self, url, buyer):
        with application(url) as app, app.app_context():
            taken = [autocommit_connection("orders") for _ in range(app.config["DB_POOL_SIZE"])]
            assert app.test_client().get("/me", headers=buyer.headers).status_code == 200
            for connection in taken:
                connection.close()

    def test_finds_events_by_eight_words(self, client, make_event):
        make_event(name="a b c d", venue="e f g h")
        assert len(client.get("/events?q=a+b+c+d+e+f+g+h").json) == 1

    def test_of_nine_words_is_refused(self, client):
        response = client.get("/events?q=a+b+c+d+e+f+g+h+i")
        assert (response.status_code, response.json) == (400, {"message": {"q": "Must have 8 words at most"}})


@ON_POSTGRESQL
class TestCleanUp:
    def test_on_a_dead_connection_costs_no_answer(self, probe, url):
        def work():
            pid = db.session.scalar(db.text("SELECT pg_backend_pid()"))
            write(url, f"SELECT pg_terminate_backend({pid})")

        client = probe(work)
        assert client.get("/probe").json == "done"
        assert client.get("/categories").status_code == 200

    def test_killed_in_a_transaction_it_is_a_503(self, probe, url):
        def work():
            pid = db.session.scalar(db.text("SELECT pg_backend_pid()"))
            write(url, f"SELECT pg_terminate_backend({pid})")
            db.session.execute(db.text("SELECT 1"))

        client = probe(work)
        response = client.get("/probe", headers=SPA)
        assert_unavailable(response, "does not answer")
        assert response.headers["Access-Control-Allow-Origin"] == SPA["Origin"]
        assert client.get("/categories").status_code == 200


@pytest.fixture(scope="module")
def postgresql():
    """A PostgreSQL of our own, with an application on it and enough for three chunks in it."""
    with own_postgresql() as server, application(server.url()) as app:
        with app.app_context():
            db.create_all()
            fill()
        server.app = app
        yield server


def fill():
    """An admin, 25 users, and for the event 1 as many tickets."""
    admin = User.sign_up(name="Admin", email="admin@example.com", password=PASSWORD)
    admin.role = "admin"
    for number in range(25):
        User.sign_up(name="Somebody", email=f"{number}@example.com", password=PASSWORD)
    event = {"name": "Gig", "description": "d", "venue": "v", "category_id": create_category("Music").id}
    times = {"starts_at": datetime.now(UTC) + timedelta(days=1), "ends_at": datetime.now(UTC) + timedelta(days=2)}
    event = create_event({**event, **times, "status": "published"})
    kind = create_ticket_type(event.id, {"name": "Any", "price": 0, "quantity": 25, "max_per_order": 25})
    place(admin.id, [(kind.id, 25)])
    db.session.commit()


@pytest.fixture
def read(postgresql, monkeypatch):
    """Get an address as the admin, over connections that no earlier test has cut. Ten rows are a chunk."""
    monkeypatch.setattr(paging, "CHUNK", 10)
    with postgresql.app.app_context():
        dispose()
    client = postgresql.app.test_client()
    login = client.post("/login", json={"email": "admin@example.com", "password": PASSWORD}).json
    headers = bearer(login["access_token"]) | {"Accept": "text/csv"}
    return lambda path: client.get(path, headers=headers)


@pytest.fixture
def downloads(read):
    """Begin a long answer, and return its first chunk and what reads the rest."""

    def begin(path):
        response = read(path)
        assert response.status_code == 200
        parts = response.iter_encoded()
        names = next(parts) if "attendees" in path else b""
        return names + next(parts), parts

    return begin


LONG = {"/users": 26, "/events/1/attendees": 25}


def rows(path, content):
    return len(json.loads(content) if path == "/users" else list(csv.DictReader(io.StringIO(content.decode()))))


@pytest.mark.slow
class TestBrokenOff:
    """A long answer whose database goes away when its first chunk is out."""

    @pytest.mark.parametrize("path", LONG)
    def test_by_a_restart_is_whole(self, postgresql, downloads, path):
        first, rest = downloads(path)
        postgresql.stop()
        threading.Timer(1, postgresql.start).start()
        content = first + b"".join(rest)
        assert rows(path, content) == LONG[path]

    @pytest.mark.parametrize("path", LONG)
    def test_by_a_cut_connection_is_whole(self, postgresql, downloads, path):
        first, rest = downloads(path)
        postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        assert rows(path, first + b"".join(rest)) == LONG[path]

    @pytest.mark.parametrize("path", LONG)
    def test_for_good_is_an_error_for_the_server_to_see(self, postgresql, downloads, path, monkeypatch, caplog):
        monkeypatch.setattr(paging, "PATIENCE", 0.5)
        first, rest = downloads(path)
        postgresql.stop()
        try:
            with pytest.raises(DBAPIError):
                b"".join(rest)
        finally:
            postgresql.start()
        assert "A list breaks off: The database does not answer" in errors(caplog)

    def test_before_it_began_is_a_503(self, postgresql, read):
        postgresql.execute("ALTER TABLE tickets RENAME TO cards")
        response = read("/events/1/attendees")
        postgresql.execute("ALTER TABLE cards RENAME TO tickets")
        assert_unavailable(response, "tables of this version")
