"""Payments by card: the provider's page to pay on, and what the provider tells us."""

from typing import Any

from flask import current_app, request
from flask_jwt_extended import current_user
from flask_restful import Resource
from werkzeug.exceptions import BadRequest, NotFound

from models import (
    EventCanceled,
    Invalid,
    Missing,
    NotConfigured,
    NotPayable,
    Order,
    OrderNotPending,
    ProviderUnavailable,
    db,
)
from routes.docs.answers import answers
from routes.docs.examples import CHECKOUT, PAID
from routes.http.access import public, signed_in
from routes.http.origins import leads_back
from routes.http.parsing import URL, Field, parser, takes
from routes.jobs import checkouts
from routes.orders import as_seen
from routes.outside.provider import BadNotice
from routes.selling.checkouts import latest_checkout
from routes.selling.orders import order_for

BAD_SIGNATURE = "The signature is not good"
UNPAYABLE = (
    OrderNotPending(status="paid"),
    EventCanceled(),
    NotPayable(),
    NotConfigured(what="payments"),
    ProviderUnavailable(),
)

new_checkout = parser(Field("return_url", URL(2000)))


def own_order(code: str) -> Order:
    """The order, if it is one's own: also staff pay nobody else's by card."""
    order = order_for(current_user, code)
    if order.user_id != current_user.id:
        raise Missing
    return order


def way_back(order: Order, return_url: str | None) -> str:
    """Where the buyer comes back from the page. Never made of what the request says of this server."""
    if return_url is None:
        if not current_app.config["SHOP_URL"]:
            raise NotConfigured(what="shop_url")
        return f"{current_app.config['SHOP_URL'].rstrip('/')}/orders/{order.code}"
    if not leads_back(return_url, current_app.config["CORS_ORIGINS"]):
        raise Invalid(return_url="Must be at one of the shop's origins")
    return return_url


class OrderCheckout(Resource):
    @signed_in
    @answers(201, CHECKOUT, refuses=UNPAYABLE, headers=["Location"], sends={"return_url": "http://localhost:3000/paid"})
    @answers(200, CHECKOUT)
    @takes(new_checkout, optional=True)
    def post(self, args: dict[str, str], code: str) -> Any:
        """Get the page on which one's order is paid by card; the same one while it is open.

        The buyer comes back to `return_url`, whose origin is one of those that may call from browsers; then settle.
        """
        order = own_order(code)
        checkout, new = checkouts.start(order, way_back(order, args.get("return_url")))
        return checkout.to_dict(), 201 if new else 200, {"Location": f"/orders/{code}/checkout"} if new else {}

    @signed_in
    @answers(200, CHECKOUT)
    def get(self, code: str) -> Any:
        """Get the page on which an order is paid, or the last one there was."""
        return latest_checkout(order_for(current_user, code)).to_dict()


class CheckoutSettle(Resource):
    @signed_in
    @answers(200, PAID, refuses=[NotConfigured(what="payments"), ProviderUnavailable()])
    def post(self, code: str) -> dict[str, Any]:
        """Ask the provider now whether an order is paid: for who comes back from the page."""
        checkouts.settle_order(order_for(current_user, code))
        db.session.expire_all()
        return as_seen(order_for(current_user, code))


class ProviderNotice(Resource):
    @public
    @answers(200, {}, refuses=[BadRequest(BAD_SIGNATURE), ProviderUnavailable()])
    def post(self, provider: str) -> dict[str, str]:
        """Take a notice of the payment provider, signed with the webhook's secret."""
        chosen = checkouts.provider()
        if chosen is None or chosen.name != provider:
            raise NotFound
        try:
            checkouts.take_notices(chosen, request.get_data(), dict(request.headers))
        except BadNotice:
            raise BadRequest(BAD_SIGNATURE) from None
        return {}
