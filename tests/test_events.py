"""Events: what visitors find, what organizers put on, and two who do so at the same time."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from secrets import token_hex

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from models import EVENT_STATUSES, Event, Order, OrderLine, Ticket, TicketType, db
from routes.selling.catalogue import create_category, search_events

from .conftest import CAME_TO_NOTHING, COUNTS, ON_POSTGRESQL, order_body, together

LISTED = {"id", "name", "description", "venue", "poster", "status", "category"}
LISTED |= {"starts_at", "ends_at", "time_zone", "currency", "contact", "created_at", "updated_at"}
TICKET_TYPE = {"name": "Regular", "price": 2500, "quantity": 10}
NO_TIMES = [
    *("2026-11-22", "18:30:00Z", "20261122T183000Z", "2026-W47-7T18:30:00Z", "2026-11-22T18:30:00.Z", "1795372200"),
    *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00+00:01", "10000-01-01T00:00:00Z"),
    *("9999-12-31T23:59:59-00:01", "2026-11-22T18:30:00+24:00", "2026-11-22T18:30:00+02:60", "2026-11-22T18:30:00-"),
    *("2026-02-29T10:00:00Z", "2100-02-29T10:00:00Z", "2026-04-31T10:00:00Z", "2026-13-01T10:00:00Z"),
    *("2026-12-31T23:59:60Z", "2026-11-22T25:00:00Z", "2026-11-22T18:60:00Z", "2026-11-22T18:30:00Z\0"),
]
TIMES = {
    "2026-11-22T18:30:00Z": "2026-11-22T18:30:00Z",
    "2026-11-22t18:30:00z": "2026-11-22T18:30:00Z",
    "2026-11-22 18:30Z": "2026-11-22T18:30:00Z",
    "2026-11-22T18:30:00.999999999Z": "2026-11-22T18:30:00Z",
    "2026-11-22T18:30:00,5+02:00": "2026-11-22T16:30:00Z",
    "2026-11-22T18:30:00+02": "2026-11-22T16:30:00Z",
    "2026-12-31T23:59:59-23:59": "2027-01-01T23:58:59Z",
    "2028-02-29T00:00:00+0530": "2028-02-28T18:30:00Z",
    "2028-03-01T00:30:00+01:00": "2028-02-29T23:30:00Z",
    "1970-01-01T00:00:00Z": "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:58Z": "9999-12-31T23:59:58Z",
}
NO_URLS = [
    *("x", "ftp://x.example/a", "javascript:alert(1)", "data:image/png;base64,AA", "//x.example/a", "https:/x.example"),
    *(
        "http://",
        "http:///a",
        "http://:80",
        "http://x:0",
        "http://x:65536",
        "http://[::1",
        "http://x y",
        "http://x/\r\nA: b",
        "http://x/\u2028y",
    ),
    "https://x.example/" + "a" * 2000,
]


def iso(**ago):
    return f"{datetime.now(UTC) - timedelta(**ago):%Y-%m-%dT%H:%M:%SZ}"


def past(**ago):
    """Fields of an event of two hours that began this long ago."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(**ago)
    return {"starts_at": start, "ends_at": start + timedelta(hours=2)}


def ids(answer):
    assert answer.status_code == 200, answer.get_json()
    return [row["id"] for row in answer.get_json()]


def wrong(answer):
    """The fields that a 400 names."""
    return answer.status_code == 400 and list(answer.get_json()["message"])


@pytest.fixture
def headers(request, make_user):
    """The headers of somebody with the role that the test names, None for nobody."""
    return make_user(request.param).headers if request.param else {}


@pytest.fixture
def category(app):
    with app.app_context():
        category = create_category("Music")
        db.session.commit()
        return category.to_dict()


@pytest.fixture
def concert(category):
    """The fields of a new event."""
    usual = {"name": "Concert", "description": "Music", "venue": "Hall", "category_id": category["id"]}
    return usual | {"starts_at": "2026-11-22T18:30:00Z", "ends_at": "9999-12-31T23:59:59Z"}


@pytest.fixture
def post(client, admin, concert):
    """Put an event on as an admin does, with these fields instead of the usual ones, and return the response."""
    return lambda **fields: client.post("/events", json=concert | fields, headers=admin.headers)


@pytest.fixture
def patch(client, admin):
    """Change an event as an admin does, and return the response."""
    return lambda id, /, **fields: client.patch(f"/events/{id}", json=fields, headers=admin.headers)


