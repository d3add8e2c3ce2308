"""The ticketing application: configuration, extensions and the table of routes."""

import atexit
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from dotenv import load_dotenv
from flask import Flask
from flask_migrate import Migrate, upgrade
from flask_restful import Api
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter, IntegerConverter

from models import bcrypt, db
from routes import commands, errors, headers, logs
from routes.access import jwt
from routes.answers import ORJSON, output_json
from routes.categories import CategoryItem, CategoryList
from routes.docs import FILES, DocsFile, DocsResource
from routes.events import EventItem, EventList
from routes.health import HealthResource
from routes.limits import limiter
from routes.openapi import OpenAPIResource
from routes.orders import OrderCancellation, OrderItem, OrderList, OrderRefund, PaymentList, PaymentRefund
from routes.parsing import read_body
from routes.reports import AttendeeList, Sales
from routes.ticket_types import TicketTypeItem, TicketTypeList
from routes.tickets import CheckIn, TicketItem, TicketList, TicketQR
from routes.users import (
    AppointmentResource,
    LoginResource,
    LogoutResource,
    MeResource,
    RefreshResource,
    UserResource,
    UserSignup,
)

HERE = Path(__file__).parent
EXAMPLE_SECRETS = {"your-super-secret-key"}

load_dotenv(HERE / ".env")


class IdConverter(IntegerConverter):
    """An id in a path. One that no column can hold is a 404 like any other that is not there."""

    regex = "[1-9][0-9]{0,9}"
    schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}

    def __init__(self, map):
        super().__init__(map, max=2**31 - 1)


class CodeConverter(BaseConverter):
    regex = "[0-9A-F]{32}"
    schema = {"type": "string", "pattern": f"^{regex}$"}


class FileConverter(BaseConverter):
    """A file of the documents' page, and no other."""

    regex = f"(?:{'|'.join(map(re.escape, FILES))})"
    schema = {"type": "string", "enum": list(FILES)}


class TicketingApi(Api):
    """Errors go to the application's own handlers, in production as in tests: Flask-RESTful keeps them for itself."""

    def error_router(self, original_handler, error):
        return original_handler(error)


def create_app(config=None):
    """An application with this configuration; what it leaves out comes from the environment."""
    app = Flask(__name__, static_folder=None)
    app.config.from_mapping(settings(), **(config or {}))
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url(app.config["SQLALCHEMY_DATABASE_URI"])
    app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", engine_options(app.config))
    app.config.setdefault("SQLALCHEMY_BINDS", single_statements(app.config))
    app.json = ORJSON(app)
    app.url_map.converters |= {"id": IdConverter, "code": CodeConverter, "file": FileConverter}
    app.url_map.merge_slashes = False
    app.wsgi_app = behind_proxies(app.wsgi_app, app.config["TRUSTED_PROXIES"])
    app.before_request(read_body)

    logs.register(app)
    settle_secret(app)
    db.init_app(app)
    db.metadatas.pop("at_once", None)  # it has no tables, and an application without that pool must not look for it
    Migrate(app, db, directory=str(HERE / "migrations"))
    bcrypt.init_app(app)
    jwt.init_app(app)
    limiter.init_app(app)
    # Its limits stand on two views. To look for others at every request took a fifteenth of an order's time.
    app.before_request_funcs[None] = [it for it in app.before_request_funcs[None] if it != limiter._check_request_limit]
    limiter.enabled = True  # one limiter serves every application made; each one's configuration decides at the call
    headers.register(app)
    errors.register(app)
    commands.register(app)

    api = TicketingApi(app)
    api.representation("application/json")(output_json)

    api.add_resource(UserSignup, "/sign-up")
    api.add_resource(LoginResource, "/login")
    api.add_resource(RefreshResource, "/refresh")
    api.add_resource(LogoutResource, "/logout")
    api.add_resource(UserResource, "/users")
    api.add_resource(AppointmentResource, "/users/<id:id>")
    api.add_resource(MeResource, "/me")
    api.add_resource(CategoryList, "/categories")
    api.add_resource(CategoryItem, "/categories/<id:id>")
    api.add_resource(EventList, "/events")
    api.add_resource(EventItem, "/events/<id:id>")
    api.add_resource(TicketTypeList, "/events/<id:id>/ticket-types")
    api.add_resource(TicketTypeItem, "/ticket-types/<id:id>")
    api.add_resource(OrderList, "/orders")
    api.add_resource(OrderItem, "/orders/<code:code>")
    api.add_resource(OrderCancellation, "/orders/<code:code>/cancel")
    api.add_resource(OrderRefund, "/orders/<code:code>/refund")
    api.add_resource(PaymentList, "/orders/<code:code>/payments")
    api.add_resource(PaymentRefund, "/orders/<code:code>/payments/<id:id>/refund")
    api.add_resource(TicketList, "/tickets")
    api.add_resource(TicketItem, "/tickets/<code:code>")
    api.add_resource(TicketQR, "/tickets/<code:code>/qr")
    api.add_resource(CheckIn, "/tickets/<code:code>/check-in")
    api.add_resource(AttendeeList, "/events/<id:id>/attendees")
    api.add_resource(Sales, "/events/<id:id>/sales")
    api.add_resource(HealthResource, "/health")
    api.add_resource(OpenAPIResource, "/openapi.json")
    api.add_resource(DocsResource, "/docs")
    api.add_resource(DocsFile, "/docs/<file:file>")

    return app


