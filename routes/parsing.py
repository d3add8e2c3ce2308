"""Bodies and query strings: reqparse with types that take a value as it is or say in a sentence why not."""

import json
import math
import re
from copy import deepcopy
from datetime import UTC, datetime
from functools import cached_property, wraps
from urllib.parse import urlsplit

from flask import Request, request
from flask_restful import reqparse
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

import models


class JSONRequest(Request):
    """A request whose body is one JSON object."""

    @cached_property
    def json_object(self):
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be JSON, with the Content-Type application/json")
        try:
            body = json.loads(self.get_data().decode(), parse_constant=refuse_constant, parse_int=read_integer)
        except (ValueError, RecursionError) as error:
            raise BadRequest("The body is not valid JSON") from error
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object")
        return body


def read_body():
    """Before every request: one too large is refused by every call, and one left unread would cost the connection."""
    length, most = request.content_length, request.max_content_length
    if length is None:  # it comes in chunks, and one byte more shows that it is too large
        request.max_content_length = most + 1
    if (length or 0) > most or len(request.get_data()) > most:
        raise RequestEntityTooLarge
    if len(request.get_data()) < (length or 0):
        raise BadRequest("The body is shorter than its Content-Length")


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def read_integer(digits):
    """A number too long for Python to read is out of every range: infinity, which no field takes."""
    return int(digits) if len(digits) < 1000 else math.inf


class Field(reqparse.Argument):
    """A field of the body. `missing` is the text where a required one is not there.

    Where others decide that it is `required`, that is a function of the body.
    """

    def __init__(self, name, type, *, required=False, nullable=False, missing="This field is required", dest=None):
        super().__init__(name, dest=dest, type=type, required=required, nullable=nullable, store_missing=False)
        self.missing = missing

    def source(self, request):
        return request.json_object

    def convert(self, value, op):
        return None if value is None and self.nullable else self.type(value)

    def parse(self, request, bundle_errors=False):
        values = self.source(request)
        try:
            if self.name in values:
                return self.convert(values[self.name], "="), True
            if self.required(values) if callable(self.required) else self.required:
                raise ValueError(self.missing)
        except ValueError as error:
            return self.handle_validation_error(error, bundle_errors)
        return None, False


class Parameter(Field):
    """A parameter of the query string: always a text, never required. Where it is not `heeded` it is not even read."""

    def __init__(self, name, type, *, dest=None, heeded=lambda: True):
        super().__init__(name, type, dest=dest)
        self.heeded = heeded

    def source(self, request):
        return request.args if self.heeded() else {}


def parser(*arguments):
    """A parser of the body with these Fields, or of the query string with these Parameters."""
    found = reqparse.RequestParser(argument_class=Field, bundle_errors=True)
    for argument in arguments:
        found.add_argument(argument)
    return found


def changes(parser):
    """The same fields, each of which may be left out: what PATCH takes."""
    parser = deepcopy(parser)
    for argument in parser.args:
        argument.required = False
    return parser


def takes(parser, *, optional=False):
    """Give the method the parsed body as its first argument. An `optional` body may be missing altogether."""

    def decorate(view):
        @wraps(view)
        def parsed(self, *args, **kwargs):
            if optional and not request.get_data():
                return view(self, {}, *args, **kwargs)
            return view(self, parser.parse_args(), *args, **kwargs)

        parsed.body, parsed.body_optional = parser, optional
        return parsed

    return decorate


def reads(parser):
    """Give the method the parsed query string as its first argument."""

    def decorate(view):
        @wraps(view)
        def parsed(self, *args, **kwargs):
            return view(self, parser.parse_args(), *args, **kwargs)

        parsed.query = parser
        return parsed

    return decorate


# Each of the types is a callable that returns the value or raises ValueError, and knows its JSON Schema.

INKED = r"^[^\x00]*\S[^\x00]*$"  # something that is not blank, and no NUL


