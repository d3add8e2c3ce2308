"""The season of `flask demo`: who is in it, what is on, and what was ordered, made one after the other."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import click
from flask import current_app

from models import PAYMENT_METHODS, PromoCode, caseless, comparable, hash_password, new_code, random_id
from routes.commands.demo_programs import CATEGORY_IDS, FIRST_NAMES, LAST_NAMES, PROGRAMS, Offer, Program, invent
from routes.commands.demo_rows import Rows, sql_time

ROWS_A_BATCH = 5000
SHOWN_LOGINS = 6
INVENTED = 2000
MOST_SOLD = 20_000  # events that orders are for, when there are many
EVENTS_AN_APPOINTMENT = 4

# Days from now. Decisions are taken in these, so that they don't hang on the hour of the day.
SEASON_DAYS, PAST_DAYS, SALES_DAYS, CREATED_DAYS_AGO = 120, 7, 45, 60
CANCELED_DAYS_AGO, SOLD_OUT_DAYS_AGO = 2, 1

STAFF = (
    ("Dana Whitlock", "admin", "admin"),
    ("Robin Castellan", "staff", "staff"),
    ("Sefa Lindqvist", "staff", "door"),
)

STATUSES = {7: "draft", 11: "canceled"}  # of every two hundred events; the others are published

# What becomes of orders, one after the other. A late one is paid after it has expired, a lapsed one is still pending.
FATES = ("paid", "paid", "paid", "expired", "paid", "paid", "canceled", "paid", "paid", "late", "paid", "refunded")
STATES = {"late": "expired", "lapsed": "pending"}
PAYMENTS = {"paid": "confirmed", "refunded": "refunded", "late": "refund_due"}

# Of orders where there is a promo code, of tickets for just past events, and of those beyond the first of an order.
WITH_CODE, USED, WITH_NAME = 0.4, 0.85, 0.5


class Sale(NamedTuple):
    """A ticket type and the days on which it is sold. `promo_price` is None where the event's code is not for it."""

    id: int
    name: str
    price: int
    first: float
    last: int
    hidden: bool
    promo_price: int | None


class Show(NamedTuple):
    """An event that orders are for, by days from now."""

    id: int
    day: int
    closes: int
    canceled: int | None
    starts_at: datetime
    sales: list[Sale]
    promo_code: int | None


class Line(NamedTuple):
    sale: Sale
    quantity: int
    price: int


class People:
    """Those who work here, and the buyers; of some events the managers and the helpers at the door."""

    def __init__(self, rows: Rows, password: str, taken: set[str]) -> None:
        self.rows = rows
        self.password = hash_password(password)
        self.taken = taken
        self.emails: dict[int, str] = {}  # of the accounts whose log-ins are shown
        self.logins: list[tuple[str, str]] = []
        self.appointed: list[tuple[int, str, str]] = []
        self.buyers: list[int] = []
        self.staff = [self.add(name, role, f"{address}@example.com", CREATED_DAYS_AGO) for name, role, address in STAFF]

    def add(self, name: str, role: str, email: str, age: float) -> int:
        if email in self.taken:
            raise click.ClickException(f"There is an account with the address {email}, which the demo needs.")
        created = self.rows.ago(age)
        row = name, caseless(name), email, self.password, role, True, random_id(), created, created
        id = self.rows.add("users", *row)
        if len(self.logins) < SHOWN_LOGINS:
            self.logins.append((email, role))
            self.emails[id] = email
        return id

    def add_buyer(self, number: int) -> None:
        name, surname, again = name_of(number)
        email = f"{name}.{surname}{again or ''}@example.com".lower()
        self.buyers.append(self.add(f"{name} {surname}", "user", email, SALES_DAYS + 10 / (number + 1)))

    def appoint(self, event: int, place: int) -> None:
        """Make two buyers the event's manager and its helper at the door, or the only one its manager."""
        manager, helper = (self.buyers[(place + next) % len(self.buyers)] for next in (1, 2))
        for user, role in {helper: "door", manager: "manager"}.items():
            self.rows.join("event_staff", event, user, role)
            subject = f"user:{user}"
            self.rows.record(CREATED_DAYS_AGO, self.staff[0], "staff.appointed", subject, event, role=[None, role])
            if place == 0 and user in self.emails:
                self.appointed.append((event, role, self.emails[user]))


