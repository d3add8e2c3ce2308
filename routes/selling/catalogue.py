"""The catalogue: how categories, events and ticket types are edited, read and searched."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Text,
    bindparam,
    delete,
    false,
    func,
    or_,
    select,
    update,
)

from models import (
    UNSETTLED,
    UNSYNCHRONIZED,
    Appointment,
    Category,
    CategoryInUse,
    CategoryNameTaken,
    Checkout,
    Event,
    EventCanceled,
    HasOrders,
    Invalid,
    Missing,
    Order,
    OrderLine,
    Outdated,
    Pool,
    PreparedStatement,
    PromoCode,
    PromoCodeType,
    QuantityBelowSold,
    SoldOut,
    Ticket,
    TicketType,
    TicketTypeInUse,
    UTCDateTime,
    autocommit_connection,
    changed_rows,
    db,
    keep_rows,
    lock_rows,
    now,
    refusing,
)
from routes.selling.appointments import SHOWN
from routes.selling.audit import differences, record
from routes.selling.mails import tell_of_changes
from routes.selling.places import BATCH, change_rules, free_places, lapse, lapse_for, note_freed

Versions = Collection[str] | None  # None: any


def create_category(name: str) -> Category:
    category = Category(name=name)
    with refusing(CategoryNameTaken, "uq_categories_folded"):
        db.session.add(category)
    record("category.created", f"category:{category.id}", name=[None, name])
    return category


def edit_category(category: Category, changes: Mapping[str, Any], *, versions: Versions = None) -> None:
    lock_row(Category, category.id, versions=versions)
    with refusing(CategoryNameTaken, "uq_categories_folded"):
        category.set(changes)
        changed = differences(category, changes)
    if changed:
        record("category.changed", f"category:{category.id}", None, **changed)


def delete_category(category: Category, *, versions: Versions = None) -> None:
    """No event can come into it once its row is locked."""
    lock_from_all(Category, category.id, versions=versions)
    if found(select(Event.id).where(Event.category_id == category.id)):
        raise CategoryInUse
    db.session.execute(delete(Category).where(Category.id == category.id))
    record("category.deleted", f"category:{category.id}")


def lock_row(model: type[Any], id: int, *, versions: Versions) -> None:
    """Lock a row and read it anew. Somebody may have changed or deleted it since it was found."""
    row = lock_rows(select(model).where(model.id == id)).one_or_none()
    if row is None:
        raise Missing
    judge_version(row.version, versions)


def judge_version(version: int | None, versions: Versions) -> None:
    """Refuse an outdated version of a locked row: of two who change one version at once, the second is told."""
    if versions is not None and str(version) not in versions:
        raise Outdated


def lock_from_all(model: type[Any], id: int, *, versions: Versions) -> None:
    """Lock a row, if it is still there, and let nobody add rows that refer to it."""
    version = lock_rows(select(model.version).where(model.id == id), key_share=False).one_or_none()
    judge_version(version, versions)


def found(query: Select[*tuple[Any, ...]]) -> bool:
    return db.session.scalar(query.limit(1)) is not None


def create_event(fields: Mapping[str, Any]) -> Event:
    """An event with its `ticket_types`, all or nothing."""
    fields = dict(fields)
    types = fields.pop("ticket_types", [])
    event = Event()
    set_event(event, fields)
    chosen = differences(event, fields)
    db.session.add(event)
    db.session.flush()
    db.session.refresh(event, ["category"])
    for place, ticket_type in enumerate(types):
        try:
            add_ticket_type(event.id, ticket_type)
        except Invalid as error:
            [(name, text)] = error.fields.items()
            raise Invalid(ticket_types=f"{name} of entry {place}: {text}") from None
    if types:
        chosen["ticket_types"] = [None, len(types)]
    record("event.created", f"event:{event.id}", event.id, **chosen)
    return event


def edit_event(event: Event, changes: Mapping[str, Any], *, versions: Versions = None) -> None:
    """Change what is given.

    Once its ticket types are sold by other rules, no order comes that was judged by the old ones: only then are orders
    looked for.
    """
    lock_row(Event, event.id, versions=versions)
    if event.status == "canceled" and changes.get("status", "canceled") != "canceled":
        raise EventCanceled
    if changes.keys() & Event.RULES:
        change_rules(event.id)
    if event.status != "draft" and changes.get("status") == "draft" and has_orders(of_event(event.id)):
        raise HasOrders
    if changes.get("currency", event.currency) != event.currency and ordered(event.id):
        raise HasOrders
    set_event(event, changes)
    changed = differences(event, changes)
    tell_of_changes(event)
    db.session.flush()
    db.session.refresh(event, ["category"])
    if changed:
        record("event.changed", f"event:{event.id}", event.id, **changed)


def set_event(event: Event, fields: Mapping[str, Any]) -> None:
    """Change what is given and judge all of it, also whether the category is there; it stays until the commit."""
    wrong: dict[str, str] = {}
    try:
        event.set(fields)
    except Invalid as error:
        wrong = error.fields
    kept = select(Category.id).where(Category.id == event.category_id)
    with db.session.no_autoflush:
        if keep_rows(kept).one_or_none() is None:
            wrong |= {"category_id": "There is no such category"}
    if wrong:
        raise Invalid(**wrong)


def of_event(event_id: int) -> ColumnElement[bool]:
    """The condition for the orders of an event."""
    return Order.event_id == event_id


def ordered(event_id: int) -> bool:
    """Whether anybody has ever ordered, whatever became of it."""
    return found(select(Order.id).where(Order.event_id == event_id))


def of_ticket_type(ticket_type_id: int) -> ColumnElement[bool]:
    """The condition for the orders that have a line of a ticket type."""
    return Order.id.in_(select(OrderLine.order_id).where(OrderLine.ticket_type_id == ticket_type_id))


def has_orders(orders: ColumnElement[bool]) -> bool:
    """Whether there are orders that count: pending, paid, refunded, with a payment, or a page that may be open."""
    payable = select(Checkout.id).where(Checkout.order_id == Order.id, Checkout.status.in_(UNSETTLED)).exists()
    counts = or_(Order.has_status("pending"), Order.state.in_(("paid", "refunded")), Order.payments.any(), payable)
    return found(select(Order.id).where(orders, counts))


def lock_orders(orders: ColumnElement[bool]) -> list[int]:
    """Lock all the orders, if none of them counts, for what they are for to be deleted. Returns their ids."""
    if has_orders(orders):
        raise HasOrders
    ids = lock_rows(select(Order.id).where(orders).order_by(Order.id)).all()
    if has_orders(orders):
        raise HasOrders
    return list(ids)


def refuse_others(orders: ColumnElement[bool], locked: list[int]) -> None:
    """Raise HasOrders where there is an order that came too late to be `locked`."""
    if db.session.scalars(select(func.count(Order.id)).where(orders)).one() > len(locked):
        raise HasOrders


def delete_orders(ids: list[int]) -> None:
    """Delete orders that do not count, with their lines and the void tickets of those that cost nothing."""
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        for key in (Ticket.order_id, OrderLine.order_id, Checkout.order_id, Order.id):
            db.session.execute(delete(key.class_).where(key.in_(some)), execution_options=UNSYNCHRONIZED)


def delete_event(event: Event, *, versions: Versions = None) -> None:
    """Delete it with its ticket types and the orders that came to nothing, unless somebody has ordered.

    Nobody can order once its row is locked. So orders are looked for a second time then.
    """
    orders = lock_orders(of_event(event.id))
    lock_from_all(Event, event.id, versions=versions)
    refuse_others(of_event(event.id), orders)
    delete_orders(orders)
    delete_promo_codes(PromoCode.event_id == event.id)
    db.session.execute(delete(TicketType).where(TicketType.event_id == event.id))
    db.session.execute(delete(Pool).where(Pool.event_id == event.id))
    db.session.execute(delete(Event).where(Event.id == event.id))
    record("event.deleted", f"event:{event.id}", event.id)


def create_ticket_type(event_id: int, fields: Mapping[str, Any]) -> TicketType:
    """Put tickets on sale for an event, which nobody deletes meanwhile, or cancels without seeing them."""
    if keep_rows(select(Event.id).where(Event.id == event_id), key_share=False).one_or_none() is None:
        raise Missing
    ticket_type, chosen = add_ticket_type(event_id, fields)
    db.session.refresh(ticket_type, MADE_FIELDS)
    record("ticket_type.created", f"ticket_type:{ticket_type.id}", event_id, **chosen)
    return ticket_type


def add_ticket_type(event_id: int, fields: Mapping[str, Any]) -> tuple[TicketType, dict[str, list[Any]]]:
    """A ticket type of an event that is kept, and what the audit says of it."""
    ticket_type = TicketType(event_id=event_id, hidden=False)
    ticket_type.set(fields)
    keep_pool(ticket_type)
    chosen = differences(ticket_type, {*fields, "max_per_buyer"})
    db.session.add(ticket_type)
    db.session.flush()
    return ticket_type, chosen


COPIED = ("name", "description", "venue", "poster", "category_id", "time_zone", "currency", "contact")
COPIED_OF_TYPE = ("name", "price", "quantity", "min_per_order", "max_per_order", "max_per_buyer", "hidden")


def copy_event(event: Event, starts: Sequence[datetime], *, manager: int | None = None) -> list[int]:
    """Drafts like an event, with its ticket types and pools, one for each start; `manager` is theirs too.

    All its times move by the same difference of local date and clock time. Returns their ids.
    """
    if keep_rows(select(Event.id).where(Event.id == event.id)).one_or_none() is None:
        raise Missing
    types = db.session.scalars(select(TicketType).where(TicketType.event_id == event.id).order_by(TicketType.id)).all()
    pools = db.session.scalars(select(Pool).where(Pool.event_id == event.id).order_by(Pool.id)).all()
    copies = [copy_at(event, types, pools, start) for start in starts]
    if manager is not None:
        db.session.add_all(Appointment(event_id=id, user_id=manager, role="manager") for id in copies)
        db.session.flush()
    record("event.copied", f"event:{event.id}", event.id, starts_at=[None, list(starts)], copies=[None, copies])
    return copies


def copy_at(event: Event, types: Sequence[TicketType], pools: Sequence[Pool], start: datetime) -> int:
    move = mover(event, start)
    ends = max(move(event.ends_at), start + timedelta(seconds=1))
    copy = Event()
    set_event(copy, {name: getattr(event, name) for name in COPIED} | {"starts_at": start, "ends_at": ends})
    db.session.add(copy)
    db.session.flush()
    places: dict[int | None, int] = {}
    for pool in pools:
        shared = Pool(event_id=copy.id)
        shared.set({"name": pool.name, "quantity": pool.quantity})
        db.session.add(shared)
        db.session.flush()
        places[pool.id] = shared.id
    for it in types:
        fields = {name: getattr(it, name) for name in COPIED_OF_TYPE}
        times = {name: getattr(it, name) for name in ("sales_start", "sales_end")}
        fields |= {name: time and move(time) for name, time in times.items()}
        add_ticket_type(copy.id, fields | {"pool_id": places.get(it.pool_id)})
    return copy.id


def mover(event: Event, start: datetime) -> Callable[[datetime], datetime]:
    """How the times of an event move if it is to begin at `start`: by the local clock."""
    zone = ZoneInfo(event.time_zone)

    def local(time: datetime) -> datetime:
        return time.astimezone(zone).replace(tzinfo=None)

    def moved(time: datetime) -> datetime:
        try:
            there = local(time) + (local(start) - local(event.starts_at))
            return there.replace(tzinfo=zone).astimezone(UTC)
        except (OverflowError, ValueError):
            raise Invalid(starts_at="Its times would not be between the years 1970 and 9999") from None

    return moved


MADE_FIELDS = ("lapsed", "closed", "event", "pool_free")


def keep_pool(ticket_type: TicketType) -> None:
    """Judge the pool of a ticket type, which nobody deletes until the commit."""
    if ticket_type.pool_id is None:
        return
    kept = select(Pool.id).where(Pool.id == ticket_type.pool_id, Pool.event_id == ticket_type.event_id)
    with db.session.no_autoflush:
        if keep_rows(kept).one_or_none() is None:
            raise Invalid(pool_id="There is no such pool of this event")


def edit_ticket_type(ticket_type: TicketType, changes: Mapping[str, Any], *, versions: Versions = None) -> None:
    """Change what is given. Fewer places than are sold and held is refused; lapsed holds are let go of first."""
    missing = ticket_type.sold + ticket_type.held - changes.get("quantity", ticket_type.quantity)
    moves = changes.get("pool_id", ticket_type.pool_id) != ticket_type.pool_id
    if missing > 0 or (moves and ticket_type.held):
        lapse_for({(TicketType, ticket_type.id): max(missing, ticket_type.held)})
    lock_row(TicketType, ticket_type.id, versions=versions)
    if changes.get("quantity", ticket_type.quantity) < ticket_type.sold + ticket_type.held:
        raise QuantityBelowSold(sold=ticket_type.sold, held=ticket_type.held)
    if changes.get("pool_id", ticket_type.pool_id) != ticket_type.pool_id:
        move(ticket_type, changes["pool_id"])
    ticket_type.set(changes)
    keep_pool(ticket_type)
    changed = differences(ticket_type, {*changes, "max_per_buyer"})
    if ticket_type.waited:
        note_freed(TicketType, ticket_type.id)
    db.session.flush()
    db.session.refresh(ticket_type, MADE_FIELDS)  # now, as after the commit it may be gone
    if changed:
        record("ticket_type.changed", f"ticket_type:{ticket_type.id}", ticket_type.event_id, **changed)


def move(ticket_type: TicketType, pool_id: int | None) -> None:
    """Let a locked ticket type join a pool with what it has sold and held. What has sold stays in its pool."""
    if not (ticket_type.sold or ticket_type.held):
        return
    if ticket_type.pool_id is not None:
        raise HasOrders
    join(pool_id, sold=ticket_type.sold, held=ticket_type.held)


def join(pool_id: int | None, *, sold: int, held: int) -> None:
    """Count in a pool what its new ticket types have sold and held. Raises SoldOut where that is too much for it."""
    more = update(Pool).where(Pool.id == pool_id, Pool.quantity - Pool.sold - Pool.counted >= sold + held)
    if not changed_rows(more.values(sold=Pool.sold + sold, counted=Pool.counted + held)):
        pool = db.session.get(Pool, pool_id, populate_existing=True)
        if pool is None:
            raise Invalid(pool_id="There is no such pool of this event")
        raise SoldOut(pool_id=pool_id, available=pool.quantity - pool.sold - pool.counted)


def delete_ticket_type(ticket_type: TicketType, *, versions: Versions = None) -> None:
    """Delete it with the orders that came to nothing. Nobody can order it once its row is locked."""
    orders = lock_orders(of_ticket_type(ticket_type.id))
    lapse(of_ticket_type(ticket_type.id))  # for what they hold of other ticket types
    lock_from_all(TicketType, ticket_type.id, versions=versions)
    refuse_others(of_ticket_type(ticket_type.id), orders)
    if found(select(PromoCodeType.promo_code_id).where(PromoCodeType.ticket_type_id == ticket_type.id)):
        raise TicketTypeInUse
    delete_orders(orders)
    db.session.execute(delete(TicketType).where(TicketType.id == ticket_type.id))
    record("ticket_type.deleted", f"ticket_type:{ticket_type.id}", ticket_type.event_id)


def delete_promo_codes(codes: ColumnElement[bool]) -> None:
    """Delete promo codes that no order refers to."""
    named = PromoCodeType.promo_code_id.in_(select(PromoCode.id).where(codes))
    for statement in (delete(PromoCodeType).where(named), delete(PromoCode).where(codes)):
        db.session.execute(statement, execution_options=UNSYNCHRONIZED)


SELECT_CATEGORIES = select(Category.id, Category.name)
SELECT_CATEGORY = SELECT_CATEGORIES.add_columns(Category.version).where(Category.id == bindparam("id"))


def read_category(id: int) -> dict[str, Any] | None:
    """A category as `to_dict` would show it, and its `version`; or None."""
    with autocommit_connection() as connection:
        row = connection.execute(SELECT_CATEGORY, {"id": id}).mappings().one_or_none()
    return None if row is None else dict(row)


def select_events() -> Select[*tuple[Any, ...]]:
    """What an event's JSON shows, as a query of rows: a row takes a tenth of a model's time to show."""
    columns = [getattr(Event, name) for name in Event.serialize_only if name != "category"]
    category = Category.id.label("category_id"), Category.name.label("category_name")
    return select(*columns, *category).join(Event.category)


def event_json(row: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """A row of `select_events` in the shape of `Event.to_dict`."""
    event = dict(row)
    event["category"] = {"id": event.pop("category_id"), "name": event.pop("category_name")}
    return event


SELECT_EVENT = PreparedStatement("event", select_events().add_columns(Event.version).where(Event.id == bindparam("id")))


def select_ticket_types() -> Select[*tuple[Any, ...]]:
    """What a ticket type's JSON shows or is made of, as a query of rows."""
    made = ("currency", "available", "state")
    columns = [getattr(TicketType, name) for name in TicketType.serialize_only if name not in made]
    more = Event.currency, free_places().label("own_free"), TicketType.closed.expression.label("closed")
    pool_free = TicketType.pool_free.expression.label("pool_free")
    waiting = TicketType.waited, TicketType.waited_least
    return select(*columns, *more, *waiting, pool_free).join(TicketType.event)


