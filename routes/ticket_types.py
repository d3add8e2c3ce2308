"""Ticket types: what is on sale for an event, how much of it and for how much."""

from flask_restful import Resource

from models import BelowSold, Event, HasOrders, TicketType, db
from routes.access import roles
from routes.answers import answers
from routes.examples import TICKET_TYPE
from routes.parsing import Field, Integer, Text, Time, changes, parser, takes

new_ticket_type = parser(
    Field("name", Text(100), required=True),
    Field("price", Integer(0, 1_000_000_000), required=True),
    Field("quantity", Integer(0, 2_000_000_000), required=True),
    Field("sales_start", Time(), nullable=True),
    Field("sales_end", Time(), nullable=True),
    Field("max_per_order", Integer(1, 1000)),
)


class TicketTypeList(Resource):
    @roles("admin")
    @answers(201, TICKET_TYPE)
    @takes(new_ticket_type)
    def post(self, args, id):
        """Put tickets on sale, from `sales_start` until `sales_end`, or from now until the event is over."""
        ticket_type = TicketType.create(db.get_or_404(Event, id), **args)
        db.session.commit()
        return ticket_type.to_dict(), 201


class TicketTypeItem(Resource):
    @roles("admin")
    @answers(200, TICKET_TYPE, refuses=[BelowSold(sold=2, held=1)])
    @takes(changes(new_ticket_type))
    def patch(self, args, id):
        """Change a ticket type."""
        ticket_type = db.get_or_404(TicketType, id)
        ticket_type.edit(args)
        db.session.commit()
        return ticket_type.to_dict()

    @roles("admin")
    @answers(204, refuses=[HasOrders()])
    def delete(self, id):
        """Delete a ticket type that nobody has ordered."""
        db.get_or_404(TicketType, id).delete()
        db.session.commit()
        return None, 204
