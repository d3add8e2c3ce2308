"""The log, on standard error: lines to read in development, JSON in production, each with the id of its request."""

import logging
import re

from flask import has_request_context, request
from pythonjsonlogger.json import JsonFormatter

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s [%(request_id)s]"
FIELDS = "%(levelname)s %(name)s %(message)s %(request_id)s"


def add_request_id(record):
    record.request_id = request.id if has_request_context() else None
    return True


class Discreet(logging.Formatter):
    """Leaves out of a traceback where PostgreSQL quotes the row or the statement it complains of."""

    def formatException(self, info):
        quoted = r"^(DETAIL|CONTEXT|LINE \d+):.*?(?=^\[SQL|^$|\Z)"
        return re.sub(quoted, "", super().formatException(info), flags=re.DOTALL | re.MULTILINE)


class DiscreetJson(Discreet, JsonFormatter):
    pass


def register(app):
    """Set the root logger up once; a server or a test that has done so already keeps its own."""
    handler = logging.StreamHandler()
    handler.addFilter(add_request_id)
    names = {"levelname": "level", "name": "logger"}
    json = DiscreetJson(FIELDS, rename_fields=names, timestamp="time")
    handler.setFormatter(Discreet(PLAIN) if app.debug else json)
    logging.basicConfig(level=app.config["LOG_LEVEL"], handlers=[handler])


# Who has a handler gets none of SQLAlchemy's own: the queries go to the log, and not to standard output as well.
for name in ("engine.Engine", "pool.impl.QueuePool", "pool.impl.StaticPool"):
    logging.getLogger(f"sqlalchemy.{name}").addHandler(logging.NullHandler())

# The server's own lines go the same way, but for its doubts about many threads: most wait for bcrypt or the database.
logging.getLogger("_granian").addFilter(lambda record: "seems quite high" not in record.getMessage())
SERVER = {"formatters": {}, "handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}
