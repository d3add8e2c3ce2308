"""The door without a network: what a scanner takes along, what it sends afterwards, and who got in twice."""

import json
import random
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from models import Scan, Ticket, db
from routes.selling.transfers import give

from .conftest import refusal


def hash_of(code):
    return b64encode(sha256(code.encode()).digest()[:12]).decode()


@pytest.fixture
def event(paid_order):
    return paid_order["event"]["id"]


@pytest.fixture
def codes(paid_order):
    return [ticket["code"] for ticket in paid_order["tickets"]]


@pytest.fixture
def door(client, staff, event):
    def get(user=staff, **query):
        return client.get(f"/events/{event}/door", query_string=query, headers=user.headers).get_json()

    return get


@pytest.fixture
def upload(client, staff, event):
    """Send scans of a device; the results."""

    def post(*scans, device="Door 1", user=staff, event=event):
        body = {"device": device, "scans": list(scans)}
        response = client.post(f"/events/{event}/scans", json=body, headers=user.headers)
        assert response.status_code == 200, response.get_json()
        return response.get_json()["results"]

    return post


@pytest.fixture
def scans(client, admin, event):
    def get(**query):
        return client.get(f"/events/{event}/scans", query_string=query, headers=admin.headers).get_json()

    return get


def new(listed, *before):
    """The rows that no list before had. What others write meanwhile on PostgreSQL may be told twice."""
    known = [row for one in before for row in one["tickets"]]
    return [row for row in listed["tickets"] if row not in known]


FINE = {"error": None, "checked_in_at": None, "device": None}


def scan(code, nonce="1", accepted=True, **more):
    return {"code": code, "nonce": nonce, "accepted": accepted} | more


class TestList:
    def test_has_hash_type_and_status_of_each(self, door, codes, paid_order):
        listed = door()
        kind = paid_order["items"][0]["ticket_type_id"]
        assert listed["tickets"] == [[hash_of(code), kind, "valid"] for code in codes]
        assert (set(listed), listed["gone"], listed["next"]) == ({"version", "tickets", "gone", "next"}, [], None)

    def test_has_no_code_name_or_address(self, door, codes, buyer):
        text = json.dumps(door())
        assert not [secret for secret in (*codes, buyer.email, "Somebody") if secret in text]

    def test_has_names_where_they_are_asked_for(self, door, codes, client, buyer):
        client.patch(f"/tickets/{codes[0]}", json={"attendee_name": "Zoë"}, headers=buyer.headers)
        assert [row[3] for row in door(names="true")["tickets"]] == ["Zoë", "Somebody"]

    def test_changes_alone_since_a_version(self, door, codes, check_in, client, staff, refund, paid_order):
        first = door()
        assert new(door(since=first["version"]), first) == []
        check_in(codes[0])
        second = door(since=first["version"])
        assert [(row[0], row[2]) for row in new(second, first)] == [(hash_of(codes[0]), "used")]
        client.delete(f"/tickets/{codes[0]}/check-in", headers=staff.headers)
        refund(paid_order)
        third = door(since=second["version"])
        assert [(row[0], row[2]) for row in third["tickets"]] == [(hash_of(code), "void") for code in codes]
        assert new(door(since=third["version"]), third) == []

    def test_new_tickets_are_changes(self, door, make_ticket_type, event, place, buyer, pay, get_order):
        before = door()
        order = place(buyer, make_ticket_type(event)).get_json()
        pay(order)
        [ticket] = get_order(order)["tickets"]
        assert [row[0] for row in new(door(since=before["version"]), before)] == [hash_of(ticket["code"])]

    def test_version_of_another_database_gets_all(self, door):
        listed = door()
        assert door(since=2**53 - 1)["tickets"] == listed["tickets"]

    def test_in_pages(self, door, codes, client, staff):
        pages = [door(limit=1)]
        while pages[-1]["next"]:
            pages.append(client.get(pages[-1]["next"], headers=staff.headers).get_json())
        assert [row[0] for page in pages for row in page["tickets"]] == [hash_of(code) for code in codes]
        assert len({page["version"] for page in pages}) == 1

    @pytest.mark.parametrize(
        "query", [{"since": "x"}, {"since": "-1"}, {"names": "1"}, {"after": "x"}, {"limit": "10001"}]
    )
    def test_names_the_parameter(self, client, staff, event, query):
        response = client.get(f"/events/{event}/door", query_string=query, headers=staff.headers)
        assert (response.status_code, set(response.get_json()["message"])) == (400, set(query))

    def test_of_an_event_is_for_who_works_at_its_door(self, client, make_user, admin, event, make_event, door):
        helper, other = make_user(), make_event()
        client.put(f"/events/{event}/staff/{helper.id}", json={"role": "door"}, headers=admin.headers)
        assert door(helper)["tickets"]
        assert client.get(f"/events/{other}/door", headers=helper.headers).status_code == 403
        assert client.get(f"/events/{event}/scans", headers=helper.headers).status_code == 403

    def test_code_of_who_passed_it_on_is_gone(self, app, door, codes, client, make_user, event):
        before = door()
        friend = make_user()
        with app.app_context():
            ticket = db.session.scalar(db.select(Ticket).where(Ticket.code == codes[0]))
            give(ticket, friend.id)
            db.session.commit()
            code = ticket.code
        after = door(since=before["version"])
        assert (after["gone"], [row[0] for row in new(after, before)]) == ([hash_of(codes[0])], [hash_of(code)])
        assert new(door(since=after["version"]), before, after) == []
        assert door()["gone"] == [hash_of(codes[0])]


