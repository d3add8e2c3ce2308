"""The audit: who changed what, written by the verb that changes it, in its transaction, and never touched again."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Select, Text, bindparam, inspect, select
from sqlalchemy.orm import joinedload

from models import Audit, Ticket, User, UTCDateTime, code_hash, db, json_value

# The fields whose values an entry shows. Of all others it says only that they changed: they may be names, addresses,
# secrets, or what people wrote.
SHOWN = frozenset(
    [
        *("active", "role", "status", "method", "amount", "payment", "refund", "disputed", "tickets", "checked_in_at"),
        *("category_id", "pool_id", "ticket_types", "copies", "hidden", "unlocks", "time_zone", "currency"),
        *("starts_at", "ends_at", "expires_at"),
        *("price", "percent", "quantity", "sales_start", "sales_end"),
        *("min_per_order", "max_per_order", "max_per_buyer", "max_uses"),
    ]
)
ACTOR = "actor"  # in the session's info: the id of who makes the call, and the id of the request


def act_as(user_id: int, request_id: str) -> None:
    """Say who makes the call, for what it will record."""
    db.session.info[ACTOR] = user_id, request_id


def act_as_nobody() -> None:
    """The call has ended, and the session may outlive it."""
    db.session.info.pop(ACTOR, None)


def acts_for_himself(user_id: int) -> bool:
    """Whether the call is this user's own. What buyers do with their own orders is not recorded."""
    return bool(db.session.info.get(ACTOR, (None, None))[0] == user_id)


def record(action: str, subject: str, event_id: int | None = None, **changes: Any) -> None:
    """Write an entry: who did this to the `subject`, such as `order:CODE`, with each field's old and new value."""
    actor_id, request_id = db.session.info.get(ACTOR, (None, None))
    write(action, subject, event_id, changes, actor_id=actor_id, request_id=request_id)


def record_of_provider(action: str, subject: str, event_id: int | None = None, **changes: Any) -> None:
    """Write what a provider did, whoever made the call by which we learnt it."""
    write(action, subject, event_id, changes)


def write(action: str, subject: str, event_id: int | None, changes: dict[str, list[Any]], **actor: Any) -> None:
    db.session.add(Audit(action=action, subject=subject, event_id=event_id, changes=visible(changes), **actor))


def visible(changes: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What an entry says of the changes."""
    return {name: json_value(pair, ()) if name in SHOWN else [None, None] for name, pair in changes.items()}


def differences(row: Any, names: Collection[str]) -> dict[str, list[Any]]:
    """The old and the new value of each of these fields that has changed. It is asked before they are flushed."""
    found = {}
    for name in sorted(names):
        history = inspect(row).attrs[name].history
        pair = [next(iter(it or ()), None) for it in (history.deleted, history.added)]
        if pair[0] != pair[1]:
            found[name] = pair
    return found


def name_of(ticket: Ticket) -> str:
    """How a ticket is named here: not by its code, which would let somebody in."""
    return f"ticket:{code_hash(ticket.code)}"


AUDIT_FILTERS = {
    "event": Audit.event_id == bindparam("event"),
    "actor": Audit.actor_id == bindparam("actor"),
    "action": Audit.action == bindparam("action", type_=Text),
    "subject": Audit.subject == bindparam("subject", type_=Text),
    "since": Audit.at >= bindparam("since", type_=UTCDateTime),
    "until": Audit.at <= bindparam("until", type_=UTCDateTime),
}


@cache
def audit_list(filters: frozenset[str] = frozenset()) -> Select[Audit]:
    """The query of the entries, with a parameter for each of the `filters`."""
    entries = select(Audit).options(joinedload(Audit.actor).load_only(User.name))
    return entries.where(*(AUDIT_FILTERS[name] for name in sorted(filters)))
