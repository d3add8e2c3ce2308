"""Names, money and times as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from routes.outside.formats import local_period, local_time, money, one_line, person

EVENING = datetime(2026, 11, 22, 18, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (2500, "USD", "25.00 USD"),
        (5, "EUR", "0.05 EUR"),
        (0, "EUR", "0.00 EUR"),
        (123_456_789, "CHF", "1,234,567.89 CHF"),
        (1500, "JPY", "1,500 JPY"),
        (0, "KRW", "0 KRW"),
        (1_234_050, "KWD", "1,234.050 KWD"),
        (10**9 * 1000, "EUR", "10,000,000,000.00 EUR"),
    ],
)
def test_money_has_its_currencys_own_decimals(amount, currency, shown):
    assert money(amount, currency) == shown


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("Europe/Berlin", "Sunday, 22 November 2026, 19:30 (Europe/Berlin)"),
        ("Asia/Tokyo", "Monday, 23 November 2026, 03:30 (Asia/Tokyo)"),
        ("UTC", "Sunday, 22 November 2026, 18:30 (UTC)"),
    ],
)
def test_time_is_local_and_names_its_zone(zone, shown):
    assert local_time(EVENING, zone) == shown


def test_period_names_one_day_once():
    shown = local_period(EVENING, EVENING + timedelta(hours=3), "Europe/Berlin")
    assert shown == "Sunday, 22 November 2026, 19:30 to 22:30 (Europe/Berlin)"


def test_period_names_two_days():
    shown = local_period(EVENING, EVENING + timedelta(hours=6), "Europe/Berlin")
    assert shown == "Sunday, 22 November 2026, 19:30 to Monday, 23 November 2026, 01:30 (Europe/Berlin)"


@pytest.mark.parametrize("name", ["王小明", "محمد", "Łukasz", "Zoë 👩‍👩‍👧", 'Ann "Bo" O\'Neil', "नेहा", "‏דוד"])
def test_names_stay_as_they_are(name):
    assert one_line(name) == person(name) == name


@pytest.mark.parametrize(
    "text",
    ["Ann\r\nBo", "Ann\nBo", "Ann\u2028Bo", "Ann\x00\x1b Bo", "Ann\ud800Bo", " Ann\tBo ", "Ann\u202e \u2066Bo\u2069"],
)
def test_text_is_on_one_line_and_reads_forward(text):
    assert one_line(text) == "Ann Bo"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Win at https://evil.example/x now", "Win at https:// evil. example/x now"),
        ("me@evil.example", "me@ evil. example"),
        ("J.R.R. Tolkien", "J. R. R. Tolkien"),
        ("Dr. Who", "Dr. Who"),
    ],
)
def test_name_holds_no_address_to_click_on(name, shown):
    assert person(name) == shown