class TestUpload:
    def test_lets_in_and_keeps_the_scan(self, upload, codes, scans, staff, client):
        at = "2026-06-19T18:00:00Z"
        assert upload(scan(codes[0], at=at)) == [{"nonce": "1", "outcome": "accepted", "conflict": False, **FINE}]
        ticket = client.get(f"/tickets/{codes[0]}", headers=staff.headers).get_json()
        assert ticket["status"] == "used"
        assert ticket["checked_in_at"] != at
        [kept] = scans()
        assert (kept["at"], kept["device"], kept["ticket_code"], kept["by"]["id"]) == (at, "Door 1", codes[0], staff.id)

    def test_again_answers_the_same(self, upload, codes, scans):
        both = scan(codes[0], "1"), scan(codes[1], "2", accepted=False)
        first = upload(*both)
        assert [it["outcome"] for it in first] == ["accepted", "accepted"]
        assert upload(*both) == upload(*both[:1]) + first[1:] == first
        assert len(scans()) == 2

    def test_same_nonce_of_another_device_is_another_scan(self, upload, codes):
        upload(scan(codes[0]))
        [second] = upload(scan(codes[0]), device="Door 2")
        assert (second["outcome"], second["conflict"], second["device"]) == ("already_checked_in", True, "Door 1")
        assert datetime.fromisoformat(second["checked_in_at"]) <= datetime.now(UTC)

    def test_two_devices_offline_with_one_ticket_are_one_conflict(self, upload, codes, scans):
        upload(scan(codes[0], "a"), scan(codes[1], "b"))
        upload(scan(codes[0], "a"), device="Door 2")
        assert len(scans()) == 3
        [conflict] = scans(conflict="true")
        assert (conflict["device"], conflict["first_device"], conflict["ticket_code"]) == ("Door 2", "Door 1", codes[0])
        assert len(scans(conflict="false")) == 2

    def test_who_was_turned_away_is_not_let_in(self, upload, codes, check_in):
        assert upload(scan(codes[0], accepted=False))[0]["outcome"] == "accepted"
        assert check_in(codes[0]).status_code == 200
        [later] = upload(scan(codes[0], "2", accepted=False))
        assert (later["outcome"], later["conflict"], later["device"]) == ("already_checked_in", False, None)

    def test_after_a_refund_and_of_another_event_and_of_none(
        self, upload, codes, refund, paid_order, scans, make_ticket_type, place, pay, get_order, buyer
    ):
        order = place(buyer, make_ticket_type()).get_json()
        pay(order)
        [other] = get_order(order)["tickets"]
        refund(paid_order)
        results = upload(scan(codes[0], "1"), scan(other["code"], "2"), scan("A" * 32, "3"), scan("hello", "4"))
        assert [(it["outcome"], it["conflict"]) for it in results] == [
            ("void", True),
            ("wrong_event", True),
            ("unknown", True),
            ("unknown", True),
        ]
        assert [it["ticket_code"] for it in scans()] == [None, None, None, codes[0]]

    def test_code_as_scanners_send_it(self, upload, codes):
        sent = f" {codes[0][:16].lower()}-{codes[0][16:]}\r\n"
        assert upload(scan(sent))[0]["outcome"] == "accepted"

    def test_for_a_canceled_event(self, upload, codes, cancel_event, event):
        cancel_event(event)
        assert upload(scan(codes[0])) == [{"nonce": "1", "outcome": "void", "conflict": True, **FINE}]

    def test_after_an_undo_lets_in_again(self, upload, codes, client, staff):
        upload(scan(codes[0], "1"))
        client.delete(f"/tickets/{codes[0]}/check-in", headers=staff.headers)
        assert upload(scan(codes[0], "1"), scan(codes[0], "2"))[1]["outcome"] == "accepted"

    @pytest.mark.parametrize(
        "bad",
        [
            5,
            None,
            [],
            {},
            {"code": 5, "nonce": "x", "accepted": True},
            {"code": "A", "nonce": "", "accepted": True},
            {"code": "A", "nonce": "x", "accepted": "yes"},
            {"code": "A" * 500, "nonce": "x", "accepted": True},
            {"code": "\0", "nonce": "x", "accepted": True},
            {"code": "A", "nonce": "x", "accepted": True, "at": "yesterday"},
        ],
    )
    def test_bad_one_spoils_none(self, upload, codes, bad):
        first, second, third = upload(scan(codes[0], "1"), bad, scan(codes[1], "3"))
        assert [first["outcome"], third["outcome"]] == ["accepted", "accepted"]
        assert (second["outcome"], second["conflict"]) == ("unknown", False)
        assert "entry 1" in second["error"].lower()

    @pytest.mark.parametrize("scans", [[], "x", None, [{}] * 501])
    def test_so_many_in_one_call(self, client, staff, event, scans):
        response = client.post(f"/events/{event}/scans", json={"device": "1", "scans": scans}, headers=staff.headers)
        assert (response.status_code, set(response.get_json()["message"])) == (400, {"scans"})

    def test_five_hundred(self, upload, codes):
        results = upload(*(scan(codes[number % 2], str(number)) for number in range(500)))
        assert [it["nonce"] for it in results] == [str(number) for number in range(500)]
        assert [it["outcome"] for it in results].count("accepted") == 2

    def test_online_check_in_is_a_scan(self, check_in, codes, scans, staff):
        check_in(codes[0])
        [kept] = scans()
        assert (kept["outcome"], kept["device"], kept["by"]["id"]) == ("accepted", None, staff.id)

    def test_is_kept_without_the_code(self, app, upload, codes):
        upload(scan(codes[0]), scan("A" * 32, "2"))
        with app.app_context():
            assert db.session.scalars(db.select(Scan.code_hash).order_by(Scan.id)).all() == [
                hash_of(codes[0]),
                hash_of("A" * 32),
            ]


