"""Tickets, their QR codes, and the door."""

import io

import segno
from flask import current_app, request
from flask_jwt_extended import current_user
from flask_restful import Resource
from werkzeug.exceptions import NotFound

from models import AlreadyCheckedIn, EventCanceled, NotCheckedIn, Ticket, TicketVoid, WrongEvent, db
from routes.access import public, roles, signed_in
from routes.answers import answers
from routes.examples import EVENT, STARTS, USED, VALID
from routes.paging import page, paged
from routes.parsing import ID, Field, parser, takes


def ticket_for(user, code):
    """The ticket, if the user may see it; else it is not there."""
    ticket = Ticket.by_code(code)
    if ticket is None or not ticket.order.visible_to(user):
        raise NotFound
    return ticket


class TicketList(Resource):
    @signed_in
    @answers(200, [VALID])
    @paged()
    def get(self, args):
        """List one's own tickets, newest first."""
        return page(Ticket.of_user(), (Ticket.id,), {"user_id": current_user.id}, descending=True, **args)


class TicketItem(Resource):
    @signed_in
    @answers(200, VALID)
    def get(self, code):
        """Get a ticket."""
        return ticket_for(current_user, code).to_dict()


class TicketQR(Resource):
    @public
    @answers(200, media={"image/svg+xml": "<svg>...</svg>", "image/png": "..."})
    def get(self, code):
        """Get the QR code of the ticket's code, as a picture of the kind that `Accept` names."""
        if Ticket.by_code(code) is None:
            raise NotFound
        kinds = {"image/svg+xml": "svg", "image/png": "png"}
        mimetype = request.accept_mimetypes.best_match(kinds, default="image/svg+xml")
        image = io.BytesIO()
        # White behind it, or on a dark page nobody could scan the transparent SVG.
        segno.make(code, micro=False).save(image, kind=kinds[mimetype], scale=8, light="#fff")
        response = current_app.response_class(image.getvalue(), mimetype=mimetype)
        response.vary.add("Accept")
        return response


entrance = parser(Field("event_id", ID))
NO_ENTRY = (
    WrongEvent(event={"id": 2, "name": "Autumn Fair"}),
    TicketVoid(since=STARTS),
    AlreadyCheckedIn(checked_in_at=STARTS),
    EventCanceled(since=STARTS),
)


class CheckIn(Resource):
    @roles("staff", "admin")
    @answers(200, {"message": "Welcome", "ticket": USED}, refuses=NO_ENTRY, sends={"event_id": EVENT.id})
    @takes(entrance, optional=True)
    def post(self, args, code):
        """Let one person in, once; at the door of the event `event_id`, if it is given."""
        ticket = ticket_for(current_user, code)
        ticket.check_in(**args)
        db.session.commit()
        return {"message": "Welcome", "ticket": ticket.to_dict()}

    @roles("staff", "admin")
    @answers(200, {"message": "Check-in undone", "ticket": VALID}, refuses=[NotCheckedIn(status="valid")])
    def delete(self, code):
        """Undo a check-in that was a mistake."""
        ticket = ticket_for(current_user, code)
        ticket.undo_check_in()
        db.session.commit()
        return {"message": "Check-in undone", "ticket": ticket.to_dict()}
