"""`flask demo`: an empty database becomes a season of events to play with, or a large one to measure with.

The rows go in the way the database takes them fastest, in one transaction: all of it or nothing. A seed gives the same
season each time, but for times, which follow the present, and for codes, stamps and the password, which nobody guesses.
"""

import csv
import io
import math
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import case, func, select, text, update

from models import (
    PAYMENT_METHODS,
    UNSYNCHRONIZED,
    Order,
    OrderLine,
    TicketType,
    User,
    caseless,
    comparable,
    db,
    hash_password,
    new_code,
    random_id,
)
from routes.commands.checks import checked
from routes.commands.evening import add_evening
from routes.http.faults import told_in_a_sentence
from routes.http.parsing import Password

ROWS_A_BATCH = 5000
SHOWN_LOGINS = 6
INVENTED = 2000
MOST_SOLD = 20_000  # events that orders are for, when there are many

# Days from now. Decisions are taken in these, so that they don't hang on the hour of the day.
SEASON_DAYS, PAST_DAYS, SALES_DAYS = 120, 7, 45
CANCELED_DAYS_AGO, SOLD_OUT_DAYS_AGO = 2, 1

TABLE_COLUMNS = {
    "users": "id name folded email password role active stamp created_at updated_at",
    "categories": "id name folded",
    "events": "id name description venue category_id status canceled_at starts_at ends_at duration version"
    " time_zone currency created_at updated_at",
    "ticket_types": "id event_id name price quantity max_per_order sales_start sales_end",
    "orders": "id code user_id number event_id status total currency expires_at created_at updated_at",
    "order_items": "id order_id ticket_type_id name quantity unit_price",
    "payments": "id order_id method reference reference_key amount status refunded taken_by created_at",
    "refunds": "id code key payment_id amount status requested_by created_at due_at settled_at",
    "tickets": "id code order_id event_id user_id ticket_type_id status checked_in_at",
}

STAFF = (
    ("Dana Whitlock", "admin", "admin"),
    ("Robin Castellan", "staff", "staff"),
    ("Sefa Lindqvist", "staff", "door"),
)
FIRST_NAMES, LAST_NAMES, MOODS = map(
    str.split,
    (
        "Amara Tomas Ines Kofi Yuki Noor Mateo Lena Ravi Zofia Idris Maeve Andrei Salma Piet Wanjiru Hana Luca",
        "Okafor Brandt Moreau Haddad Ito Nowak Silva Mbeki Larsen Petrov Quispe Byrne Kaplan Osei Virtanen Rao",
        "Midnight Golden Wandering Quiet Reckless Borrowed Northern Velvet Paper Electric Forgotten Salt-Water",
    ),
)

CATEGORY_IDS = {"Food": 1, "Music": 2, "Theatre": 3, "Family": 4, "Workshops": 5, "Talks": 6, "Sport": 7, "Film": 8}

# Name, percent of the event's price, percent of its places, and the days before the event that sales open and close.
OFFERS_BY_KIND = {
    "hall": (("Stalls", 100, 55, 0, 0), ("Balcony", 70, 35, 0, 0), ("Early bird", 80, 10, 0, 30)),
    "club": (("Regular", 100, 80, 0, 0), ("Last call", 60, 20, 3, 0)),
    "table": (("Seat", 100, 60, 0, 0), ("Seat with wine", 130, 40, 0, 0)),
    "family": (("Adult", 100, 60, 0, 0), ("Under 16", 0, 40, 0, 0)),
    "open": (("Free entry", 0, 85, 0, 0), ("Supporter", 100, 15, 0, 0)),
}

STATUSES = {7: "draft", 11: "canceled"}  # of every two hundred events; the others are published

# What becomes of orders, one after the other. A late one is paid after it has expired, a lapsed one is still pending.
FATES = ("paid", "paid", "paid", "expired", "paid", "paid", "canceled", "paid", "paid", "late", "paid", "refunded")
STATES = {"late": "expired", "lapsed": "pending"}
PAYMENTS = {"paid": "confirmed", "refunded": "refunded", "late": "refund_due"}

