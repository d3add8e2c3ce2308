"""Ticket types: what is on sale for an event, how much of it and for how much."""

from flask_restful import Resource

from models import HasOrders, Missing, Outdated, QuantityBelowSold, SoldOut, TicketType, TicketTypeInUse, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import edits, hide_drafts, roles, token_optional
from routes.http.etags import conditional, expected_versions, tagged
from routes.http.paging import page, paged
from routes.http.parsing import ID, Field, Flag, Integer, Text, Time, changes, parser, takes
from routes.http.views import JSON, Args, Headers, Page
from routes.selling.catalogue import (
    SELECT_SHOWN_TICKET_TYPES_OF_EVENT,
    SELECT_TICKET_TYPES_OF_EVENT,
    create_ticket_type,
    delete_ticket_type,
    edit_ticket_type,
    event_status,
    read_ticket_type,
    ticket_type_json,
)

FIELDS = (
    Field("name", Text(100), required=True),
    Field(
        "price",
        Integer(0, 1_000_000_000),
        required=True,
        about="In the minor unit of the event's currency: 2500 is 25.00",
    ),
    Field("quantity", Integer(0, 2_000_000_000), required=True, about="How many may be sold"),
    Field("sales_start", Time(), nullable=True, about="When the sale begins: at once where it is null"),
    Field("sales_end", Time(), nullable=True, about="When the sale ends: with the event where it is null"),
    Field("min_per_order", Integer(1, 1000), about="The fewest that an order may have", default=1),
    Field("max_per_order", Integer(1, 1000), about="The most that an order may have", default=10),
    Field(
        "max_per_buyer",
        Integer(1, 2_000_000_000),
        nullable=True,
        about="The most that a buyer may have: null for any number; of what is free `max_per_order` without it",
    ),
    Field("hidden", Flag(), about="Only a promo code that unlocks it shows it", default=False),
)
new_ticket_type = parser(*FIELDS, Field("pool_id", ID, nullable=True, about="The pool whose places it shares"))


NO_MOVE = (HasOrders(), SoldOut(pool_id=1, available=10))


class TicketTypeList(Resource):
    @token_optional
    @answers(200, [examples.TICKET_TYPE])
    @conditional
    @paged()
    def get(self, args: Args, id: int) -> Page:
        """List the ticket types of an event. Hidden ones and those of drafts are for admins and managers alone."""
        hide_drafts(id, event_status(id))
        query = SELECT_TICKET_TYPES_OF_EVENT if edits(id) else SELECT_SHOWN_TICKET_TYPES_OF_EVENT
        found, status, headers = page(query, (TicketType.id,), {"id": id}, **args)
        return [ticket_type_json(row) for row in found], status, headers

    @roles("admin", "manager")
    @answers(201, examples.TICKET_TYPE, headers=["Location"])
    @tagged
    @takes(new_ticket_type)
    def post(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Put tickets on sale; from `sales_start` until `sales_end`, or from now until the event is over."""
        ticket_type = create_ticket_type(id, args)
        db.session.commit()
        headers = {"Location": f"/ticket-types/{ticket_type.id}", "version": ticket_type.version}
        return ticket_type.to_dict(), 201, headers


class TicketTypeDetail(Resource):
    @token_optional
    @answers(200, examples.TICKET_TYPE)
    @conditional
    def get(self, id: int) -> tuple[JSON, int, Headers]:
        """Get a ticket type. Hidden ones and those of drafts are for admins and managers alone."""
        ticket_type = read_ticket_type(id) or {"event_id": 0}
        hide_drafts(ticket_type["event_id"], ticket_type.pop("event_status", None))
        if ticket_type["hidden"] and not edits(ticket_type["event_id"]):
            raise Missing
        return ticket_type, 200, {"version": ticket_type.pop("version")}

    @roles("admin", "manager")
    @answers(200, examples.TICKET_TYPE, refuses=[Outdated(), QuantityBelowSold(sold=2, held=1), *NO_MOVE])
    @tagged
    @takes(changes(new_ticket_type))
    def patch(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Change a ticket type; with `If-Match`, only as long as nobody else has."""
        ticket_type = db.get_or_404(TicketType, id)
        edit_ticket_type(ticket_type, args, versions=expected_versions())
        db.session.commit()
        return ticket_type.to_dict(), 200, {"version": ticket_type.version}

    @roles("admin", "manager")
    @answers(204, refuses=[Outdated(), HasOrders(), TicketTypeInUse()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete a ticket type that nobody has ordered; with `If-Match`, only if nobody has changed it."""
        delete_ticket_type(db.get_or_404(TicketType, id), versions=expected_versions())
        db.session.commit()
        return None, 204
