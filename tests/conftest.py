"""What the tests share: both databases, an application on each, people of every role and something to sell them.

SQLite always runs. PostgreSQL runs where TEST_DATABASE_URL names a server on which databases can be made and dropped.
"""

import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Event, Thread
from types import SimpleNamespace

import pytest
import requests
from flask_migrate import upgrade
from selenium import webdriver
from sqlalchemy import Engine, create_engine, event, inspect, make_url, text

for variable in ("DATABASE_URL", "JWT_SECRET_KEY", "RATELIMIT_STORAGE_URI"):
    os.environ.pop(variable, None)
for variable in ("SMTP_URL", "SHOP_URL", "MAIL_FROM", "RUN_JOBS", "STRIPE_SECRET_KEY", "STRIPE_API_BASE"):
    os.environ[variable] = ""  # set, so that those of a `.env` do not count
JWT_KEY = os.environ["JWT_SECRET_KEY"] = "a key for tests alone, long enough to sign with"

from app import create_app
from models import Order, TicketType, User, db, now
from routes.docs.page import FILES
from routes.jobs.mails import post_office, send_due_mails
from routes.selling.catalogue import create_category, create_event, create_ticket_type

from .fakes.mail_server import MailServer
from .servers import free_port

ROOT = Path(__file__).parent.parent
POSTGRESQL = os.environ.get("TEST_DATABASE_URL")
NO_POSTGRESQL = pytest.mark.skipif(not POSTGRESQL, reason="TEST_DATABASE_URL is not set: not tested on PostgreSQL")
ON_POSTGRESQL = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=NO_POSTGRESQL)], indirect=True)
ON_SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NO_BROWSER = not (CHROMIUM and CHROMEDRIVER)
NEEDS_BROWSER = pytest.mark.skipif(NO_BROWSER, reason="there is no chromium with a chromedriver")
NEEDS_SCANNER = pytest.mark.skipif(
    not shutil.which("zbarimg"), reason="zbarimg (Debian's zbar-tools) is not there to scan with"
)
PASSWORD = "correct horse"
CONFIG = {"BCRYPT_LOG_ROUNDS": 4, "BCRYPT_QUEUE": 100, "RATELIMIT_ENABLED": False}
PLACEHOLDERS = {"<id:id>": "2147483647", "<code:code>": "A" * 32, "<file:file>": next(iter(FILES))}
PLACEHOLDERS |= {"<provider:provider>": "stripe", "<code:refund>": "A" * 32, "<id:user>": "2147483647"}
PLACEHOLDERS |= {"<promo:promo>": "EARLY"}
SLOW = "slow: takes seconds. Long races, kills, many rows, browsers, servers that are waited for, servers of its own"


def dispose():
    """Close the connections of the application whose context is open."""
    for engine in db.engines.values():
        engine.dispose()


@contextmanager
def application(url, **config):
    """Another application on the database; its connections end with the block."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url, **config})
    yield app
    with app.app_context():
        dispose()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def log_in(client, email, password=PASSWORD):
    return client.post("/login", json={"email": email, "password": password})


def order_body(*lines):
    """The body of an order of these lines, pairs of a ticket type's id and a quantity."""
    return {"items": [{"ticket_type_id": id, "quantity": quantity} for id, quantity in lines]}


def refusal(response):
    """The status of a refusal and its reason."""
    return response.status_code, response.get_json().get("reason")


def stored_user(id):
    """The account as the database has it now; a context is open."""
    db.session.rollback()
    return db.session.get(User, id, populate_existing=True)


def together(app, *calls):
    """The answers to calls, (method, path, body, headers), that start at the same moment."""
    start = Barrier(len(calls))

    def send(call):
        method, path, body, headers = call
        start.wait()
        return app.test_client().open(path, method=method, json=body, headers=headers)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(send, calls))


def plain_text(message):
    """What a mail says to who reads no HTML."""
    return message.get_body(("plain",)).get_content()


def scan(path):
    """What a scanner reads in the picture."""
    done = subprocess.run(["zbarimg", "--nodbus", "-q", "--raw", path], capture_output=True, text=True)
    return done.stdout.strip()


def pytest_configure(config):
    config.addinivalue_line("markers", SLOW)


def pytest_report_header(config):
    return f"databases: SQLite{' and PostgreSQL' if POSTGRESQL else ' (set TEST_DATABASE_URL for PostgreSQL)'}"


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr == "not slow":
        left_out = terminalreporter.getreports("deselected")
        number = sum(item.get_closest_marker("slow") is not None for item in left_out) or "The"
        terminalreporter.line(f"{number} slow cases left out: run them with `pipenv run test-slow`")


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
        login = log_in(client, email).get_json()
        return SimpleNamespace(id=id, email=email, headers=bearer(login["access_token"]), login=login)

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
                fields["category_id"] = create_category(secrets.token_hex(4)).id
            event = create_event(usual | fields)
            db.session.commit()
            return event.id

    return make