# Name | venue | category | begins | hours | price | places | offers, and a description. The last few are just past.
PROGRAM_ENTRIES = """\
Supper by Candlelight | Old Mill Cellar | Food | 19:00 | 3.5 | 6500 | 2 | table
Five courses at one long table, cooked in the open kitchen beside it. The menu follows the market and is read out,
never printed. Come hungry.

Strings at Dusk | Botanical Garden Pavilion | Music | 19:30 | 2 | 3200 | 180 | hall
A quartet plays night pieces while the glasshouses light up one by one. Blankets are lent at the gate. If it rains, we
move in among the palms.

The Lighthouse Keeper's Daughter | Harbour Theatre | Theatre | 20:00 | 2.5 | 4200 | 320 | hall
One actor, eleven characters and a storm that lasts the whole night. A new play, sung and spoken, about a letter that
came forty years late.

Paper Dragons | Riverside Arts Barn | Family | 10:30 | 2 | 900 | 60 | family
Fold it, paint it, make it fly. We bring the paper and the glue, you bring somebody between five and eleven. Every
dragon goes home with its maker.

Repair Saturday | Market Hall | Workshops | 11:00 | 5 | 1000 | 150 | open
Bring the toaster, the zip or the wobbly chair, and a volunteer mends it with you. Entry and coffee are free;
supporters pay for the spare parts.

Big Band, Small Room | The Boiler House | Music | 21:00 | 3 | 2400 | 140 | club
Seventeen players on a stage built for six. Two sets of swing, with a dance lesson before the first. There are chairs
for those who would rather listen.

How Rivers Remember | City Library, Reading Room | Talks | 18:30 | 1.5 | 800 | 90 | open
A hydrologist reads a valley like a diary: floods, mills, droughts and a bridge in the wrong place. Half an hour of
pictures, an hour of questions.

Voices Without Borders | St. Agnes Hall | Music | 20:00 | 2 | 2800 | 260 | hall
Four choirs in nine languages, each with a song the others had to learn. The last half hour is for everybody: the words
are on your seat.

Half Marathon Along the Dyke | Ferry Landing | Sport | 09:00 | 4 | 3500 | 800 | club
Twenty-one flat kilometres with the wind behind you, we hope. There is water every three, soup at the end and a train
back.

The Clockmaker's Circus | Fairground Big Top | Family | 16:00 | 2 | 2200 | 450 | family
A circus that is run by a clock, and the clock has stopped. Tightrope, tumbling and a great many hats, without a single
animal. From four to ninety-four.

Bread from Nothing | Community Kitchen | Workshops | 10:00 | 4 | 5500 | 16 | club
Flour, water, salt and time: a morning with sourdough. You shape two loaves, bake one here and take the other home to
rise. A jar of starter is included.

Night of the Short Film | Courtyard Cinema | Film | 21:30 | 2.5 | 1400 | 200 | club
Fourteen films, none longer than ten minutes, under the open sky. You vote with a pebble, and the jars are weighed at
midnight.

Electric Shadows | The Boiler House | Music | 22:00 | 4 | 1900 | 220 | club
Two synthesizers, one drum kit and a wall of slide projectors. It begins slowly and does not end that way. Earplugs are
free at the bar.

A Winter's Trial | Courtroom Number Two | Theatre | 19:30 | 2 | 3800 | 110 | hall
You are the jury. A case from 1911 is heard again in the room where it was lost, and every evening ends as you decide.

Stars over the Quarry | Quarry Observatory | Talks | 21:00 | 2 | 600 | 70 | family
Three telescopes, no lamps and somebody who knows the way. We start with the moon and work outwards. In cloud there is
cocoa and a talk on meteorites.

Letters We Never Sent | Harbour Theatre, Studio | Theatre | 20:00 | 1.5 | 2600 | 80 | club
Readers bring a letter they wrote and kept. A guitarist fills the silences, and there are some. Please leave your phone
in the cloakroom.

Derby under Lights | Westfield Stadium | Sport | 18:00 | 2 | 1800 | 3200 | family
The two oldest sides of the valley meet for the hundredth time. Last year it took extra time and a broken scoreboard.
The east stand is for families.

The Ink Fair | Market Hall | Workshops | 10:00 | 32 | 1200 | 600 | open
Two days of printers, binders and people who draw small things very well. Pull a print of your own on the hand press.
Supporters get the fair's poster.

Organ and Thunder | St. Agnes Hall | Music | 17:00 | 1.5 | 2000 | 300 | hall
The hall's organ turns one hundred and fifty and has just got its lowest pipes back. You will feel them before you hear
them.

Silent Film, Loud Piano | Courtyard Cinema | Film | 20:30 | 2 | 1600 | 180 | club
A chase, a wedding and a runaway tram, with a pianist who has not seen the film before either. Nobody knows how it will
sound. That is the point.

The Cartographer's Table | City Library, Reading Room | Talks | 19:00 | 1.5 | 700 | 90 | open
Maps that were wrong on purpose: trap streets, islands nobody found, borders drawn in hope. Originals are on the table,
and you may touch some.

Soup for a Hundred | Community Kitchen | Food | 17:30 | 3 | 1500 | 100 | family
We chop at half past five and eat at seven. Recipes come from the neighbours, and so do the spoons. Nobody leaves
without a second bowl.

Moonwalk for Beginners | Dance Loft | Workshops | 18:00 | 2 | 1700 | 30 | club
An evening of steps that look harder than they are. Wear socks that slide. No partner is needed, and the mirrors are
covered for the first hour.

The Understudies | Harbour Theatre | Theatre | 20:00 | 2.5 | 3900 | 320 | hall
The leading lady has missed her train and the curtain goes up in nine minutes. A comedy played at twice the usual
speed.

Songs from the Kitchen | Old Mill Cellar | Music | 20:00 | 2 | 2100 | 60 | club
Work songs, lullabies and one about a goat, sung as they were learned: over the washing-up. Two voices, a box of drums,
and soup.

Chess in the Park | Rose Garden | Sport | 14:00 | 4 | 500 | 64 | open
Forty boards under the lime trees and one master who plays them all at once. Beginners get a hint card. Supporters pay
for the cake.

Robots Made of Rubbish | Riverside Arts Barn | Family | 14:00 | 3 | 1100 | 40 | family
Old keyboards, bottle tops and small motors become something that walks. At four there is a race that no robot has ever
finished.

Glass and Fire | Harbour Glassworks | Workshops | 13:00 | 3 | 7800 | 12 | club
Blow one bowl with a master at your elbow. It is hot, it is quick, and it is different from what you meant. Your piece
cools overnight.

Festival of Small Boats | Ferry Landing | Family | 10:00 | 33 | 2500 | 1500 | family
Anything that floats and fits under the footbridge may take part. There is a regatta on the first day and a parade of
lights on the second.

What Bees Decide | Botanical Garden Pavilion | Talks | 18:00 | 1.5 | 900 | 120 | open
How ten thousand insects agree on a new home in an afternoon, and what a meeting might learn from it. There is honey to
taste afterwards.

Drums of the Delta | Fairground Big Top | Music | 19:00 | 3 | 3400 | 700 | hall
Three ensembles who usually play for weddings, floods and elections. Sitting is possible and rarely lasts. Doors open
an hour before.

Last Tango Before the Rain | Dance Loft | Music | 20:30 | 3 | 2200 | 110 | club
An orchestra of five, a floor of oak and a teacher for the first hour. Leaders and followers change as they please.
Soft soles, please.

The Long Table | Market Hall | Food | 18:00 | 4 | 4800 | 240 | table
Twelve cooks and sixty metres of linen. Each course comes from a different stove and is passed along by hand. Wine is
included, the washing-up is not.

Twelve Doors | Courtroom Number Two | Theatre | 19:30 | 2 | 3600 | 110 | hall
Behind each door somebody has waited for the same person. A play in twelve scenes whose order is drawn at the start of
the evening.

Snails, Stars and Other Spirals | City Library, Reading Room | Talks | 17:00 | 1 | 500 | 80 | family
An hour of mathematics that you can hold in your hand. Bring a pine cone. Children understand it first, so please don't
come without one.
"""

