"""Waiting lists: who waits comes first, whoever passes by, and nobody has to be there to serve him."""

from datetime import UTC, datetime, timedelta
from threading import Event as Stop

import pytest

from models import Event, Order, TicketType, WaitingEntry, db
from routes.jobs.waiting import serve_waiting
from routes.selling.inventory import check_inventory

from .conftest import PASSWORD, plain_text, refusal


@pytest.fixture
def wait(app, client):
    """Wait for places of a ticket type."""

    def post(user, ticket_type_id, quantity=1):
        with app.app_context():
            event_id = db.session.get_one(TicketType, ticket_type_id).event_id
        body = {"ticket_type_id": ticket_type_id, "quantity": quantity}
        return client.post(f"/events/{event_id}/waiting", json=body, headers=user.headers)

    return post


@pytest.fixture
def entries(client):
    """What a user waits for, newest first. It is a look, which serves."""
    return lambda user: client.get("/me/waiting", headers=user.headers).get_json()


@pytest.fixture
def stored(app):
    """The entries as they are stored, which nobody looks at: states by the order in which they came."""

    def read():
        with app.app_context():
            return list(db.session.scalars(db.select(WaitingEntry.state).order_by(WaitingEntry.id)))

    return read


@pytest.fixture
def leave(client):
    return lambda user, entry: client.delete(f"/waiting/{entry['id']}", headers=user.headers)


@pytest.fixture
def sold_out(buyer, make_ticket_type, place):
    """A ticket type with places for some, all of them held: its id, and the orders."""

    def make(places=1, **fields):
        id = make_ticket_type(quantity=places, **fields)
        orders = [place(buyer, id).get_json() for _ in range(places)]
        return id, orders

    return make


@pytest.fixture
def people(make_user):
    return [make_user() for _ in range(3)]


@pytest.fixture(autouse=True)
def counts_agree(app):
    yield
    with app.app_context():
        assert check_inventory() == []


class TestJoining:
    def test_makes_an_entry(self, sold_out, wait, people, client):
        id, _ = sold_out()
        response = wait(people[0], id)
        entry = response.get_json()
        assert response.status_code == 201
        assert (entry["status"], entry["quantity"], entry["position"], entry["offer"]) == ("waiting", 1, 1, None)
        assert entry["ticket_type"] == {"id": id, "name": "Regular"}
        assert wait(people[1], id).get_json()["position"] == 2
        assert client.get("/me/waiting", headers=people[0].headers).get_json() == [entry]

    def test_what_can_be_bought_is_not_waited_for(self, make_ticket_type, wait, buyer):
        response = wait(buyer, make_ticket_type(quantity=2), 2)
        assert refusal(response) == (409, "available")
        assert response.get_json()["available"] == 2

    def test_more_than_there_is_can_be(self, make_ticket_type, wait, buyer):
        assert wait(buyer, make_ticket_type(quantity=2), 3).status_code == 201

    def test_once_a_ticket_type(self, sold_out, wait, buyer):
        id, _ = sold_out()
        assert wait(buyer, id).status_code == 201
        assert refusal(wait(buyer, id)) == (409, "already_waiting")

    def test_after_the_end_of_sales(self, sold_out, wait, people, app):
        id, _ = sold_out()
        with app.app_context():
            db.session.get_one(TicketType, id).sales_end = datetime.now(UTC) - timedelta(seconds=1)
            db.session.commit()
        assert refusal(wait(people[0], id)) == (409, "sales_closed")

    def test_for_a_canceled_event(self, sold_out, wait, people, cancel_event):
        id, [order] = sold_out()
        cancel_event(order["event"]["id"])
        assert refusal(wait(people[0], id)) == (409, "not_on_sale")

    def test_no_more_than_the_rules_let_one_have(self, sold_out, wait, people):
        id, _ = sold_out(max_per_order=3, min_per_order=1)
        assert refusal(wait(people[0], id, 4)) == (409, "max_per_order")

    @pytest.mark.parametrize(
        "body, field",
        [
            ({"quantity": 1}, "ticket_type_id"),
            ({"ticket_type_id": 1}, "quantity"),
            ({"ticket_type_id": 1, "quantity": 0}, "quantity"),
            ({"ticket_type_id": 1, "quantity": "x"}, "quantity"),
            ({"ticket_type_id": 2**40, "quantity": 1}, "ticket_type_id"),
        ],
    )
    def test_names_the_field(self, client, buyer, body, field):
        response = client.post("/events/1/waiting", json=body, headers=buyer.headers)
        assert (response.status_code, set(response.get_json()["message"])) == (400, {field})

    def test_what_is_not_there(self, client, buyer, make_event, make_ticket_type, sold_out):
        other, hidden = make_event(), make_ticket_type(quantity=0, hidden=True)
        id, [order] = sold_out()
        for event, kind in ((other, id), (2**31 - 1, id), (order["event"]["id"], hidden), (other, 2**31 - 1)):
            body = {"ticket_type_id": kind, "quantity": 1}
            assert client.post(f"/events/{event}/waiting", json=body, headers=buyer.headers).status_code == 404

    def test_hidden_in_its_own_event(self, wait, buyer, make_ticket_type):
        assert wait(buyer, make_ticket_type(quantity=0, hidden=True)).status_code == 404


