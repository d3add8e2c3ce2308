"""How an order comes to be: what is asked for is judged, the order is written, its places are taken."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace
from typing import Any, ClassVar

from flask import current_app
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload, undefer

from models import (
    ORDER_OF_A_BUYER,
    Event,
    EventNotOnSale,
    Invalid,
    Missing,
    Order,
    OrderLine,
    OverMaxPerBuyer,
    OverMaxPerOrder,
    Pool,
    PreparedStatement,
    PriceChanged,
    PromoCode,
    PromoInvalid,
    PromoNotApplicable,
    PromoUsedUp,
    SalesClosed,
    SoldOut,
    Ticket,
    TicketType,
    TooManyPendingOrders,
    TooManyTickets,
    UnderMinPerOrder,
    User,
    as_json,
    autocommit_connection,
    caseless,
    db,
    grouped,
    line_amount,
    lock_rows,
    new_code,
    now,
    refusing,
    violated,
)
from routes.selling.orders import select_orders
from routes.selling.places import (
    ON_SALE_NOW,
    Missed,
    Scarce,
    all_or_nothing,
    beyond_waiting,
    free_places,
    has_room,
    lapse_for,
    note_freed,
    take_places,
    uses_of,
)
from routes.selling.settling import issue_tickets


@dataclass(frozen=True)
class Line:
    """A line of a new order, as its JSON shows it."""

    serialize_only: ClassVar = OrderLine.serialize_only

    ticket_type_id: int
    name: str
    quantity: int
    unit_price: int
    uses_promo: bool = False
    discount: int = 0

    @property
    def full_price(self) -> int:
        return self.unit_price + self.discount


Offer = Row[*tuple[Any, ...]]


def place(
    buyer: int,
    lines: Iterable[tuple[int, int]],
    expected_total: int | None = None,
    promo_code: str | None = None,
    attendee_name: str | None = None,
) -> dict[str, Any]:
    """Order `lines`, pairs of ticket type id and quantity, for the user with the id `buyer`: all or nothing.

    `attendee_name` will stand on its tickets.

    Returns the order's JSON. It is the caller's to commit. Where somebody was faster, what was written is undone, holds
    that have lapsed are let go of, and all is read and judged again.
    """
    wanted = together(lines)
    user = lock_buyer(buyer)
    scarce: dict[Scarce, int] = {}
    while True:
        offers, promo = judged_offers(buyer, wanted, promo_code)
        new = [line_of(offer, wanted[offer.ticket_type_id], promo) for offer in offers]
        judge_total(new, expected_total)
        try:
            with all_or_nothing():
                lapse_for(scarce, codes=[promo.id] if promo else ())
                order = write_order(buyer, offers, new, promo, attendee_name)
            if not order.total:
                return complete_free_order(order.id)
            return order_json(order, new, event=offers[0], buyer=user, promo_code=promo and promo.code)
        except Missed as missed:
            scarce[missed.scarce] = missed.quantity


REFUSED_FOR = 1.0  # seconds
refused: dict[int, float] = {}  # when a place of these ticket types was last refused, by this process


def refuse_at_once(buyer: int, wanted: Counter[int]) -> None:
    """Refuse by one read and without a lock what was refused to somebody a moment ago, if it still is.

    When all is sold out and everybody comes, nearly all are refused. Who is not is judged again under the locks.
    """
    if any(refused.get(id, 0) > monotonic() - REFUSED_FOR for id in wanted):
        with autocommit_connection() as connection:
            judged_offers(buyer, wanted, None, connection)


def note_refusal(wanted: Collection[int]) -> None:
    if len(refused) > MOST_NOTED:
        refused.clear()
    refused.update(dict.fromkeys(wanted, monotonic()))


MOST_NOTED = 10_000


def line_of(offer: Offer, quantity: int, promo: PromoCode | None) -> Line:
    """The line at today's price, or at what it is with the promo code, if that is for the ticket type."""
    if promo is None or not promo.covers(offer.ticket_type_id):
        return Line(offer.ticket_type_id, offer.name, quantity, offer.price)
    price = promo.price_of(offer.price)
    return Line(offer.ticket_type_id, offer.name, quantity, price, uses_promo=True, discount=offer.price - price)


