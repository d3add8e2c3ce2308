"""Places: how they are taken, and the one way in which an order lets go of what it has.

Rows are locked in one order, everywhere, so that no two transactions wait for each other:

    user, orders (by id), checkout, payment, promo code, event, ticket types (by id), pools (by id), tickets (by id),
    waiting entries

Whoever needs several kinds locks those that come first here first, even where he needs them last. A foreign key locks
too (FOR KEY SHARE), which only a deletion has to wait for:

- The event's may come anywhere after the user's. So who deletes an event first locks all orders of it, by id, and then
  the event: those who pay, cancel or refund are done by then, and those who order have nothing that he waits for.
- A ticket type's comes only where its row is locked already: lines and tickets are written after places are taken.

Who pays late holds his order, and wants places of others that have lapsed: he locks them together, by id, and does not
wait for more (`lock_to_pay`). And every change of what a ticket type is sold by raises `rules_version` under the lock
of its row. Who takes places read that before he judged; where it is another one now, he reads and judges again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, Update, and_, bindparam, func, or_, select, true, update

from models import (
    ORDER_IN_A_LIST,
    PAYABLE,
    UNSYNCHRONIZED,
    Checkout,
    Event,
    HolderInside,
    Missing,
    Order,
    OrderLine,
    Pool,
    PromoCode,
    Ticket,
    TicketsVoid,
    TicketType,
    changed_rows,
    db,
    lock_rows,
    note_work,
    now,
)

BATCH = 1000
FEW = 100  # how many orders may lapse in one go while others wait

ON_SALE_NOW = and_(
    func.coalesce(TicketType.sales_start <= now(), true()),
    func.coalesce(TicketType.sales_end > now(), true()),
    Event.ends_at > now(),
)


def free_places() -> ColumnElement[int]:
    """How many places of a ticket type are free: also those of holds that have lapsed, written down or not.

    Its pool may have fewer: `TicketType.pool_free`.
    """
    return TicketType.quantity - TicketType.sold - TicketType.held + TicketType.lapsed.expression


def has_room(places: Any, quantity: Any) -> ColumnElement[bool]:
    """The condition that a ticket type or a pool, given by its columns, has places that nobody was counted for."""
    return places.quantity - places.sold - places.held >= quantity


def beyond_waiting(it: Any, own: int = 0) -> int:
    """How many places are free for who does not wait, of a ticket type's own and its pool's: by what a row says, where
    so many are his `own`, in a hold that has lapsed."""
    return TicketType.beyond_waiting(TicketType.least(it.free, it.pool_free) + own, it.waited, it.waited_least)


def has_room_beyond_waiting(places: Any, quantity: Any) -> ColumnElement[bool]:
    """The same of a ticket type for who does not wait: as `TicketType.beyond_waiting` says, by the row itself alone."""
    free = places.quantity - places.sold - places.held
    spare = or_(places.waited == 0, free - quantity >= places.waited, free < places.waited_least)
    return and_(has_room(places, quantity), or_(quantity == 0, spare))


Scarce = tuple[type[TicketType] | type[Pool] | type[PromoCode], int]
Wanted = Mapping[Scarce, int]  # how many of each: {(TicketType, id): 2, (Pool, id): 2}


class Missed(Exception):
    """Somebody was faster: what is scarce is gone, or the rules by which it was to be had have changed."""

    def __init__(self, scarce: Scarce, quantity: int) -> None:
        super().__init__(scarce)
        self.scarce, self.quantity = scarce, quantity


def all_or_nothing() -> AbstractContextManager[Any]:
    """What is done inside is undone where it raises, and the rows that it locked are free again."""
    return db.session.connection().begin_nested()


USES, PLACES, SHARED = PromoCode.__table__.c, TicketType.__table__.c, Pool.__table__.c
ROW, RULES = bindparam("row", type_=Integer), bindparam("rules", type_=Integer)
MORE_HELD, MORE_SOLD = bindparam("more_held", type_=Integer), bindparam("more_sold", type_=Integer)
HAS_USES = or_(USES.max_uses.is_(None), USES.max_uses - USES.used - USES.held >= MORE_HELD + MORE_SOLD)
ADD_USES = (
    update(PromoCode.__table__)
    .where(USES.id == ROW)
    .values(held=USES.held + MORE_HELD, used=USES.used + MORE_SOLD)
    .returning(USES.id)
)
ADD_PLACES = (
    update(TicketType.__table__)
    .where(PLACES.id == ROW)
    .values(held=PLACES.held + MORE_HELD, sold=PLACES.sold + MORE_SOLD)
    .returning(PLACES.pool_id, PLACES.waited, PLACES.waited_least)
)
ADD_SHARED = (
    update(Pool.__table__)
    .where(SHARED.id == ROW)
    .values(held=SHARED.held + MORE_HELD, sold=SHARED.sold + MORE_SOLD)
    .returning((SHARED.quantity - SHARED.sold - SHARED.held).label("free"))
)
TAKE_USES = ADD_USES.where(USES.rules_version == RULES, HAS_USES)
BY_RULES = ADD_PLACES.where(PLACES.rules_version == RULES)
TAKE_PLACES = BY_RULES.where(has_room_beyond_waiting(PLACES, MORE_HELD + MORE_SOLD))
TAKE_WAITED_FOR = BY_RULES.where(has_room(PLACES, MORE_HELD + MORE_SOLD))
TAKE_SHARED = ADD_SHARED.where(has_room(SHARED, MORE_HELD + MORE_SOLD))


def take_places(
    places: Mapping[int, int],
    uses: Mapping[int, int],
    versions: Mapping[Scarce, int],
    *,
    held: int = 0,
    sold: int = 0,
    waited_for: bool = False,
) -> None:
    """Add `held` and `sold` times its number to each ticket type, its pool and promo code; inside of `all_or_nothing`.

    `places` are {ticket type id: how many}, `uses` {promo code id: how many}. Each by an UPDATE that holds only while
    there is room, so nobody gets what another has, and while it is sold by the rules of the version that was judged.
    Else it raises Missed. What others wait for is taken only where it was `waited_for`.
    """
    for id, quantity in uses.items():
        scarce: Scarce = (PromoCode, id)
        add(TAKE_USES, scarce, quantity, held=held, sold=sold, rules=versions[scarce])
    pools: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for id, quantity in sorted(places.items()):
        scarce, statement = (TicketType, id), TAKE_WAITED_FOR if waited_for else TAKE_PLACES
        row = add(statement, scarce, quantity, held=held, sold=sold, rules=versions[scarce])
        if row.pool_id:
            pools[row.pool_id].append((quantity, row))
    for id, members in sorted(pools.items()):
        total = sum(quantity for quantity, _ in members)
        free = add(TAKE_SHARED, (Pool, id), total, held=held, sold=sold).free + total
        beyond = [TicketType.beyond_waiting(free, row.waited, row.waited_least) for _, row in members]
        if held + sold and not waited_for and total > min(beyond):
            raise Missed((Pool, id), total)


def give_back_places(places: Mapping[int, int], uses: Mapping[int, int], *, held: int = 0, sold: int = 0) -> None:
    """Take `held` and `sold` times its number from each ticket type, its pool and promo code.

    Who waits for them is served afterwards (`note_freed`).
    """
    for id, quantity in sorted(uses.items()):
        add(ADD_USES, (PromoCode, id), quantity, held=-held, sold=-sold)
    pools: Counter[int] = Counter()
    for id, quantity in sorted(places.items()):
        row = add(ADD_PLACES, (TicketType, id), quantity, held=-held, sold=-sold)
        pools.update({row.pool_id: quantity} if row.pool_id else {})
        if row.waited:
            note_freed(TicketType, id)
    for id, quantity in sorted(pools.items()):
        add(ADD_SHARED, (Pool, id), quantity, held=-held, sold=-sold)
        note_freed(Pool, id)


FREED = "freed"  # in the session's info


def note_freed(model: type[TicketType] | type[Pool], id: int) -> None:
    """Places of a ticket type or a pool may be free now for who waits: look at it after the commit (`serve_freed`)."""
    db.session.info.setdefault(FREED, set()).add((model, id))


def add(statement: Update, scarce: Scarce, quantity: int, *, held: int, sold: int, rules: int | None = None) -> Any:
    """Execute one of the statements above; returns its row. Raises Missed where its condition does not hold."""
    values = {"row": scarce[1], "more_held": held * quantity, "more_sold": sold * quantity}
    found = db.session.connection().execute(statement, values if rules is None else values | {"rules": rules})
    row = found.one_or_none()
    if row is None:
        raise Missed(scarce, quantity)
    return row


def let_go(orders: Sequence[int], *, was: str, becomes: str) -> None:
    """End orders, given as ids of locked rows that are all in the state `was`, and give back what they have.

    Every way out of an order leads through `end`: whatever an order comes to have, it is given back there and nowhere
    else. Raises HolderInside where a ticket is in use.
    """
    inside = end(orders, was=was, becomes=becomes)
    if inside:
        raise HolderInside(tickets=inside)


def let_go_of_canceled(orders: Sequence[int]) -> None:
    """Refund paid orders of an event that is canceled. Tickets that were used stay used."""
    end(orders, was="paid", becomes="refunded")


def end(orders: Sequence[int], *, was: str, becomes: str) -> list[str]:
    """Returns the codes of tickets that can't be taken back, as they are in use."""
    places: Counter[int] = Counter()
    uses: Counter[int] = Counter()
    for start in range(0, len(orders), BATCH):
        some = orders[start : start + BATCH]
        db.session.execute(update(Order).where(Order.id.in_(some), Order.state == was).values(state=becomes))
        abandon_checkouts(Checkout.order_id.in_(some))
        places.update(places_of(some, was))
        uses.update(uses_of(some, was))
    give_back_places(places, uses, **{"held" if was == "pending" else "sold": 1})
    return [] if was == "pending" else void_tickets(Ticket.order_id.in_(orders), places.total())


