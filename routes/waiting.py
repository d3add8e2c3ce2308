"""Waiting lists of ticket types that are sold out."""

from flask_jwt_extended import current_user
from flask_restful import Resource

from models import (
    AlreadyWaiting,
    EventNotOnSale,
    Missing,
    OverMaxPerBuyer,
    OverMaxPerOrder,
    PlacesAvailable,
    SalesClosed,
    TicketType,
    UnderMinPerOrder,
    WaitingEntry,
    as_json,
    db,
)
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import roles, signed_in
from routes.http.paging import page, paged
from routes.http.parsing import ID, Field, Integer, parser, takes
from routes.http.views import JSON, Args, Page
from routes.jobs.waiting import serve_all
from routes.selling.catalogue import keep_visible
from routes.selling.waiting import entries_of_event, entries_of_user, join, leave, types_waited_for

new_entry = parser(
    Field("ticket_type_id", ID, required=True),
    Field("quantity", Integer(1, 2**31 - 1), required=True),
)
NO_WAITING = (
    Missing(),
    PlacesAvailable(available=2),
    AlreadyWaiting(),
    SalesClosed(ticket_type_id=1, sales_start=None, sales_end=examples.BOUGHT),
    EventNotOnSale(ticket_type_id=1),
    OverMaxPerOrder(ticket_type_id=1, max_per_order=10),
    UnderMinPerOrder(ticket_type_id=1, min_per_order=2),
    OverMaxPerBuyer(ticket_type_id=1, left=1),
)


def with_user(entry: WaitingEntry) -> JSON:
    return as_json(entry, WaitingEntry.serialize_only + WaitingEntry.of_user)


class EventWaiting(Resource):
    @signed_in
    @answers(201, examples.WAITING, refuses=NO_WAITING, sends={"ticket_type_id": 1, "quantity": 2})
    @takes(new_entry)
    def post(self, args: Args, id: int) -> tuple[JSON, int]:
        """Wait for tickets that are sold out: once places are free, an order holds them, and a mail says so.

        First come, first served. A group that does not fit is passed over, and keeps its place.
        """
        entry = join(current_user.id, id, **args)
        db.session.commit()
        return entry.to_dict(), 201

    @roles("admin", "manager")
    @answers(200, [examples.WAITING], plus=WaitingEntry.of_user)
    @paged()
    def get(self, args: Args, id: int) -> Page:
        """List who waits or has waited for tickets of an event, the first first."""
        keep_visible(id)
        serve_all(TicketType.event_id == id)
        return page(entries_of_event(), (WaitingEntry.id,), {"event_id": id}, shown=with_user, **args)


class MyWaitingList(Resource):
    @signed_in
    @answers(200, [examples.WAITING])
    @paged()
    def get(self, args: Args) -> Page:
        """List what one waits or has waited for, newest first; an `offer` is the code of the order to be paid."""
        serve_all(TicketType.id.in_(types_waited_for(current_user.id)))
        return page(entries_of_user(), (WaitingEntry.id,), {"user_id": current_user.id}, descending=True, **args)


class WaitingDetail(Resource):
    @signed_in
    @answers(204)
    def delete(self, id: int) -> tuple[None, int]:
        """Wait no longer, or give up one's offer: it goes to the next one at once."""
        leave(current_user, id)
        db.session.commit()
        return None, 204
