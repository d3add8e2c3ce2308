"""Bodies and query strings: reqparse with strict types, whose errors are sentences for the client."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from flask_restful import abort, reqparse
from werkzeug.exceptions import BadRequest

import models
from routes.http.request import TicketingRequest, request
from routes.http.views import Args, View, mark

Schema = dict[str, Any]


class Type(Protocol):
    """A type of a field: it returns the value, or raises ValueError with a sentence for the client."""

    @property
    def schema(self) -> Schema: ...

    def __call__(self, value: Any) -> Any: ...


class Field(reqparse.Argument):
    """A field of the body. `required_message` is the error where a required one is missing.

    Where `required` depends on other fields, it is a function of the body. The documentation alone reads `about`, and
    `default`, which says what holds where the field is left out.
    """

    def __init__(
        self,
        name: str,
        type: Type,
        *,
        required: bool | Callable[[Args], bool] = False,
        nullable: bool = False,
        required_message: str = "This field is required",
        dest: str | None = None,
        about: str | None = None,
        default: Any = None,
    ) -> None:
        super().__init__(name, dest=dest, type=type, required=required, nullable=nullable, store_missing=False)
        self.required_message = required_message
        self.about, self.default = about, default

    def source(self, request: TicketingRequest) -> Mapping[str, Any]:
        return request.json_object

    def convert(self, value: Any, op: str) -> Any:
        return None if value is None and self.nullable else self.type(value)

    def parse(self, request: TicketingRequest, bundle_errors: bool = False) -> tuple[Any, Any]:
        values = self.source(request)
        try:
            if self.name in values:
                return self.convert(values[self.name], "="), True
            if self.required(values) if callable(self.required) else self.required:
                raise ValueError(self.required_message)
        except ValueError as error:
            return cast(tuple[Any, Any], self.handle_validation_error(error, bundle_errors))
        return None, False


class Parameter(Field):
    """A parameter of the query string: always a text, never required. It is read `only_if` that holds."""

    def __init__(self, name: str, type: Type, *, only_if: Callable[[], bool] = lambda: True, **more: Any) -> None:
        super().__init__(name, type, **more)
        self.only_if = only_if

    def source(self, request: TicketingRequest) -> Mapping[str, Any]:
        return request.args if self.name in request.args and self.only_if() else {}


def parser(*arguments: Field) -> reqparse.RequestParser:
    """A parser of the body with these Fields, or of the query string with these Parameters."""
    found = reqparse.RequestParser(argument_class=Field, bundle_errors=True)
    for argument in arguments:
        found.add_argument(argument)
    return found


class ClosedParser(reqparse.RequestParser):
    """Refuses unknown fields, so that a misspelt one is not ignored."""

    def parse_args(self, *args: Any, **kwargs: Any) -> reqparse.Namespace:
        unknown = dict.fromkeys(self.unknown_fields(), "There is no such field")
        try:
            values = super().parse_args(*args, **kwargs)
        except BadRequest as error:
            cast(Any, error).data["message"] |= unknown
            raise
        if unknown:
            abort(400, message=unknown)
        return values

    def unknown_fields(self) -> Iterator[str]:
        """The names of unknown fields, as far as UTF-8 can hold them; as many and as much of them as helps."""
        known = {field.name for field in self.args}
        names = (name for name in request.json_object if name not in known)
        return (name[:100].encode(errors="replace").decode() for name in islice(names, 20))


def closed_parser(*fields: Field) -> ClosedParser:
    """A parser of the body with these Fields and no others."""
    closed = ClosedParser(argument_class=Field, bundle_errors=True)
    closed.args.extend(fields)
    return closed


def changes(parser: reqparse.RequestParser) -> reqparse.RequestParser:
    """The same fields, each of which may be left out: what PATCH takes."""
    parser = deepcopy(parser)
    for argument in parser.args:
        argument.required, argument.default = False, None
    return parser


def takes(parser: reqparse.RequestParser, *, optional: bool = False) -> Callable[[View], View]:
    """Give the method the parsed body as its first argument. An `optional` body may be missing altogether."""

    def decorate(view: View) -> View:
        @wraps(view)
        def parsed(self: Any, *args: Any, **kwargs: Any) -> Any:
            if optional and not request.get_data():
                return view(self, {}, *args, **kwargs)
            return view(self, parser.parse_args(), *args, **kwargs)

        return mark(parsed, body=parser, body_optional=optional)

    return decorate


def reads(parser: reqparse.RequestParser) -> Callable[[View], View]:
    """Give the method the parsed query string as its first argument."""

    def decorate(view: View) -> View:
        @wraps(view)
        def parsed(self: Any, *args: Any, **kwargs: Any) -> Any:
            return view(self, parser.parse_args(), *args, **kwargs)

        return mark(parsed, query=parser)

    return decorate


# Each of the types is a callable that returns the value or raises ValueError, and knows its JSON Schema.

# Parts of a character class that Python and ECMAScript read alike, for the schemas.
CONTROLS = r"\x00-\x08\x0e-\x1f\x7f-\x9f"  # all but tabs and line breaks
BREAKS = r"\t-\r\u2028\u2029"
OVERRIDES = r"\u202a-\u202e\u2066-\u2069"  # they show what follows in another order than it is written
UNSEEN = r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f"
UNSEEN += r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
# What a pattern can't name in both languages: shorthand and musical format characters, blank hieroglyphs, tags.
UNSEEN_BEYOND = r"\U00013441\U00013442\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"

NOT_BLANK = r"^[^\x00]*\S[^\x00]*$"  # something that is not blank, and no NUL


class AnyText:
    """Any text, not trimmed: for what is compared and not stored."""

    schema: Schema = {"type": "string"}

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("Must be a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("Must be a text that UTF-8 can hold") from None
        return value


class Text(AnyText):
    """A text of one line, trimmed, of 1 to `longest` characters, in Unicode's composed form (NFC).

    Its length is judged first: to compose a long text takes time that grows with the square of it.
    """

    unseen = UNSEEN
    refused = CONTROLS + BREAKS + OVERRIDES
    complaint = "Must not contain control characters, line breaks or marks that change the direction of writing"

    def __init__(self, longest: int) -> None:
        self.longest = longest
        pattern = rf"^[ {self.unseen}]*[^\s{self.unseen}{self.refused}][^{self.refused}]*$"
        self.schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern}

    def __call__(self, value: Any) -> str:
        value = super().__call__(value).strip()
        if not 1 <= len(value) <= self.longest:
            raise ValueError(f"Must have 1 to {self.longest} characters")
        if re.search(f"[{self.refused}]", value):
            raise ValueError(self.complaint)
        if not re.search(rf"[^\s{self.unseen}{UNSEEN_BEYOND}]", value):
            raise ValueError("Must have at least one visible character")
        return unicodedata.normalize("NFC", value)


class Lines(Text):
    """A text of any number of lines."""

    unseen = UNSEEN + OVERRIDES
    refused = CONTROLS
    complaint = "Must not contain control characters other than tabs and line breaks"


class Words(Lines):
    """A text of at most so many words, as each of them costs a look at every row."""

    def __init__(self, longest: int, *, most: int) -> None:
        super().__init__(longest)
        self.most = most
        self.schema |= {"allOf": [{"pattern": rf"^\S+(\s+\S+){{0,{most - 1}}}$"}]}

    def __call__(self, value: Any) -> str:
        value = super().__call__(value)
        if len(value.split()) > self.most:
            raise ValueError(f"Must have {self.most} words at most")
        return value


class Reference(Text):
    """A text without invisible characters, so that nobody takes two for the same."""

    unseen = ""
    refused = Text.refused + UNSEEN
    complaint = "Must not contain line breaks or characters that can't be seen"

    def __call__(self, value: Any) -> str:
        value = super().__call__(value)
        if re.search(f"[{UNSEEN_BEYOND}]", value):
            raise ValueError(self.complaint)
        return value


class PromoName(Text):
    """A promo code: letters, digits and `-`, `_`, `.`."""

    def __call__(self, value: Any) -> str:
        value = super().__call__(value)
        if not re.fullmatch(r"[\w.-]+", value):
            raise ValueError("Must have letters, digits, - _ and . alone")
        return value


class Currency(AnyText):
    """An ISO 4217 code."""

    schema = {"type": "string", "pattern": "^[A-Z]{3}$"}

    def __call__(self, value: Any) -> str:
        if not re.fullmatch("[A-Z]{3}", super().__call__(value)):
            raise ValueError("Must be an ISO 4217 code, such as USD")
        return value


class TimeZone(AnyText):
    """The name of a time zone."""

    schema = {"type": "string", "examples": ["Europe/Berlin"]}

    def __call__(self, value: Any) -> str:
        if super().__call__(value) not in models.time_zones():
            raise ValueError("Must be the name of a time zone, such as Europe/Berlin")
        return value


class Email(AnyText):
    schema = {"type": "string", "format": "email"}

    def __call__(self, value: Any) -> str:
        return models.normal_email(super().__call__(value))


class Password(AnyText):
    """A new password. 72 bytes is all that bcrypt reads."""

    schema = {"type": "string", "minLength": 8, "maxLength": 72, "pattern": NOT_BLANK}

    def __call__(self, value: Any) -> str:
        value = super().__call__(value)
        if "\0" in value:
            raise ValueError("Must not contain a NUL character")
        if len(value) < 8 or not value.strip():
            raise ValueError("Must have at least 8 characters, not all of them blank")
        if len(value.encode()) > 72:
            raise ValueError("Must have at most 72 bytes in UTF-8")
        return value


class Integer:
    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.schema: Schema = {"type": "integer", "minimum": least, "maximum": most}

    def __call__(self, value: Any) -> int:
        if type(value) is not int:
            raise ValueError("Must be an integer")
        if not self.least <= value <= self.most:
            raise ValueError(f"Must be between {self.least} and {self.most}")
        return value


ID = Integer(1, 2**31 - 1)


class Digits(Integer):
    """An integer as it stands in a query string."""

    def __call__(self, value: Any) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise ValueError("Must be an integer")
        return super().__call__(int(value))


class Flag:
    schema: Schema = {"type": "boolean"}

    def __call__(self, value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError("Must be true or false")
        return value


class Choice:
    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.schema: Schema = {"type": "string", "enum": list(choices)}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"Must be one of {', '.join(self.choices)}")
        return value


class Choices(Choice):
    """One or several of the choices, with commas between."""

    def __init__(self, *choices: str) -> None:
        super().__init__(*choices)
        any_of = "|".join(choices)
        self.schema = {"type": "string", "pattern": f"^({any_of})(,({any_of}))*$"}

    def __call__(self, value: Any) -> list[str]:
        """Each of them once."""
        return [super(Choices, self).__call__(choice) for choice in dict.fromkeys(AnyText()(value).split(","))]


class Moment(AnyText):
    """A time in ISO 8601 with an offset, converted to UTC, from 1970 to 9999."""

    schema = {"type": "string", "format": "date-time"}
    pattern = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?[0-5]\d)?)", re.ASCII)

    def __call__(self, value: Any) -> Any:
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
    """A moment that is stored: to the second, as it will be shown."""

    def __call__(self, value: Any) -> Any:
        return super().__call__(value).replace(microsecond=0)


class URL(Text):
    """An http or https address."""

    def __init__(self, longest: int) -> None:
        super().__init__(longest)
        self.schema |= {"format": "uri"}

    def __call__(self, value: Any) -> str:
        value = super().__call__(value)
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or re.search(r"[\s\x00-\x20\x7f]", value):
            raise ValueError("Must be an address that begins with http:// or https://")
        return value


class Codes:
    """A list of 1 to `most` codes, as people and scanners send them, in the one form that they are stored in."""

    between = re.compile(r"[\s\u00ad\u200b\u2010-\u2015\ufeff-]")

    def __init__(self, most: int) -> None:
        self.most = most
        item = {"type": "string", "pattern": "^[0-9A-F]{32}$"}
        self.schema: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": most, "items": item}

    def __call__(self, value: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValueError("Must be a list")
        if not 1 <= len(value) <= self.most:
            raise ValueError(f"Must have 1 to {self.most} entries")
        return list(dict.fromkeys(map(self.read, value)))

    def read(self, entry: Any) -> str:
        code = self.between.sub("", entry).upper() if isinstance(entry, str) else ""
        if not re.fullmatch("[0-9A-F]{32}", code):
            raise ValueError("Each must be the code of a ticket")
        return code


class ShownCode(Text):
    """What was shown at a door as a code, in the form in which codes are stored. It may be no code at all."""

    def __call__(self, value: Any) -> str:
        return Codes.between.sub("", super().__call__(value)).upper()


class Many:
    """A list of `least` to `most` different values of one type."""

    def __init__(self, type: Type, *, most: int, least: int = 0) -> None:
        self.type, self.least, self.most = type, least, most
        self.schema: Schema = {"type": "array", "minItems": least, "maxItems": most, "items": type.schema}

    def __call__(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("Must be a list")
        if not self.least <= len(value) <= self.most:
            raise ValueError(f"Must have {self.least} to {self.most} entries")
        return list(dict.fromkeys(self.read(entry, place) for place, entry in enumerate(value)))

    def read(self, entry: Any, place: int) -> Any:
        try:
            return self.type(entry)
        except ValueError as error:
            raise ValueError(f"Entry {place}: {error}") from None


def schema_of(field: Field) -> Schema:
    schema: Schema = field.type.schema
    if field.nullable:
        schema = schema | {"type": [schema["type"], "null"]}
    return schema | ({"description": told(field)} if field.about else {})


def told(field: Field) -> str:
    """The default stands in words: of a `default` in a body, generators of clients make a field that must be there."""
    usual = f"; {json.dumps(field.default)} where it is left out" if field.default is not None else ""
    return f"{field.about}{usual}"


class ListOf:
    """A list of 1 to `most` objects with these fields. The text of an error says which entry and field is wrong."""

    def __init__(self, most: int, *fields: Field) -> None:
        self.most, self.fields = most, fields
        properties = {field.name: schema_of(field) for field in fields}
        required = [field.name for field in fields if field.required]
        item = {"type": "object", "properties": properties, "required": required}
        self.schema: Schema = {"type": "array", "minItems": 1, "maxItems": most, "items": item}

    def __call__(self, value: Any) -> list[Args]:
        if not isinstance(value, list):
            raise ValueError("Must be a list")
        if not 1 <= len(value) <= self.most:
            raise ValueError(f"Must have 1 to {self.most} entries")
        return [self.read(entry, place) for place, entry in enumerate(value)]

    def read(self, entry: Any, place: int) -> Args:
        if not isinstance(entry, dict):
            raise ValueError(f"Entry {place} must be an object")
        values: Args = {}
        for field in self.fields:
            try:
                if field.name in entry:
                    values[field.name] = field.convert(entry[field.name], "=")
                elif field.required:
                    raise ValueError(field.required_message)
            except ValueError as error:
                raise ValueError(f"{field.name} of entry {place}: {error}") from None
        return values


class EachOf(ListOf):
    """The same list, whose entries stand by themselves: one that is wrong is there as what is `wrong` with it, and its
    `nonce`, if it has one. They have these fields and no others."""

    def __init__(self, most: int, *fields: Field) -> None:
        super().__init__(most, *fields)
        self.schema["items"]["additionalProperties"] = False

    def read(self, entry: Any, place: int) -> Args:
        try:
            return self.closed(super().read(entry, place), entry, place)
        except ValueError as error:
            return {"nonce": self.nonce(entry), "wrong": str(error)}

    def closed(self, values: Args, entry: Args, place: int) -> Args:
        if entry.keys() - {field.name for field in self.fields}:
            raise ValueError(f"Entry {place} has a field that there is not")
        return values

    def nonce(self, entry: Any) -> str | None:
        with suppress(ValueError):
            return AnyText()(entry.get("nonce") if isinstance(entry, dict) else None)
        return None
