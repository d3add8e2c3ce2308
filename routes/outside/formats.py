"""Names, money and times as people read them, in mails and on pages."""

import re
import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

# How many digits ISO 4217 gives a currency's minor unit, where it is not two.
UNUSUAL = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
DECIMALS = {currency: digits for digits, currencies in UNUSUAL.items() for currency in currencies.split()}

# Line breaks and the like, and what is left of a broken surrogate pair, which no encoding can write.
CONTROLS = {"Cc", "Zl", "Zp", "Cs"}
# Characters that turn the direction of what stands after them, so that a text looks like another one.
TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def without_controls(text: str) -> str:
    return "".join(" " if unicodedata.category(character) in CONTROLS else character for character in text)


def one_line(text: str) -> str:
    """The text on one line, reading in the order in which it is written."""
    return " ".join(without_controls(text).translate(TURNING).split())


def person(name: str) -> str:
    """Somebody's name, in which no mail program finds an address to make a link of: anybody may call himself one."""
    return re.sub(r"(://|[.@])(?=\w)", r"\1 ", one_line(name))


def money(amount: int, currency: str) -> str:
    """An amount in minor units, with its currency's own decimals: `1,234.50 USD`, `500 JPY`."""
    decimals = DECIMALS.get(currency, 2)
    whole, rest = divmod(amount, 10**decimals)
    return f"{whole:,}.{rest:0{decimals}} {currency}" if decimals else f"{whole:,} {currency}"


def local_day(time: datetime, time_zone: str) -> str:
    local = time.astimezone(ZoneInfo(time_zone))
    return f"{local:%A}, {local.day} {local:%B %Y}"


def local_time(time: datetime, time_zone: str) -> str:
    """`Sunday, 22 November 2026, 19:30 (Europe/Berlin)`."""
    return f"{local_day(time, time_zone)}, {time.astimezone(ZoneInfo(time_zone)):%H:%M} ({time_zone})"


def local_period(starts_at: datetime, ends_at: datetime, time_zone: str) -> str:
    """From when to when, with the day named once where it is the same one."""
    zone = ZoneInfo(time_zone)
    start, end = starts_at.astimezone(zone), ends_at.astimezone(zone)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{local_day(ends_at, time_zone)}, {end:%H:%M}"
    return f"{local_day(starts_at, time_zone)}, {start:%H:%M} to {until} ({time_zone})"