class TestPassersBy:
    def test_get_nothing_that_is_waited_for(self, sold_out, wait, people, place, cancel, app):
        id, [order] = sold_out()
        wait(people[0], id)
        with app.app_context():  # freed, and nobody has served yet
            db.session.execute(db.update(TicketType).values(quantity=2))
            db.session.commit()
        response = place(people[1], id)
        assert refusal(response) == (409, "sold_out")
        assert response.get_json().items() >= {"available": 0, "waiting_list": True}.items()

    def test_get_what_is_beyond(self, make_ticket_type, wait, people, place, app):
        id = make_ticket_type(quantity=0)
        wait(people[0], id, 2)
        with app.app_context():
            db.session.execute(db.update(TicketType).values(quantity=3, held=0))
            db.session.commit()
        assert place(people[1], id).status_code == 201
        assert refusal(place(people[1], id)) == (409, "sold_out")

    def test_get_what_is_too_few_for_every_group(self, make_ticket_type, wait, people, place, client):
        id = make_ticket_type(quantity=1)
        wait(people[0], id, 2)
        shown = client.get(f"/ticket-types/{id}").get_json()
        assert (shown["available"], shown["state"]) == (1, "on_sale")
        assert place(people[1], id).status_code == 201
        assert place(people[1], id).get_json()["waiting_list"] is True

    def test_see_no_place_that_is_waited_for(self, sold_out, wait, people, client, app):
        id, [order] = sold_out()
        wait(people[0], id)
        with app.app_context():
            db.session.execute(db.update(TicketType).values(quantity=2))
            db.session.commit()
        event = order["event"]["id"]
        shown = client.get(f"/ticket-types/{id}").get_json()
        listed = client.get(f"/events/{event}/ticket-types").get_json()[0]
        polled = client.get(f"/events/{event}/availability").get_json()[0]
        assert [(it["available"], it["state"]) for it in (shown, listed, polled)] == [(0, "sold_out")] * 3

    def test_who_wants_several_types_gets_none_that_is_waited_for(self, sold_out, wait, people, place_lines, app):
        id, [order] = sold_out()
        wait(people[0], id)
        with app.app_context():
            kind = db.session.get_one(TicketType, id)
            db.session.add(TicketType(event_id=kind.event_id, name="Other", price=1, quantity=5))
            kind.quantity = 2
            db.session.commit()
            other = db.session.scalar(db.select(TicketType.id).where(TicketType.name == "Other"))
        assert refusal(place_lines((id, 1), (other, 1), user=people[1])) == (409, "sold_out")

    def test_late_payment_buys_nothing_that_is_waited_for(self, sold_out, wait, people, lapse, pay, place, stored):
        id, [order] = sold_out()
        wait(people[0], id)
        lapse(order)
        assert pay(order).get_json()["status"] == "refund_due"
        assert stored() == ["offered"]

    def test_own_hold_is_paid_whoever_waits(self, sold_out, wait, people, pay):
        id, [order] = sold_out()
        wait(people[0], id)
        assert pay(order).get_json()["status"] == "confirmed"

    def test_of_a_pool(self, make_event, client, admin, wait, people, place, buyer):
        event = make_event()
        types = [
            client.post(
                f"/events/{event}/ticket-types", json={"name": name, "price": 1, "quantity": 5}, headers=admin.headers
            ).get_json()["id"]
            for name in ("Adult", "Child")
        ]
        body = {"name": "Hall", "quantity": 1, "ticket_types": types}
        pool = client.post(f"/events/{event}/pools", json=body, headers=admin.headers).get_json()
        order = place(buyer, types[0]).get_json()
        assert wait(people[0], types[1]).status_code == 201
        response = place(people[1], types[1])
        assert response.get_json()["waiting_list"] is True
        client.patch(f"/pools/{pool['id']}", json={"quantity": 2}, headers=admin.headers)
        [entry] = client.get("/me/waiting", headers=people[0].headers).get_json()
        assert entry["status"] == "offered"
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        assert place(people[1], types[1]).status_code == 201