def judge_total(lines: Iterable[Line], expected: int | None) -> None:
    total = sum(line_amount(line.quantity, line.unit_price) for line in lines)
    if expected not in (None, total):
        raise PriceChanged(total=total)


def lock_buyer(id: int) -> User:
    """Let his orders count one after the other. His account may have been closed since it was read."""
    user: User | None = lock_rows(select(User).where(User.id == id, User.active)).one_or_none()
    if user is None:
        raise Missing
    return user


def together(lines: Iterable[tuple[int, int]]) -> Counter[int]:
    """Lines with the same ticket type count together."""
    wanted: Counter[int] = Counter()
    for ticket_type_id, quantity in lines:
        wanted[ticket_type_id] += quantity
    return wanted


# Asked so that PostgreSQL can begin with the buyer's own orders alone. While it has yet to count the rows of new
# tables, it takes any index for any other, also one on the state or the ticket type, and stays with that plan.
OF_BUYER = Order.user_id == bindparam("user_id", type_=Integer)
PENDING_OF_BUYER = and_(OF_BUYER, ORDER_OF_A_BUYER, Order.expires_at > now(), (Order.state == "pending").is_(true()))


def pending_places() -> ColumnElement[int]:
    """How many places of a ticket type the pending orders of the parameter `user_id` hold."""
    places = func.sum(OrderLine.quantity).filter(OrderLine.ticket_type_id == TicketType.id)
    return of_each_order(PENDING_OF_BUYER, select(places).where(OrderLine.order_id == Order.id))


def tickets_had() -> ColumnElement[int]:
    """How many tickets of a ticket type the parameter `user_id` has bought that are not void."""
    tickets = func.count().filter(Ticket.ticket_type_id == TicketType.id, Ticket.status != "void")
    return of_each_order(OF_BUYER, select(tickets).where(Ticket.order_id == Order.id))


def of_each_order(orders: ColumnElement[bool], number: Select[int]) -> ColumnElement[int]:
    """The sum of a `number` over some orders."""
    one = number.correlate(Order, TicketType).scalar_subquery()
    total = cast(func.coalesce(func.sum(one), 0), Integer)
    return select(total).where(orders).correlate(TicketType).scalar_subquery()


def left_for_buyer() -> ColumnElement[int]:
    """How many tickets of a ticket type a buyer may have beyond those he has and those he holds; null: any."""
    return case((TicketType.max_per_buyer.is_not(None), TicketType.max_per_buyer - pending_places() - tickets_had()))


# What an order's JSON shows of its event, under names of their own.
EVENT_FIELDS = dict(grouped(Order.serialize_only))["event"]
EVENT_COLUMNS = [getattr(Event, name).label(f"event_{name}") for name in EVENT_FIELDS]
SELECT_OFFERS = (
    select(
        TicketType.id.label("ticket_type_id"),
        TicketType.name,
        TicketType.price,
        TicketType.sales_start,
        TicketType.sales_end,
        TicketType.min_per_order,
        TicketType.max_per_order,
        TicketType.rules_version,
        TicketType.hidden,
        TicketType.pool_id,
        TicketType.waited,
        TicketType.waited_least,
        Event.currency,
        *EVENT_COLUMNS,
        ON_SALE_NOW.label("on_sale_now"),
        pending_places().label("pending"),
        left_for_buyer().label("left"),
        free_places().label("free"),
        TicketType.pool_free.expression.label("pool_free"),
    )
    .join(TicketType.event)
    .where(TicketType.id.in_(bindparam("ids", expanding=True)))
    .order_by(TicketType.id)
)


