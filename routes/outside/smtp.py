"""How a mail leaves: where `SMTP_URL` says, and what came of it.

Nothing here knows what a mail is about, nor keeps anything: who sends writes the outcome down.
"""

import logging
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from enum import Enum
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from routes.outside.formats import one_line

logger = logging.getLogger(__name__)

TIMEOUT = 10  # seconds, for each answer of the server
MESSAGES_A_CONNECTION = 20
LOST_IN_A_ROW = 2  # connections, after which the server is left alone until the next time
LONGEST_ERROR = 500

THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}
PORTS = {"smtp": 587, "smtps": 465}
FAULT = (
    "SMTP_URL must be smtp://user:password@host:587, smtps://user:password@host:465 or log:"
    " (in a user or password, write / ? # @ : % as %2F %3F %23 %40 %3A %25)"
)
# How we introduce ourselves. smtplib would ask the DNS each time, which may take longer than the mail.
OWN_NAME = name if "." in (name := socket.gethostname()) else "[127.0.0.1]"


class Security(Enum):
    PLAIN = "plain"
    STARTTLS = "starttls"
    TLS = "tls"


@dataclass(frozen=True)
class Server:
    """A mail server. What is sent to another machine is encrypted, and the certificate verified."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Log:
    """`log:` writes mails to the log, links and all: for development."""


def destination(url: str) -> Server | Log | None:
    """What `SMTP_URL` names; None where it is empty, and no mail is made."""
    if not url:
        return None
    return Log() if url == "log:" else server(url)


def server(url: str) -> Server:
    """The server that the URL names. No refusal shows the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise SystemExit(FAULT) from None
    known = parts.scheme in PORTS and port != 0 and re.fullmatch(r"[a-z0-9.-]+|[0-9a-f:]+", host)
    if not known or parts.path.strip("/") or parts.query or parts.fragment:
        raise SystemExit(FAULT)
    user, password = credentials(parts)
    return Server(host, port or PORTS[parts.scheme], security(parts.scheme, host), user, password)


def credentials(parts: SplitResult) -> tuple[str, str]:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if bool(user) != bool(password):
        raise SystemExit("SMTP_URL must have both a user and a password, or neither")
    if not (user + password).isascii():
        raise SystemExit("SMTP_URL: user and password must be ASCII, as SMTP knows no others")
    return user, password


def security(scheme: str, host: str) -> Security:
    if scheme == "smtps":
        return Security.TLS
    return Security.PLAIN if host in THIS_MACHINE else Security.STARTTLS


class Outcome(Enum):
    SENT = "sent"
    AGAIN = "again"
    NEVER = "never"


@dataclass(frozen=True)
class Delivery:
    """What came of a mail. `error` is one line for an admin, without secrets."""

    outcome: Outcome
    error: str = ""


SENT = Delivery(Outcome.SENT)


class Transport(Protocol):
    gave_up: Delivery | None  # why the server is left alone: nothing more need be tried

    def send(self, message: EmailMessage) -> Delivery:
        """Try to send a mail to its one recipient. What the mail server does is an outcome, never an exception."""


@contextmanager
def opened(target: Server | Log) -> Iterator[Transport]:
    """A transport for a handful of mails. It connects when the first is sent."""
    if isinstance(target, Log):
        yield LogTransport()
        return
    transport = SmtpTransport(target)
    try:
        yield transport
    finally:
        transport.close()


class LogTransport:
    gave_up: Delivery | None = None

    def send(self, message: EmailMessage) -> Delivery:
        body = message.get_body(("plain",))
        text = body.get_content() if body else ""
        logger.info("Mail to %s: %s\n\n%s", message["To"], message["Subject"], text)
        return SENT


