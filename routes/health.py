"""Whether the server can do its work."""

from flask_restful import Resource
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import ServiceUnavailable

from models import db
from routes.docs.answers import answers
from routes.http.access import public
from routes.http.faults import LOCKED, READ_ONLY, fault_of
from routes.http.views import JSON


class HealthResource(Resource):
    @public
    @answers(200, {"status": "ok"})
    def get(self) -> JSON:
        """Tell whether the server can do its work."""
        with db.engine.connect() as connection:
            writable = takes_writes(connection)
        if not writable:
            raise ServiceUnavailable(READ_ONLY.message, retry_after=READ_ONLY.retry_after)
        return {"status": "ok"}


class HealthLive(Resource):
    @public
    @answers(200, {"status": "ok"})
    def get(self) -> dict[str, str]:
        """Tell whether the process answers, whatever its database does."""
        return {"status": "ok"}


def takes_writes(connection: Connection) -> bool:
    """Whether the database takes writes. SQLite is asked for one that changes nothing and is taken back."""
    if connection.dialect.name == "postgresql":
        return connection.scalar(db.text("SHOW transaction_read_only")) == "off"
    connection.exec_driver_sql("PRAGMA busy_timeout = 100")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {version}")
    except OperationalError as error:
        if fault_of(error) is not LOCKED:  # whoever has it locked writes, and so could we
            raise
    finally:
        connection.rollback()
        connection.exec_driver_sql("PRAGMA busy_timeout = 30000")
    return True
