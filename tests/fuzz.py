"""Fuzz the production server from its own document, as nobody, buyer, staff and admin: `python -m tests.fuzz`.

Every operation that a role may use must succeed, on what is made for it and with the document's own example. Then
schemathesis, in an environment of its own, looks for a 5xx and for any answer that the document does not describe.
"""

import json
import os
import secrets
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import requests
from flask_migrate import upgrade

from app import create_app
from models import User, db
from tests.conftest import CONFIG, PASSWORD, POSTGRESQL, servers
from tests.test_openapi import OPERATIONS, example, protected, takes_body

ROLES = ("nobody", "user", "staff", "admin")
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "10")  # of each operation and role
SETTINGS = ("--phases=examples,coverage,fuzzing", f"--max-examples={EXAMPLES}", "--seed=1")
# What no schema can say is refused all the same: a cursor that is none, 1.0 for an integer, a wrong current password.
# From all but admins, the filters that are theirs are ignored, whatever they say.
LENIENT = dict.fromkeys(ROLES, "positive_data_acceptance,negative_data_rejection")
LENIENT["admin"] = "positive_data_acceptance"
EVENT = {"name": "Concert", "description": "Music", "venue": "Hall", "status": "published"}
EVENT |= {"starts_at": "2099-06-19T18:30:00Z", "ends_at": "2099-06-19T21:30:00Z"}
TICKET_TYPE = {"name": "Regular", "price": 2500, "quantity": 100_000}


@pytest.fixture(scope="session")
def backend():
    return "postgresql" if POSTGRESQL else "sqlite"


@pytest.fixture(scope="session")
def season(make_database):
    url = make_database()
    with create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url}).app_context():
        upgrade()
        for role in ROLES[1:]:
            User.sign_up(name=role, email=f"{role}@example.com", password=PASSWORD).role = role
        db.session.commit()
    with servers() as start:
        yield Season(start(url, MAX_PENDING_ORDERS="10000").address)


