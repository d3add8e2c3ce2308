"""Orders and the payments for them."""

from functools import partial
from itertools import compress
from typing import Any

from flask import Response
from flask_jwt_extended import current_user
from flask_restful import Resource

from models import (
    ORDER_STATUSES,
    PAYMENT_METHODS,
    AlreadyPaid,
    AmountMismatch,
    EventNotOnSale,
    ExceedsPaid,
    HolderInside,
    Missing,
    NotConfigured,
    NothingDue,
    Order,
    OrderNotPaid,
    OrderNotPending,
    OverMaxPerBuyer,
    OverMaxPerOrder,
    Payment,
    PaymentDisputed,
    PriceChanged,
    PromoInvalid,
    PromoNotApplicable,
    PromoUsedUp,
    ReferenceUsed,
    RefundNotDue,
    RefundNotFailed,
    SalesClosed,
    SoldOut,
    TicketsTransferred,
    TicketsVoid,
    TooManyPendingOrders,
    TooManyTickets,
    UnderMinPerOrder,
    db,
)
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import roles, sees_orders, signed_in, works_for
from routes.http.idempotency import Claim, idempotent
from routes.http.limits import big_orders_in_turn, limited
from routes.http.paging import page, paged
from routes.http.parsing import (
    ID,
    Choice,
    Codes,
    Digits,
    Field,
    Integer,
    ListOf,
    Parameter,
    Reference,
    Text,
    Time,
    parser,
    takes,
)
from routes.http.views import JSON, Args, Page
from routes.selling.mails import limit_repeats, tell_of_tickets_again
from routes.selling.orders import order_for, order_list, payment_of, search, with_few_tickets
from routes.selling.placing import place, place_in_one_statement
from routes.selling.refunds import give_back_due, refund, refund_of, retry
from routes.selling.settling import cancel, extend, pay, payment_json

new_order = parser(
    Field(
        "items",
        ListOf(
            20,
            Field("ticket_type_id", ID, required=True),
            Field("quantity", Integer(1, 2**31 - 1), required=True),
        ),
        required=True,
    ),
    Field("expected_total", Integer(0, 2**53 - 1)),
    Field("promo_code", Text(50)),
    Field("attendee_name", Text(100)),
)
filters = (
    Parameter("event", Digits(0, 2**31 - 1)),
    Parameter("status", Choice(*ORDER_STATUSES)),
    Parameter("user", Digits(0, 2**31 - 1), only_if=sees_orders),
    Parameter("q", Text(200), only_if=sees_orders),
    Parameter("attention", Choice("true"), only_if=sees_orders),
)
NO_SALE = (
    Missing(),
    SoldOut(ticket_type_id=1, available=1),
    SalesClosed(ticket_type_id=1, sales_start=None, sales_end=examples.BOUGHT),
    EventNotOnSale(ticket_type_id=1),
    OverMaxPerOrder(ticket_type_id=1, max_per_order=10),
    UnderMinPerOrder(ticket_type_id=1, min_per_order=2),
    OverMaxPerBuyer(ticket_type_id=1, left=1),
    TooManyTickets(max_tickets_per_order=200),
    PriceChanged(total=3000),
    SoldOut(pool_id=1, available=1),
    PromoInvalid(),
    PromoUsedUp(available=1, pending=[examples.CODE]),
    PromoNotApplicable(),
    TooManyPendingOrders(max_pending_orders=20),
)


def as_seen(order: Order) -> dict[str, Any]:
    """The order's JSON. Who took the payments, and the tickets that were passed on, are for those who work here, or for
    the event."""
    own = [ticket.user_id == current_user.id for ticket in order.tickets]
    seen = order.to_dict()
    if (seen["payments"] or not all(own)) and not works_for(order.event_id):
        seen["tickets"] = list(compress(seen["tickets"], own))
        return without_takers(seen)
    return seen


def without_takers(order: dict[str, Any]) -> dict[str, Any]:
    for payment in order["payments"]:
        payment["by"] = None
    return order


INSIDE = HolderInside(tickets=[examples.VALID.code])
PASSED_ON = TicketsTransferred(tickets=[examples.VALID.code])
NOT_AGAIN = (RefundNotFailed(status="pending"), PaymentDisputed(), ExceedsPaid(left=0))


class OrderList(Resource):
    @signed_in
    @answers(200, [examples.PAID])
    @paged(*filters)
    def get(self, args: Args) -> Page:
        """List one's own orders, newest first; to staff and admins all, narrowed by the filters.

        A manager gets all of his `event`. `q` finds orders by the beginning of a code, or of a buyer's name or address.
        """
        wanted = {name: args.pop(name) for name in ("user", "event", "q", "attention") if name in args}
        sees_all = sees_orders()
        if not sees_all:
            wanted["user"] = current_user.id
        orders = order_list(frozenset(wanted), args.pop("status", None))
        values = wanted | (search(wanted["q"]) if "q" in wanted else {})
        fitting = partial(with_few_tickets, owner=None if sees_all else current_user.id)
        found, status, headers = page(orders, (Order.id,), values, descending=True, fitting=fitting, **args)
        return found if sees_all else [without_takers(order) for order in found], status, headers

    @signed_in
    @answers(201, examples.PENDING, headers=["Location"], refuses=NO_SALE, sends={"items": examples.LINES})
    @takes(new_order)
    @big_orders_in_turn
    @idempotent
    def post(self, args: Args, claim: Claim) -> Response:
        """Order tickets of one event, all or nothing, held until `expires_at`; what costs nothing is paid at once.

        With `expected_total`, only if that is what they cost. An `attendee_name` will stand on all of its tickets.
        """
        lines = [(line["ticket_type_id"], line["quantity"]) for line in args.pop("items")]
        # A claimed key is kept in the transaction of the order, so that one can't be placed by a statement of its own.
        alone = not claim and not args.keys() & {"promo_code", "attendee_name"}
        order = place_in_one_statement(current_user.id, lines, **args) if alone else None
        order = order or place(current_user.id, lines, **args)
        answer = claim.keep(order, 201, {"Location": f"/orders/{order['code']}"})
        db.session.commit()
        return answer


