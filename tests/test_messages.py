"""The mails, as a mail program reads them."""

import email
import email.policy
import html
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.header import decode_header, make_header
from email.message import EmailMessage

import icalendar
import pytest

from routes.outside import messages
from routes.outside.mail_headers import POLICY
from routes.outside.messages import Recipient, build

from .conftest import NEEDS_SCANNER, scan

SHOP = messages.shop("https://shop.example/", "The Shop <tickets@mail.example>")
ANN = Recipient(name="Ann", address="ann@example.com")
START = datetime(2026, 7, 10, 18, 0, tzinfo=UTC)
SENT_AT = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
TOKEN = "t0k-en_" * 6
CODES = ("A" * 32, "0123456789ABCDEF" * 2)
NAMES = [
    "王小明",
    "محمد بن سلمان",
    "Łukasz Ćwikła",
    "Zoë 👩‍👩‍👧 🎷",
    'Ann "Bo" O\'Neil, Jr; <x>',
    "back\\slash (comment)",
    "=?utf-8?q?encoded?=",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "a, b " * 20,
    'ü, "ß" ' * 14,
    "王" * 100,
    "x" * 100,
]
BREAKS = ["\r\n", "\n", "\r", "\u2028", "\x0b", "\x00"]

EVENT = messages.Event(
    id=7,
    version=3,
    status="published",
    name="Concert",
    description="Music",
    venue="Hall",
    starts_at=START,
    ends_at=START + timedelta(hours=3),
    updated_at=SENT_AT,
    time_zone="Europe/Berlin",
    contact="organizer@example.org",
)
TICKETS = tuple(messages.Ticket(code=code, ticket_type="Standing", holder="Ann") for code in CODES)
PAID = messages.OrderPaid(
    event=EVENT,
    order="0RDER",
    currency="EUR",
    total=5000,
    lines=(messages.Line(name="Standing", quantity=2, unit_price=2500),),
    payments=(messages.Payment(method="bank_transfer", amount=5000, reference="RF-18"),),
    tickets=TICKETS,
)
REFUNDED = messages.OrderRefunded(
    event=EVENT, order="0RDER", currency="EUR", amount=2500, by="provider", tickets=TICKETS[:1], reason="Too loud"
)
RETURNED = messages.PaymentReturned(
    event=EVENT, order="0RDER", currency="EUR", amount=5000, by="provider", reason="late"
)
VERIFY = messages.VerifyAddress(token=TOKEN)
RESET = messages.PasswordReset(token=TOKEN)
OFFERED = messages.TransferOffered(event=EVENT, ticket_type="Standing", giver="Bo", token=TOKEN, expires_at=START)
RECEIVED = messages.TransferReceived(event=EVENT, ticket=TICKETS[0])
WAITING = messages.WaitingOffer(
    event=EVENT, order="0RDER", currency="EUR", total=5000, ticket_type="Standing", quantity=2, expires_at=START
)
ATTENTION = messages.Attention(event=EVENT, order="0RDER", reason="disputed")
MAILS = [
    PAID,
    REFUNDED,
    RETURNED,
    messages.EventChanged(event=EVENT),
    messages.EventCanceled(event=replace(EVENT, status="canceled")),
    VERIFY,
    messages.AddressChanged(),
    RESET,
    messages.PasswordChanged(),
    OFFERED,
    RECEIVED,
    messages.TransferGiven(event=EVENT, ticket_type="Standing", to="bo@example.com"),
    WAITING,
    ATTENTION,
]
KINDS = {
    "order_paid",
    "order_refunded",
    "payment_returned",
    "event_changed",
    "event_canceled",
    "verify_address",
    "address_changed",
    "password_reset",
    "password_changed",
    "ticket_transferred",
    "waiting_offer",
    "attention",
}

each_mail = pytest.mark.parametrize("mail", MAILS, ids=lambda mail: mail.template)


def read(mail, to=ANN):
    """The mail as it arrives, parsed."""
    message = build(mail, to=to, shop=SHOP, message_id=messages.message_id("17", SHOP), date=SENT_AT)
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def text(mail, kind="plain", to=ANN):
    return read(mail, to).get_body((kind,)).get_content().replace("\r\n", "\n")


def seen(mail, to=ANN):
    """What a browser shows of the HTML."""
    body = text(mail, "html", to).partition("<body>")[2]
    return " ".join(html.unescape(re.sub("<[^>]+>", "", re.sub("<br>|</td>", " ", body))).split())


