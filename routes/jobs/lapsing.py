"""Holds that have lapsed are written down, a few at a time, so that nobody has to add them up who only looks."""

import time
from threading import Event

from models import db
from routes.selling.places import events_with_lapsed_orders, lapse_some


def lapse_orders(stopping: Event) -> None:
    """Write down which orders have lapsed."""
    events = events_with_lapsed_orders()
    db.session.rollback()
    for event_id in events:
        lapse_in_steps(event_id, stopping)


def lapse_in_steps(event_id: int, stopping: Event | None = None) -> int:
    """Write down which orders of an event have lapsed, and return how many. Each few are a transaction of their own.

    It rests as long as each took: on SQLite others get the write lock only while nobody has it.
    """
    orders = 0
    while not (stopping and stopping.is_set()):
        began = time.monotonic()
        lapsed = lapse_some(event_id)
        db.session.commit()
        if not lapsed:
            break
        orders += lapsed
        time.sleep(time.monotonic() - began)
    return orders
