"""What is asked: a request with an id and a body of JSON, which is read whole before anything is done."""

import json
import math
import re
import uuid
from functools import cached_property
from typing import Any, NoReturn, cast

from flask import Flask, Request
from flask import request as flask_request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

REFUSAL = "ticketing.refusal"  # in the environment: the error that the server has the application answer


class TicketingRequest(Request):
    """A request with an id, whose body is one JSON object. `committed` is whether it has changed anything for good."""

    committed = False
    user_id: int | None = None  # of the token, once it is looked at
    appointment: str | None = None  # by which the user may make the call, and not by the role

    @cached_property
    def id(self) -> str:
        """The X-Request-ID that the client or a proxy gave, or a new one."""
        given = self.headers.get("X-Request-ID", "")
        return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex

    @cached_property
    def json_object(self) -> dict[str, Any]:
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be JSON, with the Content-Type application/json")
        try:
            body = json.loads(self.get_data().decode(), parse_constant=refuse_constant, parse_int=read_integer)
        except (ValueError, RecursionError) as error:
            raise BadRequest("The body is not valid JSON") from error
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object")
        return body


request = cast(TicketingRequest, flask_request)


def read_body() -> None:
    """Before every request: one too large is refused by every call, and one left unread would cost the connection."""
    if REFUSAL in request.environ:
        raise request.environ[REFUSAL]
    length, most = request.content_length, cast(int, request.max_content_length)
    if length is None:  # it comes in chunks, and one byte more shows that it is too large
        request.max_content_length = most + 1
    if (length or 0) > most or len(request.get_data()) > most:
        raise RequestEntityTooLarge
    if len(request.get_data()) < (length or 0):
        raise BadRequest("The body is shorter than its Content-Length")


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_integer(digits: str) -> float:
    """A number too long for Python to read is out of every range: infinity, which no field takes."""
    return int(digits) if len(digits) < 1000 else math.inf


def register(app: Flask) -> None:
    app.request_class = TicketingRequest
    app.before_request(read_body)
