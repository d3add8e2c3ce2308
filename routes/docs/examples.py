"""The examples of the documentation: a small season that is never stored, shown as its models show themselves.

It is a year ahead, so that what is pasted from there can be bought.
"""

from datetime import UTC, date, datetime, timedelta

from sqlalchemy.orm.attributes import set_committed_value

from models import (
    APPOINTMENTS,
    Appointment,
    Audit,
    Category,
    Checkout,
    Event,
    Mail,
    Order,
    OrderLine,
    Payment,
    Pool,
    PromoCode,
    Refund,
    Scan,
    Ticket,
    TicketType,
    Transfer,
    User,
    WaitingEntry,
    as_json,
    code_hash,
)

STARTS = datetime(date.today().year + 1, 6, 19, 18, 30, tzinfo=UTC)
ENDS = STARTS + timedelta(hours=3)
BOUGHT = STARTS - timedelta(days=30)
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
MADE = {"created_at": BOUGHT, "updated_at": BOUGHT}
CODE = "5D41402ABC4B2A76B9719D911017C592"

STAFF = User(id=2, name="Grace Hopper", email="grace@example.com", role="staff", active=True, **MADE)
USER = User(
    id=7,
    name="Ada Lovelace",
    email="ada@example.com",
    role="user",
    active=True,
    email_verified_at=BOUGHT,
    **MADE,
)
CREDENTIALS = {"email": USER.email, "password": "correct horse battery"}
MAILED_TOKEN = "Zk3vYd0bq8mTzWJpQn4sRg6hLbE9aKcVtoMmBr1f2U5"
TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3In0.mBr1f2U5C3dYkq0vX8mTzWJpQn4sRg6hLbE9aKcVtoM"
TOKENS = {"access_token": TOKEN, "refresh_token": TOKEN, "expires_in": 3600}

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
    time_zone="Europe/Berlin",
    currency="USD",
    contact="box-office@example.com",
    version=1,
    **MADE,
)
EVENT.__dict__["role"] = APPOINTMENTS[0]  # in the list of the events that one is appointed for
APPOINTMENT = Appointment(user=STAFF, role=APPOINTMENTS[0])
NEW_EVENT = {
    **{name: getattr(EVENT, name) for name in ("name", "description", "venue", "poster", "status", "category_id")},
    **{name: getattr(EVENT, name) for name in ("starts_at", "ends_at", "time_zone", "currency", "contact")},
    "ticket_types": [{"name": "Regular", "price": 2500, "quantity": 150}],
}
DRAFT = Event(**{**{name: getattr(EVENT, name) for name in Event.serialize_only}, "id": 2, "status": "draft"})
TICKET_TYPE = TicketType(
    id=1,
    event=EVENT,
    event_id=EVENT.id,
    name="Regular",
    price=2500,
    quantity=150,
    sold=2,
    held=1,
    min_per_order=1,
    max_per_order=10,
    hidden=False,
)
POOL = Pool(id=1, event_id=EVENT.id, name="Hall", quantity=200, sold=2, counted=1)
POOL.members = [TicketType(id=1), TicketType(id=2)]
PROMO_CODE = PromoCode(
    id=1,
    event_id=EVENT.id,
    code="EARLY-BIRD",
    percent=20,
    max_uses=50,
    ends_at=BOUGHT,
    unlocks=False,
    used=2,
    counted=1,
)
PROMO_CODE.applies_to = [TicketType(id=1)]
PROMO_OFFER = {
    "code": PROMO_CODE.code,
    "ticket_types": [as_json(TICKET_TYPE, TICKET_TYPE.serialize_only) | {"promo_price": 2000}],
}


def order(state: str) -> Order:
    """An order of one ticket. Its `status` is here what it is in the database."""
    line = OrderLine(ticket_type_id=TICKET_TYPE.id, name=TICKET_TYPE.name, quantity=1, unit_price=TICKET_TYPE.price)
    whole = {"buyer": USER, "event": EVENT, "items": [line], "total": TICKET_TYPE.price, "currency": "USD", **MADE}
    return Order(code=CODE, state=state, expires_at=BOUGHT + timedelta(minutes=15), **whole)


def payment(order: Order, status: str) -> Payment:
    taken = {"amount": TICKET_TYPE.price, "refunded": 0, "created_at": BOUGHT, "by": STAFF}
    return Payment(id=1, method="bank_transfer", reference="2471", status=status, order=order, **taken)


def refund(payment: Payment, status: str) -> Refund:
    payment.refunded = payment.amount
    made = {"amount": payment.amount, "reason": "The concert is canceled", "created_at": BOUGHT}
    return Refund(code="C157A79031E1C40F85931829BC5FC552", payment=payment, status=status, **made)


def ticket(status: str, order: Order, checked_in_at: datetime | None = None) -> Ticket:
    shown = {"event": EVENT, "ticket_type": TICKET_TYPE, "checked_in_at": checked_in_at}
    return Ticket(code="7D793037A0760186574B0282F2F435E7", status=status, purchase=order, owner=USER, **shown)


