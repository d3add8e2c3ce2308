"""Orders and the payments for them."""

from flask_jwt_extended import current_user
from flask_restful import Resource
from werkzeug.exceptions import Forbidden, NotFound

from models import (
    PAYMENT_METHODS,
    AmountMismatch,
    CheckedIn,
    MaxPerOrder,
    Missing,
    NotDue,
    NotOnSale,
    NotPaid,
    NotPending,
    Order,
    Payment,
    ReferenceUsed,
    SalesClosed,
    SoldOut,
    TooManyPending,
    db,
)
from routes.access import is_admin, roles, signed_in
from routes.answers import answers
from routes.examples import CANCELED, CONFIRMED, LINES, PAID, PENDING, REFUNDED, RETURNED
from routes.idempotency import idempotent
from routes.paging import page, paged
from routes.parsing import ID, Choice, Digits, Field, Integer, ListOf, Parameter, Text, parser, takes

new_order = parser(
    Field(
        "items",
        ListOf(20, Field("ticket_type_id", ID), Field("quantity", Integer(1, 2**31 - 1))),
        required=True,
    )
)
filters = (
    Parameter("event", Digits(0, 2**31 - 1), heeded=is_admin),
    Parameter("user", Digits(0, 2**31 - 1), heeded=is_admin),
    Parameter("status", Choice(*Order.STATUSES), heeded=is_admin),
)
NO_SALE = (
    Missing(),
    SoldOut(ticket_type_id=1, available=1),
    SalesClosed(ticket_type_id=1),
    NotOnSale(ticket_type_id=1),
    MaxPerOrder(ticket_type_id=1, max_per_order=10),
    TooManyPending(max_pending_orders=20),
)


def order_for(user, code):
    """The order, if the user may see it; else it is not there."""
    order = Order.by_code(code)
    if order is None or not order.visible_to(user):
        raise NotFound
    return order


class OrderList(Resource):
    @signed_in
    @answers(200, [PAID])
    @paged(*filters)
    def get(self, args):
        """List one's own orders, newest first; an admin's are all, narrowed by the filters."""
        wanted = {name: args.pop(name) for name in ("user", "event", "status") if name in args}
        if not is_admin():
            wanted = {"user": current_user.id}
        status = wanted.pop("status", None)
        orders = Order.listing(frozenset(wanted), status)
        return page(orders, (Order.id,), wanted, descending=True, **args)

    @signed_in
    @answers(201, PENDING, headers=["Location"], refuses=NO_SALE, sends={"items": LINES})
    @takes(new_order)
    @idempotent
    def post(self, args):
        """Order tickets of one event, all or nothing, held until `expires_at`; what costs nothing is paid at once."""
        order = Order.place(current_user.id, [(line["ticket_type_id"], line["quantity"]) for line in args["items"]])
        return order, 201, {"Location": f"/orders/{order['code']}"}


class OrderItem(Resource):
    @signed_in
    @answers(200, PAID)
    def get(self, code):
        """Get an order with its tickets and payments."""
        return order_for(current_user, code).to_dict()


class OrderCancellation(Resource):
    @signed_in
    @answers(200, CANCELED, refuses=[Forbidden("Forbidden"), NotPending(status="paid")])
    def post(self, code):
        """Cancel an order that is pending: for its buyer and for admins."""
        order = order_for(current_user, code)
        if order.user_id != current_user.id and current_user.role != "admin":
            raise Forbidden("Forbidden")
        order.cancel()
        db.session.commit()
        return order.to_dict()


class OrderRefund(Resource):
    @roles("admin")
    @answers(200, REFUNDED, refuses=[NotPaid(status="pending"), CheckedIn()])
    def post(self, code):
        """Refund a paid order: its tickets are void, its places free."""
        order = order_for(current_user, code)
        order.refund()
        db.session.commit()
        return order.to_dict()


new_payment = parser(
    Field("method", Choice(*PAYMENT_METHODS), required=True),
    Field("reference", Text(255), required=lambda body: Payment.needs_reference(body.get("method"))),
    Field("amount", Integer(0, 2**53 - 1), required=True),
)


class PaymentList(Resource):
    @roles("staff", "admin")
    @answers(201, CONFIRMED, refuses=[AmountMismatch(total=2500), ReferenceUsed()])
    @answers(200, CONFIRMED)
    @takes(new_payment)
    @idempotent
    def post(self, args, code):
        """Take a payment, `refund_due` where it pays for nothing any more; the same once more answers 200."""
        payment, new = order_for(current_user, code).pay(**args)
        return payment.to_dict(), 201 if new else 200


class PaymentRefund(Resource):
    @roles("admin")
    @answers(200, RETURNED, refuses=[NotDue(status="confirmed")])
    def post(self, code, id):
        """Refund a payment that is `refund_due`."""
        payment = Payment.of_order(code, id)
        if payment is None:
            raise NotFound
        payment.refund()
        db.session.commit()
        return payment.to_dict()