class TestGetEvents:
    def test_shows_published_events_as_promised(self, client, make_event, category):
        start = datetime(2050, 2, 3, 4, 5, 6, tzinfo=UTC)
        times = {"starts_at": start, "ends_at": start + timedelta(hours=1)}
        id = make_event(name="Gig", venue="Bar", poster="https://x.example/a.png", category_id=category["id"], **times)
        [found] = client.get("/events").get_json()
        assert set(found) == LISTED
        assert (found["id"], found["category"], found["poster"]) == (id, category, "https://x.example/a.png")
        assert (found["starts_at"], found["ends_at"]) == ("2050-02-03T04:05:06Z", "2050-02-03T05:05:06Z")

    def test_is_sorted_by_start_then_id(self, client, make_event):
        late, early, twin = make_event(), make_event(**past(hours=1)), make_event()
        assert ids(client.get("/events")) == [early, *sorted([late, twin])]

    def test_leaves_out_what_is_over_and_shows_what_runs(self, client, make_event):
        make_event(**past(hours=2)), make_event(**past(days=400))
        exhibition = make_event(**past(days=300) | {"ends_at": datetime.now(UTC) + timedelta(minutes=1)})
        assert ids(client.get("/events")) == [exhibition]

    def test_an_event_of_ages_hides_nothing(self, client, make_event):
        forever = make_event(starts_at=datetime(1970, 1, 1, tzinfo=UTC), ends_at=datetime(9999, 12, 31, tzinfo=UTC))
        soon = make_event()
        assert ids(client.get("/events")) == [forever, soon]

    @pytest.mark.parametrize("headers", [None, "user", "staff"], indirect=True)
    @pytest.mark.parametrize("status", ["draft", "canceled", "published", "lost", ""])
    def test_status_is_ignored_from_others(self, client, make_event, headers, status):
        shown = make_event()
        make_event(status="draft"), make_event(status="canceled")
        assert ids(client.get(f"/events?status={status}", headers=headers)) == [shown]

    @pytest.mark.parametrize("status", ["draft", "canceled", "published"])
    def test_admin_sees_a_status(self, client, make_event, admin, status):
        made = {status: make_event(status=status) for status in EVENT_STATUSES}
        assert ids(client.get(f"/events?status={status}", headers=admin.headers)) == [made[status]]

    def test_admin_sees_published_ones_unless_said(self, client, make_event, admin):
        shown = make_event()
        make_event(status="draft"), make_event(status="canceled")
        assert ids(client.get("/events", headers=admin.headers)) == [shown]

    def test_filters_by_category(self, client, make_event, category):
        make_event()
        wanted = make_event(category_id=category["id"])
        assert ids(client.get(f"/events?category={category['id']}")) == [wanted]
        assert ids(client.get("/events?category=2147483647")) == []

    def test_from_and_to_are_bounds_of_the_start(self, client, make_event):
        starts = [datetime(2050, 1, day, 12, tzinfo=UTC) for day in range(1, 6)]
        made = [make_event(starts_at=start, ends_at=start + timedelta(hours=1)) for start in starts]
        bounds = {"from": "2050-01-02T14:00:00+02:00", "to": "2050-01-04T12:00:00Z"}
        assert ids(client.get("/events", query_string=bounds)) == made[1:4]
        exact = {"from": "2050-01-02T12:00:00.5Z", "to": "2050-01-04T11:59:59.999999Z"}
        assert ids(client.get("/events", query_string=exact)) == [made[2]]

    def test_from_replaces_not_over_yet(self, client, make_event):
        over = make_event(**past(days=10))
        make_event(**past(days=30))
        coming = make_event()
        assert ids(client.get("/events", query_string={"from": iso(days=20)})) == [over, coming]

    def test_to_alone_keeps_not_over_yet(self, client, make_event):
        make_event(**past(days=10)), make_event()
        running = make_event(**past(hours=1))
        assert ids(client.get("/events", query_string={"to": iso()})) == [running]


class TestSearch:
    @pytest.fixture
    def found(self, client, make_event):
        """Whether a search finds an event with these words in it, and one that has none of them."""
        make_event(name="Nothing", venue="Nowhere", description="None")

        def search(q, **fields):
            id = make_event(**fields)
            answer = ids(client.get("/events", query_string={"q": q}))
            assert answer in ([], [id])
            return answer == [id]

        return search

    @pytest.mark.parametrize("field", ["name", "venue", "description"])
    @pytest.mark.parametrize("q", ["jazz", "JAZZ", "aZz", " jazz "])
    def test_finds_a_word_anywhere_in_any_case(self, found, field, q):
        assert found(q, **{field: "The bigJazzband"})

    def test_every_word_must_be_there_wherever(self, found):
        fields = {"name": "Summer Jazz", "venue": "Old Harbour", "description": "Bring a friend"}
        assert found("harbour jazz friend", **fields)
        assert not found("harbour jazz enemy", **fields)

    @pytest.mark.parametrize(
        "q", ["100%", "a_b", r"a\b", r"\%", "it's", '"quoted"', "a/b", "--", ";", "%", "_", "\\", "/"]
    )
    def test_signs_are_plain_text(self, found, q):
        assert not found(q, name="100 aXb")
        assert found(q, name=r"""100% a_b a\b \% it's "quoted" a/b -- ;""")

    @pytest.mark.parametrize("q", ["Ópera", "日本", "🎷"])
    def test_finds_other_scripts(self, found, q):
        assert found(q, name=f"Gran {q} Nacional")

    @pytest.mark.parametrize("q", ["Caf\u00e9", "Cafe\u0301"])
    @pytest.mark.parametrize("name", ["Caf\u00e9", "Cafe\u0301"])
    def test_finds_a_letter_however_it_was_typed(self, client, post, name, q):
        id = post(name=name, status="published").get_json()["id"]
        assert ids(client.get("/events", query_string={"q": q})) == [id]


class TestPostEvents:
    def test_makes_a_draft(self, post, category, context):
        answer = post(name="  Gig ", poster="https://x.example/a.png?b=c")
        made = db.session.scalars(db.select(Event)).one()
        assert (answer.status_code, answer.headers["Location"]) == (201, f"/events/{made.id}")
        body = answer.get_json()
        assert set(body) == LISTED | {"ticket_types"}
        assert (body["name"], body["status"], body["category"], made.name) == ("Gig", "draft", category, "Gig")
        assert body["poster"] == made.poster == "https://x.example/a.png?b=c"

    @pytest.mark.parametrize("status", EVENT_STATUSES)
    def test_takes_a_status(self, post, status):
        assert post(status=status).get_json()["status"] == status

    def test_poster_may_be_null(self, post):
        assert post(poster=None).get_json()["poster"] is None

    @pytest.mark.parametrize("field, longest", [("name", 200), ("venue", 200), ("description", 10_000)])
    def test_texts_have_a_longest(self, post, field, longest):
        assert post(**{field: " " + "é" * longest}).status_code == 201
        assert wrong(post(**{field: "é" * (longest + 1)})) == [field]

    def test_unknown_category_is_named(self, post, context):
        assert wrong(post(category_id=2**31 - 1)) == ["category_id"]
        assert set(wrong(post(category_id=2**31 - 1, ends_at="2026-11-22T18:30:00Z"))) == {"category_id", "ends_at"}
        assert db.session.scalars(db.select(Event)).all() == []

    def test_no_address_is_named(self, post):
        assert {text: wrong(post(poster=text)) for text in NO_URLS} == dict.fromkeys(NO_URLS, ["poster"])

    def test_times_are_kept_in_utc(self, post, client, admin):
        made = [post(starts_at=time).headers["Location"] for time in TIMES]
        kept = [client.get(path, headers=admin.headers).get_json()["starts_at"] for path in made]
        assert kept == list(TIMES.values())

    def test_no_time_is_named(self, post):
        assert {time: wrong(post(starts_at=time)) for time in NO_TIMES} == dict.fromkeys(NO_TIMES, ["starts_at"])

    def test_midnight_as_24_is_right_or_named(self, post):
        """Python reads it from 3.14 on."""
        answer = post(starts_at="2026-11-22T24:00:00Z")
        assert wrong(answer) == ["starts_at"] or answer.get_json()["starts_at"] == "2026-11-23T00:00:00Z"

    @pytest.mark.parametrize("end", ["2026-11-22T18:30:00Z", "2026-11-22T18:30:00.9Z", "2026-11-22T18:30:01+00:01"])
    def test_ends_after_it_starts(self, post, end):
        assert wrong(post(ends_at=end)) == ["ends_at"]


