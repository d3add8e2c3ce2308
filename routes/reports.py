"""Who comes, how it sells, and what was paid."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from flask import Response, current_app
from flask_restful import Resource

from models import PAYMENT_METHODS, PAYMENT_STATUSES, TICKET_STATUSES, Event, Payment, Ticket, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import hide_drafts, roles
from routes.http.paging import chunks, page, paged
from routes.http.parsing import Choice, Digits, Moment, Parameter, Text
from routes.http.request import request
from routes.http.views import JSON, Args, Page
from routes.selling.catalogue import event_status
from routes.selling.orders import PAYMENT_FILTERS, payment_list, payment_rows
from routes.selling.reports import ATTENDEE_FILTERS, find_attendees, sales, select_attendees
from routes.selling.settling import payment_json

CSV = ("text/csv", "text/csv; charset=utf-8")
VARY = {"Vary": "Accept"}
ATTENDEE_COLUMNS = ("code", "status", "holder", "email", "ticket_type", "order", "checked_in_at")
# Before what makes a formula where a cell begins. Some spreadsheets split cells at semicolons, tabs and lines, too, and
# take quotes away there.
FORMULA = re.compile(r"""^(?=[=+\-@\t\r\n＝＋－＠])|(?<=[;\t\r\n"'])(?=[=+\-@＝＋－＠])""")


attendee_filters = (
    Parameter("q", Text(200), about="A part of the holder's name or address, or the beginning of a code"),
    Parameter("ticket_type", Digits(0, 2**31 - 1), about="Tickets of this type"),
    Parameter("status", Choice(*TICKET_STATUSES), about="Tickets of this status; without it, all but void ones"),
)


class AttendeeList(Resource):
    @roles("staff", "admin", "door", "manager")
    @answers(200, examples.ATTENDEES, media={"text/csv": examples.ATTENDEES_CSV})
    @paged(*attendee_filters)
    def get(self, args: Args, id: int) -> Response | Page:
        """List who may come in or has come in; as CSV, by `Accept`, all of them at once.

        Void tickets are shown where `status` asks for them. `door` sees no addresses, and finds nobody by them.
        """
        hide_drafts(id, event_status(id))
        hidden = {"email": None} if request.appointment == "door" else {}
        wanted = {name: args.pop(name) for name in ATTENDEE_FILTERS if name in args}
        if "q" in wanted:
            q = wanted.pop("q")
            rows = select_attendees(frozenset(wanted) | {"q_but_address" if hidden else "q"})
            wanted |= find_attendees(q)
        else:
            rows = select_attendees(frozenset(wanted))
        attendees = rows, (Ticket.id,), {"event_id": id, **wanted}
        if wants_csv():
            every = ([row | hidden for row in rows] for rows in chunks(*attendees))
            return as_csv(f"attendees-{id}", ATTENDEE_COLUMNS, every)
        found, status, headers = page(*attendees, **args)
        return (
            [{column: (row | hidden)[column] for column in ATTENDEE_COLUMNS} for row in found],
            status,
            headers | VARY,
        )


def wants_csv() -> bool:
    return request.accept_mimetypes.best_match(["application/json", *CSV]) in CSV


def as_csv(name: str, columns: Sequence[str], found: Iterable[Sequence[Mapping[str, Any]]]) -> Response:
    """An answer in CSV, to be saved as a file of this name.

    It has a part for the names of the columns and one for each of the chunks of rows `found`.
    """

    def parts() -> Iterator[str]:
        yield lines([columns])
        for rows in found:
            yield lines([harmless(row[column]) for column in columns] for row in rows)

    headers = VARY | {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return current_app.response_class(parts(), mimetype="text/csv", headers=headers)


def lines(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def harmless(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe before what would begin one (OWASP)."""
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%dT%H:%M:%SZ")
    return FORMULA.sub("'", cell) if cell and isinstance(cell, str) else cell


class SalesReport(Resource):
    @roles("admin", "manager")
    @answers(200, examples.SALES)
    def get(self, id: int) -> JSON:
        """Count what is sold, held, free, inside and earned."""
        return sales(db.get_or_404(Event, id))


PAYMENT_COLUMNS = (
    *("id", "created_at", "method", "reference", "amount", "currency", "status"),
    *("order", "order_status", "event_id", "event", "by_id", "by"),
)
filters = (
    Parameter("status", Choice(*PAYMENT_STATUSES), about="Payments of this status"),
    Parameter("method", Choice(*PAYMENT_METHODS), about="Payments made so"),
    Parameter("event", Digits(0, 2**31 - 1), about="Payments for this event"),
    Parameter("by", Digits(0, 2**31 - 1), about="Payments that this user took"),
    Parameter("from", Moment(), dest="taken_from", about="Taken at this time or later"),
    Parameter("to", Moment(), dest="taken_to", about="Taken at this time or before"),
)


class PaymentReport(Resource):
    @roles("admin", "manager")
    @answers(200, [examples.CONFIRMED], plus=Payment.of_order, media={"text/csv": examples.PAYMENTS_CSV})
    @paged(*filters)
    def get(self, args: Args) -> Response | Page:
        """List all payments, newest first; as CSV, by `Accept`, all that the filters leave at once.

        A manager lists those of his `event`.
        """
        wanted = {name: args.pop(name) for name in PAYMENT_FILTERS if name in args}
        names, keys = frozenset(wanted), (Payment.created_at, Payment.id)
        if wants_csv():
            return as_csv("payments", PAYMENT_COLUMNS, chunks(payment_rows(names), keys, wanted, descending=True))
        found, status, headers = page(payment_list(names), keys, wanted, descending=True, shown=payment_json, **args)
        return found, status, headers | VARY
