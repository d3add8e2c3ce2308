"""A provider that is nothing like Stripe: no page, no notices, no refunds. So the interface can't be Stripe's shape."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from routes.outside.provider import (
    BadNotice,
    Declined,
    Facts,
    Notice,
    PaymentFacts,
    PaymentRequest,
    RefundRequest,
    Returned,
    Started,
    Unavailable,
)


class PlainProvider:
    """Mobile money: the buyer's phone rings, and he types his PIN. Its references are the codes that we choose."""

    name = "plain"
    refunds = False

    def __init__(self) -> None:
        self.pages: dict[str, Facts] = {}
        self.asked: dict[str, PaymentRequest] = {}
        self.away = False

    def pay(self, reference: str) -> None:
        """What the buyer does on his phone."""
        asked = self.asked[reference]
        paid = replace(self.pages[reference], state="paid", payment_reference=f"receipt-{reference}")
        self.pages[reference] = replace(paid, amount=asked.amount, currency=asked.currency, method="mobile_money")

    def start(self, wanted: PaymentRequest) -> Started:
        self.reach()
        if self.asked.setdefault(wanted.code, wanted) != wanted:
            raise Declined("key_reused")
        page = Facts(reference=wanted.code, code=wanted.code, state="open", ends_at=wanted.ends_at)
        self.pages.setdefault(wanted.code, page)
        instructions = f"Your phone rings: confirm {wanted.amount} {wanted.currency}"
        return Started(reference=wanted.code, url=None, instructions=instructions, ends_at=wanted.ends_at)

    def look_up(self, reference: str) -> Facts:
        self.reach()
        if reference not in self.pages:
            raise Declined("unknown")
        return self.pages[reference]

    def read_notice(self, body: bytes, headers: Mapping[str, str]) -> list[Notice]:
        raise BadNotice

    def close(self, reference: str) -> None:
        if self.look_up(reference).state == "open":
            self.pages[reference] = replace(self.pages[reference], state="expired")

    def refund(self, wanted: RefundRequest) -> Returned:
        raise Declined("not_supported")

    def look_up_payment(self, reference: str) -> PaymentFacts:
        self.reach()
        for code, page in self.pages.items():
            if page.payment_reference == reference:
                return PaymentFacts(payment_reference=reference, code=code, refunds=(), disputes=())
        raise Declined("unknown")

    def recent_notices(self, since: datetime) -> list[Notice]:
        return []

    def reach(self) -> None:
        if self.away:
            raise Unavailable("away")