class OrderDetail(Resource):
    @signed_in
    @answers(200, examples.PAID)
    def get(self, code: str) -> JSON:
        """Get an order with its tickets and payments."""
        return as_seen(order_for(current_user, code))


class OrderCancel(Resource):
    @signed_in
    @answers(200, examples.CANCELED, refuses=[OrderNotPending(status="paid"), INSIDE, PASSED_ON])
    def post(self, code: str) -> JSON:
        """Cancel an order that is pending, or give back one that cost nothing: for its buyer and for staff."""
        order = order_for(current_user, code)
        cancel(order)
        db.session.commit()
        return as_seen(order)


class OrderExtend(Resource):
    @roles("staff", "admin", "manager")
    @answers(200, examples.PENDING, refuses=[OrderNotPending(status="paid")], sends={"expires_at": examples.TOMORROW})
    @takes(parser(Field("expires_at", Time(), required=True)))
    def post(self, args: Args, code: str) -> JSON:
        """Hold a pending order longer, for who pays by bank transfer: 30 days at most, never past the event's end."""
        order = order_for(current_user, code)
        extend(order, args["expires_at"])
        db.session.commit()
        return order.to_dict()


class OrderMail(Resource):
    @signed_in
    @answers(202, examples.ACCEPTED, refuses=[NotConfigured(what="mail"), OrderNotPaid(status="pending")])
    @limited
    def post(self, code: str) -> tuple[dict[str, str], int]:
        """Mail the tickets of a paid order to its buyer once more: three times an hour where he asks himself."""
        order = order_for(current_user, code)
        if not works_for(order.event_id):
            limit_repeats(order)
        tell_of_tickets_again(order)
        db.session.commit()
        return examples.ACCEPTED, 202


wanted_refund = parser(
    Field("tickets", Codes(1000)),
    Field("amount", Integer(0, 2**53 - 1)),
    Field("reason", Text(500)),
)
SOME_MONEY = {"amount": 500, "reason": "Illness"}
NO_REFUND = (
    OrderNotPaid(status="pending"),
    INSIDE,
    PASSED_ON,
    TicketsVoid(tickets=[examples.VALID.code]),
    ExceedsPaid(left=2500),
    PaymentDisputed(),
)


class OrderRefund(Resource):
    @roles("admin", "manager")
    @answers(200, examples.REFUNDED, refuses=NO_REFUND, sends=SOME_MONEY)
    @takes(wanted_refund, optional=True)
    def post(self, args: Args, code: str) -> JSON:
        """Refund a paid order: all of it, or some `tickets`, which are void then, or an `amount` alone.

        Tickets go back for what they cost unless `amount` says else; with `amount` 0 they are void and no money moves.
        """
        order = order_for(current_user, code)
        refund(order, by=current_user.id, **args)
        db.session.commit()
        return order_for(current_user, code).to_dict()


class RefundRetry(Resource):
    @roles("admin")
    @answers(200, examples.GIVEN_BACK, refuses=NOT_AGAIN)
    def post(self, code: str, refund: str) -> dict[str, Any]:
        """Ask the provider once more for a refund that has failed."""
        found = refund_of(code, refund)
        retry(found)
        db.session.commit()
        return found.to_dict()


new_payment = parser(
    Field("method", Choice(*PAYMENT_METHODS), required=True),
    Field("reference", Reference(255), required=lambda body: Payment.needs_reference(body.get("method"))),
    Field("amount", Integer(0, 2**53 - 1), required=True),
)


NO_PAYMENT = (
    NothingDue(),
    AmountMismatch(total=2500),
    AlreadyPaid(payment=payment_json(examples.CONFIRMED)),
    ReferenceUsed(),
)


class PaymentList(Resource):
    @roles("staff", "admin", "manager")
    @answers(201, examples.CONFIRMED, plus=Payment.of_order, refuses=NO_PAYMENT)
    @answers(200, examples.CONFIRMED, plus=Payment.of_order)
    @takes(new_payment)
    @idempotent
    def post(self, args: Args, claim: Claim, code: str) -> Response:
        """Take a payment, `refund_due` where it pays for nothing any more; the same reference again answers 200.

        Cash without a reference is money taken anew: where you may send it twice, send an `Idempotency-Key`.
        """
        payment, new = pay(order_for(current_user, code), by=current_user.id, **args)
        answer = claim.keep(payment_json(payment), 201 if new else 200)
        db.session.commit()
        return answer


class PaymentRefund(Resource):
    @roles("admin")
    @answers(200, examples.RETURNED, plus=Payment.of_order, refuses=[RefundNotDue(status="confirmed")])
    def post(self, code: str, id: int) -> JSON:
        """Say that a payment that is `refund_due` was given back by hand; a provider's, where that has failed to."""
        payment = payment_of(code, id)
        give_back_due(payment, by=current_user.id)
        db.session.commit()
        return payment_json(payment)
