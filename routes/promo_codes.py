"""Promo codes: what makes tickets cheaper, or lets hidden ones be bought."""

from typing import Any

from flask_restful import Resource

from models import HasOrders, MaxUsesBelowUsed, Outdated, PromoCode, PromoCodeTaken, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import hide_drafts, roles, token_optional
from routes.http.etags import conditional, expected_versions, tagged
from routes.http.limits import count_promo_look_up, limited
from routes.http.paging import page, paged
from routes.http.parsing import ID, Field, Flag, Integer, Many, PromoName, Time, changes, parser, takes
from routes.http.views import JSON, Args, Headers, Page
from routes.selling.catalogue import event_status, keep_visible
from routes.selling.promotions import (
    PROMO_CODE_LIST,
    create_promo_code,
    delete_promo_code,
    edit_promo_code,
    offer_with,
    read_promo_code,
)

new_promo_code = parser(
    Field("code", PromoName(50), required=True),
    Field("percent", Integer(1, 100), nullable=True, about="Off the price; or else `amount`"),
    Field(
        "amount", Integer(1, 1_000_000_000), nullable=True, about="Off the price, in the minor unit; or else `percent`"
    ),
    Field("ticket_types", Many(ID, most=100), about="The types that it is for: all of the event where there are none"),
    Field(
        "max_uses",
        Integer(0, 2_000_000_000),
        nullable=True,
        about="How many tickets may use it: any number where it is null",
    ),
    Field(
        "max_per_buyer",
        Integer(1, 2_000_000_000),
        nullable=True,
        about="How many tickets of a buyer may use it: any number where it is null",
    ),
    Field("starts_at", Time(), nullable=True),
    Field("ends_at", Time(), nullable=True),
    Field("unlocks", Flag(), about="Whether it shows hidden ticket types", default=False),
)

FIFTH_OFF = {"code": examples.PROMO_CODE.code, "percent": 20, "max_uses": 50}


class PromoCodeList(Resource):
    @roles("admin", "manager")
    @answers(200, [examples.PROMO_CODE])
    @conditional
    @paged()
    def get(self, args: Args, id: int) -> Page:
        """List the promo codes of an event, with how many tickets have used each."""
        keep_visible(id)
        return page(PROMO_CODE_LIST, (PromoCode.id,), {"id": id}, **args)

    @roles("admin", "manager")
    @answers(201, examples.PROMO_CODE, headers=["Location"], refuses=[PromoCodeTaken()], sends=FIFTH_OFF)
    @tagged
    @takes(new_promo_code)
    def post(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Add a promo code; it takes a `percent` or an `amount` off each ticket, or `unlocks` hidden ticket types.

        It is for the listed `ticket_types`, or for all if none is listed. Each such ticket is a use.
        """
        code = create_promo_code(id, **args)
        db.session.commit()
        return code.to_dict(), 201, {"Location": f"/promo-codes/{code.id}", "version": code.version}


class PromoCodeDetail(Resource):
    @roles("admin", "manager")
    @answers(200, examples.PROMO_CODE)
    @conditional
    def get(self, id: int) -> tuple[JSON, int, Headers]:
        """Get a promo code."""
        code = read_promo_code(id)
        return code.to_dict(), 200, {"version": code.version}

    @roles("admin", "manager")
    @answers(
        200,
        examples.PROMO_CODE,
        refuses=[Outdated(), PromoCodeTaken(), MaxUsesBelowUsed(used=2, held=1)],
        sends=FIFTH_OFF,
    )
    @tagged
    @takes(changes(new_promo_code))
    def patch(self, args: Args, id: int) -> tuple[JSON, int, Headers]:
        """Change a promo code. Orders that are there keep their price."""
        code = edit_promo_code(read_promo_code(id), args, versions=expected_versions())
        db.session.commit()
        return code.to_dict(), 200, {"version": code.version}

    @roles("admin", "manager")
    @answers(204, refuses=[Outdated(), HasOrders()])
    def delete(self, id: int) -> tuple[None, int]:
        """Delete a promo code that nobody has ordered with."""
        delete_promo_code(read_promo_code(id), versions=expected_versions())
        db.session.commit()
        return None, 204


class PromoCodeOffer(Resource):
    @token_optional
    @answers(200, examples.PROMO_OFFER)
    @limited
    def get(self, id: int, promo: str) -> dict[str, Any]:
        """Get what tickets cost with a promo code, hidden ones that it unlocks among them."""
        count_promo_look_up()
        hide_drafts(id, event_status(id))
        return offer_with(id, promo)