def judged_offers(
    buyer: int, wanted: Counter[int], promo_code: str | None, connection: Connection | None = None
) -> tuple[Sequence[Offer], PromoCode | None]:
    """What is on sale of the `wanted` ticket types, by id, and the promo code; or the refusal. No row is locked for it.

    Who has no code for a hidden ticket type gets the answer for one that does not exist.
    """
    connection = connection or db.session.connection()
    offers = connection.execute(SELECT_OFFERS, {"ids": list(wanted), "user_id": buyer}).all()
    if len(offers) < len(wanted) or any(offer.event_status == "draft" for offer in offers):
        raise Missing
    promos = {} if promo_code is None else promos_in({offer.event_id for offer in offers}, promo_code)
    if any(offer.hidden and not unlocks(promos.get(offer.event_id), offer.ticket_type_id) for offer in offers):
        raise Missing
    if len({offer.event_id for offer in offers}) > 1:
        raise Invalid(items="Must all be for one event")
    promo = promos.get(offers[0].event_id)
    if promo_code is not None and promo is None:
        raise PromoInvalid
    for offer in offers:
        judge_rules(offer, wanted[offer.ticket_type_id])
    most = current_app.config["MAX_TICKETS_PER_ORDER"]
    if wanted.total() > most:
        raise TooManyTickets(max_tickets_per_order=most)
    if promo:
        judge_promo(promo, buyer, sum(number for id, number in wanted.items() if promo.covers(id)))
    try:
        for offer in offers:
            judge_room(offer, wanted[offer.ticket_type_id])
        judge_pools(offers, wanted)
    except SoldOut:
        note_refusal(wanted)
        raise
    return offers, promo


def good_promo_codes() -> Select[PromoCode]:
    """The promo codes that are good now, by the day."""
    started = func.coalesce(PromoCode.starts_at <= now(), true())
    good = select(PromoCode).where(started, func.coalesce(PromoCode.ends_at > now(), true()))
    return good.options(undefer(PromoCode.lapsed), selectinload(PromoCode.applies_to))


def promos_in(events: Collection[int], code: str) -> dict[int, PromoCode]:
    """{event id: promo code} of those in these events that are good now. A code is compared folded."""
    named = good_promo_codes().where(PromoCode.event_id.in_(events), PromoCode.folded == caseless(code.strip()))
    found = db.session.scalars(named, execution_options={"populate_existing": True})
    return {promo.event_id: promo for promo in found}


def unlocks(promo: PromoCode | None, ticket_type_id: int) -> bool:
    return promo is not None and promo.unlocks and promo.covers(ticket_type_id)


def judge_promo(promo: PromoCode, buyer: int, uses: int) -> None:
    """Raise what an order that wants so many uses of the code is refused for."""
    if not uses:
        raise PromoNotApplicable
    left = promo.left
    if promo.max_per_buyer is not None:
        own = promo.max_per_buyer - uses_had(promo, buyer)
        left = max(own, 0) if left is None else max(min(left, own), 0)
    if left is not None and uses > left:
        raise PromoUsedUp(available=left, pending=pending_with(promo, buyer))


def uses_had(promo: PromoCode, buyer: int) -> int:
    """How many tickets a buyer has with the code, or holds."""
    own = Order.promo_code_id == promo.id, Order.user_id == buyer
    pending = db.session.scalars(select(Order.id).where(*own, Order.has_status("pending"))).all()
    paid = db.session.scalars(select(Order.id).where(*own, Order.state == "paid")).all()
    return uses_of(pending, "pending").get(promo.id, 0) + uses_of(paid, "paid").get(promo.id, 0)


def pending_with(promo: PromoCode, buyer: int) -> list[str]:
    """The codes of the buyer's own pending orders that hold uses."""
    own = Order.promo_code_id == promo.id, Order.user_id == buyer, Order.has_status("pending")
    return list(db.session.scalars(select(Order.code).where(*own).order_by(Order.id)))