# What the events beyond these are put together from.
FORMS = (
    ("Supper", "Tasting", "Street Kitchen"),
    ("Serenade", "Quartet", "Dance Night", "Songbook"),
    ("Comedy", "Monologues", "Masquerade"),
    ("Puppet Show", "Parade", "Treasure Hunt"),
    ("Pottery Day", "Print Room", "Sketching Hour"),
    ("Lecture", "Debate", "Reading"),
    ("Relay", "Cup", "Regatta"),
    ("Double Bill", "Matinee", "Premiere"),
)
BEGINNINGS = (
    "It began as a wager between two neighbours and has come back every year since.",
    "Nobody who was there last time agrees on what happened, and all of them have booked again.",
    "A small cast, a large room and an idea that should not work.",
    "Made for this place and this evening, and never done quite like that before.",
)
MIDDLES = (
    "The doors open an hour early, and the best seats go to those who know that.",
    "There is one interval, which is longer than planned and better than it sounds.",
    "Beginners are welcome, and so are those who only want to watch.",
    "It takes place in any weather, for which we are sorry in advance.",
)
ENDINGS = (
    "Afterwards the bar stays open and the performers come out.",
    "Bring a friend who would never have come alone.",
    "The last tram waits for us.",
    "Please be on time: the beginning explains the rest.",
)

