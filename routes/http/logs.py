"""The log, on standard error: lines to read in development, JSON in production, each with the id of its request."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, has_request_context
from pythonjsonlogger.orjson import OrjsonFormatter

from routes.http.request import request

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s [%(request_id)s]"
FIELDS = "%(levelname)s %(name)s %(message)s %(request_id)s"
NOTED = "ticketing.noted"  # in the environment of a request
access = logging.getLogger("access")


def add_request_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = request.id if has_request_context() else None
    return True


def note_request(response: Response) -> Response:
    """Keep for `log_request` what only the request knows: of its path only the rule, which holds no code."""
    rule = request.url_rule.rule if request.url_rule else None
    request.environ[NOTED] = {"route": rule, "user_id": request.user_id, "request_id": request.id}
    return response


def log_request(environ: Mapping[str, Any], status: int, seconds: float) -> None:
    """A line for a request that was answered, or whose client left before."""
    if access.isEnabledFor(logging.INFO):
        noted = environ.get(NOTED) or {"route": None, "user_id": None, "request_id": None}
        facts = {"method": environ["REQUEST_METHOD"], "status": status, "ms": round(seconds * 1000, 1)}
        access.info("request", extra=noted | facts)


class Discreet(logging.Formatter):
    """Leaves out of a traceback what PostgreSQL quotes of a row or a statement."""

    def formatException(self, info: Any) -> str:
        quoted = r"^(DETAIL|CONTEXT|LINE \d+):.*?(?=^\[SQL|^$|\Z)"
        return re.sub(quoted, "", super().formatException(info), flags=re.DOTALL | re.MULTILINE)


class DiscreetJson(Discreet, OrjsonFormatter):
    pass


def register(app: Flask) -> None:
    """Set the root logger up once; a server or a test that has done so already keeps its own."""
    app.after_request(note_request)
    access.setLevel(logging.NOTSET if app.config["ACCESS_LOG"] else logging.CRITICAL)
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
SERVER: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"handlers": [], "propagate": True}},
}
