"""The database's address, its pools of connections, and what each new connection is told."""

import atexit
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from flask import Flask
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError

from models import db
from routes.http.faults import CHANGED, READ_ONLY, fault_of
from routes.setup.environment import env_text

SEARCHES = 2  # connections of a process, and so searches at a time
TEST_RUNNERS = ("pytest", "unittest", "nose2")

# A dead network must not hold a thread for a quarter of an hour, which is what the system would wait.
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def register(app: Flask) -> None:
    """Give `app` its database."""
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url(app.config["SQLALCHEMY_DATABASE_URI"])
    app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", engine_options(app.config))
    app.config.setdefault("SQLALCHEMY_BINDS", binds(app.config))
    make_folder(app)
    db.init_app(app)
    with app.app_context():
        for name, engine in db.engines.items():
            prepare(engine, name, app.config["DB_STATEMENT_SECONDS"])
            # It has no tables, and an application without that pool must not look for it.
            db.metadatas.pop(name or "", None)


def configured_database() -> str:
    """`DATABASE_URL`, but never in a test run: that gets a database of its own, whatever `.env` names."""
    if is_test_run():
        return f"sqlite:///{folder_for_tests()}/test.db"
    return env_text("DATABASE_URL", "sqlite:///tickets.db")


def is_test_run() -> bool:
    """Whether tests run in this process: pytest of any version, unittest, or a file that is named as a test.

    Nothing that the application is made of imports a test runner.
    """
    named = re.fullmatch(r"tests?\.py|test_.*\.py|.*_tests?\.py", Path(sys.argv[0]).name)
    return bool(named) or any(runner in sys.modules for runner in TEST_RUNNERS)


@cache
def folder_for_tests() -> str:
    folder = tempfile.TemporaryDirectory(prefix="ticketing-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


HOSTS = re.compile(r"(?P<user>([^:/@]*(:[^@]*)?@)?)(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<path>/[^?]*)?(\?(?P<query>.*))?")


def database_url(url: str) -> str:
    """PostgreSQL's address as everybody writes it, with the driver that SQLAlchemy is to use."""
    for scheme in ("postgres://", "postgresql://", "postgresql+psycopg2://"):
        if str(url).startswith(scheme):
            url = "postgresql+psycopg2://" + hosts_apart(url.removeprefix(scheme))
    try:
        parts = make_url(url)
        # An `@` in the host is the password's, not written as %40: the driver would tell what comes after it.
        known = parts.drivername in ("sqlite", "postgresql+psycopg2") and "@" not in (parts.host or "")
    except (ArgumentError, ValueError):
        known = False
    if not known:  # it is not shown, as it may hold a password
        raise SystemExit("DATABASE_URL must be sqlite:///path or postgresql://user:password@host:port/database")
    return url


def hosts_apart(address: str) -> str:
    """Several hosts, which libpq has between commas (`one:5432,two:5432`), in the query, as SQLAlchemy wants."""
    found = HOSTS.fullmatch(address)
    if found is None:
        return address
    pairs = [re.fullmatch(r"(\[.*\]|[^:]*):?(\d*)", host) for host in found["hosts"].split(",")]
    if not all(pairs):
        return address  # which SQLAlchemy refuses
    hosts, ports = zip(*((pair[1].strip("[]"), pair[2] or "5432") for pair in pairs if pair), strict=True)
    query = f"host={quote(','.join(hosts))}&port={quote(','.join(ports))}"
    return f"{found['user']}{found['path'] or '/'}?{'&'.join(filter(None, (query, found['query'])))}"


def engine_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters never reach a log; SQLite's writers queue for the lock from the start instead of failing half-way."""
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 30, "isolation_level": "IMMEDIATE"}
        if in_memory(url):
            return options
    else:
        said = {"connect_timeout"} if "PGCONNECT_TIMEOUT" in os.environ else set()
        ours = {name: value for name, value in PATIENCE.items() if name not in said | set(url.query)}
        options["connect_args"] = ours | {"client_encoding": "utf8"}
    return options | {"pool_size": config["DB_POOL_SIZE"], "max_overflow": 0, "pool_timeout": 10}