class TestWithTicketTypes:
    def test_are_those_of_the_event(self, client, make_event, make_ticket_type):
        first, second, without = make_event(), make_event(), make_event()
        make_ticket_type(second), make_ticket_type(first), make_ticket_type(second)
        listed = {event["id"]: event for event in client.get("/events?include=ticket_types").get_json()}
        assert listed == {id: client.get(f"/events/{id}").get_json() for id in (first, second, without)}

    def test_are_not_there_unless_asked_for(self, client, make_ticket_type):
        make_ticket_type()
        assert set(client.get("/events").get_json()[0]) == LISTED

    @pytest.mark.parametrize("count", [0, 1, 4])
    def test_take_one_statement_more_however_many_there_are(
        self, client, statements, make_event, make_ticket_type, count
    ):
        for _ in range(count):
            event = make_event()
            make_ticket_type(event), make_ticket_type(event)
        client.get("/events?include=ticket_types")
        plain = statements(lambda: client.get("/events?limit=3"))
        assert len(statements(lambda: client.get("/events?limit=3&include=ticket_types"))) == len(plain) + 1

    def test_nothing_else_is_included(self, client):
        assert wrong(client.get("/events?include=orders")) == ["include"]


class TestPagesWithFilters:
    """All filters hold on every page, whatever cursor comes with them."""

    @pytest.fixture
    def cursor(self, client, make_event):
        """The cursor behind the first of two events in 2050."""
        for day in (1, 2):
            make_event(starts_at=datetime(2050, 1, day, tzinfo=UTC), ends_at=datetime(2051, 1, 1, tzinfo=UTC))
        link = client.get("/events?from=2050-01-01T00:00:00Z&limit=1").headers["Link"]
        return re.search("after=(\\w+)", link)[1]

    @pytest.mark.parametrize(
        "filters",
        ["from=2060-01-01T00:00:00Z", "to=2049-01-01T00:00:00Z", "category=2147483647", "q=nowhere", "status=draft"],
    )
    def test_hold_with_a_cursor_from_elsewhere(self, client, admin, cursor, filters):
        path = "/events?from=2040-01-01T00:00:00Z&" if "from" not in filters else "/events?"
        assert ids(client.get(f"{path}{filters}&after={cursor}", headers=admin.headers)) == []

    def test_from_behind_the_cursor_begins_the_list(self, client, make_event, cursor):
        later = [make_event(starts_at=datetime(2060, 1, 1, tzinfo=UTC), ends_at=datetime(2061, 1, 1, tzinfo=UTC))]
        assert ids(client.get(f"/events?from=2060-01-01T00:00:00Z&after={cursor}")) == later


class TestSeveralStatuses:
    @pytest.fixture
    def made(self, make_event):
        start = datetime(2050, 1, 1, tzinfo=UTC)
        times = [{"starts_at": start + timedelta(days=day), "ends_at": start + timedelta(days=9)} for day in range(6)]
        statuses = ("draft", "published", "canceled") * 2
        return [make_event(status=status, **at) for status, at in zip(statuses, times, strict=True)]

    def test_are_one_list(self, client, admin, made):
        answer = client.get("/events?status=draft,published,draft", headers=admin.headers)
        assert ids(answer) == [made[0], made[1], made[3], made[4]]

    def test_come_in_pages(self, client, admin, made):
        seen, path = [], "/events?status=published,canceled,draft&limit=2"
        while path:
            answer = client.get(path, headers=admin.headers)
            seen += ids(answer)
            path = answer.headers.get("Link", "").partition(">")[0][1:]
        assert seen == made

    @pytest.mark.parametrize("statuses", ["draft,", ",draft", "draft, published", "draft,gone", ","])
    def test_each_must_be_one(self, client, admin, statuses):
        assert wrong(client.get(f"/events?status={statuses}", headers=admin.headers)) == ["status"]


class TestDraft:
    PATHS = ["/events/{event}", "/events/{event}/ticket-types", "/ticket-types/{type}", "/events/{event}/attendees"]

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("headers", [None, "user", "staff"], indirect=True)
    def test_is_not_there_nor_what_is_below_it(self, client, make_event, make_ticket_type, headers, path):
        event = make_event(status="draft")
        answer = client.get(path.format(event=event, type=make_ticket_type(event)), headers=headers)
        assert answer.status_code in ((401, 403) if "attendees" in path and headers == {} else (403, 404))
        assert answer.status_code == 404 or "attendees" in path

    @pytest.mark.parametrize("path", PATHS)
    def test_is_there_for_admins(self, client, admin, make_event, make_ticket_type, path):
        event = make_event(status="draft")
        path = path.format(event=event, type=make_ticket_type(event))
        assert client.get(path, headers=admin.headers).status_code == 200


