"""Bad input: every call says in one shape what is wrong with it, and none crashes."""

import base64
import json
import unicodedata

import pytest

MISSING, CODE = 2**31 - 1, "A" * 32

# The calls that take a body, each with one that is right. What the ids name is not there: that is found out later.
BODIES = {
    "POST /sign-up": {"name": "Ann", "email": "ann@example.com", "password": "correct horse"},
    "POST /login": {"email": "ann@example.com", "password": "correct horse"},
    "PATCH /me": {"name": "Ann", "email": "a@b.co", "password": "correct horse", "current_password": "x"},
    f"PATCH /users/{MISSING}": {"role": "user", "active": True},
    "POST /categories": {"name": "Music"},
    f"PATCH /categories/{MISSING}": {"name": "Music"},
    "POST /events": {
        "name": "Concert",
        "description": "Loud",
        "venue": "Hall",
        "category_id": MISSING,
        "starts_at": "2030-01-01T20:00:00Z",
        "ends_at": "2030-01-01T22:00:00+02:00",
        "poster": None,
        "status": "draft",
    },
    f"POST /events/{MISSING}/ticket-types": {
        "name": "Regular",
        "price": 0,
        "quantity": 0,
        "sales_start": None,
        "sales_end": None,
        "max_per_order": 1,
    },
    "POST /orders": {"items": [{"ticket_type_id": MISSING, "quantity": 1}]},
    f"POST /orders/{CODE}/payments": {"method": "cash", "reference": "r", "amount": 0},
    f"POST /tickets/{CODE}/check-in": {"event_id": MISSING},
}
BODIES[f"PATCH /events/{MISSING}"] = BODIES["POST /events"]
BODIES[f"PATCH /ticket-types/{MISSING}"] = BODIES[f"POST /events/{MISSING}/ticket-types"]
OPTIONAL = {f"POST /tickets/{CODE}/check-in"}
WITHOUT_BODY = ["GET /health", "GET /events", "GET /nowhere", "GET /me", "POST /logout", f"DELETE /events/{MISSING}"]

# Bodies that are no JSON object, as they stand in the request.
BROKEN = {
    "nothing": b"",
    "half an object": b'{"name": "x"',
    "two objects": b"{}{}",
    "a list": b"[1]",
    "a list of pairs": b'[["name", "x"]]',
    "a text": b'"x"',
    "a number": b"5",
    "null": b"null",
    "true": b"true",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"name":' * 100_000,
    "not UTF-8": b'{"name": "\xff"}',
    "a surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "single quotes": b"{'name': 'x'}",
    "a form": b"name=x&email=y",
}
TYPES = [
    None,
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/xml",
    "\xff",
]

# Values as they stand in the body, by what a field takes.
NO_TEXT = ["5", "1.5", "true", "null", "[]", "{}", '["x"]', '{"x": "y"}', '"\\ud800"', "1" + "0" * 5000, "1e400"]
NO_INTEGER = [
    '"5"',
    "1.0",
    "1.5",
    "1e400",
    "true",
    "null",
    "[]",
    "{}",
    str(-(2**63)),
    str(2**31),
    str(2**63),
    str(2**64),
]
NO_INTEGER += ["1" + "0" * 5000, "-" + "9" * 5000, "1e5"]
NO_TIME = (
    NO_TEXT[:3]
    + NO_TEXT[4:]
    + [
        json.dumps(text)
        for text in (
            "",
            "now",
            "2030-01-01",
            "2030-01-01T20:00:00",
            "2030-02-30T20:00:00Z",
            "2030-01-01T20:00:00+25:00",
        )
        + ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z", "２030-01-01T20:00:00Z")
    ]
)


UNSEEN = ["\u200b", "\u00ad", "\u2800", "\u3164", "\ufe0f", "\u200d\u2060 \ufeff", "\U000e0041", "\U0001d159"]


def text(longest):
    blank = ["", "  ", "\u3000", *UNSEEN]
    controls = ["\0", "a\0b", "a\x1b[2Jb", "a\x08b", "a\x7fb", "a\x9bb"]
    return NO_TEXT + [json.dumps(value) for value in [*blank, *controls, "x" * (longest + 1)]]


def line(longest):
    breaks = ["a\nb", "a\r\nb", "a\tb", "a\x0bb", "a\x85b", "a\u2028b", "a\u2029b"]
    overrides = ["\u202eAnn", "a\u202ab", "a\u202cb", "a\u2066b", "a\u2069"]
    return text(longest) + [json.dumps(value) for value in breaks + overrides]


SEEN = ["👩‍👩‍👧", "می‌خواهم", "ḍ̇", "שלום\u200f!", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "क्‍ष", "A\u00adB", "\u200bAnn"]


