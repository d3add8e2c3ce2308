"""The migrations: up and down with data in the tables, and in step with the models."""

import json
import shutil

import pytest
from alembic.script import ScriptDirectory
from flask_migrate import downgrade, upgrade
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from app import create_app
from models import db
from routes.selling.inventory import check_inventory

from .conftest import CONFIG, ROOT, dispose

DATA = {
    "0001": """
        INSERT INTO users (id, name, email) VALUES (1, 'Ann', 'ann@example.com')""",
    "0002": """
        INSERT INTO categories (id, name, folded) VALUES (1, 'Music', 'music');
        INSERT INTO events (id, name, description, venue, category_id, status, starts_at, ends_at, duration, version)
        VALUES (1, 'Concert', 'Music', 'Hall', 1, 'published', '2030-01-01 20:00', '2030-01-01 23:00', 10800, 1);
        INSERT INTO ticket_types (id, event_id, name, price, quantity, sold) VALUES (1, 1, 'Regular', 2500, 10, 1)""",
    "0003": """
        INSERT INTO orders (id, code, user_id, number, event_id, status, total, currency, expires_at)
        VALUES (1, 'O', 1, 1, 1, 'paid', 2500, 'USD', '2030-01-01 12:00');
        INSERT INTO order_items (order_id, ticket_type_id, name, quantity, unit_price) VALUES (1, 1, 'Any', 1, 2500);
        INSERT INTO payments (order_id, method, reference, amount, status) VALUES (1, 'cash', 'O', 2500, 'confirmed');
        INSERT INTO tickets (code, order_id, event_id, ticket_type_id, status) VALUES ('T', 1, 1, 1, 'valid')""",
    "0006": """
        INSERT INTO ticket_types (id, event_id, name, price, quantity, max_per_order, min_per_order, max_per_buyer)
        VALUES (2, 1, 'Guests', 0, 10, 4, 2, 4)""",
    "0008": """
        INSERT INTO mails (id, kind, key, user_id, to_email, order_id, event_id, message_key)
        VALUES (1, 'order_paid', '1', 1, 'ann@example.com', 1, 1, 'K');
        INSERT INTO tokens (hash, kind, user_id, email, stamp, expires_at)
        VALUES ('H', 'password_reset', 1, 'ann@example.com', '', '2030-01-01 12:00')""",
    "0009": """
        INSERT INTO payments (id, order_id, method, provider, reference, amount, status, refunded)
        VALUES (2, 1, 'card', 'stripe', 'pi_1', 2500, 'refund_due', 2500);
        INSERT INTO refunds (code, key, payment_id, amount, status) VALUES ('R', 'R', 2, 2500, 'requested');
        INSERT INTO checkouts (code, order_id, provider, status, amount, currency, return_url, reference, payment_id,
            ends_at, due_at)
        VALUES ('C', 1, 'stripe', 'paid', 2500, 'USD', 'https://shop.example', 'cs_1', 2, '2030-01-01 12:00',
            '2030-01-01 12:00')""",
    "0011": """
        INSERT INTO pools (id, event_id, name, quantity) VALUES (1, 1, 'Hall', 100);
        INSERT INTO promo_codes (id, event_id, code, folded, percent) VALUES (1, 1, 'HALF', 'half', 50);
        INSERT INTO promo_code_types (promo_code_id, ticket_type_id) VALUES (1, 1);
        UPDATE ticket_types SET pool_id = 1 WHERE id = 2;
        UPDATE orders SET promo_code_id = 1 WHERE id = 1""",
    "0012": """
        INSERT INTO event_staff (event_id, user_id, role) VALUES (1, 1, 'door');
        INSERT INTO audit (action, subject, changes) VALUES ('event.changed', 'event.1', '{}')""",
    "0013": """
        UPDATE tickets SET attendee_name = 'Bob', attendee_folded = 'bob'""",
    "0014": """
        UPDATE orders SET attendee_name = 'Bob'""",
}
REBUILD = """
from alembic import op
revision, down_revision = "rebuild", "HEAD"
def upgrade():
    for table, column in {"users": "name", "events": "venue", "ticket_types": "name", "orders": "currency"}.items():
        with op.batch_alter_table(table) as batch:
            batch.alter_column(column, nullable=True)
"""


@pytest.fixture
def empty(make_database):
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        yield app
        db.session.remove()
        dispose()