class TestGetEvent:
    def test_has_its_ticket_types(self, client, make_event, make_ticket_type):
        id = make_event()
        types = [make_ticket_type(id, name=name) for name in ("Regular", "Child")]
        make_ticket_type()
        found = client.get(f"/events/{id}").get_json()
        assert set(found) == LISTED | {"ticket_types"}
        assert [ticket_type["id"] for ticket_type in found["ticket_types"]] == types

    @pytest.mark.parametrize("headers", [None, "user", "staff", "admin"], indirect=True)
    @pytest.mark.parametrize("status", ["published", "canceled"])
    def test_anyone_sees_it_canceled_or_over(self, client, make_event, headers, status):
        id = make_event(status=status, **past(days=9))
        assert client.get(f"/events/{id}", headers=headers).get_json()["status"] == status

    @pytest.mark.parametrize(
        "headers, status", [(None, 404), ("user", 404), ("staff", 404), ("admin", 200)], indirect=["headers"]
    )
    def test_a_draft_is_there_for_admins_only(self, client, make_event, headers, status):
        assert client.get(f"/events/{make_event(status='draft')}", headers=headers).status_code == status


class TestPatchEvent:
    def test_changes_only_what_is_sent(self, client, patch, make_event):
        id = make_event(poster="https://x.example/a.png")
        before = client.get(f"/events/{id}").get_json()
        answer = patch(id, name=" Gig ", id=7, created_at="2020-01-01T00:00:00Z", version=9, canceled_at=None)
        after = client.get(f"/events/{id}").get_json()
        assert (answer.status_code, answer.get_json()) == (200, after)
        assert after == before | {"name": "Gig", "updated_at": after["updated_at"]}

    def test_changes_all(self, patch, make_event, concert, category):
        fields = concert | {"name": "Gig", "venue": "Bar", "poster": None, "status": "draft"}
        answer = patch(make_event(poster="https://x.example/a.png"), **fields).get_json()
        del fields["category_id"]
        assert answer | fields | {"category": category} == answer

    def test_nothing_sent_changes_nothing(self, client, patch, make_event):
        id = make_event()
        before = client.get(f"/events/{id}")
        assert patch(id).status_code == 200
        assert client.get(f"/events/{id}").headers["ETag"] == before.headers["ETag"]

    def test_unknown_category_is_named(self, patch, make_event, context):
        id = make_event()
        assert wrong(patch(id, category_id=2**31 - 1, name="x")) == ["category_id"]
        assert db.session.get(Event, id).name == "Concert"

    @pytest.mark.parametrize("fields", [{"ends_at": iso()}, {"starts_at": "9999-12-31T23:59:59Z"}])
    def test_the_whole_must_be_valid(self, client, patch, make_event, fields):
        id = make_event()
        before = client.get(f"/events/{id}").get_json()
        assert wrong(patch(id, **fields)) == ["ends_at"]
        assert client.get(f"/events/{id}").get_json() == before

    def test_canceled_again_keeps_its_moment(self, patch, make_event, context):
        id = make_event(status="canceled")
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        db.session.execute(db.update(Event).values(canceled_at=moment))
        db.session.commit()
        assert patch(id, status="canceled").status_code == 200
        assert db.session.scalar(db.select(Event.canceled_at)) == moment

    @pytest.mark.parametrize("status", ["draft", "published"])
    def test_canceled_is_final(self, patch, make_event, context, status):
        id = make_event(status="canceled")
        answer = patch(id, status=status)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "event_canceled")
        assert db.session.get(Event, id).status == "canceled"

    def test_a_canceled_event_can_still_be_described(self, patch, make_event):
        answer = patch(make_event(status="canceled"), status="canceled", description="Money back at the desk")
        assert (answer.status_code, answer.get_json()["description"]) == (200, "Money back at the desk")

    def test_canceled_sells_nothing(self, patch, make_event, make_ticket_type, place, buyer):
        id = make_event()
        ticket_type = make_ticket_type(id)
        assert patch(id, status="canceled").status_code == 200
        answer = place(buyer, ticket_type)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "not_on_sale")

    def test_back_to_draft_while_nobody_has_ordered(self, patch, make_event):
        assert patch(make_event(), status="draft").get_json()["status"] == "draft"

    @pytest.mark.parametrize("fate", CAME_TO_NOTHING)
    def test_back_to_draft_with_orders_that_came_to_nothing(self, patch, make_event, make_ticket_type, ordered, fate):
        id = make_event()
        ordered(make_ticket_type(id), fate)
        assert patch(id, status="draft").get_json()["status"] == "draft"

    def test_not_back_to_draft_with_orders(self, patch, make_event, make_ticket_type, place, buyer, context):
        id = make_event()
        place(buyer, make_ticket_type(id))
        answer = patch(id, status="draft")
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")
        assert db.session.get(Event, id).status == "published"


class TestCurrency:
    """An event has its own, whatever is configured later, from the first order on."""

    @pytest.fixture
    def shown(self, client):
        """The currencies of an event and its ticket types."""

        def read(id):
            found = client.get(f"/events/{id}").get_json()
            return [found["currency"], *(ticket_type["currency"] for ticket_type in found["ticket_types"])]

        return read

    def test_is_what_is_configured(self, app, post):
        app.config["CURRENCY"] = "KES"
        assert post().get_json()["currency"] == "KES"

    def test_is_what_is_sent(self, post):
        assert post(currency="EUR").get_json()["currency"] == "EUR"

    def test_stays_when_the_configuration_changes(self, app, make_event, make_ticket_type, shown):
        id = make_event()
        make_ticket_type(id)
        app.config["CURRENCY"] = "JPY"
        make_ticket_type(id)
        assert shown(id) == ["USD"] * 3

    @pytest.mark.parametrize("wrong", ["", "eur", "EURO", "EU", "€", " EUR", "ÄÖÜ", 1, True, None, ["EUR"]])
    def test_is_a_code_of_three_capitals(self, post, wrong):
        answer = post(currency=wrong)
        assert (answer.status_code, set(answer.get_json()["message"])) == (400, {"currency"})

    def test_changes_before_the_first_order(self, patch, make_event, make_ticket_type, shown):
        id = make_event()
        make_ticket_type(id)
        assert patch(id, currency="EUR").get_json()["currency"] == "EUR"
        assert shown(id) == ["EUR", "EUR"]

    @pytest.mark.parametrize("end", ["stays", "cancel", "lapse"])
    def test_is_fixed_from_the_first_order_on(
        self, buyer, lapse, place, patch, make_event, make_ticket_type, shown, end, cancel
    ):
        id = make_event()
        order = place(buyer, make_ticket_type(id)).get_json()
        if end == "cancel":
            cancel(order)
        if end == "lapse":
            lapse(order)
        answer = patch(id, currency="EUR", name="x")
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")
        assert shown(id) == ["USD", "USD"]

    def test_may_be_sent_as_it_is(self, buyer, place, patch, make_event, make_ticket_type):
        id = make_event()
        place(buyer, make_ticket_type(id))
        assert patch(id, currency="USD", name="x").status_code == 200


