"""The audit: one entry for each change by those who work here, which tells no secret, name or address."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from models import Audit, Mail, Payment, Refund, Ticket, User, db, new_code, now
from routes.selling.accounts import give_role
from routes.selling.audit import audit_list, name_of
from tests.card_shop import *  # noqa: F403
from tests.fakes.stripe import DISPUTED

from .conftest import PASSWORD
from .test_access import WHO

ROOT = Path(__file__).parent.parent
NAME, VENUE, REASON, REFERENCE = "Zoe Zebra", "Velvet Hall", "Sad reasons", "Sent by Zoe"
TIMES = {"starts_at": "2100-01-01T20:00:00Z", "ends_at": "2100-01-01T23:00:00Z"}
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
# Of the calls that anybody who is signed in may make, those that may be made for somebody else.
FOR_OTHERS = {"PATCH /tickets/<code:code>", "POST /orders/<code:code>/cancel", "POST /orders/<code:code>/mail"}
# What is recorded elsewhere.
NOT_RECORDED = {"POST /tickets/<code:code>/check-in", "POST /events/<id:id>/scans"}
CHANGING = {call for call, who in WHO.items() if not call.startswith("GET") and who and "user" not in who} | FOR_OTHERS


@pytest.fixture
def entries(app):
    """All entries, oldest first, as they are stored."""

    def read():
        with app.app_context():
            return list(db.session.scalars(db.select(Audit).order_by(Audit.id)))

    return read


@pytest.fixture
def season(app, client, admin, make_user, make_event, make_ticket_type, place, pay, get_order):
    """What calls are made about: an event with a pending order, a paid one with a ticket that is used, and more."""
    app.config["SMTP_URL"] = "log:"
    buyer = make_user(name=NAME)
    event_id = make_event(venue=VENUE)
    type_id = make_ticket_type(event_id)
    pending, paid, used, late = (place(buyer, type_id).get_json() for _ in range(4))
    for order in (paid, used):
        pay(order, method="bank_transfer", reference=f"{REFERENCE} {order['code']}")
    pay(late)
    due = pay(late, method="card", reference=f"{REFERENCE} again").get_json()["id"]
    code = get_order(used, admin)["tickets"][0]["code"]
    client.post(f"/tickets/{code}/check-in", headers=admin.headers)
    good = get_order(paid, admin)["tickets"][0]["code"]
    category = client.post("/categories", json={"name": "Empty"}, headers=admin.headers).get_json()["id"]
    empty = make_event(category_id=category)
    other = client.post("/categories", json={"name": "Emptier"}, headers=admin.headers).get_json()["id"]
    canceled = make_event()
    client.patch(f"/events/{canceled}", json={"status": "canceled"}, headers=admin.headers)
    door = make_user()
    client.put(f"/events/{event_id}/staff/{door.id}", json={"role": "door"}, headers=admin.headers)
    pool = client.post(f"/events/{event_id}/pools", json={"name": "Hall", "quantity": 99}, headers=admin.headers)
    code_body = {"code": "Longest", "percent": 10}
    promo_code = client.post(f"/events/{event_id}/promo-codes", json=code_body, headers=admin.headers)
    made = {"pool": pool.get_json()["id"], "promo_code": promo_code.get_json()["id"]}
    with app.app_context():
        mail = db.session.scalar(db.select(Mail.id).limit(1))
    return SimpleNamespace(
        **{"event": event_id, "type": type_id, "pending": pending["code"], "paid": paid["code"], "late": late["code"]},
        **{"due": due, "ticket": code, "category": category, "other": other, "empty": empty, "canceled": canceled},
        **{
            "buyer": buyer,
            "door": door.id,
            "mail": mail,
            "free_type": make_ticket_type(empty),
            "nobody": make_user().id,
            "good": good,
            **made,
        },
    )


@pytest.fixture
def failed_refund(app, season):
    """The code of a refund of the paid order that a provider could not carry out."""
    with app.app_context():
        payment = db.session.scalar(db.select(Payment).where(Payment.order.has(code=season.paid)))
        payment.provider, payment.reference = "stripe", "pi_1"
        made = Refund(code=new_code(), key=new_code(), payment=payment, amount=1, status="failed", settled_at=now())
        db.session.add(made)
        db.session.commit()
        return made.code


def event_body(season):
    return {"name": NAME, "description": "Long", "venue": VENUE, "category_id": season.category, **TIMES}


TYPE = {"name": NAME, "price": 100, "quantity": 1}
# By call: the path, with what stands in `season`, and the body.
CALLS = {
    "PATCH /users/<id:id>": ("/users/{nobody}", {"role": "staff"}),
    "DELETE /users/<id:id>": ("/users/{nobody}", None),
    "POST /categories": ("/categories", {"name": NAME}),
    "PATCH /categories/<id:id>": ("/categories/{category}", {"name": f"{NAME} too"}),
    "DELETE /categories/<id:id>": ("/categories/{other}", None),
    "POST /events": ("/events", event_body),
    "PATCH /events/<id:id>": ("/events/{event}", {"venue": NAME, **TIMES}),
    "DELETE /events/<id:id>": ("/events/{empty}", None),
    "POST /events/<id:id>/ticket-types": ("/events/{event}/ticket-types", TYPE),
    "PATCH /ticket-types/<id:id>": ("/ticket-types/{type}", {"name": NAME, "price": 3000}),
    "DELETE /ticket-types/<id:id>": ("/ticket-types/{free_type}", None),
    "POST /events/<id:id>/pools": ("/events/{event}/pools", {"name": NAME, "quantity": 100}),
    "PATCH /pools/<id:id>": ("/pools/{pool}", {"name": NAME, "quantity": 90}),
    "DELETE /pools/<id:id>": ("/pools/{pool}", None),
    "POST /events/<id:id>/promo-codes": ("/events/{event}/promo-codes", {"code": "Long", "percent": 5}),
    "PATCH /promo-codes/<id:id>": ("/promo-codes/{promo_code}", {"code": "Longer", "percent": 5}),
    "DELETE /promo-codes/<id:id>": ("/promo-codes/{promo_code}", None),
    "PUT /events/<id:id>/staff/<id:user>": ("/events/{event}/staff/{nobody}", {"role": "door"}),
    "DELETE /events/<id:id>/staff/<id:user>": ("/events/{event}/staff/{door}", None),
    "POST /orders/<code:code>/extend": ("/orders/{pending}/extend", {"expires_at": TOMORROW}),
    "POST /orders/<code:code>/cancel": ("/orders/{pending}/cancel", None),
    "POST /events/<id:id>/copies": ("/events/{event}/copies", {"starts_at": ["2030-01-01T12:00:00Z"]}),
    "POST /orders/<code:code>/mail": ("/orders/{paid}/mail", None),
    "POST /orders/<code:code>/payments": (
        "/orders/{pending}/payments",
        {"method": "card", "reference": REFERENCE, "amount": 2500},
    ),
    "POST /orders/<code:code>/refund": ("/orders/{paid}/refund", {"reason": REASON}),
    "POST /orders/<code:code>/payments/<id:id>/refund": ("/orders/{late}/payments/{due}/refund", None),
    "POST /orders/<code:code>/refunds/<code:refund>/retry": ("/orders/{paid}/refunds/{refund}/retry", None),
    "POST /events/<id:id>/refund-all": ("/events/{canceled}/refund-all", {"reason": REASON}),
    "PATCH /tickets/<code:code>": ("/tickets/{good}", {"attendee_name": NAME}),
    "DELETE /tickets/<code:code>/check-in": ("/tickets/{ticket}/check-in", None),
    "POST /mails/<id:id>/retry": ("/mails/{mail}/retry", None),
}


def make(client, user, season, call, refund=""):
    path, body = CALLS[call]
    body = body(season) if callable(body) else body
    path = path.format(**vars(season), refund=refund)
    answer = client.open(path, method=call.split()[0], json=body, headers=user.headers)
    assert answer.status_code < 300, answer.text
    return answer


class TestWalk:
    def test_it_knows_every_call_that_changes_something(self):
        assert set(CALLS) == CHANGING - NOT_RECORDED

    @pytest.mark.parametrize("call", CALLS)
    def test_each_writes_one_entry(self, request, client, admin, season, entries, call):
        refund = request.getfixturevalue("failed_refund") if "refunds/" in call else ""
        before = len(entries())
        answer = make(client, admin, season, call, refund)
        *_, entry = found = entries()
        assert len(found) == before + 1
        assert (entry.actor_id, entry.request_id) == (admin.id, answer.headers["X-Request-ID"])

    @pytest.mark.parametrize("call", CALLS)
    def test_refused_call_writes_none(self, client, admin, season, entries, call):
        path = re.sub(r"\{\w+\}", lambda found: "0" * 32 if "code" in call else "2147483647", CALLS[call][0])
        before = len(entries())
        body = {"name": None, "role": "nobody", "reason": None, "amount": -1, "price": -1, "status": "none"}
        answer = client.open(path, method=call.split()[0], json=body, headers=admin.headers)
        assert (answer.status_code in (400, 404), len(entries())) == (True, before)

    @pytest.mark.parametrize("call", [call for call in CALLS if "manager" in WHO[call]])
    def test_what_managers_do_is_told_too(self, client, admin, make_user, season, entries, call):
        manager = make_user()
        for id in (season.event, season.empty):
            path = f"/events/{id}/staff/{manager.id}"
            client.put(path, json={"role": "manager"}, headers=admin.headers)
        make(client, manager, season, call)
        assert entries()[-1].actor_id == manager.id

    def test_no_entry_holds_a_secret_a_name_or_an_address(self, request, app, client, admin, season, entries):
        refund = request.getfixturevalue("failed_refund")
        last = (
            "POST /orders/<code:code>/refund",
            "DELETE /users/<id:id>",
            "DELETE /events/<id:id>",
            "DELETE /pools/<id:id>",
            "DELETE /promo-codes/<id:id>",
        )
        for call in sorted(CALLS, key=lambda call: call in last):
            make(client, admin, season, call, refund)
        text = json.dumps([[it.action, it.subject, it.request_id, it.changes] for it in entries()])
        with app.app_context():
            secrets = [*db.session.scalars(db.select(Ticket.code)), *db.session.scalars(db.select(User.email))]
        assert [it for it in (NAME, VENUE, REASON, REFERENCE, PASSWORD, "Long", *secrets) if it in text] == []


class TestChanges:
    @pytest.fixture
    def last(self, entries):
        def read():
            entry = entries()[-1]
            return entry.action, entry.subject, entry.event_id, entry.changes

        return read

    def test_price_and_name(self, client, admin, season, last):
        make(client, admin, season, "PATCH /ticket-types/<id:id>")
        changes = {"name": [None, None], "price": [2500, 3000]}
        assert last() == ("ticket_type.changed", f"ticket_type:{season.type}", season.event, changes)

    def test_role(self, client, admin, season, last):
        make(client, admin, season, "PATCH /users/<id:id>")
        assert last() == ("user.changed", f"user:{season.nobody}", None, {"role": ["user", "staff"]})

    def test_time_and_venue_of_an_event(self, client, admin, season, last):
        make(client, admin, season, "PATCH /events/<id:id>")
        *_, changes = last()
        assert changes.keys() == {"venue", "starts_at", "ends_at"}
        assert (changes["venue"], changes["starts_at"][1]) == ([None, None], TIMES["starts_at"])

    def test_payment(self, client, admin, season, last):
        id = make(client, admin, season, "POST /orders/<code:code>/payments").json["id"]
        changes = {"payment": [None, id], "method": [None, "card"], "amount": [None, 2500]}
        changes |= {"status": [None, "confirmed"]}
        assert last() == ("payment.taken", f"order:{season.pending}", season.event, changes)

    def test_refund(self, client, admin, season, last):
        make(client, admin, season, "POST /orders/<code:code>/refund")
        changes = {"reason": [None, None], "amount": [None, 2500], "tickets": [None, 1], "status": ["paid", "refunded"]}
        assert last() == ("order.refunded", f"order:{season.paid}", season.event, changes)

    def test_undone_check_in_names_the_ticket_without_its_code(self, client, admin, season, last):
        make(client, admin, season, "DELETE /tickets/<code:code>/check-in")
        action, subject, event_id, changes = last()
        assert (action, event_id) == ("check_in.undone", season.event)
        assert subject == name_of(Ticket(code=season.ticket))
        assert (changes["status"], changes["checked_in_at"][1]) == (["used", "valid"], None)

    def test_appointment(self, client, admin, season, last):
        path = f"/events/{season.event}/staff/{season.door}"
        client.put(path, json={"role": "manager"}, headers=admin.headers)
        assert last() == ("staff.appointed", f"user:{season.door}", season.event, {"role": ["door", "manager"]})

    @pytest.mark.parametrize(
        "call, path, body",
        [
            ("PATCH", "/ticket-types/{type}", {"price": 2500}),
            ("PATCH", "/events/{event}", {"venue": VENUE}),
            ("PATCH", "/categories/{category}", {"name": "Empty"}),
            ("PATCH", "/users/{nobody}", {"role": "user"}),
            ("PUT", "/events/{event}/staff/{door}", {"role": "door"}),
        ],
    )
    def test_what_changes_nothing_is_not_told(self, client, admin, season, entries, call, path, body):
        before = len(entries())
        answer = client.open(path.format(**vars(season)), method=call, json=body, headers=admin.headers)
        assert (answer.status_code, len(entries())) == (200, before)

    def test_buyers_own_orders_are_not_told(self, client, season, entries):
        before = len(entries())
        for path in (f"/orders/{season.pending}/cancel", f"/orders/{season.paid}/mail"):
            assert client.post(path, headers=season.buyer.headers).status_code in (200, 202)
        assert len(entries()) == before

    def test_payment_once_more_is_told_once(self, client, admin, season, entries):
        make(client, admin, season, "POST /orders/<code:code>/payments")
        before = len(entries())
        make(client, admin, season, "POST /orders/<code:code>/payments")
        assert len(entries()) == before


class TestCommands:
    @pytest.mark.parametrize(
        "command, changes",
        [
            (["create-admin", "--name", "Ann"], {"role": ["user", "admin"]}),
            (["set-password"], {"password": [None, None]}),
        ],
    )
    def test_each_writes_one_entry_without_an_actor(self, app, make_user, entries, command, changes):
        user = make_user()
        address = ["--email", user.email] if "--name" in command else [user.email]
        password = ["--password", "another one"]
        assert app.test_cli_runner().invoke(args=[*command, *address, *password]).exit_code == 0
        [entry] = entries()
        assert (entry.actor_id, entry.request_id) == (None, None)
        assert (entry.action, entry.subject, entry.changes) == ("user.changed", f"user:{user.id}", changes)

    @pytest.mark.parametrize("command", ["expire-orders", "run-jobs", "check-inventory"])
    def test_what_only_goes_on_writes_none(self, app, lapse, pending_order, entries, command):
        before = len(entries())
        lapse(pending_order)
        assert app.test_cli_runner().invoke(args=[command]).exit_code == 0
        assert len(entries()) == before


def test_who_made_a_call_is_forgotten_with_it(context, client, admin, make_user, entries):
    """Also where one context is held open around several."""
    client.get("/me", headers=admin.headers)
    give_role(db.session.get(User, make_user().id), role="staff")
    db.session.commit()
    assert entries()[-1].actor_id is None


class TestProvider:
    """What a provider did has no actor, whoever made the call by which we learnt it."""

    @pytest.fixture
    def last(self, entries):
        def read():
            entry = entries()[-1]
            return entry.action, entry.actor_id, entry.request_id, entry.changes

        return read

    @pytest.fixture
    def paid(self, page, fake, settle, order):
        fake.pay(page)
        return settle(order).get_json()

    def test_payment_that_its_buyer_asks_about(self, paid, last):
        action, *who, changes = last()
        assert (action, who) == ("payment.taken", [None, None])
        assert (changes["amount"], changes["method"]) == ([None, 5000], [None, "card"])

    def test_refund_outside(self, app, paid, fake, last):
        fake.refund(fake.all("payment_intent")[0]["id"], 2000)
        assert app.test_cli_runner().invoke(args=["settle-payments"]).exit_code == 0
        action, *who, changes = last()
        assert (action, who, changes["amount"]) == ("refund.made_outside", [None, None], [None, 2000])

    def test_refund_that_fails(self, refund, paid, run_job, fake, notice, last):
        refund(paid)
        run_job()
        fake.settle_refund(fake.all("refund")[0]["id"], "failed")
        notice()
        action, *who, changes = last()
        assert (action, who, changes["status"]) == ("refund.failed", [None, None], ["succeeded", "failed"])

    def test_dispute_and_its_end(self, page, fake, settle, notice, order, entries):
        fake.pay(page, DISPUTED)
        settle(order)
        notice()
        fake.close_dispute(fake.all("dispute")[0]["id"], "won")
        notice()
        told = [it.changes["disputed"] for it in entries() if it.action == "payment.disputed"]
        assert told == [[False, True], [True, False]]


class TestList:
    @pytest.fixture
    def listed(self, client, admin):
        def get(query=""):
            return client.get(f"/audit{query}", headers=admin.headers).json

        return get

    def test_shows_who_did_what(self, client, admin, season, listed):
        answer = make(client, admin, season, "PATCH /ticket-types/<id:id>")
        [entry] = listed("?limit=1")
        assert entry["actor"] == {"id": admin.id, "name": "Somebody"}
        assert (entry["action"], entry["subject"]) == ("ticket_type.changed", f"ticket_type:{season.type}")
        assert (entry["event_id"], entry["request_id"]) == (season.event, answer.headers["X-Request-ID"])
        assert entry["changes"] == {"name": [None, None], "price": [2500, 3000]}

    @pytest.mark.parametrize(
        "query, actions",
        [
            ("event={event}&action=staff.appointed", ["staff.appointed"]),
            ("subject=ticket_type:{type}", ["ticket_type.created"]),
            ("subject=order:{late}", ["payment.taken"] * 2),
            ("action=gone", []),
            ("from=2100-01-01T00:00:00Z", []),
            ("to=2000-01-01T00:00:00Z", []),
            ("actor=2147483647", []),
            ("event=2147483647", []),
        ],
    )
    def test_filters(self, season, listed, query, actions):
        assert [entry["action"] for entry in listed("?" + query.format(**vars(season)))] == actions

    def test_actor(self, season, admin, listed):
        assert {entry["actor"]["id"] for entry in listed(f"?actor={admin.id}")} == {admin.id}

    @pytest.mark.parametrize("query", ["actor=x", "event=-1", "from=yesterday", "action=%00", "subject=", "after=x"])
    def test_bad_filter_is_refused(self, client, admin, query):
        assert client.get(f"/audit?{query}", headers=admin.headers).status_code == 400

    def test_pages_go_on_with_the_filter(self, client, season, admin, listed):
        path, ids = f"/audit?event={season.event}&limit=2", []
        while path:
            answer = client.get(path, headers=admin.headers)
            ids += [entry["id"] for entry in answer.json]
            path = answer.headers["Link"].split(">")[0][1:] if "Link" in answer.headers else None
        assert ids == sorted(ids, reverse=True) == [entry["id"] for entry in listed(f"?event={season.event}")]

    @pytest.mark.parametrize("filter", ["event", "actor", "action", "subject", None])
    def test_reads_no_table_whole(self, season, tables_read_whole, filter):
        values = {filter: 1 if filter in ("event", "actor") else "x"} if filter else {}
        query = audit_list(frozenset(values)).order_by(Audit.at.desc(), Audit.id.desc()).limit(50)
        assert "audit" not in tables_read_whole(query, values) or filter is None

    def test_deleted_account_stays_as_an_id(self, client, admin, make_user, season, listed):
        other = make_user("admin", name=NAME)
        make(client, other, season, "PATCH /ticket-types/<id:id>")
        client.delete(f"/users/{other.id}", headers=admin.headers)
        [entry] = listed(f"?actor={other.id}")
        assert entry["actor"] == {"id": other.id, "name": "Deleted account"}

    def test_entries_of_a_deleted_event_stay(self, client, admin, season, listed):
        make(client, admin, season, "DELETE /events/<id:id>")
        assert [entry["action"] for entry in listed(f"?event={season.empty}")][0] == "event.deleted"
        assert "event.created" in [entry["action"] for entry in listed(f"?event={season.empty}")]


def test_nothing_changes_or_deletes_an_entry():
    """But for the one line that adds them, no code of ours writes into the table."""
    writes = re.compile(r"(insert|update|delete)\(Audit\b|\bAudit\(")
    found = [path.name for path in (ROOT / "routes").rglob("*.py") for _ in writes.findall(path.read_text())]
    assert sorted(found) == ["audit.py", "examples.py"]