class Season:
    """Makes through the API what an operation needs to succeed. What has an owner is that of the role that calls."""

    def __init__(self, api):
        self.api = api
        self.logins = {role: self.log_in(role) for role in ROLES[1:]}
        self.send("nobody", "POST", "/sign-up", body(OPERATIONS["postUserSignup"]))
        self.category_id = self.category()
        self.ids = {"category_id": self.category_id, "event_id": self.event()}
        self.ids["ticket_type_id"] = self.ticket_type(self.ids["event_id"])

    def log_in(self, role):
        login = {"email": f"{role}@example.com", "password": PASSWORD}
        return requests.post(f"{self.api}/login", json=login, timeout=30).json()

    def send(self, role, method, path, body=None):
        headers = {}
        if role != "nobody":
            login = self.log_in(role) if path == "/logout" else self.logins[role]
            headers["Authorization"] = "Bearer " + login["refresh_token" if path == "/refresh" else "access_token"]
        return requests.request(method, self.api + path, json=body, headers=headers, timeout=30)

    def make(self, path, body, role="admin"):
        answer = self.send(role, "POST", path, body)
        assert answer.ok, answer.text
        return answer.json()

    def user(self):
        email = f"{secrets.token_hex(8)}@example.com"
        self.make("/sign-up", {"name": "Somebody", "email": email, "password": PASSWORD})
        return self.send("admin", "GET", "/users").json()[-1]["id"]

    def category(self):
        return self.make("/categories", {"name": secrets.token_hex(8)})["id"]

    def event(self):
        return self.make("/events", {**EVENT, "category_id": self.category_id})["id"]

    def ticket_type(self, event_id):
        return self.make(f"/events/{event_id}/ticket-types", TICKET_TYPE)["id"]

    def order(self, role, operation):
        lines = [{"ticket_type_id": self.ids["ticket_type_id"], "quantity": 1}]
        code = self.make("/orders", {"items": lines}, role if role != "nobody" else "user")["code"]
        pay = {"method": "cash", "amount": TICKET_TYPE["price"]}
        if not operation.path.endswith(("cancel", "payments")):
            self.make(f"/orders/{code}/payments", pay)
        if "{id}" not in operation.path:
            return {"code": code}
        return {"code": code, "id": self.make(f"/orders/{code}/payments", pay | {"reference": "again " + code})["id"]}

    def ticket(self, role, operation):
        order = self.order(role, operation)
        code = self.send("admin", "GET", f"/orders/{order['code']}").json()["tickets"][0]["code"]
        if operation.method == "delete":
            self.make(f"/tickets/{code}/check-in", {})
        return {"code": code}

    def there(self, operation, role):
        """What stands in the path of the operation where it is to succeed."""
        kinds = {
            "users": lambda: {"id": self.user()},
            "categories": lambda: {"id": self.category()},
            "events": lambda: {"id": self.event()},
            "ticket-types": lambda: {"id": self.ticket_type(self.event())},
            "orders": lambda: self.order(role, operation),
            "tickets": lambda: self.ticket(role, operation),
            "docs": lambda: {"file": "start.js"},
        }
        return kinds[operation.path.split("/")[1]]() if "{" in operation.path else {}

    def call(self, operation, role):
        sent = example(operation, self.ids) if takes_body(operation) else None
        for name in {"name", "reference"} & set(sent or ()):
            sent[name] = secrets.token_hex(8)  # taken once each
        if operation.path == "/sign-up":
            sent["email"] = f"{secrets.token_hex(8)}@example.com"
        path = operation.path.format(**self.there(operation, role))
        return self.send(role, operation.method.upper(), path, sent)

    def some_ids(self, role):
        """By path the ids and codes that are there, and by name those for bodies: some, for others are deleted."""
        found = {name: [value] for name, value in self.ids.items()}
        for operation in OPERATIONS.values():
            for _ in range(3):
                for name, value in self.there(operation, role).items():
                    found.setdefault(operation.path, {}).setdefault(name, []).append(value)
        return found


def body(operation):
    return operation.requestBody["content"]["application/json"]["example"]


def may(role, operation):
    if not protected(operation):
        return True
    [allowed] = operation.security[0].values()
    return role != "nobody" and (not allowed or role in allowed)


@pytest.mark.parametrize("role", ROLES)
def test_every_operation_that_a_role_may_use_succeeds(season, role):
    answers = {name: season.call(it, role) for name, it in OPERATIONS.items() if may(role, it)}
    assert {name: answer.text for name, answer in answers.items() if not answer.ok} == {}


@pytest.mark.parametrize("role", ROLES)
def test_no_other_operation_does(season, role):
    answers = {name: season.call(it, role) for name, it in OPERATIONS.items() if not may(role, it)}
    refused = {"nobody": {401}}.get(role, {401, 403})
    assert {name: answer.text for name, answer in answers.items() if answer.status_code not in refused} == {}


@pytest.fixture(scope="session")
def schemathesis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemathesis")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", "schemathesis~=4.32"], check=True)
    return folder / "bin/schemathesis"


@pytest.mark.parametrize("role", ROLES)
def test_schemathesis_finds_nothing(season, schemathesis, role, tmp_path):
    login = {"email": f"{role}@example.com", "password": PASSWORD} if role != "nobody" else None
    about = {"API": season.api, "LOGIN": json.dumps(login), "IDS": json.dumps(season.some_ids(role))}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SCHEMATHESIS_HOOKS": "fuzz_hooks"}
    environment |= {f"FUZZ_{name}": value for name, value in about.items()}
    command = [schemathesis, "run", f"{season.api}/openapi.json", *SETTINGS, f"--exclude-checks={LENIENT[role]}"]
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    print(found.stdout)
    assert found.returncode == 0, found.stderr


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", __file__]))