def name_of(number: int) -> tuple[str, str, int]:
    """First name, last name, and how many people before this one are called the same."""
    round, first = divmod(number, len(FIRST_NAMES))
    again, last = divmod(round, len(LAST_NAMES))
    return FIRST_NAMES[first], LAST_NAMES[(first + last) % len(LAST_NAMES)], again


class Events:
    """Events with all that is sold for them, in the order of time. The first tenth is past."""

    def __init__(self, rows: Rows, people: People, many: int) -> None:
        self.rows, self.people = rows, people
        self.many, self.past = many, many // 10
        self.local = current_app.config["TIME_ZONE"], current_app.config["CURRENCY"]
        self.created = rows.ago(CREATED_DAYS_AGO)
        self.programs = PROGRAMS + [invent(rows.random) for _ in range(min(many - len(PROGRAMS), INVENTED))]
        self.shows: list[Show] = []  # what orders are for, in the order of time
        self.open: list[Show] = []  # what is still on sale
        for name in CATEGORY_IDS:
            rows.add("categories", name, name.casefold())

    def add(self, number: int) -> None:
        """The event `number` in the order of time."""
        place = (number - self.past) % self.many  # in the season as it begins today
        program = self.programs[place % len(self.programs)]
        day = self.day(number - self.past)
        starts_at = self.rows.today + timedelta(days=day) + program.begins
        status = STATUSES.get(place % 200, "published")
        canceled = max(CANCELED_DAYS_AGO, 1 - day) if status == "canceled" else None
        id = self.add_event(program, status, starts_at, canceled)
        show = self.add_sales(id, program, day, starts_at, canceled, sold_out=place == 0 and self.many > 1)
        if place % EVENTS_AN_APPOINTMENT == 0:
            self.people.appoint(id, place)
        if status != "draft" and number % max(1, self.many // MOST_SOLD) == 0:
            self.shows.append(show)
            if show.closes > 0:
                self.open.append(show)

    def day(self, place: int) -> int:
        if place < 0:
            return PAST_DAYS * (place + 1) // self.past - 1
        return SEASON_DAYS * place // (self.many - self.past) + 1

    def add_event(self, program: Program, status: str, starts_at: datetime, canceled: int | None) -> int:
        changed = self.rows.ago(canceled) if canceled else self.created
        times = canceled and changed, sql_time(starts_at), sql_time(starts_at + program.length)
        counts = int(program.length.total_seconds()), 2 if canceled else 1
        id = self.rows.add("events", *program[:4], status, *times, *counts, *self.local, self.created, changed)
        if canceled:
            told = {"status": ["published", "canceled"]}
            self.rows.record(canceled, self.people.staff[0], "event.changed", f"event:{id}", id, **told)
        return id

    def add_sales(
        self, event: int, program: Program, day: int, starts_at: datetime, canceled: int | None, *, sold_out: bool
    ) -> Show:
        pool = self.rows.add("pools", event, "All places", program.places) if program.shared else None
        if pool:
            self.record(event, "pool.created", f"pool:{pool}", name="All places", quantity=program.places)
        sales = [self.add_ticket_type(event, program, offer, pool, day, starts_at) for offer in program.offers]
        promo_code = self.add_promo_code(event, program, sales)
        closes = -canceled if canceled else -SOLD_OUT_DAYS_AGO if sold_out else day
        return Show(event, day, closes, canceled, starts_at, sales, promo_code)

    def record(self, event: int, action: str, subject: str, **fields: Any) -> None:
        """An entry of what an admin made for the event."""
        told = {name: [None, value] for name, value in fields.items() if value}
        self.rows.record(CREATED_DAYS_AGO, self.people.staff[0], action, subject, event, **told)

    def add_ticket_type(
        self, event: int, program: Program, offer: Offer, pool: int | None, day: int, starts_at: datetime
    ) -> Sale:
        name, price, places, opens, closes, hidden = offer
        start, end = (sql_time(starts_at - timedelta(days=days)) if days else None for days in (opens, closes))
        id = self.rows.add("ticket_types", event, name, price, places, 10, start, end, hidden, pool)
        return Sale(
            id, name, price, day - (opens or math.inf) + 1, day - closes - 1, hidden, promo_price(program, offer)
        )

    def add_promo_code(self, event: int, program: Program, sales: Sequence[Sale]) -> int | None:
        if program.code is None:
            return None
        code, percent, amount, max_uses, unlocks = program.code
        id = self.rows.add("promo_codes", event, code, caseless(code), percent, amount, max_uses, unlocks)
        for sale in sales if unlocks else ():
            if sale.hidden:
                self.rows.join("promo_code_types", id, sale.id)
        self.record(event, "promo_code.created", f"promo_code:{id}", **program.code._asdict())
        return id


def promo_price(program: Program, offer: Offer) -> int | None:
    """What the offer costs with the event's promo code, if there is one and it is for it."""
    code = program.code
    if code is None or code.unlocks != offer.hidden:
        return None
    return PromoCode(percent=code.percent, amount=code.amount).price_of(offer.price)


class Orders:
    """Orders in the order of time, the closer to now the more there are, with what became of them."""

    def __init__(self, rows: Rows, people: People, events: Events, many: int) -> None:
        self.rows, self.people, self.events, self.many = rows, people, events, many
        self.random = rows.random
        self.hold = current_app.config["ORDER_HOLD_SECONDS"] / 86_400
        self.currency = current_app.config["CURRENCY"]
        self.numbers: dict[int, count[int]] = defaultdict(lambda: count(1))  # of each buyer's orders
        names = [" ".join(name_of(number)[:2]) for number in range(len(FIRST_NAMES) * len(LAST_NAMES))]
        self.names = [(name, caseless(name)) for name in names]

    def add(self, number: int) -> None:
        """The order `number` in the order of time."""
        age = SALES_DAYS * (1 - number / self.many) ** 3
        show = self.choose_show(age)
        lines, promo_code = self.choose_lines(show, age)
        total = sum(line.price * line.quantity for line in lines)
        fate = self.choose_fate(number, age, total, show)
        lapse, settled = age - self.hold, age - min(age, self.hold) * self.random.random()
        changed = {"pending": age, "lapsed": age, "expired": lapse, "late": lapse, "refunded": min(1, settled / 2)}
        times = (self.rows.ago(days) for days in (lapse, age, changed.get(fate, settled)))
        buyers = self.people.buyers
        code, buyer = new_code(), buyers[int(len(buyers) * self.random.random() ** 1.5)]
        row = code, buyer, next(self.numbers[buyer]), show.id, STATES.get(fate, fate), total, self.currency, *times
        id = self.rows.add("orders", *row, promo_code)
        self.add_lines(id, lines, promo_code)
        if total and fate in PAYMENTS:
            by = self.add_payment(id, total, fate, lapse / 2 if fate == "late" else settled)
            if fate == "refunded":
                self.record_refund(code, by, total, show, lines, changed[fate])
        if fate in ("paid", "refunded"):
            self.add_tickets(id, buyer, show, lines, fate)

    def choose_show(self, age: float) -> Show:
        """Sooner events sell better. Orders keep a day from the end of sales, to be before it at any hour."""
        show = self.popular(self.events.shows)
        return show if 1 - age <= show.closes else self.popular(self.events.open)

    def popular(self, shows: Sequence[Show]) -> Show:
        return shows[int(len(shows) * self.random.random() ** 2)]

    def choose_lines(self, show: Show, age: float) -> tuple[list[Line], int | None]:
        """Lines of one or two ticket types, and the promo code, if they are bought with it."""
        knows_code = show.promo_code is not None and self.random.random() < WITH_CODE
        on_sale = [it for it in show.sales if it.first <= -age <= it.last and (knows_code or not it.hidden)]
        chosen = self.random.sample(on_sale, self.random.randint(1, min(2, len(on_sale))))
        reduced = [(it, it.promo_price if knows_code else None) for it in sorted(chosen)]
        lines = [Line(it, self.random.randint(1, 4), it.price if price is None else price) for it, price in reduced]
        return lines, show.promo_code if any(price is not None for _, price in reduced) else None

    def choose_fate(self, number: int, age: float, total: int, show: Show) -> str:
        if not total:
            return "paid"
        if age < 4 * self.hold:
            waiting = "pending" if age < self.hold else "lapsed"
            return waiting if number % 2 else "paid"
        return "refunded" if show.canceled else FATES[number % len(FATES)]

    def add_lines(self, order: int, lines: Sequence[Line], promo_code: int | None) -> None:
        for sale, quantity, price in lines:
            uses_promo = promo_code is not None and sale.promo_price is not None
            self.rows.add("order_items", order, sale.id, sale.name, quantity, price, uses_promo, sale.price - price)

    def add_payment(self, order: int, total: int, fate: str, age: float) -> int:
        """Add it, given back where the order is refunded, and say who took it."""
        method, by = self.random.choice(PAYMENT_METHODS), self.random.choice(self.people.staff)
        reference = None if method == "cash" else f"{method[:2].upper()}-{100_000 + order}"
        key = reference and comparable(reference)
        refunded, at = total if fate == "refunded" else 0, self.rows.ago(age)
        id = self.rows.add("payments", order, method, reference, key, total, PAYMENTS[fate], refunded, by, at)
        if refunded:
            code = new_code()
            self.rows.add("refunds", code, code, id, refunded, "succeeded", by, at, at, at)
        return by

    def record_refund(self, code: str, by: int, total: int, show: Show, lines: Sequence[Line], age: float) -> None:
        tickets = sum(line.quantity for line in lines)
        told: dict[str, list[Any]] = {
            "amount": [None, total],
            "tickets": [None, tickets],
            "status": ["paid", "refunded"],
        }
        self.rows.record(age, by, "order.refunded", f"order:{code}", show.id, **told)

    def add_tickets(self, order: int, buyer: int, show: Show, lines: Sequence[Line], fate: str) -> None:
        """The tickets of an order, the first one the buyer's own; most of those for events just past have been used."""
        for place, sale in enumerate(line.sale for line in lines for _ in range(line.quantity)):
            status = "valid" if fate == "paid" else "void"
            checked_in_at = None
            if status == "valid" and show.day < 0 and self.random.random() < USED:
                early = timedelta(minutes=self.random.randint(1, 45))
                status, checked_in_at = "used", sql_time(show.starts_at - early)
            name = self.random.choice(self.names) if place and self.random.random() < WITH_NAME else (None, None)
            self.rows.add("tickets", new_code(), order, show.id, buyer, sale.id, status, checked_in_at, *name)


class Season:
    """People, then events, then orders, written a batch at a time."""

    def __init__(
        self, seed: int, password: str, *, users: int, events: int, orders: int, accounts: dict[str, int]
    ) -> None:
        self.rows = Rows(seed, first_user=max(accounts.values(), default=0) + 1)
        self.people = People(self.rows, password, set(accounts))
        self.events = Events(self.rows, self.people, events)
        self.orders = Orders(self.rows, self.people, self.events, orders)
        self.parts = (self.people.add_buyer, users), (self.events.add, events), (self.orders.add, orders)

    def fill(self) -> Iterator[int]:
        """Make and write everything, and yield after each batch how much it was."""
        for add, wanted in self.parts:
            for start in range(0, wanted, ROWS_A_BATCH):
                numbers = range(start, min(start + ROWS_A_BATCH, wanted))
                for number in numbers:
                    add(number)
                self.rows.write()
                yield len(numbers)