def counts():
    """How many rows each table has, but for Alembic's own."""
    with db.engine.connect() as connection:
        names = sorted(set(inspect(connection).get_table_names()) - {"alembic_version"})
        return {name: connection.scalar(text(f"SELECT count(*) FROM {name}")) for name in names}


def fill(revision):
    with db.engine.begin() as connection:
        for statement in DATA[revision].split(";"):
            connection.execute(text(statement))


def execute(statement, **values):
    with db.engine.begin() as connection:
        connection.execute(text(statement), values)


def names(table, column="name"):
    with db.engine.connect() as connection:
        return connection.scalars(text(f"SELECT {column} FROM {table} ORDER BY id")).all()


def warnings(caplog):
    return [record.args[0] for record in caplog.records if record.levelname == "WARNING"]


def schema():
    """Everything that the database knows of its tables."""
    found = inspect(db.engine)
    looks = ("columns", "foreign_keys", "unique_constraints", "check_constraints", "indexes")
    tables = set(found.get_table_names()) - {"alembic_version"}
    facts_of = {(name, look): facts(getattr(found, f"get_{look}")(name)) for name in tables for look in looks}
    return facts_of | {name: found.get_pk_constraint(name) for name in tables}


def facts(found):
    """SQLite forgets the name of a foreign key where its column was added in place: there it counts for nothing."""
    on_sqlite = db.engine.dialect.name == "sqlite"
    nameless = [{**it, "name": None} if on_sqlite and "referred_table" in it else it for it in found]
    return sorted(json.dumps(it, default=str, sort_keys=True) for it in nameless)


GONE = {"ended_logins"}  # 0005 makes another table of it


def without_gone(counts):
    return {name: count for name, count in counts.items() if name not in GONE}


