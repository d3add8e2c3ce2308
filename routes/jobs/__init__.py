"""What is done beside the calls: each job does what is due and returns. Any number of processes may do it at once."""

from collections.abc import Callable
from threading import Event

from flask import Flask

from routes.jobs import checkouts, mails, waiting
from routes.jobs.checkouts import refund_canceled_orders, settle_payments
from routes.jobs.lapsing import lapse_orders
from routes.jobs.mails import send_due_mails
from routes.jobs.waiting import serve_waiting

# Each is called in an application context of its own, and ends early once the event is set.
JOBS: list[Callable[[Event], None]] = [
    refund_canceled_orders,
    settle_payments,
    lapse_orders,
    serve_waiting,
    send_due_mails,
]


def register(app: Flask) -> None:
    mails.check_settings(app)
    checkouts.check_settings(app)
    waiting.register(app)
