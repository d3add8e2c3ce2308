"""Cards by Stripe: a Checkout Session is the page to pay on, its PaymentIntent is the payment.

Seen with stripe 16: its objects are no dicts, but `x["a"]`, `"a" in x` and attributes work.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import stripe

from routes.outside.provider import (
    BadNotice,
    Declined,
    Dispute,
    DisputeStatus,
    Facts,
    Notice,
    PageState,
    PaymentFacts,
    PaymentRequest,
    Reason,
    RefundRequest,
    RefundStatus,
    Returned,
    Started,
    Unavailable,
    outside_call,
)

TIMEOUT_SECONDS = 10
RETRIES = 2
TOLERANCE_SECONDS = 300  # a notice that was signed longer ago may be somebody's recording
NAME_LENGTH = 250

# To be subscribed to at Stripe. Either of `charge.refunded` and `refund.updated` suffices for a refund.
PAGE_EVENTS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)
PAYMENT_EVENTS = (
    "charge.refunded",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
)
EVENTS = PAGE_EVENTS + PAYMENT_EVENTS

# Where Stripe's unit is not ISO 4217's minor unit: both have no decimals, but Stripe counts in hundredths. UGX stands
# among its currencies without decimals as well: try it with a test account before selling in it.
HUNDREDTHS = {"ISK", "UGX"}
LAST_DIGIT_ZERO = {"BHD", "JOD", "KWD", "OMR", "TND"}  # three decimals, of which Stripe takes two
NOT_TAKEN = {"MGA", "IQD", "LYD"}  # Stripe has no unit for MGA's fifths, nor the others' thousandths

# Stripe's least amounts, in its own units. It refuses what is too little in another currency itself.
LEAST = {
    **dict.fromkeys(("USD", "AUD", "BRL", "CAD", "CHF", "EUR", "INR", "NZD", "SGD"), 50),
    **{"AED": 200, "BGN": 100, "CZK": 1500, "DKK": 250, "GBP": 30, "HKD": 400, "HUF": 17_500, "JPY": 50},
    **{"MXN": 1000, "MYR": 200, "NOK": 300, "PLN": 200, "RON": 200, "SEK": 300, "THB": 1000},
}
MOST = 99_999_999

REASONS: dict[str | None, Reason] = {
    "amount_too_small": "not_payable",
    "amount_too_large": "not_payable",
    "charge_already_refunded": "already_refunded",
    "charge_disputed": "disputed",
    "resource_missing": "unknown",
}
BALANCE_TOO_LOW = {"balance_insufficient", "insufficient_funds"}  # it may be enough tomorrow

logger = logging.getLogger(__name__)
logging.getLogger("stripe").setLevel(logging.WARNING)  # below, it quotes Stripe's errors, and they may quote a buyer


class StripeProvider:
    name = "stripe"
    refunds = True

    def __init__(
        self, *, key: str, webhook_secrets: str = "", api_base: str = "", timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """Secrets for webhooks may be two, with a comma, while one takes over from the other."""
        self.live = key.startswith(("sk_live_", "rk_live_"))
        self.secrets = [secret for secret in map(str.strip, webhook_secrets.split(",")) if secret]
        self.client = stripe.StripeClient(
            key,
            base_addresses={"api": api_base} if api_base else None,
            http_client=stripe.RequestsClient(timeout=timeout),
            max_network_retries=RETRIES,
        )

    def start(self, wanted: PaymentRequest) -> Started:
        parameters = session_parameters(wanted)
        with asking():
            session = self.client.v1.checkout.sessions.create(parameters, {"idempotency_key": wanted.code})
        return Started(reference=session.id, url=session.url, instructions=None, ends_at=time(session.expires_at))

    def look_up(self, reference: str) -> Facts:
        with asking():
            session = self.client.v1.checkout.sessions.retrieve(reference, {"expand": ["payment_intent"]})
        return facts(session)

    def read_notice(self, body: bytes, headers: Mapping[str, str]) -> list[Notice]:
        """Nothing is read but its kind, its mode and ids: all else looks different in each version of Stripe's API."""
        self.check_signature(body, headers)
        try:
            event = json.loads(body)
            kind, live, subject = event["type"], event["livemode"], event["data"]["object"]
        except (ValueError, TypeError, KeyError):
            raise BadNotice from None
        if kind not in EVENTS:
            return []
        if live != self.live:
            logger.warning("Stripe's notice %s is of the other mode, live or test, than the key", identifier(event))
            return []
        return notices(kind, subject)

    def check_signature(self, body: bytes, headers: Mapping[str, str]) -> None:
        signature = {name.lower(): value for name, value in headers.items()}.get("stripe-signature")
        if not any(signed(body, signature, secret) for secret in self.secrets):
            raise BadNotice

    def close(self, reference: str) -> None:
        with asking(), suppress(stripe.InvalidRequestError):
            self.client.v1.checkout.sessions.expire(reference)

    def refund(self, wanted: RefundRequest) -> Returned:
        """Stripe forgets keys after 24 hours, and answers a younger one with how things stood at its first use."""
        amount = to_stripe(wanted.amount, wanted.currency)
        with asking():
            refund = self.find_refund(wanted) if wanted.asked_at else None
            refund = refund or self.client.v1.refunds.create(
                {"payment_intent": wanted.payment_reference, "amount": amount, "metadata": {"refund": wanted.key}},
                {"idempotency_key": wanted.key},
            )
        return returned(refund)

    def find_refund(self, wanted: RefundRequest) -> stripe.Refund | None:
        made = self.refunds_of(wanted.payment_reference)
        return next((refund for refund in made if ours(refund, "refund") == wanted.key), None)

    def refunds_of(self, payment_intent: str) -> list[stripe.Refund]:
        return list(self.client.v1.refunds.list({"payment_intent": payment_intent, "limit": 100}).auto_paging_iter())

    def look_up_payment(self, reference: str) -> PaymentFacts:
        with asking():
            id = self.payment_intent_of(reference)
            intent = self.client.v1.payment_intents.retrieve(id)
            refunds = self.refunds_of(id)
            disputes = self.client.v1.disputes.list({"payment_intent": id, "limit": 100}).data
        return PaymentFacts(
            payment_reference=id,
            code=ours(intent, "checkout"),
            refunds=tuple(map(returned, refunds)),
            disputes=tuple(map(dispute, disputes)),
        )

    def payment_intent_of(self, reference: str) -> str:
        """Notices in an old version of the API know the charge alone."""
        if reference.startswith("pi_"):
            return reference
        intent = identifier(self.client.v1.charges.retrieve(reference).payment_intent)
        if not intent:
            raise Declined("unknown")
        return intent

    def recent_notices(self, since: datetime) -> list[Notice]:
        wanted: stripe.params.EventListParams = {
            "types": list(PAYMENT_EVENTS),
            "created": {"gte": int(since.timestamp())},
            "limit": 100,
        }
        with asking():
            events = list(self.client.v1.events.list(wanted).auto_paging_iter())
        found = [notice for event in events for notice in notices(event.type, event.data.object)]
        return list(dict.fromkeys(found))


