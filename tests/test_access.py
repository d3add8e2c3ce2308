"""Who may make each call: nothing is open by accident, and only a good token opens what is not."""

import base64
import hashlib
import hmac
import json

import jwt
import pytest
from flask import Flask
from flask_jwt_extended import create_access_token, create_refresh_token
from flask_restful import Api, Resource

from app import app as application
from models import ROLES, TicketType, db
from routes.http.access import signed_in

from .conftest import JWT_KEY, PLACEHOLDERS, bearer

ANYONE, SIGNED_IN, ADMIN, MANAGER = (), ROLES, ("admin",), ("admin", "manager")
TILL, DOOR = ("staff", "admin", "manager"), ("staff", "admin", "door", "manager")

WHO = {
    "POST /sign-up": ANYONE,
    "POST /login": ANYONE,
    "POST /refresh": SIGNED_IN,
    "POST /logout": SIGNED_IN,
    "GET /users": ADMIN,
    "GET /users/<id:id>": ADMIN,
    "PATCH /users/<id:id>": ADMIN,
    "GET /me": SIGNED_IN,
    "PATCH /me": SIGNED_IN,
    "DELETE /me": SIGNED_IN,
    "DELETE /users/<id:id>": ADMIN,
    "POST /password-resets": ANYONE,
    "POST /password-resets/confirm": ANYONE,
    "POST /me/verification": SIGNED_IN,
    "POST /verifications": ANYONE,
    "GET /categories": ANYONE,
    "POST /categories": ADMIN,
    "GET /categories/<id:id>": ANYONE,
    "PATCH /categories/<id:id>": ADMIN,
    "DELETE /categories/<id:id>": ADMIN,
    "GET /events": ANYONE,
    "POST /events": ADMIN,
    "GET /events/<id:id>": ANYONE,
    "PATCH /events/<id:id>": MANAGER,
    "DELETE /events/<id:id>": ADMIN,
    "GET /events/<id:id>/ticket-types": ANYONE,
    "GET /events/<id:id>/availability": ANYONE,
    "GET /events/<id:id>/calendar": ANYONE,
    "POST /events/<id:id>/ticket-types": MANAGER,
    "GET /ticket-types/<id:id>": ANYONE,
    "PATCH /ticket-types/<id:id>": MANAGER,
    "DELETE /ticket-types/<id:id>": MANAGER,
    "GET /events/<id:id>/pools": MANAGER,
    "POST /events/<id:id>/pools": MANAGER,
    "GET /pools/<id:id>": MANAGER,
    "PATCH /pools/<id:id>": MANAGER,
    "DELETE /pools/<id:id>": MANAGER,
    "GET /events/<id:id>/promo-codes": MANAGER,
    "POST /events/<id:id>/promo-codes": MANAGER,
    "GET /events/<id:id>/promo-codes/<promo:promo>": ANYONE,
    "GET /promo-codes/<id:id>": MANAGER,
    "PATCH /promo-codes/<id:id>": MANAGER,
    "DELETE /promo-codes/<id:id>": MANAGER,
    "POST /events/<id:id>/waiting": SIGNED_IN,
    "GET /events/<id:id>/waiting": MANAGER,
    "GET /me/waiting": SIGNED_IN,
    "DELETE /waiting/<id:id>": SIGNED_IN,
    "GET /events/<id:id>/staff": MANAGER,
    "PUT /events/<id:id>/staff/<id:user>": MANAGER,
    "DELETE /events/<id:id>/staff/<id:user>": MANAGER,
    "GET /me/events": SIGNED_IN,
    "POST /orders": SIGNED_IN,
    "GET /orders": SIGNED_IN,
    "GET /orders/<code:code>": SIGNED_IN,
    "POST /orders/<code:code>/cancel": SIGNED_IN,
    "POST /orders/<code:code>/extend": TILL,
    "POST /events/<id:id>/copies": MANAGER,
    "POST /orders/<code:code>/mail": SIGNED_IN,
    "POST /orders/<code:code>/checkout": SIGNED_IN,
    "GET /orders/<code:code>/checkout": SIGNED_IN,
    "POST /orders/<code:code>/checkout/settle": SIGNED_IN,
    "POST /webhooks/<provider:provider>": ANYONE,
    "POST /orders/<code:code>/refunds/<code:refund>/retry": ADMIN,
    "POST /events/<id:id>/refund-all": ADMIN,
    "POST /orders/<code:code>/payments": TILL,
    "POST /orders/<code:code>/refund": MANAGER,
    "POST /orders/<code:code>/payments/<id:id>/refund": ADMIN,
    "GET /tickets": SIGNED_IN,
    "GET /tickets/<code:code>": SIGNED_IN,
    "PATCH /tickets/<code:code>": SIGNED_IN,
    "GET /tickets/<code:code>/qr": ANYONE,
    "GET /tickets/<code:code>/page": ANYONE,
    "POST /tickets/<code:code>/transfer": SIGNED_IN,
    "DELETE /tickets/<code:code>/transfer": SIGNED_IN,
    "POST /transfers/accept": SIGNED_IN,
    "POST /tickets/<code:code>/check-in": DOOR,
    "DELETE /tickets/<code:code>/check-in": DOOR,
    "GET /events/<id:id>/attendees": DOOR,
    "GET /events/<id:id>/door": DOOR,
    "POST /events/<id:id>/scans": DOOR,
    "GET /events/<id:id>/scans": MANAGER,
    "GET /events/<id:id>/sales": MANAGER,
    "GET /audit": ADMIN,
    "GET /mails": ADMIN,
    "POST /mails/<id:id>/retry": ADMIN,
    "GET /payments": MANAGER,
    "GET /health": ANYONE,
    "GET /health/live": ANYONE,
    "GET /openapi.json": ANYONE,
    "GET /": ANYONE,
    "GET /docs": ANYONE,
    "GET /docs/<file:file>": ANYONE,
}
PROTECTED = [call for call, who in WHO.items() if who]
SHOWS_MORE_TO_SOME = ["GET /events", "GET /events/<id:id>", "GET /events/<id:id>/ticket-types"]
SHOWS_MORE_TO_SOME += ["GET /ticket-types/<id:id>", "GET /events/<id:id>/calendar"]
SHOWS_MORE_TO_SOME += ["GET /events/<id:id>/promo-codes/<promo:promo>"]


