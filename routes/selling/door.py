"""The door: each ticket lets one person in, once, by the name that it was given."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, bindparam, func, select
from sqlalchemy.orm import joinedload

from models import (
    AlreadyCheckedIn,
    Event,
    EventCanceled,
    Missing,
    NotCheckedIn,
    Order,
    Scan,
    Ticket,
    TicketCode,
    TicketType,
    TicketUsed,
    TicketVoid,
    User,
    WrongEvent,
    as_json,
    autocommit_connection,
    begin_writing,
    code_hash,
    db,
    door_version,
    json_value,
    keep_rows,
    now,
)
from routes.selling.appointments import is_appointed
from routes.selling.audit import acts_for_himself, name_of, record
from routes.selling.orders import lock_ticket, locked_ticket


def check_in(ticket: Ticket, code: str, event_id: int | None = None, *, to: Any = None) -> None:
    """Let one person in, once, by the `code` that is shown; at the door of `event_id`, if it is given.

    The event can't be canceled meanwhile.

    Who is appointed for another event alone is not told whose ticket it is; `to` is the user who asks.
    """
    canceled_at = keep_rows(select(Event.canceled_at).where(Event.id == ticket.event_id), key_share=False).one_or_none()
    locked_ticket(ticket.id)
    if event_id not in (None, ticket.event_id):
        facts = {"event": {"id": ticket.event_id, "name": ticket.event.name}}
        knows = to is None or ticket.visible_to(to) or is_appointed(to.id, ticket.event_id)
        raise WrongEvent(**facts, **(shown(ticket) if knows else {}))
    if ticket.code != code:
        passed_on = select(TicketCode.void_since).where(TicketCode.code == code)
        raise TicketVoid(since=db.session.scalar(passed_on), **shown(ticket))
    if ticket.status == "void":
        raise TicketVoid(since=void_since(ticket), **shown(ticket))
    if ticket.status == "used":
        raise AlreadyCheckedIn(**shown(ticket))
    if canceled_at is not None:
        raise EventCanceled(since=canceled_at, **shown(ticket))
    let_in(ticket, by=to and to.id)
    db.session.flush()
    db.session.refresh(ticket, ["checked_in_at"])


def let_in(ticket: Ticket, **scan: Any) -> Scan:
    """Use a locked ticket. The scan by which it is used stands in the list of them."""
    ticket.status, ticket.checked_in_at = "used", now()
    return note(ticket.code, ticket.event_id, ticket, "accepted", **scan)


def note(
    code: str, event_id: int, ticket: Ticket | None, outcome: str, *, by: int | None, accepted: bool = True, **more: Any
) -> Scan:
    facts = {"event_id": event_id, "code_hash": code_hash(code), "outcome": outcome, "accepted": accepted}
    scan = Scan(**facts, ticket_id=ticket and ticket.id, user_id=by, **more)
    scan.conflict = accepted and outcome != "accepted"
    db.session.add(scan)
    return scan


def undo_check_in(ticket: Ticket) -> None:
    lock_ticket(ticket)
    if ticket.status != "used":
        raise NotCheckedIn(status=ticket.status, **shown(ticket))
    record(
        "check_in.undone",
        name_of(ticket),
        ticket.event_id,
        status=["used", "valid"],
        checked_in_at=[ticket.checked_in_at, None],
    )
    ticket.status, ticket.checked_in_at = "valid", None


def rename(ticket: Ticket, attendee_name: str | None) -> None:
    """Say who comes with the ticket; None for its buyer. The code stays, so that what is printed stays good."""
    lock_ticket(ticket)
    if ticket.status == "void":
        raise TicketVoid(since=void_since(ticket), **shown(ticket))
    if ticket.status == "used":
        raise TicketUsed(**shown(ticket))
    if attendee_name != ticket.attendee_name and not acts_for_himself(ticket.user_id):
        record("ticket.renamed", name_of(ticket), ticket.event_id, attendee_name=[None, None])
    ticket.attendee_name = attendee_name


def void_since(ticket: Ticket) -> datetime | None:
    return db.session.scalar(select(Order.updated_at).where(Order.id == ticket.order_id))


def shown(ticket: Ticket) -> dict[str, Any]:
    """What a refusal says of the ticket to who may see it: whose it is, and whether he is inside."""
    return as_json(ticket, ("holder", "ticket_type.id", "ticket_type.name", "checked_in_at"))


# The door without a network.


def take_scan(event_id: int, device: str, scan: Mapping[str, Any], *, by: int) -> dict[str, Any]:
    """Take one scan that a device made without a network, and say what came of it. The same nonce says it again.

    Who was not let in there is not let in by it: it only says what his ticket is. Whoever comes first here comes first,
    as the clocks of devices may be wrong.
    """
    known = select(Scan).where(Scan.event_id == event_id, Scan.device == device, Scan.nonce == scan["nonce"])
    begin_writing()
    found = db.session.scalar(known.options(joinedload(Scan.before)))
    if found is None:
        found = judged_scan(event_id, device, scan, by=by)
        db.session.flush()
        db.session.refresh(found)
    return scan_json(found)


def judged_scan(event_id: int, device: str, scan: Mapping[str, Any], *, by: int) -> Scan:
    code, facts = scan["code"], {"device": device, "nonce": scan["nonce"], "at": scan.get("at")}
    facts |= {"accepted": scan["accepted"], "by": by}
    canceled = keep_rows(select(Event.canceled_at).where(Event.id == event_id), key_share=False).one()
    id = db.session.scalar(select(Ticket.id).where(Ticket.code == code))
    before = select(TicketCode.ticket_id).where(TicketCode.code == code)
    id = db.session.scalar(before) if id is None else id
    ticket = None
    with suppress(Missing):
        ticket = locked_ticket(id) if id is not None else None
    if ticket is None:
        return note(code, event_id, None, "unknown", **facts)
    if ticket.event_id != event_id:
        return note(code, event_id, ticket, "wrong_event", **facts)
    if ticket.code != code or ticket.status == "void" or canceled is not None:
        return note(code, event_id, ticket, "void", **facts)
    if ticket.status == "used":
        used_by = select(Scan.id).where(Scan.ticket_id == ticket.id, Scan.outcome == "accepted", Scan.accepted)
        first = db.session.scalar(used_by.order_by(Scan.id.desc()).limit(1))
        return note(code, event_id, ticket, "already_checked_in", first_id=first, **facts)
    if not scan["accepted"]:
        return note(code, event_id, ticket, "accepted", **facts)
    return let_in(ticket, **facts)


def scan_json(scan: Scan, error: str | None = None) -> dict[str, Any]:
    """What the device is told of its scan: where the ticket was used before, when and by which device."""
    used = scan.shown if scan.outcome == "already_checked_in" else None
    told = {"nonce": scan.nonce, "outcome": scan.outcome, "conflict": scan.conflict, "error": error}
    return told | {"checked_in_at": used and json_value(used.checked_in_at, ()), "device": scan.first_device}


@cache
def scan_list(conflict: bool | None = None) -> Select[Scan]:
    """The query of the scans of the parameter `event_id`, or of those that are, or are not, in conflict."""
    ticket = joinedload(Scan.shown)
    scans = select(Scan).options(
        joinedload(Scan.by).load_only(User.name),
        joinedload(Scan.before),
        ticket.joinedload(Ticket.owner).load_only(User.name),
        ticket.joinedload(Ticket.ticket_type).load_only(TicketType.name),
    )
    scans = scans.where(Scan.event_id == bindparam("event_id"))
    return scans if conflict is None else scans.where(Scan.conflict if conflict else ~Scan.conflict)


MOST_LISTED = 10_000  # tickets in one answer: 0.4 MB


def door_list(event_id: int, *, since: int | None, after: int, limit: int, names: bool) -> dict[str, Any]:
    """What a scanner needs to work without a network, or what of it has changed `since` a version.

    `tickets` are those with an id over `after`, `last` is the id of the last of them where there are more. Its version
    is read before them: what is changed meanwhile is told now or the next time, perhaps both times.
    """
    values = {"event_id": event_id, "after": after, "since": since or 0, "limit": limit}
    with autocommit_connection() as connection:
        version = connection.execute(select(door_version())).scalar_one()
        if since is not None and since > version:  # of another database: all is new
            values["since"] = since = 0
        tickets = connection.execute(tickets_at_door(since is not None), values).all()
        gone = connection.scalars(CODES_GONE, values).all() if after == 0 else []
    listed = [[code_hash(it.code), it.ticket_type_id, it.status, *([it.holder] if names else [])] for it in tickets]
    last = tickets[-1].id if len(tickets) == limit else None
    return {"version": version, "tickets": listed, "gone": [code_hash(code) for code in gone], "last": last}


@cache
def tickets_at_door(changed: bool) -> Select[*tuple[Any, ...]]:
    holder = func.coalesce(Ticket.attendee_name, User.name).label("holder")
    rows = select(Ticket.id, Ticket.code, Ticket.ticket_type_id, Ticket.status, holder).join(Ticket.owner)
    rows = rows.where(Ticket.event_id == bindparam("event_id"), Ticket.id > bindparam("after"))
    if changed:
        rows = rows.where(Ticket.changed >= bindparam("since"))
    return rows.order_by(Ticket.id).limit(bindparam("limit", type_=Integer))


CODES_GONE = (
    select(TicketCode.code)
    .join(Ticket, Ticket.id == TicketCode.ticket_id)
    .where(Ticket.event_id == bindparam("event_id"), TicketCode.changed >= bindparam("since"))
    .order_by(TicketCode.changed)
)