def settings():
    """The configuration that the environment gives, with its defaults. An empty variable counts as none."""
    return {
        "JWT_SECRET_KEY": text("JWT_SECRET_KEY"),
        "JWT_ACCESS_TOKEN_EXPIRES": timedelta(minutes=whole("JWT_ACCESS_TOKEN_MINUTES", 60)),
        "JWT_REFRESH_TOKEN_EXPIRES": timedelta(days=whole("JWT_REFRESH_TOKEN_DAYS", 30, most=36_500)),
        "JWT_COOKIE_CSRF_PROTECT": False,  # no cookies: the token travels in a header alone
        "SQLALCHEMY_DATABASE_URI": configured_database(),
        "SQLALCHEMY_ECHO": flag("SQLALCHEMY_ECHO", False),
        "DB_POOL_SIZE": whole("DB_POOL_SIZE", 4),
        "MAX_CONTENT_LENGTH": 1024 * 1024,
        "TRUSTED_PROXIES": whole("TRUSTED_PROXIES", 0, least=0),
        "ORDER_HOLD_SECONDS": whole("ORDER_HOLD_SECONDS", 900),
        "MAX_PENDING_ORDERS": whole("MAX_PENDING_ORDERS", 20),
        "CURRENCY": capitals("CURRENCY", "USD", "[A-Z]{3}"),
        "CORS_ORIGINS": text("CORS_ORIGINS", "http://localhost:3000,http://localhost:5173"),
        "BCRYPT_LOG_ROUNDS": whole("BCRYPT_LOG_ROUNDS", 12, least=4, most=31),
        "LOG_LEVEL": capitals("LOG_LEVEL", "INFO", "DEBUG|INFO|WARNING|ERROR|CRITICAL"),
        "RATELIMIT_ENABLED": flag("RATELIMIT_ENABLED", True),
        "RATELIMIT_STORAGE_URI": matching("RATELIMIT_STORAGE_URI", "memory://", "(memory|redis(s|\\+unix)?)://.*"),
        "RATELIMIT_STORAGE_OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
        # Without its storage the limits count in the process's memory: nobody is locked out, and the log says so.
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
        "RATELIMIT_SWALLOW_ERRORS": True,
    }


def text(name, default=""):
    return os.environ.get(name, "").strip() or default


def whole(name, default, *, least=1, most=10**9):
    value = text(name, str(default))
    if not re.fullmatch("[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise SystemExit(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def capitals(name, default, pattern):
    value = text(name, default).upper()
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name} must match {pattern}, not {value!r}")
    return value


def matching(name, default, pattern):
    value = text(name, default)
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name} must match {pattern}")  # and may hold a password
    return value


def flag(name, default):
    value = text(name, str(default)).lower()
    if value not in ("true", "false", "1", "0"):
        raise SystemExit(f"{name} must be true or false, not {value!r}")
    return value in ("true", "1")


def configured_database():
    """`DATABASE_URL`, but never in a test run: that gets a database of its own, whatever `.env` names."""
    if "PYTEST_VERSION" in os.environ:
        return f"sqlite:///{folder_for_tests()}/test.db"
    return text("DATABASE_URL", "sqlite:///tickets.db")


@cache
def folder_for_tests():
    folder = tempfile.TemporaryDirectory(prefix="ticketing-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


def database_url(url):
    """PostgreSQL's address as everybody writes it, with the driver that SQLAlchemy is to use."""
    for scheme in ("postgres://", "postgresql://"):
        if str(url).startswith(scheme):
            url = "postgresql+psycopg2://" + url.removeprefix(scheme)
    try:
        known = make_url(url).drivername in ("sqlite", "postgresql+psycopg2")
    except (ArgumentError, ValueError):
        known = False
    if not known:  # it is not shown, as it may hold a password
        raise SystemExit("DATABASE_URL must be sqlite:///path or postgresql://user:password@host:port/database")
    return url


def engine_options(config):
    """Parameters never reach a log; SQLite's writers queue for the lock from the start instead of failing half-way."""
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    options = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 30, "isolation_level": "IMMEDIATE"}
        if in_memory(url):
            return options
    else:
        options["connect_args"] = {"connect_timeout": 5, "options": "-c timezone=utc"}
    return options | {"pool_size": config["DB_POOL_SIZE"], "max_overflow": 0}


