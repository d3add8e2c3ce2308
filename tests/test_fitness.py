"""What `start`, `serve` and the commands say of a database that they can't work with: a sentence, and no traceback."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

import pytest
import requests
from sqlalchemy import create_engine, make_url, text

from models import db

from .conftest import ON_POSTGRESQL, ROOT, application
from .servers import free_port, own_pgbouncer

SERVE = ("-c", "from app import serve; serve()")
UPGRADE = ("-m", "flask", "db", "upgrade")


def environment(**variables):
    """As where somebody deploys it, and not a test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"} | variables


def refusal(url, *command):
    """What the command says on its way out."""
    command = [sys.executable, *command]
    variables = environment(DATABASE_URL=url, PORT=str(free_port()))
    ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), ended.stderr
    return ended.stderr


@pytest.fixture
def built(make_database):
    """The address of a database that `db.create_all()` has built."""
    url = make_database()
    with application(url) as app, app.app_context():
        db.create_all()
    return url


class TestTablesWithoutVersion:
    @pytest.mark.parametrize("command", [SERVE, UPGRADE])
    def test_are_to_be_stamped(self, built, command):
        assert "flask db stamp head" in refusal(built, *command)

    @pytest.mark.slow
    def test_are_served_once_they_are(self, built, start_server):
        command = [sys.executable, "-m", "flask", "db", "stamp", "head"]
        subprocess.run(command, cwd=ROOT, env=environment(DATABASE_URL=built), check=True, timeout=60)
        assert requests.get(f"{start_server(built).address}/events", timeout=10).json() == []


class TestOtherVersion:
    def test_newer_one_is_refused(self, migrated):
        with migrated.app_context():
            db.session.execute(text("UPDATE alembic_version SET version_num = 'later'"))
            db.session.commit()
        assert "newer version" in refusal(migrated.config["SQLALCHEMY_DATABASE_URI"], *SERVE)


class TestWithoutTables:
    @pytest.mark.parametrize(
        "command",
        [
            "create-admin --name Ada --email ada@example.com --password correct-horse",
            "set-password ada@example.com --password correct-horse",
            *("expire-orders", "check-inventory", "demo"),
        ],
    )
    def test_commands_say_what_to_do(self, make_database, command):
        with application(make_database()) as app:
            result = app.test_cli_runner().invoke(args=command.split())
        assert (result.exit_code, "flask db upgrade" in result.output) == (1, True)
        assert isinstance(result.exception, SystemExit)


class TestReadOnly:
    @pytest.mark.parametrize(
        "command", ["demo", "create-admin --name Ada --email a@b.example --password correct-horse"]
    )
    def test_commands_say_so(self, built, backend, command):
        """The demo writes through the driver itself."""
        read_only = "?mode=ro&uri=true" if backend == "sqlite" else "?options=-c%20default_transaction_read_only%3Don"
        with application(built.replace("sqlite:///", "sqlite:///file:") + read_only) as app:
            result = app.test_cli_runner().invoke(args=command.split())
        assert (result.exit_code, "The database takes no writes" in result.output) == (1, True)


@ON_POSTGRESQL
class TestAway:
    @pytest.fixture
    def where(self, make_database):
        return make_url(make_database())

    @pytest.mark.parametrize(
        "parts, reason",
        [
            ({"database": "nowhere"}, 'database "nowhere" does not exist'),
            ({"username": "nobody"}, 'role "nobody" does not exist'),
            ({"port": 1}, "Connection refused"),
            ({"query": {"sslmode": "require"}}, "server does not support SSL"),
            ({"query": {"sslmode": "nonsense"}}, 'invalid sslmode value: "nonsense"'),
            ({"query": {"nonsense": "1"}}, 'invalid connection option "nonsense"'),
            ({"query": {"options": "-c nonsense=1"}}, 'unrecognized configuration parameter "nonsense"'),
        ],
    )
    def test_server_says_what_the_driver_says_and_no_password(self, where, parts, reason):
        url = where.set(password="hidden secret", **parts).render_as_string(hide_password=False)
        said = refusal(url, *SERVE)
        assert (reason in said, "DATABASE_URL" in said, len(said.splitlines())) == (True, True, 1), said
        assert "hidden" not in said

    def test_server_says_it_of_each_host(self, where):
        url = f"postgresql://{where.username}@127.0.0.1:1,127.0.0.1:2/{where.database}"
        assert refusal(url, *SERVE).count("Connection refused") == 2

    @pytest.mark.slow
    def test_server_says_what_a_pooler_says(self, where):
        with own_pgbouncer(where.host, where.port or 5432) as port:
            said = refusal(f"postgresql://nobody@127.0.0.1:{port}/{where.database}", *SERVE)
        assert '"trust" authentication failed' in said

    def test_upgrade_says_it_too(self, where):
        assert "does not exist" in refusal(str(where.set(database="nowhere")), *UPGRADE)


@ON_POSTGRESQL
class TestEncoding:
    @pytest.mark.parametrize("command", [SERVE, UPGRADE])
    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_other_than_utf_8_is_refused(self, make_database, encoding, command):
        where = make_url(make_database())
        server = create_engine(where.set(database="postgres"), isolation_level="AUTOCOMMIT")
        name = f"ticketing_{secrets.token_hex(6)}"
        locale = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} ENCODING '{encoding}' {locale}"))
            said = refusal(where.set(database=name).render_as_string(hide_password=False), *command)
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()
        assert (encoding in said, "UTF8" in said) == (True, True)


@pytest.mark.slow
class TestStart:
    def test_first_one_makes_the_secret_before_anything_misses_it(self, tmp_path):
        for name in ("app.py", "models.py"):
            shutil.copy(ROOT / name, tmp_path)
        for name in ("routes", "migrations"):
            shutil.copytree(ROOT / name, tmp_path / name)
        port = free_port()
        variables = environment(PORT=str(port))
        variables.pop("JWT_SECRET_KEY")
        command = [sys.executable, "-c", "from routes.setup.serving import start; start()"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=variables, stdout=log, stderr=log, start_new_session=True
            )
        try:
            assert answer(f"http://127.0.0.1:{port}/events").json() == []
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = (tmp_path / "log").read_text()
        assert "Wrote .env" in said
        assert ("is not set" in said, [line for line in said.splitlines() if line.startswith("{")]) == (False, [])
        modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in (".env", "instance", "instance/tickets.db")}
        assert modes == {".env": 0o600, "instance": 0o700, "instance/tickets.db": 0o600}


def answer(address):
    for _ in range(300):
        try:
            return requests.get(address, timeout=60)
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_password_with_an_at_sign_is_refused_and_not_told():
    said = refusal("postgresql://me:hid@den@127.0.0.1:1/db", *SERVE)
    assert ("DATABASE_URL" in said, "den" in said) == (True, False)