PENDING_PLACES = select(OrderLine.ticket_type_id, func.sum(OrderLine.quantity))
PENDING_USES = select(Order.promo_code_id, func.sum(OrderLine.quantity)).join(Order)
GOOD_PLACES = select(Ticket.ticket_type_id, func.count())
GOOD_USES = (
    select(Order.promo_code_id, func.count())
    .select_from(Ticket)
    .join(Ticket.purchase)
    .join(
        OrderLine,
        and_(OrderLine.order_id == Ticket.order_id, OrderLine.ticket_type_id == Ticket.ticket_type_id),
    )
)


def places_of(orders: Sequence[int], state: str) -> dict[int, int]:
    """{ticket type id: how many places}: of pending orders by their lines, of paid ones by the tickets still good."""
    if state == "pending":
        sums = PENDING_PLACES.where(OrderLine.order_id.in_(orders))
        return dict(db.session.execute(sums.group_by(OrderLine.ticket_type_id)).all())
    good = GOOD_PLACES.where(Ticket.order_id.in_(orders), Ticket.status != "void")
    return dict(db.session.execute(good.group_by(Ticket.ticket_type_id)).all())


def uses_of(orders: Sequence[int], state: str) -> dict[int, int]:
    """{promo code id: how many uses}, counted as places are."""
    if state == "pending":
        used = PENDING_USES.where(OrderLine.order_id.in_(orders))
    else:
        used = GOOD_USES.where(Ticket.order_id.in_(orders), Ticket.status != "void")
    used = used.where(OrderLine.uses_promo)
    return {id: uses for id, uses in db.session.execute(used.group_by(Order.promo_code_id)) if id}


