"""Promo codes and pools: how they are edited and read. How they sell is in `placing` and `places`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, delete, or_, select, update
from sqlalchemy.orm import selectinload, undefer

from models import (
    UNSYNCHRONIZED,
    Event,
    HasOrders,
    Invalid,
    MaxUsesBelowUsed,
    Missing,
    Order,
    Pool,
    PromoCode,
    PromoCodeTaken,
    QuantityBelowSold,
    TicketType,
    autocommit_connection,
    db,
    keep_rows,
    lock_rows,
    refusing,
)
from routes.selling.audit import differences, record
from routes.selling.catalogue import (
    SELECT_TICKET_TYPES_OF_EVENT,
    Versions,
    delete_promo_codes,
    join,
    lock_from_all,
    lock_orders,
    lock_row,
    refuse_others,
    ticket_type_json,
)
from routes.selling.places import lapse, lapse_for, note_freed
from routes.selling.placing import promos_in


def keep_event(event_id: int) -> None:
    """Nobody deletes the event until the commit."""
    if keep_rows(select(Event.id).where(Event.id == event_id)).one_or_none() is None:
        raise Missing


def types_named(event_id: int, ids: Collection[int]) -> list[TicketType]:
    """The ticket types of an event with these ids, locked."""
    named = select(TicketType).where(TicketType.event_id == event_id, TicketType.id.in_(ids)).order_by(TicketType.id)
    found = list(lock_rows(named))
    if len(found) < len(set(ids)):
        raise Invalid(ticket_types="Must all be of this event")
    return found


# Pools.


def select_pools() -> Select[Pool]:
    return select(Pool).options(undefer(Pool.lapsed), selectinload(Pool.members).load_only(TicketType.id))


POOL_LIST = select_pools().where(Pool.event_id == bindparam("id"))


def read_pool(id: int) -> Pool:
    pool = db.session.scalar(select_pools().where(Pool.id == id), execution_options={"populate_existing": True})
    if pool is None:
        raise Missing
    return pool


def create_pool(event_id: int, *, ticket_types: Collection[int] = (), **fields: Any) -> Pool:
    """A pool with these ticket types, which bring what they have sold and held."""
    let_lapse(ticket_types)  # locks orders, which come before the event
    keep_event(event_id)
    members = types_named(event_id, ticket_types)
    pool = Pool(event_id=event_id)
    pool.set(fields)
    chosen = differences(pool, fields)
    db.session.add(pool)
    db.session.flush()
    take_in(pool, members)
    record("pool.created", f"pool:{pool.id}", event_id, **chosen)
    return read_pool(pool.id)


def take_in(pool: Pool, members: Sequence[TicketType]) -> None:
    """Let locked ticket types join a pool; those that have sold or held anything do not leave another one for it."""
    if any(it.pool_id and (it.sold or it.held) for it in members):
        raise HasOrders
    for ticket_type in members:
        ticket_type.pool_id = pool.id
        ticket_type.version += 1
    db.session.flush()
    join(pool.id, sold=sum(it.sold for it in members), held=sum(it.held for it in members))


def let_lapse(ticket_types: Collection[int]) -> None:
    """Let go of what ticket types hold for orders that have lapsed, before their rows are locked."""
    held = select(TicketType.id, TicketType.held).where(TicketType.id.in_(ticket_types), TicketType.held > 0)
    lapse_for({(TicketType, id): number for id, number in db.session.execute(held)})


def edit_pool(pool: Pool, changes: Mapping[str, Any], *, versions: Versions = None) -> Pool:
    """Change what is given. `ticket_types` are all that are in it from now on."""
    fields = dict(changes)
    wanted = fields.pop("ticket_types", None)
    missing = pool.sold + pool.counted - fields.get("quantity", pool.quantity)
    if missing > 0:
        lapse_for({(Pool, pool.id): missing})
    if wanted is not None:
        let_lapse({*wanted, *pool.ticket_types})
    touched = or_(TicketType.pool_id == pool.id, TicketType.id.in_(wanted or ()))
    locked = lock_rows(select(TicketType).where(TicketType.event_id == pool.event_id, touched).order_by(TicketType.id))
    old = [it for it in locked if it.pool_id == pool.id]
    new = types_named(pool.event_id, wanted) if wanted is not None else old
    lock_row(Pool, pool.id, versions=versions)
    leaving = [it for it in old if it not in new]
    if any(it.sold or it.held for it in leaving):
        raise HasOrders
    for ticket_type in leaving:
        ticket_type.pool_id, ticket_type.version = None, ticket_type.version + 1
    if fields.get("quantity", pool.quantity) < pool.sold + pool.counted:
        raise QuantityBelowSold(sold=pool.sold, held=pool.counted)
    if wanted is not None:
        fields.setdefault("name", pool.name)  # so that other ticket types alone are a new version too
    pool.set(fields)
    note_freed(Pool, pool.id)
    changed = differences(pool, fields)
    if [it.id for it in old] != [it.id for it in new]:
        changed["ticket_types"] = [[it.id for it in old], [it.id for it in new]]
    db.session.flush()
    take_in(pool, [it for it in new if it not in old])
    if changed:
        record("pool.changed", f"pool:{pool.id}", pool.event_id, **changed)
    return read_pool(pool.id)


def delete_pool(pool: Pool, *, versions: Versions = None) -> None:
    """Delete it. Its ticket types fall back to their own places; their rows come before the pool's."""
    lock_rows(select(TicketType.id).where(TicketType.event_id == pool.event_id).order_by(TicketType.id)).all()
    lock_from_all(Pool, pool.id, versions=versions)
    members = update(TicketType).where(TicketType.pool_id == pool.id)
    values = {"pool_id": None, "version": TicketType.version + 1}
    db.session.execute(members.values(values), execution_options=UNSYNCHRONIZED)
    db.session.execute(delete(Pool).where(Pool.id == pool.id), execution_options=UNSYNCHRONIZED)
    record("pool.deleted", f"pool:{pool.id}", pool.event_id)


