"""Lists: page by page nothing is shown twice or left out, and a page deep in a list costs what the first one costs."""

import re
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from sqlalchemy import Engine, event, insert, literal_column, text
from sqlalchemy.schema import CreateTable

from app import create_app
from models import Category, Event, Login, User, db, now
from routes.selling.catalogue import create_category

from .conftest import CONFIG, PASSWORD, bearer, dispose

LISTS = ["/categories", "/events", "/users", "/orders", "/orders?user={buyer}", "/tickets", "/events/{event}/attendees"]
START = datetime(2050, 1, 1, 20, tzinfo=UTC)


def next_page(answer):
    """The address of the next page, or None after the last."""
    link = answer.headers.get("Link")
    return link and re.fullmatch(r'<(/.*)>; rel="next"', link)[1]


def cursor(answer):
    return parse_qs(urlsplit(next_page(answer)).query)["after"][0]


@pytest.fixture
def make_events(app):
    """Make events that start these many hours after START, and return their ids."""

    def make(*hours):
        with app.app_context():
            category = db.session.scalar(db.select(Category.id)) or create_category("Music").id
            rows = [
                {"name": "Gig", "description": "d", "venue": "v", "category_id": category, "status": "published"}
                | {"starts_at": start, "ends_at": start + timedelta(hours=1), "duration": 3600, "version": 1}
                for start in (START + timedelta(hours=hour) for hour in hours)
            ]
            ids = db.session.scalars(insert(Event).returning(Event.id, sort_by_parameter_order=True), rows).all()
            db.session.commit()
            return ids

    return make


@pytest.fixture
def walk(client):
    """Visit all pages from an address on and return what they show; `between` is done after each."""

    def visit(path, headers=None, between=lambda: None):
        seen = []
        while path:
            answer = client.get(path, headers=headers)
            assert answer.status_code == 200, answer.get_json()
            seen += answer.get_json()
            path = next_page(answer)
            between()
        return seen

    return visit


@pytest.fixture
def sell(make_ticket_type, place, pay, make_event, buyer):
    """Let the buyer pay for two orders, of three tickets of two types each, for a new event."""
    id = make_event()

    def orders():
        for ticket_type in (make_ticket_type(id), make_ticket_type(id)):
            pay(place(buyer, ticket_type, 3).get_json())
            make_event()
        return {"event": id, "buyer": buyer.id}

    return orders


class TestLimit:
    def test_is_50_unless_said_and_100_at_most(self, client, make_events):
        ids = make_events(*range(120))
        pages = [client.get(f"/events{query}") for query in ("", "?limit=1", "?limit=100")]
        assert [[row["id"] for row in page.get_json()] for page in pages] == [ids[:50], ids[:1], ids[:100]]

    def test_no_more_no_link(self, client, make_events):
        make_events(*range(3))
        links = [next_page(client.get(f"/events?limit={limit}")) for limit in (2, 3, 4)]
        assert [bool(link) for link in links] == [True, False, False]


class TestPages:
    @pytest.mark.parametrize("list", LISTS)
    def test_every_list_is_the_same_page_by_page(self, client, admin, staff, sell, walk, list):
        path = list.format(**sell())
        whole = client.get(path, headers=admin.headers).get_json()
        separator = "&" if "?" in path else "?"
        assert walk(f"{path}{separator}limit=1", admin.headers) == whole
        assert walk(f"{path}{separator}limit=2", admin.headers) == whole

    def test_many_that_start_at_once_are_visited_once(self, context, make_events, walk):
        late, early, at_once = make_events(9, 9), make_events(0, 0), make_events(*[5] * 20)
        db.session.execute(db.update(Event).where(Event.id == at_once[0]).values(name="Moved on the disk"))
        db.session.commit()
        seen = [row["id"] for row in walk("/events?limit=3")]
        assert seen == [*early, *at_once, *late]

    def test_what_is_added_meanwhile_neither_repeats_nor_hides_any(self, make_events, walk):
        ids, added = make_events(*[5] * 9), []
        seen = [row["id"] for row in walk("/events?limit=2", between=lambda: added.extend(make_events(1, 5, 9)))]
        assert [id for id in seen if id in ids] == ids
        assert len(set(seen)) == len(seen)
        assert [id for id in added[1:2] + added[4:5] if id in seen] == added[1:2] + added[4:5]

    def test_it_goes_on_after_what_is_deleted_meanwhile(self, client, admin, make_events):
        ids = make_events(*range(6))
        first = client.get("/events?limit=3")
        for id in ids[2:4]:
            client.delete(f"/events/{id}", headers=admin.headers)
        assert [row["id"] for row in client.get(next_page(first)).get_json()] == ids[4:]

    def test_link_keeps_the_filters(self, client, admin, make_events):
        make_events(*range(3))
        query = {"q": "g i", "from": "2050-01-01T22:00:00+02:00", "to": "2051-01-01T00:00:00Z", "status": "published"}
        query |= {"limit": "1", "more": '>; rel="x", <é&='}
        link = next_page(client.get("/events", query_string=query, headers=admin.headers))
        kept = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
        assert kept.pop("after") and kept == query

    def test_filters_hold_on_every_page(self, make_event, make_events, walk):
        make_events(*range(5))
        times = {"starts_at": START, "ends_at": START + timedelta(hours=1)}
        wanted = [make_event(name=name, **times) for name in ("50% off", "Off 50%")]
        make_events(*range(5))
        assert [row["id"] for row in walk(f"/events?limit=1&q={quote('50% OFF')}")] == wanted


