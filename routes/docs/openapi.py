"""The API's description of itself in OpenAPI 3.1.

It is read from what is in force: the table of routes, the guards, the parsers, the models' columns and
`serialize_only`, and for each error the handler that answers it. What the code can't say is in `answers`.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from inspect import cleandoc
from typing import Any, cast

import orjson
from flask import Response, current_app, request
from flask_restful import Resource
from sqlalchemy import CheckConstraint, inspect
from werkzeug.exceptions import (
    BadRequest,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from werkzeug.routing import Rule

from models import APPOINTMENTS, ROLES, IdempotencyKeyReused, Outdated, Serializable, as_json
from routes.docs import examples
from routes.docs.answers import Answer, answers
from routes.docs.compression import compressed
from routes.docs.names import MODEL, PROBLEM, name_nested, name_schemas
from routes.docs.operations import links, operation_id, place_in_story
from routes.http.access import is_admin, public, sees_orders
from routes.http.errors import too_many_requests
from routes.http.etags import conditional
from routes.http.idempotency import KEY
from routes.http.json import OPTIONS
from routes.http.parsing import ClosedParser, Field, Integer, Parameter, Schema, schema_of
from routes.http.tokens import ENDED, EXPIRED, INVALID, MISSING, BadToken
from routes.http.views import JSON

Names = tuple[str, ...]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

ABOUT = """
Events and their ticket types, orders and payments, and tickets that are checked in at the door. A ticket is sold like
this, and the calls stand in this order:

1. `POST /sign-up` opens an account, and `POST /login` answers an access token. It goes with all that follows as
   `Authorization: Bearer <token>`; on the page at `/docs`, who logs in has it sent by the page.
2. `GET /events` lists what is on, and `GET /events/{id}` what it costs.
3. `POST /orders` holds places for some minutes. With a new `Idempotency-Key` it can be sent again after a lost answer.
4. `POST /orders/{code}/payments` is for staff who take the money; by card, the buyer pays on the page that
   `POST /orders/{code}/checkout` opens. An order of 0 is paid at once.
5. `GET /tickets` lists the buyer's tickets, and `POST /tickets/{code}/check-in` lets in whoever shows one.

What holds for all calls:

- Beside the roles `user`, `staff` and `admin`, people are appointed for single events, as `door` or `manager`.
- Times are ISO 8601 in UTC. What is sent must have an offset; it may be any.
- Money is an integer in the currency's minor unit: 2500 is 25.00.
- Texts are trimmed and kept in Unicode's composed form (NFC). Fields that are not known are ignored, and PATCH changes
  only what is sent.
- Lists that grow come in pages: follow `Link: <...>; rel="next"` as long as there is one.
- Every error is `{"message": ...}`: a text, or for bad fields an object with a text for each. A refusal by a rule (409)
  has a `reason` that stays the same, and what is needed to go on.
