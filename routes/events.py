"""Events: what visitors find and organizers put on."""

from urllib.parse import urlsplit

from flask import Response, current_app
from flask_jwt_extended import current_user
from flask_restful import Resource

from models import EVENT_STATUSES, Event, EventCanceled, EventNotCanceled, HasOrders, Missing, Outdated, db
from routes import ticket_types
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import edits, hide_drafts, is_admin, public, roles, token_optional
from routes.http.etags import conditional, expected_versions, tagged
from routes.http.paging import page, paged
from routes.http.parsing import (
    ID,
    URL,
    Choice,
    Choices,
    Currency,
    Digits,
    Email,
    Field,
    Lines,
    ListOf,
    Many,
    Moment,
    Parameter,
    Text,
    Time,
    TimeZone,
    Words,
    changes,
    parser,
    takes,
)
from routes.http.views import JSON, Args, Headers, Page
from routes.jobs.letters import event_facts
from routes.outside import calendar
from routes.selling.catalogue import (
    Availability,
    add_ticket_types,
    changed_event,
    copy_event,
    create_event,
    delete_event,
    edit_event,
    event_json,
    read_event,
    search_events,
    without_hidden,
)
from routes.selling.refunds import refund_all

FIELDS = (
    Field("name", Text(200), required=True),
    Field("description", Lines(10_000), required=True),
    Field("venue", Text(200), required=True),
    Field("category_id", ID, required=True),
    Field("starts_at", Time(), required=True),
    Field("ends_at", Time(), required=True),
    Field("poster", URL(2000), nullable=True, about="The address of a picture"),
    Field("status", Choice(*EVENT_STATUSES), about="Only what is published is on sale", default="draft"),
    Field("currency", Currency(), about="In which its tickets are paid; the one of the shop where it is left out"),
    Field(
        "time_zone",
        TimeZone(),
        about="Of the place, for times as people read them; the one of the shop where it is left out",
    ),
    Field("contact", Email(), nullable=True, about="Whom buyers may write to"),
)
new_event = parser(
    *FIELDS, Field("ticket_types", ListOf(50, *ticket_types.FIELDS), about="To put on sale with the event")
)
NEXT_YEAR = {"starts_at": [examples.STARTS.replace(year=examples.STARTS.year + 1)]}
new_copies = parser(
    Field("starts_at", Many(Time(), least=1, most=60), required=True, about="When each of the copies starts")
)
filters = (
    Parameter("category", Digits(0, 2**31 - 1), about="Events of this category"),
    Parameter("q", Words(200, most=8), about="Words that all are somewhere in name, venue or description"),
    Parameter(
        "from", Moment(), dest="starts_from", about="Events that start at this time or later; those not over without it"
    ),
    Parameter("to", Moment(), dest="starts_to", about="Events that start at this time or before"),
    Parameter(
        "status",
        Choices(*EVENT_STATUSES),
        dest="statuses",
        only_if=is_admin,
        about="One or several, with commas between; published without it",
    ),
)
include = Parameter("include", Choice("ticket_types"), about="Each event comes with its ticket types")


class EventList(Resource):
    @token_optional
    @answers(200, [examples.EVENT], sometimes={"ticket_types": [examples.TICKET_TYPE]})
    @conditional
    @paged(*filters, include)
    def get(self, args: Args) -> Page:
        """List the published events not over yet, or from `from` on; an admin's `status` lists others."""
        wanted = {it.dest or it.name: args.pop(it.dest or it.name) for it in filters if (it.dest or it.name) in args}
        included = args.pop("include", None)
        least = [wanted["starts_from"]] if "starts_from" in wanted else []
        rows, values, beginning = search_events(**wanted)
        pool = "search" if "q" in wanted else "autocommit"
        keys = Event.starts_at, Event.id
        found, status, headers = page(rows, keys, values, beginning=beginning, least=least, pool=pool, **args)
        events = [event_json(event) for event in found]
        if included:
            add_ticket_types(events, hidden=is_admin())
        return events, status, headers

    @roles("admin")
    @answers(201, examples.EVENT, plus=("ticket_types",), headers=["Location"], sends=examples.NEW_EVENT)
    @tagged
    @takes(new_event)
    def post(self, args: Args) -> tuple[JSON, int, Headers]:
        """Add an event, with its ticket types if they are given: a draft unless `status` says more."""
        event = changed_event(create_event(args).id)
        db.session.commit()
        return event, 201, {"Location": f"/events/{event['id']}", "version": event.pop("version")}