BAD = {
    "email": [*line(1000), '"no address"', '"a@b@c.de"'],
    "password": [*NO_TEXT, '""', '"short"', '"        "', '"long enough\\u0000"', f'"{"é" * 37}"'],
    "current_password": NO_TEXT,
    "description": text(10_000),
    "poster": [value for value in line(2000) if value != "null"]
    + ['"ftp://x.y/z"', '"http:"', '"http://"', '"javascript:x"'],
    "reference": line(255),
    "role": [*NO_TEXT, '"king"', '""', '"Admin"', '"admin "'],
    "active": ["0", "1", "null", '"true"', "[]", "{}", '""'],
    "status": [*NO_TEXT, '"gone"', '""'],
    "method": [*NO_TEXT, '"gold"', '""'],
    "category_id": [*NO_INTEGER, "0", "-1"],
    "event_id": [*NO_INTEGER, "0", "-1"],
    "price": [*NO_INTEGER, "-1", "1000000001"],
    "quantity": [*NO_INTEGER, "-1", "2000000001"],
    "max_per_order": [*NO_INTEGER, "0", "1001"],
    "amount": [value for value in NO_INTEGER if value != str(2**31)] + ["-1", str(2**53)],
    "items": ["5", "true", "null", '"x"', "{}", "[]", "[5]", "[null]", "[[]]", "[{}]", '[{"quantity": 1}]']
    + [f'[{{"ticket_type_id": {value}, "quantity": 1}}]' for value in [*NO_INTEGER, "0"]]
    + [f'[{{"ticket_type_id": 1, "quantity": {value}}}]' for value in [*NO_INTEGER, "0", "-1"]]
    + [json.dumps([{"ticket_type_id": 1, "quantity": 1}] * 21)],
}
BAD |= dict.fromkeys(["starts_at", "ends_at"], [*NO_TIME, "null"]) | dict.fromkeys(
    ["sales_start", "sales_end"], NO_TIME
)
LONGEST_NAME = {"POST /events": 200, f"PATCH /events/{MISSING}": 200}


def bad_values(call, field):
    if call == "POST /login":
        return NO_TEXT
    return line(LONGEST_NAME.get(call, 100)) if field == "name" else BAD["venue"] if field == "venue" else BAD[field]


BAD["venue"] = line(200)


@pytest.fixture
def send(client, admin):
    """Send a call, as an admin, and return the response after a look at its shape."""

    def request(call, body=b"", content_type="application/json", **arguments):
        method, _, path = call.partition(" ")
        response = client.open(
            path, method=method, data=body, content_type=content_type, headers=admin.headers, **arguments
        )
        if response.status_code >= 400:
            assert response.mimetype == "application/json"
            message = response.json["message"]
            assert message and (isinstance(message, str) or all(isinstance(text, str) for text in message.values()))
        return response

    return request


class TestBody:
    @pytest.mark.parametrize("call", BODIES)
    def test_that_is_no_json_object_is_refused(self, send, call):
        broken = BROKEN.items() - ({("nothing", b"")} if call in OPTIONAL else set())
        answers = {name: send(call, body).status_code for name, body in broken}
        assert answers == dict.fromkeys(dict(broken), 400)

    @pytest.mark.parametrize("call", BODIES)
    def test_of_another_type_is_refused(self, send, call):
        answers = {kind: send(call, json.dumps(BODIES[call]), kind).status_code for kind in TYPES}
        assert answers == dict.fromkeys(TYPES, 415)

    @pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
    def test_of_the_right_type_is_read(self, send, kind):
        assert send("POST /categories", b'{"name": "x"}', kind).status_code == 201

    @pytest.mark.parametrize("call", [*BODIES, *WITHOUT_BODY])
    def test_too_large_is_refused(self, send, call):
        assert send(call, b"x" * (1024 * 1024 + 1)).status_code == 413

    def test_as_large_as_may_be_is_read(self, send):
        body = b'{"name": "x", "more": "%s"}' % (b"y" * (1024 * 1024 - 25))
        assert len(body) == 1024 * 1024
        assert send("POST /categories", body).status_code == 201

    @pytest.mark.parametrize("call", BODIES)
    def test_is_right_as_given_here(self, send, call):
        """What the other tests break is otherwise fine."""
        expected = {
            "POST /sign-up": 201,
            "POST /categories": 201,
            "POST /login": 401,
            "POST /events": 400,
            "PATCH /me": 400,
        }
        assert send(call, json.dumps(BODIES[call])).status_code == expected.get(call, 404)

    def test_unknown_fields_are_ignored(self, send):
        body = '{"name": "x", "id": 7, "folded": 5, "more": %s}' % ("[" * 500 + "]" * 500)
        assert send("POST /categories", body).json["id"] != 7

    def test_nothing_is_read_from_the_query(self, send):
        response = send("POST /sign-up?name=Ann&email=ann@example.com&password=correct+horse", b"{}")
        assert (response.status_code, len(response.json["message"])) == (400, 3)

    def test_query_changes_nothing(self, send):
        assert send("PATCH /me?name=Eve", b"{}").json["name"] == "Somebody"

    def test_may_be_missing_where_it_is_optional(self, send):
        assert {send(call, b"").status_code for call in OPTIONAL} == {404}


