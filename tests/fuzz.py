"""Fuzz the production server from its own document, as nobody, buyer, staff and admin: `python -m tests.fuzz`.

Every operation that a role may use must succeed, on what is made for it and with the document's own example. Then
schemathesis, in an environment of its own, looks for a 5xx and for any answer that the document does not describe.
"""

import json
import os
import secrets
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import requests
from flask_migrate import upgrade

from app import create_app
from models import MailToken, Ticket, Transfer, TransferToken, User, db, now
from routes.docs.examples import CREDENTIALS, MAILED_TOKEN, PROMO_CODE
from routes.selling.inventory import check_inventory
from routes.selling.mail_tokens import hashed
from tests.conftest import CONFIG, PASSWORD, POSTGRESQL, dispose, servers, wait_until
from tests.fakes.stripe import FakeStripe, sign
from tests.test_openapi import OPERATIONS, example, protected, takes_body

SECRET = "whsec_fake"
ROLES = ("nobody", "user", "staff", "admin")
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "10")  # of each operation and role
SETTINGS = ("--phases=examples,coverage,fuzzing", f"--max-examples={EXAMPLES}", "--seed=1")
# What no schema can say is refused all the same: a cursor that is none, 1.0 for an integer, a wrong current password.
# From all but admins, the filters that are theirs are ignored, whatever they say.
LENIENT = dict.fromkeys(ROLES, "positive_data_acceptance,negative_data_rejection")
LENIENT["admin"] = "positive_data_acceptance"
EVENT = {"name": "Concert", "description": "Music", "venue": "Hall", "status": "published"}
EVENT |= {"starts_at": "2099-06-19T18:30:00Z", "ends_at": "2099-06-19T21:30:00Z"}
TICKET_TYPE = {"name": "Regular", "price": 2500, "quantity": 100_000, "max_per_order": 1000}
# Calls would wear out what the server holds back from one buyer, and mails must be configured.
SERVER = {"MAX_PENDING_ORDERS": "10000", "SMTP_URL": "log:", "SHOP_URL": "https://shop.example.com"}
SERVER |= {"MAIL_FROM": "tickets@shop.example.com"}
SERVER |= {"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": SECRET}
MAILED = {"/password-resets/confirm": "password_reset", "/verifications": "verify_address"}


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
        with FakeStripe(secret=SECRET) as fake, servers() as start:
            api = start(url, **SERVER, STRIPE_API_BASE=fake.address).address
            fake.webhook = f"{api}/webhooks/stripe"
            yield Season(api, fake)
        dispose()


