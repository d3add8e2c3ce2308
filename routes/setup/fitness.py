"""Whether the database is one that this version of the application can work with."""

from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from models import db
from routes.http.faults import told_in_a_sentence

MIGRATIONS = Path(__file__).parents[2] / "migrations"

OLD = "The database is not up to date. Bring it there with `pipenv run flask db upgrade`."
NEW = "The database is of a newer version than this application. Bring the application up to date."
UNSTAMPED = (
    "The database has tables but no version, as `db.create_all()` leaves it. If this version of the application made "
    "them, say so with `pipenv run flask db stamp head`; else begin with an empty database."
)


def refuse_unfit_database() -> None:
    """End the program with a sentence where the database is away, of another encoding or of another version."""
    with told_in_a_sentence(), db.engine.connect() as connection:
        refuse_other_encoding(connection)
        fault = version_fault(connection)
    if fault:
        raise SystemExit(fault)


def refuse_other_encoding(connection: Connection) -> None:
    """PostgreSQL alone has others; what they can't hold would be an error at each name with an accent."""
    if connection.dialect.name != "postgresql":
        return
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        needed = "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        raise SystemExit(f"The database has the encoding {encoding}, and must have UTF8. Make one with `{needed}`.")


def version_fault(connection: Connection) -> str | None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    heads = set(MigrationContext.configure(connection).get_current_heads())
    if heads == set(scripts.get_heads()):
        return None
    if has_tables_without_version(connection):
        return UNSTAMPED
    known = {script.revision for script in scripts.walk_revisions()}
    return OLD if heads <= known else NEW


def has_tables_without_version(connection: Connection) -> bool:
    heads = MigrationContext.configure(connection).get_current_heads()
    return not heads and inspect(connection).has_table("users")