def ticket_type_json(row: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """A row of `select_ticket_types` in the shape of `TicketType.to_dict`."""
    ticket_type = dict(row)
    free = TicketType.least(ticket_type.pop("own_free"), ticket_type.pop("pool_free"))
    free = TicketType.beyond_waiting(free, ticket_type.pop("waited"), ticket_type.pop("waited_least"))
    places = free, ticket_type.pop("closed")
    ticket_type["available"], ticket_type["state"] = TicketType.on_offer(*places), TicketType.state_of(*places)
    return ticket_type


SELECT_TICKET_TYPES_OF_EVENT = select_ticket_types().where(TicketType.event_id == bindparam("id"))
SELECT_SHOWN_TICKET_TYPES_OF_EVENT = SELECT_TICKET_TYPES_OF_EVENT.where(TicketType.hidden.is_(false()))
SELECT_TICKET_TYPES = PreparedStatement("ticket_types", SELECT_TICKET_TYPES_OF_EVENT.order_by(TicketType.id))
SELECT_TICKET_TYPE = PreparedStatement(
    "ticket_type",
    select_ticket_types()
    .add_columns(TicketType.version, Event.status.label("event_status"))
    .where(TicketType.id == bindparam("id")),
)


def read_event(id: int) -> dict[str, Any] | None:
    """An event with its ticket types, the hidden ones too, and its `version`; or None."""
    with autocommit_connection() as connection:
        return whole_event(connection, id)


def without_hidden(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"ticket_types": [it for it in event["ticket_types"] if not it["hidden"]]}


def changed_event(id: int) -> dict[str, Any]:
    """What `read_event` will answer after the commit. It is made before, as somebody may delete the event after it."""
    return whole_event(db.session.connection(), id) or {}


def whole_event(connection: Connection, id: int) -> dict[str, Any] | None:
    event = SELECT_EVENT.execute(connection, {"id": id}).mappings().one_or_none()
    if event is None:
        return None
    types = SELECT_TICKET_TYPES.execute(connection, {"id": id}).mappings().all()
    return event_json(event) | {"ticket_types": [ticket_type_json(row) for row in types]}


AT_MOST = 100  # places that `availability` tells of: more is nobody's business, and changes less often
KEPT = 1.0  # seconds
MOST_KEPT = 1000  # events


class Availability:
    """What is left of events, kept for a second in each process: for crowds that ask again and again."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[float, list[dict[str, Any]] | None]] = {}

    def of(self, event_id: int) -> list[dict[str, Any]] | None:
        """Of each ticket type but the hidden ones. None for a draft, and where there is no event."""
        read_at, found = self.kept.get(event_id, (0.0, None))
        if monotonic() - read_at >= KEPT:
            if len(self.kept) >= MOST_KEPT:
                self.kept = {}
            read_at, found = monotonic(), self.read(event_id)
            self.kept[event_id] = read_at, found
        return found

    def read(self, event_id: int) -> list[dict[str, Any]] | None:
        event = read_event(event_id)
        if event is None or event["status"] == "draft":
            return None
        return [
            {"id": it["id"], "available": min(it["available"], AT_MOST), "state": it["state"]}
            for it in event["ticket_types"]
            if not it["hidden"]
        ]


def event_status(id: int) -> str | None:
    """The status of an event, or None where there is no such event."""
    with autocommit_connection() as connection:
        return connection.scalar(select(Event.status).where(Event.id == id))


def keep_visible(event_id: int) -> None:
    """Raise Missing where there is no such event."""
    if event_status(event_id) is None:
        raise Missing


def read_ticket_type(id: int) -> dict[str, Any] | None:
    """A ticket type as `to_dict` would show it, its `version` and its `event_status`; or None."""
    with autocommit_connection() as connection:
        row = SELECT_TICKET_TYPE.execute(connection, {"id": id}).mappings().one_or_none()
    return None if row is None else ticket_type_json(row)


SELECT_TICKET_TYPES_OF_EVENTS = (
    select_ticket_types()
    .where(TicketType.event_id.in_(bindparam("events", expanding=True)))
    .order_by(TicketType.event_id, TicketType.id)
)


def add_ticket_types(events: Sequence[dict[str, Any]], *, hidden: bool) -> None:
    """Put its ticket types into each of the events, by one statement for all of them; `hidden` ones if asked for."""
    with autocommit_connection() as connection:
        rows = connection.execute(SELECT_TICKET_TYPES_OF_EVENTS, {"events": [event["id"] for event in events]})
        types = [ticket_type_json(row) for row in rows.mappings() if hidden or not row["hidden"]]
    for event in events:
        event["ticket_types"] = [it for it in types if it["event_id"] == event["id"]]


@cache
def appointed_events() -> Select[*tuple[Any, ...]]:
    """The query of rows of the events that the parameter `user_id` is appointed for; drafts are for managers."""
    mine = Appointment.event_id == Event.id
    rows = select_events().add_columns(Appointment.role).join(Appointment, mine).where(SHOWN)
    return rows.where(Appointment.user_id == bindparam("user_id"))


def search_events(
    *, statuses: Sequence[str] = ("published",), q: str = "", **filters: Any
) -> tuple[Select[*tuple[Any, ...]], list[dict[str, Any]], ColumnElement[bool]]:
    """Query, values for each status and beginning of a list of the events that a visitor looks for, for its pages.

    `q` finds each of its words anywhere in name, venue or description; in it `%` and `_` are plain text.
    """
    words = [re.sub("([/%_])", r"/\1", word) for word in dict.fromkeys(q.split())]
    values = {**filters, **{f"word_{number}": word for number, word in enumerate(words)}}
    of_each = [{"status": status, **values} for status in statuses]  # one at a time: so each is a range of an index
    return event_list(frozenset(filters), len(words)), of_each, first_event("starts_from" in filters)


@lru_cache(maxsize=64)
def event_list(filters: frozenset[str] = frozenset(), words: int = 0) -> Select[*tuple[Any, ...]]:
    """The query of a list of events, with a parameter for each value; built once for each set of `filters`."""
    rows = select_events().where(Event.status == bindparam("status"))
    if "starts_from" not in filters:
        rows = rows.where(Event.ends_at > now())
    if "starts_to" in filters:
        rows = rows.where(Event.starts_at <= bindparam("starts_to"))
    if "category" in filters:
        rows = rows.where(Event.category_id == bindparam("category"))
    for number in range(words):
        word = bindparam(f"word_{number}", type_=Text)
        texts = (Event.name, Event.venue, Event.description)
        rows = rows.where(or_(*(text.icontains(word, escape="/") for text in texts)))
    return rows


@cache
def first_event(bounded: bool) -> ColumnElement[bool]:
    """The condition that finds the first event of the list: at `starts_from`, if it is `bounded` by that.

    Else it is of what is not over, and that began no longer ago than the longest event lasts: so the index on
    `starts_at` finds the place, however many events have passed.
    """
    longest = select(func.max(Event.duration)).where(Event.status == bindparam("status")).scalar_subquery()
    return Event.starts_at >= (bindparam("starts_from", type_=UTCDateTime) if bounded else now(-longest))
