"""People who work for single events: what each may do there, and nothing at another's."""

import csv
import io

import pytest

from models import Appointment
from routes.selling.appointments import STANDINGS

from .conftest import bearer, log_in, order_body, together
from .test_access import WHO

APPOINTED = [call for call, who in WHO.items() if "manager" in who]
SHARED = {"pools": {"name": "Hall", "quantity": 200}, "promo-codes": {"code": "HALF", "percent": 50}}
OF_CODES = ("/orders/", "/tickets/")


@pytest.fixture
def appoint(client, admin):
    """Appoint a user, a new one unless given, for an event, and return that user."""

    def put(user, event_id, role):
        path = f"/events/{event_id}/staff/{user.id}"
        assert client.put(path, json={"role": role}, headers=admin.headers).status_code == 200
        return user

    return put


@pytest.fixture
def put_on(client, buyer, admin, place, pay, get_order, make_event, make_ticket_type):
    """Put on an event with a paid order of two tickets, and return the ids that its paths have."""

    def make(**fields):
        event_id = make_event(**fields)
        type_id = make_ticket_type(event_id)
        order = place(buyer, type_id, 2).get_json()
        pay(order)
        ticket = get_order(order)["tickets"][0]["code"]
        ids = {"events": event_id, "ticket-types": type_id, "orders": order["code"], "tickets": ticket}
        for kind, body in SHARED.items():
            made = client.post(f"/events/{event_id}/{kind}", json=body, headers=admin.headers)
            ids[kind] = made.get_json()["id"]
        return ids

    return make


@pytest.fixture
def mine(put_on):
    return put_on()


@pytest.fixture
def other(put_on):
    return put_on()


@pytest.fixture
def door(make_user, appoint, mine):
    return appoint(make_user(), mine["events"], "door")


@pytest.fixture
def manager(make_user, appoint, mine):
    return appoint(make_user(), mine["events"], "manager")


@pytest.fixture
def send(client):
    """Make a call of the table of who may what, about what has these ids."""

    def open(call, ids, user, **request):
        method, path = call.split()
        kind = path.split("/")[1]
        path = path.replace("<id:user>", "2147483647")
        path = path.replace("<id:id>", str(ids.get(kind, 1))).replace("<code:code>", str(ids.get(kind, 1)))
        query = {"event": ids["events"]} if path == "/payments" else None
        return client.open(path, method=method, headers=user.headers, query_string=query, **request)

    return open


def refused(answer):
    """Whether the guard refused, and not what comes behind it."""
    return answer.status_code in (401, 403) or (answer.status_code == 404 and "staff/" not in answer.request.path)


class TestWalk:
    """Every call that somebody appointed may make."""

    @pytest.mark.parametrize("call", APPOINTED)
    def test_guard_knows_what_it_is_about(self, call):
        assert call == "GET /payments" or call.split("/")[1] in STANDINGS

    @pytest.mark.parametrize("role", ["door", "manager"])
    @pytest.mark.parametrize("call", APPOINTED)
    def test_each_may_at_his_event_what_the_table_says(self, request, send, mine, call, role):
        answer = send(call, mine, request.getfixturevalue(role))
        assert refused(answer) == (role not in WHO[call])

    @pytest.mark.parametrize("role", ["door", "manager"])
    @pytest.mark.parametrize("call", APPOINTED)
    def test_none_may_anything_at_another(self, request, send, mine, other, call, role):
        answer = send(call, other, request.getfixturevalue(role))
        hidden = call.split()[1].startswith(OF_CODES)
        assert (answer.status_code, answer.json["message"]) == ((404, "Not Found") if hidden else (403, "Forbidden"))

    @pytest.mark.parametrize("call", APPOINTED)
    def test_user_who_is_appointed_for_nothing_is_forbidden(self, make_user, send, mine, call):
        assert send(call, mine, make_user()).status_code == 403

    @pytest.mark.parametrize("call", [call for call in APPOINTED if not call.split()[1].startswith(OF_CODES)])
    def test_draft_of_another_is_not_there(self, send, manager, make_event, make_ticket_type, call):
        event_id = make_event(status="draft")
        draft = {"events": event_id, "ticket-types": make_ticket_type(event_id)}
        assert send(call, draft, manager).status_code == 404

    @pytest.mark.parametrize("call", [call for call, who in WHO.items() if who == ("admin",)])
    def test_what_is_for_admins_is_not_for_managers(self, send, manager, mine, call):
        there = call.replace("<code:refund>", "A" * 32).replace("/payments/<id:id>", "/payments/1")
        assert send(there, mine, manager).status_code == (401 if call == "GET /users" else 403)


