"""The examples of the documentation: a small season that is never stored, shown as its models show themselves.

It is a year ahead, so that what is pasted from there can be bought.
"""

from datetime import UTC, date, datetime, timedelta

from models import Category, Event, Order, OrderItem, Payment, Ticket, TicketType, User

STARTS = datetime(date.today().year + 1, 6, 19, 18, 30, tzinfo=UTC)
ENDS = STARTS + timedelta(hours=3)
BOUGHT = STARTS - timedelta(days=30)
MADE = {"created_at": BOUGHT, "updated_at": BOUGHT}
CODE = "5D41402ABC4B2A76B9719D911017C592"

USER = User(id=7, name="Ada Lovelace", email="ada@example.com", role="user", active=True, **MADE)
CREDENTIALS = {"email": USER.email, "password": "correct horse battery"}
TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3In0.mBr1f2U5C3dYkq0vX8mTzWJpQn4sRg6hLbE9aKcVtoM"

CATEGORY = Category(id=1, name="Concerts")
EVENT = Event(
    id=1,
    name="Midsummer Concert",
    description="Two hours of songs for the longest day, in the open air.",
    venue="Park Stage",
    poster="https://example.com/midsummer.jpg",
    status="published",
    category_id=CATEGORY.id,
    category=CATEGORY,
    starts_at=STARTS,
    ends_at=ENDS,
    **MADE,
)
TICKET_TYPE = TicketType(
    id=1, event=EVENT, event_id=EVENT.id, name="Regular", price=2500, quantity=150, sold=2, held=1, max_per_order=10
)


def order(state):
    """An order of one ticket. Its `status` is here what it is in the database."""
    line = OrderItem(ticket_type_id=TICKET_TYPE.id, name=TICKET_TYPE.name, quantity=1, unit_price=TICKET_TYPE.price)
    whole = {"buyer": USER, "event": EVENT, "items": [line], "total": TICKET_TYPE.price, "currency": "USD", **MADE}
    return Order(code=CODE, state=state, expires_at=BOUGHT + timedelta(minutes=15), **whole)


def payment(status):
    return Payment(
        id=1, method="bank_transfer", reference="2471", amount=TICKET_TYPE.price, status=status, created_at=BOUGHT
    )


def ticket(status, order, checked_in_at=None):
    shown = {"event": EVENT, "ticket_type": TICKET_TYPE, "checked_in_at": checked_in_at}
    return Ticket(code="7D793037A0760186574B0282F2F435E7", status=status, order=order, **shown)


LINES = [{"ticket_type_id": TICKET_TYPE.id, "quantity": 1}]
PENDING, CANCELED, PAID, REFUNDED = (order(state) for state in ("pending", "canceled", "paid", "refunded"))
CONFIRMED, RETURNED = payment("confirmed"), payment("refunded")
PAID.payments, REFUNDED.payments = [CONFIRMED], [payment("refunded")]
VALID = ticket("valid", PAID)
ticket("void", REFUNDED)
USED = ticket("used", order("paid"), STARTS)

ATTENDEES = [
    {
        "code": it.code,
        "status": it.status,
        "holder": USER.name,
        "email": USER.email,
        "ticket_type": TICKET_TYPE.name,
        "order": CODE,
        "checked_in_at": it.checked_in_at,
    }
    for it in (VALID, USED)
]
ATTENDEES_CSV = ",".join(ATTENDEES[0]) + f"\r\n{VALID.code},valid,Ada Lovelace,ada@example.com,Regular,{CODE},\r\n"
COUNTED = {"quantity": 150, "sold": 2, "held": 1, "available": 147, "checked_in": 1, "revenue": 5000}
SALES = {
    "event_id": EVENT.id,
    "currency": "USD",
    "ticket_types": [{"id": TICKET_TYPE.id, "name": TICKET_TYPE.name, **COUNTED}],
    "total": COUNTED,
}

PATH = {"id": EVENT.id, "code": CODE, "file": "start.js"}
SEASON = (USER, CATEGORY, EVENT, TICKET_TYPE, PAID, PAID.items[0], CONFIRMED, VALID)
