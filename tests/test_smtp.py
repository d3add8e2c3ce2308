"""Mails given to a real SMTP server that is well, ill, slow or gone."""

import logging
import socket
import ssl
import subprocess
from dataclasses import replace
from email.headerregistry import Address
from email.message import EmailMessage

import pytest

from routes.outside import smtp
from routes.outside.smtp import Delivery, Log, Outcome, Security, Server, destination, opened

from .fakes.mail_server import MailServer

LOGIN = "shop:s3cret%2Fpass@"


def mail(to="ann@example.com", text="Hello"):
    message = EmailMessage()
    message["From"] = "tickets@shop.example"
    message["To"] = Address("Ann", *to.split("@"))
    message["Subject"] = "Your tickets"
    message.set_content(text)
    return message


def send(target, *messages):
    """What came of each message, all of them sent by one transport."""
    with opened(target) as transport:
        return [transport.send(message) for message in messages]


def outcomes(target, *messages):
    return [delivery.outcome for delivery in send(target, *messages)]


def logged(caplog):
    return [record.levelname for record in caplog.records if record.name == smtp.__name__]


@pytest.fixture
def start_server():
    """Start a mail server; all are stopped after the test."""
    started = []

    def start(**options):
        server = MailServer(**options)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture
def target(server):
    return destination(f"smtp://{server.address}")


@pytest.fixture
def short_timeout(monkeypatch):
    monkeypatch.setattr(smtp, "TIMEOUT", 0.3)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Make a certificate for a name, and return its file and a server's context with it."""

    def make(name):
        folder = tmp_path_factory.mktemp("certificate")
        made, key = folder / "certificate.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test"]
        command += ["-addext", f"subjectAltName={name}", "-keyout", key, "-out", made]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made, key)
        return made, context

    return make


@pytest.fixture(scope="session")
def good_certificate(certificate):
    return certificate("IP:127.0.0.1")


