"""How an order comes to be, by one statement and in steps: both judge alike."""

import re
from datetime import UTC, datetime, timedelta
from functools import reduce
from threading import Event
from types import SimpleNamespace

import pytest

from models import Missing, Order, OrderLine, Refused, TicketType, autocommit_connection, db
from routes.jobs.lapsing import lapse_in_steps, lapse_orders
from routes.selling import placing
from routes.selling.places import events_with_lapsed
from routes.selling.placing import PLACE_IN_ONE_STATEMENT, place_in_one_statement
from routes.selling.placing import place as place_in_steps

from .conftest import ON_POSTGRESQL, refusal

PAST, FUTURE = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
OVER = {"starts_at": PAST - timedelta(1), "ends_at": PAST}


def case(reason, type=None, *, event=None, config=None, before=(), quantity=1, expected=None, paid=False):
    values = SimpleNamespace(**locals())
    names = {repr(PAST): "past", repr(FUTURE): "future", repr(OVER["starts_at"]): "long past"}
    what = reduce(
        lambda said, time: said.replace(time, names[time]), names, f"{reason} {type or event or config or ''}"
    )
    return pytest.param(values, id=what)  # the same in each process of a run


REFUSED = [
    case("sold_out", {"quantity": 1}, quantity=2),
    case("sold_out", {"quantity": 0}),
    case("sales_closed", {"sales_start": FUTURE}),
    case("sales_closed", {"sales_end": PAST}),
    case("sales_closed", event=OVER),
    case("sales_closed", {"sales_end": FUTURE}, event=OVER),
    case("not_on_sale", event={"status": "canceled"}),
    case("max_per_order", {"max_per_order": 2}, quantity=3),
    case("max_per_order", {"max_per_order": 3}, quantity=2, before=[2]),
    case("max_per_order", {"max_per_order": 3}, quantity=1, before=[2, 1]),
    case("min_per_order", {"min_per_order": 2}, quantity=1),
    case("max_per_buyer", {"max_per_buyer": 1}, quantity=2),
    case("max_per_buyer", {"max_per_buyer": 3}, quantity=2, before=[2]),
    case("max_per_buyer", {"max_per_buyer": 3}, quantity=2, before=[2], paid=True),
    case("max_per_buyer", {"max_per_buyer": 3, "price": 0}, quantity=2, before=[2]),
    case("too_many_tickets", config={"MAX_TICKETS_PER_ORDER": 2}, quantity=3),
    case("price_changed", quantity=2, expected=2500),
    case("too_many_pending", config={"MAX_PENDING_ORDERS": 1}, before=[1]),
]
ALLOWED = [
    case("last places", {"quantity": 2}, quantity=2),
    case("on sale", {"sales_start": PAST, "sales_end": FUTURE}),
    case("max_per_order", {"max_per_order": 3}, quantity=3),
    case("max_per_order", {"max_per_order": 3}, quantity=1, before=[2]),
    case("max_per_order", {"max_per_order": 3}, quantity=3, before=[2], paid=True),
    case("min_per_order", {"min_per_order": 2}, quantity=2),
    case("max_per_buyer", {"max_per_buyer": 3}, quantity=1, before=[2]),
    case("max_per_buyer", {"max_per_buyer": 3}, quantity=1, before=[2], paid=True),
    case("too_many_tickets", config={"MAX_TICKETS_PER_ORDER": 2}, quantity=2),
    case("price_changed", quantity=2, expected=5000),
    case("too_many_pending", config={"MAX_PENDING_ORDERS": 2}, before=[1]),
]


@pytest.fixture
def prepared(app, buyer, make_event, make_ticket_type, place, pay):
    """Put on sale what a case says, and order what came before; the arguments of the order to be placed."""

    def prepare(case):
        id = make_ticket_type(make_event(**case.event or {}), **case.type or {})
        for quantity in case.before:
            order = place(buyer, id, quantity).get_json()
            if case.paid:
                pay(order)
        app.config.update(case.config or {})
        return buyer.id, [(id, case.quantity)], case.expected

    return prepare


