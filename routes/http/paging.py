"""Lists by the keys they are sorted by: a page deep in a list costs what the first page costs."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic, sleep
from typing import Any, cast
from urllib.parse import urlencode

import orjson
from flask import Flask, Response, current_app, request
from sqlalchemy import ColumnElement, Integer, Select, bindparam, tuple_
from sqlalchemy.exc import DBAPIError, TimeoutError

from models import Invalid, Serializable, autocommit_connection, db
from routes.http.faults import fault_of
from routes.http.json import OPTIONS
from routes.http.parsing import AnyText, Digits, Parameter, parser, reads
from routes.http.views import JSON, Headers, Page, View

Rows = Select[*tuple[Any, ...]]
Keys = tuple[Any, ...]
Values = Mapping[str, Any] | None
Beginning = ColumnElement[bool] | None

CHUNK = 1000
LIMIT = 50  # of a page where the client names none
LONGEST_CURSOR = 200
PATIENCE = 10  # seconds that a list waits for a database that has gone away


def paged(*parameters: Parameter) -> Callable[[View], View]:
    """Read `limit`, `after` and the call's own parameters from the query string."""
    return reads(
        parser(
            Parameter("limit", Digits(1, 100), about="The most entries in one answer", default=LIMIT),
            Parameter("after", AnyText(), about="Where the page begins, as the `Link` of the page before has it"),
            *parameters,
        )
    )


def page(
    rows: Rows,
    keys: Keys,
    values: Values | Sequence[Values] = None,
    *,
    limit: int = LIMIT,
    after: str | None = None,
    descending: bool = False,
    beginning: Beginning = None,
    least: Sequence[Any] = (),
    pool: str = "autocommit",
    shown: Callable[[Any], JSON] = Serializable.to_dict,
    fitting: Callable[[list[Any]], list[Any]] = list,
) -> Page:
    """Answer a page of `rows` by the columns `keys`, of which the last is unique, with a Link while there is more.

    The rows are models, `shown` by that, or dictionaries where the query names columns; `values` are its parameters, or
    a list of several sets of them, whose rows make one list. Where the list does not begin with the first row there is,
    `beginning` is the condition for it. On a later page the cursor stands for it: given both, SQLite searches from the
    one that is further away. A cursor from before the key values `least` leads nowhere else than to the beginning.
    What may be slow has a `pool` of its own. `fitting` takes from the rows of a page as many, from the first on, as are
    not too much for one answer.
    """
    start = decode(after, keys) if after is not None else []
    start = start if start >= list(least) else []
    statement = following(rows, keys, bool(start), descending, beginning)
    sets: Sequence[Values] = values if isinstance(values, list) else [cast(Values, values)]
    found = [row for some in sets for row in fetch(statement, parameters(some, start, limit + 1), pool)]
    if len(sets) > 1:
        found.sort(key=lambda row: key_values(row, keys), reverse=descending)
    headers: Headers = {}
    kept = fitting(found[:limit])
    if len(found) > len(kept):
        found = kept
        arguments = {**request.args, "limit": limit, "after": encode(key_values(found[-1], keys))}
        headers["Link"] = f'<{request.root_path}{request.path}?{urlencode(arguments)}>; rel="next"'
    return [row if isinstance(row, dict) else shown(row) for row in found], 200, headers


def chunks(rows: Rows, keys: Keys, values: Values = None, *, descending: bool = False) -> Iterator[Sequence[Any]]:
    """All the rows, read a chunk at a time, so that neither memory nor a connection is kept for a slow reader.

    The first one is read at once: without a database the answer is an error and no list that breaks off.
    """
    app: Flask = cast(Any, current_app)._get_current_object()  # the answer is read after the request has ended

    def read_chunks(found: Sequence[Any]) -> Iterator[Sequence[Any]]:
        while found:
            yield found
            start = key_values(found[-1], keys)
            with app.app_context():
                found = fetch_patiently(following(rows, keys, True, descending), parameters(values, start, CHUNK))

    return read_chunks(fetch(following(rows, keys, False, descending), parameters(values, (), CHUNK)))


def fetch_patiently(rows: Rows, values: Values) -> Sequence[Any]:
    """Try again while the database is away. In the end the error leaves, so that the server breaks the connection off.

    The status and half of a list have been sent by then: to end it properly would say that it is all.
    """
    patience = monotonic() + PATIENCE
    while True:
        try:
            return fetch(rows, values)
        except (DBAPIError, TimeoutError) as error:
            fault = fault_of(error)
            if fault is None or monotonic() > patience:
                current_app.logger.error("A list breaks off: %s", fault and fault.message, exc_info=error)
                raise
        db.session.remove()
        sleep(0.2)


def stream(rows: Rows, keys: Keys) -> Response:
    """All the rows as one JSON array, streamed."""

    def parts(found: Iterable[Sequence[Any]]) -> Iterator[bytes]:
        opening = b"["
        for rows in found:
            yield opening + orjson.dumps(rows, option=OPTIONS)[1:-1]
            opening = b","
        yield b"[]" if opening == b"[" else b"]"

    return current_app.response_class(parts(chunks(rows, keys)), mimetype="application/json")


@lru_cache(maxsize=128)
def following(rows: Rows, keys: Keys, later: bool, descending: bool = False, beginning: Beginning = None) -> Rows:
    """The query for the rows from the beginning, or after the values `after_0`... if it is for a `later` page.

    Building a query takes as long as asking the database; where `rows` is the same, it is built once.
    """
    if later:
        start = tuple_(*(bindparam(f"after_{place}", type_=key.type) for place, key in enumerate(keys)))
        rows = rows.where(tuple_(*keys) < start if descending else tuple_(*keys) > start)
    elif beginning is not None:
        rows = rows.where(beginning)
    return rows.order_by(*(key.desc() if descending else key for key in keys)).limit(bindparam("limit", type_=Integer))


def parameters(values: Values, start: Iterable[Any], limit: int) -> dict[str, Any]:
    return {**(values or {}), **{f"after_{place}": value for place, value in enumerate(start)}, "limit": limit}


def fetch(rows: Rows, values: Values, pool: str = "autocommit") -> Sequence[Any]:
    if of_models(rows):
        return db.session.scalars(rows, values).all()
    with autocommit_connection(pool) as connection:
        found = connection.execute(rows, values)
        names = tuple(found.keys())
        return [dict(zip(names, row, strict=True)) for row in found.all()]


@lru_cache(maxsize=128)
def of_models(rows: Rows) -> bool:
    return len(rows.column_descriptions) == 1


def key_values(row: Any, keys: Keys) -> list[Any]:
    return [row[key.key] if isinstance(row, dict) else getattr(row, key.key) for key in keys]


def encode(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode(cursor: str, keys: Keys) -> list[Any]:
    """The key values in a cursor. A cursor is opaque but not secret: whatever it says, it only moves the start."""
    try:
        if len(cursor) > LONGEST_CURSOR:
            raise ValueError("It is longer than any of ours")
        given = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        values = [read(value, key) for value, key in zip(given, keys, strict=True)]
        if encode(values) != cursor:
            raise ValueError("It is written in another way")
        return values
    except (ValueError, TypeError, OverflowError):
        raise Invalid(after="Must be the cursor of a Link header") from None


def read(value: Any, key: Any) -> Any:
    if not isinstance(key.type, Integer):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("A cursor's time has a zone")
        return moment.astimezone(UTC)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("A cursor's number is an id")
    return value
