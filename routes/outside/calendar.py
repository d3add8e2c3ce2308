"""An event as an iCalendar file (RFC 5545), which calendars of all kinds take in.

Times are in UTC: each calendar shows them in its own zone, so no file needs to explain one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from routes.outside.formats import without_controls

MEDIA_TYPE = "text/calendar"
MOST_OCTETS = 75  # of a line, its end apart
ESCAPES = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})


@dataclass(frozen=True, kw_only=True)
class CalendarEvent:
    """What a calendar is told. `version` grows with each change, so that a newer file replaces an older one."""

    id: int
    version: int
    status: str
    name: str
    description: str
    venue: str
    starts_at: datetime
    ends_at: datetime
    updated_at: datetime


def calendar_file(event: CalendarEvent, host: str) -> str:
    """The file's text, lines ended by CRLF. The same `host` each time makes it the same event to a calendar."""
    status = "CANCELLED" if event.status == "canceled" else "CONFIRMED"
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Ticketing Application//EN",
        "BEGIN:VEVENT",
        f"UID:event-{event.id}@{host}",
        f"SEQUENCE:{event.version}",
        f"STATUS:{status}",
        f"DTSTAMP:{in_utc(event.updated_at)}",
        f"DTSTART:{in_utc(event.starts_at)}",
        f"DTEND:{in_utc(event.ends_at)}",
        f"SUMMARY:{escaped(event.name)}",
        f"LOCATION:{escaped(event.venue)}",
        f"DESCRIPTION:{escaped(event.description)}",
        "END:VEVENT",
        "END:VCALENDAR",
    ]
    return "".join(f"{folded(line)}\r\n" for line in lines)


def in_utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def escaped(text: str) -> str:
    """A text as a value: its line breaks become `\\n`, so no text can add a line to the file."""
    lines = (without_controls(line) for line in text.splitlines())
    return "\n".join(lines).translate(ESCAPES)


def folded(line: str) -> str:
    """The line in pieces of at most 75 octets, each but the first after a blank; no character is split."""
    pieces, size = [""], 0
    for character in line:
        octets = len(character.encode())
        if size + octets > MOST_OCTETS:
            pieces.append(" ")
            size = 1
        pieces[-1] += character
        size += octets
    return "\r\n".join(pieces)