class TestOrders:
    def test_manager_sees_and_cancels_an_order_of_his_event(self, client, manager, mine, buyer, place):
        order = place(buyer, mine["ticket-types"]).get_json()
        path = f"/orders/{order['code']}"
        assert client.get(path, headers=manager.headers).json["buyer"]["email"] == buyer.email
        assert client.post(f"{path}/cancel", headers=manager.headers).json["status"] == "canceled"

    @pytest.mark.parametrize("role", ["door", "manager"])
    @pytest.mark.parametrize("call", ["GET", "POST /cancel", "POST /mail", "GET /checkout", "POST /checkout/settle"])
    def test_order_that_is_not_his_to_see_is_not_there(self, client, request, mine, other, role, call):
        user = request.getfixturevalue(role)
        method, _, rest = call.partition(" ")
        code = (mine if role == "door" else other)["orders"]
        assert client.open(f"/orders/{code}{rest}", method=method, headers=user.headers).status_code == 404

    def test_who_took_a_payment_is_for_its_manager_too(self, client, manager, staff, mine):
        order = client.get(f"/orders/{mine['orders']}", headers=manager.headers).json
        assert order["payments"][0]["by"]["id"] == staff.id

    def test_manager_takes_a_payment_under_his_name(self, client, manager, mine, buyer, place):
        order = place(buyer, mine["ticket-types"]).get_json()
        body = {"method": "cash", "amount": order["total"]}
        paid = client.post(f"/orders/{order['code']}/payments", json=body, headers=manager.headers)
        assert (paid.status_code, paid.json["by"]["id"], paid.json["order"]["status"]) == (201, manager.id, "paid")


class TestLists:
    @pytest.fixture
    def codes(self, client, manager):
        def listed(query):
            return [order["code"] for order in client.get(f"/orders?{query}", headers=manager.headers).json]

        return listed

    def test_manager_lists_the_orders_of_his_event(self, codes, mine, other):
        assert codes(f"event={mine['events']}") == [mine["orders"]]

    def test_without_it_or_with_anothers_only_his_own(self, codes, mine, other):
        assert [codes(""), codes(f"event={other['events']}")] == [[], []]

    @pytest.mark.parametrize("filter", ["user={id}", "q=somebody", "q={email}"])
    def test_his_filters_hold_for_his_event(self, codes, mine, other, buyer, filter):
        query = filter.format(id=buyer.id, email=buyer.email)
        assert codes(f"event={mine['events']}&{query}") == [mine["orders"]]

    def test_they_find_nothing_of_anothers(self, codes, other, buyer):
        assert codes(f"event={other['events']}&user={buyer.id}") == []

    def test_orders_of_his_event_show_who_took_the_payment(self, client, manager, staff, mine):
        [order] = client.get(f"/orders?event={mine['events']}", headers=manager.headers).json
        assert order["payments"][0]["by"]["id"] == staff.id

    def test_payments_are_those_of_his_event(self, client, manager, mine, other):
        found = client.get(f"/payments?event={mine['events']}", headers=manager.headers).json
        assert [payment["order"]["code"] for payment in found] == [mine["orders"]]

    @pytest.mark.parametrize("query, status", [("", 403), ("event=x", 403), ("event=2147483647", 404)])
    def test_payments_without_an_event_of_his_are_not(self, client, manager, query, status):
        assert client.get(f"/payments?{query}", headers=manager.headers).status_code == status

    def test_next_page_of_payments_is_of_his_event_too(self, client, manager, mine, other, buyer, place, pay):
        pay(place(buyer, mine["ticket-types"]).get_json())
        first = client.get(f"/payments?event={mine['events']}&limit=1", headers=manager.headers)
        rest = client.get(first.headers["Link"].split(">")[0][1:], headers=manager.headers).json
        assert [payment["order"]["code"] for payment in rest] == [mine["orders"]]


