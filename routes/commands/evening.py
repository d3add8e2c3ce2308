"""An organizer's evening in the demo: shared places, promo codes, a hidden ticket type, helpers, and a record of it.

It is made by the rules themselves, and so are its orders.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from itertools import cycle

from sqlalchemy import select

from models import Category, Order, db
from routes.selling.appointments import appoint
from routes.selling.catalogue import create_event, create_ticket_type
from routes.selling.placing import place
from routes.selling.promotions import create_pool, create_promo_code
from routes.selling.settling import pay

DAYS_AHEAD = 21
DESCRIPTION = """Every room is open, from the bell loft to the boiler. Adults and children share the hall, members
come in by a word that only they know."""


def add_evening(buyers: Sequence[int], till: int) -> None:
    """Write the event and its orders, by some of the `buyers`; `till` is the id of who takes the money."""
    day = (datetime.now(UTC) + timedelta(days=DAYS_AHEAD)).date()
    starts_at = datetime.combine(day, time(18), UTC)
    event = create_event(
        {
            "name": "Open House at the Old Mill",
            "description": " ".join(DESCRIPTION.split()),
            "venue": "Old Mill",
            "category_id": db.session.scalar(select(Category.id).order_by(Category.id).limit(1)),
            "status": "published",
            "starts_at": starts_at,
            "ends_at": starts_at + timedelta(hours=5),
        }
    )
    adult, child, members = (
        create_ticket_type(event.id, {"name": name, "price": price, "quantity": places, "hidden": hidden}).id
        for name, price, places, hidden in (
            ("Adult", 1800, 80, False),
            ("Child", 900, 60, False),
            ("Member", 1200, 30, True),
        )
    )
    create_pool(event.id, name="Hall", quantity=100, ticket_types=[adult, child])
    create_promo_code(event.id, code="EARLY-BIRD", percent=20, max_uses=20, ticket_types=[adult, child])
    create_promo_code(event.id, code="NEIGHBOUR", amount=500, max_per_buyer=2, ticket_types=[adult])
    create_promo_code(event.id, code="MEMBERS", unlocks=True, ticket_types=[members])
    appoint(event.id, buyers[0], "manager")
    appoint(event.id, buyers[len(buyers) // 2], "door")
    wishes = (
        ([(adult, 2), (child, 2)], "EARLY-BIRD", True),
        ([(adult, 1)], "NEIGHBOUR", True),
        ([(members, 2)], "MEMBERS", True),
        ([(adult, 2)], None, True),
        ([(child, 3)], "EARLY-BIRD", False),
    )
    for buyer, (lines, code, paid) in zip(cycle(buyers), wishes, strict=False):
        made = place(buyer, lines, promo_code=code, attendee_name="Friends of the Mill" if code == "MEMBERS" else None)
        order = db.session.scalars(select(Order).where(Order.code == made["code"])).one()
        if paid:
            pay(order, method="mobile_money", reference=f"MILL-{order.id}", amount=order.total, by=till)
