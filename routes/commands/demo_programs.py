"""What the events of `flask demo` are made from: names, places, texts, and what is sold for them."""

import random
from datetime import timedelta
from typing import NamedTuple

FIRST_NAMES, LAST_NAMES, MOODS = map(
    str.split,
    (
        "Amara Tomas Ines Kofi Yuki Noor Mateo Lena Ravi Zofia Idris Maeve Andrei Salma Piet Wanjiru Hana Luca",
        "Okafor Brandt Moreau Haddad Ito Nowak Silva Mbeki Larsen Petrov Quispe Byrne Kaplan Osei Virtanen Rao",
        "Midnight Golden Wandering Quiet Reckless Borrowed Northern Velvet Paper Electric Forgotten Salt-Water",
    ),
)

CATEGORY_IDS = {"Food": 1, "Music": 2, "Theatre": 3, "Family": 4, "Workshops": 5, "Talks": 6, "Sport": 7, "Film": 8}


class Offer(NamedTuple):
    """A ticket type of an event: its share of the event's price and places in percent, or what these come to.

    Sales open and close so many days before the event. A hidden one needs the event's promo code.
    """

    name: str
    price: int
    places: int
    opens: int = 0
    closes: int = 0
    hidden: bool = False


class Code(NamedTuple):
    """A promo code. One that unlocks is for the hidden offers, another one for all."""

    code: str
    percent: int | None = None
    amount: int | None = None
    max_uses: int | None = None
    unlocks: bool = False


class Kind(NamedTuple):
    """How an event is sold. The offers of a `shared` hall have a pool of all its places."""

    offers: tuple[Offer, ...]
    code: Code | None = None
    shared: bool = False


KINDS = {
    "hall": Kind(
        (Offer("Stalls", 100, 55), Offer("Balcony", 70, 35), Offer("Early bird", 80, 10, closes=30)),
        Code("SPRING15", percent=15),
    ),
    "club": Kind(
        (Offer("Regular", 100, 75), Offer("Last call", 60, 20, opens=3), Offer("Members", 80, 5, hidden=True)),
        Code("MEMBERS", unlocks=True),
    ),
    "table": Kind(
        (Offer("Seat", 100, 60), Offer("Seat with wine", 130, 40)),
        Code("SUPPER5", amount=500, max_uses=4),
    ),
    "family": Kind((Offer("Adult", 100, 100), Offer("Under 16", 0, 60)), shared=True),
    "open": Kind((Offer("Free entry", 0, 85), Offer("Supporter", 100, 15))),
}


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


class Program(NamedTuple):
    """What an event is made from. It begins and lasts so long after midnight."""

    name: str
    description: str
    venue: str
    category: int
    begins: timedelta
    length: timedelta
    places: int
    offers: list[Offer]
    code: Code | None
    shared: bool


def read_program(entry: str) -> Program:
    heading, description = entry.split("\n", 1)
    name, venue, category, begins, hours, price, places, kind = heading.split(" | ")
    hour, minute = begins.split(":")
    start, length = timedelta(hours=int(hour), minutes=int(minute)), timedelta(hours=float(hours))
    offers, code, shared = KINDS[kind]
    parts = [
        it._replace(price=int(price) * it.price // 100, places=max(1, int(places) * it.places // 100)) for it in offers
    ]
    told = " ".join(description.split())
    return Program(name, told, venue, CATEGORY_IDS[category], start, length, int(places), parts, code, shared)


def invent(random: random.Random) -> Program:
    """A program put together from parts of others."""
    like = random.choice(PROGRAMS)
    name = f"{random.choice(MOODS)} {random.choice(FORMS[like.category - 1])}"
    description = f"{random.choice(BEGINNINGS)} {random.choice(MIDDLES)} {random.choice(ENDINGS)}"
    return like._replace(name=name, description=description, venue=random.choice(PROGRAMS).venue)


PROGRAMS = [read_program(entry) for entry in PROGRAM_ENTRIES.split("\n\n")]