LINES = [{"ticket_type_id": TICKET_TYPE.id, "quantity": 1}]
PENDING, CANCELED, PAID, REFUNDED = (order(state) for state in ("pending", "canceled", "paid", "refunded"))
CONFIRMED, RETURNED = payment(PAID, "confirmed"), payment(REFUNDED, "refunded")
GIVEN_BACK = refund(RETURNED, "succeeded")
CHECKOUT = Checkout(
    status="open",
    provider="stripe",
    url="https://checkout.stripe.com/c/pay/cs_test_a1b2c3",
    order=PENDING,
)
VALID = ticket("valid", PAID)
WAITING = WaitingEntry(id=1, quantity=2, state="waiting", ticket_type=TICKET_TYPE, user=USER, created_at=BOUGHT)
WAITING.event = EVENT
set_committed_value(WAITING, "position", 3)
TRANSFER = Transfer(status="pending", to="grace@example.com", expires_at=STARTS)
ticket("void", REFUNDED)
USED = ticket("used", order("paid"), STARTS)
SCAN = Scan(id=2, outcome="already_checked_in", conflict=True, accepted=True, device="Door 2", at=STARTS, by=STAFF)
SCAN.received_at, SCAN.shown, SCAN.event_id = STARTS, USED, EVENT.id
SCAN.before = Scan(id=1, device="Door 1", received_at=STARTS)
NOTHING = {"error": None, "checked_in_at": None, "device": None}
HASH = code_hash(VALID.code)
DOOR = {
    "version": 4711,
    "tickets": [[HASH, TICKET_TYPE.id, "valid"]],
    "gone": [HASH],
    "next": "/events/1/door?after=10000&version=4711",
}
TAKEN_SCANS = {
    "results": [
        {**NOTHING, "nonce": "17", "outcome": "accepted", "conflict": False},
        {
            "nonce": "18",
            "outcome": "already_checked_in",
            "conflict": True,
            "error": None,
            "checked_in_at": SCAN.received_at,
            "device": "Door 1",
        },
        {
            **NOTHING,
            "nonce": None,
            "outcome": "unknown",
            "conflict": False,
            "error": "nonce of entry 2: Must be a text",
        },
    ]
}

ATTENDEES = [
    {
        "code": it.code,
        "status": it.status,
        "holder": USER.name,
        "email": email,
        "ticket_type": TICKET_TYPE.name,
        "order": CODE,
        "checked_in_at": it.checked_in_at,
    }
    for it, email in ((VALID, USER.email), (USED, None))  # the door sees no addresses
]
ATTENDEES_CSV = ",".join(ATTENDEES[0]) + f"\r\n{VALID.code},valid,Ada Lovelace,ada@example.com,Regular,{CODE},\r\n"
COUNTED = {"quantity": 150, "sold": 2, "held": 1, "available": 147, "checked_in": 1, "revenue": 5000}
SALES = {
    "event_id": EVENT.id,
    "currency": "USD",
    "ticket_types": [{"id": TICKET_TYPE.id, "name": TICKET_TYPE.name, **COUNTED}],
    "total": COUNTED,
    "refunded": 0,
    "refund_due": 0,
    "refund_all": {"orders": 0, "done": 0, "left": 0},
    "payments": [{"currency": "USD", "method": "bank_transfer", "confirmed": 5000, "refunded": 0, "refund_due": 0}],
}
PAYMENTS_CSV = (
    "id,created_at,method,reference,amount,currency,status,order,order_status,event_id,event,by_id,by\r\n"
    f"1,{BOUGHT:%Y-%m-%dT%H:%M:%SZ},bank_transfer,2471,2500,USD,confirmed,"
    f"{CODE},paid,1,Midsummer Concert,2,Grace Hopper\r\n"
)

ACCEPTED = {"message": "A mail is on its way"}
MAIL = Mail(
    id=1,
    kind="order_paid",
    user_id=USER.id,
    to=USER.email,
    created_at=BOUGHT,
    due_at=BOUGHT,
    sent_at=BOUGHT,
    attempts=1,
)

AUDIT = Audit(
    id=1,
    at=BOUGHT,
    actor=STAFF,
    action="ticket_type.changed",
    subject=f"ticket_type:{TICKET_TYPE.id}",
    event_id=EVENT.id,
    request_id="6f1c2a0e9d5b4c7e8a3f0b1d2c4e6a89",
    changes={"name": [None, None], "price": [2000, TICKET_TYPE.price]},
)

# Fields that are no columns and may be null, and what they are when they are not.
MAY_BE_NULL = {
    "checked_in_at": datetime,
    "first_device": str,
    "first_received_at": datetime,
    "max_per_buyer": int,
    "next": str,
    "offer": str,
    "pool_id": int,
    "position": int,
    "promo_code": str,
    "provider": str,
    "sales_end": datetime,
    "sales_start": datetime,
    "ticket_code": str,
    "ticket_holder": str,
    "ticket_type_name": str,
}
PATH = {
    "id": EVENT.id,
    "code": CODE,
    "file": "start.js",
    "provider": "stripe",
    "refund": GIVEN_BACK.code,
    "user": USER.id,
    "promo": PROMO_CODE.code,
}
MODELS = (
    USER,
    CATEGORY,
    EVENT,
    TICKET_TYPE,
    PAID,
    PAID.items[0],
    CONFIRMED,
    VALID,
    MAIL,
    GIVEN_BACK,
    CHECKOUT,
    POOL,
    PROMO_CODE,
    APPOINTMENT,
    AUDIT,
    TRANSFER,
    WAITING,
    SCAN,
)
