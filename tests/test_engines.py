"""The database's address and its connections: what is taken, what each is told, and whose its files are."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import make_url

from app import create_app
from models import db
from routes.setup.engines import database_url

from .conftest import CONFIG, ON_POSTGRESQL, ROOT, application
from .servers import own_pgbouncer

TEST = """
import os
os.environ.pop("PYTEST_VERSION", None)  # older versions do not set it
from app import app
from models import db
import unittest
class Test(unittest.TestCase):
    def test_drop(self):
        with app.app_context():
            db.create_all()
            db.drop_all()
            print(db.engine.url.database)
if __name__ == "__main__":
    unittest.main()
"""


class TestTestRun:
    """A stranger's test drops all tables; the configured database never notices."""

    @pytest.fixture
    def run(self, tmp_path):
        def start(*command):
            (tmp_path / "test_mine.py").write_text(TEST)
            environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
            environment |= {"DATABASE_URL": f"sqlite:///{tmp_path}/production.db", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, *command]
            ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
            assert ended.returncode == 0, ended.stderr
            return (tmp_path / "production.db").exists()

        return start

    @pytest.mark.parametrize(
        "command",
        [
            "-m pytest -p no:cacheprovider",
            "-m unittest",
            "-m unittest test_mine",
            "test_mine.py",
            "-m unittest discover",
        ],
    )
    def test_cannot_touch_the_configured_database(self, run, command):
        assert not run(*command.split())

    def test_anything_else_gets_the_configured_database(self, run):
        assert run("-c", "from app import app, db; app.app_context().push(); db.create_all()")


class TestAddress:
    @pytest.mark.parametrize(
        "hosts, host, port",
        [
            ("one:5433,two:5434", "one,two", "5433,5434"),
            ("one,two:5434", "one,two", "5432,5434"),
            ("[2001:db8::5]:5433,[::1]", "2001:db8::5,::1", "5433,5432"),
        ],
    )
    def test_of_several_hosts_is_taken_as_libpq_takes_it(self, hosts, host, port):
        url = database_url(f"postgresql://me:p%2Fw,x@{hosts}/db?target_session_attrs=read-write")
        [arguments, options] = make_url(url).get_dialect()().create_connect_args(make_url(url))
        expected = {"host": host, "port": port, "dbname": "db", "user": "me", "password": "p/w,x"}
        assert options == expected | {"target_session_attrs": "read-write"}

    @pytest.mark.parametrize("url", ["postgresql://u:hidden@one:x,two/db", "postgresql://u:hidden@one:1:2,two/db"])
    def test_of_hosts_that_are_none_is_refused_without_its_password(self, url):
        with pytest.raises(SystemExit, match="DATABASE_URL") as refusal:
            create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url})
        assert "hidden" not in str(refusal.value)


@ON_POSTGRESQL
class TestConnection:
    @pytest.fixture
    def url(self, app):
        return app.config["SQLALCHEMY_DATABASE_URI"]

    def show(self, url, *names):
        """What the connections of each pool are set to."""
        with application(url) as app, app.app_context():
            connections = [db.engines[pool].connect() for pool in (None, "autocommit", "orders", "search")]
            found = [[it.scalar(db.text(f"SHOW {name}")) for name in names] for it in connections]
            for connection in connections:
                connection.close()
        return found

    def test_is_of_the_first_host_that_takes_writes(self, url):
        where = make_url(url)
        address = f"127.0.0.1:1,{where.host}:{where.port or 5432}/{where.database}"
        found = self.show(f"postgresql://{where.username}@{address}?target_session_attrs=read-write", "server_encoding")
        assert found == [["UTF8"]] * 4

    def test_says_utf_8_whatever_the_role_says(self, url, monkeypatch):
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        assert self.show(f"{url}?client_encoding=SQL_ASCII", "client_encoding") == [["UTF8"]] * 4

    def test_compiles_no_plan_and_keeps_those_of_single_statements(self, url):
        found = self.show(url, "jit", "plan_cache_mode")
        assert found == [["off", "auto"], *[["off", "force_generic_plan"]] * 3]

    def test_heeds_the_options_of_the_address_beside_ours(self, url):
        found = self.show(
            f"{url}?options=-c%20search_path%3Dpublic,other%20-c%20work_mem%3D5MB", "work_mem", "timezone"
        )
        assert found == [["5MB", "UTC"]] * 4

    @pytest.mark.parametrize("query, expected", [("", "5"), ("?connect_timeout=7", "7")])
    def test_waits_as_long_as_the_address_says(self, url, query, expected):
        with application(url + query) as app, app.app_context(), db.engine.connect() as connection:
            parameters = connection.connection.dbapi_connection.info.dsn_parameters
        assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == (expected, "15000")

    @pytest.mark.slow
    def test_goes_through_pgbouncer_in_session_mode(self, url):
        where = make_url(url)
        with own_pgbouncer(where.host, where.port or 5432) as port:
            found = self.show(f"postgresql://postgres@127.0.0.1:{port}/{where.database}", "timezone", "enable_seqscan")
        assert found == [["UTC", "on"], *[["UTC", "off"]] * 3]


class TestFiles:
    def test_are_their_owners_alone(self, tmp_path):
        with application(f"sqlite:///{tmp_path}/test.db") as app, app.app_context():
            db.create_all()
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}

    def test_that_are_there_keep_their_mode(self, tmp_path):
        (tmp_path / "test.db").touch(0o640)
        with application(f"sqlite:///{tmp_path}/test.db") as app, app.app_context():
            db.create_all()
        assert (tmp_path / "test.db").stat().st_mode & 0o777 == 0o640

    def test_folder_is_its_owners_alone(self, tmp_path):
        command = f"""
import flask
flask.Flask.auto_find_instance_path = lambda self: {str(tmp_path / "instance")!r}
from app import create_app
create_app({{"SQLALCHEMY_DATABASE_URI": "sqlite:///x.db"}})
"""
        subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True, timeout=60)
        assert (tmp_path / "instance").stat().st_mode & 0o777 == 0o700