def decoded(mail, header, to=ANN):
    """The header as other mail programs decode it; the parser above puts blanks into long names."""
    raw = email.message_from_bytes(read(mail, to).as_bytes(), policy=email.policy.compat32)[header]
    return str(make_header(decode_header(raw)))


def attachments(mail, content_type):
    return [part for part in read(mail).walk() if part.get_content_type() == content_type]


class TestHeaders:
    def test_every_kind_is_there(self):
        assert {mail.kind for mail in MAILS} == KINDS

    @each_mail
    def test_say_who_writes_to_whom_and_that_nobody_typed_it(self, mail):
        message = read(mail)
        assert message["From"] == "The Shop <tickets@mail.example>"
        assert message["To"] == "Ann <ann@example.com>"
        assert message["Message-ID"] == "<mail.17@mail.example>"
        assert message["Date"].datetime == SENT_AT
        assert message["Auto-Submitted"] == "auto-generated"

    @each_mail
    def test_are_whole_and_no_line_of_the_message_is_too_long(self, mail):
        raw = build(mail, to=ANN, shop=SHOP, message_id="<1@x>", date=SENT_AT).as_bytes()
        assert raw.isascii()
        assert max(map(len, raw.split(b"\r\n"))) < 998
        assert [part.defects for part in read(mail).walk() if part.defects] == []

    @each_mail
    def test_answers_go_to_the_events_contact(self, mail):
        contact = mail.event.contact if isinstance(mail, messages.EventMail) else None
        assert read(mail)["Reply-To"] == contact

    def test_contact_that_few_mail_servers_take_is_named_in_the_text_alone(self):
        mail = replace(PAID, event=replace(EVENT, contact="zoë@example.org"))
        assert read(mail)["Reply-To"] is None
        assert "zoë@example.org" in text(mail)

    def test_without_contact_there_is_no_other_address_for_answers(self):
        assert read(replace(PAID, event=replace(EVENT, contact=None)))["Reply-To"] is None

    @pytest.mark.parametrize("name", NAMES)
    def test_recipients_name_arrives_readable(self, name):
        to = Recipient(name=name, address="ann@example.com")
        assert decoded(RESET, "To", to) == f"{' '.join(name.split())} <ann@example.com>"
        assert [found.addr_spec for found in read(RESET, to)["To"].addresses] == ["ann@example.com"]

    @pytest.mark.parametrize("name", NAMES)
    def test_events_name_arrives_readable_in_the_subject(self, name):
        mail = replace(PAID, event=replace(EVENT, name=name))
        assert decoded(mail, "Subject") == f"Your tickets for {' '.join(name.split())}"

    def test_recipients_name_holds_no_link(self):
        assert "evil.example" not in read(RESET, Recipient(name="https://evil.example", address="a@b.example"))["To"]

    def test_texts_are_encoded_for_servers_that_take_ascii_alone(self):
        message = EmailMessage(POLICY)
        message.set_content("王小明")
        assert message.as_bytes().isascii()

    @pytest.mark.parametrize("line_end", BREAKS)
    def test_no_name_adds_a_header(self, line_end):
        name = f"Ann{line_end}Bcc: all@example.com{line_end}{line_end}Body"
        message = read(replace(PAID, event=replace(EVENT, name=name)), Recipient(name=name, address="ann@example.com"))
        assert "Bcc" not in message
        assert [found.addr_spec for found in message["To"].addresses] == ["ann@example.com"]
        assert message["Subject"] == "Your tickets for Ann Bcc: all@example.com Body"

    @pytest.mark.parametrize(
        ("domain", "shown"), [("bücher.example", "xn--bcher-kva.example"), ("straße.example", "xn--strae-oqa.example")]
    )
    def test_domain_is_one_that_every_mail_server_takes(self, domain, shown):
        assert read(RESET, Recipient(name="Ann", address=f"ann@{domain}"))["To"].addresses[0].domain == shown