- Every answer has an `X-Request-ID`, the client's own or a new one, by which it is found in the log.
- Fields may be added to answers at any time: ignore those that are not known.
- Every GET answers HEAD too, and every path OPTIONS. Any other method is a 405, whose `Allow` names those there are.
"""
SCHEMES = {
    "accessToken": "The `access_token` of a log-in or a refresh",
    "refreshToken": "The last `refresh_token`, which is good for `POST /refresh` and `POST /logout` alone",
}
HEADERS = {
    "Location": "Where to GET what was made",
    "Link": 'The next page, `rel="next"`, while there is more',
    "ETag": "The version, for `If-None-Match` and `If-Match`",
    "Idempotent-Replayed": "`true` where the key had this answer before",
    "WWW-Authenticate": "What is wrong with the token",
    "Retry-After": "In how many seconds to try again",
}
STRING = {"type": "string"}
REQUEST_HEADERS = {
    "If-None-Match": (STRING, "The `ETag` of an answer one has: the answer is a 304 while it is still good"),
    "If-Match": (STRING, "The `ETag` that is being changed: the answer is a 412 when somebody has changed it since"),
    "Idempotency-Key": (
        STRING | {"pattern": KEY},
        "A new random text for each thing to be done; with the same one, a repeated call answers what it answered",
    ),
}
TIME = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
TYPES: dict[type, Schema] = {
    str: STRING,
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    datetime: TIME,
    dict: {"type": "object"},
    list: {"type": "array", "items": {}},
    type(None): {"type": "null"},
}
ERROR = {"type": "object", "properties": {"message": STRING}, "required": ["message"]}


class OpenAPIResource(Resource):
    @public
    @compressed
    @conditional
    @answers(200, {"openapi": "3.1.1", "info": {}, "servers": [], "tags": [], "paths": {}, "components": {}})
    def get(self) -> JSON:
        """Describe the API in OpenAPI 3.1."""
        known = current_app.extensions
        if "openapi" not in known:
            known["openapi"] = document()
        return known["openapi"] | {"servers": [{"url": request.root_path or "/"}]}


def document() -> JSON:
    paths: dict[str, JSON] = defaultdict(dict)
    tags: dict[str, str] = {}
    schemas = {PROBLEM: ERROR} | {type(it).__name__: fields_of(it, it.serialize_only) for it in examples.MODELS}
    for rule, resource, views in calls():
        tags[tag(resource)] = (sys.modules[resource.__module__].__doc__ or "").partition("\n\n")[0]
        path = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
        for view in views:
            paths[path][view.__name__] = operation(rule, resource, view)
            name_schemas(paths[path][view.__name__], schemas)
    name_nested(schemas)
    link(paths)
    used = set(re.findall(f"{MODEL}(\\w+)", str([paths, schemas])))
    return {
        "openapi": "3.1.1",
        "info": {"title": "Ticketing Application", "version": "1", "description": ABOUT.strip()},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in tags.items()],
        "paths": in_order(paths),
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name in used},
            "parameters": {
                name: {"name": name, "in": "header", "description": about, "schema": schema}
                for name, (schema, about) in REQUEST_HEADERS.items()
            },
            "headers": {name: {"description": about, "schema": STRING} for name, about in HEADERS.items()},
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": about}
                for name, about in SCHEMES.items()
            },
        },
    }


def calls() -> list[tuple[Rule, Any, list[Any]]]:
    """The rules with their resources and methods, in the order of the story and then of the table.

    Left out are those of somebody else, of which nothing is known, and the documentation's own.
    """
    found = []
    for rule in current_app.url_map.iter_rules():
        resource = getattr(current_app.view_functions[rule.endpoint], "view_class", None)
        methods = [method for method in METHODS if method in (rule.methods or ())]
        views = [getattr(resource, method.lower(), None) for method in methods]
        known = [view for view in views if hasattr(view, "answers")]
        if known and not resource.__module__.startswith(__package__):
            found.append((rule, resource, sorted(known, key=lambda view: place_of(resource, view))))
    return sorted(found, key=lambda call: place_of(call[1], call[2][0]))


def place_of(resource: Any, view: Any) -> int:
    return place_in_story(operation_id(resource.__name__, view.__name__))


def link(paths: Mapping[str, JSON]) -> None:
    """Say in each good answer with what calls one may go on."""
    calls = {it["operationId"]: it for methods in paths.values() for it in methods.values()}
    for id, call in calls.items():
        found = links(id, calls)
        if found:
            next(iter(call["responses"].values()))["links"] = found


def in_order(paths: Mapping[str, JSON]) -> orjson.Fragment:
    """Paths and methods as they stand, which the page shows so; whatever is in them is sorted like any JSON of ours."""
    kept = {path: {name: in_json(it) for name, it in methods.items()} for path, methods in paths.items()}
    return orjson.Fragment(orjson.dumps(kept))


def in_json(operation: JSON) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(operation, option=OPTIONS))


def tag(resource: Any) -> str:
    return resource.__module__.rpartition(".")[2].replace("_", " ")


def operation(rule: Rule, resource: Any, view: Any) -> JSON:
    name = operation_id(resource.__name__, view.__name__)
    about = cleandoc(view.__doc__ or name)  # Python's -OO leaves no docstrings
    found = {
        "operationId": name,
        "tags": [tag(resource)],
        "summary": summary(about),
        "description": f"{about}\n\nFor {who(view)}.",
        "security": security(view),
        "parameters": parameters(rule, view),
        "responses": responses(rule, view),
    }
    return found | ({"requestBody": request_body(view)} if hasattr(view, "body") else {})


def summary(about: str) -> str:
    """The first clause, as a plain text."""
    clause = re.split(r"[.;:](?:\s|$)", about, maxsplit=1)[0]
    return " ".join(clause.replace("`", "").split())


def who(view: Any) -> str:
    if view.roles is None:
        return "anybody; a token that is sent is checked" if hasattr(view, "token_optional") else "anybody"
    if set(view.roles) == set(ROLES):
        return "anybody who is signed in"
    roles = " and ".join(role for role in view.roles if role in ROLES)
    appointed = " and ".join(role for role in view.roles if role in APPOINTMENTS)
    return f"{roles}, and who is {appointed} of the event" if appointed else roles


def security(view: Any) -> list[JSON]:
    if view.roles is None:
        return [{}, {"accessToken": []}] if hasattr(view, "token_optional") else []
    scopes = [] if set(view.roles) == set(ROLES) else view.roles
    kinds = ["access", "refresh"] if view.token == "either" else [view.token]
    return [{f"{kind}Token": scopes} for kind in kinds]


def parameters(rule: Rule, view: Any) -> list[JSON]:
    converters: Mapping[str, Any] = current_app.url_map.converters
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": converters[converter].schema,
            "example": examples.PATH[name],
        }
        for converter, name in re.findall(r"<(\w+):(\w+)>", rule.rule)
    ]
    found += [query_parameter(it) for it in arguments(view, "query")]
    return found + [{"$ref": f"#/components/parameters/{name}"} for name in request_headers(view)]


def query_parameter(it: Parameter) -> JSON:
    who = {is_admin: "admins", sees_orders: "staff and admins, and managers with their `event`"}.get(it.only_if)
    about = f"{it.about}. For {who}; from others it is ignored" if who else it.about
    default = {"default": it.default} if it.default is not None else {}
    return {"name": it.name, "in": "query", "description": about, "schema": it.type.schema | default}


def arguments(view: Any, kind: str) -> list[Any]:
    return getattr(view, kind).args if hasattr(view, kind) else []


def request_headers(view: Any) -> list[str]:
    sent = {
        "If-None-Match": hasattr(view, "conditional"),
        "If-Match": any(isinstance(error, Outdated) for error in view.refuses),
        "Idempotency-Key": hasattr(view, "idempotent"),
    }
    return [name for name, is_sent in sent.items() if is_sent]


def request_body(view: Any) -> JSON:
    schema: Schema = {"type": "object", "properties": {it.name: taken(it) for it in view.body.args}}
    if isinstance(view.body, ClosedParser):
        schema["additionalProperties"] = False
    required = [it.name for it in view.body.args if it.required is True]
    content = {"schema": schema | ({"required": required} if required else {}), "example": sent(view)}
    return {"required": not view.body_optional, "content": {"application/json": content}}


def taken(field: Field) -> Schema:
    schema = schema_of(field)
    return schema | {"format": "int64"} if field.name in MONEY and isinstance(field.type, Integer) else schema


def sent(view: Any) -> JSON:
    given = view.sends
    return given if isinstance(given, dict) else {it.name: getattr(given, it.name) for it in view.body.args}


def responses(rule: Rule, view: Any) -> JSON:
    found = {str(status): answered(view, status, it) for status, it in view.answers.items()}
    if hasattr(view, "conditional"):
        found["304"] = response(304, {}, success_headers(view))
    refused: dict[int, list[Response]] = defaultdict(list)
    for error in errors(rule, view):
        answer = cast(Response, current_app.handle_user_exception(error))
        refused[answer.status_code].append(answer)
    for status, given in refused.items():
        bodies = [answer.get_json() for answer in given]
        schema = any_of(error_schema(body, view) for body in bodies)
        several = {label(body): {"value": body} for body in bodies}
        content = {"schema": schema} | ({"examples": several} if len(several) > 1 else {"example": bodies[0]})
        names = [name for name in HEADERS if any(name in answer.headers for answer in given)]
        found[str(status)] = response(status, {"application/json": content}, names)
    return dict(sorted(found.items()))


def of_media(media: str) -> Schema:
    return STRING | {"format": "binary"} if media.startswith("image/") else STRING


def answered(view: Any, status: int, answer: Answer) -> JSON:
    content = {media: {"schema": of_media(media), "example": it} for media, it in answer.media.items()}
    if answer.example is not None:
        schema = described(answer.example, answer.plus, answer.sometimes)
        json = {"schema": schema, "example": shown(answer.example, answer.plus)}
        content = {"application/json": json} | content
    return response(status, content, [*answer.headers, *success_headers(view)])


def success_headers(view: Any) -> list[str]:
    given = {
        "Link": any(it.name == "after" for it in arguments(view, "query")),
        "ETag": hasattr(view, "tagged"),
        "Idempotent-Replayed": hasattr(view, "idempotent"),
    }
    return [name for name, sent in given.items() if sent]


def response(status: int, content: JSON, headers: Iterable[str]) -> JSON:
    sent = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    more = {"headers": sent, "content": content}
    return {"description": HTTPStatus(status).phrase} | {name: it for name, it in more.items() if it}


def errors(rule: Rule, view: Any) -> Iterator[Exception]:
    """All that the call may be refused with, as it would be raised."""
    if view.roles is not None or hasattr(view, "token_optional"):
        yield from (BadToken(*it) for it in (MISSING, INVALID, EXPIRED, ENDED))
    if view.roles is not None and set(view.roles) != set(ROLES):
        yield view.refusal(view.refusal.__name__)
    if rule.arguments or set(view.roles or ()) & set(APPOINTMENTS):
        yield NotFound()
    if request_fields(view):
        wrong = (arguments(view, "query") + arguments(view, "body"))[0]
        yield bad_request({wrong.name: complaint(wrong)})
    if hasattr(view, "body"):
        yield bad_request("The body is not valid JSON")
        yield RequestEntityTooLarge()
        yield UnsupportedMediaType("The body must be JSON, with the Content-Type application/json")
    if hasattr(view, "limited"):
        yield too_many_requests(60)
    if hasattr(view, "idempotent"):
        yield IdempotencyKeyReused()
    yield from view.refuses
    yield ServiceUnavailable("The database does not answer. Please try again.", retry_after=1)


def complaint(field: Field) -> str:
    """The error for a field: that it is missing, or where it is optional, that a NUL is no value for it."""
    try:
        return field.required_message if field.required else field.type("\0")
    except ValueError as error:
        return str(error)


def bad_request(message: Any) -> BadRequest:
    error = BadRequest()
    vars(error)["data"] = {"message": message}
    return error


def request_fields(view: Any) -> list[str]:
    given = [it.name for it in arguments(view, "query") + arguments(view, "body")]
    return given + (["Idempotency-Key"] if hasattr(view, "idempotent") else [])


def error_schema(body: JSON, view: Any) -> Schema:
    schema = described(body)
    if "reason" in body:
        schema["properties"]["reason"] = STRING | {"const": body["reason"]}
    elif isinstance(body["message"], dict):
        messages = {"type": "object", "properties": dict.fromkeys(request_fields(view), STRING)}
        unknown = {"additionalProperties": STRING} if isinstance(getattr(view, "body", None), ClosedParser) else {}
        schema["properties"]["message"] = messages | {"minProperties": 1} | unknown
    return {"$ref": MODEL + PROBLEM} if schema == ERROR else schema


def label(body: JSON) -> str:
    return body.get("reason") or (body["message"] if isinstance(body["message"], str) else "Bad fields")


def described(example: Any, plus: Names = (), sometimes: Mapping[str, Any] | None = None) -> Schema:
    """The schema of what is answered like `example`. An empty list or object stands for any."""
    if isinstance(example, Serializable):
        if not plus and not sometimes:
            return reference(example)
        schema = fields_of(example, example.serialize_only + plus)
        more = {name: described(value) for name, value in (sometimes or {}).items()}
        return schema | {"properties": schema["properties"] | more}
    if isinstance(example, list) and example:
        return {"type": "array", "items": alike([described(it, plus, sometimes) for it in example])}
    if isinstance(example, dict) and example:
        return whole({name: named(name, value) for name, value in example.items()})
    return TYPES[type(example)]


def named(name: str, value: Any) -> Schema:
    """The schema of a field that is no column: its example may be `null`, or what it is when it is not."""
    if name not in examples.MAY_BE_NULL:
        return wide(name, described(value))
    schema = TYPES[examples.MAY_BE_NULL[name]]
    return schema | {"type": [schema["type"], "null"]}


def shown(example: Any, plus: Names = ()) -> Any:
    """What is answered, written as the answer itself would be."""
    if isinstance(example, Serializable):
        return as_json(example, example.serialize_only + plus)
    if isinstance(example, list):
        return [shown(it, plus) for it in example]
    return {name: shown(value) for name, value in example.items()} if isinstance(example, dict) else example


def reference(model: Any) -> Schema:
    return {"$ref": MODEL + type(model).__name__}


def whole(properties: JSON) -> Schema:
    """An object with all of these fields. It may come to have more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def alike(entries: list[Schema]) -> Schema:
    """The one shape of a list's entries: a field that is `null` in one of them may be `null`."""
    first = entries[0]
    if "properties" not in first:
        return any_of(entries)
    fields = {name: may_be_null([it["properties"][name] for it in entries]) for name in first["properties"]}
    return first | {"properties": fields}


