"""The application as a whole: what its configuration takes and refuses, and the production server, start to stop."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from dotenv import dotenv_values

import app as module
from app import create_app
from models import User, db
from routes.setup.engines import database_url
from routes.setup.settings import secret_fault, settings
from routes.users import LoginResource, UserResource, UserSignup

from .conftest import CONFIG, ROOT, dispose

VARIABLES = {
    name for module in ROOT.glob("routes/**/*.py") for name in re.findall(r'\benv_\w+\("(\w+)"', module.read_text())
}


@pytest.fixture
def environ(monkeypatch):
    """An environment without any of our variables, to set some in."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


class TestSettings:
    @pytest.mark.parametrize(
        "variable, value, name, expected",
        [
            ("JWT_ACCESS_TOKEN_MINUTES", "5", "JWT_ACCESS_TOKEN_EXPIRES", timedelta(minutes=5)),
            ("JWT_ACCESS_TOKEN_MINUTES", None, "JWT_ACCESS_TOKEN_EXPIRES", timedelta(hours=1)),
            ("JWT_REFRESH_TOKEN_DAYS", None, "JWT_REFRESH_TOKEN_EXPIRES", timedelta(days=30)),
            ("SQLALCHEMY_ECHO", "True", "SQLALCHEMY_ECHO", True),
            ("SQLALCHEMY_ECHO", None, "SQLALCHEMY_ECHO", False),
            ("ORDER_HOLD_SECONDS", " 60 ", "ORDER_HOLD_SECONDS", 60),
            ("MAX_PENDING_ORDERS", "", "MAX_PENDING_ORDERS", 20),
            ("CURRENCY", "eur", "CURRENCY", "EUR"),
            ("CURRENCY", None, "CURRENCY", "USD"),
            ("TIME_ZONE", "Europe/Berlin", "TIME_ZONE", "Europe/Berlin"),
            ("TIME_ZONE", None, "TIME_ZONE", "UTC"),
            ("RATELIMIT_ENABLED", "false", "RATELIMIT_ENABLED", False),
            ("RATELIMIT_ENABLED", None, "RATELIMIT_ENABLED", True),
            ("TRUSTED_PROXIES", "0", "TRUSTED_PROXIES", 0),
            ("BCRYPT_LOG_ROUNDS", None, "BCRYPT_LOG_ROUNDS", 12),
            ("LOG_LEVEL", "debug", "LOG_LEVEL", "DEBUG"),
        ],
    )
    def test_come_from_the_environment_or_are_the_default(self, environ, variable, value, name, expected):
        if value is not None:
            environ(variable, value)
        assert settings()[name] == expected

    @pytest.mark.parametrize(
        "variable, values",
        [
            ("JWT_ACCESS_TOKEN_MINUTES", ["0", "-1", "1.5", "x", "٣", "9" * 5000]),
            ("JWT_REFRESH_TOKEN_DAYS", ["0", "99999"]),
            ("SQLALCHEMY_ECHO", ["yes", "2"]),
            ("RATELIMIT_ENABLED", ["off"]),
            ("TRUSTED_PROXIES", ["-1", "x"]),
            ("BCRYPT_LOG_ROUNDS", ["3", "32"]),
            ("CURRENCY", ["EU", "EURO", "€"]),
            ("TIME_ZONE", ["Berlin", "europe/berlin", "../etc/passwd"]),
            ("LOG_LEVEL", ["LOUD", "10"]),
            ("DB_POOL_SIZE", ["0"]),
            ("RATELIMIT_STORAGE_URI", ["nonsense", "memcached://x"]),
        ],
    )
    def test_that_make_no_sense_are_refused_by_name(self, environ, variable, values):
        for value in values:
            environ(variable, value)
            with pytest.raises(SystemExit, match=variable):
                settings()

    @pytest.mark.parametrize(
        "url",
        [
            *("mysql://root:hidden@host/db", "nonsense:hidden", "http://hidden@host", "sqlite:/hidden"),
            *("postgresql://u:hidden@host:port/db", "postgresql+asyncpg://u:hidden@host/db", "postgres:hidden"),
        ],
    )
    def test_database_of_another_kind_is_refused_without_its_password(self, url):
        with pytest.raises(SystemExit, match="DATABASE_URL") as refusal:
            create_app({"SQLALCHEMY_DATABASE_URI": url})
        assert "hidden" not in str(refusal.value)

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
    def test_postgresql_is_written_in_any_way(self, scheme):
        assert database_url(f"{scheme}://me@host/db") == "postgresql+psycopg2://me@host/db"


class TestSecret:
    @pytest.mark.parametrize("secret", ["", None, "short", "x" * 31, "your-super-secret-key"])
    def test_that_is_none_is_found_out(self, secret):
        assert "JWT_SECRET_KEY" in secret_fault(secret)

    @pytest.mark.parametrize("secret", ["x" * 32, "é" * 16])
    def test_of_32_bytes_is_one(self, secret):
        assert secret_fault(secret) is None

    @pytest.mark.parametrize("secret", ["", "short", "your-super-secret-key"])
    def test_server_refuses_to_start_without_and_says_what_to_do(self, environ, secret):
        environ("JWT_SECRET_KEY", secret)
        with pytest.raises(SystemExit, match="openssl rand -hex 32"):
            module.serve()

    def test_everything_else_makes_one_and_warns(self, environ, caplog):
        first, second = create_app(), create_app()
        assert first.config["JWT_SECRET_KEY"] != second.config["JWT_SECRET_KEY"]
        assert secret_fault(first.config["JWT_SECRET_KEY"]) is None
        assert "JWT_SECRET_KEY is not set" in caplog.text

    def test_everything_else_goes_on_with_a_short_one_and_warns(self, environ, caplog):
        environ("JWT_SECRET_KEY", "your-super-secret-key")
        assert create_app().config["JWT_SECRET_KEY"] == "your-super-secret-key"
        assert "example" in caplog.text

    def test_good_one_is_no_reason_to_warn(self, caplog):
        create_app(CONFIG)
        assert caplog.text == ""


