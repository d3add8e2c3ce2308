"""The audit: what those who work here have changed."""

from flask_restful import Resource

from models import Audit
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import roles
from routes.http.paging import page, paged
from routes.http.parsing import Digits, Moment, Parameter, Text
from routes.http.views import Args, Page
from routes.selling.audit import audit_list

filters = (
    Parameter("event", Digits(0, 2**31 - 1), about="What concerns this event"),
    Parameter("actor", Digits(0, 2**31 - 1), about="What this user has done"),
    Parameter("action", Text(100), about="This action alone, such as ticket_type.changed"),
    Parameter("subject", Text(100), about="What was done to this, such as ticket_type:1"),
    Parameter("from", Moment(), dest="since", about="At this time or later"),
    Parameter("to", Moment(), dest="until", about="At this time or before"),
)


class AuditList(Resource):
    @roles("admin")
    @answers(200, [examples.AUDIT])
    @paged(*filters)
    def get(self, args: Args) -> Page:
        """List who changed what, newest first; `actor` is null for the command line and providers.

        `changes` has the old and the new value of each field. Of names, addresses, texts and the like it says only that
        they changed.
        """
        wanted: Args = {
            name: args.pop(name) for name in ("event", "actor", "action", "subject", "since", "until") if name in args
        }
        return page(audit_list(frozenset(wanted)), (Audit.at, Audit.id), wanted, descending=True, **args)