class TestOffer:
    def test_is_a_pending_order_for_twelve_hours(
        self, sold_out, wait, people, cancel, stored, client, buyer, get_order
    ):
        id, [order] = sold_out()
        wait(people[0], id)
        cancel(order)
        assert stored() == ["offered"]
        [entry] = client.get("/me/waiting", headers=people[0].headers).get_json()
        assert (entry["status"], entry["position"]) == ("offered", None)
        offer = get_order({"code": entry["offer"]}, people[0])
        assert (offer["status"], offer["total"], offer["items"][0]["quantity"]) == ("pending", 2500, 1)
        hours = datetime.fromisoformat(offer["expires_at"]) - datetime.fromisoformat(offer["created_at"])
        assert hours == timedelta(hours=12)

    def test_ends_with_the_sale(self, sold_out, wait, people, cancel, app, entries, get_order):
        id, [order] = sold_out()
        end = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
        with app.app_context():
            db.session.get_one(TicketType, id).sales_end = end
            db.session.commit()
        wait(people[0], id)
        cancel(order)
        offer = get_order({"code": entries(people[0])[0]["offer"]}, people[0])
        assert datetime.fromisoformat(offer["expires_at"]) == end

    def test_is_mailed(self, shop, sold_out, wait, people, cancel, send_mails):
        id, [order] = sold_out()
        wait(people[0], id)
        cancel(order)
        [mail] = send_mails()
        assert people[0].email in mail["To"]
        assert "Tickets for Concert are free for you" in mail["Subject"]
        assert "25.00" in plain_text(mail)

    def test_goes_to_who_came_first(self, sold_out, wait, people, cancel, stored):
        id, orders = sold_out(2)
        for person in people:
            wait(person, id)
        cancel(orders[0])
        assert stored() == ["offered", "waiting", "waiting"]
        cancel(orders[1])
        assert stored() == ["offered", "offered", "waiting"]

    def test_passes_over_a_group_that_does_not_fit_and_keeps_its_place(self, sold_out, wait, people, cancel, stored):
        id, orders = sold_out(3)
        wait(people[0], id, 2)
        wait(people[1], id)
        cancel(orders[0])
        assert stored() == ["waiting", "offered"]
        cancel(orders[1])
        assert stored() == ["waiting", "offered"]
        cancel(orders[2])
        assert stored() == ["offered", "offered"]

    def test_bought(self, sold_out, wait, people, cancel, entries, pay):
        id, [order] = sold_out()
        wait(people[0], id)
        cancel(order)
        offer = entries(people[0])[0]["offer"]
        pay({"code": offer, "total": 2500})
        assert entries(people[0])[0]["status"] == "bought"

    def test_bought_and_refunded_goes_to_the_next_and_stays_bought(
        self, sold_out, wait, people, cancel, entries, pay, refund, stored
    ):
        id, [order] = sold_out()
        wait(people[0], id)
        wait(people[1], id)
        cancel(order)
        offer = {"code": entries(people[0])[0]["offer"], "total": 2500}
        pay(offer)
        refund(offer)
        assert [entries(person)[0]["status"] for person in people[:2]] == ["bought", "offered"]

    def test_lapses_with_nothing_running_and_goes_on_at_the_next_look(
        self, sold_out, wait, people, cancel, entries, lapse, place, stored
    ):
        id, [order] = sold_out()
        for person in people[:2]:
            wait(person, id)
        cancel(order)
        lapse({"code": entries(people[0])[0]["offer"]})
        assert stored() == ["offered", "waiting"]
        assert place(people[2], id).get_json()["waiting_list"] is True
        assert stored() == ["offered", "offered"]
        assert [entries(person)[0]["status"] for person in people[:2]] == ["lapsed", "offered"]

    def test_after_it_lapsed_one_waits_at_the_end(self, sold_out, wait, people, cancel, entries, lapse):
        id, [order] = sold_out()
        for person in people[:2]:
            wait(person, id)
        cancel(order)
        lapse({"code": entries(people[0])[0]["offer"]})
        assert wait(people[0], id).get_json()["position"] in (1, 2)
        assert [it["status"] for it in entries(people[0])] == ["waiting", "lapsed"]
        assert entries(people[1])[0]["status"] == "offered"

    def test_does_not_count_for_the_most_pending_orders(
        self, app, sold_out, wait, people, cancel, place, entries, make_ticket_type
    ):
        id, [order] = sold_out()
        wait(people[0], id)
        cancel(order)
        app.config["MAX_PENDING_ORDERS"] = 1
        other = make_ticket_type()
        assert place(people[0], other).status_code == 201
        assert refusal(place(people[0], other)) == (409, "too_many_pending")

    def test_of_what_costs_nothing_is_paid_at_once(
        self, wait, people, cancel, entries, make_ticket_type, place, buyer, client
    ):
        id = make_ticket_type(quantity=1, price=0)
        order = place(buyer, id).get_json()
        wait(people[0], id)
        cancel(order)
        assert entries(people[0])[0]["status"] == "bought"
        assert len(client.get("/tickets", headers=people[0].headers).get_json()) == 1

    def test_not_to_who_has_his_share_by_now(self, wait, people, make_ticket_type, place, buyer, cancel, entries):
        id = make_ticket_type(quantity=2, max_per_buyer=1)
        own = place(people[0], id).get_json()
        assert refusal(wait(people[0], id)) == (409, "max_per_buyer")
        cancel(own, people[0])

    def test_more_places_are_offered(self, sold_out, wait, people, client, admin, stored):
        id, _ = sold_out()
        for person in people:
            wait(person, id)
        client.patch(f"/ticket-types/{id}", json={"quantity": 3}, headers=admin.headers)
        assert stored() == ["offered", "offered", "waiting"]

    def test_is_made_by_the_thread(self, app, sold_out, wait, people, lapse, stored):
        id, [order] = sold_out()
        wait(people[0], id)
        lapse(order)
        assert stored() == ["waiting"]
        with app.app_context():
            serve_waiting(Stop())
        assert stored() == ["offered"]

    def test_not_once_the_thread_is_stopped(self, app, sold_out, wait, people, lapse, stored):
        id, [order] = sold_out()
        wait(people[0], id)
        lapse(order)
        stop = Stop()
        stop.set()
        with app.app_context():
            serve_waiting(stop)
        assert stored() == ["waiting"]