class TestTimeZone:
    def test_is_what_is_configured(self, app, post):
        app.config["TIME_ZONE"] = "Africa/Nairobi"
        assert post().get_json()["time_zone"] == "Africa/Nairobi"

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
    def test_is_what_is_sent(self, client, post, patch, zone):
        id = post(time_zone=zone, status="published").get_json()["id"]
        patch(id, name="x")
        assert client.get(f"/events/{id}").get_json()["time_zone"] == zone

    @pytest.mark.parametrize(
        "wrong",
        ["", "Berlin", "europe/berlin", "../etc/passwd", "/etc/localtime", "localtime", "Factory", "+01:00", 1, None],
    )
    def test_is_one_that_there_is(self, post, wrong):
        answer = post(time_zone=wrong)
        assert (answer.status_code, set(answer.get_json()["message"])) == (400, {"time_zone"})


class TestContact:
    def test_is_none_unless_sent(self, post):
        assert post().get_json()["contact"] is None

    def test_is_an_address_and_may_go_again(self, post, patch):
        made = post(contact="Box.Office@Example.com").get_json()
        assert made["contact"] == "box.office@example.com"
        assert patch(made["id"], contact=None).get_json()["contact"] is None

    @pytest.mark.parametrize("wrong", ["", "nobody", "a@b@c", 1, True, ["a@example.com"]])
    def test_is_no_other_text(self, post, wrong):
        answer = post(contact=wrong)
        assert (answer.status_code, set(answer.get_json()["message"])) == (400, {"contact"})


class TestDeleteEvent:
    def test_is_gone_with_its_ticket_types(self, client, admin, make_event, make_ticket_type, context):
        id, other = make_event(), make_event()
        make_ticket_type(id), make_ticket_type(id)
        kept = make_ticket_type(other)
        answer = client.delete(f"/events/{id}", headers=admin.headers)
        assert (answer.status_code, answer.data) == (204, b"")
        assert db.session.scalars(db.select(Event.id)).all() == [other]
        assert db.session.scalars(db.select(TicketType.id)).all() == [kept]

    @pytest.mark.parametrize("fate", COUNTS)
    def test_stays_with_an_order_that_counts(self, client, admin, make_event, make_ticket_type, ordered, fate):
        id = make_event()
        ordered(make_ticket_type(id), fate)
        answer = client.delete(f"/events/{id}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")
        assert len(client.get(f"/events/{id}").get_json()["ticket_types"]) == 1

    @pytest.mark.parametrize("fate", CAME_TO_NOTHING)
    def test_takes_along_orders_that_came_to_nothing(
        self, client, admin, make_event, make_ticket_type, ordered, context, fate
    ):
        id = make_event()
        ordered(make_ticket_type(id), fate)
        assert client.delete(f"/events/{id}", headers=admin.headers).status_code == 204
        left = [db.session.scalar(db.select(db.func.count()).select_from(it)) for it in (Order, OrderLine, Ticket)]
        assert left == [0, 0, 0]

    def test_leaves_the_orders_of_others(self, client, admin, make_event, make_ticket_type, ordered, context):
        id = make_event()
        ordered(make_ticket_type(id), "canceled"), ordered(make_ticket_type(), "canceled")
        client.delete(f"/events/{id}", headers=admin.headers)
        assert db.session.scalar(db.select(db.func.count(Order.id))) == 1


class TestIfNoneMatch:
    @pytest.fixture(params=["/events", "/categories", "/events/{id}"])
    def path(self, request, make_ticket_type, context):
        ticket_type = db.session.get(TicketType, make_ticket_type())
        return request.param.format(id=ticket_type.event_id)

    def test_who_has_it_gets_304(self, client, path):
        tag = client.get(path).headers["ETag"]
        for tags in (tag, f"W/{tag}", "*", " * ", f'"x", {tag}', f'W/"x",{tag}', f'"", {tag}', f'"a,b" ,{tag},"c"'):
            answer = client.get(path, headers={"If-None-Match": tags})
            assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", tag), tags

    def test_others_get_it(self, client, path):
        tags = ["", '""', '"x"', "x", '"', 'W/"', ",,", '"x" "y"', "\xff"]
        answers = [client.get(path, headers={"If-None-Match": tag}) for tag in tags]
        assert all(answer.status_code == 200 and answer.get_json() for answer in answers)

    def test_another_answer_has_another_tag(self, client, path, make_event, patch, context):
        tag = client.get(path).headers["ETag"]
        patch(db.session.scalar(db.select(Event.id)), name="Gig")
        make_event()
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 200

    def test_is_for_this_reader_to_keep_and_ask_again(self, client, path):
        headers = client.get(path).headers
        assert set(headers["Cache-Control"].split(", ")) == {"private", "no-cache"}

    def test_a_sold_ticket_changes_the_tag(self, client, buyer, make_event, make_ticket_type, place):
        id = make_event()
        ticket_type = make_ticket_type(id)
        tag = client.get(f"/events/{id}").headers["ETag"]
        place(buyer, ticket_type)
        assert client.get(f"/events/{id}", headers={"If-None-Match": tag}).status_code == 200

    def test_a_new_link_changes_the_tag(self, client, make_event):
        make_event()
        tag = client.get("/events?limit=1").headers["ETag"]
        make_event()
        assert client.get("/events?limit=1", headers={"If-None-Match": tag}).status_code == 200

    def test_304_has_the_link_to_the_next_page(self, client, make_event):
        make_event(), make_event()
        full = client.get("/events?limit=1")
        answer = client.get("/events?limit=1", headers={"If-None-Match": full.headers["ETag"]})
        assert (answer.status_code, answer.headers["Link"]) == (304, full.headers["Link"])

    def test_if_match_of_anything_holds(self, client, path):
        assert client.get(path, headers={"If-Match": "*"}).status_code == 200

    def test_a_failed_if_match_is_an_error_like_any(self, client, path):
        answer = client.get(path, headers={"If-Match": '"x"'})
        assert (answer.status_code, list(answer.get_json())) == (412, ["message"])