class TestAttendees:
    def emails(self, client, event_id, user):
        rows = client.get(f"/events/{event_id}/attendees", headers=user.headers).json
        return {row["email"] for row in rows}

    def test_addresses_are_not_for_door(self, client, door, manager, buyer, mine):
        assert self.emails(client, mine["events"], door) == {None}
        assert self.emails(client, mine["events"], manager) == {buyer.email}

    def test_nor_in_csv(self, client, door, buyer, mine):
        path = f"/events/{mine['events']}/attendees"
        text = client.get(path, headers={**door.headers, "Accept": "text/csv"}).text
        assert {row["email"] for row in csv.DictReader(io.StringIO(text))} == {""}

    def test_staff_who_are_door_as_well_see_them(self, client, staff, appoint, buyer, mine):
        appoint(staff, mine["events"], "door")
        assert self.emails(client, mine["events"], staff) == {buyer.email}


class TestDoor:
    @pytest.fixture
    def scan(self, client):
        def post(user, code, **body):
            return client.post(f"/tickets/{code}/check-in", json=body, headers=user.headers)

        return post

    def test_lets_people_in_and_undoes_it(self, client, door, mine, scan):
        assert scan(door, mine["tickets"]).json["ticket"]["status"] == "used"
        undone = client.delete(f"/tickets/{mine['tickets']}/check-in", headers=door.headers)
        assert undone.json["ticket"]["status"] == "valid"

    def test_sees_the_ticket_by_its_code(self, client, door, mine, other):
        codes = mine["tickets"], other["tickets"]
        assert [client.get(f"/tickets/{it}", headers=door.headers).status_code for it in codes] == [200, 404]

    def test_ticket_of_another_event_is_not_there(self, door, other, scan):
        assert scan(door, other["tickets"]).status_code == 404

    def test_shown_at_his_door_it_is_told_to_be_for_another(self, door, mine, other, scan):
        answer = scan(door, other["tickets"], event_id=mine["events"])
        assert (answer.status_code, answer.json["reason"]) == (409, "wrong_event")

    def test_door_that_is_not_his_opens_nothing(self, door, other, scan):
        assert scan(door, other["tickets"], event_id=other["events"]).status_code == 404

    @pytest.mark.parametrize("event_id", [True, "1", 1.5, 2**31, -1, None])
    def test_nonsense_of_an_event_is_no_door(self, door, other, scan, event_id):
        assert scan(door, other["tickets"], event_id=event_id).status_code == 404

    def test_removal_counts_between_two_scans(self, client, admin, door, mine, scan, get_order):
        first, second = get_order({"code": mine["orders"]})["tickets"]
        assert scan(door, first["code"]).status_code == 200
        client.delete(f"/events/{mine['events']}/staff/{door.id}", headers=admin.headers)
        assert scan(door, second["code"]).status_code == 403
        assert scan(door, second["code"], event_id=mine["events"]).status_code == 403


class TestDrafts:
    PATHS = ["/events/{id}", "/events/{id}/ticket-types", "/events/{id}/calendar", "/events/{id}/attendees"]
    PATHS += ["/events/{id}/sales", "/events/{id}/staff", "/ticket-types/{type}"]

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("role, status", [("manager", 200), ("door", 404)])
    def test_is_there_for_its_manager_alone(
        self, client, make_user, appoint, make_event, make_ticket_type, path, role, status
    ):
        id = make_event(status="draft")
        path = path.format(id=id, type=make_ticket_type(id))
        user = appoint(make_user(), id, role)
        assert client.get(path, headers=user.headers).status_code == status

    def test_manager_publishes_it(self, client, make_user, appoint, make_event):
        id = make_event(status="draft")
        user = appoint(make_user(), id, "manager")
        changed = client.patch(f"/events/{id}", json={"status": "published"}, headers=user.headers)
        assert changed.json["status"] == "published"