class TestField:
    @pytest.mark.parametrize("call", BODIES)
    def test_bad_value_is_refused_by_name(self, send, call):
        answers, expected = {}, {}
        for field in BODIES[call]:
            for value in bad_values(call, field):
                rest = "".join(
                    f", {json.dumps(name)}: {json.dumps(BODIES[call][name])}" for name in BODIES[call].keys() - {field}
                )
                response = send(call, f'{{"{field}": {value}{rest}}}')
                named = isinstance(response.json["message"], dict) and list(response.json["message"])
                answers[field, value[:60]] = response.status_code, named
                expected[field, value[:60]] = 400, [field]
        assert answers == expected

    @pytest.mark.parametrize("call", BODIES)
    def test_all_bad_ones_are_named_at_once(self, send, call):
        response = send(call, json.dumps(dict.fromkeys(BODIES[call], [])))
        assert (response.status_code, set(response.json["message"])) == (400, set(BODIES[call]))

    @pytest.mark.parametrize("name", SEEN)
    def test_text_that_shows_something_is_taken(self, send, name):
        answer = send("POST /categories", json.dumps({"name": name}))
        assert (answer.status_code, answer.json["name"]) == (201, unicodedata.normalize("NFC", name))

    @pytest.mark.parametrize("typed, kept", [("Cafe\u0301", "Caf\u00e9"), ("\u212bngström", "\u00c5ngström")])
    def test_text_is_kept_composed(self, send, typed, kept):
        assert send("POST /categories", json.dumps({"name": typed})).json["name"] == kept

    def test_length_is_judged_before_composing(self, send, monkeypatch):
        composed = []
        monkeypatch.setattr(unicodedata, "normalize", lambda form, text: composed.append(len(text)) or text)
        assert send("POST /categories", json.dumps({"name": "e" + "\u0301" * 100_000})).status_code == 400
        assert composed == []

    @pytest.mark.parametrize("text", ["Doors\tat 7\r\nShow at 8", "\u202bشب\u202c", "a\u2028b"])
    def test_description_may_have_lines(self, send, text):
        body = BODIES["POST /events"] | {"description": text}
        assert "description" not in send("POST /events", json.dumps(body)).json["message"]

    def test_last_of_two_of_one_name_counts(self, send):
        assert send("POST /categories", b'{"name": 5, "name": "x"}').json["name"] == "x"


IDS = [
    "0",
    "-1",
    "+1",
    "1.0",
    "1e3",
    "x",
    "2147483647",
    "2147483648",
    str(2**63),
    "9" * 5000,
    "%00",
    "%ED%A0%80",
    "%D9%A1",
]
IDS += ["%EF%BC%91", "%20", "null", "1%00", "1;x", "1%2F", "true"]
CODES = ["x", "A" * 31, "A" * 33, "a" * 32, "G" * 32, "%00" * 32, "A" * 32, "A" * 5000, "%EF%BC%A1" * 32]


class TestPath:
    @pytest.mark.parametrize(
        "call", ["GET /events/{}", "PATCH /users/{}", "DELETE /categories/{}", "GET /events/{}/sales"]
    )
    def test_id_that_is_none_is_missing(self, send, call):
        assert {id: send(call.format(id), b"{}").status_code for id in IDS} == dict.fromkeys(IDS, 404)

    def test_id_has_one_spelling(self, client, make_event):
        event_id = str(make_event())
        in_wide_digits = "".join(chr(0xFF10 + int(digit)) for digit in event_id)
        spellings = [event_id, in_wide_digits, f"0{event_id}"]
        assert [client.get(f"/events/{id}").status_code for id in spellings] == [200, 404, 404]

    @pytest.mark.parametrize(
        "call", ["GET /orders/{}", "GET /tickets/{}", "GET /tickets/{}/qr", "POST /orders/{}/cancel"]
    )
    def test_code_that_is_none_is_missing(self, send, call):
        assert {code: send(call.format(code)).status_code for code in CODES} == dict.fromkeys(CODES, 404)

    @pytest.mark.parametrize(
        "path", ["/events/", "//x.com/", "/events//1", "/./events", "/%2e%2e/users", "/EVENTS", "/static/x"]
    )
    def test_path_that_is_none_leads_nowhere(self, client, path):
        response = client.get("/", environ_overrides={"PATH_INFO": path})
        assert (response.status_code, response.json) == (404, {"message": "Not Found"})


