"""Stripe's adapter against the fake, over HTTP and through the real SDK; and a provider that is nothing like Stripe."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest
import requests

from routes.outside import payments
from routes.outside.provider import (
    CALLS_AT_A_TIME,
    BadNotice,
    Declined,
    Line,
    Notice,
    PaymentRequest,
    Provider,
    RefundRequest,
    Unavailable,
)
from routes.outside.stripe import EVENTS, StripeProvider

from .conftest import ROOT, wait_until
from .fakes.plain_provider import PlainProvider
from .fakes.stripe import DECLINED, DELAYED, DISPUTED, REFUND_PENDING, FakeStripe, sign

SECRET = "whsec_fake"
TIMES = 3  # the first try and two more by the SDK


@pytest.fixture
def fake():
    with FakeStripe() as fake:
        yield fake


def connect(fake, **settings):
    return StripeProvider(**{"key": "sk_test_1", "webhook_secrets": SECRET, "api_base": fake.address} | settings)


@pytest.fixture
def shop(fake) -> Provider:
    return connect(fake)


def request(*amounts, **fields):
    lines = [Line(name="Concert, Regular", quantity=1, unit_amount=amount) for amount in amounts or (2500,)]
    ends_at = datetime.now(UTC) + timedelta(minutes=35)
    usual = {"code": "checkout1", "order_code": "order1", "currency": "USD", "email": "ada@example.com"}
    urls = {"return_url": "https://shop.example.com/back", "cancel_url": "https://shop.example.com/order"}
    return PaymentRequest(**{**usual, **urls, "lines": lines, "ends_at": ends_at} | fields)


@pytest.fixture
def paid(fake, shop):
    """A page that was paid: 25.00 USD."""
    reference = shop.start(request()).reference
    fake.pay(reference)
    return shop.look_up(reference)


def refund(paid, amount=2500, **fields):
    usual = {"payment_reference": paid.payment_reference, "currency": paid.currency, "key": "refund1", "asked_at": None}
    return RefundRequest(**{**usual, "amount": amount} | fields)


def declined(call, *given):
    with pytest.raises(Declined) as refusal:
        call(*given)
    return refusal.value.reason


class TestLoading:
    def loaded(self, script):
        script = f"import sys; {script}; print('stripe' in sys.modules)"
        return subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    def test_package_is_not_loaded_without_a_key(self):
        script = "import app; from routes.outside.payments import connect; connect({'STRIPE_SECRET_KEY': ''})"
        assert self.loaded(script) == "False\n"

    def test_package_is_loaded_with_a_key(self):
        script = "from routes.outside.payments import connect; connect({'STRIPE_SECRET_KEY': 'sk_test_1'})"
        assert self.loaded(script) == "True\n"

    def test_settings_reach_the_provider(self, fake):
        shop = payments.connect({"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_API_BASE": fake.address})
        assert shop.start(request()).url.startswith(fake.address)


class TestStart:
    def test_page_has_an_address_and_an_end(self, fake, shop):
        wanted = request()
        started = shop.start(wanted)
        assert started.url == f"{fake.address}/pay/{started.reference}"
        assert started.ends_at == wanted.ends_at.replace(microsecond=0)

    def test_page_is_made_of_what_was_wanted(self, fake, shop):
        lines = [Line(name="Regular", quantity=2, unit_amount=2500), Line(name="Child", quantity=1, unit_amount=999)]
        reference = shop.start(request(lines=lines)).reference
        page, asked = fake.find(reference), fake.asked[reference]
        assert page["amount_total"] == request(lines=lines).amount == 5999
        assert page["payment_method_types"] == ["card"]
        assert page["client_reference_id"] == "checkout1"
        assert (
            page["metadata"] == asked["payment_intent_data"]["metadata"] == {"checkout": "checkout1", "order": "order1"}
        )
        assert (page["success_url"], page["cancel_url"]) == (request().return_url, request().cancel_url)
        assert page["adaptive_pricing"] == {"enabled": False}
        assert page["customer_email"] == "ada@example.com"

    def test_same_code_finds_the_same_page(self, fake, shop):
        wanted = request()
        assert shop.start(wanted) == shop.start(wanted)
        assert len(fake.all("checkout.session")) == 1

    def test_fifty_calls_at_once_make_one_page(self, fake, shop):
        wanted = request()

        def start(_):
            for _ in range(100):
                try:
                    return shop.start(wanted).reference
                except Unavailable:
                    time.sleep(0.05)

        with ThreadPoolExecutor(50) as pool:
            references = set(pool.map(start, range(50)))
        assert references == {fake.all("checkout.session")[0]["id"]}

    def test_code_stands_for_what_it_was_first_used_for(self, shop):
        shop.start(request(2500))
        assert declined(shop.start, request(2600)) == "key_reused"

    def test_end_within_half_an_hour_is_too_late(self, shop):
        assert declined(shop.start, request(ends_at=datetime.now(UTC) + timedelta(minutes=29))) == "too_late"

    def test_currency_that_stripe_lacks(self, shop):
        assert declined(shop.start, request(5000, currency="IRR")) == "not_payable"

    def test_amount_that_stripe_finds_too_little(self, shop):
        assert declined(shop.start, request(10, currency="ZMW")) == "not_payable"

    @pytest.mark.parametrize("email", ["ada@localhost", "łukasz@example.com"])
    def test_address_that_stripe_does_not_take_is_left_out(self, email, fake, shop):
        assert fake.find(shop.start(request(email=email)).reference)["customer_email"] is None

    def test_long_name_is_cut(self, fake, shop):
        lines = [Line(name="x" * 303, quantity=1, unit_amount=100)]
        (line,) = fake.asked[shop.start(request(lines=lines)).reference]["line_items"]
        assert line["price_data"]["product_data"]["name"] == "x" * 250


class TestMoney:
    @pytest.mark.parametrize(
        ("currency", "amount", "units"),
        [
            ("USD", 2500, 2500),
            ("JPY", 500, 500),
            ("XOF", 1000, 1000),
            ("ISK", 500, 50_000),
            ("UGX", 5000, 500_000),
            ("KWD", 5120, 5120),
        ],
    )
    def test_units_there_and_back(self, currency, amount, units, fake, shop):
        reference = shop.start(request(amount, currency=currency)).reference
        page = fake.pay(reference)
        assert (page["amount_total"], page["currency"]) == (units, currency.lower())
        facts = shop.look_up(reference)
        assert (facts.amount, facts.currency) == (amount, currency)
        shop.refund(refund(facts, amount))
        (returned,) = shop.look_up_payment(facts.payment_reference).refunds
        assert (returned.amount, returned.currency) == (amount, currency)
        assert fake.all("refund")[0]["amount"] == units

    @pytest.mark.parametrize("currency", ["USD", "EUR"])
    def test_least_amount_is_taken(self, currency, shop):
        assert shop.start(request(50, currency=currency)).url

    @pytest.mark.parametrize(
        ("currency", "amount"),
        [
            ("USD", 0),
            ("USD", 49),
            ("GBP", 29),
            ("JPY", 49),
            ("HUF", 17_499),
            ("ZMW", 0),
            ("USD", 100_000_000),
            ("MGA", 5000),
            ("LYD", 5000),
            ("KWD", 5125),
        ],
    )
    def test_amount_not_payable_is_refused_without_a_call(self, currency, amount, fake, shop):
        assert declined(shop.start, request(amount, currency=currency)) == "not_payable"
        assert fake.calls == []

    def test_refund_in_a_fraction_that_stripe_lacks(self, fake, shop):
        reference = shop.start(request(5000, currency="KWD")).reference
        fake.pay(reference)
        assert declined(shop.refund, refund(shop.look_up(reference), 1005)) == "not_payable"


class TestLookUp:
    def test_open_page(self, shop):
        wanted = request()
        facts = shop.look_up(shop.start(wanted).reference)
        assert (facts.state, facts.code, facts.amount) == ("open", "checkout1", None)

    def test_paid_page_says_what_came(self, fake, paid):
        assert (paid.state, paid.amount, paid.currency, paid.method) == ("paid", 2500, "USD", "card")
        assert paid.payment_reference == fake.all("payment_intent")[0]["id"]

    def test_other_money_than_asked_for_is_told(self, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, amount=2300, currency="eur")
        facts = shop.look_up(reference)
        assert (facts.state, facts.amount, facts.currency) == ("paid", 2300, "EUR")

    def test_declined_card_leaves_the_page_open_for_another(self, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, DECLINED)
        assert shop.look_up(reference).state == "open"
        fake.pay(reference)
        assert shop.look_up(reference).state == "paid"
        assert len(fake.all("charge")) == 1

    def test_page_that_ran_out(self, fake, shop):
        reference = shop.start(request()).reference
        fake.advance(36 * 60)
        assert shop.look_up(reference).state == "expired"

    def test_complete_is_not_paid_while_money_is_on_its_way(self, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, DELAYED)
        assert shop.look_up(reference).state == "open"

    @pytest.mark.parametrize(("comes", "state"), [(True, "paid"), (False, "failed")])
    def test_money_that_was_on_its_way(self, comes, state, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, DELAYED)
        fake.finish(reference, comes)
        assert shop.look_up(reference).state == state

    def test_unknown_page(self, shop):
        assert declined(shop.look_up, "cs_test_none") == "unknown"

    def test_page_of_test_mode_is_unknown_to_a_live_key(self, fake, shop):
        reference = shop.start(request()).reference
        live = connect(fake, key="sk_live_1")
        assert declined(live.look_up, reference) == "unknown"
        assert live.start(request()).reference.startswith("cs_live_")


class TestClose:
    def test_nobody_can_pay_any_more(self, fake, shop):
        reference = shop.start(request()).reference
        shop.close(reference)
        assert shop.look_up(reference).state == "expired"

    def test_closed_page_is_no_error(self, shop):
        reference = shop.start(request()).reference
        shop.close(reference)
        assert shop.close(reference) is None

    def test_paid_page_stays_paid(self, shop, paid):
        assert shop.close(paid.reference) is None
        assert shop.look_up(paid.reference).state == "paid"

    def test_unknown_page_is_no_error(self, shop):
        assert shop.close("cs_test_none") is None


class TestRefund:
    def test_done_at_once(self, fake, shop, paid):
        returned = shop.refund(refund(paid))
        assert (returned.status, returned.amount, returned.currency, returned.key) == (
            "succeeded",
            2500,
            "USD",
            "refund1",
        )
        assert fake.all("charge")[0]["refunded"]

    def test_in_parts(self, fake, shop, paid):
        shop.refund(refund(paid, 1000))
        shop.refund(refund(paid, 1500, key="refund2"))
        assert fake.all("charge")[0]["amount_refunded"] == 2500

    def test_same_key_gives_back_once(self, fake, shop, paid):
        assert shop.refund(refund(paid, 1000)) == shop.refund(refund(paid, 1000))
        assert len(fake.all("refund")) == 1

    def test_lost_answer_then_repeated(self, fake, shop, paid):
        fake.fault(kind="lost", path="/v1/refunds", times=TIMES)
        with pytest.raises(Unavailable):
            shop.refund(refund(paid, 1000))
        assert shop.refund(refund(paid, 1000, asked_at=datetime.now(UTC))).status == "succeeded"
        assert len(fake.all("refund")) == 1

    def test_lost_answer_repeated_after_the_key_is_forgotten(self, fake, shop, paid):
        asked_at = datetime.now(UTC)
        first = shop.refund(refund(paid, 1000))
        fake.advance(25 * 3600)
        assert shop.refund(refund(paid, 1000, asked_at=asked_at)).reference == first.reference
        assert len(fake.all("refund")) == 1

    def test_forgotten_key_alone_would_give_back_twice(self, fake, shop, paid):
        """Or the test above would prove nothing."""
        shop.refund(refund(paid, 1000))
        fake.advance(25 * 3600)
        shop.refund(refund(paid, 1000))
        assert len(fake.all("refund")) == 2

    def test_repeat_finds_its_own_among_many(self, fake, shop, paid):
        first = shop.refund(refund(paid, 100))
        for n in range(4):
            shop.refund(refund(paid, 100, key=f"another{n}"))
        fake.advance(25 * 3600)
        assert shop.refund(refund(paid, 100, asked_at=datetime.now(UTC))).reference == first.reference

    def test_repeat_says_how_it_stands_now(self, fake, shop, paid):
        fake.set(refunds_pending=True)
        first = shop.refund(refund(paid))
        fake.settle_refund(first.reference, "failed")
        again = shop.refund(refund(paid, asked_at=datetime.now(UTC)))
        assert (first.status, again.status, again.failure) == ("pending", "failed", "lost_or_stolen_card")

    def test_more_than_is_left(self, shop, paid):
        assert declined(shop.refund, refund(paid, 2501)) == "exceeds_left"

    def test_already_refunded_in_the_dashboard(self, fake, shop, paid):
        fake.refund(paid.payment_reference)
        assert declined(shop.refund, refund(paid)) == "already_refunded"

    def test_disputed(self, fake, shop, paid):
        fake.dispute(paid.payment_reference)
        assert declined(shop.refund, refund(paid)) == "disputed"

    def test_inquiry_can_be_refunded(self, fake, shop, paid):
        fake.dispute(paid.payment_reference, "warning_needs_response")
        assert shop.refund(refund(paid)).status == "succeeded"

    def test_balance_too_low_is_for_later(self, fake, shop, paid):
        fake.set(balance_low=True)
        with pytest.raises(Unavailable):
            shop.refund(refund(paid))
        fake.set(balance_low=False)
        assert shop.refund(refund(paid, asked_at=datetime.now(UTC))).status == "succeeded"

    def test_unknown_payment(self, shop, paid):
        assert declined(shop.refund, refund(paid, payment_reference="pi_none")) == "unknown"


class TestLookUpPayment:
    def test_nothing_happened(self, shop, paid):
        facts = shop.look_up_payment(paid.payment_reference)
        assert (facts.code, facts.refunds, facts.disputes) == ("checkout1", (), ())

    def test_refund_of_ours_bears_our_key(self, shop, paid):
        returned = shop.refund(refund(paid, 1000))
        assert shop.look_up_payment(paid.payment_reference).refunds == (returned,)

    def test_refund_made_in_the_dashboard_has_no_key(self, fake, shop, paid):
        fake.refund(paid.payment_reference, 700)
        (returned,) = shop.look_up_payment(paid.payment_reference).refunds
        assert (returned.key, returned.amount, returned.status) == (None, 700, "succeeded")

    def test_all_refunds_are_there_however_many(self, fake, shop, paid):
        for _ in range(7):
            fake.refund(paid.payment_reference, 100)
        assert len(shop.look_up_payment(paid.payment_reference).refunds) == 7

    @pytest.mark.parametrize("status", ["succeeded", "failed"])
    def test_refund_that_is_settled_later(self, status, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, REFUND_PENDING)
        paid = shop.look_up(reference)
        returned = shop.refund(refund(paid))
        fake.settle_refund(returned.reference, status)
        assert returned.status == "pending"
        assert shop.look_up_payment(paid.payment_reference).refunds[0].status == status

    @pytest.mark.parametrize(
        ("closed_as", "status"), [(None, "open"), ("won", "won"), ("warning_closed", "won"), ("lost", "lost")]
    )
    def test_dispute(self, closed_as, status, fake, shop):
        reference = shop.start(request()).reference
        fake.pay(reference, DISPUTED)
        if closed_as:
            fake.close_dispute(fake.all("dispute")[0]["id"], closed_as)
        (dispute,) = shop.look_up_payment(shop.look_up(reference).payment_reference).disputes
        assert (dispute.status, dispute.amount, dispute.currency) == (status, 2500, "USD")

    def test_payment_is_found_by_its_charge(self, fake, shop, paid):
        charge = fake.all("charge")[0]["id"]
        assert shop.look_up_payment(charge).payment_reference == paid.payment_reference

    def test_payment_that_is_not_ours_has_no_code(self, fake, shop, paid):
        fake.all("payment_intent")[0]["metadata"] = {}
        assert shop.look_up_payment(paid.payment_reference).code is None

    def test_unknown_payment(self, shop):
        assert declined(shop.look_up_payment, "pi_none") == "unknown"


class TestRecentNotices:
    def test_each_payment_with_a_refund_or_a_dispute_once(self, fake, shop, paid):
        for _ in range(4):
            fake.refund(paid.payment_reference, 100)
        fake.dispute(paid.payment_reference)
        since = datetime.now(UTC) - timedelta(days=2)
        assert shop.recent_notices(since) == [Notice(about="payment", reference=paid.payment_reference)]

    def test_all_of_them_however_many(self, fake, shop):
        for n in range(5):
            fake.pay(shop.start(request(code=f"checkout{n}")).reference)
        payments = [it["id"] for it in fake.all("payment_intent")]
        for payment in payments:
            fake.refund(payment)
        found = shop.recent_notices(datetime.now(UTC) - timedelta(days=2))
        assert [it.reference for it in found] == payments[::-1]

    def test_what_is_older_is_left_out(self, fake, shop, paid):
        fake.refund(paid.payment_reference)
        assert shop.recent_notices(datetime.now(UTC) + timedelta(minutes=1)) == []

    def test_payments_alone_are_none(self, shop, paid):
        assert shop.recent_notices(datetime.now(UTC) - timedelta(days=2)) == []


def notice(kind="checkout.session.completed", subject=None, **fields):
    subject = {"id": "cs_test_1", "object": "checkout.session"} if subject is None else subject
    event = {"id": "evt_1", "object": "event", "type": kind, "livemode": False, "data": {"object": subject}}
    return json.dumps(event | fields).encode()


def read(shop, body, secret=SECRET, age=0, **headers):
    headers = headers or {"Stripe-Signature": sign(body, secret, int(time.time()) - age)}
    return shop.read_notice(body, headers)


PAGE = [Notice(about="page", reference="cs_test_1")]
PAYMENT = [Notice(about="payment", reference="pi_1")]


class TestReadNotice:
    def test_page(self, shop):
        assert read(shop, notice()) == PAGE

    @pytest.mark.parametrize("kind", EVENTS)
    def test_all_that_is_subscribed_to_is_understood(self, kind, shop):
        subject = {"id": "cs_test_1"} if kind.startswith("checkout") else {"id": "x_1", "payment_intent": "pi_1"}
        assert read(shop, notice(kind, subject)) in (PAGE, PAYMENT)

    @pytest.mark.parametrize(
        ("subject", "reference"),
        [
            ({"id": "ch_1", "object": "charge"}, "ch_1"),
            ({"id": "ch_1", "object": "charge", "payment_intent": None}, "ch_1"),
            ({"id": "re_1", "object": "refund", "charge": "ch_1"}, "ch_1"),
            ({"id": "re_1", "object": "refund", "charge": {"id": "ch_1"}}, "ch_1"),
            ({"id": "re_1", "object": "refund", "payment_intent": {"id": "pi_1", "new": {}}}, "pi_1"),
        ],
    )
    def test_version_of_the_api_does_not_matter(self, subject, reference, shop):
        body = notice("charge.refunded", subject, api_version="2017-08-15")
        assert read(shop, body) == [Notice(about="payment", reference=reference)]

    def test_other_events_are_none_of_our_business(self, shop):
        assert read(shop, notice("charge.succeeded", {"id": "ch_1"})) == []

    def test_notice_of_the_other_mode_is_left_and_logged(self, shop, caplog):
        assert read(shop, notice(livemode=True)) == []
        assert "evt_1" in caplog.text

    def test_live_key_takes_live_notices(self, fake):
        assert read(connect(fake, key="rk_live_1"), notice(livemode=True)) == PAGE

    @pytest.mark.parametrize("secret", ["whsec_new", "whsec_old"])
    def test_either_of_two_secrets(self, secret, fake):
        assert read(connect(fake, webhook_secrets="whsec_new, whsec_old"), notice(), secret) == PAGE

    def test_header_in_any_case(self, shop):
        body = notice()
        assert read(shop, body, **{"stripe-signature": sign(body, SECRET, int(time.time()))}) == PAGE

    @pytest.mark.parametrize("header", ["", "t=1", "v1=00", "t=x,v1=00", "t=1,v1=ż", f"t={'9' * 5000},v1=00", ",,=,"])
    def test_bad_signature(self, header, shop):
        with pytest.raises(BadNotice):
            read(shop, notice(), **{"Stripe-Signature": header})

    def test_missing_signature(self, shop):
        with pytest.raises(BadNotice):
            read(shop, notice(), **{"Content-Type": "application/json"})

    def test_forged_signature(self, shop):
        with pytest.raises(BadNotice):
            read(shop, notice(), "whsec_forged")

    def test_body_of_another_signature(self, shop):
        header = sign(notice(), SECRET, int(time.time()))
        with pytest.raises(BadNotice):
            read(shop, notice(subject={"id": "cs_test_2"}), **{"Stripe-Signature": header})

    def test_stale_signature(self, shop):
        assert read(shop, notice(), age=290) == PAGE
        with pytest.raises(BadNotice):
            read(shop, notice(), age=310)

    @pytest.mark.parametrize("secrets", ["", " ,"])
    def test_without_a_secret_nothing_is_believed(self, secrets, fake):
        with pytest.raises(BadNotice):
            read(connect(fake, webhook_secrets=secrets), notice(), "")

    @pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"{}", b"\xff", b'{"type": "x"}', notice()[:-1]])
    def test_signed_nonsense(self, body, shop):
        with pytest.raises(BadNotice):
            read(shop, body)


class TestFaults:
    def test_lost_answer_is_asked_for_again(self, fake, shop):
        fake.fault(kind="lost", path="/v1/checkout")
        assert shop.start(request()).reference == fake.all("checkout.session")[0]["id"]
        assert fake.calls == ["POST /v1/checkout/sessions"] * 2
        assert len(fake.all("checkout.session")) == 1

    @pytest.mark.parametrize("kind", ["down", "cut", "lost"])
    def test_unavailable_after_three_tries_then_the_same_page(self, kind, fake, shop):
        wanted = request()
        fake.fault(kind=kind, times=TIMES)
        with pytest.raises(Unavailable):
            shop.start(wanted)
        assert not any(fault.times for fault in fake.faults)
        shop.start(wanted)
        assert len(fake.all("checkout.session")) == 1

    def test_too_many_requests(self, fake, shop):
        fake.fault(kind="limited")
        with pytest.raises(Unavailable):
            shop.start(request())

    def test_slow_answer_is_not_waited_for(self, fake):
        fake.fault(kind="slow", seconds=3, times=TIMES)
        with pytest.raises(Unavailable):
            connect(fake, timeout=0.2).start(request())

    def test_answer_that_is_a_little_slow(self, fake, shop):
        fake.fault(kind="slow", seconds=0.3)
        assert shop.start(request()).url

    def test_nobody_is_there(self, fake):
        with pytest.raises(Unavailable):
            connect(fake, api_base="http://127.0.0.1:1").start(request())

    def test_key_that_stripe_does_not_take(self, fake, caplog):
        with pytest.raises(Unavailable):
            connect(fake, key="wrong_1").look_up("cs_test_1")
        assert "AuthenticationError" in caplog.text
        assert "wrong_1" not in caplog.text

    def test_log_has_no_words_of_stripe(self, shop, caplog):
        """They may quote a buyer's address."""
        caplog.set_level("INFO")
        declined(shop.look_up, "cs_test_none")
        assert "No such object" not in caplog.text

    @pytest.mark.parametrize("verb", ["close", "look_up", "look_up_payment"])
    def test_every_verb_says_so(self, verb, fake, shop, paid):
        fake.fault(kind="limited")
        with pytest.raises(Unavailable):
            getattr(shop, verb)(paid.reference)

    def test_ninth_call_at_a_time_is_refused_at_once(self, fake, shop):
        fake.fault(kind="slow", seconds=60, times=CALLS_AT_A_TIME)
        with ThreadPoolExecutor(CALLS_AT_A_TIME) as pool:
            calls = [pool.submit(connect(fake, timeout=30).look_up, "cs_test_none") for _ in range(CALLS_AT_A_TIME)]
            wait_until(lambda: fake.running == CALLS_AT_A_TIME)
            with pytest.raises(Unavailable):
                shop.look_up("cs_test_none")
            assert fake.calls == []
            fake.stopped.set()  # wakes the slow ones
            assert {declined(call.result) for call in calls} == {"unknown"}
        assert declined(shop.look_up, "cs_test_none") == "unknown"