class TestBothWays:
    @pytest.mark.parametrize("case", REFUSED)
    def test_refuse_alike(self, prepared, context, case):
        order = prepared(case)
        assert place_in_one_statement(*order) is None
        with pytest.raises(Refused) as refusal:
            place_in_steps(*order)
        assert refusal.value.reason == case.reason

    @pytest.mark.parametrize("case", ALLOWED)
    def test_steps_place_what_is_just_allowed(self, prepared, context, case):
        assert place_in_steps(*prepared(case))["status"] == "pending"

    @ON_POSTGRESQL
    @pytest.mark.parametrize("case", ALLOWED)
    def test_one_statement_places_what_is_just_allowed(self, prepared, context, case):
        assert place_in_one_statement(*prepared(case))["status"] == "pending"

    def test_what_is_not_there_is_found_by_neither(self, buyer, make_event, make_ticket_type, context):
        for id in (make_ticket_type(make_event(status="draft")), 2**31 - 1):
            assert place_in_one_statement(buyer.id, [(id, 1)]) is None
            with pytest.raises(Missing):
                place_in_steps(buyer.id, [(id, 1)])


@ON_POSTGRESQL
class TestOneStatement:
    def test_is_one_beside_the_tokens(self, buyer, make_ticket_type, place, statements):
        id = make_ticket_type()
        place(buyer, id)  # whose connections are told once what they need
        sent = statements(lambda: place(buyer, id, 2))
        names = [re.sub(r" ?\(.*", "", statement) for statement in sent]
        assert names == ["EXECUTE current_user_of_token", "EXECUTE place"]

    def test_begins_with_the_buyers_own_orders(self, buyer, make_ticket_type, context):
        """Also while nobody has counted the rows: those indexes lead through all that was ever sold."""
        names = ["quantity", "code", "user_id", "hold", "ticket_type_id", "expected_total", "max_pending"]
        values = dict.fromkeys(names, 1) | {"code": "C", "user_id": buyer.id, "expected_total": None}
        with autocommit_connection() as connection:
            PLACE_IN_ONE_STATEMENT.execute(connection, values | {"ticket_type_id": make_ticket_type()})
            plan = connection.execute(db.text(f"EXPLAIN {PLACE_IN_ONE_STATEMENT.call}"), values).scalars().all()
        assert not re.findall("ix_orders_in_state|ix_orders_event|_ticket_type_id on", "".join(plan))

    def test_answers_what_get_answers(self, client, buyer, make_ticket_type, context):
        order = place_in_one_statement(buyer.id, [(make_ticket_type(), 2)])
        path = f"/orders/{order['code']}"
        assert client.get(path, headers=buyer.headers).get_json() == context.json.loads(context.json.dumps(order))

    def test_answers_what_the_steps_answer(self, buyer, make_ticket_type, context):
        id = make_ticket_type()
        one, two = place_in_one_statement(buyer.id, [(id, 2)]), place_in_steps(buyer.id, [(id, 2)])
        chance = dict.fromkeys(("code", "created_at", "expires_at"))
        assert one | chance == two | chance

    def test_is_taken_again_after_the_holds_that_lapsed(self, buyer, make_ticket_type, place, lapse, statements):
        id = make_ticket_type(quantity=2)
        lapse(place(buyer, id, 2).get_json())
        place(buyer, id)
        assert len(statements(lambda: place(buyer, id))) == 2


class TestExpectedTotal:
    @pytest.mark.parametrize("prices", [[2500], [2500, 1000], [0]])
    def test_is_said_when_it_is_another(self, place_lines, make_event, make_ticket_type, prices):
        event_id = make_event()
        lines = [(make_ticket_type(event_id, price=price), 1) for price in prices]
        answer = place_lines(*lines, expected_total=1)
        facts = {name: answer.get_json()[name] for name in ("reason", "total")}
        assert (answer.status_code, facts) == (409, {"reason": "price_changed", "total": sum(prices)})

    @pytest.mark.parametrize("wrong", [-1, 1.0, "5000", None, True, [], 2**53])
    def test_bad_one_is_refused(self, place_lines, make_ticket_type, wrong):
        answer = place_lines((make_ticket_type(), 2), expected_total=wrong)
        assert (answer.status_code, list(answer.get_json()["message"])) == (400, ["expected_total"])


