"""Money that goes back: whole, by ticket, by amount; by hand and by the provider."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from models import Mail, Order, Payment, Refund, Ticket, TicketType, db, now
from tests.card_shop import *  # noqa: F403
from tests.card_shop import reason
from tests.fakes.stripe import DISPUTED


@pytest.fixture
def by_card(page, card_shop, settle, order):
    """The order of two tickets at 25.00, paid by card, as its buyer sees it."""
    card_shop.pay(page)
    return settle(order).get_json()


@pytest.fixture
def by_hand(card_shop, paid_order):
    return paid_order


@pytest.fixture
def refund(client, admin):
    def post(order, **body):
        return client.post(f"/orders/{order['code']}/refund", json=body, headers=admin.headers)

    return post


@pytest.fixture
def retry(client, admin):
    def post(order, code):
        return client.post(f"/orders/{order['code']}/refunds/{code}/retry", headers=admin.headers)

    return post


@pytest.fixture
def seen(client, admin):
    def get(order):
        return client.get(f"/orders/{order['code']}", headers=admin.headers).get_json()

    return get


def code(order, number=0):
    return order["tickets"][number]["code"]


def given_back(fake):
    return [it["amount"] for it in fake.all("refund")]


class TestWhole:
    def test_by_card(self, refund, by_card, run_job, fake, seen):
        answer = refund(by_card)
        assert answer.status_code == 200
        [payment] = answer.get_json()["payments"]
        assert (answer.get_json()["status"], payment["status"], payment["refunded"]) == ("refunded", "refunded", 5000)
        [made] = payment["refunds"]
        assert set(made) == {"code", "amount", "status", "reason", "created_at"}
        assert (made["status"], given_back(fake)) == ("requested", [])
        run_job()
        assert (given_back(fake), seen(by_card)["payments"][0]["refunds"][0]["status"]) == ([5000], "succeeded")

    def test_without_a_body(self, client, admin, by_hand):
        answer = client.post(f"/orders/{by_hand['code']}/refund", headers=admin.headers).get_json()
        [made] = answer["payments"][0]["refunds"]
        assert (answer["status"], made["amount"], made["status"]) == ("refunded", 5000, "succeeded")
        assert {it["status"] for it in answer["tickets"]} == {"void"}

    def test_somebody_inside(self, client, staff, refund, by_card):
        client.post(f"/tickets/{code(by_card)}/check-in", headers=staff.headers)
        answer = refund(by_card)
        assert reason(answer) == (409, "checked_in")
        assert answer.get_json()["tickets"] == [code(by_card)]

    def test_not_paid(self, refund, order):
        assert reason(refund(order)) == (409, "not_paid")

    def test_two_at_once_are_one(self, refund, by_card, run_job, fake, stored):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: refund(by_card).status_code, range(4)))
        run_job()
        assert (sorted(answers), given_back(fake)) == ([200, 409, 409, 409], [5000])
        assert stored(TicketType.sold) == [0]

    def test_buyer_is_told_once(self, refund, by_card, run_job, stored, shop):
        refund(by_card, reason="Illness")
        run_job()
        assert stored(Mail.kind) == ["order_refunded"]


class TestTickets:
    def test_one_of_two(self, refund, by_card, run_job, fake, stored):
        answer = refund(by_card, tickets=[code(by_card).lower()], reason="Illness").get_json()
        assert (answer["status"], [it["status"] for it in answer["tickets"]]) == ("paid", ["void", "valid"])
        [payment] = answer["payments"]
        assert (payment["status"], payment["refunded"]) == ("confirmed", 2500)
        assert payment["refunds"][0]["reason"] == "Illness"
        run_job()
        assert (given_back(fake), stored(TicketType.sold)) == ([2500], [1])

    def test_last_one_refunds_the_order(self, refund, by_card):
        refund(by_card, tickets=[code(by_card)])
        answer = refund(by_card, tickets=[code(by_card, 1)]).get_json()
        assert (answer["status"], answer["payments"][0]["status"]) == ("refunded", "refunded")

    def test_rest_after_one(self, refund, by_card, stored):
        refund(by_card, tickets=[code(by_card)])
        assert refund(by_card).get_json()["status"] == "refunded"
        assert (stored(Refund.amount), stored(TicketType.sold)) == ([2500, 2500], [0])

    def test_for_less(self, refund, by_hand):
        answer = refund(by_hand, tickets=[code(by_hand)], amount=2000).get_json()
        assert answer["payments"][0]["refunded"] == 2000

    def test_for_nothing(self, refund, by_hand, stored):
        answer = refund(by_hand, tickets=[code(by_hand)], amount=0).get_json()
        assert (answer["tickets"][0]["status"], stored(Refund.id)) == ("void", [])

    def test_all_for_less_keep_the_rest(self, refund, by_hand):
        answer = refund(by_hand, tickets=[code(by_hand), code(by_hand, 1)], amount=4000).get_json()
        assert (answer["status"], answer["payments"][0]["status"]) == ("refunded", "confirmed")

    def test_void_already(self, refund, by_hand):
        refund(by_hand, tickets=[code(by_hand)])
        answer = refund(by_hand, tickets=[code(by_hand), code(by_hand, 1)])
        assert reason(answer) == (409, "already_void")
        assert answer.get_json()["tickets"] == [code(by_hand)]

    def test_used(self, client, staff, refund, by_hand):
        client.post(f"/tickets/{code(by_hand)}/check-in", headers=staff.headers)
        answer = refund(by_hand, tickets=[code(by_hand)])
        assert (reason(answer), answer.get_json()["tickets"]) == ((409, "checked_in"), [code(by_hand)])
        assert refund(by_hand, tickets=[code(by_hand, 1)]).status_code == 200

    @pytest.mark.parametrize("tickets", [["F" * 32], [], ["x"], "x", [5], None])
    def test_others(self, refund, by_hand, tickets):
        answer = refund(by_hand, tickets=tickets)
        assert (answer.status_code, set(answer.get_json()["message"])) == (400, {"tickets"})

    def test_check_in_at_once_wins_or_loses(self, client, staff, refund, by_hand, stored):
        calls = [
            lambda: refund(by_hand, tickets=[code(by_hand)]).status_code,
            lambda: client.post(f"/tickets/{code(by_hand)}/check-in", headers=staff.headers).status_code,
        ]
        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(lambda call: call(), calls)) == [200, 409]
        assert stored(Ticket.status)[0] in ("used", "void")


class TestAmount:
    def test_is_money_alone(self, refund, by_card, run_job, fake):
        answer = refund(by_card, amount=300).get_json()
        assert (answer["status"], {it["status"] for it in answer["tickets"]}) == ("paid", {"valid"})
        run_job()
        assert given_back(fake) == [300]

    def test_all_of_it_keeps_the_tickets(self, refund, by_hand):
        answer = refund(by_hand, amount=5000).get_json()
        assert (answer["status"], answer["payments"][0]["status"]) == ("paid", "refunded")

    def test_never_more_than_was_paid(self, refund, by_card):
        refund(by_card, amount=4000)
        answer = refund(by_card, amount=1001)
        assert (reason(answer), answer.get_json()["left"]) == ((409, "exceeds_paid"), 1000)

    def test_at_once_never_more_than_was_paid(self, refund, by_card, run_job, fake):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: refund(by_card, amount=2000).status_code, range(4)))
        run_job()
        assert (sorted(answers), given_back(fake)) == ([200, 200, 409, 409], [2000, 2000])

    @pytest.mark.parametrize("amount", [0, -1, 1.5, "5", None])
    def test_no_amount(self, refund, by_hand, amount):
        assert refund(by_hand, amount=amount).status_code == 400

    def test_sales_count_it(self, client, admin, refund, by_card):
        refund(by_card, tickets=[code(by_card)], amount=2000)
        found = client.get(f"/events/{by_card['event']['id']}/sales", headers=admin.headers).get_json()
        assert (found["refunded"], found["total"]["sold"], found["total"]["revenue"]) == (2000, 1, 2500)
        assert [(it["confirmed"], it["refunded"], it["refund_due"]) for it in found["payments"]] == [(3000, 2000, 0)]


class TestProvider:
    @pytest.mark.parametrize("kind", ["lost", "cut", "down"])
    def test_answer_lost_then_asked_again(self, refund, by_card, run_job, fake, stored, kind):
        refund(by_card)
        fake.fault(kind=kind, path="/v1/refunds", times=3)
        run_job()
        assert stored(Refund.status) == ["requested"]
        fake.faults.clear()
        run_job()
        assert (given_back(fake), stored(Refund.status)) == ([5000], ["succeeded"])

    def test_answer_lost_and_asked_again_a_day_later(self, refund, by_card, run_job, fake, stored):
        refund(by_card, amount=2000)
        fake.fault(kind="lost", path="/v1/refunds", times=3)
        run_job()
        fake.faults.clear()
        fake.advance(25 * 3600)
        run_job()
        assert (given_back(fake), stored(Refund.status)) == ([2000], ["succeeded"])

    def test_pending_then_done(self, refund, by_card, run_job, fake, notice, stored):
        fake.refunds_pending = True
        refund(by_card)
        run_job()
        assert stored(Refund.status) == ["pending"]
        fake.settle_refund(fake.all("refund")[0]["id"], "succeeded")
        notice()
        assert stored(Refund.status) == ["succeeded"]

    def test_failed_later_is_shown_and_tried_again(self, refund, retry, by_card, run_job, fake, notice, seen, stored):
        refund(by_card)
        run_job()
        fake.settle_refund(fake.all("refund")[0]["id"], "failed")
        notice()
        found = seen(by_card)
        [payment] = found["payments"]
        assert (found["attention"], payment["status"], payment["refunded"]) == (["refund_failed"], "refunded", 0)
        assert retry(by_card, payment["refunds"][0]["code"]).get_json()["status"] == "requested"
        run_job()
        assert (stored(Refund.status), stored(Payment.refunded)) == (["succeeded"], [5000])
        assert (seen(by_card)["attention"], len(given_back(fake))) == ([], 2)

    def test_failed_one_can_be_handed_back(self, client, admin, refund, by_card, run_job, fake, notice, seen, stored):
        refund(by_card)
        run_job()
        path = f"/orders/{by_card['code']}/payments/{seen(by_card)['payments'][0]['id']}/refund"
        assert reason(client.post(path, headers=admin.headers)) == (409, "not_due")
        fake.settle_refund(fake.all("refund")[0]["id"], "failed")
        notice()
        assert client.post(path, headers=admin.headers).get_json()["refunded"] == 5000
        run_job()
        assert (stored(Refund.status), len(given_back(fake))) == (["failed", "succeeded"], 1)
        assert (seen(by_card)["attention"], stored(Payment.status)) == ([], ["refunded"])
        assert reason(client.post(path, headers=admin.headers)) == (409, "not_due")

    def test_only_a_failed_one_is_tried_again(self, refund, retry, by_card, seen):
        refund(by_card)
        [made] = seen(by_card)["payments"][0]["refunds"]
        assert reason(retry(by_card, made["code"])) == (409, "not_failed")

    def test_failed_ones_are_found(self, client, admin, refund, by_card, run_job, fake, notice):
        refund(by_card)
        run_job()
        path = "/orders?attention=true"
        assert client.get(path, headers=admin.headers).get_json() == []
        fake.settle_refund(fake.all("refund")[0]["id"], "failed")
        notice()
        assert [it["code"] for it in client.get(path, headers=admin.headers).get_json()] == [by_card["code"]]

    def test_low_balance_waits(self, refund, by_card, run_job, fake, stored):
        refund(by_card)
        fake.balance_low = True
        run_job()
        assert stored(Refund.status) == ["requested"]
        fake.balance_low = False
        run_job()
        assert stored(Refund.status) == ["succeeded"]

    @pytest.mark.parametrize("kind", ["charge.refunded", "refund.updated"])
    def test_either_notice_of_a_refund_outside_suffices(self, by_card, fake, notice, seen, kind):
        fake.refund(fake.all("payment_intent")[0]["id"], 2000)
        [event] = [it for it in fake.all("event") if it["type"] == kind]
        notice(event), notice(event)
        found = seen(by_card)
        assert (found["status"], found["attention"], found["payments"][0]["refunded"]) == (
            "paid",
            ["refunded_outside"],
            2000,
        )
        assert {it["status"] for it in found["tickets"]} == {"valid"}

    def test_refund_outside_without_a_notice(self, app, by_card, fake, seen):
        fake.refund(fake.all("payment_intent")[0]["id"], 2000)
        assert app.test_cli_runner().invoke(args=["settle-payments"]).exit_code == 0
        assert seen(by_card)["attention"] == ["refunded_outside"]

    def test_refunded_outside_before_we_asked(self, refund, by_card, run_job, fake, seen, stored):
        refund(by_card)
        fake.refund(fake.all("payment_intent")[0]["id"])
        run_job()
        assert (given_back(fake), stored(Refund.status)) == ([5000], ["failed", "succeeded"])
        assert (stored(Payment.refunded), seen(by_card)["attention"]) == ([5000], ["refunded_outside"])

    def test_only_the_double_payment_is_refunded_outside(self, page, fake, pay, settle, order, run_job, seen):
        fake.pay(page)
        pay(order)
        settle(order)
        run_job()
        assert (seen(order)["status"], [it["status"] for it in seen(order)["payments"]]) == (
            "paid",
            ["confirmed", "refunded"],
        )

    def test_payment_by_a_provider_is_not_given_back_by_hand(self, client, admin, page, fake, pay, settle, order):
        fake.pay(page)
        pay(order)
        due = settle(order).get_json()["payments"][1]
        path = f"/orders/{order['code']}/payments/{due['id']}/refund"
        assert reason(client.post(path, headers=admin.headers)) == (409, "not_due")


class TestDisputes:
    @pytest.fixture
    def disputed(self, page, fake, settle, notice, order):
        fake.pay(page, DISPUTED)
        paid = settle(order).get_json()
        notice()
        return paid

    def test_marks_the_order(self, disputed, seen):
        found = seen(disputed)
        assert (found["status"], found["attention"], found["payments"][0]["disputed"]) == ("paid", ["disputed"], True)

    def test_no_money_goes_back(self, disputed, refund):
        assert reason(refund(disputed)) == (409, "disputed")
        answer = refund(disputed, tickets=[code(disputed), code(disputed, 1)], amount=0)
        assert answer.get_json()["status"] == "refunded"

    @pytest.mark.parametrize(("outcome", "left"), [("won", []), ("lost", ["disputed"])])
    def test_ends(self, disputed, fake, notice, seen, outcome, left):
        fake.close_dispute(fake.all("dispute")[0]["id"], outcome)
        notice()
        assert seen(disputed)["attention"] == left

    def test_admins_are_told_once(self, app, shop, disputed, refund, notice, admin, stored, page, fake):
        with app.app_context():
            db.session.execute(db.update(Payment).values(disputed_at=None))
            db.session.commit()
        notice(), notice()
        assert stored(Mail.kind).count("attention") == 1


class TestRefundAll:
    @pytest.fixture
    def refund_all(self, client, admin):
        def post(event):
            return client.post(f"/events/{event}/refund-all", json={"reason": "Illness"}, headers=admin.headers)

        return post

    @pytest.fixture
    def canceled(self, client, admin, by_card, place, pay, make_user, make_ticket_type):
        """An event with one order paid by card and one in cash, which is canceled."""
        event = by_card["event"]["id"]
        pay(place(make_user(), make_ticket_type(event)).get_json())
        client.patch(f"/events/{event}", json={"status": "canceled"}, headers=admin.headers)
        return event

    def test_needs_a_canceled_event(self, refund_all, by_card):
        assert reason(refund_all(by_card["event"]["id"])) == (409, "not_canceled")

    def test_refunds_each_once(self, refund_all, canceled, run_job, fake, stored):
        for _ in range(2):
            answer = refund_all(canceled)
            assert (answer.status_code, answer.get_json()) == (202, {"orders": 2})
            run_job()
        assert (given_back(fake), stored(Order.state)) == ([5000], ["refunded", "refunded"])
        assert stored(Payment.status) == ["refunded", "refund_due"]

    def test_shows_how_far_it_is(self, client, admin, refund_all, canceled, run_job):
        def progress():
            return client.get(f"/events/{canceled}/sales", headers=admin.headers).get_json()["refund_all"]

        refund_all(canceled)
        assert progress() == {"orders": 2, "done": 0, "left": 2}
        run_job()
        assert progress() == {"orders": 2, "done": 2, "left": 0}

    def test_used_tickets_stay_used(self, client, staff, by_card, admin, refund_all, run_job, stored):
        client.post(f"/tickets/{code(by_card)}/check-in", headers=staff.headers)
        client.patch(f"/events/{by_card['event']['id']}", json={"status": "canceled"}, headers=admin.headers)
        refund_all(by_card["event"]["id"])
        run_job()
        assert (stored(Order.state), stored(Ticket.status)) == (["refunded"], ["used", "void"])

    def test_tells_every_buyer_once(self, shop, refund_all, canceled, run_job, stored):
        for _ in range(2):
            refund_all(canceled)
            run_job()
        assert stored(Mail.kind).count("order_refunded") == 2

    def test_disputed_orders_are_left(self, app, client, admin, refund_all, canceled, run_job, stored):
        with app.app_context():
            db.session.execute(db.update(Payment).where(Payment.provider == "stripe").values(disputed_at=now()))
            db.session.commit()
        refund_all(canceled)
        run_job()
        assert stored(Order.state) == ["paid", "refunded"]

    def test_what_was_paid_by_hand_is_handed_back(self, client, admin, refund_all, canceled, run_job):
        refund_all(canceled)
        run_job()
        [due] = client.get("/payments?status=refund_due", headers=admin.headers).get_json()
        path = f"/orders/{due['order']['code']}/payments/{due['id']}/refund"
        assert client.post(path, headers=admin.headers).get_json()["status"] == "refunded"