class Hook(BaseHTTPRequestHandler):
    """A shop's webhook: it refuses so many notices first, and keeps the rest."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            refused = self.server.refuses > 0
            self.server.refuses -= 1
            if not refused:
                self.server.taken.append((body, dict(self.headers)))
        self.send_response(503 if refused else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.lock, server.taken, server.refuses = Lock(), [], 0
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestNoticesOfTheFake:
    @pytest.fixture
    def fake(self, hook):
        with FakeStripe(webhook=f"http://127.0.0.1:{hook.server_port}/webhooks/stripe", secret=SECRET) as fake:
            yield fake

    @pytest.fixture
    def taken(self, fake, hook, shop):
        """The kinds of the notices that came, once all have; the adapter understands each."""

        def kinds():
            wait_until(lambda: not fake.undelivered())
            assert all(len(shop.read_notice(*it)) == 1 for it in hook.taken)
            return [json.loads(body)["type"] for body, _ in hook.taken]

        return kinds

    def test_each_comes_once(self, paid, taken):
        assert taken() == ["checkout.session.completed"]

    def test_refused_ones_come_again(self, hook, paid, fake, taken):
        wait_until(lambda: not fake.undelivered())
        hook.refuses = 2
        fake.refund(paid.payment_reference)
        assert set(taken()) == {"checkout.session.completed", "refund.updated", "charge.refunded"}

    def test_doubled(self, fake, shop, taken):
        fake.set(notices="doubled")
        fake.pay(shop.start(request()).reference)
        assert taken() == ["checkout.session.completed"] * 2

    def test_reversed(self, fake, shop, taken):
        fake.set(notices="reversed")
        reference = shop.start(request()).reference
        fake.pay(reference, DISPUTED)
        assert taken() == ["charge.dispute.created", "checkout.session.completed"]

    def test_subscribed_to_one_kind(self, fake, paid, taken):
        wait_until(lambda: not fake.undelivered())
        fake.set(subscribed=r"refund\.updated")
        fake.refund(paid.payment_reference)
        assert taken() == ["checkout.session.completed", "refund.updated"]

    def test_dropped_then_replayed(self, fake, shop, taken):
        fake.set(notices="dropped")
        fake.pay(shop.start(request()).reference)
        assert taken() == []
        fake.replay()
        assert taken() == ["checkout.session.completed"]

    def test_page_that_runs_out_unseen(self, fake, shop, taken):
        shop.start(request())
        fake.advance(36 * 60)
        wait_until(lambda: taken() == ["checkout.session.expired"])

    def test_verbs_over_http(self, fake, shop):
        reference = shop.start(request()).reference
        requests.post(f"{fake.address}/admin/pay", json={"session": reference}).raise_for_status()
        assert len(requests.post(f"{fake.address}/admin/state").json()["charge"]) == 1
        assert requests.post(f"{fake.address}/admin/pay", json={"session": reference}).status_code == 400


class TestCommandLine:
    def test_runs_and_ends(self, hook):
        webhook = f"http://127.0.0.1:{hook.server_port}/webhooks/stripe"
        command = [sys.executable, "-m", "tests.fakes.stripe", "--port", "0", "--webhook", webhook, "--secret", SECRET]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            shop = StripeProvider(key="sk_test_1", api_base=process.stdout.readline().split()[-1])
            started = shop.start(request())
            requests.post(started.url, data={"card": "4242", "action": "pay"}, allow_redirects=False)
            wait_until(lambda: hook.taken)
            assert shop.look_up(started.reference).state == "paid"
            process.terminate()
            assert process.wait(10) == 0


class TestPlainProvider:
    """Whatever holds for both is the interface."""

    @pytest.fixture
    def plain(self) -> Provider:
        return PlainProvider()

    def test_instructions_instead_of_a_page(self, plain):
        started = plain.start(request())
        assert (started.url, started.instructions) == (None, "Your phone rings: confirm 2500 USD")

    def test_paid(self, plain):
        reference = plain.start(request()).reference
        plain.pay(reference)
        facts = plain.look_up(reference)
        assert (facts.state, facts.amount, facts.currency, facts.method) == ("paid", 2500, "USD", "mobile_money")

    def test_started_twice_is_started_once(self, plain):
        wanted = request()
        assert plain.start(wanted) == plain.start(wanted)
        assert declined(plain.start, replace(wanted, currency="EUR")) == "key_reused"

    def test_closed(self, plain):
        reference = plain.start(request()).reference
        plain.close(reference)
        assert plain.look_up(reference).state == "expired"

    def test_no_notices(self, plain):
        with pytest.raises(BadNotice):
            plain.read_notice(notice(), {})
        assert plain.recent_notices(datetime.now(UTC)) == []

    def test_no_refunds(self, plain):
        reference = plain.start(request()).reference
        plain.pay(reference)
        assert declined(plain.refund, refund(plain.look_up(reference))) == "not_supported"

    def test_away(self, plain):
        plain.away = True
        with pytest.raises(Unavailable):
            plain.start(request())
