"""Events: what visitors find and organizers put on."""

from flask_restful import Resource
from werkzeug.exceptions import NotFound

from models import Event, EventCanceled, HasOrders, Outdated, as_event, db
from routes.access import is_admin, roles, token_optional
from routes.answers import answers, conditional, expected_versions
from routes.examples import EVENT
from routes.paging import page, paged
from routes.parsing import ID, URL, Choice, Digits, Field, Moment, Parameter, Text, Time, changes, parser, takes

new_event = parser(
    Field("name", Text(200), required=True),
    Field("description", Text(10_000), required=True),
    Field("venue", Text(200), required=True),
    Field("category_id", ID, required=True),
    Field("starts_at", Time(), required=True),
    Field("ends_at", Time(), required=True),
    Field("poster", URL(2000), nullable=True),
    Field("status", Choice(*Event.STATUSES)),
)
filters = (
    Parameter("category", Digits(0, 2**31 - 1)),
    Parameter("q", Text(200)),
    Parameter("from", Moment(), dest="starts_from"),
    Parameter("to", Moment(), dest="starts_to"),
    Parameter("status", Choice(*Event.STATUSES), heeded=is_admin),
)


class EventList(Resource):
    @token_optional
    @answers(200, [EVENT])
    @conditional
    @paged(*filters)
    def get(self, args):
        """List the published events not over yet, or from `from` on; an admin's `status` lists others."""
        wanted = {
            name: args.pop(name) for name in ("status", "category", "q", "starts_from", "starts_to") if name in args
        }
        events, values, beginning = Event.search(**wanted)
        found, *rest = page(events, (Event.starts_at, Event.id), values, beginning=beginning, **args)
        return [as_event(event) for event in found], *rest

    @roles("admin")
    @answers(201, EVENT, headers=["Location"])
    @takes(new_event)
    def post(self, args):
        """Add an event, as a draft unless `status` says more."""
        event = Event.create(**args)
        db.session.commit()
        return event.to_dict(), 201, {"Location": f"/events/{event.id}"}


class EventItem(Resource):
    @token_optional
    @answers(200, EVENT, plus=("ticket_types",))
    @conditional
    def get(self, id):
        """Get an event with its ticket types. Drafts are for admins alone."""
        event = Event.read(id)
        if event is None or (event["status"] == "draft" and not is_admin()):
            raise NotFound
        return event, 200, {"version": event.pop("version")}

    @roles("admin")
    @answers(200, EVENT, refuses=[Outdated(), EventCanceled(), HasOrders()])
    @takes(changes(new_event))
    def patch(self, args, id):
        """Change an event; with `If-Match`, only as long as nobody else has."""
        event = db.get_or_404(Event, id)
        event.edit(args, versions=expected_versions())
        db.session.commit()
        return event.to_dict()

    @roles("admin")
    @answers(204, refuses=[HasOrders()])
    def delete(self, id):
        """Delete an event that nobody has ordered tickets for."""
        db.get_or_404(Event, id).delete()
        db.session.commit()
        return None, 204