class TestDatabase:
    def test_sqlite_is_safe_with_several_processes(self, tmp_path):
        with create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/test.db"}).app_context():
            pragmas = ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
            found = [db.session.scalar(db.text(f"PRAGMA {pragma}")) for pragma in pragmas]
            db.session.remove()
            dispose()
        assert found == ["wal", 1, 30_000, 2]

    def test_in_memory_works(self):
        app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": "sqlite://"})
        body = {"name": "Ann", "email": "ann@example.com", "password": "correct horse"}
        with app.app_context():
            db.create_all()
            assert app.test_client().post("/sign-up", json=body).status_code == 201
            assert db.session.scalars(db.select(User.email)).all() == ["ann@example.com"]
            db.session.remove()
            dispose()

    def test_names_of_the_documentation_hold(self, app):
        views = {rule.rule: app.view_functions[rule.endpoint].view_class for rule in app.url_map.iter_rules()}
        assert (views["/sign-up"], views["/login"], views["/users"]) == (UserSignup, LoginResource, UserResource)
        assert module.app.test_client().get("/nowhere").status_code == 404

    def test_module_written_from_the_documentation_runs_without_any_environment(self):
        command = [Path(sys.executable).with_name("pytest"), "-p", "no:cacheprovider", "--noconftest"]
        ended = subprocess.run([*command, "tests/test_documentation.py"], cwd=ROOT, env={}, capture_output=True)
        assert ended.returncode == 0, ended.stdout.decode()


class TestFiles:
    def test_example_explains_every_variable(self):
        text = (ROOT / ".env.example").read_text()
        assert set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)) == VARIABLES
        assert len(re.findall(r"^# .+[.:].*\n", text, re.MULTILINE)) > 10

    def test_example_holds_no_secret(self):
        assert dotenv_values(ROOT / ".env.example") == {"JWT_SECRET_KEY": ""}

    def test_example_shows_the_defaults(self, environ):
        before = settings()
        for name, value in re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE):
            environ(name, value)
        of_this_machine = {"SQLALCHEMY_DATABASE_URI": "", "BCRYPT_AT_ONCE": 0}
        assert settings() | of_this_machine == before | of_this_machine

    @pytest.mark.parametrize("file", [".env", "instance/tickets.db", "x.db", "x.db-wal", "x.sqlite3"])
    def test_git_ignores_secrets_and_databases(self, file):
        if not (ROOT / ".git").exists():
            pytest.skip("not a clone")
        assert subprocess.run(["git", "check-ignore", "-q", file], cwd=ROOT).returncode == 0

    def test_lock_names_no_package_index(self):
        lock = json.loads((ROOT / "Pipfile.lock").read_text())
        assert lock["_meta"]["sources"] == []
        assert not any("index" in package for part in ("default", "develop") for package in lock[part].values())
        assert "://" not in (ROOT / "Pipfile.lock").read_text() + (ROOT / "Pipfile").read_text()

    @pytest.mark.parametrize("wanted, locked", [("packages", "default"), ("dev-packages", "develop")])
    def test_lock_is_in_step_with_the_pipfile(self, wanted, locked):
        pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
        lock = json.loads((ROOT / "Pipfile.lock").read_text())[locked]
        assert {name for name in pipfile[wanted] if lock.get(name, {}).get("version", "")[:2] != "=="} == set()
        assert all(package["hashes"] for package in lock.values())


class TestServe:
    def refusal(self, **variables):
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"} | variables
        command = [sys.executable, "-c", "from app import serve; serve()"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
        return ended.stderr

    def test_old_database_is_refused_with_what_to_do(self, make_database):
        assert "flask db upgrade" in self.refusal(DATABASE_URL=make_database())

    def test_port_that_is_taken_is_refused(self, migrated):
        with socket.create_server(("0.0.0.0", 0)) as other:
            port = str(other.getsockname()[1])
            assert port in self.refusal(DATABASE_URL=migrated.config["SQLALCHEMY_DATABASE_URI"], PORT=port)

    @pytest.mark.parametrize(
        "method, path, status", [("POST", "/orders", 401), ("POST", "/x", 404), ("PUT", "/me", 405)]
    )
    @pytest.mark.slow
    def test_body_that_nobody_wants_costs_no_connection(self, migrated, start_server, method, path, status):
        address = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"]).address
        connection = HTTPConnection(address.removeprefix("http://"))
        for _ in range(50):
            connection.request(method, path, body=b"x" * 50_000, headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, "message" in json.load(answer)) == (status, True)
        connection.close()

    @pytest.mark.slow
    def test_term_loses_no_answer(self, migrated, start_server):
        """Eight sign-ups, each a quarter of a second of bcrypt, are under way when the server is told to stop."""
        server = start_server(migrated.config["SQLALCHEMY_DATABASE_URI"], BCRYPT_LOG_ROUNDS="12")
        people = [{"name": "Ann", "email": f"{number}@example.com", "password": "correct horse"} for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(
                lambda person: requests.post(f"{server.address}/sign-up", json=person, timeout=30), people
            )
            time.sleep(0.2)
            with migrated.app_context():
                assert db.session.scalar(db.select(db.func.count(User.id))) < 8
            server.process.terminate()
            assert [answer.status_code for answer in answers] == [201] * 8
        assert server.process.wait(30) == 0
        with migrated.app_context():
            assert db.session.scalar(db.select(db.func.count(User.id))) == 8