# Promo codes.


def select_promo_codes() -> Select[PromoCode]:
    types = selectinload(PromoCode.applies_to).load_only(TicketType.id)
    return select(PromoCode).options(undefer(PromoCode.lapsed), types)


PROMO_CODE_LIST = select_promo_codes().where(PromoCode.event_id == bindparam("id"))


def read_promo_code(id: int) -> PromoCode:
    code = db.session.scalar(
        select_promo_codes().where(PromoCode.id == id), execution_options={"populate_existing": True}
    )
    if code is None:
        raise Missing
    return code


def create_promo_code(event_id: int, *, ticket_types: Collection[int] = (), **fields: Any) -> PromoCode:
    keep_event(event_id)
    code = PromoCode(event_id=event_id, unlocks=False)
    code.set(fields)
    chosen = differences(code, fields)
    with refusing(PromoCodeTaken, "uq_promo_codes_event_id"):
        db.session.add(code)
    code.applies_to = types_named(event_id, ticket_types)
    db.session.flush()
    record("promo_code.created", f"promo_code:{code.id}", event_id, **chosen)
    return read_promo_code(code.id)


def edit_promo_code(code: PromoCode, changes: Mapping[str, Any], *, versions: Versions = None) -> PromoCode:
    """Change what is given. Fewer uses than there are is refused; orders that are there keep their price."""
    fields = dict(changes)
    most = fields.get("max_uses", code.max_uses)
    if most is not None and code.used + code.counted > most:
        lapse_for({(PromoCode, code.id): code.used + code.counted - most})
    lock_row(PromoCode, code.id, versions=versions)
    most = fields.get("max_uses", code.max_uses)
    if most is not None and code.used + code.counted > most:
        raise MaxUsesBelowUsed(used=code.used, held=code.counted)
    old = code.ticket_types
    if "ticket_types" in fields:
        code.applies_to = types_named(code.event_id, fields.pop("ticket_types"))
        fields.setdefault("code", code.code)  # so that other ticket types alone are a new version too
    with refusing(PromoCodeTaken, "uq_promo_codes_event_id"):
        code.set(fields)
        changed = differences(code, fields)
    if code.ticket_types != old:
        changed["ticket_types"] = [old, code.ticket_types]
    if changed:
        record("promo_code.changed", f"promo_code:{code.id}", code.event_id, **changed)
    return read_promo_code(code.id)


def delete_promo_code(code: PromoCode, *, versions: Versions = None) -> None:
    """Delete a code that no order counts for; orders that came to nothing forget it."""
    with_code = Order.promo_code_id == code.id
    orders = lock_orders(with_code)
    lapse(with_code)
    lock_from_all(PromoCode, code.id, versions=versions)
    refuse_others(with_code, orders)
    db.session.execute(update(Order).where(with_code).values(promo_code_id=None), execution_options=UNSYNCHRONIZED)
    delete_promo_codes(PromoCode.id == code.id)
    record("promo_code.deleted", f"promo_code:{code.id}", code.event_id)


def offer_with(event_id: int, code: str) -> dict[str, Any]:
    """What a code makes of the ticket types of its event. Unknown, over and used up alike is Missing."""
    promo = promos_in([event_id], code).get(event_id)
    if promo is None or promo.left == 0:
        raise Missing
    with autocommit_connection() as connection:
        rows = connection.execute(SELECT_TICKET_TYPES_OF_EVENT.order_by(TicketType.id), {"id": event_id}).mappings()
        types = [ticket_type_json(row) for row in rows]
    offered = [it for it in types if promo.covers(it["id"]) and (promo.unlocks or not it["hidden"])]
    return {
        "code": promo.code,
        "ticket_types": [it | {"promo_price": promo.price_of(it["price"])} for it in offered],
    }
