"""A real SMTP server that keeps what it gets, and misbehaves where it is told to."""

import asyncio
import email
import email.policy
import ssl
from collections import defaultdict
from email.message import EmailMessage
from threading import Event
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

PASSWORD = b"s3cret/pass"


class MailServer(Controller):
    """`answers` are what it says next at a step (`MAIL`, a recipient's address, `DATA`, `QUIT`), one after the other.

    `hang up` at `DATA` or `QUIT` breaks the connection without a word. While its `gate` is shut it answers no `DATA`;
    `at_gate` says that one waits there.
    """

    def __init__(self, *, implicit_tls: ssl.SSLContext | None = None, delay: float = 0, **options: Any) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.logins: list[bytes] = []
        self.answers: dict[str, list[str]] = defaultdict(list)
        self.connections = 0
        self.delay = delay
        self.gate, self.at_gate = Event(), Event()
        self.gate.set()
        usual = {"auth_require_tls": False, "enable_SMTPUTF8": False, "server_hostname": "mail.example"}
        options = usual | {"authenticator": self.authenticate, "ready_timeout": 30} | options
        super().__init__(self, "127.0.0.1", 0, ssl_context=implicit_tls, **options)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        self.connections = 0  # the controller tries the port with one of its own

    def _trigger_server(self) -> None:
        """The port is known once it is open; aiosmtpd 1.4.6 asks for it before it looks."""
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()

    def factory(self) -> SMTP:
        self.connections += 1
        return super().factory()

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, kind: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=data.password == PASSWORD, handled=False)

    def next_answer(self, step: str) -> str | None:
        return self.answers[step].pop(0) if self.answers[step] else None

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.next_answer("MAIL") or "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.next_answer(address) or "250 OK"
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        await asyncio.sleep(self.delay)
        self.at_gate.set()
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        answer = self.next_answer("DATA") or "250 OK"
        self.hang_up_if_told(server, answer)
        if answer.startswith("2"):
            self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            self.recipients += envelope.rcpt_tos
        return answer

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self.next_answer("QUIT") or "221 Bye"
        self.hang_up_if_told(server, answer)
        return answer

    def hang_up_if_told(self, server: SMTP, answer: str) -> None:
        if answer == "hang up":
            server.transport.abort()
