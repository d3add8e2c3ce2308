"""Tickets, their QR codes, and check-in at the door."""

import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from sqlalchemy.exc import IntegrityError

from models import Event, Order, Ticket, db, new_code, now

from .conftest import NEEDS_SCANNER, PASSWORD, scan

PNG = b"\x89PNG\r\n\x1a\n"
NO_CODE = "0" * 32
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
CHROME_IMG = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
SAFARI_IMG = "image/webp,image/avif,video/*;q=0.8,image/png,image/svg+xml;q=0.8,image/*;q=0.8,*/*;q=0.5"


@pytest.fixture
def code(paid_order):
    """The code of one of two tickets of the buyer."""
    return paid_order["tickets"][0]["code"]


@pytest.fixture
def undo(client, staff):
    return lambda code: client.delete(f"/tickets/{code}/check-in", headers=staff.headers)


def told(ticket, checked_in_at=None):
    """What each refusal at the door says of the ticket."""
    return {name: ticket[name] for name in ("holder", "ticket_type")} | {"checked_in_at": checked_in_at}


def draw(svg, path):
    """Draw the strokes of a QR code's SVG as a grey picture, which a scanner can read without knowing SVG."""
    root = ElementTree.fromstring(svg)
    side = int(root.get("width"))
    lines = next(element for element in root.iter() if "stroke" in element.attrib)
    scale = 8
    pixels = [[255] * (side // scale) for _ in range(side // scale)]
    x = y = 0
    for verb, numbers in re.findall(r"([Mmh])([^Mmh]*)", lines.get("d")):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if verb == "h":
            pixels[int(y)][int(x) : int(x + values[0])] = [0] * int(values[0])
        x, y = values if verb == "M" else (x + values[0], y + (values[1] if verb == "m" else 0))
    rows = b"".join(bytes(grey for grey in row for _ in range(scale)) * scale for row in pixels)
    path.write_bytes(b"P5 %d %d 255\n" % (side, side) + rows)


class TestTicketListGet:
    def test_shows_own_tickets(self, client, buyer, paid_order):
        tickets = client.get("/tickets", headers=buyer.headers).get_json()
        assert {ticket["code"] for ticket in tickets} == {ticket["code"] for ticket in paid_order["tickets"]}

    def test_shows_what_the_order_shows(self, client, buyer, paid_order):
        tickets = client.get("/tickets", headers=buyer.headers).get_json()
        assert sorted(tickets, key=str) == sorted(paid_order["tickets"], key=str)

    @pytest.mark.parametrize("role", ["user", "staff", "admin"])
    def test_shows_nobody_elses(self, client, make_user, paid_order, role):
        response = client.get("/tickets", headers=make_user(role).headers)
        assert (response.status_code, response.get_json()) == (200, [])

    def test_keeps_void_tickets(self, client, buyer, paid_order, refund):
        refund(paid_order)
        tickets = client.get("/tickets", headers=buyer.headers).get_json()
        assert [ticket["status"] for ticket in tickets] == ["void", "void"]

    def test_comes_in_pages(self, client, buyer, paid_order):
        first = client.get("/tickets?limit=1", headers=buyer.headers)
        second = client.get(re.match("<(.+)>; rel=", first.headers["Link"])[1], headers=buyer.headers)
        codes = {ticket["code"] for page in (first, second) for ticket in page.get_json()}
        assert codes == {ticket["code"] for ticket in paid_order["tickets"]}
        assert "Link" not in second.headers

    @pytest.mark.parametrize("limit", [1, 2])
    def test_takes_two_statements_however_many_there_are(self, client, statements, buyer, paid_order, limit):
        sent = statements(lambda: client.get(f"/tickets?limit={limit}", headers=buyer.headers))
        assert len(sent) == len(["the token", "the tickets"])

    def test_wants_a_token(self, client):
        assert client.get("/tickets").status_code == 401


class TestUpcomingTickets:
    @pytest.fixture
    def upcoming(self, client, buyer):
        return lambda more="": client.get(f"/tickets?upcoming=true{more}", headers=buyer.headers)

    @pytest.fixture
    def three_days(self, buyer, make_event, make_ticket_type, place, pay):
        """Events of which the buyer has a ticket each, bought in another order than they start in."""
        events = {}
        for days in (3, 1, 2):
            starts_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
            events[days] = make_event(starts_at=starts_at, ends_at=starts_at + timedelta(hours=1))
            pay(place(buyer, make_ticket_type(events[days])).get_json())
        return [events[days] for days in (1, 2, 3)]

    def test_come_in_the_order_of_their_start(self, upcoming, three_days):
        assert [ticket["event"]["id"] for ticket in upcoming().get_json()] == three_days

    def test_come_in_pages(self, client, buyer, upcoming, three_days):
        first = upcoming("&limit=2")
        second = client.get(re.match("<(.+)>; rel=", first.headers["Link"])[1], headers=buyer.headers)
        assert [ticket["event"]["id"] for ticket in first.get_json() + second.get_json()] == three_days
        assert "Link" not in second.headers

    def test_leave_out_what_is_over(self, upcoming, paid_order, context):
        past = {"starts_at": now(-7200), "ends_at": now(-3600)}
        db.session.execute(db.update(Event).values(past))
        db.session.commit()
        assert upcoming().get_json() == []

    def test_leave_out_void_ones(self, upcoming, paid_order, refund):
        refund(paid_order)
        assert upcoming().get_json() == []

    def test_show_nobody_elses(self, client, make_user, paid_order):
        assert client.get("/tickets?upcoming=true", headers=make_user().headers).get_json() == []

    @pytest.mark.parametrize("value", ["false", "1", ""])
    def test_refuse_another_value(self, client, buyer, value):
        response = client.get(f"/tickets?upcoming={value}", headers=buyer.headers)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["upcoming"])

    def test_refuse_the_cursor_of_the_other_order(self, client, buyer, upcoming, paid_order):
        cursor = client.get("/tickets?limit=1", headers=buyer.headers).headers["Link"].split("after=")[1].split(">")[0]
        assert upcoming(f"&after={cursor}").status_code == 400


class TestTicketGet:
    def test_shows_the_ticket(self, client, buyer, code, context):
        ticket = client.get(f"/tickets/{code}", headers=buyer.headers).get_json()
        row = db.session.scalar(db.select(Ticket))
        times = {name: f"{getattr(row.event, name):%Y-%m-%dT%H:%M:%SZ}" for name in ("starts_at", "ends_at")}
        place = {"venue": "Hall", "time_zone": row.event.time_zone}
        assert ticket == {
            "code": code,
            "status": "valid",
            "event": {"id": row.event_id, "name": "Concert", "status": "published", **place, **times},
            "order": row.purchase.code,
            "ticket_type": {"id": row.ticket_type_id, "name": "Regular"},
            "holder": "Somebody",
            "checked_in_at": None,
        }

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_staff_may_see_it(self, client, make_user, code, role):
        assert client.get(f"/tickets/{code}", headers=make_user(role).headers).get_json()["code"] == code

    def test_another_buyer_finds_nothing(self, client, make_user, code):
        response = client.get(f"/tickets/{code}", headers=make_user().headers)
        assert (response.status_code, response.get_json()) == (404, {"message": "Not Found"})

    def test_wants_a_token(self, client, code):
        response = client.get(f"/tickets/{code}")
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")

    @pytest.mark.parametrize("wrong", [NO_CODE, "1", "é" * 32])
    @pytest.mark.parametrize("path", ["/tickets/{}", "/tickets/{}/qr", "/tickets/{}/page"])
    def test_unknown_code_finds_nothing(self, client, staff, wrong, path):
        response = client.get(path.format(wrong), headers=staff.headers)
        assert (response.status_code, response.get_json()) == (404, {"message": "Not Found"})

    def test_code_has_128_random_bits(self, paid_order):
        codes = {ticket["code"] for ticket in paid_order["tickets"]}
        assert len(codes) == 2
        assert all(re.fullmatch("[0-9A-F]{32}", code) for code in codes)

    @pytest.mark.parametrize("number", ["1" * 32, "78e" + "1" * 29, "1" * 30 + "e1"])
    def test_code_is_nothing_that_a_spreadsheet_takes_for_a_number(self, monkeypatch, number):
        drawn = iter([number, number, "a" * 32])
        monkeypatch.setattr(secrets, "token_hex", lambda bytes: next(drawn))
        assert new_code() == "A" * 32


class TestTicketPatch:
    @pytest.fixture
    def rename(self, client, buyer):
        def patch(code, user=buyer, **body):
            return client.patch(f"/tickets/{code}", json=body, headers=user.headers)

        return patch

    def test_says_who_comes_and_keeps_the_code(self, client, buyer, rename, code):
        response = rename(code, attendee_name=" Zoe\u0308 ")
        ticket = response.get_json()
        assert (response.status_code, ticket["code"], ticket["holder"]) == (200, code, "Zoë")
        assert client.get(f"/tickets/{code}", headers=buyer.headers).get_json() == ticket

    def test_leaves_the_other_ticket_alone(self, client, buyer, rename, code):
        rename(code, attendee_name="Zoë")
        tickets = client.get("/tickets", headers=buyer.headers).get_json()
        assert sorted(ticket["holder"] for ticket in tickets) == ["Somebody", "Zoë"]

    def test_null_is_its_buyer_again(self, rename, code):
        rename(code, attendee_name="Zoë")
        assert rename(code, attendee_name=None).get_json()["holder"] == "Somebody"

    def test_nothing_changes_nothing(self, rename, code):
        rename(code, attendee_name="Zoë")
        assert rename(code).get_json()["holder"] == "Zoë"

    @pytest.mark.parametrize("role", ["staff", "admin"])
    def test_staff_may_correct_it(self, make_user, rename, code, role):
        assert rename(code, make_user(role), attendee_name="Zoë").get_json()["holder"] == "Zoë"

    def test_another_buyer_finds_nothing(self, make_user, rename, code):
        assert rename(code, make_user(), attendee_name="Zoë").status_code == 404

    def test_name_is_on_the_order_and_at_the_door(self, rename, check_in, get_order, paid_order, code):
        rename(code, attendee_name="Zoë")
        assert get_order(paid_order)["tickets"][0]["holder"] == "Zoë"
        assert check_in(code).get_json()["ticket"]["holder"] == "Zoë"
        assert check_in(code).get_json()["holder"] == "Zoë"

    def test_refuses_a_used_ticket(self, rename, check_in, code, paid_order):
        entered = check_in(code).get_json()["ticket"]["checked_in_at"]
        response = rename(code, attendee_name="Zoë")
        facts = {"message": "The ticket has been used", "reason": "used"} | told(paid_order["tickets"][0], entered)
        assert (response.status_code, response.get_json()) == (409, facts)

    def test_refuses_a_void_ticket(self, rename, refund, code, paid_order, context):
        refund(paid_order)
        response = rename(code, attendee_name="Zoë")
        assert (response.status_code, response.get_json()["reason"]) == (409, "void")
        assert set(db.session.scalars(db.select(Ticket.attendee_name))) == {None}

    @pytest.mark.parametrize("name", ["", " ", "\u200b", "a\0", "é" * 101, 5, True, ["Zoë"], "a\nb"])
    def test_refuses_what_is_no_name(self, rename, code, name):
        response = rename(code, attendee_name=name)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["attendee_name"])

    def test_wants_a_token(self, client, code):
        assert client.patch(f"/tickets/{code}", json={"attendee_name": "Zoë"}).status_code == 401