class TestIfMatch:
    @pytest.fixture
    def id(self, make_event):
        return make_event()

    @pytest.fixture
    def rename(self, client, admin, id):
        """Name the event Gig if it matches, and return the response."""

        def patch(tags):
            headers = {**admin.headers, "If-Match": tags}
            return client.patch(f"/events/{id}", json={"name": "Gig"}, headers=headers)

        return patch

    @pytest.mark.parametrize(
        "tags", ["{}", "*", "W/{}", '"x", {}', '{},W/"y"', '"", {}', '"a,b" , {}', '"x", ' * 5000 + "{}"]
    )
    def test_the_version_read_may_be_changed(self, client, id, rename, tags):
        tag = client.get(f"/events/{id}").headers["ETag"]
        assert rename(tags.format(tag)).status_code == 200
        assert client.get(f"/events/{id}").get_json()["name"] == "Gig"

    @pytest.mark.parametrize("tags", ["{}", '{}, "x"'])
    def test_an_older_version_may_not(self, client, id, patch, rename, tags):
        tag = client.get(f"/events/{id}").headers["ETag"]
        patch(id, venue="Bar")
        answer = rename(tags.format(tag))
        assert (answer.status_code, answer.get_json()["reason"]) == (412, "outdated")
        assert client.get(f"/events/{id}").get_json()["name"] == "Concert"

    def test_a_foreign_tag_names_no_version(self, client, id, rename):
        tags = ["", '""', "x", '"x"', '"', ",", '"None-"', '"-"', "\xff"]
        assert {tag: rename(tag).status_code for tag in tags} == dict.fromkeys(tags, 412)
        assert client.get(f"/events/{id}").get_json()["name"] == "Concert"

    def test_sold_tickets_are_no_new_version(self, client, id, rename, make_ticket_type, place, buyer):
        ticket_type = make_ticket_type(id)
        tag = client.get(f"/events/{id}").headers["ETag"]
        place(buyer, ticket_type)
        assert rename(tag).status_code == 200

    def test_of_two_at_once_one_is_told(self, app, client, admin, id):
        headers = {**admin.headers, "If-Match": client.get(f"/events/{id}").headers["ETag"]}
        answers = together(app, *[("PATCH", f"/events/{id}", {"venue": f"Hall {n}"}, headers) for n in range(4)])
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
        [kept] = [answer.get_json()["venue"] for answer in answers if answer.status_code == 200]
        assert client.get(f"/events/{id}").get_json()["venue"] == kept


class TestTogether:
    @pytest.mark.parametrize(
        "path, count", [("/events/{event}", 1), ("/events/{event}", 2), ("/ticket-types/{type}", 2)]
    )
    def test_what_goes_while_it_is_ordered_is_gone_or_sold(
        self, app, admin, make_user, make_event, make_ticket_type, context, path, count
    ):
        people = [make_user() for _ in range(3)]
        for _ in range(3):
            id = make_event()
            types = [make_ticket_type(id) for _ in range(count)]
            body = order_body(*((type, 1) for type in types))
            orders = [("POST", "/orders", body, user.headers) for user in people]
            delete = "DELETE", path.format(event=id, type=types[-1]), None, admin.headers
            *placed, deleted = [answer.status_code for answer in together(app, *orders, delete)]
            assert (deleted, set(placed)) in [(204, {404}), (409, {201}), (409, {201, 404})]
            kept = db.session.scalars(db.select(Order.id).where(Order.event_id == id)).all()
            assert len(kept) == placed.count(201)

    @pytest.mark.parametrize("count", [1, 2])
    def test_what_becomes_a_draft_while_it_is_ordered_is_a_draft_or_sold(
        self, app, admin, make_user, make_event, make_ticket_type, context, count
    ):
        people = [make_user() for _ in range(3)]
        for _ in range(10):
            id = make_event()
            body = order_body(*((make_ticket_type(id), 1) for _ in range(count)))
            orders = [("POST", "/orders", body, user.headers) for user in people]
            draft = "PATCH", f"/events/{id}", {"status": "draft"}, admin.headers
            *placed, changed = [answer.status_code for answer in together(app, *orders, draft)]
            assert (changed, set(placed)) in [(200, {404}), (409, {201})]

    def test_a_category_goes_while_events_are_made(self, app, admin, concert, context):
        for n in range(3):
            category = create_category(f"Category {n}")
            db.session.commit()
            make = "POST", "/events", concert | {"category_id": category.id}, admin.headers
            delete = "DELETE", f"/categories/{category.id}", None, admin.headers
            first, deleted, second = [answer.status_code for answer in together(app, make, delete, make)]
            assert (deleted, {first, second}) in [(204, {400}), (409, {201}), (409, {201, 400})]


