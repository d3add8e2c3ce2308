"""Waiting lists: who waits gets what is free, after the call that freed it, at the next look, or by the thread."""

from threading import Event
from typing import Any

from flask import Flask, Response, current_app
from sqlalchemy import or_, select

from models import Pool, TicketType, db
from routes.selling.places import FREED
from routes.selling.waiting import next_in_line, offer_places


def serve_waiting(stopping: Event) -> None:
    """Make the offers that can be made."""
    serve_all(TicketType.waited > 0, stopping)


def serve_all(types: Any, stopping: Event | None = None) -> None:
    """Make the offers that can be made for the ticket types of a condition."""
    db.session.rollback()
    waited_for = select(TicketType.id).where(TicketType.waited > 0, types).order_by(TicketType.id)
    for id in db.session.scalars(waited_for).all():
        if stopping and stopping.is_set():
            return
        serve(id)


def serve(ticket_type_id: int) -> None:
    """Make the offers that can be made for a ticket type, each in a transaction of its own."""
    while True:
        entry = next_in_line(ticket_type_id)
        db.session.rollback()
        if entry is None:
            break
        offer_places(*entry, ticket_type_id)
        db.session.commit()
    db.session.info.pop(FREED, None)  # it was looked at just now


def serve_freed(response: Response) -> Response:
    """What a call has freed, or seen to have lapsed, goes to who waits for it. The thread does it where this fails."""
    freed = db.session.info.pop(FREED, set())
    if freed:
        types, pools = ([id for model, id in freed if model is kind] for kind in (TicketType, Pool))
        try:
            serve_all(or_(TicketType.id.in_(types), TicketType.pool_id.in_(pools)))
        except Exception:
            db.session.rollback()
            current_app.logger.exception("Nobody was served who waits")
    return response


def register(app: Flask) -> None:
    app.after_request(serve_freed)