class TestOwner:
    """A ticket belongs to its owner, whoever bought it."""

    @pytest.fixture
    def owner(self, make_user):
        return make_user(name="Zoë")

    @pytest.fixture
    def owned(self, context, code, owner):
        """The code of a ticket that has come to be the owner's."""
        db.session.execute(db.update(Ticket).where(Ticket.code == code).values(user_id=owner.id))
        db.session.commit()
        return code

    def test_sees_it(self, client, owner, owned):
        ticket = client.get(f"/tickets/{owned}", headers=owner.headers).get_json()
        assert (ticket["code"], ticket["holder"]) == (owned, "Zoë")

    @pytest.mark.parametrize("query", ["", "?upcoming=true"])
    def test_has_it_on_the_list(self, client, owner, owned, query):
        tickets = client.get(f"/tickets{query}", headers=owner.headers).get_json()
        assert [ticket["code"] for ticket in tickets] == [owned]

    def test_buyer_finds_nothing(self, client, buyer, owned):
        assert client.get(f"/tickets/{owned}", headers=buyer.headers).status_code == 404
        assert owned not in [ticket["code"] for ticket in client.get("/tickets", headers=buyer.headers).get_json()]

    def test_buyer_may_not_rename_it(self, client, buyer, owned):
        answer = client.patch(f"/tickets/{owned}", json={"attendee_name": "Bo"}, headers=buyer.headers)
        assert answer.status_code == 404

    def test_does_not_see_the_order(self, client, owner, owned, paid_order):
        assert client.get(f"/orders/{paid_order['code']}", headers=owner.headers).status_code == 404

    def test_is_who_comes(self, client, staff, owner, owned, paid_order):
        path = f"/events/{paid_order['event']['id']}/attendees?q=zoë"
        [person] = client.get(path, headers=staff.headers).get_json()
        assert (person["code"], person["holder"], person["email"]) == (owned, "Zoë", owner.email)

    def test_can_not_go_while_it_is_good(self, client, owner, owned):
        answer = client.delete("/me", json={"current_password": PASSWORD}, headers=owner.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_tickets")


def as_typed(code):
    """A code in ways in which people, scanners and mail programs send it, percent-encoded for a path."""
    halves = code[:16], code[16:]
    written = [code.lower(), f" {code}", f"{code}\n", f"\r\n{code}\r\n", " ".join(code), f"\u00a0{code}\u200b"]
    written += [mark.join(halves) for mark in ("-", "\n", "\r\n ", "\u2010", "\u2011", "\u00ad", "-" * 3000)]
    return [quote(text, safe="") for text in written]


class TestCodeAsTyped:
    def test_is_read(self, client, staff, code):
        answers = {text: client.get(f"/tickets/{text}", headers=staff.headers) for text in as_typed(code)}
        assert {text: answer.status_code for text, answer in answers.items()} == dict.fromkeys(answers, 200)
        assert {answer.get_json()["code"] for answer in answers.values()} == {code}

    def test_is_read_in_the_middle_of_a_path(self, client, staff, code):
        answer = client.post(f"/tickets/{quote(f' {code.lower()}')}%0A/check-in", headers=staff.headers)
        assert (answer.status_code, answer.get_json()["ticket"]["code"]) == (200, code)

    def test_picture_is_of_the_code_as_it_is(self, client, code):
        assert client.get(f"/tickets/{code.lower()}%0A/qr").data == client.get(f"/tickets/{code}/qr").data

    def test_order_is_read_alike(self, client, buyer, paid_order):
        path = f"/orders/{paid_order['code'].lower()}%20"
        assert client.get(path, headers=buyer.headers).get_json()["code"] == paid_order["code"]

    @pytest.mark.parametrize("wrong", ["{}0", "{}.", "_{}", "{}%2F", "{}%00", "%EF%BC%A1{}", "{}%D9%A1"])
    def test_what_can_be_no_code_finds_nothing(self, client, staff, code, wrong):
        assert client.get(f"/tickets/{wrong.format(code)}", headers=staff.headers).status_code == 404


class TestQRGet:
    @NEEDS_SCANNER
    def test_svg_reads_as_the_code(self, client, code, tmp_path):
        draw(client.get(f"/tickets/{code}/qr").data, tmp_path / "qr.pgm")
        assert scan(tmp_path / "qr.pgm") == code

    @NEEDS_SCANNER
    def test_png_reads_as_the_code(self, client, code, tmp_path):
        (tmp_path / "qr.png").write_bytes(client.get(f"/tickets/{code}/qr", headers={"Accept": "image/png"}).data)
        assert scan(tmp_path / "qr.png") == code

    def test_svg_has_a_white_background(self, client, code):
        root = ElementTree.fromstring(client.get(f"/tickets/{code}/qr").data)
        background = next(root.iter("{http://www.w3.org/2000/svg}path"))
        assert background.get("fill") == "#fff"

    @pytest.mark.parametrize(
        "accept",
        [None, "*/*", "image/*", CHROME, CHROME_IMG, "image/png;q=0.1, image/svg+xml", "image/png;q=0, */*"]
        + ["image/png;q=x", "image/gif", ";;;", "\xff", "image/png" * 500],
    )
    def test_svg_is_what_comes(self, client, code, accept):
        response = client.get(f"/tickets/{code}/qr", headers={} if accept is None else {"Accept": accept})
        assert (response.status_code, response.mimetype) == (200, "image/svg+xml")
        assert ElementTree.fromstring(response.data).tag == "{http://www.w3.org/2000/svg}svg"

    @pytest.mark.parametrize(
        "accept",
        ["Image/PNG", "image/png, */*", "image/svg+xml;q=0, */*", SAFARI_IMG],
    )
    def test_png_comes_where_it_is_preferred(self, client, code, accept):
        response = client.get(f"/tickets/{code}/qr", headers={"Accept": accept})
        assert (response.status_code, response.mimetype) == (200, "image/png")
        assert response.data.startswith(PNG)

    def test_varies_by_accept(self, client, code):
        assert "Accept" in client.get(f"/tickets/{code}/qr").vary

    def test_is_kept_by_who_showed_it_and_by_nobody_on_the_way(self, client, code):
        kept = client.get(f"/tickets/{code}/qr").headers["Cache-Control"]
        assert kept == "private, max-age=31536000, immutable"

    def test_picture_that_is_not_there_is_not_kept(self, client):
        assert client.get(f"/tickets/{NO_CODE}/qr").headers["Cache-Control"] == "no-store"

    @NEEDS_SCANNER
    def test_shows_the_same_picture_to_everybody(self, client, make_user, code, tmp_path):
        pictures = {client.get(f"/tickets/{code}/qr", headers=h).data for h in ({}, make_user().headers)}
        assert pictures == {client.get(f"/tickets/{code}/qr", headers=make_user("admin").headers).data}


class TestCodeAlone:
    """What somebody learns who has a ticket's code and no role: its picture."""

    @pytest.mark.parametrize("method, path", [("GET", ""), ("POST", "/check-in"), ("DELETE", "/check-in")])
    def test_nothing_without_a_token(self, client, code, method, path):
        response = client.open(f"/tickets/{code}{path}", method=method)
        assert (response.status_code, response.get_json()) == (
            401,
            {"message": "Missing token", "reason": "token_missing"},
        )

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_not_even_its_owner_may_check_in(self, client, buyer, code, method):
        response = client.open(f"/tickets/{code}/check-in", method=method, headers=buyer.headers)
        assert (response.status_code, response.get_json()) == (403, {"message": "Forbidden"})

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_a_wrong_code_is_forbidden_alike(self, client, buyer, method):
        response = client.open(f"/tickets/{NO_CODE}/check-in", method=method, headers=buyer.headers)
        assert response.status_code == 403

    def test_it_is_no_order(self, client, make_user, code):
        assert client.get(f"/orders/{code}", headers=make_user("admin").headers).status_code == 404

    def test_its_picture_stays_the_same_when_it_was_used(self, client, check_in, code):
        before = client.get(f"/tickets/{code}/qr").data
        check_in(code)
        assert client.get(f"/tickets/{code}/qr").data == before


class TestCheckInPost:
    def test_lets_one_person_in(self, client, buyer, check_in, code):
        response = check_in(code)
        ticket = response.get_json()["ticket"]
        assert (response.status_code, response.get_json()["message"]) == (200, "Welcome")
        assert (ticket["code"], ticket["status"]) == (code, "used")
        assert TIME.fullmatch(ticket["checked_in_at"])
        assert client.get(f"/tickets/{code}", headers=buyer.headers).get_json() == ticket

    def test_admin_may_work_the_door(self, client, admin, code):
        assert client.post(f"/tickets/{code}/check-in", headers=admin.headers).status_code == 200

    def test_leaves_the_other_ticket_alone(self, client, buyer, check_in, paid_order):
        first, second = (ticket["code"] for ticket in paid_order["tickets"])
        check_in(first)
        assert client.get(f"/tickets/{second}", headers=buyer.headers).get_json()["status"] == "valid"

    def test_body_may_be_an_empty_object(self, client, staff, code):
        assert client.post(f"/tickets/{code}/check-in", json={}, headers=staff.headers).status_code == 200

    def test_takes_the_door_of_its_event(self, check_in, paid_order):
        ticket = paid_order["tickets"][0]
        assert check_in(ticket["code"], event_id=ticket["event"]["id"]).status_code == 200

    def test_refuses_the_door_of_another_event(self, check_in, make_event, paid_order):
        ticket = paid_order["tickets"][0]
        response = check_in(ticket["code"], event_id=make_event())
        facts = {"reason": "wrong_event", "event": {"id": ticket["event"]["id"], "name": "Concert"}} | told(ticket)
        assert (response.status_code, response.get_json()) == (
            409,
            {"message": "The ticket is for another event", **facts},
        )

    def test_wrong_event_keeps_nothing(self, check_in, make_event, code, context):
        check_in(code, event_id=make_event())
        assert set(db.session.scalars(db.select(Ticket.status))) == {"valid"}

    def test_refuses_who_comes_second_and_says_since_when(self, check_in, code, paid_order):
        entered = check_in(code).get_json()["ticket"]["checked_in_at"]
        response = check_in(code)
        assert (response.status_code, response.get_json()) == (
            409,
            {
                "message": "The ticket has been used",
                "reason": "already_checked_in",
                **told(paid_order["tickets"][0], entered),
            },
        )

    def test_refuses_a_refunded_ticket_and_says_since_when(self, check_in, refund, code, context, paid_order):
        refund(paid_order)
        response = check_in(code)
        since = db.session.scalar(db.select(Order.updated_at)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert (response.status_code, response.get_json()) == (
            409,
            {"message": "The ticket is void", "reason": "void", "since": since} | told(paid_order["tickets"][0]),
        )

    def test_refuses_a_canceled_event_and_says_since_when(self, check_in, cancel_event, paid_order, context):
        ticket = paid_order["tickets"][0]
        cancel_event(ticket["event"]["id"])
        response = check_in(ticket["code"])
        since = db.session.scalar(db.select(Ticket)).event.canceled_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert (response.status_code, response.get_json()) == (
            409,
            {"message": "The event is canceled", "reason": "event_canceled", "since": since} | told(ticket),
        )

    def test_takes_six_statements(self, statements, check_in, code):
        sent = statements(lambda: check_in(code))
        steps = ["the token", "the ticket", "its lock", "the event", "the change", "the scan"]
        assert len([statement for statement in sent if not statement.startswith("BEGIN")]) == len(steps)

    def test_unknown_code_finds_nothing(self, check_in):
        assert check_in(NO_CODE).status_code == 404

    @pytest.mark.parametrize("field", ["event_di", "Event_id", "", "é" * 200, "\ud800"])
    def test_refuses_an_unknown_field_and_lets_nobody_in(self, client, staff, code, context, field):
        request = {"data": json.dumps({field: 1}), "content_type": "application/json"}
        response = client.post(f"/tickets/{code}/check-in", headers=staff.headers, **request)
        [name] = response.get_json()["message"]
        assert (response.status_code, name) == (400, field[:100].replace("\ud800", "?"))
        assert db.session.scalar(db.select(Ticket.status).where(Ticket.code == code)) == "valid"

    def test_names_unknown_and_wrong_fields_at_once(self, client, staff, code):
        response = client.post(f"/tickets/{code}/check-in", json={"event_id": "1", "event": 1}, headers=staff.headers)
        assert set(response.get_json()["message"]) == {"event_id", "event"}

    @pytest.mark.parametrize("event_id", [None, "1", 1.0, True, 0, 2**31])
    def test_refuses_an_event_id_that_is_none(self, code, event_id, check_in):
        response = check_in(code, event_id=event_id)
        assert (response.status_code, list(response.get_json()["message"])) == (400, ["event_id"])

    @pytest.mark.parametrize("data", [b"[]", b"{", b" "])
    def test_refuses_a_body_that_is_no_object(self, client, staff, code, data):
        url = f"/tickets/{code}/check-in"
        response = client.post(url, data=data, content_type="application/json", headers=staff.headers)
        assert response.status_code == 400

    def test_refuses_a_form(self, client, staff, code):
        response = client.post(f"/tickets/{code}/check-in", data={"event_id": 1}, headers=staff.headers)
        assert response.status_code == 415

    def test_takes_nothing_from_the_query_string(self, client, staff, make_event, code):
        url = f"/tickets/{code}/check-in?event_id={make_event()}"
        assert client.post(url, headers=staff.headers).status_code == 200


class TestCheckInDelete:
    def test_undoes_a_mistake(self, client, buyer, check_in, undo, code):
        check_in(code)
        response = undo(code)
        ticket = response.get_json()["ticket"]
        assert (response.status_code, response.get_json()["message"]) == (200, "Check-in undone")
        assert (ticket["status"], ticket["checked_in_at"]) == ("valid", None)
        assert client.get(f"/tickets/{code}", headers=buyer.headers).get_json() == ticket

    def test_lets_in_again(self, check_in, undo, code):
        check_in(code)
        undo(code)
        assert check_in(code).status_code == 200

    def test_is_possible_after_the_event_was_canceled(self, check_in, cancel_event, undo, paid_order):
        ticket = paid_order["tickets"][0]
        check_in(ticket["code"])
        cancel_event(ticket["event"]["id"])
        assert undo(ticket["code"]).status_code == 200

    def test_makes_a_refund_possible(self, check_in, refund, undo, code, paid_order):
        check_in(code)
        assert refund(paid_order).get_json()["reason"] == "checked_in"
        undo(code)
        assert refund(paid_order).get_json()["status"] == "refunded"

    def test_refuses_where_nobody_came_in(self, undo, code, paid_order):
        response = undo(code)
        assert (response.status_code, response.get_json()) == (
            409,
            {"message": "The ticket is not checked in", "reason": "not_checked_in", "status": "valid"}
            | told(paid_order["tickets"][0]),
        )

    def test_refuses_a_void_ticket_and_says_that_it_is(self, refund, undo, code, paid_order):
        refund(paid_order)
        assert undo(code).get_json()["status"] == "void"

    def test_unknown_code_finds_nothing(self, undo):
        assert undo(NO_CODE).status_code == 404


class TestConstraints:
    @pytest.mark.parametrize(
        "values",
        [
            *({"status": "lost"}, {"status": "used"}, {"checked_in_at": now()}, {"code": "SAME"}),
            *({name: 2**31 - 1} for name in ("order_id", "event_id", "user_id", "ticket_type_id")),
            *({name: None} for name in ("code", "order_id", "event_id", "user_id", "ticket_type_id", "status")),
        ],
    )
    def test_database_refuses_a_bad_row(self, paid_order, context, values):
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(Ticket).values(**values))
