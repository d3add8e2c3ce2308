"""Lists by the keys they are sorted by: a page deep in a list costs what the first page costs."""

import base64
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from sqlalchemy import Integer, bindparam, tuple_

from models import Invalid, at_once, db
from routes.answers import OPTIONS
from routes.parsing import AnyText, Digits, Parameter, parser, reads

CHUNK = 1000


def paged(*parameters):
    """Read `limit`, `after` and the call's own parameters from the query string."""
    return reads(parser(Parameter("limit", Digits(1, 100)), Parameter("after", AnyText()), *parameters))


def page(rows, keys, values=None, *, limit=50, after=None, descending=False, beginning=None):
    """Answer a page of `rows` by the columns `keys`, of which the last is unique, with a Link while there is more.

    The rows are models, or dictionaries where the query names columns; `values` are its parameters. Where the list does
    not begin with the first row there is, `beginning` is the condition for it. On a later page the cursor stands for
    it: given both, SQLite searches from the one that is further away.
    """
    start = decode(after, keys) if after is not None else ()
    statement = following(rows, keys, bool(start), descending, beginning)
    found = fetch(statement, parameters(values, start, limit + 1))
    headers = {}
    if len(found) > limit:
        del found[limit:]
        arguments = {**request.args, "limit": limit, "after": encode(key_values(found[-1], keys))}
        headers["Link"] = f'<{request.path}?{urlencode(arguments)}>; rel="next"'
    return [row if isinstance(row, dict) else row.to_dict() for row in found], 200, headers


def chunks(rows, keys, values=None):
    """All the rows, read a chunk at a time, so that neither memory nor a connection is kept for a slow reader."""
    app = current_app._get_current_object()  # the answer is read after the request has ended

    def read_chunks(start=()):
        while True:
            with app.app_context():
                found = fetch(following(rows, keys, bool(start)), parameters(values, start, CHUNK))
            if not found:
                return
            yield found
            start = key_values(found[-1], keys)

    return read_chunks()


def stream(rows, keys):
    """All the rows as one JSON array, streamed."""

    def parts(found):
        opening = b"["
        for rows in found:
            yield opening + orjson.dumps(rows, option=OPTIONS)[1:-1]
            opening = b","
        yield b"[]" if opening == b"[" else b"]"

    return current_app.response_class(parts(chunks(rows, keys)), mimetype="application/json")


@lru_cache(maxsize=128)
def following(rows, keys, later, descending=False, beginning=None):
    """The query for the rows from the beginning, or after the values `after_0`... if it is for a `later` page.

    Building a query takes as long as asking the database; where `rows` is the same, it is built once.
    """
    if later:
        start = tuple_(*(bindparam(f"after_{place}", type_=key.type) for place, key in enumerate(keys)))
        rows = rows.where(tuple_(*keys) < start if descending else tuple_(*keys) > start)
    elif beginning is not None:
        rows = rows.where(beginning)
    return rows.order_by(*(key.desc() if descending else key for key in keys)).limit(bindparam("limit", type_=Integer))


def parameters(values, start, limit):
    return {**(values or {}), **{f"after_{place}": value for place, value in enumerate(start)}, "limit": limit}


def fetch(rows, values):
    if of_models(rows):
        return db.session.scalars(rows, values).all()
    with at_once() as connection:
        found = connection.execute(rows, values)
        names = tuple(found.keys())
        return [dict(zip(names, row, strict=True)) for row in found.all()]


@lru_cache(maxsize=128)
def of_models(rows):
    return len(rows.column_descriptions) == 1


def key_values(row, keys):
    return [row[key.key] if isinstance(row, dict) else getattr(row, key.key) for key in keys]


def encode(values):
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode(cursor, keys):
    """The key values in a cursor. A cursor is opaque but not secret: whatever it says, it only moves the start."""
    try:
        given = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        values = [read(value, key) for value, key in zip(given, keys, strict=True)]
        if encode(values) != cursor:
            raise ValueError("It is written in another way")
        return values
    except (ValueError, TypeError, OverflowError):
        raise Invalid(after="Must be the cursor of a Link header") from None


def read(value, key):
    if not isinstance(key.type, Integer):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("A cursor's time has a zone")
        return moment.astimezone(UTC)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("A cursor's number is an id")
    return value