class TestAppointing:
    @pytest.fixture
    def put(self, client, mine):
        def put(who, whom, role="door", event_id=mine["events"]):
            return client.put(f"/events/{event_id}/staff/{whom.id}", json={"role": role}, headers=who.headers)

        return put

    @pytest.fixture
    def delete(self, client, mine):
        return lambda who, whom: client.delete(f"/events/{mine['events']}/staff/{whom.id}", headers=who.headers)

    @pytest.fixture
    def listed(self, client, admin, mine):
        def listed():
            found = client.get(f"/events/{mine['events']}/staff", headers=admin.headers).json
            return [(it["user"]["id"], it["role"]) for it in found]

        return listed

    def test_answers_whom_and_as_what(self, put, admin, make_user):
        user = make_user(name="Dora")
        answer = put(admin, user)
        assert (answer.status_code, answer.json) == (200, {"user": {"id": user.id, "name": "Dora"}, "role": "door"})

    def test_again_changes_the_role(self, put, admin, make_user, listed):
        user = make_user()
        assert [put(admin, user, role).json["role"] for role in ("door", "manager")] == ["door", "manager"]
        assert listed() == [(user.id, "manager")]

    def test_manager_appoints_door(self, put, delete, manager, make_user, listed):
        user = make_user()
        assert put(manager, user).status_code == 200
        assert listed() == [(manager.id, "manager"), (user.id, "door")]
        assert delete(manager, user).status_code == 204
        assert listed() == [(manager.id, "manager")]

    def test_manager_makes_no_manager_nor_ends_one(self, put, delete, appoint, manager, make_user, mine, listed):
        other = appoint(make_user(), mine["events"], "manager")
        before = listed()
        answers = [put(manager, make_user(), "manager"), put(manager, other, "door"), delete(manager, other)]
        assert [answer.status_code for answer in answers] == [403] * 3
        assert listed() == before

    @pytest.mark.parametrize("body", [{}, {"role": "admin"}, {"role": None}, {"role": ["door"]}])
    def test_role_must_be_one(self, client, admin, mine, body):
        answer = client.put(f"/events/{mine['events']}/staff/{admin.id}", json=body, headers=admin.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["role"])

    @pytest.mark.parametrize("who", ["admin", "manager"])
    def test_user_who_is_not_there(self, client, request, mine, who):
        path, headers = f"/events/{mine['events']}/staff/2147483647", request.getfixturevalue(who).headers
        assert client.put(path, json={"role": "door"}, headers=headers).status_code == 404
        assert client.delete(path, headers=headers).status_code == 404

    def test_event_that_is_not_there(self, client, put, admin):
        assert put(admin, admin, event_id=2147483647).status_code == 404
        assert client.get("/events/2147483647/staff", headers=admin.headers).status_code == 404

    def test_list_has_pages(self, client, admin, appoint, make_user, mine):
        users = [appoint(make_user(), mine["events"], "door") for _ in range(3)]
        first = client.get(f"/events/{mine['events']}/staff?limit=2", headers=admin.headers)
        rest = client.get(first.headers["Link"].split(">")[0][1:], headers=admin.headers)
        assert [it["user"]["id"] for it in first.json + rest.json] == [user.id for user in users]

    def test_leaves_with_its_event(self, client, admin, put, make_user, make_event, count_rows):
        id = make_event()
        put(admin, make_user(), event_id=id)
        assert client.delete(f"/events/{id}", headers=admin.headers).status_code == 204
        assert count_rows(Appointment) == 0

    def test_leaves_with_its_account(self, client, admin, door, put, count_rows):
        assert client.delete(f"/users/{door.id}", headers=admin.headers).status_code == 204
        assert count_rows(Appointment) == 0
        assert put(admin, door).status_code == 404


