"""Who comes, and how it sells."""

import csv
import io
import re
from datetime import datetime

from flask import current_app, request
from flask_restful import Resource

from models import Event, Ticket, db
from routes.access import roles
from routes.answers import answers
from routes.examples import ATTENDEES, ATTENDEES_CSV, SALES
from routes.paging import chunks, page, paged

CSV = ("text/csv", "text/csv; charset=utf-8")
VARY = {"Vary": "Accept"}
COLUMNS = ("code", "status", "holder", "email", "ticket_type", "order", "checked_in_at")
# Before what makes a formula where a cell begins. Some spreadsheets split cells at semicolons, tabs and lines, too, and
# take quotes away there.
FORMULA = re.compile(r"""^(?=[=+\-@\t\r\n＝＋－＠])|(?<=[;\t\r\n"'])(?=[=+\-@＝＋－＠])""")


class AttendeeList(Resource):
    @roles("staff", "admin")
    @answers(200, ATTENDEES, media={"text/csv": ATTENDEES_CSV})
    @paged()
    def get(self, args, id):
        """List who may come in or has come in; as CSV, by `Accept`, all of them at once."""
        db.get_or_404(Event, id)
        attendees = Ticket.attendees(), (Ticket.id,), {"event_id": id}
        if request.accept_mimetypes.best_match(["application/json", *CSV]) in CSV:
            return current_app.response_class(as_csv(chunks(*attendees)), mimetype="text/csv", headers=VARY)
        found, status, headers = page(*attendees, **args)
        return [{column: row[column] for column in COLUMNS} for row in found], status, headers | VARY


def as_csv(found):
    """The attendees as CSV, a part for the names and one for each chunk of `found`."""
    yield lines([COLUMNS])
    for rows in found:
        yield lines([harmless(row[column]) for column in COLUMNS] for row in rows)


def lines(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def harmless(cell):
    """A cell that no spreadsheet takes for a formula: an apostrophe before what would begin one (OWASP)."""
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%dT%H:%M:%SZ")
    return FORMULA.sub("'", cell) if cell else cell


class Sales(Resource):
    @roles("admin")
    @answers(200, SALES)
    def get(self, id):
        """Count what is sold, held, free, inside and earned."""
        return db.get_or_404(Event, id).sales()
