"""Who works for single events, beside the roles of accounts."""

from flask_jwt_extended import current_user
from flask_restful import Resource

from models import APPOINTMENTS, Appointment, Event, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import hide_drafts, is_admin, roles, signed_in
from routes.http.paging import page, paged
from routes.http.parsing import Choice, Field, parser, takes
from routes.http.views import JSON, Args, Page
from routes.selling.appointments import appoint, appointment_list, dismiss
from routes.selling.catalogue import appointed_events, event_json, event_status

appointment = parser(Field("role", Choice(*APPOINTMENTS), required=True))


def own_to_give() -> tuple[str, ...]:
    """The appointments that the current user may give and end."""
    return APPOINTMENTS if is_admin() else ("door",)


class StaffList(Resource):
    @roles("admin", "manager")
    @answers(200, [examples.APPOINTMENT])
    @paged()
    def get(self, args: Args, id: int) -> Page:
        """List who is appointed for an event."""
        hide_drafts(id, event_status(id))
        return page(appointment_list(), (Appointment.user_id,), {"event_id": id}, **args)


class StaffDetail(Resource):
    @roles("admin", "manager")
    @answers(200, examples.APPOINTMENT)
    @takes(appointment)
    def put(self, args: Args, id: int, user: int) -> JSON:
        """Appoint somebody for an event: `door` works at the door, `manager` does all that is about it.

        Managers appoint `door` alone.
        """
        appointed = appoint(id, user, over=own_to_give(), **args)
        answer = appointed.to_dict()
        db.session.commit()
        return answer

    @roles("admin", "manager")
    @answers(204)
    def delete(self, id: int, user: int) -> tuple[None, int]:
        """End an appointment, from the next request on. Managers end those of `door` alone."""
        dismiss(id, user, over=own_to_give())
        db.session.commit()
        return None, 204


class MyEventList(Resource):
    @signed_in
    @answers(200, [examples.EVENT], plus=("role",))
    @paged()
    def get(self, args: Args) -> Page:
        """List the events that one is appointed for; the latest first, with one's `role` there."""
        keys = Event.starts_at, Event.id
        found, status, headers = page(appointed_events(), keys, {"user_id": current_user.id}, descending=True, **args)
        return [event_json(event) for event in found], status, headers
