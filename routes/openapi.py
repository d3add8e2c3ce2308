"""The API's description of itself in OpenAPI 3.1.

It is read from what is in force: the table of routes, the guards, the parsers, the models' columns and
`serialize_only`, and for each error the handler that answers it. What the code can't say is in `answers`.
"""

import re
import sys
from collections import defaultdict
from datetime import datetime
from http import HTTPStatus
from inspect import cleandoc

from flask import current_app
from flask_restful import Resource
from sqlalchemy import CheckConstraint
from werkzeug.exceptions import (
    BadRequest,
    NotFound,
    PreconditionFailed,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)

from models import ROLES, KeyReused, Outdated, db
from routes.access import is_admin, public
from routes.answers import answers, conditional
from routes.errors import too_many_requests
from routes.examples import PATH, SEASON
from routes.idempotency import KEY

ABOUT = """
Events and their ticket types, orders and payments, and tickets that are checked in at the door.

- Sign up, log in, and send the access token as `Authorization: Bearer <token>`.
- Times are ISO 8601 in UTC. What is sent must have an offset; it may be any.
- Money is an integer in the currency's minor unit: 2500 is 25.00.
- Texts are trimmed, fields that are not known are ignored, and PATCH changes only what is sent.
- Lists that grow come in pages: follow `Link: <...>; rel="next"` as long as there is one.
- Every error is `{"message": ...}`: a text, or for bad fields an object with a text for each. A refusal by a rule (409)
  has a `reason` that stays the same, and what is needed to go on.
- Every GET answers HEAD too, and every path OPTIONS. Any other method is a 405, whose `Allow` names those there are.
"""
SCHEMES = {
    "accessToken": "The `access_token` of a log-in or a refresh",
    "refreshToken": "The `refresh_token` of a log-in, which is good for `POST /refresh` alone",
}
HEADERS = {
    "X-Request-ID": "The id of the request: the client's own, or a new one",
    "Location": "Where to GET what was made",
    "Link": 'The next page, `rel="next"`, while there is more',
    "ETag": "The version, for `If-None-Match` and `If-Match`",
    "Idempotent-Replayed": "`true` where the key had this answer before",
    "WWW-Authenticate": "What is wrong with the token",
    "Retry-After": "In how many seconds to try again",
}
STRING = {"type": "string"}
TIME = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
TYPES = {str: STRING, int: {"type": "integer"}, bool: {"type": "boolean"}, datetime: TIME, type(None): {"type": "null"}}
ERROR = {
    "type": "object",
    "properties": {"message": STRING},
    "required": ["message"],
    "additionalProperties": False,
}


class OpenAPIResource(Resource):
    @public
    @conditional
    @answers(200, {"openapi": "3.1.1", "info": {}, "servers": [], "tags": [], "paths": {}, "components": {}})
    def get(self):
        """Describe the API in OpenAPI 3.1."""
        known = current_app.extensions
        if "openapi" not in known:
            known["openapi"] = document()
        return known["openapi"]


def document():
    paths, tags = defaultdict(dict), {}
    for rule in current_app.url_map.iter_rules():
        resource = current_app.view_functions[rule.endpoint].view_class
        tags[tag(resource)] = sys.modules[resource.__module__].__doc__.partition("\n\n")[0]
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
            path = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
            paths[path][method.lower()] = operation(rule, resource, getattr(resource, method.lower()))
    return {
        "openapi": "3.1.1",
        "info": {"title": "Ticketing Application", "version": "1", "description": ABOUT.strip()},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in tags.items()],
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR} | {type(it).__name__: fields_of(it, it.serialize_only) for it in SEASON},
            "headers": {name: {"description": about, "schema": STRING} for name, about in HEADERS.items()},
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": about}
                for name, about in SCHEMES.items()
            },
        },
    }


def tag(resource):
    return resource.__module__.rpartition(".")[2].replace("_", " ")