class TestMigrations:
    def test_with_data_up_and_down_each_step_keeps_what_was_there(self, empty):
        seen = {}
        for revision in DATA:
            upgrade(revision=revision)
            assert counts().items() >= without_gone(seen).items()
            fill(revision)
            seen = counts()
        for revision in sorted(DATA, reverse=True)[1:]:
            downgrade(revision=revision)
            assert without_gone(counts()) == {name: seen[name] for name in without_gone(counts())}
        downgrade(revision="base")
        assert counts() == {}

    def test_down_to_any_step_and_up_again_the_recount_agrees(self, empty):
        upgrade()
        assert empty.test_cli_runner().invoke(args=["demo", "--orders", "100"]).exit_code == 0
        scripts = ScriptDirectory(str(ROOT / "migrations"))
        for script in list(scripts.walk_revisions())[1:]:
            downgrade(revision=script.revision)
            upgrade()
            assert check_inventory() == [], script.revision
        assert counts()["users"] > 0

    def test_table_that_is_rebuilt_keeps_the_rows_that_refer_to_it(self, empty, tmp_path):
        shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
        head = ScriptDirectory(ROOT / "migrations").get_current_head()
        (tmp_path / "migrations" / "versions" / "rebuild.py").write_text(REBUILD.replace("HEAD", head))
        for revision in DATA:
            upgrade(revision=revision)
            fill(revision)
        upgrade(revision=head)
        before = counts()
        upgrade(directory=str(tmp_path / "migrations"))
        assert counts() == before

    def test_log_in_that_had_ended_stays_ended(self, empty):
        upgrade(revision="0004")
        execute("INSERT INTO ended_logins (sid, expires_at) VALUES ('E', '2030-01-01 12:00')")
        for migrate in (upgrade, downgrade, upgrade):
            migrate(revision="0004" if migrate is downgrade else "0005")
        with db.engine.connect() as connection:
            assert connection.execute(text("SELECT sid, ended FROM logins")).all() == [("E", True)]

    def test_texts_are_composed(self, empty):
        for revision in ("0001", "0002", "0003"):
            upgrade(revision=revision)
            fill(revision)
        for table in ("users", "events", "ticket_types", "order_items"):
            execute(f"UPDATE {table} SET name = :name", name="Cafe\u0301")
        upgrade(revision="0004")
        assert {name for name in ("users", "events", "ticket_types", "order_items") if names(name) != ["Café"]} == set()

    def test_categories_that_collide_composed_get_a_number(self, empty, caplog):
        upgrade(revision="0003")
        for id, name in enumerate(("Cafe\u0301", "Café 2", "CAFÉ", "Music"), start=1):
            execute("INSERT INTO categories VALUES (:id, :name, :folded)", id=id, name=name, folded=name.casefold())
        upgrade(revision="0004")
        assert names("categories") == ["Café", "Café 2", "CAFÉ 3", "Music"]
        assert names("categories", "folded") == ["café", "café 2", "café 3", "music"]
        assert [record.args[0] for record in caplog.records if record.levelname == "WARNING"] == [3]

    @pytest.fixture
    def season(self, empty):
        """What the third migration left, with a row in each table."""
        upgrade(revision="0003")
        for revision in ("0001", "0002", "0003"):
            fill(revision)

    def test_ticket_gets_its_buyer_for_an_owner_and_keeps_its_constraints(self, season):
        for revision in ("0013", "0010", "0013"):
            (upgrade if revision == "0013" else downgrade)(revision=revision)
            for bad in ("status = 'lost'", "status = 'used'", "code = NULL"):
                with pytest.raises(IntegrityError):
                    execute(f"UPDATE tickets SET {bad}")
        assert names("tickets", "user_id") == [1]

    def test_event_gets_the_currency_of_its_orders(self, season):
        execute("UPDATE orders SET currency = 'EUR'")
        upgrade(revision="0007")
        assert names("events", "currency") == ["EUR"]

    def test_event_without_orders_gets_the_configured_currency(self, empty, season):
        for table in ("tickets", "payments", "order_items", "orders"):
            execute(f"DELETE FROM {table}")
        empty.config["CURRENCY"] = "CHF"
        upgrade(revision="0007")
        assert names("events", "currency") == ["CHF"]

    def test_event_with_orders_in_several_currencies_is_reported(self, season, caplog):
        execute("""INSERT INTO orders (id, code, user_id, number, event_id, status, total, currency, expires_at)
            VALUES (2, 'P', 1, 2, 1, 'canceled', 2500, 'JPY', '2030-01-01 12:00')""")
        upgrade(revision="0007")
        assert (names("events", "currency"), warnings(caplog)) == (["JPY"], [1])

    def test_name_is_folded(self, season):
        execute("UPDATE users SET name = 'STRASSE Cafe\u0301'")
        upgrade(revision="0007")
        assert names("users", "folded") == ["strasse café"]

    def add_payments(self, *rows):
        for id, method, reference, status in rows:
            values = {"id": id, "method": method, "reference": reference, "status": status}
            execute(
                """INSERT INTO payments (id, order_id, method, reference, amount, status)
                VALUES (:id, 1, :method, :reference, 2500, :status)""",
                **values,
            )

    def test_references_that_collide_folded_get_their_id_behind_the_key(self, season, caplog):
        self.add_payments(
            (5, "card", "Abc", "refund_due"), (6, "card", "ABC", "refunded"), (7, "cash", "abc", "refunded")
        )
        upgrade(revision="0007")
        assert names("payments", "reference_key") == ["o", "abc", "abc 6", "abc"]
        assert warnings(caplog) == [6]

    def test_cash_keeps_the_orders_code_as_its_reference(self, season):
        upgrade(revision="0007")
        assert names("payments", "reference") == ["O"]

    def test_payments_have_references_of_their_own_again(self, season):
        upgrade(revision="0007")
        execute("UPDATE payments SET reference = NULL, reference_key = NULL")
        self.add_payments((5, "cash", None, "refund_due"), (6, "card", "R", "refunded"), (7, "card", "R", "refund_due"))
        downgrade(revision="0003")
        assert names("payments", "reference") == ["O", "O 5", "R 6", "R"]

    @pytest.mark.parametrize("bad", ["method = 'cheque'", "status = 'lost'", "amount = -1"])
    def test_rebuilt_table_keeps_its_constraints(self, season, bad):
        for migrate, revision in ((upgrade, "0007"), (downgrade, "0003")):
            migrate(revision=revision)
            with pytest.raises(IntegrityError):
                execute(f"UPDATE payments SET {bad}")

    def test_build_what_the_models_say(self, empty, make_database):
        upgrade()
        execute("DROP INDEX IF EXISTS ix_events_words")  # which hangs on an extension, so no model has it
        migrated = schema()
        models = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
        with models.app_context():
            db.create_all()
            assert schema() == migrated
            dispose()