@contextmanager
def asking() -> Iterator[None]:
    """One outside call, or a few in a row, whose errors are the two that the rules know."""
    with outside_call():
        try:
            yield
        except stripe.InvalidRequestError as error:
            if error.code in BALANCE_TOO_LOW:
                raise unavailable(error) from error
            raise declined(error) from error
        except stripe.IdempotencyError as error:
            raise Declined("key_reused") from error
        except stripe.CardError as error:
            raise declined(error) from error
        except stripe.StripeError as error:
            raise unavailable(error) from error


def unavailable(error: stripe.StripeError) -> Unavailable:
    """A key that Stripe does not take is among these: nothing is lost until somebody has put it right."""
    kind = type(error).__name__
    logger.warning("Stripe: %s, status %s, code %s, request %s", kind, error.http_status, error.code, error.request_id)
    return Unavailable(kind)


def declined(error: stripe.InvalidRequestError | stripe.CardError) -> Declined:
    reason = reason_of(error.code, error.param or "")
    if reason == "refused":
        logger.error("Stripe refused: code %s, field %s, request %s", error.code, error.param, error.request_id)
    return Declined(reason)


def reason_of(code: str | None, field: str) -> Reason:
    """Stripe has no code for some refusals, but names the field."""
    if code in REASONS:
        return REASONS[code]
    if field == "expires_at":
        return "too_late"
    if field == "amount":
        return "exceeds_left"
    return "not_payable" if field.endswith("currency]") else "refused"


def to_stripe(amount: int, currency: str) -> int:
    if currency in NOT_TAKEN or currency in LAST_DIGIT_ZERO and amount % 10:
        raise Declined("not_payable")
    return amount * 100 if currency in HUNDREDTHS else amount


def from_stripe(amount: int, currency: str) -> int:
    return amount // 100 if currency.upper() in HUNDREDTHS else amount