class TestIdempotencyKey:
    def test_scan_whose_answer_was_lost_lets_in_once(self, client, staff, codes):
        headers = staff.headers | {"Idempotency-Key": "scan 1"}
        answers = [client.post(f"/tickets/{codes[0]}/check-in", headers=headers) for _ in range(2)]
        assert [it.status_code for it in answers] == [200, 200]
        assert answers[1].headers["Idempotent-Replayed"] == "true"
        assert answers[0].get_json() == answers[1].get_json()
        other = client.post(f"/tickets/{codes[0]}/check-in", headers=staff.headers | {"Idempotency-Key": "scan 2"})
        assert refusal(other) == (409, "already_checked_in")


class TestComplete:
    """The union of what has changed is the whole list, whenever it is asked for."""

    @pytest.mark.slow
    def test_while_it_sells_and_lets_in(self, app, door, event, make_ticket_type, make_user, staff):
        id = make_ticket_type(event, quantity=1000, max_per_buyer=None)
        people = [make_user() for _ in range(4)]

        def sell(person):
            mine = app.test_client()
            for number in range(12):
                lines = {"items": [{"ticket_type_id": id, "quantity": random.randint(1, 3)}]}
                order = mine.post("/orders", json=lines, headers=person.headers).get_json()
                body = {"method": "cash", "amount": order["total"]}
                mine.post(f"/orders/{order['code']}/payments", json=body, headers=staff.headers)
                tickets = mine.get(f"/orders/{order['code']}", headers=person.headers).get_json()["tickets"]
                if number % 2:
                    mine.post(f"/tickets/{tickets[0]['code']}/check-in", headers=staff.headers)

        known, since = {}, None
        with ThreadPoolExecutor(len(people)) as pool:
            selling = [pool.submit(sell, person) for person in people]
            while not all(it.done() for it in selling):
                since = self.take(known, door, since)
            for it in selling:
                it.result()
        self.take(known, door, since)
        whole = {row[0]: row for row in door()["tickets"]}
        assert known == whole
        assert len(whole) > 50

    def take(self, known, door, since):
        listed = door(**({} if since is None else {"since": since}))
        known.update({row[0]: row for row in listed["tickets"]})
        return listed["version"]

    def test_transaction_that_commits_late_is_not_missed(self, app, door, codes, backend, check_in):
        if backend == "sqlite":
            check_in(codes[1])  # nobody writes beside another one there
            return
        with app.app_context():
            late = db.engine.connect()
            late.begin()
            changed = db.update(Ticket.__table__).where(Ticket.__table__.c.code == codes[0])
            late.execute(changed.values(attendee_name="Late"))
            check_in(codes[1])
            first = door()
            late.commit()
            late.close()
        rows = door(since=first["version"], names="true")["tickets"]
        assert [row[3] for row in rows if row[0] == hash_of(codes[0])] == ["Late"]


@pytest.mark.slow
def test_a_hundred_thousand_tickets_take_little_memory(app, door, codes, event, client, staff, paid_order):
    """Each answer has 10,000 tickets: 0.6 MB at most."""
    with app.app_context():
        first = db.session.scalar(db.select(Ticket).where(Ticket.code == codes[0]))
        fields = {
            name: getattr(first, name) for name in ("order_id", "event_id", "user_id", "ticket_type_id", "status")
        }
        rows = [{**fields, "code": f"{number:032X}"} for number in range(100_000)]
        db.session.execute(db.insert(Ticket), rows)
        db.session.commit()
    listed, size = door(), 0
    found = len(listed["tickets"])
    while listed["next"]:
        answer = client.get(listed["next"], headers=staff.headers)
        listed, size = answer.get_json(), max(size, len(answer.data))
        found += len(listed["tickets"])
    assert found == 100_000 + len(codes)
    assert size < 600_000