class TestText:
    @each_mail
    def test_is_the_same_in_both_forms(self, mail):
        words = re.findall(r"\w+", re.sub(r"^http\S+$", "", text(mail), flags=re.MULTILINE))
        assert words == re.findall(r"\w+", seen(mail))

    @each_mail
    def test_shows_no_leftovers_of_a_template(self, mail):
        assert not re.search(r"[{}]|None|&\w+;|<\w+", text(mail))

    @pytest.mark.parametrize("kind", ["plain", "html"])
    def test_order_shows_event_lines_total_and_payment(self, kind):
        shown = " ".join(text(PAID, kind).split()) if kind == "plain" else seen(PAID)
        assert "Concert Friday, 10 July 2026, 20:00 to 23:00 (Europe/Berlin) Hall" in shown
        assert "2 × Standing 50.00 EUR Total 50.00 EUR Paid by bank transfer, reference RF-18 50.00 EUR" in shown

    def test_order_without_payments_shows_none(self):
        assert "Paid by" not in text(replace(PAID, total=0, payments=()))

    def test_payment_without_reference_shows_none(self):
        paid = replace(PAID, payments=(messages.Payment(method="cash", amount=5000),))
        assert re.search(r"Paid by cash 50\.00 EUR$", text(paid), re.MULTILINE)

    @pytest.mark.parametrize("kind", ["plain", "html"])
    def test_each_ticket_has_its_code_and_page(self, kind):
        for code in CODES:
            assert f"Code {code}" in text(PAID, kind)
            assert f"https://shop.example/tickets/{code}/page" in text(PAID, kind)

    @pytest.mark.parametrize("name", [name for name in NAMES if "\\" not in name])
    def test_names_are_readable_in_both_forms(self, name):
        mail = replace(PAID, event=replace(EVENT, name=name, venue=name), tickets=())
        assert " ".join(name.split()) in text(mail)
        assert " ".join(name.split()) in seen(mail)

    def test_markup_in_a_name_is_text(self):
        script = "<script>alert(1)</script>"
        mail = replace(PAID, event=replace(EVENT, name=script, venue=script), order='"><script>')
        assert "<script" not in text(mail, "html", Recipient(name=script, address="ann@example.com"))

    def test_no_name_turns_what_stands_after_it(self):
        mail = replace(PAID, event=replace(EVENT, name="\u202eConcert\u2066"))
        assert not set("\u202e\u2066") & set(text(mail) + text(mail, "html") + read(mail)["Subject"])

    def test_givers_name_holds_no_link(self):
        assert "evil.example" not in text(replace(OFFERED, giver="https://evil.example/"))

    @pytest.mark.parametrize("mail", [VERIFY, RESET, OFFERED], ids=lambda mail: mail.template)
    def test_who_may_be_a_stranger_is_not_told_the_name_that_somebody_gave_him(self, mail):
        assert "Claim your prize" not in text(mail, to=Recipient(name="Claim your prize", address="ann@example.com"))

    @pytest.mark.parametrize(
        ("by", "shown"),
        [("provider", "25.00 EUR goes back to you the way it came"), ("hand", "organizer hands it back")],
    )
    def test_refund_says_how_money_comes(self, by, shown):
        assert shown in text(replace(REFUNDED, by=by))

    def test_refund_names_void_tickets_and_reason(self):
        assert f"Standing, Ann, code {CODES[0]}" in text(REFUNDED)
        assert "Too loud" in text(REFUNDED)

    def test_refund_without_money_speaks_of_none(self):
        mail = replace(REFUNDED, amount=0)
        assert "EUR" not in text(mail)
        assert read(mail)["Subject"] == "Void tickets for Concert"

    def test_each_reason_for_a_returned_payment_has_its_own_words(self):
        assert (
            len({text(replace(RETURNED, reason=reason)) for reason in ("late", "double", "canceled", "mismatch")}) == 4
        )

    def test_each_reason_for_attention_has_its_own_words(self):
        reasons = ("refunded_outside", "disputed", "refund_failed")
        assert len({text(replace(ATTENTION, reason=reason)) for reason in reasons}) == 3

    def test_offer_says_until_when(self):
        assert "for 50.00 EUR, until Friday, 10 July 2026, 20:00 (Europe/Berlin)" in text(WAITING)