@pytest.fixture
def make_ticket_type(app, make_event):
    """Put tickets on sale, 10 places at 25.00 or as `fields` say, for a new event or `event_id`, and return the id."""

    def make(event_id=None, **fields):
        event_id = event_id or make_event()
        with app.app_context():
            ticket_type = create_ticket_type(event_id, {"name": "Regular", "price": 2500, "quantity": 10} | fields)
            db.session.commit()
            return ticket_type.id

    return make


@pytest.fixture
def place(client):
    """Order `quantity` tickets of a type for a user, and return the response."""

    def post(user, ticket_type_id, quantity=1, **headers):
        body = order_body((ticket_type_id, quantity))
        return client.post("/orders", json=body, headers={**user.headers, **headers})

    return post


@pytest.fixture
def place_lines(client, buyer):
    """Order several lines, pairs of a ticket type's id and a quantity, and return the response."""

    def post(*lines, user=buyer, **fields):
        return client.post("/orders", json=order_body(*lines) | fields, headers=user.headers)

    return post


@pytest.fixture
def get_order(client, buyer):
    """What the buyer, or `user`, sees now of an order that is given as its JSON."""

    def get(order, user=buyer):
        return client.get(f"/orders/{order['code']}", headers=user.headers).get_json()

    return get


@pytest.fixture
def pay(client, staff):
    """Pay an order, given as its JSON, in cash, and return the response."""

    def post(order, **fields):
        fields = {"method": "cash", "amount": order["total"]} | fields
        return client.post(f"/orders/{order['code']}/payments", json=fields, headers=staff.headers)

    return post


@pytest.fixture
def cancel(client, buyer):
    """Cancel an order, given as its JSON, as its buyer or another `user`, and return the response."""

    def post(order, user=buyer):
        return client.post(f"/orders/{order['code']}/cancel", headers=user.headers)

    return post


@pytest.fixture
def refund(client, admin):
    """Refund an order, given as its JSON, as an admin or another `user`, and return the response."""

    def post(order, user=admin):
        return client.post(f"/orders/{order['code']}/refund", headers=user.headers)

    return post


@pytest.fixture
def cancel_event(client, admin):
    """Cancel the event of this id, and return the response."""
    return lambda id: client.patch(f"/events/{id}", json={"status": "canceled"}, headers=admin.headers)


@pytest.fixture
def check_in(client, staff):
    """Check in the ticket of this code, with a body if there is one, and return the response."""

    def post(code, **body):
        return client.post(f"/tickets/{code}/check-in", headers=staff.headers, **({"json": body} if body else {}))

    return post


@pytest.fixture
def pending_order(buyer, make_ticket_type, place):
    """An order of two tickets, not paid, as its buyer sees it."""
    return place(buyer, make_ticket_type(), 2).get_json()


@pytest.fixture
def paid_order(pending_order, pay, get_order):
    """An order of two tickets, paid, as its buyer sees it."""
    pay(pending_order)
    return get_order(pending_order)


@pytest.fixture
def counters(app):
    """What the ticket type of this id counts as sold and held."""

    def read(id):
        with app.app_context():
            return tuple(db.session.execute(db.select(TicketType.sold, TicketType.held).filter_by(id=id)).one())

    return read


@pytest.fixture
def count_rows(app):
    """How many rows of a model there are."""

    def count(model):
        with app.app_context():
            return db.session.scalar(db.select(db.func.count()).select_from(model))

    return count


@pytest.fixture
def lapse(app):
    """Let the hold of an order, given as its JSON, have lapsed a second ago."""

    def move(order):
        with app.app_context():
            db.session.execute(db.update(Order).where(Order.code == order["code"]).values(expires_at=now(-1)))
            db.session.commit()

    return move


COUNTS = ("pending", "paid", "refunded", "refund_due")
CAME_TO_NOTHING = ("canceled", "lapsed", "expired", "given back")