class TestCursor:
    @pytest.mark.parametrize("path", ["/events", "/users"])
    def test_tampered_with_is_refused_or_moves_the_start(self, client, admin, make_events, path):
        make_events(0, 0), client.post("/sign-up", json={"name": "x", "email": "x@x.example", "password": PASSWORD})
        whole = cursor(client.get(f"{path}?limit=1", headers=admin.headers))
        tampered = [whole * 2, f"{whole}=", f" {whole}", f"{whole}\n"]
        for place in range(len(whole)):
            tampered += [whole[:place], *(whole[:place] + sign + whole[place + 1 :] for sign in "9_")]
        for after in tampered:
            answer = client.get(path, query_string={"after": after}, headers=admin.headers)
            assert answer.status_code == 200 or (answer.status_code, [*answer.json["message"]]) == (400, ["after"])

    @pytest.mark.parametrize("path", ["/events", "/users"])
    def test_written_in_another_way_is_refused(self, client, admin, make_events, path):
        make_events(0, 0), client.post("/sign-up", json={"name": "x", "email": "x@x.example", "password": PASSWORD})
        whole = cursor(client.get(f"{path}?limit=1", headers=admin.headers))
        for after in (f"{whole}=", f"{whole}==", f"{whole}!", f".{whole}", f"{whole} ", f"{whole}\0"):
            answer = client.get(path, query_string={"after": after}, headers=admin.headers)
            assert (answer.status_code, [*answer.get_json()["message"]]) == (400, ["after"])

    def test_of_another_list_is_refused(self, client, admin, make_events):
        make_events(0, 0)
        after = cursor(client.get("/events?limit=1"))
        for path in ("/users", "/categories", "/orders", "/tickets"):
            answer = client.get(f"{path}?after={after}", headers=admin.headers)
            assert (answer.status_code, [*answer.get_json()["message"]]) == (400, ["after"])


class TestStatements:
    @pytest.mark.parametrize("list", [*LISTS, "/events/{event}", "/events/{event}/sales"])
    def test_do_not_grow_with_the_list(self, client, admin, sell, statements, list):
        path = list.format(**sell())
        separator = "&" if "?" in path else "?"
        few = statements(lambda: client.get(f"{path}{separator}limit=100", headers=admin.headers))
        sell(), sell()
        many = statements(lambda: client.get(f"{path}{separator}limit=100", headers=admin.headers))
        assert len(many) == len(few) <= 7


USERS = 20_000
FILL = """
    INSERT INTO events (name, description, venue, category_id, status, starts_at, ends_at, duration, version)
    WITH RECURSIVE hours (h) AS (SELECT -5000 UNION ALL SELECT h + 1 FROM hours WHERE h < 4999),
        places (p) AS (SELECT 0 UNION ALL SELECT p + 1 FROM places WHERE p < 99),
        times AS MATERIALIZED (SELECT h, {start} AS starts_at, {end} AS ends_at FROM hours)
    SELECT 'Gig', 'Music', 'Hall', CASE WHEN h < 0 AND p < 10 THEN 10 ELSE 1 + p % 9 END, 'published',
        starts_at, ends_at, 7200, 1
    FROM times, places"""
FILL_USERS = """
    INSERT INTO users (name, email)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {users})
    SELECT 'Somebody', 'somebody' || n || '@example.com' FROM numbers"""
UNSAFE = {"postgresql": "ALTER TABLE events SET UNLOGGED", "sqlite": "PRAGMA synchronous = OFF"}
OVER = 10