class TestFactsOfRefusals:
    @pytest.mark.parametrize(
        ("type", "quantity", "facts"),
        [
            ({"min_per_order": 3}, 2, {"reason": "min_per_order", "min_per_order": 3}),
            ({"max_per_buyer": 3}, 4, {"reason": "max_per_buyer", "left": 3}),
        ],
    )
    def test_are_what_the_client_needs(self, buyer, make_ticket_type, place, type, quantity, facts):
        id = make_ticket_type(**type)
        answer = place(buyer, id, quantity).get_json()
        assert answer == facts | {"ticket_type_id": id, "message": answer["message"]}

    def test_of_too_many_tickets(self, app, buyer, make_ticket_type, place):
        app.config["MAX_TICKETS_PER_ORDER"] = 2
        answer = place(buyer, make_ticket_type(), 3).get_json()
        assert (answer["reason"], answer["max_tickets_per_order"]) == ("too_many_tickets", 2)

    def test_nothing_is_left_where_the_limit_was_lowered(self, client, admin, buyer, make_ticket_type, place):
        id = make_ticket_type()
        place(buyer, id, 4)
        client.patch(f"/ticket-types/{id}", json={"max_per_buyer": 2}, headers=admin.headers)
        assert place(buyer, id).get_json()["left"] == 0


class TestMaxPerBuyer:
    @pytest.fixture
    def id(self, make_ticket_type):
        return make_ticket_type(price=0, max_per_order=2)

    def test_takes_a_free_house_from_nobody(self, buyer, make_user, place, id):
        assert [place(buyer, id, 2).status_code for _ in range(2)] == [201, 409]
        assert place(make_user(), id, 2).status_code == 201

    @pytest.mark.parametrize("price", [0, 2500])
    def test_says_how_many_are_left(self, buyer, make_ticket_type, place, price):
        id = make_ticket_type(price=price, max_per_buyer=3)
        place(buyer, id, 2)
        assert place(buyer, id, 2).get_json()["left"] == 1

    def test_counts_orders_of_others_for_nobody(self, buyer, make_user, place, id):
        place(make_user(), id, 2)
        assert place(buyer, id, 2).status_code == 201

    @pytest.mark.parametrize("verb", ["cancel", "refund"])
    def test_is_free_again_when_it_is_given_back(self, client, admin, buyer, place, id, verb):
        order = place(buyer, id, 2).get_json()
        client.post(f"/orders/{order['code']}/{verb}", headers=admin.headers)
        assert place(buyer, id, 2).status_code == 201

    def test_does_not_count_what_has_lapsed(self, buyer, make_ticket_type, place, lapse):
        id = make_ticket_type(max_per_buyer=2)
        lapse(place(buyer, id, 2).get_json())
        assert place(buyer, id, 2).status_code == 201

    def test_is_judged_when_placing_only(self, client, admin, buyer, make_ticket_type, place, pay):
        id = make_ticket_type()
        order = place(buyer, id, 2).get_json()
        client.patch(f"/ticket-types/{id}", json={"max_per_buyer": 1}, headers=admin.headers)
        assert pay(order).get_json()["status"] == "confirmed"


class TestGivingBack:
    @pytest.fixture
    def order(self, buyer, make_ticket_type, place):
        return place(buyer, make_ticket_type(price=0), 2).get_json()

    @pytest.fixture
    def give_back(self, client, buyer, order):
        def post(user=buyer):
            return client.post(f"/orders/{order['code']}/cancel", headers=user.headers)

        return post

    @pytest.mark.parametrize("who", ["buyer", "staff", "admin"])
    def test_frees_its_places_and_voids_its_tickets(self, request, give_back, context, who):
        given = give_back(request.getfixturevalue(who)).get_json()
        assert (given["status"], [ticket["status"] for ticket in given["tickets"]]) == ("canceled", ["void", "void"])
        assert db.session.scalar(db.select(TicketType.sold)) == 0

    def test_is_not_for_others(self, give_back, make_user):
        assert give_back(make_user()).status_code == 404

    def test_is_refused_when_somebody_has_used_a_ticket(self, give_back, order, context, check_in):
        check_in(order["tickets"][1]["code"])
        answer = give_back()
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "checked_in")
        assert db.session.scalar(db.select(TicketType.sold)) == 2

    def test_happens_once(self, give_back):
        give_back()
        assert give_back().get_json()["reason"] == "not_pending"


