"""The document of the API is valid, knows all there is, and is true of what is answered."""

import gzip
import json
import re
from copy import deepcopy
from types import SimpleNamespace

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import CheckConstraint

from app import create_app
from models import Mail, MailToken, Refused, Ticket, TicketType, Transfer, TransferToken, User, db, now
from routes.docs import examples
from routes.docs.examples import MAILED_TOKEN, PROMO_CODE
from routes.docs.openapi import allowed
from routes.docs.operations import operation_id
from routes.events import new_event
from routes.http.limits import limiter
from routes.promo_codes import new_promo_code
from routes.selling.catalogue import create_category
from routes.selling.mail_tokens import hashed
from routes.ticket_types import new_ticket_type
from tests.card_shop import *  # noqa: F403

from .closing import close_answers
from .conftest import CONFIG, PASSWORD, bearer, dispose

APP = create_app(CONFIG)
DOCUMENT = APP.test_client().get("/openapi.json").get_json()
CLOSED = deepcopy(DOCUMENT)
close_answers(CLOSED)
OPERATIONS = {
    operation["operationId"]: SimpleNamespace(path=path, method=method, **operation)
    for path, methods in CLOSED["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS, TAGS = DOCUMENT["components"]["schemas"], DOCUMENT["tags"]
MODELS = [type(it).__name__ for it in examples.MODELS if type(it).__name__ in SCHEMAS]
NOWHERE = {
    "id": 2**31 - 1,
    "code": "0" * 32,
    "file": "start.js",
    "refund": "0" * 32,
    "provider": "stripe",
    "promo": "X",
    "user": 1,
}
WRONG = ("email", "password", "name", "role", "items", "amount", "event_id", "return_url", "reason")
BY_CARD = re.compile("/checkout|/webhooks/|/retry|/refund-all")  # these have tests of their own


def described(response):
    """The operation that was called, after checking that it describes the response: status, headers and body."""
    method, path = response.request.method.lower(), response.request.path
    [operation] = [it for it in OPERATIONS.values() if it.method == method and is_path(it.path, path)]
    answer = operation.responses[str(response.status_code)]
    for name in set(DOCUMENT["components"]["headers"]) & set(response.headers.keys()):
        assert name in answer.get("headers", {}), f"{name} is not described"
    if "content" not in answer:
        assert response.data == b""
        return operation
    schema = answer["content"][response.mimetype]["schema"]
    if response.is_json:
        check(schema, response.get_json())
    return operation


def is_path(template, path):
    return re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)


def check(schema, body):
    whole = schema | {"components": CLOSED["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(body)


class Witness(FlaskClient):
    """A client that takes no answer that the document does not describe."""

    def open(self, *args, **kwargs):
        response = super().open(*args, **kwargs)
        described(response)
        return response


@pytest.fixture
def client(app):
    app.test_client_class = Witness
    yield app.test_client()
    app.test_client_class = None


@pytest.fixture
def limited_client(app):
    limited = create_app({**app.config, "RATELIMIT_ENABLED": True})
    limited.test_client_class = Witness
    limiter.reset()
    yield limited.test_client()
    with limited.app_context():
        dispose()


def operations(condition):
    return pytest.mark.parametrize("name", [name for name, it in OPERATIONS.items() if condition(it)])


def protected(operation):
    return operation.security and {} not in operation.security


def takes_body(operation):
    return hasattr(operation, "requestBody")


def refusals(area=Refused):
    """The refusals that are raised: the leaves of the tree."""
    return {leaf for it in area.__subclasses__() for leaf in refusals(it)} or {area}


def body_schema(operation):
    reference = operation.requestBody["content"]["application/json"]["schema"]["$ref"]
    return named(reference)


def named(reference):
    return SCHEMAS[reference.rpartition("/")[2]]


class TestDocument:
    @pytest.mark.parametrize(
        ("resource", "method", "id"),
        [
            ("UserSignup", "post", "signUp"),
            ("CategoryList", "get", "listCategories"),
            ("TicketTypeList", "post", "createTicketType"),
            ("UserDetail", "patch", "updateUser"),
            ("OrderCancel", "post", "cancelOrder"),
            ("TicketCheckIn", "delete", "undoCheckIn"),
        ],
    )
    def test_operation_id_is_a_verb_and_what_it_is_about(self, resource, method, id):
        assert operation_id(resource, method) == id

    @operations(lambda it: True)
    def test_operation_id_has_no_name_of_a_class_or_method(self, name):
        assert re.fullmatch("(?!post|put|patch)[a-z]+([A-Z]+[a-z]*)*(?<!Resource)(?<!List)(?<!Detail)", name)

    @operations(lambda it: True)
    def test_summary_is_a_short_plain_text(self, name):
        assert re.fullmatch(r"(?!.*[`;]|.*\.$|.*\. ).{1,79}", OPERATIONS[name].summary)

    @operations(lambda it: it.method == "get")
    def test_get_has_neither_body_nor_version_to_be_refused(self, name):
        assert not {"412", "413"} & set(OPERATIONS[name].responses)
        assert "If-Match" not in str(OPERATIONS[name].parameters)

    def test_it_is_valid(self):
        OpenAPIV31SpecValidator(DOCUMENT).validate()

    def test_it_knows_every_route_and_method(self):
        routed = {
            (re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule), method.lower())
            for rule in APP.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }
        of_the_documentation = {(path, "get") for path in ("/", "/docs", "/docs/{file}", "/openapi.json")}
        assert {(it.path, it.method) for it in OPERATIONS.values()} == routed - of_the_documentation

    def test_it_knows_every_refusal(self):
        reasons = re.findall(r"'const': '(\w+)'", str(DOCUMENT))
        others = {"token_missing", "token_invalid", "token_expired", "token_ended", "outdated", "provider_unavailable"}
        assert set(reasons) == {refusal.reason for refusal in refusals()} | others

    @operations(lambda it: True)
    def test_every_answer_has_an_example_that_is_true(self, name):
        for answer in OPERATIONS[name].responses.values():
            for media in answer.get("content", {}).values():
                examples = [it["value"] for it in media.get("examples", {}).values()] or [media["example"]]
                for example in examples:
                    check(media["schema"], example)

    @operations(takes_body)
    def test_every_body_has_an_example_that_is_true(self, name):
        body = OPERATIONS[name].requestBody["content"]["application/json"]
        check(body_schema(OPERATIONS[name]) | {"additionalProperties": False}, body["example"])

    def test_answers_may_come_to_have_more_fields(self):
        closed = [name for name, it in SCHEMAS.items() if it.get("additionalProperties") is False]
        assert closed == ["CheckIn", "NewScan", "NewScans"]  # they are sent
        assert "'additionalProperties': False" not in str(DOCUMENT["paths"])

    @pytest.mark.parametrize("name", MODELS)
    def test_every_model_is_whole(self, name):
        assert set(SCHEMAS[name]["required"]) == set(SCHEMAS[name]["properties"])

    @pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
    def test_objects_within_others_have_names(self, name):
        inner = {field: it for field, it in SCHEMAS[name].get("properties", {}).items() if field != "message"}
        assert list(objects(inner)) == []

    @operations(lambda it: True)
    def test_every_parameter_has_a_description(self, name):
        for it in OPERATIONS[name].parameters:
            assert it.get("in") == "path" or "$ref" in it or it["description"]

    @operations(lambda it: "links" in str(it.responses))
    def test_links_lead_to_calls_with_such_a_parameter(self, name):
        for answer in OPERATIONS[name].responses.values():
            for link in answer.get("links", {}).values():
                [parameter] = link["parameters"]
                assert f"{{{parameter}}}" in OPERATIONS[link["operationId"]].path

    def test_links_lead_to_the_next_part_of_the_story(self):
        followed = {name: set(OPERATIONS[name].responses["201"]["links"]) for name in ("createEvent", "placeOrder")}
        assert followed["createEvent"] == {"getEvent", "updateEvent", "deleteEvent"}
        assert {"payOrder", "checkoutOrder"} < followed["placeOrder"]

    def test_list_says_how_long_its_pages_are(self):
        [limit] = [it for it in OPERATIONS["listEvents"].parameters if it.get("name") == "limit"]
        assert limit["schema"]["default"] == 50

    def test_it_begins_with_the_story(self):
        first = {tag["name"]: next(it for it in OPERATIONS.values() if it.tags == [tag["name"]]) for tag in TAGS}
        begin = ["signUp", "listEvents", "placeOrder", "listTickets"]
        assert [it.operationId for it in first.values()][:4] == begin
        assert TAGS[-1]["name"] == "health"

    @pytest.mark.parametrize(
        "name", ["NewEvent", "EventChanges", "EventWithTicketTypes", "Attendee", "Sales", "LogIn", "Problem"]
    )
    def test_what_is_sent_and_answered_has_a_name(self, name):
        assert name in DOCUMENT["components"]["schemas"]

    @operations(lambda it: True)
    def test_refusals_are_told_apart_by_their_reason(self, name):
        ways = json_schema(OPERATIONS[name], "409").get("oneOf", [])
        mapping = json_schema(OPERATIONS[name], "409").get("discriminator", {}).get("mapping", {})
        assert set(mapping.values()) == {way["$ref"] for way in ways}
        assert "anyOf" not in json_schema(OPERATIONS[name], "409")

    def test_every_array_says_what_is_in_it(self):
        assert all("items" in it for it in nodes(DOCUMENT) if it.get("type") == "array")

    def test_nothing_is_only_null(self):
        assert not [it for it in objects(DOCUMENT) if {"type": "null"} in it["properties"].values()]


@pytest.mark.parametrize("order", [1, -1])
def test_values_are_those_of_the_check_that_lists_them_all(order):
    checks = ["status IN ('new', 'sent')", "(status IN ('sent')) = (sent_at IS NOT NULL)"][::order]
    table = SimpleNamespace(constraints=[CheckConstraint(check) for check in checks])
    assert allowed(SimpleNamespace(name="status", table=table)) == {"enum": ["new", "sent"]}


def json_schema(operation, status):
    content = operation.responses.get(status, {}).get("content", {})
    schema = content["application/json"]["schema"] if content else {}
    return named(schema["$ref"]) if "$ref" in schema else schema


def nodes(node):
    """All objects in a part of the document."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    yield from [node] if isinstance(node, dict) else []
    for part in inner:
        yield from nodes(part)


def objects(node):
    """The schemas of objects in a part of the document."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and isinstance(node.get("properties"), dict):
        yield node
    for part in inner:
        yield from objects(part)


@pytest.fixture
def season(app, make_ticket_type):
    """What the ids in the examples stand for, where mails are made."""
    app.config["SMTP_URL"] = "log:"
    with app.app_context():
        found = db.session.get_one(TicketType, make_ticket_type())
        return {"ticket_type_id": found.id, "event_id": found.event_id, "category_id": found.event.category_id}


@pytest.fixture
def address(app, client, season, buyer, make_user, make_event, make_ticket_type, place, pay, staff, admin):
    """Make what an operation needs to succeed, and return its path."""

    def order(operation):
        found = place(buyer, season["ticket_type_id"]).get_json()
        if not operation.path.endswith(("cancel", "payments", "extend")):
            pay(found)
        again = pay(found, reference="again").get_json() if "{id}" in operation.path else {"id": None}
        return {"code": found["code"], "id": again["id"]}

    def transfer(user, **link):
        """A ticket of the user's on its way to somebody else, by a link if it is given."""
        found = place(user, season["ticket_type_id"]).get_json()
        pay(found)
        [ticket] = client.get(f"/orders/{found['code']}", headers=user.headers).get_json()["tickets"]
        with app.app_context():
            of_ticket = db.select(Ticket.id).where(Ticket.code == ticket["code"]).scalar_subquery()
            made = Transfer(ticket_id=of_ticket, user_id=user.id, to="x@example.com", expires_at=now(60))
            made.status = "pending"
            db.session.add(made)
            db.session.flush()
            db.session.add_all([TransferToken(transfer_id=made.id, **link)] if link else [])
            db.session.commit()
        return ticket

    def ticket(operation):
        if operation.operationId == "withdrawTicket":
            return transfer(admin)
        if operation.operationId == "offerTicket":
            found = place(admin, season["ticket_type_id"]).get_json()
            pay(found)
            return client.get("/tickets", headers=admin.headers).get_json()[0]
        order(operation)
        [ticket] = client.get("/tickets", headers=buyer.headers).get_json()
        if operation.method == "delete":
            client.post(f"/tickets/{ticket['code']}/check-in", headers=staff.headers)
        return {"code": ticket["code"]}

    def mail(operation):
        order(operation)
        with app.app_context():
            return {"id": db.session.scalar(db.select(Mail.id).limit(1))}

    def appointment(operation):
        ids = {"id": make_event(), "user": make_user().id}
        if operation.operationId == "dismissStaff":
            client.put("/events/{id}/staff/{user}".format(**ids), json={"role": "door"}, headers=admin.headers)
        return ids

    def category(operation):
        with app.app_context():
            made = create_category("Empty")
            db.session.commit()
            return {"id": made.id}

    def pool(operation):
        made = client.post(f"/events/{make_event()}/pools", json={"name": "Hall", "quantity": 9}, headers=admin.headers)
        return made.get_json()

    def promo_code(operation):
        body = {"code": PROMO_CODE.code, "percent": 20}
        return client.post(f"/events/{make_event()}/promo-codes", json=body, headers=admin.headers).get_json()

    def sell_out():
        with app.app_context():
            db.session.get_one(TicketType, season["ticket_type_id"]).quantity = 0
            db.session.commit()
        return {"id": season["event_id"]}

    def waiting(operation):
        body = {"ticket_type_id": season["ticket_type_id"], "quantity": 1}
        return client.post("/events/{id}/waiting".format(**sell_out()), json=body, headers=admin.headers).get_json()

    def event(operation):
        if operation.operationId == "waitForTickets":
            return sell_out()
        if "{promo}" not in operation.path:
            return appointment(operation)
        return {"id": promo_code(operation)["event_id"], "promo": PROMO_CODE.code}

    ways = {
        "users": lambda operation: {"id": make_user().id},
        "categories": category,
        "events": event,
        "ticket-types": lambda operation: {"id": make_ticket_type()},
        "pools": pool,
        "waiting": waiting,
        "promo-codes": promo_code,
        "orders": order,
        "tickets": ticket,
        "mails": mail,
    }

    def mailed_token(kind):
        with app.app_context():
            user = db.session.get_one(User, buyer.id)
            known = {
                "hash": hashed(MAILED_TOKEN),
                "user_id": user.id,
                "email": user.email,
                "token_version": user.token_version,
            }
            db.session.add(MailToken(kind=kind, expires_at=now(60), **known))
            db.session.commit()

    links = {"/password-resets/confirm": "password_reset", "/verifications": "verify_address"}

    def make(operation):
        if operation.path == "/transfers/accept":
            transfer(buyer, hash=hashed(MAILED_TOKEN))
        if operation.path in links:
            mailed_token(links[operation.path])
        if "{" not in operation.path:
            return operation.path
        return operation.path.format(**ways[operation.path.split("/")[1]](operation))

    return make


@pytest.fixture
def call(client, season, admin):
    """Call an operation as an admin with the body that the document gives as an example."""

    def send(operation, path=None, **request):
        [scheme] = operation.security[-1:] or [{}]
        token = admin.login["refresh_token" if "refreshToken" in scheme else "access_token"]
        headers = bearer(token) | request.pop("headers", {})
        if takes_body(operation) and "data" not in request:
            request = {"json": example(operation, season)} | request
        path = path or operation.path.format(**NOWHERE)
        return client.open(path, method=operation.method.upper(), headers=headers, **request)

    return send


def example(operation, ids):
    body = json.dumps(operation.requestBody["content"]["application/json"]["example"])
    return json.loads(re.sub(r'"(\w+_id)": \d+', lambda found: f'"{found[1]}": {ids[found[1]]}', body))


class TestExamples:
    """Every answer in these tests is held against the document by the `Witness`."""

    @operations(lambda it: it.path != "/login" and it.operationId != "deleteMe" and not BY_CARD.search(it.path))
    def test_example_succeeds(self, name, call, address):
        operation = OPERATIONS[name]
        assert call(operation, address(operation)).status_code < 400

    def test_deleting_oneself_is_described(self, client, buyer):
        answer = client.delete("/me", json={"current_password": PASSWORD}, headers=buyer.headers)
        assert answer.status_code == 204

    def test_sign_up_and_login_go_together(self, call):
        call(OPERATIONS["signUp"])
        assert call(OPERATIONS["logIn"]).status_code == 200

    def test_payment_once_more_is_described(self, call, address):
        operation = OPERATIONS["payOrder"]
        path = address(operation)
        call(operation, path)
        assert call(operation, path).status_code == 200

    @operations(lambda it: "304" in it.responses)
    def test_unchanged_answer_is_described(self, name, call, address):
        path = address(OPERATIONS[name])
        tag = call(OPERATIONS[name], path).headers["ETag"]
        assert call(OPERATIONS[name], path, headers={"If-None-Match": tag}).status_code == 304

    @operations(lambda it: "Idempotent-Replayed" in str(it.responses))
    def test_replayed_answer_is_described(self, name, call, address):
        path, headers = address(OPERATIONS[name]), {"Idempotency-Key": "once"}
        call(OPERATIONS[name], path, headers=headers)
        assert call(OPERATIONS[name], path, headers=headers).headers["Idempotent-Replayed"] == "true"

    @operations(lambda it: "text/csv" in str(it.responses) or "image/png" in str(it.responses) and "code" in it.path)
    @pytest.mark.parametrize("accept", ["text/csv", "image/png", "image/svg+xml"])
    def test_other_media_type_is_described(self, name, accept, call, address):
        assert call(OPERATIONS[name], address(OPERATIONS[name]), headers={"Accept": accept}).status_code == 200


class TestByCard:
    """Each answer is held against the document, as above."""

    def test_purchase_and_refunds(self, client, buyer, admin, order, checkout, settle, fake, notice):
        path = f"/orders/{order['code']}"
        assert [checkout(order).status_code, checkout(order, return_url="x").status_code] == [201, 400]
        shown = client.get(f"{path}/checkout", headers=buyer.headers)
        assert [checkout(order).status_code, shown.status_code] == [200, 200]
        fake.pay(fake.all("checkout.session")[0]["id"])
        assert [notice(secret="x").status_code, notice().status_code, settle(order).status_code] == [400, 200, 200]
        assert client.post(f"{path}/refund", json={"amount": 1}, headers=admin.headers).status_code == 200
        [made] = client.get(path, headers=admin.headers).get_json()["payments"][0]["refunds"]
        assert client.post(f"{path}/refunds/{made['code']}/retry", headers=admin.headers).status_code == 409

    def test_canceled_event(self, client, admin, order):
        event, body = f"/events/{order['event']['id']}", {"reason": "Illness"}
        assert client.post(f"{event}/refund-all", json=body, headers=admin.headers).status_code == 409
        client.patch(event, json={"status": "canceled"}, headers=admin.headers)
        assert client.post(f"{event}/refund-all", json=body, headers=admin.headers).status_code == 202

    def test_provider_away(self, order, checkout, fake):
        fake.fault(kind="down", times=3)
        assert checkout(order).status_code == 503


class TestErrors:
    @operations(protected)
    def test_missing_token_is_described(self, name, client):
        operation = OPERATIONS[name]
        path = operation.path.format(**NOWHERE)
        assert client.open(path, method=operation.method.upper()).status_code == 401

    @operations(lambda it: it.security and not protected(it))
    def test_bad_token_is_described(self, name, call):
        assert call(OPERATIONS[name], headers={"Authorization": "Bearer x"}).status_code == 401

    @operations(lambda it: protected(it) and any(it.security[0].values()))
    def test_wrong_role_is_described(self, name, call, buyer):
        nowhere = re.match("/(events|ticket-types)/", OPERATIONS[name].path) and "manager" in str(
            OPERATIONS[name].security
        )
        refused = 401 if name == "listUsers" else 404 if nowhere else 403
        assert call(OPERATIONS[name], headers=buyer.headers).status_code == refused

    @operations(lambda it: re.search("{(id|code)}", it.path))
    def test_unknown_id_is_described(self, name, call):
        assert call(OPERATIONS[name]).status_code == 404

    @operations(takes_body)
    def test_large_body_is_described(self, name, call):
        assert call(OPERATIONS[name], data=b" " * (2**20 + 1)).status_code == 413

    @operations(takes_body)
    @pytest.mark.parametrize(
        "status, request_",
        [
            (400, {"data": "{", "content_type": "application/json"}),
            (
                400,
                {
                    "json": dict.fromkeys(
                        (
                            *("email", "password", "name", "role", "items", "amount", "event_id", "return_url"),
                            *("reason", "attendee_name"),
                        ),
                        [],
                    )
                },
            ),
            (415, {"data": "name=x"}),
        ],
    )
    def test_bad_body_is_described(self, name, status, request_, call):
        assert call(OPERATIONS[name], **request_).status_code == status

    @operations(lambda it: takes_body(it) and "additionalProperties" in body_schema(it))
    def test_unknown_field_is_described(self, name, call):
        assert call(OPERATIONS[name], json={"unknown": 1}).status_code == 400

    @operations(lambda it: any(parameter.get("in") == "query" for parameter in it.parameters))
    def test_bad_query_is_described(self, name, call):
        assert call(OPERATIONS[name], query_string={"limit": 0}).status_code == 400

    @operations(lambda it: "412" in it.responses)
    def test_another_version_is_described(self, name, call, address):
        operation = OPERATIONS[name]
        assert call(operation, address(operation), headers={"If-Match": '"another"'}).status_code == 412

    @pytest.mark.parametrize("path", DOCUMENT["paths"])
    def test_wrong_method_names_the_described_ones(self, path):
        response = APP.test_client().open(path.format(**NOWHERE), method="PURGE")
        described = {method.upper() for method in DOCUMENT["paths"][path]}
        assert response.status_code == 405
        assert set(response.allow) == described | {"OPTIONS"} | ({"HEAD"} if "GET" in described else set())

    def test_too_many_logins_are_described(self, limited_client):
        body = {"email": "nobody@example.com", "password": "a guess"}
        statuses = [limited_client.post("/login", json=body).status_code for _ in range(11)]
        assert statuses == [401] * 10 + [429]


def least_of(schema):
    """A value that is within the schema."""
    schema = named(schema["$ref"]) if "$ref" in schema else schema
    if "properties" in schema:
        return {name: least_of(schema["properties"][name]) for name in schema["required"]}
    if "minimum" in schema:
        return schema["minimum"]
    return {"date-time": "2030-01-01T00:00:00Z"}.get(schema.get("format"), "0" * schema.get("maxLength", 32))


def bounds(schema):
    """Values at the bounds of a schema and beyond them, and whether they are within."""
    if "enum" in schema:
        yield from ((value, True) for value in schema["enum"])
        yield "another", False
    if "minimum" in schema:
        yield from ((schema["minimum"], True), (schema["minimum"] - 1, False))
        yield from ((schema["maximum"], True), (schema["maximum"] + 1, False))
    if "minItems" in schema:
        item, least = least_of(schema["items"]), schema["minItems"]
        yield from (([item] * n, within) for n, within in ((least, True), (schema["maxItems"] + 1, False)))
        yield from (([item] * n, False) for n in range(least))
    if "maxLength" in schema:
        start = "http://" if schema.get("format") == "uri" else ""
        longest = start + "x" * (schema["maxLength"] - len(start))
        yield from ((longest, True), (longest + "x", False), (" " * schema["maxLength"], False), ("x\0" * 4, False))
    if "minLength" in schema and "format" not in schema:
        yield from (("x" * schema["minLength"], True), ("x" * (schema["minLength"] - 1), False))


def arguments(kind):
    for operation in OPERATIONS.values():
        rule = next(it for it in APP.url_map.iter_rules() if re.sub(r"<\w+:(\w+)>", r"{\1}", it.rule) == operation.path)
        view = getattr(APP.view_functions[rule.endpoint].view_class, operation.method)
        for field in getattr(view, kind).args if hasattr(view, kind) else ():
            yield pytest.param(operation, field, id=f"{operation.operationId}-{field.name}")


class TestBounds:
    @pytest.mark.parametrize("operation, field", list(arguments("body")))
    def test_body_is_bounded_as_described(self, operation, field):
        schema = body_schema(operation)
        within = schema["properties"][field.name]
        assert [accepts(field, value) for value, _ in bounds(within)] == [expected for _, expected in bounds(within)]
        assert accepts(field, None) == ("null" in within["type"])
        assert (field.required is True) == (field.name in schema.get("required", []))

    @pytest.mark.parametrize("operation, field", list(arguments("query")))
    def test_query_is_bounded_as_described(self, operation, field):
        [within] = [
            it["schema"] for it in operation.parameters if (it.get("in"), it.get("name")) == ("query", field.name)
        ]
        for value, expected in bounds(within):
            assert accepts(field, str(value)) == expected


def accepts(field, value):
    try:
        field.convert(value, "=")
    except ValueError:
        return False
    return True


PARSERS = {"events": new_event, "ticket-types": new_ticket_type, "promo-codes": new_promo_code}
DEFAULTS = {kind: {field.name: field.default for field in parser.args} for kind, parser in PARSERS.items()}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_default_holds_where_the_field_is_left_out(kind, app, client, admin, make_event, season):
    needed = {name for name, default in DEFAULTS[kind].items() if default is None}
    path = f"/events/{make_event()}/{kind}" if kind != "events" else "/events"
    [operation] = [it for it in OPERATIONS.values() if it.method == "post" and is_path(it.path, path)]
    body = {name: value for name, value in example(operation, season).items() if name in needed}
    made = client.post(path, json=body, headers=admin.headers).get_json()
    described = {name: default for name, default in DEFAULTS[kind].items() if default is not None}
    assert {name: made[name] for name in described} == described
    assert described


class TestCompression:
    """Of the document and of the files of its page."""

    PATHS = ("/openapi.json", "/docs/start.css", "/docs/swagger-ui-bundle.js")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("accept", ["gzip", "br, gzip;q=0.5", "*"])
    def test_answer_is_compressed_where_the_client_takes_it(self, path, accept):
        plain = APP.test_client().get(path)
        packed = APP.test_client().get(path, headers={"Accept-Encoding": accept})
        assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert gzip.decompress(packed.data) == plain.data
        assert len(packed.data) < len(plain.data)

    @pytest.mark.parametrize("accept", ["", "br", "gzip;q=0", "identity"])
    def test_answer_is_plain_where_it_does_not(self, accept):
        plain = APP.test_client().get("/openapi.json", headers={"Accept-Encoding": accept})
        assert "Content-Encoding" not in plain.headers
        assert plain.headers["Vary"] == "Accept-Encoding"

    @pytest.mark.parametrize("path", PATHS)
    def test_tag_of_a_compressed_answer_is_good(self, path):
        packed = {"Accept-Encoding": "gzip"}
        tag = APP.test_client().get(path, headers=packed).headers["ETag"]
        answer = APP.test_client().get(path, headers=packed | {"If-None-Match": tag})
        assert tag.startswith("W/")
        assert (answer.status_code, answer.data) == (304, b"")