def calls():
    """Each method of each route. HEAD is GET without a body, and OPTIONS only answers which methods there are."""
    return {
        f"{method} {rule.rule}"
        for rule in application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }


def send(client, call, headers=None):
    method, path = call.split()
    for placeholder, example in PLACEHOLDERS.items():
        path = path.replace(placeholder, example)
    return client.open(path, method=method, headers=headers)


def encoded(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(payload, header=b'{"alg": "HS256", "typ": "JWT"}'):
    """A token of these bytes with a signature that is right, whatever they say."""
    content = f"{encoded(header)}.{encoded(payload)}"
    return f"{content}.{encoded(hmac.digest(JWT_KEY.encode(), content.encode(), hashlib.sha256))}"


def unguarded(app):
    """The methods that no guard says who may call."""
    found = set()
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            guarded = getattr(getattr(view, "view_class", None), method.lower(), view)
            found |= set() if hasattr(guarded, "roles") else {f"{method} {rule.rule}"}
    return found


class TestTable:
    def test_every_call_of_ours_has_a_guard(self):
        assert unguarded(application) == set()

    def test_call_without_a_guard_is_found(self, app):
        class Open(Resource):
            def get(self):
                return {}

            @signed_in
            def post(self):
                return {}

        other = Flask("other")
        Api(other).add_resource(Open, "/open")
        assert unguarded(other) == {"GET /open", "GET /static/<path:filename>"}

    def test_names_every_call_there_is(self):
        assert calls() == set(WHO)

    def test_anonymous_is_asked_for_a_token(self, client):
        answers = {call: send(client, call) for call in PROTECTED}
        assert {call: answer.status_code for call, answer in answers.items()} == dict.fromkeys(PROTECTED, 401)
        assert {answer.headers["WWW-Authenticate"] for answer in answers.values()} == {"Bearer"}

    def test_anonymous_head_is_asked_too(self, client):
        paths = [call.replace("GET", "HEAD") for call in PROTECTED if call.startswith("GET")]
        assert {call: send(client, call).status_code for call in paths} == dict.fromkeys(paths, 401)

    def test_public_call_wants_none(self, client):
        public = set(WHO) - set(PROTECTED)
        assert {call for call in public if send(client, call).status_code in (401, 403)} == set()

    @pytest.mark.parametrize("role", ROLES)
    def test_each_role_may_what_the_table_says(self, client, context, make_user, make_ticket_type, role):
        user, type_id = make_user(role), make_ticket_type()
        event_id = db.session.get(TicketType, type_id).event_id

        def allowed(call):
            create = create_refresh_token if call == "POST /refresh" else create_access_token
            there = call.replace("/events/<id:id>", f"/events/{event_id}")
            there = there.replace("/ticket-types/<id:id>", f"/ticket-types/{type_id}")
            response = send(client, there, bearer(create(identity=user.id)))
            if response.status_code in (401, 403):
                refusal = (401, "Unauthorized") if call == "GET /users" else (403, "Forbidden")
                assert (response.status_code, response.json) == (refusal[0], {"message": refusal[1]})
                return False
            return True

        assert {call for call in PROTECTED if allowed(call)} == {call for call, who in WHO.items() if role in who}


MALFORMED = [
    "",
    " ",
    ",",
    ", ,",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer ...",
    "Bearer a.b.c.d",
    "Bearer \xe9.b.c",
    "\xff\xfe",
]
MALFORMED += ["Basic YTpi", "Bearer \x00", "Bearer " + "a" * 20_000]
MALFORMED += ["{token}", "Token {token}", "Bearer {token} x", "Bearer {token}, Bearer {token}", "Bearer {token}x"]


class TestBadToken:
    @pytest.mark.parametrize("call", ["GET /me", *SHOWS_MORE_TO_SOME])
    def test_malformed_is_refused_wherever_it_is_looked_at(self, client, buyer, call):
        for header in MALFORMED:
            response = send(client, call, {"Authorization": header.replace("{token}", buyer.login["access_token"])})
            assert (response.status_code, set(response.json)) == (401, {"message", "reason"}), header
            assert response.headers["WWW-Authenticate"].startswith("Bearer"), header

    @pytest.mark.parametrize("call", SHOWS_MORE_TO_SOME)
    def test_an_answer_that_shows_more_to_some_is_kept_for_nobody_else(self, client, call):
        assert "Authorization" in send(client, call).headers["Vary"]

    def test_public_call_looks_at_none(self, client):
        assert send(client, "GET /categories", bearer("x")).status_code == 200

    @pytest.mark.parametrize(
        "part", [b"[" * 100_000, b"5", b"null", b'"x"', b"[]", b"{}", b"\xff", b"{", b'{"alg": 5}']
    )
    def test_anything_signed_is_refused(self, client, part):
        tokens = [signed(part), signed(b"{}", part), signed(part, part)]
        assert [client.get("/me", headers=bearer(token)).status_code for token in tokens] == [401] * 3


class TestClaims:
    """What a token says, where somebody who has the key signed it, and where nobody has."""

    @pytest.fixture
    def claims(self, buyer):
        return jwt.decode(buyer.login["access_token"], JWT_KEY, ["HS256"])

    @pytest.mark.parametrize("key, algorithm", [("another key, long enough to sign with", "HS256"), (None, "none")])
    def test_forged_are_refused(self, client, claims, key, algorithm):
        assert client.get("/me", headers=bearer(jwt.encode(claims, key, algorithm))).status_code == 401

    @pytest.mark.parametrize(
        "claim, values",
        [
            ("exp", [1, None, "x", [], {}, 1e400]),
            ("nbf", [2**40, "x", []]),
            ("type", ["refresh"]),
            ("stamp", ["", None, "x"]),
            (
                "sub",
                [
                    1,
                    1.0,
                    None,
                    [],
                    "2147483647",
                    "",
                    "x",
                    "1e3",
                    "1.0",
                    "-1",
                    "9" * 20,
                    "9" * 5000,
                    "\0",
                    "\ud800",
                    "nan",
                ],
            ),
            ("sid", ["\ud800"]),
        ],
    )
    def test_wrong_are_refused_though_signed(self, client, claims, claim, values):
        tokens = [signed(json.dumps(claims | {claim: value}).encode()) for value in values]
        assert [client.get("/me", headers=bearer(token)).status_code for token in tokens] == [401] * len(values)

    @pytest.mark.parametrize("claim", ["sub", "stamp", "sid"])
    def test_missing_one_is_refused(self, client, claims, claim):
        del claims[claim]
        assert client.get("/me", headers=bearer(jwt.encode(claims, JWT_KEY))).status_code == 401

    @pytest.mark.parametrize("call", ["GET /me", "POST /refresh", "POST /logout"])
    def test_odd_ones_crash_nothing(self, client, buyer, call):
        login = buyer.login["refresh_token" if call == "POST /refresh" else "access_token"]
        claims = jwt.decode(login, JWT_KEY, ["HS256"])
        names = [*claims, "aud", "iss"] if call == "GET /me" else ["sub", "sid"]
        odd = [None, True, -1, 2**63, 10**400, 1e400, "", "x", "\0", "\ud800", [], {"x": 1}]
        tokens = [signed(json.dumps(claims | {name: value}).encode()) for name in names for value in odd]
        assert {send(client, call, bearer(token)).status_code for token in tokens} <= {200, 204, 401}

    def test_challenge_says_what_is_wrong(self, client, claims):
        response = client.get("/me", headers=bearer(jwt.encode(claims | {"exp": 1}, JWT_KEY)))
        assert response.json == {"message": "Token has expired", "reason": "token_expired"}
        assert "invalid_token" in response.headers["WWW-Authenticate"]