def judge_rules(offer: Offer, quantity: int) -> None:
    """Raise what an order of `quantity` is refused for by the rules of a ticket type."""
    kind = {"ticket_type_id": offer.ticket_type_id}
    if offer.event_status == "canceled":
        raise EventNotOnSale(**kind)
    if not offer.on_sale_now:
        raise SalesClosed(**kind, sales_start=offer.sales_start, sales_end=offer.sales_end)
    if quantity + offer.pending > offer.max_per_order:
        raise OverMaxPerOrder(**kind, max_per_order=offer.max_per_order)
    if quantity < offer.min_per_order:
        raise UnderMinPerOrder(**kind, min_per_order=offer.min_per_order)


def judge_room(offer: Offer, quantity: int) -> None:
    """Raise what it is refused for by what is left, of the buyer's share or at all."""
    if offer.left is not None and quantity > offer.left:
        raise OverMaxPerBuyer(ticket_type_id=offer.ticket_type_id, left=max(offer.left, 0))
    if quantity > offer.free and not offer.waited:  # who comes too late need write nothing to find that out
        raise SoldOut(ticket_type_id=offer.ticket_type_id, available=offer.free)
    left = beyond_waiting(offer)
    if offer.waited and quantity > left:
        note_freed(TicketType, offer.ticket_type_id)  # what has lapsed since the last look is for who waits
        raise SoldOut(ticket_type_id=offer.ticket_type_id, available=left, waiting_list=True)


def judge_pools(offers: Iterable[Offer], wanted: Counter[int]) -> None:
    """Raise SoldOut where all lines together want more of a pool than it has."""
    from_pools: Counter[int] = Counter()
    for offer in offers:
        if offer.pool_id is not None:
            from_pools[offer.pool_id] += wanted[offer.ticket_type_id]
            if from_pools[offer.pool_id] > offer.pool_free:
                raise SoldOut(pool_id=offer.pool_id, available=offer.pool_free)


# A buyer's pending orders, and the number of his next one. Nobody comes between: his row is locked, or the number is
# taken.
COUNT_PENDING = select(func.count()).where(PENDING_OF_BUYER, Order.offered.is_(false())).scalar_subquery()
NEXT_NUMBER = select(func.coalesce(func.max(Order.number), 0) + 1).where(OF_BUYER).scalar_subquery()
FEW_PENDING = bindparam("max_pending", type_=Integer) > COUNT_PENDING


def insertion(rows: Any, **columns: Any) -> Insert:
    """The INSERT of orders made of the query `rows`; what `columns` leaves out is a parameter."""
    values = {
        "code": bindparam("code", type_=Text),
        "user_id": bindparam("user_id", type_=Integer),
        "number": NEXT_NUMBER,
        "currency": bindparam("currency", type_=Text),
        "expires_at": now(bindparam("hold", type_=Integer)),
    } | columns
    orders = Order.__table__.c
    written = orders.id, orders.code, orders.total, orders.currency, orders.created_at, orders.expires_at
    return insert(Order.__table__).from_select(list(values), rows(*values.values())).returning(*written)


def insertion_of(status: str, *conditions: ColumnElement[bool]) -> Insert:
    """The INSERT of one order whose event and total are parameters too."""
    return insertion(
        lambda *values: select(*values).where(*conditions),
        event_id=bindparam("event_id", type_=Integer),
        status=literal_column(f"'{status}'"),
        total=bindparam("total", type_=BigInteger),
        promo_code_id=bindparam("promo_code_id", type_=Integer),
        attendee_name=bindparam("attendee_name", type_=Text),
    )


INSERT_PENDING, INSERT_PAID = insertion_of("pending", FEW_PENDING), insertion_of("paid")


