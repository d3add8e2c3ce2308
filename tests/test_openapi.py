"""The document of the API is valid, knows all there is, and is true of what is answered."""

import json
import re
from types import SimpleNamespace

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import create_app
from models import Category, Refused, TicketType, db
from routes.limits import limiter
from tests.conftest import CONFIG, dispose

APP = create_app(CONFIG)
DOCUMENT = APP.test_client().get("/openapi.json").get_json()
OPERATIONS = {
    operation["operationId"]: SimpleNamespace(path=path, method=method, **operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def described(response):
    """The operation that was called, after checking that it describes the response: status, headers and body."""
    method, path = response.request.method.lower(), response.request.path
    [operation] = [it for it in OPERATIONS.values() if it.method == method and is_path(it.path, path)]
    answer = operation.responses[str(response.status_code)]
    for name in set(DOCUMENT["components"]["headers"]) & set(response.headers.keys()):
        assert name in answer["headers"], f"{name} is not described"
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
    whole = schema | {"components": DOCUMENT["components"]}
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


class TestDocument:
    def test_it_is_valid(self):
        OpenAPIV31SpecValidator(DOCUMENT).validate()

    def test_it_knows_every_route_and_method(self):
        routed = {
            (re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule), method.lower())
            for rule in APP.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }
        assert {(it.path, it.method) for it in OPERATIONS.values()} == routed

    def test_it_knows_every_refusal(self):
        reasons = re.findall(r"'const': '(\w+)'", str(DOCUMENT))
        assert set(reasons) == {refusal.reason for refusal in Refused.__subclasses__()} | {"outdated"}

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
        check(body["schema"] | {"additionalProperties": False}, body["example"])

    @operations(lambda it: True)
    def test_every_answer_is_closed(self, name):
        for answer in OPERATIONS[name].responses.values():
            assert all(it["additionalProperties"] is False for it in objects(answer))

    @pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
    def test_every_model_is_closed_and_whole(self, name):
        for schema in objects(DOCUMENT["components"]["schemas"][name]):
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) == set(schema["properties"])