def operation(rule, resource, view):
    summary, _, more = cleandoc(view.__doc__).partition("\n\n")
    found = {
        "operationId": view.__name__ + resource.__name__,
        "tags": [tag(resource)],
        "summary": " ".join(summary.split()),
        "description": f"{more}\n\nFor {who(view)}.".strip(),
        "security": security(view),
        "parameters": parameters(rule, view),
        "responses": responses(rule, view),
    }
    return found | ({"requestBody": request_body(view)} if hasattr(view, "body") else {})


def who(view):
    if view.roles is None:
        return "anybody; a token that is sent is checked" if hasattr(view, "token_optional") else "anybody"
    return "anybody who is signed in" if set(view.roles) == set(ROLES) else " and ".join(view.roles)


def security(view):
    if view.roles is None:
        return [{}, {"accessToken": []}] if hasattr(view, "token_optional") else []
    return [{"refreshToken" if view.refresh else "accessToken": [] if set(view.roles) == set(ROLES) else view.roles}]


def parameters(rule, view):
    converters = current_app.url_map.converters
    found = [
        {"name": name, "in": "path", "required": True, "schema": converters[converter].schema, "example": PATH[name]}
        for converter, name in re.findall(r"<(\w+):(\w+)>", rule.rule)
    ]
    found += [query_parameter(it) for it in arguments(view, "query")]
    found += [{"name": name, "in": "header", "schema": schema} for name, schema in request_headers(view).items()]
    return found


def query_parameter(it):
    about = {"description": "For admins; from others it is ignored."} if it.heeded is is_admin else {}
    return {"name": it.name, "in": "query", "schema": it.type.schema} | about


def arguments(view, kind):
    return getattr(view, kind).args if hasattr(view, kind) else []


def request_headers(view):
    tags = {"If-None-Match": STRING, "If-Match": STRING} if hasattr(view, "conditional") else {}
    versions = {"If-Match": STRING} if any(isinstance(error, Outdated) for error in view.refuses) else {}
    return tags | versions | ({"Idempotency-Key": STRING | {"pattern": KEY}} if hasattr(view, "idempotent") else {})


def request_body(view):
    schema = {"type": "object", "properties": {it.name: taken(it) for it in view.body.args}}
    required = [it.name for it in view.body.args if it.required is True]
    content = {"schema": schema | ({"required": required} if required else {}), "example": sent(view)}
    return {"required": not view.body_optional, "content": {"application/json": content}}


def taken(field):
    schema = field.type.schema
    return schema | {"type": [schema["type"], "null"]} if field.nullable else schema


def sent(view):
    given = view.sends
    return given if isinstance(given, dict) else {it.name: getattr(given, it.name) for it in view.body.args}


def responses(rule, view):
    found = {str(status): answered(view, status, it) for status, it in view.answers.items()}
    if hasattr(view, "conditional"):
        found["304"] = response(304, {}, success_headers(view))
    refused = defaultdict(list)
    for error in errors(rule, view):
        answer = current_app.handle_user_exception(error)
        refused[answer.status_code].append(answer)
    for status, given in refused.items():
        bodies = [answer.get_json() for answer in given]
        schema = any_of(error_schema(body, view) for body in bodies)
        content = {"schema": schema, "examples": {label(body): {"value": body} for body in bodies}}
        names = [name for name in HEADERS if any(name in answer.headers for answer in given)]
        found[str(status)] = response(status, {"application/json": content}, names)
    return dict(sorted(found.items()))


def answered(view, status, answer):
    content = {media: {"schema": STRING, "example": example} for media, example in answer.media.items()}
    if answer.example is not None:
        json = {"schema": described(answer.example, answer.plus), "example": shown(answer.example, answer.plus)}
        content = {"application/json": json} | content
    return response(status, content, [*answer.headers, *success_headers(view)])


def success_headers(view):
    given = {
        "Link": any(it.name == "after" for it in arguments(view, "query")),
        "ETag": hasattr(view, "conditional"),
        "Idempotent-Replayed": hasattr(view, "idempotent"),
    }
    return [name for name, sent in given.items() if sent]