def write_order(
    buyer: int, offers: Sequence[Offer], lines: Sequence[Line], promo: PromoCode | None, attendee_name: str | None
) -> Offer:
    """Write the order and its lines, pending or, if it costs nothing, paid; and take its places and uses.

    What everybody wants comes last, but for the lines, whose foreign key locks the same rows.
    """
    total = sum(line_amount(it.quantity, it.unit_price) for it in lines)
    order = insert_order(buyer, offers[0], total, promo, attendee_name)
    places = {line.ticket_type_id: line.quantity for line in lines}
    versions: dict[Scarce, int] = {(TicketType, offer.ticket_type_id): offer.rules_version for offer in offers}
    uses = {}
    if promo:
        uses[promo.id] = sum(line.quantity for line in lines if line.uses_promo)
        versions[PromoCode, promo.id] = promo.rules_version
    take_places(places, uses, versions, held=int(total > 0), sold=int(total == 0))
    rows = [{"order_id": order.id, **vars(line)} for line in lines]
    db.session.connection().execute(insert(OrderLine.__table__), rows)
    return order


def insert_order(buyer: int, offer: Offer, total: int, promo: PromoCode | None, attendee_name: str | None) -> Offer:
    values = terms(buyer) | {"event_id": offer.event_id, "currency": offer.currency, "total": total}
    values |= {"promo_code_id": promo and promo.id, "attendee_name": attendee_name}
    try:
        with refusing(Missing, "fk_orders_event_id_events"):  # it was deleted meanwhile
            statement = INSERT_PENDING if total else INSERT_PAID
            order = db.session.connection().execute(statement, values).one_or_none()
    except IntegrityError as error:
        if promo and violated(error) == "fk_orders_promo_code_id_promo_codes":
            raise Missed((PromoCode, promo.id), 0) from error
        raise
    if order is None:
        raise TooManyPendingOrders(max_pending_orders=values["max_pending"])
    return order


def terms(buyer: int) -> dict[str, Any]:
    """What every new order is written with."""
    config = current_app.config
    return {
        "code": new_code(),
        "user_id": buyer,
        "hold": config["ORDER_HOLD_SECONDS"],
        "max_pending": config["MAX_PENDING_ORDERS"],
    }


def order_json(
    order: Offer,
    lines: Sequence[Line],
    *,
    event: Offer,
    buyer: User | SimpleNamespace,
    promo_code: str | None = None,
) -> dict[str, Any]:
    """The JSON of a new pending order, made of the row that was written and of one with the `EVENT_COLUMNS`."""
    known = {
        **order._mapping,
        "status": "pending",
        "event": SimpleNamespace(**{name: event._mapping[f"event_{name}"] for name in EVENT_FIELDS}),
        "buyer": buyer,
        "items": list(lines),
        "promo_code": promo_code,
    }
    return as_json(SimpleNamespace(**known, tickets=[], payments=[], attention=[]), Order.serialize_only)


def complete_free_order(order_id: int) -> dict[str, Any]:
    """Issue the tickets of an order that costs nothing, and return its JSON."""
    order = db.session.scalars(select_orders().where(Order.id == order_id)).one()
    issue_tickets(order)
    return order.to_dict()