def objects(node):
    """The schemas of objects in a part of the document."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and isinstance(node.get("properties"), dict):
        yield node
    for part in inner:
        yield from objects(part)


@pytest.fixture
def season(app, make_ticket_type):
    """What the ids in the examples stand for."""
    with app.app_context():
        found = db.session.get_one(TicketType, make_ticket_type())
        return {"ticket_type_id": found.id, "event_id": found.event_id, "category_id": found.event.category_id}


@pytest.fixture
def address(app, client, season, buyer, make_user, make_event, make_ticket_type, place, pay, staff):
    """Make what an operation needs to succeed, and return its path."""

    def order(operation):
        found = place(buyer, season["ticket_type_id"]).get_json()
        if not operation.path.endswith(("cancel", "payments")):
            pay(found)
        again = pay(found, reference="again").get_json() if "{id}" in operation.path else {"id": None}
        return {"code": found["code"], "id": again["id"]}

    def ticket(operation):
        order(operation)
        [ticket] = client.get("/tickets", headers=buyer.headers).get_json()
        if operation.method == "delete":
            client.post(f"/tickets/{ticket['code']}/check-in", headers=staff.headers)
        return {"code": ticket["code"]}

    def category(operation):
        with app.app_context():
            made = Category.create("Empty")
            db.session.commit()
            return {"id": made.id}

    ways = {
        "users": lambda operation: {"id": make_user().id},
        "categories": category,
        "events": lambda operation: {"id": make_event()},
        "ticket-types": lambda operation: {"id": make_ticket_type()},
        "orders": order,
        "tickets": ticket,
        "docs": lambda operation: {"file": "start.js"},
    }

    def make(operation):
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
        headers = {"Authorization": f"Bearer {token}"} | request.pop("headers", {})
        if takes_body(operation) and "data" not in request:
            request = {"json": example(operation, season)} | request
        path = path or operation.path.format(id=2**31 - 1, code="0" * 32, file="start.js")
        return client.open(path, method=operation.method.upper(), headers=headers, **request)

    return send


def example(operation, ids):
    body = json.dumps(operation.requestBody["content"]["application/json"]["example"])
    return json.loads(re.sub(r'"(\w+_id)": \d+', lambda found: f'"{found[1]}": {ids[found[1]]}', body))


class TestExamples:
    """Every answer in these tests is held against the document by the `Witness`."""

    @operations(lambda it: it.path != "/login")
    def test_example_succeeds(self, name, call, address):
        operation = OPERATIONS[name]
        assert call(operation, address(operation)).status_code < 300

    def test_sign_up_and_login_go_together(self, call):
        call(OPERATIONS["postUserSignup"])
        assert call(OPERATIONS["postLoginResource"]).status_code == 200

    def test_payment_once_more_is_described(self, call, address):
        operation = OPERATIONS["postPaymentList"]
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


class TestErrors:
    @operations(protected)
    def test_missing_token_is_described(self, name, client):
        operation = OPERATIONS[name]
        path = operation.path.format(id=1, code="0" * 32)
        assert client.open(path, method=operation.method.upper()).status_code == 401

    @operations(lambda it: it.security and not protected(it))
    def test_bad_token_is_described(self, name, call):
        assert call(OPERATIONS[name], headers={"Authorization": "Bearer x"}).status_code == 401

    @operations(lambda it: protected(it) and any(it.security[0].values()))
    def test_wrong_role_is_described(self, name, call, buyer):
        refused = 401 if name == "getUserResource" else 403
        assert call(OPERATIONS[name], headers=buyer.headers).status_code == refused

    @operations(lambda it: re.search("{(id|code)}", it.path))
    def test_unknown_id_is_described(self, name, call):
        assert call(OPERATIONS[name]).status_code == 404

    @operations(lambda it: True)
    def test_large_body_is_described(self, name, call):
        assert call(OPERATIONS[name], data=b" " * (2**20 + 1)).status_code == 413

    @operations(takes_body)
    @pytest.mark.parametrize(
        "status, request_",
        [
            (400, {"data": "{", "content_type": "application/json"}),
            (400, {"json": dict.fromkeys(("email", "password", "name", "role", "items", "amount", "event_id"), [])}),
            (415, {"data": "name=x"}),
        ],
    )
    def test_bad_body_is_described(self, name, status, request_, call):
        assert call(OPERATIONS[name], **request_).status_code == status

    @operations(lambda it: any(parameter["in"] == "query" for parameter in it.parameters))
    def test_bad_query_is_described(self, name, call):
        assert call(OPERATIONS[name], query_string={"limit": 0}).status_code == 400

    @operations(lambda it: "412" in it.responses)
    def test_another_version_is_described(self, name, call, address):
        operation = OPERATIONS[name]
        assert call(operation, address(operation), headers={"If-Match": '"another"'}).status_code == 412

    @pytest.mark.parametrize("path", DOCUMENT["paths"])
    def test_wrong_method_names_the_described_ones(self, path):
        response = APP.test_client().put(path.format(id=1, code="0" * 32, file="start.js"))
        described = {method.upper() for method in DOCUMENT["paths"][path]}
        assert response.status_code == 405
        assert set(response.allow) == described | {"OPTIONS"} | ({"HEAD"} if "GET" in described else set())

    def test_too_many_logins_are_described(self, limited_client):
        body = {"email": "nobody@example.com", "password": "a guess"}
        statuses = [limited_client.post("/login", json=body).status_code for _ in range(11)]
        assert statuses == [401] * 10 + [429]


def bounds(schema):
    """Values at the bounds of a schema and beyond them, and whether they are within."""
    if "enum" in schema:
        yield from ((value, True) for value in schema["enum"])
        yield "another", False
    if "minimum" in schema:
        yield from ((schema["minimum"], True), (schema["minimum"] - 1, False))
        yield from ((schema["maximum"], True), (schema["maximum"] + 1, False))
    if "minItems" in schema:
        item = {name: inner["minimum"] for name, inner in schema["items"]["properties"].items()}
        yield from (([item] * n, within) for n, within in ((0, False), (1, True), (schema["maxItems"] + 1, False)))
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
        schema = operation.requestBody["content"]["application/json"]["schema"]
        within = schema["properties"][field.name]
        assert [accepts(field, value) for value, _ in bounds(within)] == [expected for _, expected in bounds(within)]
        assert accepts(field, None) == ("null" in within["type"])
        assert (field.required is True) == (field.name in schema.get("required", []))

    @pytest.mark.parametrize("operation, field", list(arguments("query")))
    def test_query_is_bounded_as_described(self, operation, field):
        [within] = [it["schema"] for it in operation.parameters if (it["in"], it["name"]) == ("query", field.name)]
        for value, expected in bounds(within):
            assert accepts(field, str(value)) == expected


def accepts(field, value):
    try:
        field.convert(value, "=")
    except ValueError:
        return False
    return True