class TestRaces:
    def test_account_that_is_deleted_meanwhile(self, app, admin, make_user, mine, before_first_write, count_rows):
        user = make_user()
        rival = app.test_client()
        before_first_write(lambda: rival.delete(f"/users/{user.id}", headers=admin.headers))
        path = f"/events/{mine['events']}/staff/{user.id}"
        answer = app.test_client().put(path, json={"role": "door"}, headers=admin.headers)
        assert (answer.status_code, count_rows(Appointment)) == (404, 0)

    def test_event_that_is_deleted_meanwhile(self, app, admin, make_user, make_event, before_first_write, count_rows):
        id = make_event()
        rival = app.test_client()
        before_first_write(lambda: rival.delete(f"/events/{id}", headers=admin.headers))
        path = f"/events/{id}/staff/{make_user().id}"
        answer = app.test_client().put(path, json={"role": "door"}, headers=admin.headers)
        assert (answer.status_code, count_rows(Appointment)) == (404, 0)

    def test_two_who_appoint_one_at_once(self, app, admin, make_user, mine, count_rows):
        path = f"/events/{mine['events']}/staff/{make_user().id}"
        bodies = [{"role": "door"}, {"role": "manager"}] * 3
        answers = together(app, *(("PUT", path, body, admin.headers) for body in bodies))
        assert ([answer.status_code for answer in answers], count_rows(Appointment)) == ([200] * 6, 1)

    def test_manager_takes_no_door_that_is_made_manager_meanwhile(
        self, app, admin, manager, make_user, appoint, mine, before_first_write
    ):
        path = f"/events/{mine['events']}/staff/{appoint(make_user(), mine['events'], 'door').id}"
        rival = app.test_client()
        before_first_write(lambda: rival.put(path, json={"role": "manager"}, headers=admin.headers))
        assert app.test_client().delete(path, headers=manager.headers).status_code == 403


class TestMyEvents:
    def listed(self, client, user):
        return [(it["id"], it["role"]) for it in client.get("/me/events", headers=user.headers).json]

    def test_are_those_with_an_appointment(self, client, appoint, door, mine, other):
        assert self.listed(client, door) == [(mine["events"], "door")]
        appoint(door, other["events"], "manager")
        assert sorted(self.listed(client, door)) == [(mine["events"], "door"), (other["events"], "manager")]

    def test_draft_is_for_its_manager(self, client, appoint, make_user, make_event):
        user, id = make_user(), make_event(status="draft")
        appoint(user, id, "door")
        assert self.listed(client, user) == []
        appoint(user, id, "manager")
        assert self.listed(client, user) == [(id, "manager")]

    def test_come_in_pages(self, client, appoint, make_user, make_event):
        user = make_user()
        ids = [make_event() for _ in range(3)]
        for id in ids:
            appoint(user, id, "door")
        first = client.get("/me/events?limit=2", headers=user.headers)
        rest = client.get(first.headers["Link"].split(">")[0][1:], headers=user.headers)
        assert [it["id"] for it in first.json + rest.json] == ids[::-1]

    def test_show_what_an_event_shows(self, client, door, mine):
        [event] = client.get("/me/events", headers=door.headers).json
        shown = client.get(f"/events/{mine['events']}").json
        del shown["ticket_types"]
        assert event == {**shown, "role": "door"}


class TestStatements:
    def test_visitor_and_buyer_cost_nothing_more(self, client, statements, mine, buyer):
        paths = [f"/events/{mine['events']}", "/orders", f"/tickets/{mine['tickets']}"]
        sent = [statements(lambda path=path: client.get(path, headers=buyer.headers)) for path in paths]
        assert "event_staff" not in str(sent)


@pytest.mark.parametrize("role", ["door", "manager"])
def test_account_that_is_closed_may_nothing(client, admin, request, mine, role):
    user = request.getfixturevalue(role)
    client.patch(f"/users/{user.id}", json={"active": False}, headers=admin.headers)
    assert client.get(f"/events/{mine['events']}/attendees", headers=user.headers).status_code == 401


def test_buyers_of_the_event_stay_buyers(client, buyer, mine, appoint):
    """An appointment adds to what one may as a buyer."""
    appoint(buyer, mine["events"], "door")
    token = log_in(client, buyer.email).json["access_token"]
    body = order_body((mine["ticket-types"], 1))
    assert client.post("/orders", json=body, headers=bearer(token)).status_code == 201
    assert client.get(f"/orders/{mine['orders']}", headers=bearer(token)).status_code == 200
