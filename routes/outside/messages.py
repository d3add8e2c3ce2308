"""The mails that we write: what each kind is told, and how it becomes a message.

A mail is plain data and knows no table. Each kind has one template, its HTML; the plain text is read out of that.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote, urlsplit

import segno
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from routes.outside.calendar import CalendarEvent, calendar_file
from routes.outside.formats import local_period, local_time, money, one_line, person
from routes.outside.mail_headers import POLICY, address, sender
from routes.outside.plain_text import plain_text

HERE = Path(__file__).parent

PaidBackBy = Literal["provider", "hand"]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Who writes. All links are made from `url`, which is `SHOP_URL`, and never from what a request says."""

    sender: Address
    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def name(self) -> str:
        return self.sender.display_name or self.host

    def order(self, code: str) -> str:
        return f"{self.url}/orders/{code}"

    def ticket(self, code: str) -> str:
        return f"{self.url}/tickets/{code}/page"

    def with_token(self, page: str, token: str) -> str:
        """A link with a secret in its fragment, which browsers send to no server and no log sees."""
        return f"{self.url}/{page}#token={quote(token, safe='')}"


@dataclass(frozen=True, kw_only=True)
class Recipient:
    name: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Event(CalendarEvent):
    time_zone: str
    contact: str | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    name: str
    quantity: int
    unit_price: int


@dataclass(frozen=True, kw_only=True)
class Payment:
    method: str
    amount: int
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    code: str
    ticket_type: str
    holder: str


@dataclass(frozen=True, kw_only=True)
class Mail:
    """What a mail tells. `template` is the name of the file with its text, as a rule the kind's."""

    kind: ClassVar[str]
    template: ClassVar[str]

    @property
    def subject(self) -> str:
        raise NotImplementedError

    @property
    def about(self) -> Event | None:
        """The event whose contact gets the answers."""
        return None

    @property
    def calendar(self) -> Event | None:
        """The event whose calendar file comes with the mail."""
        return None

    @property
    def shown_tickets(self) -> Sequence[Ticket]:
        """The tickets whose QR codes come with the mail."""
        return ()


@dataclass(frozen=True, kw_only=True)
class EventMail(Mail):
    event: Event

    @property
    def about(self) -> Event:
        return self.event


@dataclass(frozen=True, kw_only=True)
class CalendarMail(EventMail):
    @property
    def calendar(self) -> Event:
        return self.event


@dataclass(frozen=True, kw_only=True)
class OrderPaid(CalendarMail):
    kind = template = "order_paid"
    order: str
    currency: str
    total: int
    lines: Sequence[Line]
    payments: Sequence[Payment]
    tickets: Sequence[Ticket]

    @property
    def subject(self) -> str:
        return f"Your tickets for {self.event.name}"

    @property
    def shown_tickets(self) -> Sequence[Ticket]:
        return self.tickets


@dataclass(frozen=True, kw_only=True)
class OrderRefunded(EventMail):
    """Tickets that are void, money that goes back, or both. `by` says who hands the money back."""

    kind = template = "order_refunded"
    order: str
    currency: str
    amount: int
    by: PaidBackBy
    tickets: Sequence[Ticket] = ()
    reason: str | None = None

    @property
    def subject(self) -> str:
        return f"Refund for {self.event.name}" if self.amount else f"Void tickets for {self.event.name}"


@dataclass(frozen=True, kw_only=True)
class PaymentReturned(EventMail):
    """A payment that bought nothing."""

    kind = template = "payment_returned"
    order: str
    currency: str
    amount: int
    by: PaidBackBy
    reason: Literal["late", "double", "canceled", "mismatch"]

    @property
    def subject(self) -> str:
        return f"Your payment for {self.event.name} goes back to you"


@dataclass(frozen=True, kw_only=True)
class EventChanged(CalendarMail):
    kind = template = "event_changed"

    @property
    def subject(self) -> str:
        return f"New time or place: {self.event.name}"


@dataclass(frozen=True, kw_only=True)
class EventCanceled(CalendarMail):
    kind = template = "event_canceled"

    @property
    def subject(self) -> str:
        return f"Canceled: {self.event.name}"


@dataclass(frozen=True, kw_only=True)
class VerifyAddress(Mail):
    kind = template = "verify_address"
    subject = "Confirm your email address"
    token: str


@dataclass(frozen=True, kw_only=True)
class AddressChanged(Mail):
    """To the old address, which may be somebody else's by now: it does not name the new one."""

    kind = template = "address_changed"
    subject = "Your email address was changed"


@dataclass(frozen=True, kw_only=True)
class PasswordReset(Mail):
    kind = template = "password_reset"
    subject = "Choose a new password"
    token: str