Offer = tuple[str, int, int, int, int]  # name, price, places, and the days before the event that sales open and close


class Program(NamedTuple):
    """What an event is made from. It begins and lasts so long after midnight."""

    name: str
    description: str
    venue: str
    category: int
    begins: timedelta
    length: timedelta
    offers: list[Offer]


class Sale(NamedTuple):
    """A ticket type and the days on which it is sold."""

    id: int
    name: str
    price: int
    first: float
    last: int


class Show(NamedTuple):
    """An event that orders are for, by days from now."""

    id: int
    day: int
    closes: int
    canceled: int | None
    starts_at: datetime
    sales: list[Sale]


Lines = list[tuple[Sale, int]]


def read_program(entry: str) -> Program:
    heading, description = entry.split("\n", 1)
    name, venue, category, begins, hours, price, places, offers = heading.split(" | ")
    hour, minute = begins.split(":")
    start, length = timedelta(hours=int(hour), minutes=int(minute)), timedelta(hours=float(hours))
    parts = [
        (offer, int(price) * percent // 100, max(1, int(places) * share // 100), opens, closes)
        for offer, percent, share, opens, closes in OFFERS_BY_KIND[offers]
    ]
    return Program(name, " ".join(description.split()), venue, CATEGORY_IDS[category], start, length, parts)


def invent(random: random.Random) -> Program:
    """A program put together from parts of others."""
    like = random.choice(PROGRAMS)
    name = f"{random.choice(MOODS)} {random.choice(FORMS[like.category - 1])}"
    description = f"{random.choice(BEGINNINGS)} {random.choice(MIDDLES)} {random.choice(ENDINGS)}"
    return like._replace(name=name, description=description, venue=random.choice(PROGRAMS).venue)


PROGRAMS = [read_program(entry) for entry in PROGRAM_ENTRIES.split("\n\n")]


class Season:
    """The rows of a season, made one event or order after the other and written a batch at a time."""

    def __init__(
        self, seed: int, password: str, *, users: int, events: int, orders: int, accounts: dict[str, int]
    ) -> None:
        self.random = random.Random(seed)
        self.now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        self.today = self.now.replace(hour=0, minute=0, second=0)
        self.hold = current_app.config["ORDER_HOLD_SECONDS"] / 86_400
        self.currency = current_app.config["CURRENCY"]
        self.local = current_app.config["TIME_ZONE"], self.currency
        self.ids = {table: count(1) for table in TABLE_COLUMNS} | {
            "users": count(max(accounts.values(), default=0) + 1)
        }
        self.taken = set(accounts)
        self.numbers: dict[int, count[int]] = defaultdict(lambda: count(1))  # of each buyer's orders
        self.rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLE_COLUMNS}
        self.written = 0
        self.programs = PROGRAMS + [invent(self.random) for _ in range(min(events - len(PROGRAMS), INVENTED))]
        self.users, self.events, self.past, self.orders = users, events, events // 10, orders
        self.shows: list[Show] = []  # what orders are for, in the order of time
        self.open: list[Show] = []  # what is still on sale
        self.created = self.ago(60)
        self.buyers: list[int] = []
        self.staff: list[int] = []
        self.logins: list[tuple[str, str]] = []
        self.password = hash_password(password)
        for name, role, address in STAFF:
            self.staff.append(self.add_user(name, role, f"{address}@example.com", 60))
        for name in CATEGORY_IDS:
            self.add("categories", name, name.casefold())

    def fill(self) -> Iterator[int]:
        """Make and write everything, and yield after each batch how much it was."""
        for add, wanted in ((self.add_buyer, self.users), (self.add_event, self.events), (self.add_order, self.orders)):
            for start in range(0, wanted, ROWS_A_BATCH):
                numbers = range(start, min(start + ROWS_A_BATCH, wanted))
                for number in numbers:
                    add(number)
                self.write()
                yield len(numbers)

    def add(self, table: str, *values: Any) -> int:
        id = next(self.ids[table])
        self.rows[table].append((id, *values))
        return id

    def write(self) -> None:
        for table, rows in self.rows.items():
            write(table, rows)
            self.written += len(rows)
            rows.clear()

    def ago(self, days: float) -> str:
        return sql_time(self.now - timedelta(days=days))

    def add_user(self, name: str, role: str, email: str, age: float) -> int:
        if email in self.taken:
            raise click.ClickException(f"There is an account with the address {email}, which the demo needs.")
        created = self.ago(age)
        if len(self.logins) < SHOWN_LOGINS:
            self.logins.append((email, role))
        return self.add("users", name, caseless(name), email, self.password, role, True, random_id(), created, created)

    def add_buyer(self, number: int) -> None:
        round, first = divmod(number, len(FIRST_NAMES))
        again, last = divmod(round, len(LAST_NAMES))
        name, surname = FIRST_NAMES[first], LAST_NAMES[(first + last) % len(LAST_NAMES)]
        email = f"{name}.{surname}{again or ''}@example.com".lower()
        self.buyers.append(self.add_user(f"{name} {surname}", "user", email, SALES_DAYS + 10 / (number + 1)))

    def add_event(self, number: int) -> None:
        """The event `number` in the order of time; the first tenth is past."""
        place = (number - self.past) % self.events  # in the season as it begins today
        program = self.programs[place % len(self.programs)]
        day = self.day(number - self.past)
        starts_at = self.today + timedelta(days=day) + program.begins
        status = STATUSES.get(place % 200, "published")
        canceled = max(CANCELED_DAYS_AGO, 1 - day) if status == "canceled" else None
        changed = self.ago(canceled) if canceled else self.created
        times = canceled and changed, sql_time(starts_at), sql_time(starts_at + program.length)
        counts = int(program.length.total_seconds()), 2 if canceled else 1
        id = self.add("events", *program[:4], status, *times, *counts, *self.local, self.created, changed)
        sales = [self.add_ticket_type(id, offer, day, starts_at) for offer in program.offers]
        if status != "draft" and number % max(1, self.events // MOST_SOLD) == 0:
            sold_out = place == 0 and self.events > 1
            closes = -canceled if canceled else -SOLD_OUT_DAYS_AGO if sold_out else day
            self.shows.append(Show(id, day, closes, canceled, starts_at, sales))
            if closes > 0:
                self.open.append(self.shows[-1])

    def day(self, place: int) -> int:
        if place < 0:
            return PAST_DAYS * (place + 1) // self.past - 1
        return SEASON_DAYS * place // (self.events - self.past) + 1

    def add_ticket_type(self, event: int, offer: Offer, day: int, starts_at: datetime) -> Sale:
        name, price, places, opens, closes = offer
        start, end = (sql_time(starts_at - timedelta(days=days)) if days else None for days in (opens, closes))
        id = self.add("ticket_types", event, name, price, places, 10, start, end)
        return Sale(id, name, price, day - (opens or math.inf) + 1, day - closes - 1)

    def add_order(self, number: int) -> None:
        """The order `number` in the order of time: the closer to now, the more there are."""
        age = SALES_DAYS * (1 - number / self.orders) ** 3
        show = self.choose_show(age)
        lines = self.choose_lines(show, age)
        total = sum(sale.price * quantity for sale, quantity in lines)
        fate = self.choose_fate(number, age, total, show)
        lapse, settled = age - self.hold, age - min(age, self.hold) * self.random.random()
        changed = {"pending": age, "lapsed": age, "expired": lapse, "late": lapse, "refunded": min(1, settled / 2)}
        times = self.ago(lapse), self.ago(age), self.ago(changed.get(fate, settled))
        code, buyer = new_code(), self.buyers[int(len(self.buyers) * self.random.random() ** 1.5)]
        row = code, buyer, next(self.numbers[buyer]), show.id, STATES.get(fate, fate), total, self.currency, *times
        id = self.add("orders", *row)
        for sale, quantity in lines:
            self.add("order_items", id, sale.id, sale.name, quantity, sale.price)
        if total and fate in PAYMENTS:
            self.add_payment(id, total, fate, lapse / 2 if fate == "late" else settled)
        if fate in ("paid", "refunded"):
            self.add_tickets(id, buyer, show, lines, fate)

    def choose_show(self, age: float) -> Show:
        """Sooner events sell better. Orders keep a day from the end of sales, to be before it at any hour."""
        show = self.popular(self.shows)
        return show if 1 - age <= show.closes else self.popular(self.open)

    def popular(self, shows: Sequence[Show]) -> Show:
        return shows[int(len(shows) * self.random.random() ** 2)]

    def choose_lines(self, show: Show, age: float) -> Lines:
        on_sale = [sale for sale in show.sales if sale.first <= -age <= sale.last]
        chosen = self.random.sample(on_sale, self.random.randint(1, min(2, len(on_sale))))
        return [(sale, self.random.randint(1, 4)) for sale in sorted(chosen)]

    def choose_fate(self, number: int, age: float, total: int, show: Show) -> str:
        if not total:
            return "paid"
        if age < 4 * self.hold:
            waiting = "pending" if age < self.hold else "lapsed"
            return waiting if number % 2 else "paid"
        return "refunded" if show.canceled else FATES[number % len(FATES)]

    def add_payment(self, order: int, total: int, fate: str, age: float) -> None:
        method, by = self.random.choice(PAYMENT_METHODS), self.random.choice(self.staff)
        reference = None if method == "cash" else f"{method[:2].upper()}-{100_000 + order}"
        key = reference and comparable(reference)
        refunded, at = total if fate == "refunded" else 0, self.ago(age)
        id = self.add("payments", order, method, reference, key, total, PAYMENTS[fate], refunded, by, at)
        if refunded:
            code = new_code()
            self.add("refunds", code, code, id, refunded, "succeeded", by, at, at, at)

    def add_tickets(self, order: int, buyer: int, show: Show, lines: Lines, fate: str) -> None:
        """The tickets of an order; most of those for events just past have been used."""
        for sale in (sale for sale, quantity in lines for _ in range(quantity)):
            status = "valid" if fate == "paid" else "void"
            checked_in_at = None
            if status == "valid" and show.day < 0 and self.random.random() < 0.85:
                early = timedelta(minutes=self.random.randint(1, 45))
                status, checked_in_at = "used", sql_time(show.starts_at - early)
            self.add("tickets", new_code(), order, show.id, buyer, sale.id, status, checked_in_at)


@lru_cache(maxsize=10_000)
def sql_time(moment: datetime) -> str:
    """A time in UTC as both databases read it."""
    return moment.isoformat(" ", "microseconds")


def on_postgresql() -> bool:
    return db.engine.dialect.name == "postgresql"


def write(table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    cursor: Any = db.session.connection().connection.cursor()
    columns = TABLE_COLUMNS[table].split()
    if on_postgresql():
        lines = io.StringIO()
        csv.writer(lines).writerows(rows)
        lines.seek(0)
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT csv)", lines)
    else:
        marks = ", ".join("?" * len(columns))
        cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def count_places() -> None:
    """Set what is sold and held from the orders. Where that is more than was on offer, it is sold out."""
    sold, held = (func.sum(case((Order.state == state, OrderLine.quantity), else_=0)) for state in ("paid", "pending"))
    taken = (
        select(OrderLine.ticket_type_id, sold.label("sold"), held.label("held"))
        .join(Order)
        .group_by(OrderLine.ticket_type_id)
        .subquery()
    )
    both = taken.c.sold + taken.c.held
    quantity = case((both > TicketType.quantity, both), else_=TicketType.quantity)
    counters = {"sold": taken.c.sold, "held": taken.c.held, "quantity": quantity}
    places = update(TicketType).where(TicketType.id == taken.c.ticket_type_id).values(counters)
    db.session.execute(places, execution_options=UNSYNCHRONIZED)


def finish() -> None:
    """Have the database know its new rows: where its ids go on, and how many there are of what."""
    for table in TABLE_COLUMNS:
        if on_postgresql():
            ids = f"setval(pg_get_serial_sequence('{table}', 'id'), max(id))"
            db.session.execute(text(f"SELECT {ids} FROM {table}"))
        db.session.execute(text(f"ANALYZE {table}"))


@click.command("demo")
@click.option("--events", default=len(PROGRAMS), show_default=True, type=click.IntRange(1))
@click.option("--users", default=40, show_default=True, type=click.IntRange(1), help="How many buyers.")
@click.option("--orders", default=300, show_default=True, type=click.IntRange(0))
@click.option("--seed", default=1, show_default=True, help="Another one gives another season.")
@click.option(
    "--password",
    default=lambda: secrets.token_urlsafe(9),
    callback=checked(Password()),
    help="For all; random unless given.",
)
@with_appcontext
@told_in_a_sentence()
def demo(events: int, users: int, orders: int, seed: int, password: str) -> None:
    """Fill a database that has no events with a season of them."""
    refuse_unless_empty()
    db.session.execute(text("SET LOCAL TIME ZONE 'UTC'" if on_postgresql() else "PRAGMA cache_size = -64000"))
    season = Season(seed, password, users=users, events=events, orders=orders, accounts=accounts())
    began = time.perf_counter()
    with click.progressbar(length=users + events + orders, label="Filling the database") as bar:
        for made in season.fill():
            bar.update(made)
    count_places()
    finish()
    current_app.config["SMTP_URL"] = ""  # nobody has these addresses
    add_evening(season.buyers, till=season.staff[1])
    db.session.commit()
    seconds = time.perf_counter() - began
    click.echo(f"{season.written:,} rows in {seconds:.1f} s, {season.written / seconds:,.0f} a second.")
    click.echo(f"Log in with the password {password} as")
    for email, role in season.logins:
        click.echo(f"  {email} ({role})")


def refuse_unless_empty() -> None:
    """Accounts, such as the first admin's, are in nobody's way."""
    found = {
        table: db.session.scalar(text(f"SELECT count(*) FROM {table}")) for table in TABLE_COLUMNS if table != "users"
    }
    there = [f"{rows:,} in {table}" for table, rows in found.items() if rows]
    if there:
        raise click.ClickException(f"A demo fills a database that has at most accounts. Here: {', '.join(there)}.")


def accounts() -> dict[str, int]:
    """The ids of the accounts that are there, by their addresses."""
    return dict(db.session.execute(select(User.email, User.id)).all())