class TestLeaving:
    def test_takes_one_off_the_list(self, sold_out, wait, people, leave, entries, place, cancel):
        id, [order] = sold_out()
        entry = wait(people[0], id).get_json()
        assert leave(people[0], entry).status_code == 204
        assert leave(people[0], entry).status_code == 404
        assert entries(people[0])[0]["status"] == "left"
        cancel(order)
        assert place(people[1], id).status_code == 201

    def test_gives_an_offer_to_the_next_at_once(self, sold_out, wait, people, leave, cancel, stored, entries):
        id, [order] = sold_out()
        first = wait(people[0], id).get_json()
        wait(people[1], id)
        cancel(order)
        assert leave(people[0], first).status_code == 204
        assert stored() == ["offered", "offered"]
        assert [entries(person)[0]["status"] for person in people[:2]] == ["left", "offered"]

    def test_lets_who_comes_behind_a_group_have_what_is_free(self, sold_out, wait, people, leave, cancel, stored):
        id, orders = sold_out(2)
        cancel(orders[0])
        group = wait(people[0], id, 2).get_json()
        assert leave(people[0], group).status_code == 204
        assert stored() == ["left"]

    def test_is_for_its_owner(self, sold_out, wait, people, leave, admin):
        id, _ = sold_out()
        entry = wait(people[0], id).get_json()
        assert [leave(user, entry).status_code for user in (people[1], admin)] == [404, 404]

    def test_one_can_come_again(self, sold_out, wait, people, leave, entries):
        id, _ = sold_out()
        leave(people[0], wait(people[0], id).get_json())
        assert wait(people[0], id).status_code == 201
        assert [it["status"] for it in entries(people[0])] == ["waiting", "left"]