def in_memory(url):
    return url.database in (None, "", ":memory:")


def single_statements(config):
    """A second pool, for `models.at_once`: on SQLite, too, who reads does not wait for who waits to write."""
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    if url.get_backend_name() == "sqlite" and in_memory(url):
        return {}
    options = {**config["SQLALCHEMY_ENGINE_OPTIONS"], "isolation_level": "AUTOCOMMIT"}
    if url.get_backend_name() == "postgresql":
        # Their plans are kept: one that was made while a table was empty must not read all of it once it has grown.
        arguments = options.get("connect_args", {})
        options["connect_args"] = arguments | {"options": f"{arguments.get('options', '')} -c enable_seqscan=off"}
    return {"at_once": {"url": url, **options}}


def behind_proxies(wsgi_app, count):
    """The client's address as the `count` proxies in front of us say it; nobody else is believed."""
    return ProxyFix(wsgi_app, x_for=count, x_proto=count, x_host=count) if count else wsgi_app


def settle_secret(app):
    """All but `serve` goes on without a real signing key, and says so."""
    fault = secret_fault(app.config["JWT_SECRET_KEY"])
    if fault:
        app.logger.warning("%s: good enough to try things out, and for nothing else", fault)
    if not app.config["JWT_SECRET_KEY"]:
        app.config["JWT_SECRET_KEY"] = secrets.token_hex(32)


def secret_fault(secret):
    """What is wrong with a signing key, or None."""
    if not secret:
        return "JWT_SECRET_KEY is not set"
    if secret in EXAMPLE_SECRETS:
        return "JWT_SECRET_KEY is the example from the documentation"
    if len(secret.encode()) < 32:
        return "JWT_SECRET_KEY is shorter than 32 bytes"
    return None


def start():
    """The documented development server, after making what it lacks: a secret and an up-to-date database."""
    env_file = HERE / ".env"
    if not env_file.exists():
        env_file.touch(mode=0o600)
        env_file.write_text(f"JWT_SECRET_KEY={secrets.token_hex(32)}\n")
        print("Wrote .env with a fresh JWT_SECRET_KEY.")
    with app.app_context():
        upgrade()
    command = [sys.executable, "-m", "flask", "run", "--debug", "--port", str(whole("PORT", 5000, most=65_535))]
    if os.name == "nt":
        sys.exit(subprocess.call(command, cwd=HERE))
    os.chdir(HERE)
    os.execv(command[0], command)


def serve():
    """The production server. It refuses to start where it would have to guess: without a secret, on an old database."""
    fault = secret_fault(text("JWT_SECRET_KEY"))
    if fault:
        sys.exit(f"{fault}. Make one with `openssl rand -hex 32` and put it in .env as JWT_SECRET_KEY=...")
    port = whole("PORT", 5000, most=65_535)
    with app.app_context():
        if not up_to_date():
            sys.exit("The database is not up to date. Bring it there with `pipenv run flask db upgrade`.")
        db.engine.dispose()  # where the workers are forked, each opens connections of its own
    try:
        socket.create_server(("0.0.0.0", port)).close()
    except OSError as error:
        sys.exit(f"Port {port} can't be had: {error.strerror}. Name another one with PORT.")
    Server(
        "app:app",
        address="0.0.0.0",
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=whole("WEB_CONCURRENCY", max(2, os.cpu_count() or 2)),
        blocking_threads=whole("THREADS", 16),
        working_dir=HERE,
        respawn_failed_workers=True,
        workers_kill_timeout=30,
        log_level=LogLevels(app.config["LOG_LEVEL"].lower()),
        log_dictconfig=logs.SERVER,
    ).serve()


class Server(Granian):
    """Workers that die are replaced, however often; Granian itself gives up at the second within seconds."""

    respawned_wrks = property(lambda self: {}, lambda self, value: None)

    def _respawn_workers(self, workers, spawn_target, target_loader, delay=0):
        """Slowly, as one that dies at its start dies again."""
        super()._respawn_workers(workers, spawn_target, target_loader, max(delay, 0.2))


def up_to_date():
    scripts = ScriptDirectory(str(HERE / "migrations"))
    try:
        with db.engine.connect() as connection:
            return set(MigrationContext.configure(connection).get_current_heads()) == set(scripts.get_heads())
    except OperationalError:
        sys.exit("The database does not answer. Look at DATABASE_URL, and whether the database runs.")


app = create_app()