class TestMeanwhile:
    """One acts, and just before the first write of it another is done and committed."""

    @pytest.mark.parametrize(
        "call, body, gone, status",
        [
            ("PATCH /events/{event}", {"name": "x"}, "/events/{event}", 404),
            ("PATCH /events/{event}", {"category_id": 0}, "/categories/{category}", 400),
            ("DELETE /events/{event}", None, "/events/{event}", 204),
            ("POST /events/{event}/ticket-types", TICKET_TYPE, "/events/{event}", 404),
            ("PATCH /ticket-types/{type}", {"quantity": 5}, "/ticket-types/{type}", 404),
            ("PATCH /ticket-types/{type}", {"name": "x"}, "/events/{event}", 404),
            ("DELETE /ticket-types/{type}", None, "/events/{event}", 204),
            ("PATCH /categories/{category}", {"name": "x"}, "/categories/{category}", 404),
            ("DELETE /categories/{category}", None, "/categories/{category}", 204),
        ],
    )
    def test_it_goes(
        self, client, admin, make_event, make_ticket_type, category, before_first_write, call, body, gone, status
    ):
        id = make_event()
        names = {"event": id, "type": make_ticket_type(id), "category": category["id"]}
        method, path = call.format(**names).split()
        body = body and {name: value or category["id"] for name, value in body.items()}
        before_first_write(lambda: client.delete(gone.format(**names), headers=admin.headers))
        assert client.open(path, method=method, json=body, headers=admin.headers).status_code == status

    def test_an_event_comes_into_the_category(self, client, admin, make_event, category, before_first_write):
        before_first_write(lambda: make_event(category_id=category["id"]))
        answer = client.delete(f"/categories/{category['id']}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "in_use")

    def test_it_is_ordered(self, client, admin, make_event, make_ticket_type, place, buyer, before_first_write):
        id = make_event()
        ticket_type = make_ticket_type(id)
        before_first_write(lambda: place(buyer, ticket_type))
        answer = client.delete(f"/events/{id}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "has_orders")

    def test_more_is_sold_than_is_left(self, client, admin, make_ticket_type, place, buyer, before_first_write):
        ticket_type = make_ticket_type()
        before_first_write(lambda: place(buyer, ticket_type, 3))
        answer = client.patch(f"/ticket-types/{ticket_type}", json={"quantity": 2}, headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "below_sold")


class TestRightAfter:
    """In the instant after the commit another deletes what was changed: the answer is made all the same."""

    @pytest.fixture
    def right_after(self):
        rivals = []

        def strike(session):
            if rivals:
                with ThreadPoolExecutor(1) as other:
                    other.submit(rivals.pop()).result()

        event.listen(db.session, "after_commit", strike)
        yield rivals.append
        event.remove(db.session, "after_commit", strike)
        assert rivals == []

    @pytest.mark.parametrize(
        "call, body, gone",
        [
            ("PATCH /events/{event}", {"name": "x"}, "/events/{event}"),
            ("POST /events/{event}/ticket-types", TICKET_TYPE, "/events/{event}"),
            ("PATCH /ticket-types/{type}", {"quantity": 5}, "/ticket-types/{type}"),
            ("PATCH /categories/{category}", {"name": "x"}, "/categories/{category}"),
        ],
    )
    def test_it_goes(self, client, admin, make_event, make_ticket_type, category, right_after, call, body, gone):
        id = make_event()
        names = {"event": id, "type": make_ticket_type(id), "category": category["id"]}
        method, path = call.format(**names).split()
        right_after(lambda: client.delete(gone.format(**names), headers=admin.headers))
        assert client.open(path, method=method, json=body, headers=admin.headers).status_code in (200, 201)


class TestIds:
    @pytest.mark.parametrize("path", ["/categories", "/events", "/events/{event}/ticket-types"])
    def test_of_what_is_gone_is_never_given_again(self, client, admin, concert, make_event, path):
        body = concert | TICKET_TYPE | {"name": "Once"}
        path = path.format(event=make_event())
        gone = client.post(path, json=body, headers=admin.headers).get_json()["id"]
        client.delete(f"/{path.rpartition('/')[2]}/{gone}", headers=admin.headers)
        assert client.post(path, json=body, headers=admin.headers).get_json()["id"] > gone


class TestConstraints:
    @pytest.mark.parametrize(
        "values",
        [
            *({"status": "open"}, {"status": "canceled"}, {"canceled_at": datetime(2026, 1, 1, tzinfo=UTC)}),
            *({"ends_at": Event.starts_at}, {"ends_at": datetime(1970, 1, 1, tzinfo=UTC)}, {"category_id": 2**31 - 1}),
            *({name: None} for name in ("name", "venue", "category_id", "status", "starts_at", "duration", "version")),
        ],
    )
    def test_database_refuses_a_bad_row(self, make_event, context, values):
        make_event()
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(Event).values(**values), execution_options={"synchronize_session": False})

    def test_database_keeps_an_event_with_ticket_types(self, make_ticket_type, context):
        make_ticket_type()
        with pytest.raises(IntegrityError):
            db.session.execute(db.delete(Event))


class TestNewOneWithTicketTypes:
    TYPES = ({"name": "Adult", "price": 2500, "quantity": 60}, {"name": "Child", "price": 0, "quantity": 30})

    @pytest.fixture
    def body(self, app):
        with app.app_context():
            category = create_category(token_hex(4)).id
            db.session.commit()
        times = {"starts_at": "2100-01-01T20:00:00Z", "ends_at": "2100-01-01T23:00:00Z"}
        return {"name": "Concert", "description": "Music", "venue": "Hall", "category_id": category, **times}

    def test_makes_all_of_them(self, client, admin, body):
        made = client.post("/events", json=body | {"ticket_types": [*self.TYPES]}, headers=admin.headers)
        assert [(it["name"], it["max_per_buyer"]) for it in made.get_json()["ticket_types"]] == [
            ("Adult", None),
            ("Child", 10),
        ]

    @pytest.mark.parametrize(
        "wrong",
        [{"price": -1}, {"price": None}, {"quantity": "1"}, {"min_per_order": 11}, {"hidden": 1}],
        ids=["negative", "null", "text", "too many", "number"],
    )
    def test_keeps_nothing_where_one_is_wrong(self, client, admin, body, count_rows, wrong):
        before = count_rows(Event)
        types = [*self.TYPES, self.TYPES[0] | wrong]
        answer = client.post("/events", json=body | {"ticket_types": types}, headers=admin.headers)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["ticket_types"])
        assert "entry 2" in answer.json["message"]["ticket_types"]
        assert count_rows(Event) == before