@pytest.fixture
def many_lapsed(app, buyer, make_ticket_type):
    """As many lapsed orders of one place each as are wanted, which hold all the places of their ticket type."""

    def make(count):
        id = make_ticket_type(quantity=count)
        columns = "code, user_id, number, event_id, status, total, currency, expires_at"
        with app.app_context():
            event_id = db.session.get_one(TicketType, id).event_id
            for number in range(1, count + 1):
                values = f"'C{number}', {buyer.id}, {number}, {event_id}, 'pending', 2500, 'USD', '2020-01-01 00:00:00'"
                db.session.execute(db.text(f"INSERT INTO orders ({columns}) VALUES ({values})"))
            lines = db.select(Order.id, db.literal(id), db.literal("Regular"), db.literal(1), db.literal(2500))
            names = ["order_id", "ticket_type_id", "name", "quantity", "unit_price"]
            db.session.execute(db.insert(OrderLine).from_select(names, lines))
            db.session.execute(db.update(TicketType).values(held=count))
            db.session.commit()
        return id

    return make


def written():
    return db.session.scalar(db.select(db.func.count(Order.id)).where(Order.state == "expired"))


class TestJob:
    def test_writes_down_what_lapsed(self, many_lapsed, context):
        many_lapsed(250)
        lapse_orders(Event())
        assert written() == 250

    def test_stops_when_it_is_told(self, many_lapsed, context):
        many_lapsed(250)
        stopping = Event()
        db.event.listen(db.session, "before_commit", lambda session: stopping.set(), once=True)
        lapse_orders(stopping)
        assert written() == 100

    def test_finds_the_events_by_an_index(self, many_lapsed, tables_read_whole):
        many_lapsed(2)
        assert "orders" not in tables_read_whole(events_with_lapsed(), {})


class TestRefusal:
    def test_of_what_was_sold_out_a_moment_ago_is_one_read(self, make_user, make_ticket_type, place, statements):
        id, user = make_ticket_type(quantity=1), make_user()
        assert place(make_user(), id).status_code == 201
        assert refusal(place(user, id)) == (409, "sold_out")
        sent = statements(lambda: place(user, id))
        steps = ["the token", "the offer"]
        assert len(sent) == len(steps)
        assert not [statement for statement in sent if "BEGIN" in statement or "FOR UPDATE" in statement]

    def test_is_taken_back_once_a_place_is_free(self, app, make_user, make_ticket_type, place, cancel):
        id, user, other = make_ticket_type(quantity=1), make_user(), make_user()
        order = place(other, id).get_json()
        assert refusal(place(user, id)) == (409, "sold_out")
        cancel(order, other)
        assert place(user, id).status_code == 201

    def test_of_many_ticket_types_is_not_kept_for_ever(self, make_user, make_ticket_type, place, monkeypatch):
        monkeypatch.setattr(placing, "MOST_NOTED", 0)
        user = make_user()
        for _ in range(3):
            assert refusal(place(user, make_ticket_type(quantity=0))) == (409, "sold_out")
        assert len(placing.refused) == 1


class TestLapsedOrders:
    def test_who_places_writes_down_few(self, make_user, many_lapsed, place, context):
        id = many_lapsed(250)
        assert place(make_user(), id, 10).status_code == 201
        assert written() == 110

    def test_are_written_down_in_small_steps(self, many_lapsed, context):
        many_lapsed(250)
        steps = []

        def note(session):
            steps.append(written())

        db.event.listen(db.session, "before_commit", note)
        lapse_in_steps(db.session.scalar(db.select(Order.event_id)))
        db.event.remove(db.session, "before_commit", note)
        assert steps == [100, 200, 250, 250]

    @ON_POSTGRESQL
    def test_that_somebody_works_on_are_left_to_him(self, app, many_lapsed, context):
        many_lapsed(3)
        first = db.session.scalar(db.select(db.func.min(Order.id)))
        event_id = db.session.scalar(db.select(Order.event_id))
        with db.engine.connect() as other:
            other.execute(db.select(Order.id).where(Order.id == first).with_for_update())
            assert lapse_in_steps(event_id) == 2

    def test_free_places_of_two_types_at_once(
        self, buyer, make_user, make_event, make_ticket_type, place, place_lines, lapse
    ):
        event_id = make_event()
        ids = [make_ticket_type(event_id, quantity=1) for _ in range(2)]
        for id in ids:
            lapse(place(buyer, id).get_json())
        assert place_lines(*((id, 1) for id in ids), user=make_user()).status_code == 201