class TestEnd:
    def test_canceled_event_closes_it(self, sold_out, wait, people, cancel_event, entries):
        id, [order] = sold_out()
        wait(people[0], id)
        cancel_event(order["event"]["id"])
        assert entries(people[0])[0]["status"] == "closed"

    def test_type_that_is_over_makes_no_offer(self, app, sold_out, wait, people, cancel, entries, stored, get_order):
        id, [order] = sold_out()
        wait(people[0], id)
        with app.app_context():
            db.session.get_one(TicketType, id).sales_end = datetime.now(UTC) - timedelta(seconds=1)
            db.session.commit()
        cancel(order)
        assert entries(people[0])[0]["status"] == "closed"
        assert stored() == ["closed"]
        with app.app_context():
            assert db.session.get_one(TicketType, id).waited == 0

    def test_deleted_account_waits_no_longer(self, sold_out, wait, people, cancel, client, stored):
        id, [order] = sold_out()
        for person in people[:2]:
            wait(person, id)
        client.delete("/me", json={"current_password": PASSWORD}, headers=people[0].headers)
        assert stored() == ["waiting"]
        cancel(order)
        assert stored() == ["offered"]

    def test_deleted_account_gives_its_offer_on(self, sold_out, wait, people, cancel, client, entries):
        id, [order] = sold_out()
        for person in people[:2]:
            wait(person, id)
        cancel(order)
        assert client.delete("/me", json={"current_password": PASSWORD}, headers=people[0].headers).status_code == 204
        assert entries(people[1])[0]["status"] == "offered"

    def test_closed_account_is_passed_over(self, sold_out, wait, people, cancel, client, admin, entries, stored):
        id, [order] = sold_out()
        for person in people[:2]:
            wait(person, id)
        client.patch(f"/users/{people[0].id}", json={"active": False}, headers=admin.headers)
        cancel(order)
        assert stored() == ["closed", "offered"]

    def test_event_that_nobody_bought_for_can_be_deleted(self, client, admin, wait, people, make_ticket_type, app):
        id = make_ticket_type(quantity=0)
        wait(people[0], id)
        with app.app_context():
            event = db.session.scalar(db.select(Event.id).join(TicketType).where(TicketType.id == id))
        assert client.delete(f"/events/{event}", headers=admin.headers).status_code == 204
        with app.app_context():
            assert db.session.scalar(db.select(db.func.count()).select_from(WaitingEntry)) == 0


class TestListOfEvent:
    def test_is_in_the_order_in_which_they_came(self, sold_out, wait, people, client, admin):
        id, [order] = sold_out()
        for person in people:
            wait(person, id)
        path = f"/events/{order['event']['id']}/waiting"
        rows = client.get(path, headers=admin.headers).get_json()
        assert [(it["user"]["id"], it["position"]) for it in rows] == [(it.id, n + 1) for n, it in enumerate(people)]
        assert "user" not in client.get("/me/waiting", headers=people[0].headers).get_json()[0]

    def test_takes_no_more_statements_for_more(self, sold_out, wait, make_user, client, admin, statements):
        id, [order] = sold_out()
        path = f"/events/{order['event']['id']}/waiting"
        counts = []
        for _ in range(2):
            for _ in range(2):
                wait(make_user(), id)
            counts.append(len(statements(lambda: client.get(path, headers=admin.headers))))
        assert counts[0] == counts[1]

    def test_counts_are_in_the_order(self, app, sold_out, wait, people):
        id, _ = sold_out()
        wait(people[0], id, 3)
        wait(people[1], id, 2)
        with app.app_context():
            kind = db.session.get_one(TicketType, id)
            assert (kind.waited, kind.waited_least) == (5, 2)
            assert not db.session.scalar(db.select(Order.offered).limit(1))