class TestLinks:
    @pytest.mark.parametrize(
        ("mail", "page"),
        [(RESET, "reset"), (VERIFY, "verify"), (OFFERED, "transfer")],
        ids=["reset", "verify", "transfer"],
    )
    def test_token_stands_in_the_fragment(self, mail, page):
        link = f"https://shop.example/{page}#token={TOKEN}"
        assert f":\n{link}\n" in text(mail).replace("\r\n", "\n")
        assert f'href="{link}"' in text(mail, "html")

    @each_mail
    def test_all_lead_to_the_shop_and_nothing_is_loaded_from_elsewhere(self, mail):
        links = re.findall(r'(?:href|src|url|action)\s*[=(]\s*"?([^")\s]+)', text(mail, "html"))
        assert all(link.startswith(("https://shop.example/", "cid:")) for link in links)

    def test_token_leaves_its_link_by_no_character(self):
        assert SHOP.with_token("reset", 'a"b#c&d e') == "https://shop.example/reset#token=a%22b%23c%26d%20e"


class TestPictures:
    @NEEDS_SCANNER
    @pytest.mark.parametrize(("mail", "codes"), [(PAID, CODES), (RECEIVED, CODES[:1])], ids=["order", "transfer"])
    def test_each_ticket_can_be_scanned(self, mail, codes, tmp_path):
        for number, picture in enumerate(attachments(mail, "image/png")):
            (tmp_path / f"{number}.png").write_bytes(picture.get_content())
        assert [scan(tmp_path / f"{number}.png") for number in range(len(codes))] == list(codes)

    def test_html_shows_each_where_its_ticket_is(self):
        pictures = attachments(PAID, "image/png")
        ids = [picture["Content-ID"].strip("<>") for picture in pictures]
        assert re.findall('src="cid:([^"]+)"', text(PAID, "html")) == ids
        assert [picture.get_content_disposition() for picture in pictures] == ["inline", "inline"]

    def test_are_only_where_tickets_are(self):
        with_pictures = {mail.template for mail in MAILS if attachments(mail, "image/png")}
        assert with_pictures == {"order_paid", "transfer_received"}


class TestCalendar:
    def test_comes_with_what_tells_when_an_event_is(self):
        with_calendar = {mail.template for mail in MAILS if attachments(mail, "text/calendar")}
        assert with_calendar == {"order_paid", "event_changed", "event_canceled", "transfer_received"}

    def test_is_of_the_shops_event(self):
        (part,) = attachments(PAID, "text/calendar")
        assert part.get_filename() == "event.ics"
        (found,) = icalendar.Calendar.from_ical(part.get_content()).walk("VEVENT")
        assert (found["UID"], found["SUMMARY"], found.start) == ("event-7@shop.example", "Concert", START)

    def test_of_a_canceled_event_says_so(self):
        (part,) = attachments(MAILS[4], "text/calendar")
        assert "STATUS:CANCELLED" in part.get_content()


class TestShop:
    @pytest.mark.parametrize(
        ("mail_from", "name", "addr_spec"),
        [
            ("tickets@mail.example", "", "tickets@mail.example"),
            ("The Shop <tickets@mail.example>", "The Shop", "tickets@mail.example"),
            ('"Shop, Inc." <tickets@mail.example>', "Shop, Inc.", "tickets@mail.example"),
            ("Łódź <tickets@bücher.example>", "Łódź", "tickets@xn--bcher-kva.example"),
            ("tickets@localhost", "", "tickets@localhost"),
        ],
    )
    def test_writes_from_one_address(self, mail_from, name, addr_spec):
        sender = messages.shop("https://shop.example", mail_from).sender
        assert (sender.display_name, sender.addr_spec) == (name, addr_spec)

    @pytest.mark.parametrize(
        "mail_from",
        [
            "",
            "tickets",
            "tickets@",
            "@mail.example",
            "zoë@mail.example",
            "a@mail.example, b@mail.example",
            "Shop, Inc. <a@mail.example>",
        ],
    )
    def test_refuses_what_is_not_one_address(self, mail_from):
        with pytest.raises(SystemExit, match="^MAIL_FROM"):
            messages.shop("https://shop.example", mail_from)

    @pytest.mark.parametrize("url", ["https://shop.example", "https://shop.example/"])
    def test_links_stand_below_its_url(self, url):
        assert messages.shop(url, "tickets@mail.example").order("X") == "https://shop.example/orders/X"

    @pytest.mark.parametrize(
        "url",
        ["", "shop.example", "ftp://shop.example", "https://", "https://shop.example?a=b", "https://x#y", "http://[x"],
    )
    def test_refuses_what_is_no_url_of_a_page(self, url):
        with pytest.raises(SystemExit, match="^SHOP_URL"):
            messages.shop(url, "tickets@mail.example")
