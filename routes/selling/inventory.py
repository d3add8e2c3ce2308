"""The recount: all places, tickets and payments counted again from their rows."""

from typing import Any

from sqlalchemy import BigInteger, Select, and_, case, func, or_, select

from models import (
    PAYABLE,
    Checkout,
    Event,
    Order,
    OrderLine,
    Payment,
    Pool,
    PromoCode,
    Refund,
    Ticket,
    TicketType,
    WaitingEntry,
    db,
)


def check_inventory() -> list[str]:
    """Count all places, tickets and payments again from their rows, and say in a sentence each what differs.

    What is sold while it counts is no difference: each kind of it is looked for at one moment, by one statement.
    """
    with db.engine.connect() as connection:
        return [
            sentence.format_map(row)
            for sentence, rows in differences().items()
            for row in connection.execute(rows).mappings()
        ]


def differences() -> dict[str, Select[*tuple[Any, ...]]]:
    """A sentence for each kind of difference, with the query for the rows that fill it."""
    return {
        "Ticket type {id} of {quantity} places has {sold} sold and {held} held, "
        "its orders have {paid} paid and {pending} pending": wrong_counters(),
        "Pool {id} of {quantity} places has {sold} sold and {held} held, "
        "its ticket types have {types_sold} and {types_held}": wrong_pools(),
        "Promo code {id} for {max_uses} uses has {used} used and {held} held, "
        "its orders have {paid} paid and {pending} pending": wrong_uses(),
        "Ticket type {id} has {waited} waited for, {waited_least} by the smallest group, "
        "its waiting list comes to {total} and {least}": wrong_waiting(),
        "Order {code} has a total of {total}, its items come to {items}": wrong_totals(),
        "Order {code} is {status} with a total of {total}, "
        "its confirmed payments are {payments} and come to {amount}": wrong_payments(),
        "Order {code} is paid for {quantity} places of ticket type {ticket_type_id}, "
        "its tickets for them are {tickets}": wrong_tickets(),
        "Ticket {code} is {status}, its order {order} is {order_status}": unpaid_tickets(),
        "Ticket {code} is of event {event_id} and ticket type {ticket_type_id}, "
        "its order {order} is not": misplaced_tickets(),
        "Payment {id} by {method} has the reference {reference}, "
        "it is compared by {reference_key}": uncompared_payments(),
        "Payment {id} of {amount} is {status}, {refunded} of it were given back, "
        "its refunds come to {refunds}": wrong_refunds(),
        "Checkout {code} is {status}, its order {order} is {order_status}": payable_checkouts(),
        "Order {code} has {checkouts} pages to be paid on": several_checkouts(),
        "{payments} payments by {method} that are compared by {reference_key} were not given back": same_payments(),
    }


def wrong_counters() -> Select[*tuple[Any, ...]]:
    """Held is what pending orders are for, and sold what the tickets of paid ones are good for."""
    held_for = (
        select(OrderLine.ticket_type_id, func.sum(OrderLine.quantity).label("pending"))
        .join(Order)
        .where(Order.state == "pending")
        .group_by(OrderLine.ticket_type_id)
        .subquery()
    )
    good = (
        select(Ticket.ticket_type_id, func.count().label("paid"))
        .join(Ticket.purchase)
        .where(Ticket.status != "void", Order.state == "paid")
        .group_by(Ticket.ticket_type_id)
        .subquery()
    )
    paid, pending = func.coalesce(good.c.paid, 0), func.coalesce(held_for.c.pending, 0)
    sold, held = TicketType.sold, TicketType.held
    rows = select(TicketType.id, TicketType.quantity, sold, held, paid.label("paid"), pending.label("pending"))
    rows = rows.outerjoin(held_for, held_for.c.ticket_type_id == TicketType.id)
    rows = rows.outerjoin(good, good.c.ticket_type_id == TicketType.id)
    impossible = or_(sold < 0, held < 0, sold + held > TicketType.quantity)
    return rows.where(or_(sold != paid, held != pending, impossible))


