"""Tickets, their QR codes, and the door."""

import io

import segno
from flask import Response, current_app, request
from flask_jwt_extended import current_user
from flask_restful import Resource
from werkzeug.exceptions import NotFound

from models import (
    AlreadyCheckedIn,
    Event,
    EventCanceled,
    EventOver,
    NotCheckedIn,
    NotConfigured,
    OwnTicket,
    Ticket,
    TicketUsed,
    TicketVoid,
    Transfer,
    TransferPending,
    WrongEvent,
    as_json,
    db,
)
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import named_event, public, roles, signed_in
from routes.http.idempotency import Claim, idempotent
from routes.http.limits import limited
from routes.http.paging import page, paged
from routes.http.parsing import ID, AnyText, Choice, Email, Field, Parameter, Text, closed_parser, parser, takes
from routes.http.views import JSON, Args, Page
from routes.outside.pages import POLICY, ticket_page
from routes.selling.door import check_in, rename, shown, undo_check_in
from routes.selling.orders import (
    ticket_at_door,
    ticket_exists,
    ticket_for,
    ticket_list,
    ticket_of,
    ticket_to_rename,
    upcoming_tickets,
)
from routes.selling.transfers import accept, offer, own_ticket, withdraw

new_name = parser(Field("attendee_name", Text(100), nullable=True))
OUTSIDE, INSIDE = shown(examples.VALID), shown(examples.USED)
NO_NEW_NAME = TicketUsed(**INSIDE), TicketVoid(since=examples.STARTS, **OUTSIDE)


class TicketList(Resource):
    @signed_in
    @answers(200, [examples.VALID])
    @paged(Parameter("upcoming", Choice("true")))
    def get(self, args: Args) -> Page:
        """List one's own tickets, newest first; or the good ones for what is not over, in the order of its start."""
        own = {"user_id": current_user.id}
        if args.pop("upcoming", None):
            return page(upcoming_tickets(), (Event.starts_at, Ticket.id), own, **args)
        return page(ticket_list(), (Ticket.id,), own, descending=True, **args)


class TicketDetail(Resource):
    @signed_in
    @answers(200, examples.VALID)
    def get(self, code: str) -> JSON:
        """Get a ticket."""
        return ticket_for(current_user, code).to_dict()

    @signed_in
    @answers(200, examples.VALID, refuses=NO_NEW_NAME, sends={"attendee_name": examples.USER.name})
    @takes(new_name)
    def patch(self, args: Args, code: str) -> JSON:
        """Say who comes with the ticket. `null` is its owner; once somebody is in, it stays. The code is the same."""
        ticket = ticket_to_rename(current_user, code)
        if args:
            rename(ticket, **args)
            db.session.commit()
        return ticket.to_dict()


class TicketQR(Resource):
    @public
    @answers(200, media={"image/svg+xml": "<svg>...</svg>", "image/png": "..."})
    def get(self, code: str) -> Response:
        """Get the QR code of the ticket's code; a picture of the kind that `Accept` names."""
        if not ticket_exists(code):
            raise NotFound
        kinds = {"image/svg+xml": "svg", "image/png": "png"}
        mimetype = request.accept_mimetypes.best_match(kinds, "image/svg+xml")
        image = io.BytesIO()
        # White behind it, or on a dark page nobody could scan the transparent SVG.
        segno.make(code, micro=False).save(image, kind=kinds[mimetype], scale=8, light="#fff")
        response = current_app.response_class(image.getvalue(), mimetype=mimetype)
        response.vary.add("Accept")
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return response


class TicketPage(Resource):
    @public
    @answers(200, media={"text/html": "<!doctype html>..."})
    def get(self, code: str) -> Response:
        """Get the ticket as a page, to show and to print. It has the local time, and the QR code while it is good."""
        page = ticket_page(ticket_of(code))
        return current_app.response_class(page, mimetype="text/html", headers={"Content-Security-Policy": POLICY})


recipient = parser(Field("email", Email(), required=True, required_message="Email address is required"))
transfer_token = parser(Field("token", AnyText(), required=True))
NO_TRANSFER = (
    *NO_NEW_NAME,
    EventCanceled(since=examples.STARTS),
    EventOver(),
)
PASSED_ON = TransferPending(**as_json(examples.TRANSFER, Transfer.serialize_only))


class TicketTransfer(Resource):
    @signed_in
    @answers(
        201,
        examples.TRANSFER,
        refuses=[*NO_TRANSFER, PASSED_ON, NotConfigured(what="mail")],
        sends={"email": examples.TRANSFER.to},
    )
    @takes(recipient)
    @limited
    def post(self, args: Args, code: str) -> tuple[JSON, int]:
        """Pass a ticket on to who has this address. Who accepts it, by the link that is mailed there, has it then."""
        transfer = offer(own_ticket(current_user, code), args["email"])
        db.session.commit()
        return transfer.to_dict(), 201

    @signed_in
    @answers(204)
    def delete(self, code: str) -> tuple[None, int]:
        """Take a ticket back that nobody has accepted yet."""
        withdraw(own_ticket(current_user, code))
        db.session.commit()
        return None, 204


class TransferAccept(Resource):
    @signed_in
    @answers(200, examples.VALID, refuses=[*NO_TRANSFER, OwnTicket()], sends={"token": examples.MAILED_TOKEN})
    @takes(transfer_token)
    def post(self, args: Args) -> JSON:
        """Accept a ticket by the token in the link. It has a new code; the one before lets nobody in any more."""
        ticket = accept(args["token"], current_user.id)
        db.session.commit()
        return ticket.to_dict()


entrance = closed_parser(Field("event_id", ID))
NO_ENTRY = (
    WrongEvent(event={"id": 2, "name": "Autumn Fair"}, **OUTSIDE),
    TicketVoid(since=examples.STARTS, **OUTSIDE),
    AlreadyCheckedIn(**INSIDE),
    EventCanceled(since=examples.STARTS, **OUTSIDE),
)
NOT_INSIDE = NotCheckedIn(status="valid", **OUTSIDE)


class TicketCheckIn(Resource):
    @roles("staff", "admin", "door", "manager", elsewhere=named_event)
    @answers(
        200, {"message": "Welcome", "ticket": examples.USED}, refuses=NO_ENTRY, sends={"event_id": examples.EVENT.id}
    )
    @takes(entrance, optional=True)
    @idempotent
    def post(self, args: Args, claim: Claim, code: str) -> Response:
        """Let one person in, once; at the door of the event `event_id`, if it is given.

        A scanner that got no answer sends it again with the same `Idempotency-Key`.
        """
        ticket = ticket_at_door(current_user, code, event_id=args.get("event_id"))
        check_in(ticket, code, to=current_user, **args)
        answer = claim.keep({"message": "Welcome", "ticket": ticket.to_dict()}, 200)
        db.session.commit()
        return answer

    @roles("staff", "admin", "door", "manager")
    @answers(200, {"message": "Check-in undone", "ticket": examples.VALID}, refuses=[NOT_INSIDE])
    def delete(self, code: str) -> JSON:
        """Undo a check-in that was a mistake."""
        ticket = ticket_for(current_user, code)
        undo_check_in(ticket)
        db.session.commit()
        return {"message": "Check-in undone", "ticket": ticket.to_dict()}