@dataclass(frozen=True, kw_only=True)
class PasswordChanged(Mail):
    kind = template = "password_changed"
    subject = "Your password was changed"


@dataclass(frozen=True, kw_only=True)
class TransferOffered(EventMail):
    """To who is to have a ticket. He may not know us: the name is the only word of the giver's in it."""

    kind = "ticket_transferred"
    template = "transfer_offered"
    ticket_type: str
    giver: str
    token: str
    expires_at: datetime

    @property
    def subject(self) -> str:
        return f"A ticket for {self.event.name} is waiting for you"


@dataclass(frozen=True, kw_only=True)
class TransferReceived(CalendarMail):
    """To the new owner, with the ticket."""

    kind = "ticket_transferred"
    template = "transfer_received"
    ticket: Ticket

    @property
    def subject(self) -> str:
        return f"Your ticket for {self.event.name}"

    @property
    def shown_tickets(self) -> Sequence[Ticket]:
        return (self.ticket,)


@dataclass(frozen=True, kw_only=True)
class TransferGiven(EventMail):
    """To who gave the ticket away. `to` is the address he named."""

    kind = "ticket_transferred"
    template = "transfer_given"
    ticket_type: str
    to: str

    @property
    def subject(self) -> str:
        return f"Your ticket for {self.event.name} was accepted"


@dataclass(frozen=True, kw_only=True)
class WaitingOffer(EventMail):
    kind = template = "waiting_offer"
    order: str
    currency: str
    total: int
    ticket_type: str
    quantity: int
    expires_at: datetime

    @property
    def subject(self) -> str:
        return f"Tickets for {self.event.name} are free for you"


@dataclass(frozen=True, kw_only=True)
class Attention(EventMail):
    """To who runs the event: something that only a person can decide."""

    kind = template = "attention"
    order: str
    reason: Literal["refunded_outside", "disputed", "refund_failed"]

    @property
    def subject(self) -> str:
        return f"An order for {self.event.name} needs you"


def shop(url: str, mail_from: str) -> Shop:
    """The shop of these settings, `SHOP_URL` and `MAIL_FROM`."""
    return Shop(sender=sender(mail_from), url=shop_url(url))


def shop_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise SystemExit(f"SHOP_URL must be an address such as https://shop.example.com, not {url!r}")
    return url.rstrip("/")


def message_id(key: str, shop: Shop) -> str:
    """The Message-ID of the mail with this key. The same key gives the same one, however often the mail is sent."""
    return f"<mail.{key}@{shop.sender.domain}>"


def build(mail: Mail, *, to: Recipient, shop: Shop, message_id: str, date: datetime) -> EmailMessage:
    """The message, ready to be sent: plain text, HTML with its pictures, and the calendar file where there is one."""
    message = EmailMessage(POLICY)
    message["From"] = shop.sender
    message["To"] = address(to.name, to.address)
    message["Subject"] = one_line(mail.subject)
    message["Date"] = date
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"
    if mail.about and mail.about.contact and is_plain(mail.about.contact):
        message["Reply-To"] = address("", mail.about.contact)
    html = rendered(mail, to, shop)
    message.set_content(plain_text(html))
    message.add_alternative(html, subtype="html")
    add_pictures(message, mail.shown_tickets)
    if mail.calendar:
        add_calendar(message, mail.calendar, shop.host)
    return message


def is_plain(addr_spec: str) -> bool:
    """Whether the address can stand in a header on any mail server. The text names it in any case."""
    return addr_spec.rpartition("@")[0].isascii()


def rendered(mail: Mail, to: Recipient, shop: Shop) -> str:
    return TEMPLATES.get_template(f"{mail.template}.html").render(mail=mail, to=to, shop=shop)


def add_pictures(message: EmailMessage, tickets: Sequence[Ticket]) -> None:
    """Put each ticket's QR code into the mail, where the HTML shows it; nothing is loaded from outside."""
    html = message.get_body(("html",))
    assert html
    for ticket in tickets:
        image = io.BytesIO()
        segno.make(ticket.code, micro=False).save(image, kind="png", scale=6)
        cid, name = f"<{ticket.code}@qr>", f"ticket-{ticket.code}.png"
        html.add_related(image.getvalue(), "image", "png", cid=cid, filename=name, disposition="inline")


def add_calendar(message: EmailMessage, event: Event, host: str) -> None:
    content = calendar_file(event, host).encode()
    message.add_attachment(content, "text", "calendar", filename="event.ics", params={"charset": "utf-8"})


def tidy(value: object) -> object:
    """All that a template shows, its own markup apart, goes on one line."""
    return value if isinstance(value, Markup) else one_line(str(value))


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    finalize=tidy,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"money": money, "person": person, "local_time": local_time, "local_period": local_period}
