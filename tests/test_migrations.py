"""The migrations: up and down with data in the tables, and in step with the models."""

import json
import shutil

import pytest
from flask_migrate import downgrade, upgrade
from sqlalchemy import inspect, text

from app import create_app
from models import db

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
}
REBUILD = """
from alembic import op
revision, down_revision = "rebuild", "0003"
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


def schema():
    """Everything that the database knows of its tables."""
    found = inspect(db.engine)
    looks = ("columns", "foreign_keys", "unique_constraints", "check_constraints", "indexes")
    tables = set(found.get_table_names()) - {"alembic_version"}
    facts_of = {(name, look): facts(getattr(found, f"get_{look}")(name)) for name in tables for look in looks}
    return facts_of | {name: found.get_pk_constraint(name) for name in tables}


def facts(found):
    return sorted(json.dumps(it, default=str, sort_keys=True) for it in found)


class TestMigrations:
    def test_with_data_up_and_down_each_step_keeps_what_was_there(self, empty):
        seen = {}
        for revision in DATA:
            upgrade(revision=revision)
            assert {name: counts()[name] for name in seen} == seen
            fill(revision)
            seen = counts()
        for revision in ("0002", "0001"):
            downgrade(revision=revision)
            assert counts() == {name: seen[name] for name in counts()}
        downgrade(revision="base")
        assert counts() == {}

    def test_table_that_is_rebuilt_keeps_the_rows_that_refer_to_it(self, empty, tmp_path):
        shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
        (tmp_path / "migrations" / "versions" / "rebuild.py").write_text(REBUILD)
        upgrade(revision="0003")
        for revision in DATA:
            fill(revision)
        before = counts()
        upgrade(directory=str(tmp_path / "migrations"))
        assert counts() == before

    def test_build_what_the_models_say(self, empty, make_database):
        upgrade()
        migrated = schema()
        models = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
        with models.app_context():
            db.create_all()
            assert schema() == migrated
            dispose()