def in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:")


def binds(config: Mapping[str, Any]) -> dict[str, Any]:
    """More pools, for `autocommit_connection`: of single statements, and of two kinds that keep no other call waiting.

    Searches take long, and orders wait for the row that all want. Every signed-in call needs a single statement. On
    SQLite, too, who reads does not wait for who waits to write.
    """
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    if url.get_backend_name() == "sqlite" and in_memory(url):
        return {}
    single = {"url": url, **config["SQLALCHEMY_ENGINE_OPTIONS"], "isolation_level": "AUTOCOMMIT"}
    return {"autocommit": single, "orders": single, "search": single | {"pool_size": SEARCHES, "pool_timeout": 0.5}}


def make_folder(app: Flask) -> None:
    """The folder of SQLite's file, which is for its owner alone; Flask-SQLAlchemy would make it for all to read."""
    url = make_url(app.config["SQLALCHEMY_DATABASE_URI"])
    path = str(url.database).removeprefix("file:")
    if url.get_backend_name() == "sqlite" and not in_memory(url) and not os.path.isabs(path):
        with suppress(OSError):
            os.makedirs(app.instance_path, mode=0o700, exist_ok=True)


def prepare(engine: Engine, pool: str | None, seconds: int) -> None:
    """Have each new connection of the pool told what it is for, and single statements end after so many seconds."""
    event.listen(engine, "handle_error", renew)
    if engine.dialect.name == "postgresql":
        settings = settings_of(pool, seconds, str(engine.url.query.get("options", "")))
        event.listen(engine, "connect", lambda connection, record: tell(connection, settings))
        return
    event.listen(engine, "do_connect", make_file)
    if pool:
        event.listen(engine, "connect", watch)
        event.listen(engine, "checkout", lambda connection, record, proxy: set_end(record, seconds))


def renew(context: ExceptionContext) -> None:
    """A connection to what has become read-only, or has changed, is given up: the next one may find another server."""
    if fault_of(context.original_exception) in (READ_ONLY, CHANGED):
        context.is_disconnect = True


def settings_of(pool: str | None, seconds: int, said: str) -> dict[str, str]:
    """What a connection of the pool is set to. Limits that the address itself has said stay as they are."""
    limits = {"statement_timeout" if pool else "lock_timeout": f"{seconds}s"}
    settings = {name: value for name, value in limits.items() if name not in said}
    # To compile a plan pays for reports over many rows; for ours it took a hundred times as long as the plan itself.
    settings |= {"timezone": "UTC", "default_transaction_isolation": "read committed", "jit": "off"}
    # Their plans are kept: one that was made while a table was empty must not read all of it once it has grown. And
    # what is prepared is planned once, not anew at each call because PostgreSQL takes that to be cheaper.
    return settings | ({"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"} if pool else {})


def tell(connection: Any, settings: Mapping[str, str]) -> None:
    """By statements, as a pooler refuses what libpq would send at the start; and for good, so outside a transaction."""
    before, connection.autocommit = connection.autocommit, True
    with connection.cursor() as cursor:
        cursor.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()))
    connection.autocommit = before


def make_file(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    """Make SQLite's file for its owner alone; what SQLite puts beside it is like it."""
    path = str(arguments[0]).removeprefix("file:").partition("?")[0]
    if "mode=" not in str(arguments[0]) and path != ":memory:":
        with suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))


def watch(connection: sqlite3.Connection, record: Any) -> None:
    """SQLite asks after so many of its steps whether to go on."""
    connection.set_progress_handler(lambda: monotonic() > record.info.get("end", float("inf")), 20_000)


def set_end(record: Any, seconds: int) -> None:
    record.info["end"] = monotonic() + seconds