def void_tickets(tickets: ColumnElement[bool], places: int) -> list[str]:
    """Void those that are valid. Where they are fewer than the places, the codes of those that are used."""
    valid = update(Ticket).where(tickets, Ticket.status == "valid").values(status="void")
    if changed_rows(valid) == places:
        return []
    return list(db.session.scalars(select(Ticket.code).where(tickets, Ticket.status == "used").order_by(Ticket.id)))


def let_go_of_tickets(order: Order, tickets: Sequence[Ticket]) -> None:
    """Void some tickets of a paid order, whose row is locked. With the last one, the order is refunded."""
    if not tickets:
        return
    named, of_order = Ticket.id.in_([ticket.id for ticket in tickets]), Ticket.order_id == order.id
    void = db.session.scalars(select(Ticket.code).where(named, Ticket.status == "void").order_by(Ticket.id)).all()
    if void:
        raise TicketsVoid(tickets=list(void))
    with_promo = {line.ticket_type_id for line in order.items if line.uses_promo}
    uses = sum(ticket.ticket_type_id in with_promo for ticket in tickets)
    places = Counter(ticket.ticket_type_id for ticket in tickets)
    give_back_places(places, {order.promo_code_id: uses} if order.promo_code_id and uses else {}, sold=1)
    inside = void_tickets(named, len(tickets))
    if inside:
        raise HolderInside(tickets=inside)
    if db.session.scalar(select(Ticket.id).where(of_order, Ticket.status != "void").limit(1)) is None:
        db.session.execute(update(Order).where(Order.id == order.id).values(state="refunded"))


def abandon_checkouts(checkouts: ColumnElement[bool]) -> None:
    """Nobody shall pay there any more. The page is closed after the commit; who has paid by then is not forgotten."""
    live = update(Checkout).where(checkouts, Checkout.status.in_(PAYABLE)).values(status="abandoned", due_at=now())
    if changed_rows(live):
        note_work()