class TestCopies:
    @pytest.fixture
    def berlin(self, make_event, make_ticket_type):
        """At 19:00 in Berlin, in summer."""
        starts = datetime(2030, 7, 1, 17, tzinfo=UTC)
        fields = {"starts_at": starts, "ends_at": starts + timedelta(hours=3), "time_zone": "Europe/Berlin"}
        id = make_event(**fields)
        make_ticket_type(id, sales_end=starts - timedelta(days=1), hidden=True)
        return id

    def copy(self, client, user, id, *starts):
        return client.post(f"/events/{id}/copies", json={"starts_at": list(starts)}, headers=user.headers)

    def test_keep_the_time_on_the_poster_across_a_change_of_the_clocks(self, client, admin, berlin):
        [copy] = self.copy(client, admin, berlin, "2030-12-01T18:00:00Z").get_json()
        assert (copy["status"], copy["starts_at"], copy["ends_at"]) == (
            "draft",
            "2030-12-01T18:00:00Z",
            "2030-12-01T21:00:00Z",
        )
        [type] = copy["ticket_types"]
        assert (type["sales_end"], type["hidden"], type["available"]) == ("2030-11-30T18:00:00Z", True, 10)

    def test_share_places_among_themselves(self, client, admin, berlin):
        types = [it["id"] for it in client.get(f"/events/{berlin}", headers=admin.headers).get_json()["ticket_types"]]
        body = {"name": "Hall", "quantity": 4, "ticket_types": types}
        old = client.post(f"/events/{berlin}/pools", json=body, headers=admin.headers).get_json()["id"]
        copies = self.copy(client, admin, berlin, "2030-07-08T17:00:00Z", "2030-07-15T17:00:00Z").get_json()
        pools = [it["pool_id"] for copy in copies for it in copy["ticket_types"]]
        assert (len({old, *pools}), [it["available"] for copy in copies for it in copy["ticket_types"]]) == (3, [4, 4])

    def test_manager_who_copies_is_manager_of_the_copies(self, client, admin, make_user, berlin):
        manager = make_user()
        client.put(f"/events/{berlin}/staff/{manager.id}", json={"role": "manager"}, headers=admin.headers)
        [copy] = self.copy(client, manager, berlin, "2030-07-08T17:00:00Z").get_json()
        assert client.get(f"/events/{copy['id']}", headers=manager.headers).status_code == 200

    @pytest.mark.parametrize("starts", [[], ["tomorrow"], ["9999-12-31T23:00:00Z"], ["2030-01-01T00:00:00Z"] * 61])
    def test_refuses_what_is_no_list_of_times(self, client, admin, berlin, starts):
        answer = self.copy(client, admin, berlin, *starts)
        assert (answer.status_code, list(answer.json["message"])) == (400, ["starts_at"])


class TestAvailability:
    def test_says_what_is_left_but_of_hidden_ones(self, client, make_event, make_ticket_type):
        id = make_event()
        few, many = make_ticket_type(id, quantity=3), make_ticket_type(id, quantity=500)
        make_ticket_type(id, hidden=True)
        none = make_ticket_type(id, quantity=0)
        answer = client.get(f"/events/{id}/availability")
        assert answer.get_json() == [
            {"id": few, "available": 3, "state": "on_sale"},
            {"id": many, "available": 100, "state": "on_sale"},
            {"id": none, "available": 0, "state": "sold_out"},
        ]
        assert answer.headers["Cache-Control"] == "public, max-age=1, stale-while-revalidate=5"
        assert "Authorization" not in answer.headers.get("Vary", "")

    def test_is_kept_for_a_second(self, client, make_event, make_ticket_type, statements):
        path = f"/events/{make_event()}/availability"
        client.get(path)
        assert statements(lambda: client.get(path)) == []

    def test_unchanged_is_not_sent_again(self, client, make_event):
        path = f"/events/{make_event()}/availability"
        tag = client.get(path).headers["ETag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304

    @pytest.mark.parametrize("who", ["admin", "buyer"])
    def test_tells_nobody_of_drafts(self, request, client, make_event, who):
        headers = request.getfixturevalue(who).headers
        assert client.get(f"/events/{make_event(status='draft')}/availability", headers=headers).status_code == 404


class TestRareWord:
    @ON_POSTGRESQL
    def test_is_found_by_an_index(self, migrated):
        with migrated.app_context():
            columns = "category_id, name, description, venue, version, status, starts_at, ends_at, duration"
            event = "SELECT 1, 'Concert ' || g, md5(g::text), 'Hall', 1, 'published', now() + interval '1 day', "
            event += "now() + interval '2 days', 86400, 'USD', 'UTC' FROM generate_series(1, 5000) g"
            db.session.execute(db.text("INSERT INTO categories (id, name, folded) VALUES (1, 'A', 'a')"))
            db.session.execute(db.text(f"INSERT INTO events ({columns}, currency, time_zone) {event}"))
            rows, [values], first = search_events(q="quaternion")
            sql = rows.where(first).order_by(Event.starts_at, Event.id).limit(50).params(values)
            db.session.execute(db.text("ANALYZE events"))
            # Of so few events the planner would rather read them in order; with a million it does not.
            db.session.execute(db.text("DROP INDEX ix_events_listed, ix_events_in_category, ix_events_longest"))
            db.session.execute(db.text("SET LOCAL enable_seqscan = off"))
            text = str(sql.compile(db.engine, compile_kwargs={"literal_binds": True}))
            plan = db.session.execute(db.text(f"EXPLAIN {text}")).scalars().all()
            db.session.rollback()
        assert "ix_events_words" in "".join(plan)