class SmtpTransport:
    """Sends over one connection at a time. A server that can't be had is not asked again by the same transport."""

    def __init__(self, target: Server) -> None:
        self.target = target
        self.connection: smtplib.SMTP | None = None
        self.sent = 0
        self.lost = 0
        self.gave_up: Delivery | None = None

    def send(self, message: EmailMessage) -> Delivery:
        if self.gave_up:
            return self.gave_up
        try:
            connection = self.connected()
        except OSError as error:
            self.gave_up = not_connected(error)
            return self.gave_up
        return self.send_over(connection, message)

    def send_over(self, connection: smtplib.SMTP, message: EmailMessage) -> Delivery:
        self.sent += 1
        try:
            connection.send_message(
                message, message["From"].addresses[0].addr_spec, message["To"].addresses[0].addr_spec
            )
        except OSError as error:
            return refused(error) if answered(error) else self.lose(connection, error)
        self.lost = 0
        return SENT

    def lose(self, connection: smtplib.SMTP, error: OSError) -> Delivery:
        """The connection broke: one mail may be what the server chokes on, two in a row are the server's state."""
        connection.close()
        self.lost += 1
        delivery = Delivery(Outcome.AGAIN, described(error))
        logger.warning("The mail server did not answer: %s", delivery.error)
        if self.lost == LOST_IN_A_ROW:
            self.gave_up = delivery
        return delivery

    def connected(self) -> smtplib.SMTP:
        """The open connection, or a new one after 20 mails and where the server has closed it."""
        if self.connection and self.connection.sock and self.sent < MESSAGES_A_CONNECTION:
            return self.connection
        self.close()
        self.connection = connect(self.target)
        self.sent = 0
        return self.connection

    def close(self) -> None:
        """Say goodbye where somebody is there to hear it."""
        if self.connection and self.connection.sock:
            with suppress(OSError):
                self.connection.quit()
        self.connection = None


def connect(target: Server) -> smtplib.SMTP:
    """A connection to which mails can be given."""
    connection = CONNECT[target.security](target)
    try:
        if target.user:
            connection.login(target.user, target.password)
    except OSError:
        connection.close()
        raise
    return connection


def plain(target: Server) -> smtplib.SMTP:
    return smtplib.SMTP(target.host, target.port, OWN_NAME, TIMEOUT)


def starttls(target: Server) -> smtplib.SMTP:
    connection = plain(target)
    try:
        connection.starttls(context=ssl.create_default_context())
    except OSError:
        connection.close()
        raise
    return connection


def tls(target: Server) -> smtplib.SMTP:
    context = ssl.create_default_context()
    return smtplib.SMTP_SSL(target.host, target.port, OWN_NAME, timeout=TIMEOUT, context=context)


CONNECT: dict[Security, Callable[[Server], smtplib.SMTP]] = {
    Security.PLAIN: plain,
    Security.STARTTLS: starttls,
    Security.TLS: tls,
}


def answered(error: OSError) -> bool:
    """Whether the server said no, rather than nothing. SMTP's exceptions are OSErrors, as a broken connection is."""
    return isinstance(error, smtplib.SMTPException) and not isinstance(error, smtplib.SMTPServerDisconnected)


def not_connected(error: OSError) -> Delivery:
    """Nothing was sent. What only a change of the configuration cures is logged as an error."""
    delivery = Delivery(Outcome.AGAIN, described(error))
    logger.log(severity(error), "No mail can be sent: %s", delivery.error)
    return delivery


def severity(error: OSError) -> int:
    """An error where the server says no for good or has a bad certificate: to wait alone would not help."""
    temporary = isinstance(error, smtplib.SMTPResponseException) and error.smtp_code < 500
    ours = isinstance(error, ssl.SSLError) or answered(error)
    return logging.ERROR if ours and not temporary else logging.WARNING


def refused(error: OSError) -> Delivery:
    """The server answered no. A refused recipient or text is this mail's end; a refused sender is our configuration."""
    delivery = Delivery(Outcome.NEVER if final(error) else Outcome.AGAIN, described(error))
    if isinstance(error, smtplib.SMTPSenderRefused):
        logger.log(severity(error), "The mail server refuses the sender: %s", delivery.error)
    return delivery


def final(error: OSError) -> bool:
    match error:
        case smtplib.SMTPRecipientsRefused():
            return all(code >= 500 for code, _ in error.recipients.values())
        case smtplib.SMTPDataError():
            return error.smtp_code >= 500
        case smtplib.SMTPNotSupportedError():  # an address that is not ASCII, on a server that takes none
            return True
    return False


def described(error: OSError) -> str:
    """The fault on one line. The server's words may hold anything, also what no database stores."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            text = "; ".join(answer(code, words) for code, words in error.recipients.values())
        case smtplib.SMTPResponseException():
            text = answer(error.smtp_code, error.smtp_error)
        case _:
            text = f"{type(error).__name__}: {error}"
    return one_line(text)[:LONGEST_ERROR]


def answer(code: int, words: bytes | str) -> str:
    return f"{code} {words.decode(errors='replace') if isinstance(words, bytes) else words}"
