"""What the tests share: both databases, an application on each, people of every role and something to sell them.

SQLite always runs. PostgreSQL runs where TEST_DATABASE_URL names a server on which databases can be made and dropped.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from flask_migrate import upgrade
from sqlalchemy import Engine, create_engine, event, make_url, text

for variable in ("DATABASE_URL", "JWT_SECRET_KEY", "RATELIMIT_STORAGE_URI"):
    os.environ.pop(variable, None)
os.environ["JWT_SECRET_KEY"] = "a key for tests alone, long enough to sign with"

from app import create_app
from models import Category, Event, Order, TicketType, User, db, now

ROOT = Path(__file__).parent.parent
POSTGRESQL = os.environ.get("TEST_DATABASE_URL")
NO_POSTGRESQL = pytest.mark.skipif(not POSTGRESQL, reason="TEST_DATABASE_URL is not set: not tested on PostgreSQL")
PASSWORD = "correct horse"
CONFIG = {"BCRYPT_LOG_ROUNDS": 4, "RATELIMIT_ENABLED": False}


def dispose():
    """Close the connections of the application whose context is open."""
    for engine in db.engines.values():
        engine.dispose()


def pytest_report_header(config):
    return f"databases: SQLite{' and PostgreSQL' if POSTGRESQL else ' (set TEST_DATABASE_URL for PostgreSQL)'}"


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=NO_POSTGRESQL)])
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def make_database(backend, tmp_path_factory):
    """Make an empty database and return its URL; all of them are gone after the tests."""
    if backend == "sqlite":
        yield lambda: f"sqlite:///{tmp_path_factory.mktemp('database')}/test.db"
        return
    url = make_url(POSTGRESQL.replace("postgres://", "postgresql://")).set(drivername="postgresql+psycopg2")
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    made = []

    def make():
        made.append(f"ticketing_{secrets.token_hex(6)}")
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {made[-1]}"))
        return url.set(database=made[-1]).render_as_string(hide_password=False)

    yield make
    with server.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="session")
def session_app(make_database):
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        db.create_all()
    yield app
    with app.app_context():
        dispose()


@pytest.fixture
def app(session_app):
    """The application as in production: TESTING is off, so errors are answered and not raised. Its tables are empty."""
    before = dict(session_app.config)
    with session_app.app_context():
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(table.delete())  # ten times as fast as TRUNCATE where there are few rows
        db.session.commit()
    yield session_app
    session_app.config.clear()
    session_app.config.update(before)


@pytest.fixture
def context(app):
    """An open application context, to look into the database with."""
    with app.app_context():
        yield app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def make_user(app, client):
    """Make a user and log in: `id`, `email`, `headers` with the token, and the `login` answer."""

    def make(role="user", email=None, name="Somebody"):
        email = email or f"{secrets.token_hex(4)}@example.com"
        with app.app_context():
            user = User.sign_up(name=name, email=email, password=PASSWORD)
            user.role = role
            db.session.commit()
            id = user.id
        login = client.post("/login", json={"email": email, "password": PASSWORD}).get_json()
        headers = {"Authorization": f"Bearer {login['access_token']}"}
        return SimpleNamespace(id=id, email=email, headers=headers, login=login)

    return make


@pytest.fixture
def make_event(app):
    """Make a published event of next week, or as `fields` say, and return its id."""

    def make(**fields):
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
        usual = {"name": "Concert", "description": "Music", "venue": "Hall", "status": "published"}
        usual |= {"starts_at": start, "ends_at": start + timedelta(hours=3)}
        with app.app_context():
            if "category_id" not in fields:
                fields["category_id"] = Category.create(secrets.token_hex(4)).id
            event = Event.create(**(usual | fields))
            db.session.commit()
            return event.id

    return make


@pytest.fixture
def make_ticket_type(app, make_event):
    """Put tickets on sale, 10 places at 25.00 or as `fields` say, for a new event or `event_id`, and return the id."""

    def make(event_id=None, **fields):
        event_id = event_id or make_event()
        with app.app_context():
            event = db.session.get_one(Event, event_id)
            ticket_type = TicketType.create(event, **({"name": "Regular", "price": 2500, "quantity": 10} | fields))
            db.session.commit()
            return ticket_type.id

    return make


@pytest.fixture
def place(client):
    """Order `quantity` tickets of a type for a user, and return the response."""

    def order(user, ticket_type_id, quantity=1, **headers):
        items = [{"ticket_type_id": ticket_type_id, "quantity": quantity}]
        return client.post("/orders", json={"items": items}, headers={**user.headers, **headers})

    return order


@pytest.fixture
def pay(client, staff):
    """Pay an order, given as its JSON, in cash, and return the response."""

    def payment(order, **fields):
        fields = {"method": "cash", "amount": order["total"]} | fields
        return client.post(f"/orders/{order['code']}/payments", json=fields, headers=staff.headers)

    return payment


@pytest.fixture
def paid_order(buyer, make_ticket_type, place, pay, client):
    """An order of two tickets, paid, as its buyer sees it."""
    order = place(buyer, make_ticket_type(), 2).get_json()
    pay(order)
    return client.get(f"/orders/{order['code']}", headers=buyer.headers).get_json()


@pytest.fixture
def lapse(app):
    """Let the hold of an order, given as its JSON, have lapsed a second ago."""

    def move(order):
        with app.app_context():
            db.session.execute(db.update(Order).where(Order.code == order["code"]).values(expires_at=now(-1)))
            db.session.commit()

    return move


@pytest.fixture
def statements():
    """Make a call and return the statements that it sent to the database."""

    def sent_by(call):
        sent = []

        def note(connection, cursor, statement, *rest):
            sent.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        call()
        event.remove(Engine, "before_cursor_execute", note)
        return sent

    return sent_by


@pytest.fixture
def migrated(make_database):
    """An application on a database of its own that was brought up to date as in production: for `start_server`."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        upgrade()
    yield app
    with app.app_context():
        dispose()


@pytest.fixture
def start_server():
    """Start the production server on the database `url` and return its address and process; stopped after the test."""
    with servers() as start:
        yield start


@contextmanager
def servers():
    """What `start_server` does, for as long as the block lasts."""
    processes = []

    def start(url, **settings):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
        environment |= {"DATABASE_URL": url, "PORT": str(port), "BCRYPT_LOG_ROUNDS": "4", "RATELIMIT_ENABLED": "false"}
        environment |= {"WEB_CONCURRENCY": "2", "LOG_LEVEL": "WARNING"} | settings
        command = [sys.executable, "-c", "from app import serve; serve()"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        processes.append(process)
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process)
        return SimpleNamespace(address=address, process=process)

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def wait_for(address, process):
    for _ in range(100):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture
def admin(make_user):
    return make_user("admin")


@pytest.fixture
def staff(make_user):
    return make_user("staff")


@pytest.fixture
def buyer(make_user):
    return make_user("user")
