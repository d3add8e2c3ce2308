"""The README: its commands work as they are pasted, and its tables say what the code says."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask_migrate import upgrade

from app import app as application
from app import create_app, settings
from models import ROLES, Order, Payment, Ticket, db

from .conftest import CONFIG, dispose, servers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WHO = {None: "anyone", ROLES: "signed in", ("staff", "admin"): "staff", ("admin",): "admin"}
# Stands in for Pipenv: the tests run in the environment that it would find.
PIPENV = f'#!/bin/sh\nshift\ncd "{ROOT}"\nexec "$@"\n'


def blocks(heading):
    """The commands in the section of this heading, one after the other."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))


def table(heading):
    """The rows of the table with this heading, their cells without the marks of code."""
    rows = README.split(f"\n{heading}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture(scope="module")
def evenings(make_database, tmp_path_factory):
    """What the README's evening says on a fresh database and once more; the application and the folder it was in."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "pipenv").write_text(PIPENV)
    (folder / "pipenv").chmod(0o755)
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        upgrade()
    url = app.config["SQLALCHEMY_DATABASE_URI"]
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
    environment |= {"DATABASE_URL": url, "PATH": path}

    def paste(commands):
        done = subprocess.run(
            ["sh", "-eu"], input=commands, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with servers() as start:
        commands = blocks("An evening in curl").replace("http://localhost:${PORT:-5000}", start(url).address)
        yield SimpleNamespace(first=paste(commands), second=paste(commands), app=app, folder=folder)
    with app.app_context():
        dispose()


class TestEvening:
    @pytest.mark.parametrize("evening", ["first", "second"])
    def test_shows_what_it_speaks_of(self, evenings, evening):
        said = getattr(evenings, evening)
        assert '"Welcome"' in said
        assert '"reason":"already_checked_in"' in said
        assert "code,status,holder,email,ticket_type,order,checked_in_at" in said
        assert re.search(r'"total": {[^}]*"revenue": 5000[^}]*"sold": 2[^}]*}\s*}\s*$', said)

    def test_leaves_a_qr_code(self, evenings):
        assert (evenings.folder / "instance" / "ticket.svg").read_text().startswith("<?xml")

    def test_sells_two_tickets_and_lets_one_person_in_each_time(self, evenings):
        with evenings.app.app_context():
            assert db.session.scalars(db.select(Order.state)).all() == ["paid", "paid"]
            assert db.session.execute(db.select(Payment.method, Payment.amount)).all() == [("cash", 5000)] * 2
            assert sorted(db.session.scalars(db.select(Ticket.status))) == ["used", "used", "valid", "valid"]


class TestTables:
    def test_calls_are_the_routes(self):
        calls = {
            (method, re.sub(r"<\w+:", "<", rule.rule)): WHO[getattr(view, method.lower()).roles]
            for rule in application.url_map.iter_rules()
            if (view := application.view_functions[rule.endpoint].view_class)
            for method in view.methods
        }
        assert {(method, path): who for method, path, who, what in table("| Method | Path | Who | What |")} == calls

    def test_variables_are_those_that_are_read(self):
        reads = r'\b(?:text|whole|flag|capitals|matching)\("(\w+)"'
        read = set(re.findall(reads, (ROOT / "app.py").read_text()))
        assert sorted(name for name, *_ in table("| Variable | Default | What |")) == sorted(read)

    def test_defaults_are_those_in_force(self, monkeypatch):
        said = {name: default for name, default, _ in table("| Variable | Default | What |")}
        for name in said:
            monkeypatch.delenv(name, raising=False)
        in_force = {name: json.dumps(value).strip('"') for name, value in settings().items() if name in said}
        assert {name: said[name] for name in in_force} == {**in_force, "JWT_SECRET_KEY": "none"}

    def test_packages_are_those_of_the_pipfile(self):
        pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
        named = [package.strip() for packages, _ in table("| Package | For |") for package in packages.split(",")]
        assert sorted(named) == sorted([*pipfile["packages"], *pipfile["dev-packages"]])

    def test_commands_are_those_of_the_application_and_the_pipfile(self):
        pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
        named = {command.removeprefix("flask ").split()[0] for command, _ in table("| `pipenv run ...` | |")}
        assert named | {"strip-lock"} == {*pipfile["scripts"], *application.cli.commands, "db"}