class EventDetail(Resource):
    @token_optional
    @answers(200, examples.EVENT, plus=("ticket_types",))
    @conditional
    def get(self, id: int) -> tuple[JSON, int, Headers]:
        """Get an event with its ticket types. Drafts are for admins and their managers alone."""
        event = read_event(id) or {}
        hide_drafts(id, event.get("status"))
        if any(it["hidden"] for it in event["ticket_types"]) and not edits(id):
            event = without_hidden(event)
        return event, 200, {"version": event.pop("version")}

    @roles("admin", "manager")
    @answers(200, examples.EVENT, plus=("ticket_types",), refuses=[Outdated(), EventCanceled(), HasOrders()])
    @tagged
    @takes(changes(parser(*FIELDS)))
    def patch(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Change an event; with `If-Match`, only as long as nobody else has."""
        edit_event(db.get_or_404(Event, id), args, versions=expected_versions())
        event = changed_event(id)
        db.session.commit()
        return event, 200, {"version": event.pop("version")}

    @roles("admin")
    @answers(204, refuses=[Outdated(), HasOrders()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete an event that nobody has ordered tickets for; with `If-Match`, only if nobody has changed it."""
        delete_event(db.get_or_404(Event, id), versions=expected_versions())
        db.session.commit()
        return None, 204


class EventAvailability(Resource):
    @public
    @answers(200, [{"id": examples.TICKET_TYPE.id, "available": 100, "state": "on_sale"}])
    @conditional
    def get(self, id: int) -> tuple[list[JSON], int, Headers]:
        """Get how many tickets are left of each type, 100 at most, as of a second ago: for crowds that poll.

        Anybody may keep the answer for a second, so it says nothing of drafts, not even to admins.
        """
        kept = current_app.extensions.setdefault("availability", Availability())
        found = kept.of(id)
        if found is None:
            raise Missing
        return found, 200, {"Cache-Control": "public, max-age=1, stale-while-revalidate=5"}


class EventCopies(Resource):
    @roles("admin", "manager")
    @answers(201, [examples.DRAFT], sometimes={"ticket_types": [examples.TICKET_TYPE]}, sends=NEXT_YEAR)
    @takes(new_copies)
    def post(self, args: Args, id: int) -> tuple[list[JSON], int]:
        """Add drafts like this event, with its ticket types and pools, one for each start.

        All its times move by the same difference of local date and clock time: what starts at seven starts at seven.
        """
        manager = None if is_admin() else current_user.id
        made = copy_event(db.get_or_404(Event, id), args["starts_at"], manager=manager)
        events = [changed_event(copy) for copy in made]
        db.session.commit()
        for event in events:
            event.pop("version")
        return events, 201


class EventRefund(Resource):
    @roles("admin")
    @answers(202, {"orders": 2}, refuses=[EventNotCanceled(status="published")], sends={"reason": "The singer is ill"})
    @takes(parser(Field("reason", Text(500), required=True, about="Why, for those who get their money back")))
    def post(self, args: dict[str, str], id: int) -> tuple[dict[str, int], int]:
        """Refund all orders of a canceled event, which goes on after the answer; its sales say how far it is."""
        answer = refund_all(db.get_or_404(Event, id), by=current_user.id, **args)
        db.session.commit()
        return answer, 202


class EventCalendar(Resource):
    @token_optional
    @answers(200, media={calendar.MEDIA_TYPE: calendar.calendar_file(event_facts(examples.EVENT), "shop.example")})
    def get(self, id: int) -> Response:
        """Get an event for a calendar program."""
        event = db.session.get(Event, id)
        if event is None:
            raise Missing
        hide_drafts(id, event.status)
        host = urlsplit(current_app.config["SHOP_URL"]).hostname or "localhost"
        file = calendar.calendar_file(event_facts(event), host)
        response = current_app.response_class(file, mimetype=calendar.MEDIA_TYPE)
        response.headers["Content-Disposition"] = "attachment; filename=event.ics"
        return response
