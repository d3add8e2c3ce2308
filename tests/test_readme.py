"""The README: its commands work as they are pasted, and its tables say what the code says."""

import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask_migrate import upgrade

from app import app as application
from app import create_app
from models import ROLES, Mail, Order, Payment, Ticket, db
from routes.selling.inventory import check_inventory
from routes.setup.settings import settings

from .conftest import CONFIG, dispose, servers, wait_until
from .fakes.stripe import FakeStripe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WHO = {None: "anyone", ROLES: "signed in", ("admin",): "admin", ("admin", "manager"): "admin, manager"}
WHO |= {("staff", "admin", "manager"): "staff, manager", ("staff", "admin", "door", "manager"): "staff, door, manager"}
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


@contextmanager
def shell(make_database, folder, **settings):
    """A server on a fresh database: a function that pastes the blocks of headings, and the application."""
    (folder / "pipenv").write_text(PIPENV)
    (folder / "pipenv").chmod(0o755)
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": make_database()})
    with app.app_context():
        upgrade()
    url = app.config["SQLALCHEMY_DATABASE_URI"]
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
    environment |= {"DATABASE_URL": url, "PATH": path}

    def paste(*headings, adapt=str):
        commands = adapt("".join(map(blocks, headings))).replace("http://localhost:${PORT:-5000}", address)
        done = subprocess.run(
            ["sh", "-eu"], input=commands, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with servers() as start:
        address = start(url, SMTP_URL="log:", **settings).address
        yield paste, app
    with app.app_context():
        dispose()


@pytest.fixture(scope="module")
def evenings(make_database, tmp_path_factory):
    """What the README's evening says on a fresh database and once more; the application and the folder it was in."""
    folder = tmp_path_factory.mktemp("readme")
    with shell(make_database, folder) as (paste, app):
        said = (paste("An evening in curl") for _ in range(2))
        yield SimpleNamespace(first=next(said), second=next(said), app=app, folder=folder)


@pytest.mark.slow
class TestEvening:
    @pytest.mark.parametrize("evening", ["first", "second"])
    def test_shows_what_it_speaks_of(self, evenings, evening):
        said = getattr(evenings, evening)
        assert '"Welcome"' in said
        assert '"reason":"already_checked_in"' in said
        assert "code,status,holder,email,ticket_type,order,checked_in_at" in said
        assert re.search(r'"total": {[^}]*"revenue": 5000[^}]*"sold": 2[^}]*}\s*}', said)
        assert "If there is an account for this address, a mail is on its way" in said

    def test_leaves_a_qr_code(self, evenings):
        assert (evenings.folder / "instance" / "ticket.svg").read_text().startswith("<?xml")

    def test_sells_two_tickets_and_lets_one_person_in_each_time(self, evenings):
        with evenings.app.app_context():
            assert db.session.scalars(db.select(Order.state)).all() == ["paid", "paid"]
            assert db.session.execute(db.select(Payment.method, Payment.amount)).all() == [("cash", 5000)] * 2
            assert sorted(db.session.scalars(db.select(Ticket.status))) == ["used", "used", "valid", "valid"]

    def test_ends_with_mails(self, evenings):
        kinds = ["order_paid", "order_paid", "password_reset", "password_reset"]
        with evenings.app.app_context():
            assert sorted(db.session.scalars(db.select(Mail.kind))) == kinds
            db.session.rollback()
            wait_until(lambda: self.statuses() == ["sent"] * 4)

    def statuses(self):
        found = [mail.status for mail in db.session.scalars(db.select(Mail))]
        db.session.rollback()
        db.session.expire_all()
        return found


@pytest.mark.slow
class TestEveningByCard:
    def as_told(self, commands):
        """The first evening up to Ben's order, without the lines that start servers; and Pay is pressed."""
        to_the_order, by_card = (
            commands.split('api /sign-up -d \'{"name": "Dee"')[0],
            commands.split("pipenv run start\n")[-1],
        )
        first, rest = by_card.split("\n", 1)
        return f'{to_the_order}\nPAGE=$({first})\ncurl -sS "$PAGE" -d action=pay\n{rest}'

    def test_sells_and_gives_back(self, make_database, tmp_path):
        with FakeStripe(secret="whsec_fake") as fake:
            settings = {"STRIPE_SECRET_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}
            settings |= {"STRIPE_API_BASE": fake.address, "SHOP_URL": "http://localhost:3000"}
            with shell(make_database, tmp_path, **settings) as (paste, app):
                said = paste("An evening in curl", "A second evening, by card", adapt=self.as_told)
                with app.app_context():
                    assert db.session.execute(db.select(Order.state, Payment.refunded).join(Payment)).all() == [
                        ("paid", 500)
                    ]
                    assert check_inventory() == []
                wait_until(lambda: [refund["amount"] for refund in fake.all("refund")] == [500])
        assert '"status": "paid"' in said


@pytest.mark.slow
class TestOrganizersEvening:
    def test_shows_what_it_speaks_of(self, make_database, tmp_path):
        with shell(make_database, tmp_path) as (paste, app):
            said = paste("An evening in curl", "A third evening, an organizer's")
            with app.app_context():
                totals = db.session.scalars(db.select(Order.total).order_by(Order.id)).all()
                assert check_inventory() == []
        assert totals == [5000, 2000 + 1200, 9000]
        assert '"message":"Not Found"' in said
        assert f'"starts_at":"{date.today().year + 1}-11-20T18:00:00Z"' in said
        assert '"role":"door"' in said
        assert {"event.created", "event.copied", "pool.created", "promo_code.created", "staff.appointed"} <= set(
            re.findall(r'"action":\s*"([a-z_.]+)"', said)
        )


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
        reads = r'\benv_\w+\("(\w+)"'
        read = {name for module in ROOT.glob("routes/**/*.py") for name in re.findall(reads, module.read_text())}
        assert sorted(name for name, *_ in table("| Variable | Default | What |")) == sorted(read)

    def test_defaults_are_those_in_force(self, monkeypatch):
        said = {name: default for name, default, _ in table("| Variable | Default | What |")}
        for name in said:
            monkeypatch.delenv(name, raising=False)
        in_force = {name: json.dumps(value).strip('"') or "none" for name, value in settings().items() if name in said}
        in_force |= {"JWT_SECRET_KEY": "none", "BCRYPT_AT_ONCE": "processors"}
        assert {name: said[name] for name in in_force} == in_force

    def test_packages_are_those_of_the_pipfile(self):
        pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
        named = [package.strip() for packages, _ in table("| Package | For |") for package in packages.split(",")]
        assert sorted(named) == sorted([*pipfile["packages"], *pipfile["dev-packages"]])

    def test_commands_are_those_of_the_application_and_the_pipfile(self):
        pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
        named = {command.removeprefix("flask ").split()[0] for command, _ in table("| `pipenv run ...` | |")}
        assert named | {"strip-lock"} == {*pipfile["scripts"], *application.cli.commands, "db"}