@pytest.fixture
def trusted(good_certificate, monkeypatch):
    """A server's context with a certificate that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(good_certificate[0]))
    return good_certificate[1]


def encrypted(server, login=""):
    """The server as one on another machine, where STARTTLS is a must."""
    return replace(destination(f"smtp://{login}{server.address}"), security=Security.STARTTLS)


class TestDestination:
    @pytest.mark.parametrize(
        ("url", "server"),
        [
            ("smtp://mx.example:25", Server("mx.example", 25, Security.STARTTLS)),
            ("smtp://mx.example", Server("mx.example", 587, Security.STARTTLS)),
            ("SMTP://MX.example/", Server("mx.example", 587, Security.STARTTLS)),
            ("smtps://mx.example", Server("mx.example", 465, Security.TLS)),
            ("smtps://localhost:1465", Server("localhost", 1465, Security.TLS)),
            ("smtp://localhost:25", Server("localhost", 25, Security.PLAIN)),
            ("smtp://127.0.0.1:25", Server("127.0.0.1", 25, Security.PLAIN)),
            ("smtp://[::1]:25", Server("::1", 25, Security.PLAIN)),
            ("smtp://127.0.0.2:25", Server("127.0.0.2", 25, Security.STARTTLS)),
            ("smtp://localhost.example:25", Server("localhost.example", 25, Security.STARTTLS)),
            ("smtp://a%40b.example:p%2F%3F@mx", Server("mx", 587, Security.STARTTLS, "a@b.example", "p/?")),
            ("log:", Log()),
            ("", None),
        ],
    )
    def test_is_what_the_url_names(self, url, server):
        assert destination(url) == server

    @pytest.mark.parametrize(
        "url",
        [
            "mx.example:587",
            "http://user:hunter2@mx.example",
            "smtp:user:hunter2@mx.example",
            "smtp://user:hunter2@",
            "smtp://user:hunter2@mx.example:0",
            "smtp://user:hunter2@mx.example:smtp",
            "smtp://user:hunter2@mx.example:99999",
            "smtp://user:hunter2@mx.example/box",
            "smtp://user:hunter2@mx.example?tls=no",
            "smtp://user:hunter2/x@mx.example",
            "smtp://user:hunter2#x@mx.example",
            "smtp://user:hunter2[x@mx.example",
            "smtp://user:hunter2@mx example",
            "smtp://user:@mx.example",
            "smtp://:hunter2@mx.example",
            "smtp://user:hunter2ü@mx.example",
            "log:file",
        ],
    )
    def test_refuses_others_and_shows_no_password(self, url):
        with pytest.raises(SystemExit, match="^SMTP_URL") as refusal:
            destination(url)
        assert "hunter2" not in str(refusal.value)

    def test_never_shows_the_password(self):
        assert "hunter2" not in repr(destination("smtp://user:hunter2@mx.example"))


class TestSend:
    def test_sends(self, server, target):
        assert send(target, mail()) == [Delivery(Outcome.SENT)]
        assert server.messages[0].get_content() == "Hello\r\n"

    def test_sends_twenty_over_a_connection(self, server, target):
        assert outcomes(target, *[mail()] * 41) == [Outcome.SENT] * 41
        assert server.connections == 3

    def test_temporary_refusal_is_tried_again(self, server, target):
        server.answers["ann@example.com"] = ["450 Come back later"]
        first, second = send(target, mail(), mail())
        assert first == Delivery(Outcome.AGAIN, "450 Come back later")
        assert second.outcome == Outcome.SENT

    def test_dead_recipient_is_final_and_holds_up_nobody(self, server, target):
        server.answers["dead@example.com"] = ["550 No such user"]
        before, dead, after = send(target, mail(), mail("dead@example.com"), mail("bo@example.com"))
        assert dead == Delivery(Outcome.NEVER, "550 No such user")
        assert (before.outcome, after.outcome) == (Outcome.SENT, Outcome.SENT)
        assert server.recipients == ["ann@example.com", "bo@example.com"]

    @pytest.mark.parametrize(
        ("answer", "outcome"), [("451 Try later", Outcome.AGAIN), ("554 Looks like spam", Outcome.NEVER)]
    )
    def test_refused_text_is_as_final_as_the_server_says(self, server, target, answer, outcome):
        server.answers["DATA"] = [answer]
        assert send(target, mail(), mail()) == [Delivery(outcome, answer), Delivery(Outcome.SENT)]

    @pytest.mark.parametrize(("answer", "level"), [("550 Not allowed", "ERROR"), ("450 Not now", "WARNING")])
    def test_refused_sender_is_tried_again_and_logged_as_what_it_is(self, server, target, caplog, answer, level):
        server.answers["MAIL"] = [answer]
        assert outcomes(target, mail()) == [Outcome.AGAIN]
        assert logged(caplog) == [level]

    def test_mail_at_which_the_server_hangs_up_holds_up_nobody(self, server, target):
        server.answers["DATA"] = ["hang up"]
        assert outcomes(target, mail(), mail()) == [Outcome.AGAIN, Outcome.SENT]

    def test_server_that_hangs_up_twice_is_left_alone(self, server, target):
        server.answers["DATA"] = ["hang up"] * 3
        assert outcomes(target, *[mail()] * 5) == [Outcome.AGAIN] * 5
        assert server.answers["DATA"] == ["hang up"]

    def test_server_that_hangs_up_now_and_then_is_not_left_alone(self, server, target):
        server.answers["DATA"] = ["hang up", "250 OK", "hang up"]
        assert outcomes(target, *[mail()] * 4) == [Outcome.AGAIN, Outcome.SENT] * 2

    def test_server_may_hang_up_without_goodbye(self, server, target):
        server.answers["QUIT"] = ["hang up"]
        assert outcomes(target, mail()) == [Outcome.SENT]

    def test_server_that_closes_with_421_is_called_anew(self, server, target):
        server.answers["MAIL"] = ["421 Enough for one connection"]
        assert outcomes(target, mail(), mail()) == [Outcome.AGAIN, Outcome.SENT]
        assert server.connections == 2

    def test_slow_server_is_not_waited_for(self, start_server, short_timeout):
        slow = start_server(delay=1)
        (delivery,) = send(destination(f"smtp://{slow.address}"), mail())
        assert delivery.outcome == Outcome.AGAIN
        assert "timed out" in delivery.error

    def test_server_that_says_nothing_is_asked_once(self, short_timeout):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            target = destination(f"smtp://127.0.0.1:{mute.getsockname()[1]}")
            assert outcomes(target, mail(), mail()) == [Outcome.AGAIN] * 2
            mute.settimeout(0.2)
            mute.accept()[0].close()
            with pytest.raises(TimeoutError):
                mute.accept()

    def test_server_that_is_down_is_tried_again(self, caplog):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            target = destination(f"smtp://127.0.0.1:{closed.getsockname()[1]}")
        assert outcomes(target, mail(), mail()) == [Outcome.AGAIN] * 2
        assert logged(caplog) == ["WARNING"]

    def test_error_is_one_line_that_a_database_can_store(self, server, target):
        server.answers["ann@example.com"] = [f"550 No\x00\x1b[31m {'x' * 600}", "550-One\r\n550 Two"]
        first, second = send(target, mail(), mail())
        assert first.error.isprintable()
        assert len(first.error) == 500
        assert second.error == "550 One Two"

    def test_address_beyond_ascii_needs_a_server_that_takes_it(self, server, target):
        (delivery,) = send(target, mail("jürgen@example.com"))
        assert delivery.outcome == Outcome.NEVER

    def test_address_beyond_ascii_is_sent_where_the_server_takes_it(self, start_server):
        modern = start_server(enable_SMTPUTF8=True)
        assert outcomes(destination(f"smtp://{modern.address}"), mail("jürgen@example.com")) == [Outcome.SENT]
        assert modern.recipients == ["jürgen@example.com"]


class TestLogIn:
    def test_is_done_where_a_user_is_named(self, server):
        assert outcomes(destination(f"smtp://{LOGIN}{server.address}"), mail()) == [Outcome.SENT]
        assert server.logins == [b"shop"]

    def test_refused_is_an_error_in_the_log_and_tried_again(self, server, caplog):
        target = destination(f"smtp://shop:wrong-one@{server.address}")
        first, second = send(target, mail(), mail())
        assert (first.outcome, first.error[:3], second) == (Outcome.AGAIN, "535", first)
        assert logged(caplog) == ["ERROR"]
        assert "wrong-one" not in caplog.text + first.error

    def test_is_not_tried_before_the_connection_is_encrypted(self, server):
        assert outcomes(encrypted(server, LOGIN), mail()) == [Outcome.AGAIN]
        assert server.logins == []


class TestEncryption:
    def test_starttls_sends(self, start_server, trusted):
        server = start_server(tls_context=trusted, require_starttls=True, auth_require_tls=True)
        assert outcomes(encrypted(server, LOGIN), mail()) == [Outcome.SENT]

    def test_implicit_tls_sends(self, start_server, trusted):
        server = start_server(implicit_tls=trusted)
        assert outcomes(destination(f"smtps://{LOGIN}{server.address}"), mail()) == [Outcome.SENT]

    def test_server_without_starttls_gets_nothing(self, server, caplog):
        assert outcomes(encrypted(server), mail()) == [Outcome.AGAIN]
        assert server.messages == []
        assert logged(caplog) == ["ERROR"]

    def test_unknown_certificate_gets_nothing(self, start_server, good_certificate, caplog):
        server = start_server(tls_context=good_certificate[1])
        (delivery,) = send(encrypted(server, LOGIN), mail())
        assert (delivery.outcome, server.messages, server.logins) == (Outcome.AGAIN, [], [])
        assert "certificate verify failed" in delivery.error
        assert logged(caplog) == ["ERROR"]

    @pytest.mark.parametrize("kind", ["starttls", "implicit"])
    def test_certificate_of_another_name_gets_nothing(self, start_server, certificate, monkeypatch, kind):
        file, context = certificate("DNS:other.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        server = start_server(**{"tls_context" if kind == "starttls" else "implicit_tls": context})
        target = encrypted(server, LOGIN) if kind == "starttls" else destination(f"smtps://{server.address}")
        (delivery,) = send(target, mail())
        assert "not valid for '127.0.0.1'" in delivery.error
        assert (delivery.outcome, server.messages, server.logins) == (Outcome.AGAIN, [], [])


class TestLog:
    def test_shows_the_text_with_its_links(self, caplog):
        caplog.set_level(logging.INFO, smtp.__name__)
        link = "https://shop.example/reset#token=" + "x" * 43
        assert outcomes(Log(), mail(text=f"Follow this link:\n{link}\n")) == [Outcome.SENT]
        assert "Ann <ann@example.com>" in caplog.text
        assert link in caplog.text