class AnyText:
    """Any text, not trimmed: for what is compared and not stored."""

    schema = {"type": "string"}

    def __call__(self, value):
        if not isinstance(value, str):
            raise ValueError("Must be a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("Must be a text that UTF-8 can hold") from None
        return value


class Text(AnyText):
    """A text of 1 to `longest` characters after trimming."""

    def __init__(self, longest):
        self.longest = longest
        self.schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": INKED}

    def __call__(self, value):
        value = super().__call__(value).strip()
        if "\0" in value:
            raise ValueError("Must not contain a NUL character")
        if not 1 <= len(value) <= self.longest:
            raise ValueError(f"Must have 1 to {self.longest} characters")
        return value


class Email(AnyText):
    schema = {"type": "string", "format": "email"}

    def __call__(self, value):
        return models.normal_email(super().__call__(value))


class Password(AnyText):
    """A new password. 72 bytes is all that bcrypt reads."""

    schema = {"type": "string", "minLength": 8, "maxLength": 72, "pattern": INKED}

    def __call__(self, value):
        value = super().__call__(value)
        if "\0" in value:
            raise ValueError("Must not contain a NUL character")
        if len(value) < 8 or not value.strip():
            raise ValueError("Must have at least 8 characters, not all of them blank")
        if len(value.encode()) > 72:
            raise ValueError("Must have at most 72 bytes in UTF-8")
        return value


class Integer:
    def __init__(self, least, most):
        self.least, self.most = least, most
        self.schema = {"type": "integer", "minimum": least, "maximum": most}

    def __call__(self, value):
        if type(value) is not int:
            raise ValueError("Must be an integer")
        if not self.least <= value <= self.most:
            raise ValueError(f"Must be between {self.least} and {self.most}")
        return value


ID = Integer(1, 2**31 - 1)


class Digits(Integer):
    """An integer as it stands in a query string."""

    def __call__(self, value):
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise ValueError("Must be an integer")
        return super().__call__(int(value))


class Flag:
    schema = {"type": "boolean"}

    def __call__(self, value):
        if type(value) is not bool:
            raise ValueError("Must be true or false")
        return value


class Choice:
    def __init__(self, *choices):
        self.choices = choices
        self.schema = {"type": "string", "enum": list(choices)}

    def __call__(self, value):
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"Must be one of {', '.join(self.choices)}")
        return value


class Moment(AnyText):
    """A time in ISO 8601 with an offset, taken to UTC, from 1970 to 9999."""

    schema = {"type": "string", "format": "date-time"}
    pattern = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?[0-5]\d)?)", re.ASCII)

    def __call__(self, value):
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            raise ValueError("Must be a time in ISO 8601 with an offset, such as 2026-11-22T18:30:00Z")
        try:
            moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError("Must be a time that exists, between the years 1970 and 9999") from None
        if moment.year < 1970:
            raise ValueError("Must be a time between the years 1970 and 9999")
        return moment


class Time(Moment):
    """One that is kept: to the second, as it will be shown."""

    def __call__(self, value):
        return super().__call__(value).replace(microsecond=0)


class URL(Text):
    """An http or https address."""

    def __init__(self, longest):
        super().__init__(longest)
        self.schema |= {"format": "uri"}

    def __call__(self, value):
        value = super().__call__(value)
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or re.search(r"[\s\x00-\x20\x7f]", value):
            raise ValueError("Must be an address that begins with http:// or https://")
        return value


class ListOf:
    """A list of 1 to `most` objects with given fields. The text of an error says which entry and field is wrong."""

    def __init__(self, most, *fields):
        self.most, self.fields = most, fields
        properties = {field.name: field.type.schema for field in fields}
        item = {"type": "object", "properties": properties, "required": [field.name for field in fields]}
        self.schema = {"type": "array", "minItems": 1, "maxItems": most, "items": item}

    def __call__(self, value):
        if not isinstance(value, list):
            raise ValueError("Must be a list")
        if not 1 <= len(value) <= self.most:
            raise ValueError(f"Must have 1 to {self.most} entries")
        return [self.read(entry, place) for place, entry in enumerate(value)]

    def read(self, entry, place):
        if not isinstance(entry, dict):
            raise ValueError(f"Entry {place} must be an object")
        found = {}
        for field in self.fields:
            try:
                if field.name not in entry:
                    raise ValueError(field.missing)
                found[field.name] = field.type(entry[field.name])
            except ValueError as error:
                raise ValueError(f"{field.name} of entry {place}: {error}") from None
        return found