def lapse(orders: ColumnElement[bool], *, codes: Collection[int] = (), skip_locked: bool = False) -> int:
    """Let go of those of the `orders` that have lapsed, and return how many they were.

    With `skip_locked`, orders that somebody else has locked are left to him. Promo `codes` that the caller wants
    afterwards are locked here, together with those of the orders: before any ticket type.
    """
    lapsed = select(Order.id).where(orders, Order.has_lapsed()).order_by(Order.id)
    ids = lock_rows(lapsed, skip_locked=skip_locked).all()
    if ids and codes:
        of_orders = select(Order.promo_code_id).where(Order.id.in_(ids))
        wanted = or_(PromoCode.id.in_(codes), PromoCode.id.in_(of_orders))
        lock_rows(select(PromoCode.id).where(wanted).order_by(PromoCode.id)).all()
    if ids:
        let_go(ids, was="pending", becomes="expired")
    return len(ids)


def lapse_some(event_id: int) -> int:
    """Let go of a few lapsed orders of an event that nobody else has locked, and return how many they were."""
    few = db.session.scalars(lapsed_longest(Order.event_id == event_id, FEW)).all()
    return lapse(Order.id.in_(few), skip_locked=True)


def lapse_for(wanted: Wanted, *, codes: Collection[int] = (), skip_locked: bool = False) -> None:
    """Let go of lapsed orders, so that what is `wanted` is free if it can be: of few more than it takes.

    `codes` are the ids of promo codes that the caller takes uses of afterwards.
    """
    if wanted:
        lapse(Order.id.in_(lapsed_orders(wanted)), codes=codes, skip_locked=skip_locked)


def lapsed_orders(wanted: Wanted) -> set[int]:
    """Ids of lapsed orders that have what is `wanted`, or of all; and some more, for the next buyers not to look."""
    return {id for item in wanted.items() for id in db.session.scalars(lapsed_orders_of(*item))}


def lapsed_orders_of(scarce: Scarce, quantity: int) -> Select[int]:
    model, id = scarce
    event_id = select(model.event_id).where(model.id == id).scalar_subquery()
    return lapsed_longest(and_(Order.event_id == event_id, has_of(model, id)), quantity + FEW)


def has_of(model: Any, id: int) -> ColumnElement[bool]:
    """The condition that an order has something of a ticket type, a pool or a promo code."""
    if model is PromoCode:
        return Order.promo_code_id == id
    line = select(OrderLine.id).where(OrderLine.order_id == Order.id)
    if model is TicketType:
        return line.where(OrderLine.ticket_type_id == id).exists()
    members = select(TicketType.id).where(TicketType.pool_id == id)
    return line.where(OrderLine.ticket_type_id.in_(members)).exists()


def wanted_by(order: Order) -> dict[Scarce, int]:
    """What an order takes of its ticket types, their pools, and its promo code."""
    wanted: Counter[Scarce] = Counter()
    pools = select(TicketType.id, TicketType.pool_id).where(TicketType.id.in_(order.quantities))
    for id, pool_id in db.session.execute(pools):
        wanted[TicketType, id] += order.quantities[id]
        if pool_id:
            wanted[Pool, pool_id] += order.quantities[id]
    wanted.update({(PromoCode, id): uses for id, uses in uses_by(order).items()})
    return wanted


def uses_by(order: Order) -> dict[int, int]:
    """{promo code id: how many uses} of an order whose code has not been deleted."""
    return {order.promo_code_id: order.promo_uses} if order.promo_code_id and order.promo_uses else {}


def lapsed_longest(orders: ColumnElement[bool], limit: int) -> Select[int]:
    """The query of the ids of lapsed orders, in the order of the index that finds those of an event."""
    return select(Order.id).where(orders, Order.has_lapsed()).order_by(Order.expires_at).limit(limit)


def events_with_lapsed() -> Select[int]:
    return select(Order.event_id).where(ORDER_IN_A_LIST, Order.has_lapsed()).distinct()


def events_with_lapsed_orders() -> Sequence[int]:
    return db.session.scalars(events_with_lapsed()).all()


def lock_to_pay(order: Order) -> None:
    """Nobody else pays, cancels, lapses or refunds this order until the commit.

    Where it has lapsed, the orders whose places it may get are locked with it.
    """
    others = lapsed_orders(wanted_by(order)) if order.state == "expired" else set()
    locked = lock_rows(select(Order).where(Order.id.in_({order.id, *others})).order_by(Order.id)).all()
    if order not in locked:
        raise Missing


def change_rules(event_id: int) -> None:
    """Say that an event's ticket types are sold by other rules now. Whoever takes places by the old ones comes first,
    and nobody after the commit does."""
    types = select(TicketType.id).where(TicketType.event_id == event_id).order_by(TicketType.id)
    lock_rows(types).all()
    raised = update(TicketType).where(TicketType.event_id == event_id)
    raised = raised.values(rules_version=TicketType.rules_version + 1)
    db.session.execute(raised, execution_options=UNSYNCHRONIZED)