def wrong_pools() -> Select[*tuple[Any, ...]]:
    """What a pool has sold and holds is what its ticket types have and hold."""
    sold, held = (func.coalesce(func.sum(column), 0) for column in (TicketType.sold, TicketType.held))
    rows = select(Pool.id, Pool.quantity, Pool.sold, Pool.counted.label("held"))
    rows = rows.add_columns(sold.label("types_sold"), held.label("types_held"))
    return rows.outerjoin(Pool.members).group_by(Pool.id).having(or_(Pool.sold != sold, Pool.counted != held))


def wrong_uses() -> Select[*tuple[Any, ...]]:
    """A use of a promo code is a ticket: held by a pending order, or bought and still good."""
    held_for = (
        select(Order.promo_code_id, func.sum(OrderLine.quantity).label("pending"))
        .join(Order.items)
        .where(Order.state == "pending", OrderLine.uses_promo)
        .group_by(Order.promo_code_id)
        .subquery()
    )
    same = OrderLine.order_id == Ticket.order_id, OrderLine.ticket_type_id == Ticket.ticket_type_id
    good = (
        select(Order.promo_code_id, func.count().label("paid"))
        .select_from(Ticket)
        .join(Ticket.purchase)
        .join(OrderLine, and_(*same))
        .where(Ticket.status != "void", Order.state == "paid", OrderLine.uses_promo)
        .group_by(Order.promo_code_id)
        .subquery()
    )
    paid, pending = func.coalesce(good.c.paid, 0), func.coalesce(held_for.c.pending, 0)
    rows = select(PromoCode.id, PromoCode.max_uses, PromoCode.used, PromoCode.counted.label("held"))
    rows = rows.add_columns(paid.label("paid"), pending.label("pending"))
    rows = rows.outerjoin(held_for, held_for.c.promo_code_id == PromoCode.id)
    rows = rows.outerjoin(good, good.c.promo_code_id == PromoCode.id)
    return rows.where(or_(PromoCode.used != paid, PromoCode.counted != pending))


def wrong_waiting() -> Select[*tuple[Any, ...]]:
    total, least = (
        func.coalesce(count(WaitingEntry.quantity).filter(WaitingEntry.state == "waiting"), 0)
        for count in (func.sum, func.min)
    )
    waited = TicketType.waited, TicketType.waited_least
    rows = select(TicketType.id, *waited, total.label("total"), least.label("least"))
    rows = rows.outerjoin(WaitingEntry, WaitingEntry.ticket_type_id == TicketType.id).group_by(TicketType.id)
    return rows.having(or_(TicketType.waited != total, TicketType.waited_least != least))


def wrong_totals() -> Select[*tuple[Any, ...]]:
    sums = select(OrderLine.order_id, OrderLine.total().label("items")).group_by(OrderLine.order_id).subquery()
    rows = select(Order.code, Order.total, sums.c["items"]).outerjoin(sums, sums.c.order_id == Order.id)
    return rows.where(or_(sums.c["items"].is_(None), sums.c["items"] != Order.total))


def wrong_payments() -> Select[*tuple[Any, ...]]:
    """A paid order has one confirmed payment of its total, or none where that is 0 or was all given back.

    A refunded one may have kept a part of it; no other order has any.
    """
    counted = (
        select(Payment.order_id, func.count().label("payments"), func.sum(Payment.amount).label("amount"))
        .where(Payment.status == "confirmed")
        .group_by(Payment.order_id)
        .subquery()
    )
    payments, amount = func.coalesce(counted.c.payments, 0), func.coalesce(counted.c.amount, 0)
    rows = select(Order.code, Order.state, Order.total, payments.label("payments"), amount.label("amount"))
    given_back = Order.payments.any(and_(Payment.status == "refunded", Payment.amount == Order.total))
    wrong = case(
        (Order.state == "paid", and_(amount != Order.total, or_(payments > 0, ~given_back))),
        (Order.state == "refunded", and_(payments > 0, amount != Order.total)),
        else_=payments > 0,
    )
    return rows.outerjoin(counted, counted.c.order_id == Order.id).where(or_(wrong, payments > 1))