def response(status, content, headers):
    links = {name: {"$ref": f"#/components/headers/{name}"} for name in ["X-Request-ID", *headers]}
    return {"description": HTTPStatus(status).phrase, "headers": links} | ({"content": content} if content else {})


def errors(rule, view):
    """All that the call may be refused with, as it would be raised."""
    yield RequestEntityTooLarge()
    if view.roles is not None or hasattr(view, "token_optional"):
        yield Unauthorized("Missing token")
    if view.roles is not None and set(view.roles) != set(ROLES):
        yield view.refusal(view.refusal.__name__)
    if rule.arguments:
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
    if hasattr(view, "conditional"):
        yield PreconditionFailed()
    if hasattr(view, "idempotent"):
        yield KeyReused()
    yield from view.refuses
    yield ServiceUnavailable("The database does not answer. Please try again.", retry_after=1)


def complaint(field):
    """What the parser says of a field: that it is missing, or if it may be, that no NUL is taken for it."""
    try:
        return field.missing if field.required else field.type("\0")
    except ValueError as error:
        return str(error)


def bad_request(message):
    error = BadRequest()
    error.data = {"message": message}
    return error


def request_fields(view):
    given = [it.name for it in arguments(view, "query") + arguments(view, "body")]
    return given + (["Idempotency-Key"] if hasattr(view, "idempotent") else [])


def error_schema(body, view):
    schema = described(body)
    if "reason" in body:
        schema["properties"]["reason"] = STRING | {"const": body["reason"]}
    elif isinstance(body["message"], dict):
        messages = {"type": "object", "properties": dict.fromkeys(request_fields(view), STRING)}
        schema["properties"]["message"] = messages | {"minProperties": 1, "additionalProperties": False}
    return {"$ref": "#/components/schemas/Error"} if schema == ERROR else schema


def label(body):
    return body.get("reason") or (body["message"] if isinstance(body["message"], str) else "Bad fields")


def described(example, plus=()):
    """The schema of what is answered like `example`. An empty list or object stands for any."""
    if isinstance(example, db.Model):
        return fields_of(example, example.serialize_only + plus) if plus else reference(example)
    if isinstance(example, list) and example:
        return {"type": "array", "items": any_of(map(described, example))}
    if isinstance(example, dict) and example:
        return closed({name: described(value) for name, value in example.items()})
    return {list: {"type": "array"}, dict: {"type": "object"}, **TYPES}[type(example)]


def shown(example, plus=()):
    """What is answered, written as the answer itself would be."""
    if isinstance(example, db.Model):
        return example.to_dict(rules=plus)
    if isinstance(example, list):
        return [shown(it) for it in example]
    return {name: shown(value) for name, value in example.items()} if isinstance(example, dict) else example


def reference(model):
    return {"$ref": f"#/components/schemas/{type(model).__name__}"}


def closed(properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def any_of(schemas):
    schemas = list(schemas)
    distinct = [schema for place, schema in enumerate(schemas) if schema not in schemas[:place]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def fields_of(model, names):
    """The fields of a model that leave, named as in `serialize_only`: `event.id` is the id in an object `event`."""
    inner = defaultdict(tuple)
    for name in names:
        first, _, rest = name.partition(".")
        inner[first] += (rest,) if rest else ()
    return closed({name: field(model, name, rest) for name, rest in inner.items()})


def field(model, name, inner):
    value = getattr(model, name)
    if inner:
        return fields_of(value, inner)
    column = model.__table__.columns.get(name)
    if column is None:
        return described(value)
    schema = TYPES[column.type.python_type] | allowed(column)
    return schema | {"type": [schema["type"], "null"]} if column.nullable else schema


def allowed(column):
    """The values that a check of the table lists for the column."""
    checks = [str(it.sqltext) for it in column.table.constraints if isinstance(it, CheckConstraint)]
    values = re.search(rf"\b{column.name} IN \(([^)]*)\)", "; ".join(checks))
    return {"enum": re.findall(r"'(\w+)'", values[1])} if values else {}