def session_parameters(wanted: PaymentRequest) -> Any:
    """Methods that answer at once and no other currency than ours: a hold is minutes, a bank transfer days."""
    if not LEAST.get(wanted.currency, 1) <= to_stripe(wanted.amount, wanted.currency) <= MOST:
        raise Declined("not_payable")
    ours = {"checkout": wanted.code, "order": wanted.order_code}
    parameters = {
        "mode": "payment",
        "payment_method_types": ["card"],
        "adaptive_pricing": {"enabled": False},
        "line_items": [
            {
                "quantity": line.quantity,
                "price_data": {
                    "currency": wanted.currency.lower(),
                    "unit_amount": to_stripe(line.unit_amount, wanted.currency),
                    "product_data": {"name": line.name[:NAME_LENGTH]},
                },
            }
            for line in wanted.lines
        ],
        "client_reference_id": wanted.code,
        "metadata": ours,
        "payment_intent_data": {"metadata": ours},
        "expires_at": int(wanted.ends_at.timestamp()),
        "success_url": wanted.return_url,
        "cancel_url": wanted.cancel_url,
    }
    return parameters | ({"customer_email": wanted.email} if plain(wanted.email) else {})


def plain(email: str) -> bool:
    """An address that Stripe takes for certain. With another one it would refuse the whole page."""
    return email.isascii() and "." in email.rpartition("@")[2]


def facts(session: stripe.checkout.Session) -> Facts:
    intent = session.payment_intent if isinstance(session.payment_intent, stripe.PaymentIntent) else None
    state = state_of(session, intent)
    known = Facts(reference=session.id, code=ours(session, "checkout"), state=state, ends_at=time(session.expires_at))
    if state != "paid" or intent is None:
        return known
    currency = intent.currency.upper()
    amount = from_stripe(intent.amount_received, currency)
    return replace(known, payment_reference=intent.id, amount=amount, currency=currency)


def state_of(session: stripe.checkout.Session, intent: stripe.PaymentIntent | None) -> PageState:
    """Complete is not paid: a method that takes days is still on its way, or has failed."""
    if session.status == "expired":
        return "expired"
    if session.status == "open":
        return "open"
    if intent is None:
        return "failed"
    if session.payment_status == "paid":
        return "paid"
    return "open" if intent.status == "processing" else "failed"


def returned(refund: stripe.Refund) -> Returned:
    return Returned(
        reference=refund.id,
        status=refund_status(refund.status),
        amount=from_stripe(refund.amount, refund.currency),
        currency=refund.currency.upper(),
        key=ours(refund, "refund"),
        failure=field(refund, "failure_reason"),
    )


def refund_status(status: str | None) -> RefundStatus:
    if status == "succeeded":
        return "succeeded"
    return "failed" if status in ("failed", "canceled") else "pending"


def dispute(made: stripe.Dispute) -> Dispute:
    amount = from_stripe(made.amount, made.currency)
    return Dispute(reference=made.id, status=dispute_status(made.status), amount=amount, currency=made.currency.upper())


def dispute_status(status: str) -> DisputeStatus:
    """A bank's inquiry is open like a dispute. What prevented one is a refund, and stands among the refunds."""
    if status == "lost":
        return "lost"
    return "won" if status in ("won", "warning_closed", "prevented") else "open"


def ours(thing: Any, name: str) -> str | None:
    """Of what we wrote on it, one value."""
    value: str | None = field(thing.metadata or {}, name)
    return value


def notices(kind: str, subject: Any) -> list[Notice]:
    """A payment's notices are about a charge, a refund or a dispute; these two name the charge too."""
    if kind in PAGE_EVENTS:
        page = identifier(subject)
        return [Notice(about="page", reference=page)] if page else []
    named = [field(subject, "payment_intent"), field(subject, "charge"), subject]
    payment = next(filter(None, map(identifier, named)), None)
    return [Notice(about="payment", reference=payment)] if payment else []


def identifier(thing: Any) -> str | None:
    """An id, or the id of what stands there as a whole."""
    return thing if thing is None or isinstance(thing, str) else field(thing, "id")


def field(thing: Any, name: str) -> Any:
    """Of a dict, or of one of Stripe's objects, which are none and have no `get`."""
    return thing[name] if name in thing else None  # noqa: SIM401


def signed(body: bytes, signature: str | None, secret: str) -> bool:
    try:
        return bool(stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS))
    except (stripe.SignatureVerificationError, UnicodeDecodeError, TypeError):  # TypeError: letters beyond ASCII
        return False


def time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