@pytest.fixture(scope="module")
def full(make_database):
    """An application with 1,000,000 events, 100 an hour, half of them over, as are all of the category OVER."""
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context(), db.engine.begin() as connection:
        db.metadata.create_all(connection, [Category.__table__, User.__table__, Login.__table__])
        connection.execute(CreateTable(Event.__table__, include_foreign_key_constraints=[]))
        connection.execute(text(UNSAFE[db.engine.dialect.name]))
        names = [{"name": f"Category {number}", "folded": f"category {number}"} for number in range(1, 11)]
        connection.execute(insert(Category.__table__), names)
        times = {"start": now(literal_column("(h * 3600)")), "end": now(literal_column("(h * 3600 + 7200)"))}
        sql = {name: time.compile(dialect=db.engine.dialect) for name, time in times.items()}
        connection.execute(text(FILL.format(**sql)))
        for index in Event.__table__.indexes:
            index.create(connection)
        connection.execute(text(FILL_USERS.format(users=USERS)))
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
        file = db.engine.url.database
        User.sign_up(name="Admin", email="admin@example.com", password=PASSWORD).role = "admin"
        db.session.commit()
    yield app
    with app.app_context():
        dispose()
    Path(file).unlink(missing_ok=True)


@pytest.fixture
def full_admin(full):
    """The headers of the admin of the full database."""
    login = full.test_client().post("/login", json={"email": "admin@example.com", "password": PASSWORD})
    return bearer(login.json["access_token"])


@pytest.fixture
def plan(full, full_admin):
    """How the database finds what is at an address: its plan, and what it cost."""

    def explain(path):
        sent = []
        note = lambda connection, cursor, statement, parameters, *rest: sent.append((statement, parameters))  # noqa: E731
        event.listen(Engine, "before_cursor_execute", note)
        answer = full.test_client().get(path, headers=full_admin)
        event.remove(Engine, "before_cursor_execute", note)
        assert answer.status_code == 200
        with full.app_context(), db.engine.connect() as connection:
            return explained(connection, *sent[-1])

    return explain


def explained(connection, statement, parameters):
    """Lines of the plan, and its cost: blocks on PostgreSQL, steps of its machine on SQLite."""
    if connection.dialect.name == "postgresql":
        rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters).scalars().all()
        blocks = next(row for row in rows if "Buffers: shared" in row)
        return rows, sum(int(number) for number in re.findall(r"(?:hit|read)=(\d+)", blocks))
    rows = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    steps = []
    connection.connection.set_progress_handler(lambda: steps.append(100), 100)
    connection.exec_driver_sql(statement, parameters).all()
    connection.connection.set_progress_handler(None, 0)
    return rows, sum(steps)


class TestFilters:
    @pytest.mark.parametrize("filters", ["event=2147483647", "user=2147483647", "status=canceled", "status=pending"])
    def test_of_orders_hold_whatever_cursor_comes_with_them(self, client, admin, sell, filters):
        sell()
        link = next_page(client.get("/orders?limit=1", headers=admin.headers))
        answer = client.get(f"{link}&{filters}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()) == (200, [])


@pytest.mark.slow
class TestFull:
    """A page of 1,000,000 events."""

    @pytest.mark.parametrize("hours", [None, 10, 4900])
    @pytest.mark.parametrize(
        "filters, index",
        [
            ("limit=50", "ix_events_listed"),
            ("category=2", "ix_events_in_category"),
            (f"category={OVER}", "ix_events_in_category"),
            ("to=9999-01-01T00:00:00Z", "ix_events_listed"),
            ("from=2001-01-01T00:00:00Z", "ix_events_listed"),
            (f"from=2001-01-01T00:00:00Z&category={OVER}", "ix_events_in_category"),
            ("status=draft,canceled,published", "ix_events_listed"),
        ],
    )
    def test_is_a_range_of_an_index(self, full, plan, filters, index, hours):
        if hours:
            there = f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"
            filters += f"&after={cursor(full.test_client().get(f'/events?limit=1&from={there}'))}"
        rows, cost = plan(f"/events?{filters}")
        assert any(re.search(rf"(Index Scan using|SEARCH events USING INDEX) {index}\b", row) for row in rows)
        assert not any(re.search(r"Sort|Seq Scan on events|SCAN events|TEMP B-TREE", row) for row in rows)
        assert cost < 5000

    @pytest.mark.parametrize("after", ["", "&after=WzE1MDAwXQ"])
    def test_of_users_is_a_range_of_their_key(self, plan, after):
        rows, cost = plan(f"/users?limit=50{after}")
        assert any(re.search(r"Index Scan using pk_users|(SCAN|SEARCH) users", row) for row in rows)
        assert not any(re.search(r"Sort|Seq Scan|TEMP B-TREE", row) for row in rows)
        assert cost < 5000

    def test_all_users_are_streamed_without_a_connection(self, full, full_admin):
        answer = full.test_client().get("/users", headers=full_admin)
        parts = answer.iter_encoded()
        next(parts)
        with full.app_context():
            assert [engine.pool.checkedout() for engine in db.engines.values()] == [0] * len(db.engines)
        assert "Link" not in answer.headers
        assert len(b"".join(parts)) > USERS * 150

    def test_all_users_are_streamed_in_little_memory(self, full, full_admin):
        tracemalloc.start()
        size = sum(len(part) for part in full.test_client().get("/users", headers=full_admin).iter_encoded())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size
