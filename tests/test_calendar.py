"""The calendar file of an event, as a calendar program reads it."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import icalendar
import pytest

from routes.outside.calendar import CalendarEvent, calendar_file, folded

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 7, 10, 20, 0, tzinfo=BERLIN)
EVENT = CalendarEvent(
    id=7,
    version=3,
    status="published",
    name="Concert",
    description="Music",
    venue="Hall",
    starts_at=START,
    ends_at=START.replace(hour=23),
    updated_at=datetime(2026, 5, 1, 9, 0, tzinfo=UTC),
)
TEXTS = (
    "Łukasz; Émile, \\n 王小明",
    "محمد 🎷 " * 20,
    "a\nb\r\nc",
    "END:VEVENT",
    'quote " colon : semi ;',
)


def read(event=EVENT):
    """The one event that a calendar program finds in the file."""
    (found,) = icalendar.Calendar.from_ical(calendar_file(event, "shop.example")).walk("VEVENT")
    return found


@pytest.fixture(params=["America/New_York", "Europe/Berlin", "UTC"])
def server_zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("month", "hour"), [(7, 18), (1, 19)])
def test_times_are_right_in_summer_and_winter_wherever_the_server_is(server_zone, month, hour):
    found = read(replace(EVENT, starts_at=START.replace(month=month), ends_at=START.replace(month=month, hour=23)))
    assert found.start == datetime(2026, month, 10, hour, 0, tzinfo=UTC)
    assert found.start.astimezone(BERLIN).hour == 20
    assert found.end.astimezone(BERLIN).hour == 23


def test_says_which_event_in_which_version():
    found = read()
    assert (found["UID"], found["SEQUENCE"]) == ("event-7@shop.example", 3)


@pytest.mark.parametrize(("status", "shown"), [("published", "CONFIRMED"), ("canceled", "CANCELLED")])
def test_says_whether_it_is_canceled(status, shown):
    assert read(replace(EVENT, status=status))["STATUS"] == shown


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("field", "shown"), [("name", "SUMMARY"), ("venue", "LOCATION"), ("description", "DESCRIPTION")]
)
def test_texts_come_out_as_they_are(field, shown, text):
    assert read(replace(EVENT, **{field: text}))[shown] == "\n".join(text.splitlines())


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x85", "\u2028", "\x0b", "\x0c"])
def test_no_text_adds_a_line(end):
    file = calendar_file(replace(EVENT, name=f"Concert{end}ATTENDEE:mailto:x@y.example"), "shop.example")
    assert not any(line.startswith("ATTENDEE") for line in file.splitlines())


def test_control_characters_stay_out():
    assert read(replace(EVENT, name="Con\x00cert\x07"))["SUMMARY"].split() == ["Con", "cert"]


@pytest.mark.parametrize("text", ["x" * 300, "é" * 300, "王" * 300, "🎷" * 300, "a" + "🎷" * 300])
def test_no_line_is_longer_than_75_octets_or_ends_within_a_character(text):
    lines = folded(f"SUMMARY:{text}").encode().split(b"\r\n")
    assert max(map(len, lines)) <= 75
    assert b"".join([lines[0], *(line[1:] for line in lines[1:])]).decode() == f"SUMMARY:{text}"


def test_every_line_ends_with_crlf():
    assert calendar_file(EVENT, "shop.example").count("\n") == calendar_file(EVENT, "shop.example").count("\r\n") == 15