def wrong_refunds() -> Select[*tuple[Any, ...]]:
    """What is given back of a payment is what its refunds come to that have not failed."""
    sums = (
        select(Refund.payment_id, func.sum(Refund.amount).cast(BigInteger).label("refunds"))
        .where(Refund.status != "failed")
        .group_by(Refund.payment_id)
        .subquery()
    )
    refunds = func.coalesce(sums.c.refunds, 0)
    rows = select(Payment.id, Payment.amount, Payment.status, Payment.refunded, refunds.label("refunds"))
    rows = rows.outerjoin(sums, sums.c.payment_id == Payment.id)
    all_back = and_(Payment.status == "confirmed", Payment.amount > 0, Payment.refunded == Payment.amount)
    return rows.where(or_(Payment.refunded != refunds, all_back))


def payable_checkouts() -> Select[*tuple[Any, ...]]:
    """Only a pending order has a page to be paid on, and only one; what was paid there is a payment of the order."""
    rows = select(Checkout.code, Checkout.status, Order.code.label("order"), Order.state.label("order_status"))
    rows = rows.join(Checkout.order).outerjoin(Payment, Payment.id == Checkout.payment_id)
    live, paid = Checkout.status.in_(PAYABLE), Checkout.status == "paid"
    wrong = or_(and_(live, Order.state != "pending"), and_(paid, func.coalesce(Payment.order_id, 0) != Order.id))
    return rows.where(wrong)


def several_checkouts() -> Select[*tuple[Any, ...]]:
    rows = select(Order.code, func.count().label("checkouts")).join(Checkout, Checkout.order_id == Order.id)
    return rows.where(Checkout.status.in_(PAYABLE)).group_by(Order.code).having(func.count() > 1)


def wrong_tickets() -> Select[*tuple[Any, ...]]:
    """A paid order has a ticket for each place, some of which may be void, but not all."""
    kind = Ticket.order_id, Ticket.ticket_type_id
    counted = select(*kind, func.count().label("tickets")).group_by(*kind).subquery()
    tickets = func.coalesce(counted.c.tickets, 0)
    same = counted.c.order_id == OrderLine.order_id, counted.c.ticket_type_id == OrderLine.ticket_type_id
    rows = select(Order.code, OrderLine.quantity, OrderLine.ticket_type_id, tickets.label("tickets"))
    rows = rows.select_from(OrderLine).join(Order).outerjoin(counted, and_(*same))
    good = Order.tickets.any(Ticket.status != "void")
    return rows.where(Order.state == "paid", or_(tickets != OrderLine.quantity, ~good))


def unpaid_tickets() -> Select[*tuple[Any, ...]]:
    """Used tickets of a canceled event stay used, though their orders are refunded."""
    rows = select(Ticket.code, Ticket.status, Order.code.label("order"), Order.state.label("order_status"))
    rows = rows.join(Ticket.purchase).join(Order.event).where(Ticket.status != "void", Order.state != "paid")
    return rows.where(~and_(Ticket.status == "used", Order.state == "refunded", Event.status == "canceled"))


def misplaced_tickets() -> Select[*tuple[Any, ...]]:
    rows = select(Ticket.code, Ticket.event_id, Ticket.ticket_type_id, Order.code.label("order")).join(Ticket.purchase)
    same = OrderLine.order_id == Ticket.order_id, OrderLine.ticket_type_id == Ticket.ticket_type_id
    rows = rows.outerjoin(OrderLine, and_(*same)).where(Ticket.status != "void")
    return rows.where(or_(Ticket.event_id != Order.event_id, OrderLine.id.is_(None)))


def uncompared_payments() -> Select[*tuple[Any, ...]]:
    rows = select(Payment.id, Payment.method, Payment.reference, Payment.reference_key)
    by_hand = Payment.provider.is_(None)
    return rows.where(by_hand, Payment.reference.is_(None) != Payment.reference_key.is_(None))


def same_payments() -> Select[*tuple[Any, ...]]:
    kind = Payment.method, Payment.reference_key
    rows = select(*kind, func.count().label("payments")).where(Payment.status != "refunded").group_by(*kind)
    return rows.where(Payment.reference_key.is_not(None)).having(func.count() > 1)
