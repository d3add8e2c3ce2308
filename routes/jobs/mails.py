"""Sending what is in the outbox: claim, read what it tells, send with no connection held, write the outcome."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cache
from threading import Event
from time import monotonic, thread_time

from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from models import Mail, db
from routes.jobs.letters import Overtaken, letter_of
from routes.outside.messages import Mail as Letter
from routes.outside.messages import Recipient, Shop, build, message_id, shop
from routes.outside.smtp import Delivery, Log, Outcome, Server, Transport, destination, opened
from routes.selling.mails import claim_mail, mark_failed, mark_sent, put_off

logger = logging.getLogger(__name__)

REST = 30  # seconds in which a mail server that could not be had is left alone
IN_DEVELOPMENT = {"SHOP_URL": "http://localhost:3000", "MAIL_FROM": "The shop <tickets@localhost>"}


@dataclass
class PostOffice:
    """Where mails go and who they are from. After a fault of the server it is closed until `opens_at`."""

    target: Server | Log
    shop: Shop
    opens_at: float = 0

    @property
    def is_open(self) -> bool:
        return monotonic() >= self.opens_at

    def close_for_a_while(self) -> None:
        self.opens_at = monotonic() + REST


@cache
def post_office(smtp_url: str, shop_url: str, mail_from: str) -> PostOffice | None:
    """The one that these settings name, or None where there is to be no mail."""
    target = destination(smtp_url)
    if target is None:
        return None
    if isinstance(target, Log):
        shop_url, mail_from = shop_url or IN_DEVELOPMENT["SHOP_URL"], mail_from or IN_DEVELOPMENT["MAIL_FROM"]
    if not (shop_url and mail_from):
        raise SystemExit("With SMTP_URL, SHOP_URL and MAIL_FROM must be set too")
    return PostOffice(target, shop(shop_url, mail_from))


def configured(app: Flask) -> PostOffice | None:
    return post_office(app.config["SMTP_URL"], app.config["SHOP_URL"], app.config["MAIL_FROM"])


def check_settings(app: Flask) -> None:
    """Raise SystemExit where a setting is no good, before the first mail finds out."""
    configured(app)


def send_due_mails(stop: Event) -> None:
    """Send what is due, one after the other.

    After each one it rests as long as it has computed: the requests of the same process need the processor more.
    """
    office = configured(current_app)
    if office is None or not office.is_open:
        return
    with opened(office.target) as transport:
        started = thread_time()
        while not stop.wait(thread_time() - started):
            started = thread_time()
            if not send_next(transport, office):
                return
            if transport.gave_up:
                office.close_for_a_while()
                return


def send_next(transport: Transport, office: PostOffice) -> bool:
    """Send the mail that is due first; False where there is none.

    No connection to the database is held while it is sent, and what came of it is written in a transaction of its own.
    Where that fails, the lease ends and the mail goes out once more, with the same Message-ID.
    """
    mail = claim_mail()
    db.session.commit()
    if mail is None:
        return False
    to, delivery = delivered(mail, transport, office)
    if delivery.outcome is Outcome.SENT:
        mark_sent(mail, to)
    elif delivery.outcome is Outcome.AGAIN:
        put_off(mail, delivery.error)
    else:
        mark_failed(mail, delivery.error)
    db.session.commit()
    return True


def delivered(mail: Mail, transport: Transport, office: PostOffice) -> tuple[str, Delivery]:
    """The address that the mail was for, and what came of it. A mail that can't be written stops no other."""
    try:
        letter, recipient = letter_of(mail)
        db.session.commit()
        return recipient.address, transport.send(written(mail, letter, recipient, office.shop))
    except Overtaken as overtaken:
        return mail.to, Delivery(Outcome.NEVER, str(overtaken))
    except SQLAlchemyError:
        raise
    except Exception as error:
        logger.exception("A mail can't be written", extra={"mail": mail.id})
        return mail.to, Delivery(Outcome.AGAIN, f"Not written: {type(error).__name__}")
    finally:
        db.session.remove()


def written(mail: Mail, letter: Letter, to: Recipient, shop: Shop) -> EmailMessage:
    id = message_id(mail.message_key, shop)
    return build(letter, to=to, shop=shop, message_id=id, date=datetime.now(UTC))