def one_statement() -> Select[*tuple[Any, ...]]:
    """The statement of `place_in_one_statement`: it locks the buyer and the event, takes the places, writes the order.

    It judges as `judged_offers` does, and leaves to that what people wait for. The event is locked before the ticket
    type, not after it by the foreign key. A ticket type that others changed meanwhile is judged anew by its row alone:
    so its rules must be those of the offer.
    Its pool comes second and without a condition of its own: the pool's CHECK undoes the whole statement. A condition
    there would leave the ticket type counted and the pool not.
    """
    quantity = bindparam("quantity", type_=Integer)
    buyer = (
        select(User.id, User.name, User.email)
        .where(User.id == bindparam("user_id"), User.active)
        .with_for_update(key_share=True)
        .cte("buyer")
    )
    amount = line_amount(quantity, cast(TicketType.price, BigInteger))
    offer = (
        select(TicketType.id, TicketType.rules_version, Event.currency, *EVENT_COLUMNS)
        .join(TicketType.event)
        .join(buyer, true())
        .outerjoin(TicketType.pool)
        .where(
            TicketType.id == bindparam("ticket_type_id"),
            Event.status == "published",
            ON_SALE_NOW,
            TicketType.price > 0,
            quantity >= TicketType.min_per_order,
            quantity + pending_places() <= TicketType.max_per_order,
            quantity <= func.coalesce(left_for_buyer(), quantity),
            TicketType.hidden.is_(false()),
            TicketType.waited == 0,
            has_room(TicketType, quantity),
            or_(TicketType.pool_id.is_(None), Pool.quantity - Pool.sold - Pool.counted >= quantity),
            amount == func.coalesce(bindparam("expected_total", type_=BigInteger), amount),
            FEW_PENDING,
        )
        .with_for_update(read=True, key_share=True, of=Event)
        .cte("offer")
    )
    types = TicketType.__table__
    taken = (
        update(types)
        .where(
            types.c.id == offer.c.id,
            types.c.rules_version == offer.c.rules_version,
            types.c.waited == 0,
            has_room(types.c, quantity),
        )
        .values(held=types.c.held + quantity)
        .returning(types.c.id.label("ticket_type_id"), types.c.name, types.c.price, types.c.pool_id)
        .cte("taken")
    )
    pools = Pool.__table__
    shared = update(pools).where(pools.c.id == taken.c.pool_id).values(held=pools.c.held + quantity).cte("shared")
    order = insertion(
        lambda *values: select(*values).join_from(taken, offer, true()),
        event_id=offer.c.event_id,
        currency=offer.c.currency,
        status=literal_column("'pending'"),
        total=line_amount(quantity, cast(taken.c.price, BigInteger)),
    ).cte("placed")
    row = {"order_id": order.c.id, "ticket_type_id": taken.c.ticket_type_id, "name": taken.c.name}
    row |= {"quantity": quantity, "unit_price": taken.c.price}
    line = insert(OrderLine.__table__).from_select(list(row), select(*row.values()).join_from(order, taken, true()))
    of_line = taken.c.ticket_type_id, taken.c.name, taken.c.price.label("unit_price")
    of_event = (offer.c[column.key] for column in EVENT_COLUMNS)
    of_buyer = buyer.c.name.label("buyer_name"), buyer.c.email.label("buyer_email")
    written = select(*order.c, *of_line, *of_event, *of_buyer).join_from(order, taken, true())
    return written.join(offer, true()).join(buyer, true()).add_cte(line.cte("line"), shared)


PLACE_IN_ONE_STATEMENT = PreparedStatement("place", one_statement())


def place_in_one_statement(
    buyer: int, lines: Iterable[tuple[int, int]], expected_total: int | None = None
) -> dict[str, Any] | None:
    """On PostgreSQL, place and commit an order of one ticket type that costs something by one statement.

    The row that everybody wants is locked for no longer than that statement and its commit take: this sells several
    times as many places of one ticket type a second as `place`. None, with nothing done, where the order can't be
    placed like this; `place` finds out why.
    """
    wanted = together(lines)
    refuse_at_once(buyer, wanted)
    if len(wanted) > 1 or db.engine.dialect.name != "postgresql" or "orders" not in db.engines:
        return None
    [(ticket_type_id, quantity)] = wanted.items()
    if quantity > current_app.config["MAX_TICKETS_PER_ORDER"]:
        return None
    values = {"ticket_type_id": ticket_type_id, "quantity": quantity, "expected_total": expected_total}
    try:
        with autocommit_connection("orders") as connection:
            order = PLACE_IN_ONE_STATEMENT.execute(connection, terms(buyer) | values).one_or_none()
    except IntegrityError:  # the pool is full, or the buyer's other order has the number: one after the other, then
        return None
    if order is None:
        return None
    line = Line(order.ticket_type_id, order.name, quantity, order.unit_price)
    user = SimpleNamespace(id=buyer, name=order.buyer_name, email=order.buyer_email)
    return order_json(order, [line], event=order, buyer=user)