class Season:
    """Makes through the API what an operation needs to succeed. What has an owner is that of the role that calls.

    Only the links of mails are made in the database, whose application context is open: who calls can't read mails.
    """

    def __init__(self, api, fake):
        self.api, self.fake = api, fake
        self.logins = {role: self.log_in(f"{role}@example.com") for role in ROLES[1:]}
        self.make("/sign-up", {"name": "Ada Lovelace", **CREDENTIALS})
        self.category_id = self.category()
        self.ids = {"category_id": self.category_id, "event_id": self.event()}
        self.ids["ticket_type_id"] = self.ticket_type(self.ids["event_id"])

    def log_in(self, email, password=PASSWORD):
        return requests.post(f"{self.api}/login", json={"email": email, "password": password}, timeout=30).json()

    def login(self, role, method, path):
        """A log-in to call this with: a new one where its tokens are used up, another account where that is."""
        if (method, path) == ("DELETE", "/me"):
            user = self.user()
            self.send("admin", "PATCH", f"/users/{user['id']}", {"role": role})
            return self.log_in(user["email"], CREDENTIALS["password"])
        return self.log_in(f"{role}@example.com") if path in ("/logout", "/refresh") else self.logins[role]

    def authorization(self, role, method, path):
        kind = "refresh_token" if path == "/refresh" else "access_token"
        return {"Authorization": "Bearer " + self.login(role, method, path)[kind]} if role != "nobody" else {}

    def send(self, role, method, path, body=None):
        headers = self.authorization(role, method, path)
        return requests.request(method, self.api + path, json=body, headers=headers, timeout=30)

    def read(self, path):
        return self.send("admin", "GET", path).json()

    def make(self, path, body, role="admin"):
        answer = self.send(role, "POST", path, body)
        assert answer.ok, answer.text
        return answer.json()

    def user(self):
        email = f"{secrets.token_hex(8)}@example.com"
        self.make("/sign-up", {**CREDENTIALS, "name": "Somebody", "email": email})
        [user] = self.read(f"/users?q={email}")
        return user

    def category(self):
        return self.make("/categories", {"name": secrets.token_hex(8)})["id"]

    def event(self):
        return self.make("/events", {**EVENT, "category_id": self.category_id})["id"]

    def event_for(self, operation):
        found = {"id": self.event()}
        if operation.path.endswith("/refund-all"):
            self.send("admin", "PATCH", f"/events/{found['id']}", {"status": "canceled"})
        if "{user}" in operation.path:
            found["user"] = self.user()["id"]
            self.send("admin", "PUT", operation.path.format(**found), {"role": "door"})
        if "{promo}" in operation.path:
            self.promo_code(found["id"])
            found["promo"] = PROMO_CODE.code
        return found

    def sold_out(self):
        """An event and a ticket type of it of which there is none."""
        event_id = self.event()
        made = self.make(f"/events/{event_id}/ticket-types", {**TICKET_TYPE, "quantity": 0})
        return event_id, {"ticket_type_id": made["id"], "quantity": 1}

    def waiting(self, role):
        event_id, body = self.sold_out()
        return self.make(f"/events/{event_id}/waiting", body, role if role != "nobody" else "user")["id"]

    def pool(self, event_id):
        return self.make(f"/events/{event_id}/pools", {"name": "Hall", "quantity": 10})["id"]

    def promo_code(self, event_id):
        return self.make(f"/events/{event_id}/promo-codes", {"code": PROMO_CODE.code, "percent": 20})["id"]

    def ticket_type(self, event_id):
        return self.make(f"/events/{event_id}/ticket-types", TICKET_TYPE)["id"]

    def order(self, role):
        lines = [{"ticket_type_id": self.ids["ticket_type_id"], "quantity": 1}]
        return self.make("/orders", {"items": lines}, role if role != "nobody" else "user")["code"]

    def pay(self, code, **more):
        return self.make(f"/orders/{code}/payments", {"method": "cash", "amount": TICKET_TYPE["price"], **more})

    def order_for(self, operation, role):
        path, code = operation.path, self.order(role)
        if "{refund}" in path:
            return {"code": code, "refund": self.failed_refund(code, role)}
        if "checkout" in path:
            if (operation.method, path) != ("post", "/orders/{code}/checkout"):
                self.open_page(code, role)
        elif not path.endswith(("cancel", "payments", "extend")):
            self.pay(code)
        if "{id}" in path:  # of a payment that is to go back, as it is the second one
            return {"code": code, "id": self.pay(code, reference="again " + code)["id"]}
        return {"code": code}

    def open_page(self, code, role):
        """The page on which an order is paid by card, as the provider knows it."""
        self.make(f"/orders/{code}/checkout", {}, role if role != "nobody" else "user")
        return self.fake.all("checkout.session")[-1]["id"]

    def pay_by_card(self, code, role):
        self.fake.pay(self.open_page(code, role))
        wait_until(lambda: self.read(f"/orders/{code}")["status"] == "paid")

    def failed_refund(self, code, role):
        """The code of a refund that the provider could not carry out."""
        self.pay_by_card(code, role)
        before = len(self.fake.all("refund"))
        self.make(f"/orders/{code}/refund", {})
        wait_until(lambda: len(self.fake.all("refund")) > before)
        self.fake.settle_refund(self.fake.all("refund")[-1]["id"], "failed")
        wait_until(lambda: self.read(f"/orders/{code}")["attention"] == ["refund_failed"])
        return self.read(f"/orders/{code}")["payments"][0]["refunds"][0]["code"]

    def notice(self, path):
        """Send what the provider sends. Nobody else can sign it."""
        body = json.dumps(self.fake.all("event")[-1]).encode()
        headers = {"Stripe-Signature": sign(body, SECRET, int(time.time()))}
        return requests.post(self.api + path, data=body, headers=headers, timeout=30)

    def ticket_for(self, operation, role):
        order = self.order(role)
        self.pay(order)
        code = self.read(f"/orders/{order}")["tickets"][0]["code"]
        if operation.operationId == "withdrawTicket":
            self.make(
                f"/tickets/{code}/transfer", {"email": "somebody@example.com"}, role if role != "nobody" else "user"
            )
        elif operation.method == "delete":
            self.make(f"/tickets/{code}/check-in", {})
        return {"code": code}

    def mail(self):
        self.pay(self.order("user"))
        return self.read("/mails?limit=1")[0]["id"]

    def mail_link(self, kind):
        """Make the document's token one that was mailed to a new account."""
        user = self.user_row()
        link = {"hash": hashed(MAILED_TOKEN), "kind": kind, "expires_at": now(24 * 3600)}
        link |= {"user_id": user.id, "email": user.email, "token_version": user.token_version}
        db.session.execute(db.delete(MailToken))
        db.session.execute(db.insert(MailToken).values(link))
        db.session.commit()

    def transfer_link(self):
        """Make the document's token one that was mailed to whom a ticket is offered."""
        self.pay(self.order("user"))
        ticket = db.session.scalar(db.select(Ticket).order_by(Ticket.id.desc()).limit(1))
        made = Transfer(ticket=ticket, giver=self.user_row(), to="somebody@example.com", status="pending")
        ticket.owner, made.expires_at = made.giver, now(3600)
        db.session.execute(db.delete(TransferToken))
        db.session.add(made)
        db.session.flush()
        db.session.add(TransferToken(hash=hashed(MAILED_TOKEN), transfer_id=made.id))
        db.session.commit()

    def user_row(self):
        return db.session.get_one(User, self.user()["id"])

    def there(self, operation, role):
        """Make what the operation is to find; what stands in its path."""
        if operation.path == "/transfers/accept":
            self.transfer_link()
        if operation.path in MAILED:
            self.mail_link(MAILED[operation.path])
        kinds = {
            "users": lambda: {"id": self.user()["id"]},
            "categories": lambda: {"id": self.category()},
            "events": lambda: self.event_for(operation),
            "ticket-types": lambda: {"id": self.ticket_type(self.event())},
            "waiting": lambda: {"id": self.waiting(role)},
            "pools": lambda: {"id": self.pool(self.event())},
            "promo-codes": lambda: {"id": self.promo_code(self.event())},
            "orders": lambda: self.order_for(operation, role),
            "tickets": lambda: self.ticket_for(operation, role),
            "mails": lambda: {"id": self.mail()},
            "webhooks": lambda: {"provider": "stripe"},
        }
        return kinds[operation.path.split("/")[1]]() if "{" in operation.path else {}

    def call(self, operation, role):
        sent = example(operation, self.ids) if takes_body(operation) else None
        for name in {"name", "reference"} & set(sent or ()):
            sent[name] = secrets.token_hex(8)  # taken once each
        if operation.path == "/sign-up":
            sent["email"] = f"{secrets.token_hex(8)}@example.com"
        if operation.operationId == "waitForTickets":
            event_id, body = self.sold_out()
            return self.send(role, "POST", f"/events/{event_id}/waiting", body)
        path = operation.path.format(**self.there(operation, role))
        if path.startswith("/webhooks/"):
            self.pay_by_card(self.order("user"), "user")
            return self.notice(path)
        return self.send(role, operation.method.upper(), path, sent)

    def some_ids(self, role):
        """By path the ids and codes that are there, and by name those for bodies: some, for others are deleted."""
        found = {name: [value] for name, value in self.ids.items()}
        for operation in OPERATIONS.values():
            for _ in range(3):
                for name, value in self.there(operation, role).items():
                    found.setdefault(operation.path, {}).setdefault(name, []).append(value)
        return found


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
    about["EXAMPLE_PASSWORD"] = CREDENTIALS["password"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SCHEMATHESIS_HOOKS": "fuzz_hooks"}
    environment |= {f"FUZZ_{name}": value for name, value in about.items()}
    (tmp_path / "schemathesis.toml").write_text("[auth]\nauto-signup = false\n")  # nobody has no account
    command = [schemathesis, "run", f"{season.api}/openapi.json", *SETTINGS, f"--exclude-checks={LENIENT[role]}"]
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    print(found.stdout)
    assert found.returncode == 0, found.stderr
    assert role == "nobody" or season.send(role, "GET", "/me").ok  # else it was refused, and proved nothing


def test_counts_are_right_after_all(season):
    db.session.rollback()
    assert check_inventory() == []


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", __file__]))