def may_be_null(schemas: list[Schema]) -> Schema:
    null = TYPES[type(None)]
    schema = any_of([it for it in schemas if it != null] or [null])
    return schema | {"type": [schema["type"], "null"]} if null in schemas and schema != null else schema


def any_of(schemas: Iterable[Schema]) -> Schema:
    schemas = list(schemas)
    distinct = [schema for place, schema in enumerate(schemas) if schema not in schemas[:place]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def fields_of(model: Any, names: Names) -> Schema:
    """The fields of a model that leave, named as in `serialize_only`: `event.id` is the id in an object `event`."""
    inner: dict[str, Names] = defaultdict(tuple)
    for name in names:
        first, _, rest = name.partition(".")
        inner[first] += (rest,) if rest else ()
    return whole({name: field(model, name, rest) for name, rest in inner.items()})


def field(model: Any, name: str, inner: Names) -> Schema:
    value = getattr(model, name)
    if inner:
        fields = fields_of(value, inner)
        return {"anyOf": [fields, TYPES[type(None)]]} if may_be_missing(model, name) else fields
    column = model.__table__.columns.get(name)
    if value == [] and name in inspect(type(model)).relationships:
        of = inspect(type(model)).relationships[name].mapper.class_
        return {"type": "array", "items": reference(of())}
    if column is None:
        choices = getattr(model, "CHOICES", {}).get(name)
        return named(name, value) | ({"enum": list(choices)} if choices else {})
    schema = TYPES[column.type.python_type] | allowed(column)
    schema = wide(name, schema)
    return schema | {"type": [schema["type"], "null"]} if column.nullable else schema


MONEY = ("price", "full_price", "unit_price", "promo_price", "amount", "total", "expected_total", "revenue", "refunded")


def wide(name: str, schema: Schema) -> Schema:
    """Amounts of money may be more than 32 bits hold, whatever their column has."""
    return schema | {"format": "int64"} if name in MONEY and schema.get("type") == "integer" else schema


def may_be_missing(model: Any, name: str) -> bool:
    """Whether a row may refer to none."""
    return any(column.nullable for column in inspect(type(model)).relationships[name].local_columns)


def allowed(column: Any) -> Schema:
    """The values that a check of the table lists for the column."""
    checks = [str(it.sqltext) for it in column.table.constraints if isinstance(it, CheckConstraint)]
    lists = [check for check in checks if re.fullmatch(rf"{column.name} IN \([^)]*\)", check)]
    return {"enum": re.findall(r"'(\w+)'", lists[0])} if lists else {}
