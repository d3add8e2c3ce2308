"""Selling when everybody comes at once and processes die: real servers on real databases.

`RACE_ROUNDS=300 pytest tests/test_races.py` is the long form: as many rounds of each race, and a hundred kills.
"""

import os
import random
import time
from collections import ChainMap, Counter
from functools import partial
from itertools import cycle, islice
from secrets import token_hex
from threading import Event as Signal

import pytest
import requests

from models import (
    Event,
    IdempotencyKey,
    Order,
    Payment,
    Pool,
    Scan,
    Ticket,
    TicketType,
    WaitingEntry,
    db,
)

from .conftest import order_body, servers
from .house import BUYERS, house_on, insist, kill, reasons

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("RACE_ROUNDS", 12))
KILLS = max(3, ROUNDS // 3)
MAX_PENDING = 10
HEAD_STARTS = [step * 0.001 for step in range(6)]  # which of two comes first depends on the machine


@pytest.fixture(scope="module")
def house(make_database):
    """Two servers, each one process, on one database."""
    url = make_database()
    with servers() as start, house_on(url) as house:
        settings = {"WEB_CONCURRENCY": "1", "MAX_PENDING_ORDERS": str(MAX_PENDING)}
        house.serve([start(url, **settings).address for _ in range(2)])
        yield house


def rounds():
    return islice(cycle(HEAD_STARTS), ROUNDS)


class TestStampede:
    QUANTITY = 120

    def buy(self, house, types, choose):
        """Order whatever basket until neither type has a place left; the quantities that were sold, by type."""
        person, sold = house.person(), Counter()
        while True:
            lines = choose(types)
            answer = house.order(person, *lines)
            if answer.status_code == 201:
                sold.update(dict(lines))
                if random.random() < 0.3:
                    house.pay(answer.json(), method="card", reference=token_hex(8))
                continue
            [reason] = reasons([answer])
            assert reason in ("sold_out", "too_many_pending", "max_per_order")
            if reason != "sold_out":
                person = house.person()
            elif answer.json()["available"] == 0:
                types = [id for id in types if id != answer.json()["ticket_type_id"]]
            if not types:
                return sold

    def single(self, types):
        return [(random.choice(types), random.randint(1, 3))]

    def mixed(self, types):
        """One type or both, in either order."""
        return [(id, random.randint(1, 3)) for id in random.sample(types, random.randint(1, len(types)))]

    @pytest.mark.parametrize("basket", ["single", "mixed"])
    def test_sells_exactly_what_there_is(self, house, basket):
        event_id = house.event()
        types = [house.ticket_type(self.QUANTITY, event_id) for _ in range(2)]
        choose = getattr(self, basket)
        sold = sum(house.at_once(*[partial(self.buy, house, types, choose)] * BUYERS), Counter())
        assert [sold[id] for id in types] == [sum(house.counters(id)) for id in types] == [self.QUANTITY] * 2
        house.agrees()


class TestShared:
    """What several ticket types, or several buyers, have together."""

    def test_pool_sells_exactly_what_there_is(self, house):
        event_id = house.event()
        types = [house.ticket_type(quantity, event_id) for quantity in (60, 60, 30)]
        body = {"name": "Hall", "quantity": 100, "ticket_types": types}
        pool = house.send("POST", house.admin, f"/events/{event_id}/pools", body).json()["id"]
        people = [house.person() for _ in range(BUYERS)]

        def buy(number):
            kinds = (types[number % 3],) if number % 2 else (types[number % 3], types[(number + 1) % 3])
            return [house.order(people[number], *((id, 1) for id in kinds)) for _ in range(10)]

        answers = sum(house.at_once(*(partial(buy, number) for number in range(BUYERS))), [])
        for id in types * 2:  # the last places, one by one
            while house.order(house.person(), (id, 1)).ok:
                pass
        [(quantity, held)] = house.rows(db.select(Pool.quantity, Pool.counted).where(Pool.id == pool))
        assert (quantity, held) == (100, 100)
        assert set(reasons(answers)) <= {"done", "sold_out", "max_per_order"}
        house.agrees()

    def test_code_for_three_is_used_three_times(self, house):
        event_id = house.event()
        id = house.ticket_type(100, event_id)
        body = {"code": "THREE", "percent": 50, "max_uses": 3}
        assert house.send("POST", house.admin, f"/events/{event_id}/promo-codes", body).ok
        body = order_body((id, 1)) | {"promo_code": "THREE"}
        calls = [partial(house.send, "POST", house.person(), "/orders", body) for _ in range(BUYERS)]
        answers = house.at_once(*calls)
        assert reasons(answers) == ["done"] * 3 + ["promo_used_up"] * (BUYERS - 3)
        house.agrees()

    def test_pool_is_lowered_while_it_sells(self, house):
        event_id = house.event()
        types = [house.ticket_type(50, event_id) for _ in range(2)]
        body = {"name": "Hall", "quantity": 60, "ticket_types": types}
        pool = house.send("POST", house.admin, f"/events/{event_id}/pools", body).json()["id"]
        lower = partial(house.send, "PATCH", house.admin, f"/pools/{pool}", {"quantity": 10})
        buyers = [partial(house.order, house.person(), (types[number % 2], 1)) for number in range(BUYERS - 1)]
        lowered, *sold = house.at_once(lower, *buyers)
        done = reasons(sold).count("done")
        assert (lowered.ok and done <= 10) or lowered.json()["reason"] == "below_sold"
        house.agrees()


class TestWaiting:
    """The last place is canceled while some wait and everybody passes by."""

    def scene(self, house, waiting=3):
        event_id = house.event()
        id = house.ticket_type(1, event_id)
        order = house.placed(id)
        people = [house.person() for _ in range(waiting)]
        body = {"ticket_type_id": id, "quantity": 1}
        entries = [house.send("POST", person, f"/events/{event_id}/waiting", body).json()["id"] for person in people]
        return id, order, people, entries

    def states(self, house, entries):
        rows = house.rows(db.select(WaitingEntry.state).where(WaitingEntry.id.in_(entries)).order_by(WaitingEntry.id))
        return [state for (state,) in rows]

    def test_first_who_waits_has_the_last_place(self, house):
        for _ in range(max(ROUNDS // 4, 2)):
            id, order, _, entries = self.scene(house)
            passers = [partial(house.order, house.person(), (id, 1)) for _ in range(BUYERS - 1)]
            canceled, *answers = house.at_once(partial(house.cancel, order), *passers)
            assert canceled.ok
            assert set(reasons(answers)) == {"sold_out"}
            assert self.states(house, entries) == ["offered", "waiting", "waiting"]
            house.agrees()

    def test_two_places_at_once_are_offered_once_each(self, house):
        for head_start in rounds():
            event_id = house.event()
            id = house.ticket_type(2, event_id)
            orders = [house.placed(id) for _ in range(2)]
            body = {"ticket_type_id": id, "quantity": 1}
            for _ in range(3):
                assert house.send("POST", house.person(), f"/events/{event_id}/waiting", body).ok
            house.at_once(*(partial(house.cancel, order) for order in orders), head_start=head_start)
            rows = house.rows(db.select(WaitingEntry.state).where(WaitingEntry.ticket_type_id == id))
            assert sorted(state for (state,) in rows) == ["offered", "offered", "waiting"]
            house.agrees()

    def test_joining_leaving_and_buying_at_once(self, house):
        for _ in range(max(ROUNDS // 4, 2)):
            id, order, people, entries = self.scene(house, waiting=4)
            event_id = house.rows(db.select(TicketType.event_id).where(TicketType.id == id))[0][0]
            body = {"ticket_type_id": id, "quantity": 1}
            leaving = [
                partial(house.send, "DELETE", person, f"/waiting/{entry}")
                for person, entry in zip(people[:2], entries[:2], strict=True)
            ]
            joining = [
                partial(house.send, "POST", house.person(), f"/events/{event_id}/waiting", body) for _ in range(4)
            ]
            more = partial(house.send, "PATCH", house.admin, f"/ticket-types/{id}", {"quantity": 3})
            passing = [partial(house.order, house.person(), (id, 1)) for _ in range(4)]
            answers = house.at_once(partial(house.cancel, order), more, *leaving, *joining, *passing)
            assert max(answer.status_code for answer in answers) < 500
            house.send("GET", house.admin, f"/events/{event_id}/waiting")
            rows = house.rows(db.select(TicketType.quantity - TicketType.held).where(TicketType.id == id))
            free, waiting = rows[0][0], self.states(house, entries).count("waiting")
            assert not (free and waiting)
            house.agrees()


class TestPayAgainstCancel:
    def test_one_of_them_has_the_order(self, house):
        id = house.ticket_type(2000)
        for head_start in rounds():
            order = house.placed(id, 2)
            calls = partial(house.pay, order), partial(house.cancel, order)
            paid, canceled = house.at_once(*calls, head_start=head_start)
            ends = {200: ("canceled", ["refund_due"], []), 409: ("paid", ["confirmed"], ["valid"] * 2)}
            assert (paid.status_code, house.look(order)) == (201, ends[canceled.status_code])
        house.agrees()


class TestPayAgainstPay:
    def test_one_is_confirmed_and_the_other_due_back(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id, 2)
            house.at_once(*(partial(house.pay, order, reference=token_hex(8)) for _ in range(3)))
            assert house.look(order) == ("paid", ["confirmed", "refund_due", "refund_due"], ["valid"] * 2)
        house.agrees()


class TestTwoDesks:
    def test_cash_is_taken_once(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id)
            answers = house.at_once(*[partial(house.pay, order)] * 3)
            assert reasons(answers) == ["already_paid", "already_paid", "done"]
            assert house.look(order) == ("paid", ["confirmed"], ["valid"])
        house.agrees()

    def test_cash_that_buys_nothing_is_recorded_each_time(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id)
            house.cancel(order)
            house.at_once(*[partial(house.pay, order)] * 3)
            assert house.look(order) == ("canceled", ["refund_due"] * 3, [])
        house.agrees()

    def test_one_reference_is_one_payment(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order, reference = house.placed(id), token_hex(8)
            spelled = (reference, reference.upper())
            answers = house.at_once(*(partial(house.pay, order, method="card", reference=it) for it in spelled))
            assert sorted(answer.status_code for answer in answers) == [200, 201]
            assert house.look(order) == ("paid", ["confirmed"], ["valid"])
        house.agrees()

    def test_payment_given_back_meanwhile_is_answered_or_taken_anew(self, house):
        id = house.ticket_type(2000)
        for head_start in rounds():
            order, reference = house.placed(id), token_hex(8)
            house.cancel(order)
            pay = partial(house.pay, order, method="card", reference=reference)
            back = f"/orders/{order['code']}/payments/{pay().json()['id']}/refund"
            paid, _ = house.at_once(pay, partial(house.send, "POST", house.admin, back), head_start=head_start)
            ends = {200: ["refunded"], 201: ["refund_due", "refunded"]}
            assert house.look(order)[1] == ends[paid.status_code]


class TestPayAgainstDelete:
    def test_order_keeps_its_event(self, house):
        for head_start in rounds():
            event_id = house.event()
            order = house.placed(house.ticket_type(5, event_id))
            calls = [partial(house.pay, order), partial(house.send, "DELETE", house.admin, f"/events/{event_id}")]
            random.shuffle(calls)
            answers = house.at_once(*calls, head_start=head_start)
            assert reasons(answers) == ["done", "has_orders"]
            assert house.look(order) == ("paid", ["confirmed"], ["valid"])
        house.agrees()

    def test_order_that_has_lapsed_is_paid_or_goes_with_its_event(self, house):
        for head_start in rounds():
            event_id = house.event()
            order = house.placed(house.ticket_type(5, event_id))
            house.lapse(order)
            calls = {"pay": partial(house.pay, order)}
            calls["delete"] = partial(house.send, "DELETE", house.admin, f"/events/{event_id}")
            names = random.sample(sorted(calls), 2)
            answers = dict(zip(names, house.at_once(*map(calls.get, names), head_start=head_start), strict=True))
            assert [answers[it].status_code for it in ("pay", "delete")] in ([201, 409], [404, 204])
        house.agrees()


class TestOrderAgainstCurrency:
    @pytest.mark.parametrize("types", [1, 2])
    def test_order_is_in_the_currency_of_its_event(self, house, types):
        for head_start in rounds():
            event_id = house.event()
            lines = [(house.ticket_type(5, event_id), 1) for _ in range(types)]
            change = partial(house.send, "PATCH", house.admin, f"/events/{event_id}", {"currency": "EUR"})
            calls = [partial(house.order, house.person(), *lines), change]
            random.shuffle(calls)
            house.at_once(*calls, head_start=head_start)
            both = db.select(Event.currency, Order.currency).join(Order.event).where(Event.id == event_id)
            [(of_event, of_order)] = house.rows(both)
            assert of_event == of_order


class TestCancelAgainstCancel:
    def test_places_come_back_once(self, house):
        id = house.ticket_type(2000)
        house.placed(id, 10)
        for _ in range(ROUNDS):
            order = house.placed(id, 2)
            answers = house.at_once(*[partial(house.cancel, order)] * 4)
            assert reasons(answers) == ["done", "not_pending", "not_pending", "not_pending"]
        assert house.counters(id) == (0, 10)
        house.agrees()


class TestPayAgainstExpiry:
    def test_payment_that_has_room_pays(self, house):
        id = house.ticket_type(2000)
        for head_start in rounds():
            order = house.placed(id, 2)
            house.lapse(order)
            calls = [partial(house.pay, order), house.expire]
            random.shuffle(calls)
            house.at_once(*calls, head_start=head_start)
            assert house.look(order) == ("paid", ["confirmed"], ["valid"] * 2)
        assert house.counters(id) == (2 * ROUNDS, 0)
        house.agrees()


class TestLatePaymentAgainstNextBuyer:
    @pytest.mark.parametrize("written", [False, True])
    def test_one_of_them_has_the_last_place(self, house, written):
        for head_start in rounds():
            id = house.ticket_type(1)
            order, buyer = house.placed(id), house.person()
            house.lapse(order)
            if written:
                house.expire()
            calls = {"pay": partial(house.pay, order), "buy": partial(house.order, buyer, (id, 1))}
            names = random.sample(sorted(calls), 2)
            answers = dict(zip(names, house.at_once(*map(calls.get, names), head_start=head_start), strict=True))
            ends = {201: ("expired", ["refund_due"], []), 409: ("paid", ["confirmed"], ["valid"])}
            assert house.look(order) == ends[answers["buy"].status_code]
            assert answers["pay"].status_code == 201 and sum(house.counters(id)) == 1
        house.agrees()

    def test_wait_in_no_circle(self, house):
        """One place is free, one lapsed: who finds the free one gone wants the lapsed order, which is being paid."""
        for head_start in rounds():
            id = house.ticket_type(2)
            order = house.placed(id)
            house.lapse(order)
            keys = [{"Idempotency-Key": token_hex(8)} for _ in range(4)]  # with one, an order is placed in steps
            buyers = [partial(house.order, house.person(), (id, 1), **key) for key in keys]
            answers = house.at_once(*buyers, partial(house.pay, order), head_start=head_start)
            assert sum(answer.ok for answer in answers[:-1]) + (house.look(order)[0] == "paid") == 2
        house.agrees()

    def test_one_of_two_late_payments_has_the_last_place(self, house):
        for _ in range(ROUNDS):
            id = house.ticket_type(1)
            orders = []
            for _ in range(2):
                orders.append(house.placed(id))
                house.lapse(orders[-1])
                house.expire()
            house.at_once(*(partial(house.pay, order) for order in orders))
            assert sorted(house.look(order)[0] for order in orders) == ["expired", "paid"]
        house.agrees()


class TestExpiryAgainstNextBuyers:
    def test_lapsed_places_are_had_once_and_all(self, house):
        for _ in range(ROUNDS):
            id = house.ticket_type(3)
            for _ in range(3):
                house.lapse(house.placed(id))
            buyers = [house.person() for _ in range(6)]
            answers = house.at_once(*(partial(house.order, buyer, (id, 1)) for buyer in buyers), house.expire)
            assert reasons(answers[:-1]) == ["done"] * 3 + ["sold_out"] * 3
            assert house.counters(id) == (0, 3)
        house.agrees()

    def test_baskets_in_both_orders_get_lapsed_places(self, house):
        for _ in range(ROUNDS):
            event_id = house.event()
            types = [house.ticket_type(2, event_id) for _ in range(2)]
            house.lapse(house.order(house.person(), (types[0], 2), (types[1], 2)).json())
            baskets = [[(id, 1) for id in types], [(id, 1) for id in types[::-1]]] * 2
            answers = house.at_once(*(partial(house.order, house.person(), *basket) for basket in baskets))
            assert reasons(answers) == ["done", "done", "sold_out", "sold_out"]
        house.agrees()

    def test_lapsed_places_of_one_type_and_canceled_baskets_of_two_wait_in_no_circle(self, house):
        for head_start in rounds():
            event_id = house.event()
            low, high = house.ticket_type(100, event_id), house.ticket_type(6, event_id)
            baskets = [house.order(house.person(), (low, 1), (high, 1)).json() for _ in range(3)]
            for _ in range(3):
                house.lapse(house.placed(high))
            buy = partial(house.order, house.person(), (low, 1), (high, 1))
            answers = house.at_once(buy, *(partial(house.cancel, it) for it in baskets), head_start=head_start)
            assert reasons(answers) == ["done"] * 4
        house.agrees()


class TestRefundAgainstRefund:
    def test_money_and_places_come_back_once(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id, 2)
            house.pay(order)
            answers = house.at_once(*[partial(house.refund, order)] * 4)
            assert reasons(answers) == ["done", "not_paid", "not_paid", "not_paid"]
            assert house.look(order) == ("refunded", ["refunded"], ["void"] * 2)
        assert house.counters(id) == (0, 0)
        house.agrees()

    def test_payment_that_is_due_goes_back_once(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id)
            house.cancel(order)
            path = f"/orders/{order['code']}/payments/{house.pay(order).json()['id']}/refund"
            answers = house.at_once(*[partial(house.send, "POST", house.admin, path)] * 4)
            assert reasons(answers) == ["done", "not_due", "not_due", "not_due"]


class TestDoubleClick:
    @pytest.mark.parametrize("types", [1, 2])
    def test_is_one_order(self, house, types):
        event_id = house.event()
        lines = [(house.ticket_type(2000, event_id), 1) for _ in range(types)]
        for _ in range(ROUNDS):
            click = partial(house.order, house.person(), *lines, **{"Idempotency-Key": token_hex(8)})
            answers = house.at_once(*[click] * 4)
            assert len({(it.status_code, it.content, it.headers["Location"]) for it in answers}) == 1
            assert sum("Idempotent-Replayed" not in it.headers for it in answers) == 1
        assert house.counters(lines[0][0]) == (0, ROUNDS)
        house.agrees()

    def test_is_one_payment(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            order = house.placed(id)
            path, body = f"/orders/{order['code']}/payments", {"method": "cash", "amount": order["total"]}
            click = partial(house.send, "POST", house.staff, path, body, **{"Idempotency-Key": token_hex(8)})
            answers = house.at_once(*[click] * 4)
            assert {(it.status_code, it.content) for it in answers} == {(201, answers[0].content)}
            assert house.look(order) == ("paid", ["confirmed"], ["valid"])
        house.agrees()


class TestOneReferenceOnTwoOrders:
    def test_pays_one_of_them(self, house):
        id = house.ticket_type(2000)
        for _ in range(ROUNDS):
            orders, reference = [house.placed(id) for _ in range(2)], token_hex(8)
            spelled = zip(orders, (reference, reference.upper()), strict=True)
            answers = house.at_once(
                *(partial(house.pay, order, method="card", reference=reference) for order, reference in spelled)
            )
            assert reasons(answers) == ["done", "reference_used"]
            assert sorted(house.look(order)[0] for order in orders) == ["paid", "pending"]
        house.agrees()


class TestOneBuyersParallelOrders:
    @pytest.mark.parametrize("types", [1, 2])
    def test_are_no_more_than_he_may_have(self, house, types):
        event_id = house.event()
        lines = [(house.ticket_type(200_000, event_id, max_per_order=1000), 1) for _ in range(types)]
        for _ in range(max(3, ROUNDS // 4)):
            buyer = house.person()
            answers = house.at_once(*[partial(house.order, buyer, *lines)] * (MAX_PENDING + 5))
            assert reasons(answers) == ["done"] * MAX_PENDING + ["too_many_pending"] * 5
        house.agrees()

    @pytest.mark.parametrize("limit", ["max_per_order", "max_per_buyer"])
    @pytest.mark.parametrize("types", [1, 2])
    def test_hold_no_more_of_a_type_than_he_may_have(self, house, limit, types):
        event_id = house.event()
        lines = [(house.ticket_type(200_000, event_id, **{limit: 4}), 1) for _ in range(types)]
        for _ in range(max(3, ROUNDS // 4)):
            buyer = house.person()
            answers = house.at_once(*[partial(house.order, buyer, *lines)] * 7)
            assert reasons(answers) == ["done"] * 4 + [limit] * 3
        house.agrees()

    def test_take_no_more_of_what_costs_nothing_than_he_may_have(self, house):
        id = house.ticket_type(200_000, price=0, max_per_order=2)
        for _ in range(max(3, ROUNDS // 4)):
            buyer = house.person()
            answers = house.at_once(*[partial(house.order, buyer, (id, 1))] * 5)
            assert reasons(answers) == ["done"] * 2 + ["max_per_buyer"] * 3
        house.agrees()


class TestOrderAgainstAdmin:
    def test_fewer_places_are_never_fewer_than_sold(self, house):
        for head_start in rounds():
            id = house.ticket_type(5)
            orders = [partial(house.order, house.person(), (id, 1)) for _ in range(3)]
            fewer = partial(house.send, "PATCH", house.admin, f"/ticket-types/{id}", {"quantity": 1})
            *answers, _ = house.at_once(*orders, fewer, head_start=head_start)
            assert set(reasons(answers)) <= {"done", "sold_out"}
        house.agrees()

    @pytest.mark.parametrize("types", [1, 2])
    @pytest.mark.parametrize("path", ["/ticket-types/{type}", "/events/{event}"])
    def test_what_is_deleted_is_not_sold(self, house, path, types):
        for head_start in rounds():
            event_id = house.event()
            lines = [(house.ticket_type(5, event_id), 1) for _ in range(types)]
            gone = path.format(type=lines[-1][0], event=event_id)
            calls = partial(house.order, house.person(), *lines), partial(house.send, "DELETE", house.admin, gone)
            answers = house.at_once(*calls, head_start=head_start)
            assert [answer.status_code for answer in answers] in ([201, 409], [404, 204])
        house.agrees()


@pytest.fixture
def mortal(make_database):
    """A server of two processes, which are there to be killed."""
    url = make_database()
    with servers() as start, house_on(url) as house:
        server = start(url, WEB_CONCURRENCY="2", MAX_PENDING_ORDERS="1000000")
        house.serve([server.address])
        house.server = server.process.pid
        yield house


class TestKill:
    """Buyers come and come while the processes that serve them are killed."""

    def buy_with_keys(self, house, types, over):
        """Order and pay until it is over, and repeat what is not answered; the orders placed, and which are paid."""
        person, orders = house.person(), {}
        while not over.is_set():
            key = token_hex(8)
            lines = [(id, random.randint(1, 3)) for id in random.sample(types, random.randint(1, 2))]
            body = order_body(*lines) | random.choice([{}, {"promo_code": "HALF"}])
            send = partial(house.send, "POST", person, "/orders", body, **{"Idempotency-Key": key})
            order = insist(send).json()
            orders[order["code"]] = "pending"
            if random.random() < 0.5:
                assert insist(partial(house.pay, order, method="card", reference=key)).ok
                orders[order["code"]] = "paid"
        return orders

    def buy_without(self, house, types, over):
        """Order one ticket a time until it is over; the orders that were answered."""
        person, orders = house.person(), {}
        while not over.is_set():
            try:
                orders[house.order(person, (random.choice(types), 1)).json()["code"]] = "pending"
            except requests.RequestException:
                time.sleep(0.02)
        return orders

    def test_loses_and_doubles_nothing(self, mortal):
        event_id, over = mortal.event(), Signal()
        types = [mortal.ticket_type(1_000_000, event_id, max_per_order=1000) for _ in range(2)]
        pool = {"name": "Hall", "quantity": 1_000_000, "ticket_types": types}
        assert mortal.send("POST", mortal.admin, f"/events/{event_id}/pools", pool).ok
        code = {"code": "HALF", "percent": 50, "max_uses": 1_000_000}
        assert mortal.send("POST", mortal.admin, f"/events/{event_id}/promo-codes", code).ok
        buyers = [partial(self.buy_with_keys, mortal, types, over)] * 8
        others = [partial(self.buy_without, mortal, types, over)] * 4
        _, *sold = mortal.at_once(partial(kill, mortal, over, KILLS), *buyers, *others)
        keyed, answered = (dict(ChainMap(*some)) for some in (sold[:8], sold[8:]))
        stored = dict(map(tuple, mortal.rows(db.select(Order.code, Order.state))))
        assert {code: stored.get(code) for code in keyed | answered} == keyed | answered
        assert mortal.count(IdempotencyKey) == len(keyed)
        assert mortal.count(Payment) == list(keyed.values()).count("paid")
        mortal.agrees()

    def wait_and_give_up(self, house, kind, over):
        """Wait for a place, and give up what is offered, until it is over."""
        event_id, id = kind
        person, body = house.person(), {"ticket_type_id": id, "quantity": 1}
        while not over.is_set():
            insist(partial(house.send, "POST", person, f"/events/{event_id}/waiting", body))
            for entry in insist(partial(house.send, "GET", person, "/me/waiting")).json()[:1]:
                if entry["status"] == "offered":
                    insist(partial(house.send, "DELETE", person, f"/waiting/{entry['id']}"))

    def pass_by(self, house, kind, over):
        person = house.person()
        while not over.is_set():
            answer = insist(partial(house.order, person, (kind[1], 1)))
            if answer.ok:
                insist(partial(house.cancel, answer.json()))

    def test_who_waits_is_served_once_and_not_forgotten(self, mortal):
        event_id, over = mortal.event(), Signal()
        kind = event_id, mortal.ticket_type(2, event_id)
        waiting = [partial(self.wait_and_give_up, mortal, kind, over)] * 6
        passing = [partial(self.pass_by, mortal, kind, over)] * 3
        mortal.at_once(partial(kill, mortal, over, KILLS), *waiting, *passing)
        mortal.agrees()
        insist(partial(mortal.send, "GET", mortal.admin, f"/events/{event_id}/waiting"))
        [(free,)] = mortal.rows(db.select(2 - TicketType.held - TicketType.sold).where(TicketType.id == kind[1]))
        in_line = db.select(WaitingEntry.id).where(WaitingEntry.state == "waiting")
        assert not (free and mortal.rows(in_line))
        offers = db.select(db.func.count()).select_from(Order).where(Order.offered, Order.state == "pending")
        assert mortal.rows(offers)[0][0] <= 2
        mortal.agrees()

    def test_each_scan_of_an_upload_counts_once(self, mortal):
        """Five hundred scans are sent again and again while processes are killed, until they are answered."""
        id, over = mortal.ticket_type(100, price=0, max_per_order=100, max_per_buyer=None), Signal()
        order = insist(partial(mortal.order, mortal.person(), (id, 100))).json()
        codes = [ticket["code"] for ticket in order["tickets"]]
        event_id = order["event"]["id"]

        def upload(device):
            scans = [{"code": codes[number % 100], "nonce": str(number), "accepted": True} for number in range(500)]
            body, answers = {"device": device, "scans": scans}, []
            while not (over.is_set() and answers):
                sent = partial(mortal.send, "POST", mortal.staff, f"/events/{event_id}/scans", body)
                answers.append(insist(sent).json()["results"])
            return answers

        _, *uploads = mortal.at_once(partial(kill, mortal, over, KILLS), *[partial(upload, str(it)) for it in range(3)])
        for answers in uploads:
            assert [answer for answer in answers if answer != answers[0]] == []
        let_in = [it for answers in uploads for it in answers[0] if it["outcome"] == "accepted"]
        assert len(let_in) == len(codes)
        assert mortal.count(Scan) == 3 * 500
        rows = mortal.rows(db.select(Ticket.status).where(Ticket.code.in_(codes)).distinct())
        assert [status for (status,) in rows] == ["used"]