def cursor(values):
    content = values if isinstance(values, bytes) else json.dumps(values, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


LIMITS = ["0", "101", "-1", "x", "", "1.0", "1e1", "true", "%D9%A1", "9" * 5000, "+1", "%00"]
CURSORS = ["", "x", "%00", "%C3%A9", "=", "[", "W10", "bnVsbA", "NQ", "W251bGwsbnVsbF0", "e30", cursor(b"\xff")]
CURSORS += [
    cursor(values) for values in (b"[" * 50_000, [2**31], [-1], [1.0], [True], ["1"], [10**30], [[1]], [1, 1, 1])
]
TIME_CURSORS = [
    [moment, 1] for moment in ("2030-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
]
TIME_CURSORS += [["2030-01-01T00:00:00Z", value] for value in (None, "1", 2**31, 1.5, True, -1)]
TIME_CURSORS += [["now", 1], [5, 1], ["2030-01-01T00:00:00Z"], {"a": 1, "b": 2}]
BAD_PARAMETERS = {
    "limit": LIMITS,
    "after": [cursor(values) for values in TIME_CURSORS],
    "category": ["x", "-1", "9999999999", "", "1.0"],
    "q": ["", "%00", "x" * 201],
    "status": ["gone", ""],
    "from": ["", "now", "2030-01-01", "0001-01-01T00:00:00%2B23:59", "2030-13-01T00:00:00Z", "%00"],
}


class TestQuery:
    @pytest.mark.parametrize("path", ["/users", "/categories", "/events", "/orders", "/tickets"])
    @pytest.mark.parametrize("name, values", [("limit", LIMITS), ("after", CURSORS)])
    def test_page_that_is_none_is_refused(self, send, path, name, values):
        answers = {value: send(f"GET {path}?{name}={value}") for value in values}
        named = {value: (answer.status_code, list(answer.json["message"])) for value, answer in answers.items()}
        assert named == dict.fromkeys(values, (400, [name]))

    @pytest.mark.parametrize("name", BAD_PARAMETERS)
    def test_filter_that_is_none_is_refused(self, send, name):
        answers = {value: send(f"GET /events?{name}={value}") for value in BAD_PARAMETERS[name]}
        named = {value: (answer.status_code, list(answer.json["message"])) for value, answer in answers.items()}
        assert named == dict.fromkeys(answers, (400, [name]))

    @pytest.mark.parametrize(
        "moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00", "2030-01-01T00:00:00+00:00"]
    )
    def test_cursor_of_any_time_is_taken(self, send, moment):
        assert send(f"GET /events?after={cursor([moment, 1])}").status_code == 200

    def test_all_bad_parameters_are_named_at_once(self, send):
        response = send("GET /events?limit=x&category=x&q=&from=x&to=x&status=x")
        assert set(response.json["message"]) == {"limit", "category", "q", "from", "to", "status"}

    @pytest.mark.parametrize(
        "query",
        ["q=%ED%A0%80", "q=%F0%9F", "q=%25%5F", "limit=5&limit=x", "%00=%00", "&&==", "from=9999-12-31T23:59:59Z"],
    )
    def test_odd_one_is_read_as_it_is(self, send, query):
        assert send(f"GET /events?{query}").status_code == 200


ODD = ["\x00", "\xff", "", ",", '"', "\xe9" * 5000]
HEADERS = [
    (name, value) for name in ("Accept", "If-Match", "If-None-Match", "Origin", "Host", "Cookie") for value in ODD
]
HEADERS += [("Accept", "*/*;q=1e400"), ("Accept", "text/html"), ("Content-Length", "x"), ("Content-Length", "-1")]
HEADERS += [("If-Modified-Since", "x"), ("If-Match", "W/"), ("X-Forwarded-For", "x, ,"), ("Range", "bytes=-1")]


class TestHeader:
    @pytest.mark.parametrize("path", ["/events", "/users", "/openapi.json", "/nowhere"])
    def test_odd_one_crashes_nothing(self, client, admin, path):
        for name, value in HEADERS:
            response = client.get(path, headers=admin.headers | {name: value})
            assert response.status_code in (200, 304, 400, 404, 412), (name, value)
            assert response.status_code < 400 or list(response.json) == ["message"], (name, value)

    @pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\x00b"])
    def test_idempotency_key_that_is_none_is_refused(self, buyer, make_ticket_type, place, key):
        response = place(buyer, make_ticket_type(), **{"Idempotency-Key": key})
        assert (response.status_code, list(response.json["message"])) == (400, ["Idempotency-Key"])