@pytest.fixture
def ordered(client, admin, buyer, place, pay, cancel, refund, lapse, app):
    """Order a ticket of a type and let the order come to its `fate`."""

    def bring_about(id, fate):
        if fate == "given back":
            client.patch(f"/ticket-types/{id}", json={"price": 0}, headers=admin.headers)
        order = place(buyer, id).get_json()
        if fate in ("canceled", "refund_due", "given back"):
            assert cancel(order).status_code == 200
        if fate in ("paid", "refunded", "refund_due"):
            assert pay(order).status_code == 201
        if fate == "refunded":
            assert refund(order).status_code == 200
        if fate in ("lapsed", "expired"):
            lapse(order)
        if fate == "expired":
            app.test_cli_runner().invoke(args=["expire-orders"])

    return bring_about


@pytest.fixture
def statements():
    """Make a call and return the statements that it sent to the database, but for what each connection sends once."""

    def sent_by(call):
        sent = []

        def note(connection, cursor, statement, *rest):
            if not statement.startswith("PREPARE "):
                sent.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        call()
        event.remove(Engine, "before_cursor_execute", note)
        return sent

    return sent_by


@pytest.fixture
def tables_read_whole(context):
    """Which tables a query with these values reads whole; on PostgreSQL, when it has reason not to."""

    def explain(query, values):
        sql = str(query.params(values).compile(db.engine, compile_kwargs={"literal_binds": True}))
        if db.engine.dialect.name == "sqlite":
            # On a connection of its own: what another test had counted stays in a connection's memory.
            if inspect(db.engine).has_table("sqlite_stat1"):
                db.session.execute(text("DELETE FROM sqlite_stat1"))
                db.session.commit()
            with closing(sqlite3.connect(db.engine.url.database)) as connection:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
            return re.findall(r"SCAN (\w+)", str(plan))
        for kind in ("seqscan", "indexscan"):  # bitmaps want a condition
            db.session.execute(text(f"SET LOCAL enable_{kind} = off"))
        return re.findall(r"Seq Scan on (\w+)", str(db.session.execute(text(f"EXPLAIN {sql}")).all()))

    return explain


@pytest.fixture
def before_first_write():
    """Let another act, once, just before the next statement that writes or locks: no lock is held yet."""
    rivals = []

    def strike(connection, cursor, statement, *rest):
        if rivals and re.search(r"INSERT|UPDATE|DELETE|BEGIN IMMEDIATE|FOR (KEY )?SHARE", statement):
            with ThreadPoolExecutor(1) as other:
                other.submit(rivals.pop()).result()

    event.listen(Engine, "before_cursor_execute", strike)
    yield rivals.append
    event.remove(Engine, "before_cursor_execute", strike)
    assert rivals == []


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

    def start(url, log=None, **settings):
        port = settings.setdefault("PORT", str(free_port()))
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
        environment |= {"DATABASE_URL": url, "BCRYPT_LOG_ROUNDS": "4", "RATELIMIT_ENABLED": "false"}
        environment |= {"WEB_CONCURRENCY": "2", "LOG_LEVEL": "WARNING"} | settings
        command = [sys.executable, "-c", "from app import serve; serve()"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, start_new_session=True)
        processes.append(process)
        host = settings.get("HOST", "127.0.0.1").strip("[]")
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        wait_for_server(address, process)
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


def wait_until(condition):
    """Wait until the condition is true: half a minute at most, which nothing but a fault comes near."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the condition never came true")


def wait_for_server(address, process):
    for _ in range(600):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture
def mail_server():
    """A mail server that runs."""
    server = MailServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def shop(app, mail_server):
    """The settings of a shop that sends its mails to `mail_server`."""
    settings = {"SMTP_URL": f"smtp://{mail_server.address}", "SHOP_URL": "https://shop.example"}
    settings |= {"MAIL_FROM": "The Shop <tickets@mail.example>"}
    app.config.update(settings)
    return settings


@pytest.fixture
def send_mails(app, shop, mail_server):
    """Send what is due, as the server's thread does, and return what the mail server has got by then."""

    def send():
        post_office.cache_clear()  # else the office stays closed after a fault of the server
        with app.app_context():
            send_due_mails(Event())
        return mail_server.messages

    return send


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    for feature in ("background-networking", "component-update"):
        options.add_argument(f"--disable-{feature}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture
def while_sending(send_mails, mail_server):
    """Send what is due, and do something while the mail server has the first mail and has not answered."""

    def do(action):
        mail_server.gate.clear()
        sending = Thread(target=send_mails)
        sending.start()
        assert mail_server.at_gate.wait(30)
        done = action()
        mail_server.gate.set()
        sending.join()
        return done

    return do


@pytest.fixture
def admin(make_user):
    return make_user("admin")


@pytest.fixture
def staff(make_user):
    return make_user("staff")


@pytest.fixture
def buyer(make_user):
    return make_user("user")
