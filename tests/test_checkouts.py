"""Orders paid on a provider's page, against the fake of Stripe over HTTP."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from models import Checkout, Mail, Order, Payment, Refund, Ticket, db, now
from tests.card_shop import *  # noqa: F403
from tests.card_shop import reason
from tests.fakes.plain_provider import PlainProvider
from tests.fakes.stripe import DECLINED, DELAYED

BACK = "http://localhost:3000/paid"


class TestStart:
    def test_answers_a_page(self, checkout, order, fake):
        answer = checkout(order)
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/orders/{order['code']}/checkout"
        body = answer.get_json()
        assert set(body) == {"status", "provider", "url", "expires_at"}
        assert (body["status"], body["provider"]) == ("open", "stripe")
        assert body["url"].startswith(f"{fake.address}/pay/")

    def test_same_page_while_it_is_open(self, checkout, order, fake):
        first, second = checkout(order), checkout(order)
        assert (second.status_code, second.get_json()) == (200, first.get_json())
        assert len(fake.all("checkout.session")) == 1

    def test_can_be_read(self, client, buyer, checkout, order, staff):
        made = checkout(order).get_json()
        for who in (buyer, staff):
            assert client.get(f"/orders/{order['code']}/checkout", headers=who.headers).get_json() == made

    def test_nothing_to_read(self, client, buyer, order):
        assert client.get(f"/orders/{order['code']}/checkout", headers=buyer.headers).status_code == 404

    def test_is_for_its_buyer_alone(self, checkout, order, make_user, admin):
        assert checkout(order, make_user()).status_code == checkout(order, admin).status_code == 404

    def test_costs_what_the_order_costs(self, checkout, order, fake):
        checkout(order, amount=1, currency="JPY", total=1)
        assert [(it["amount_total"], it["currency"]) for it in fake.all("checkout.session")] == [(5000, "usd")]

    def test_leads_back_to_the_shop(self, checkout, order, fake):
        checkout(order)
        [page] = fake.all("checkout.session")
        assert page["success_url"] == f"https://shop.example/orders/{order['code']}"

    def test_leads_back_to_an_origin_of_ours(self, checkout, order, fake):
        checkout(order, return_url=BACK)
        assert fake.all("checkout.session")[0]["success_url"] == BACK

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example/paid",
            "http://localhost:3000.evil.example/",
            "http://evil.example\\@localhost:3000/",
            "http://localhost:3000@evil.example/",
            "https://localhost:3000/",
            "javascript:alert(1)",
            5,
        ],
    )
    def test_leads_nowhere_else(self, checkout, order, url):
        answer = checkout(order, return_url=url)
        assert answer.status_code == 400
        assert set(answer.get_json()["message"]) == {"return_url"}

    def test_holds_the_places_longer_once(self, app, checkout, order, stored):
        app.config["CHECKOUT_GRACE_SECONDS"] = 5000
        longer = checkout(order).get_json()["expires_at"]
        assert longer > order["expires_at"]
        app.config["CHECKOUT_GRACE_SECONDS"] = 9000
        with app.app_context():
            db.session.execute(db.update(Checkout).values(status="expired"))
            db.session.commit()
        assert checkout(order).get_json()["expires_at"] == longer

    def test_not_configured(self, app, checkout, order):
        app.config["STRIPE_SECRET_KEY"] = ""
        assert reason(checkout(order)) == (409, "not_configured")

    @pytest.mark.parametrize("fate", ["canceled", "expired", "paid"])
    def test_not_pending(self, client, buyer, checkout, order, lapse, pay, fate):
        if fate == "canceled":
            client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        if fate == "expired":
            lapse(order)
        if fate == "paid":
            pay(order)
        answer = checkout(order)
        assert reason(answer) == (409, "not_pending")
        assert answer.get_json()["status"] == fate

    def test_event_canceled(self, client, admin, checkout, order):
        client.patch(f"/events/{order['event']['id']}", json={"status": "canceled"}, headers=admin.headers)
        assert reason(checkout(order)) == (409, "event_canceled")

    def test_too_little_for_the_provider(self, checkout, buyer, place, make_ticket_type, card_shop, stored):
        order = place(buyer, make_ticket_type(price=10)).get_json()
        assert reason(checkout(order)) == (409, "not_payable")
        assert stored(Checkout.status) == ["expired"]

    @pytest.mark.parametrize("kind", ["down", "limited", "cut", "lost"])
    def test_provider_away_then_back(self, checkout, order, fake, kind):
        fake.fault(kind=kind, times=3)
        answer = checkout(order)
        assert reason(answer) == (503, "provider_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        fake.faults.clear()
        assert checkout(order).status_code == 201
        assert len(fake.all("checkout.session")) == 1

    def test_start_that_died_is_taken_up_ten_minutes_later(self, app, checkout, order, fake, stored):
        fake.fault(kind="down", times=3)
        checkout(order)
        with app.app_context():
            db.session.execute(db.update(Checkout).values(ends_at=now(25 * 60)))
            db.session.commit()
        assert checkout(order).status_code == 201
        assert stored(Checkout.status) == ["abandoned", "open"]

    def test_price_and_name_may_change_meanwhile(self, client, admin, checkout, order, fake):
        fake.fault(kind="lost", times=3)
        checkout(order)
        change = {"price": 9900, "name": "Other"}
        client.patch(f"/ticket-types/{order['items'][0]['ticket_type_id']}", json=change, headers=admin.headers)
        assert checkout(order).status_code == 201
        assert [it["amount_total"] for it in fake.all("checkout.session")] == [5000]

    def test_page_past_its_end_is_settled_and_another_made(self, app, checkout, order, fake, stored, page):
        with app.app_context():
            db.session.execute(db.update(Checkout).values(ends_at=now(-1)))
            db.session.commit()
        fake.advance(3600)
        assert checkout(order).status_code in (201, 503)  # the fake's clock is ahead: its half-hour rule may refuse
        assert stored(Checkout.status)[0] == "expired"

    def test_order_canceled_while_the_page_is_made(self, client, buyer, checkout, order, fake, stored):
        fake.fault(kind="slow", seconds=1)
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(checkout, order)
            time.sleep(0.4)
            assert client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers).status_code == 200
            assert reason(answer.result()) == (409, "not_pending")
        assert [it["status"] for it in fake.all("checkout.session")] == ["expired"]
        assert stored(Checkout.status) == ["abandoned"]

    def test_ten_clicks_at_once_make_one_page(self, checkout, order, fake, stored):
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: checkout(order), range(10)))
        assert {it.status_code for it in answers} <= {200, 201, 503}
        assert len({it.get_json()["url"] for it in answers if it.status_code != 503}) == 1
        assert (len(fake.all("checkout.session")), stored(Checkout.status)) == (1, ["open"])

    def test_slow_provider_slows_nobody_else(self, checkout, order, fake, make_user, place, make_ticket_type):
        fake.fault(kind="slow", seconds=3)
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(checkout, order)
            time.sleep(0.5)
            other = place(make_user(), order["items"][0]["ticket_type_id"])
            assert (other.status_code, answer.done()) == (409, False)  # sold out, told at once
            assert place(make_user(), make_ticket_type(order["event"]["id"])).status_code == 201
            assert not answer.done()
            assert answer.result().status_code == 201


class TestPaid:
    def test_settle_pays_the_order(self, page, fake, settle, order, stored):
        fake.pay(page)
        answer = settle(order)
        assert answer.status_code == 200
        paid = answer.get_json()
        assert (paid["status"], len(paid["tickets"]), stored(Checkout.status)) == ("paid", 2, ["paid"])
        [payment] = paid["payments"]
        assert (payment["method"], payment["provider"], payment["amount"]) == ("card", "stripe", 5000)
        assert (payment["status"], payment["refunds"], payment["disputed"]) == ("confirmed", [], False)
        assert payment["reference"].startswith("pi_")

    def test_notice_alone_pays_the_order(self, page, fake, notice, stored):
        fake.pay(page)
        assert (notice().status_code, notice().get_json()) == (200, {})
        assert (stored(Order.state), len(stored(Ticket.id))) == (["paid"], 2)

    def test_neither_notice_nor_browser_is_needed(self, page, fake, run_job, stored):
        fake.pay(page)
        run_job()
        assert (stored(Order.state), len(stored(Ticket.id))) == (["paid"], 2)

    def test_notice_before_the_answer(self, checkout, order, fake, notice, stored):
        fake.fault(kind="lost", times=3)
        checkout(order)
        fake.pay(fake.all("checkout.session")[0]["id"])
        assert notice().status_code == 200
        assert (stored(Order.state), stored(Checkout.status)) == (["paid"], ["paid"])
        assert reason(checkout(order)) == (409, "not_pending")

    def test_all_at_once_pay_once(self, app, page, fake, settle, notice, run_job, order, stored, shop):
        fake.pay(page)
        event = fake.all("event")[-1]
        calls = [lambda: settle(order), lambda: notice(event), run_job] * 3
        with ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(lambda call: call(), calls))
        assert (stored(Payment.status), stored(Order.state), len(stored(Ticket.id))) == (["confirmed"], ["paid"], 2)
        assert stored(Mail.kind) == ["order_paid"]

    def test_all_replayed_backwards_changes_nothing(self, page, fake, notice, stored):
        fake.pay(page)
        for event in [*fake.all("event"), *fake.all("event")[::-1]]:
            assert notice(event).status_code == 200
        assert (stored(Payment.status), len(stored(Ticket.id)), stored(Refund.id)) == (["confirmed"], 2, [])

    def test_while_unpaid_it_is_pending(self, page, fake, settle, order):
        fake.pay(page, DECLINED)
        assert settle(order).get_json()["status"] == "pending"

    def test_asks_again_only_after_two_seconds(self, page, fake, settle, order):
        before = len(fake.calls)
        settle(order), settle(order)
        assert len(fake.calls) == before + 1

    def test_complete_and_not_paid_issues_nothing(self, page, fake, settle, order, stored):
        fake.pay(page, DELAYED)
        assert settle(order).get_json()["status"] == "pending"
        assert stored(Ticket.id) == []

    def test_delayed_payment_that_comes_pays(self, page, fake, notice, stored):
        fake.pay(page, DELAYED)
        notice()
        fake.finish(page, paid=True)
        notice()
        assert stored(Order.state) == ["paid"]

    def test_lapsed_with_places_free_is_seated(self, page, fake, settle, order, lapse):
        lapse(order)
        fake.pay(page)
        assert settle(order).get_json()["status"] == "paid"

    def test_lapsed_and_places_gone_is_refunded(self, page, fake, settle, order, lapse, place, make_user, stored):
        lapse(order)
        assert place(make_user(), order["items"][0]["ticket_type_id"], 2).status_code == 201
        fake.pay(page)
        seen = settle(order).get_json()
        assert (seen["status"], seen["payments"][0]["status"]) == ("expired", "refund_due")
        assert [it["status"] for it in seen["payments"][0]["refunds"]] == ["requested"]

    def test_its_refund_reaches_the_buyer(self, page, fake, settle, order, client, buyer, run_job, stored):
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        fake.pay(page)
        settle(order)
        run_job()
        assert [it["amount"] for it in fake.all("refund")] == [5000]
        assert (stored(Refund.status), stored(Payment.status)) == (["succeeded"], ["refunded"])

    @pytest.mark.parametrize("really", [{"amount": 4900}, {"amount": 5100}, {"currency": "eur"}])
    def test_other_amount_or_currency_is_kept_and_refunded(self, page, fake, settle, order, run_job, stored, really):
        fake.pay(page, **really)
        assert settle(order).get_json()["status"] == "pending"
        assert stored(Payment.status) == ["refund_due"]
        run_job()
        assert [(it["amount"], it["currency"]) for it in fake.all("refund")] == [
            (really.get("amount", 5000), really.get("currency", "usd"))
        ]

    def test_cash_and_card_pay_once(self, page, fake, settle, order, pay, run_job, stored):
        fake.pay(page)
        pay(order)
        settle(order)
        run_job()
        assert (stored(Payment.status), stored(Payment.provider)) == (["confirmed", "refunded"], [None, "stripe"])
        assert len(fake.all("refund")) == 1

    def test_canceled_and_ordered_again_is_payable(self, client, buyer, checkout, order, place):
        checkout(order)
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        again = place(buyer, order["items"][0]["ticket_type_id"], 2).get_json()
        assert checkout(again).status_code == 201


class TestClose:
    @pytest.mark.parametrize("way", ["cancel", "lapse", "cash"])
    def test_page_of_what_is_over_is_closed(self, app, client, buyer, page, fake, order, lapse, pay, run_job, way):
        if way == "cancel":
            client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        if way == "cash":
            pay(order)
        if way == "lapse":
            lapse(order)
            app.test_cli_runner().invoke(args=["expire-orders"])
        run_job()
        assert [it["status"] for it in fake.all("checkout.session")] == ["expired"]

    def test_closed_page_is_no_error(self, client, buyer, page, fake, order, run_job, stored):
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        fake.expire(fake.find(page))
        run_job()
        assert stored(Checkout.status) == ["expired"]

    def test_page_that_ran_out_sends_no_mail(self, page, fake, notice, stored, shop):
        fake.expire(fake.find(page))
        notice()
        assert (stored(Checkout.status), stored(Mail.id)) == (["expired"], [])

    def test_event_with_an_open_page_is_not_deleted(self, client, buyer, admin, page, order, run_job):
        client.post(f"/orders/{order['code']}/cancel", headers=buyer.headers)
        event = f"/events/{order['event']['id']}"
        assert reason(client.delete(event, headers=admin.headers)) == (409, "has_orders")
        run_job()
        assert client.delete(event, headers=admin.headers).status_code == 204


class TestNotices:
    @pytest.mark.parametrize("version", ["2017-08-15", "2027-11-01.next"])
    def test_of_another_version_of_the_api(self, page, fake, notice, stored, version):
        fake.pay(page)
        event = fake.all("event")[-1] | {"api_version": version}
        assert notice(event).status_code == 200
        assert stored(Order.state) == ["paid"]

    @pytest.mark.parametrize("secret", ["whsec_other", ""])
    def test_forged(self, page, fake, notice, stored, secret):
        fake.pay(page)
        assert notice(secret=secret).status_code == 400
        assert stored(Order.state) == ["pending"]

    def test_unsigned(self, client, card_shop):
        assert client.post("/webhooks/stripe", data=b"{}").status_code == 400

    def test_other_provider(self, client, card_shop):
        assert client.post("/webhooks/paypal", data=b"{}").status_code == 404

    def test_not_configured(self, client):
        assert client.post("/webhooks/stripe", data=b"{}").status_code == 404

    def test_somebody_elses_page(self, fake, notice, page, app, stored):
        fake.find(page)["metadata"] = {}
        fake.pay(page)
        with app.app_context():
            db.session.execute(db.update(Checkout).values(reference="cs_other"))
            db.session.commit()
        assert notice().status_code == 200

    def test_page_of_ours_that_is_not_here_is_to_come_again(self, app, fake, notice, page):
        fake.pay(page)
        with app.app_context():
            db.session.execute(db.delete(Checkout))
            db.session.commit()
        assert notice().status_code == 503

    def test_provider_away_then_the_repeat_does_the_work(self, page, fake, notice, stored):
        fake.pay(page)
        fake.fault(kind="down", times=3)
        assert notice().status_code == 503
        assert notice().status_code == 200
        assert stored(Order.state) == ["paid"]

    def test_other_key_forgets_old_pages_and_makes_new_ones(self, app, page, fake, settle, order, checkout, stored):
        app.config["STRIPE_SECRET_KEY"] = "sk_live_1"
        assert settle(order).get_json()["status"] == "pending"
        assert stored(Checkout.status) == ["expired"]
        assert checkout(order).status_code == 201


class TestAnotherProvider:
    """Mobile money: no page, no notices, no refunds."""

    @pytest.fixture
    def plain(self, app):
        app.extensions["payment_provider"] = provider = PlainProvider()
        app.config["SHOP_URL"] = "https://shop.example"
        yield provider
        del app.extensions["payment_provider"]

    def test_pays_an_order(self, plain, buyer, place, make_ticket_type, checkout, settle, stored):
        order = place(buyer, make_ticket_type()).get_json()
        made = checkout(order).get_json()
        assert (made["provider"], made["url"]) == ("plain", None)
        plain.pay(next(iter(plain.pages)))
        assert settle(order).get_json()["status"] == "paid"
        assert (stored(Payment.method), stored(Payment.provider)) == (["mobile_money"], ["plain"])

    def test_away(self, plain, buyer, place, make_ticket_type, checkout):
        plain.away = True
        assert reason(checkout(place(buyer, make_ticket_type()).get_json())) == (503, "provider_unavailable")
