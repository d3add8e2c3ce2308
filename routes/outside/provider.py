"""What a payment provider must be able to do, in plain data: nothing here knows the database, a rule or a request.

Amounts are integers in the minor unit that ISO 4217 gives the currency, currencies in capitals, times in UTC. A
provider that counts otherwise converts. What a notice says is a hint: only what is looked up is true.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import BoundedSemaphore
from typing import Literal, Protocol

CALLS_AT_A_TIME = 8
SLOTS = BoundedSemaphore(CALLS_AT_A_TIME)

Reason = Literal[
    "not_payable",  # an amount or a currency that the provider does not take
    "too_late",  # the page would end sooner than the provider allows
    "key_reused",  # the key stands for something else there
    "unknown",  # the provider has no such thing
    "already_refunded",
    "exceeds_left",  # more than is left of the payment
    "disputed",
    "not_supported",
    "refused",  # anything else; the log says what
]
PageState = Literal["open", "paid", "expired", "failed"]
RefundStatus = Literal["pending", "succeeded", "failed"]
DisputeStatus = Literal["open", "won", "lost"]


class Unavailable(Exception):
    """The provider may have done it or not: ask again later, with the same key."""


class Declined(Exception):
    """The provider will never do it. It did nothing."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class BadNotice(Exception):
    """Nobody knows who sent this notice: nothing in it was read."""


@dataclass(frozen=True, kw_only=True)
class Line:
    name: str
    quantity: int
    unit_amount: int


@dataclass(frozen=True, kw_only=True)
class PaymentRequest:
    """A page to pay on. The same `code` must always come with the same rest: it is the key of the call."""

    code: str
    order_code: str
    lines: Sequence[Line]
    currency: str
    email: str
    return_url: str
    cancel_url: str
    ends_at: datetime

    @property
    def amount(self) -> int:
        return sum(line.quantity * line.unit_amount for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Started:
    """Where to pay: a page, or instructions in words. `ends_at` is the provider's own end of it."""

    reference: str
    url: str | None
    instructions: str | None
    ends_at: datetime


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How it stands with one page to pay on. What was paid is there once the state is `paid`.

    `code` is the one it was started with, or None if somebody else made it.
    """

    reference: str
    code: str | None
    state: PageState
    ends_at: datetime
    payment_reference: str | None = None
    amount: int | None = None
    currency: str | None = None
    method: str = "card"


@dataclass(frozen=True, kw_only=True)
class RefundRequest:
    """Money to give back. `asked_at` is when it was first asked for, None if never: a repeat is looked for first.

    A refund that has failed is final: to try again takes a new `key`.
    """

    payment_reference: str
    amount: int
    currency: str
    key: str
    asked_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Returned:
    """Money given back. `key` is ours, or None where somebody gave it back at the provider."""

    reference: str
    status: RefundStatus
    amount: int
    currency: str
    key: str | None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """The buyer's bank wants money back: an amount that may be more than was paid."""

    reference: str
    status: DisputeStatus
    amount: int
    currency: str


@dataclass(frozen=True, kw_only=True)
class PaymentFacts:
    """What became of a payment after it was made. `code` is of the page on which it was paid, None if not ours."""

    payment_reference: str
    code: str | None
    refunds: tuple[Returned, ...]
    disputes: tuple[Dispute, ...]


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something happened to this: `look_up` a page, `look_up_payment` a payment."""

    about: Literal["page", "payment"]
    reference: str


class Provider(Protocol):
    """Every verb but `read_notice` goes outside, and may raise Unavailable or Declined. All may be repeated."""

    name: str
    refunds: bool  # False: people give it back by hand, and `refund` must not be called

    def start(self, wanted: PaymentRequest) -> Started:
        """Make the page, or find the one that was made with this code. Declined: not_payable, too_late, key_reused."""

    def look_up(self, reference: str) -> Facts:
        """Declined: unknown."""

    def read_notice(self, body: bytes, headers: Mapping[str, str]) -> list[Notice]:
        """What a call to our webhook is about, nothing if it is none of our business; raises BadNotice."""

    def close(self, reference: str) -> None:
        """Nobody can pay there any more, if nobody has: look it up afterwards. One that is closed is no error."""

    def refund(self, wanted: RefundRequest) -> Returned:
        """Once for each key. Declined: already_refunded, exceeds_left, disputed, unknown, not_payable."""

    def look_up_payment(self, reference: str) -> PaymentFacts:
        """The refunds and disputes of a payment, whoever made them. Takes what a notice has. Declined: unknown."""

    def recent_notices(self, since: datetime) -> list[Notice]:
        """Each payment to which something happened since, once: for notices of refunds and disputes that got lost."""


@contextmanager
def outside_call() -> Iterator[None]:
    """Few at a time in a process, so that a slow provider does not take all threads. Nobody waits for his turn."""
    if not SLOTS.acquire(blocking=False):
        raise Unavailable("too many calls at a time")
    try:
        yield
    finally:
        SLOTS.release()
