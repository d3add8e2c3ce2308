"""Every error answer leaves here, as `{"message": ...}` in JSON, whatever raised it."""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from flask import Flask, Response, current_app
from flask_limiter import RateLimitExceeded, RequestLimit
from sqlalchemy.exc import DBAPIError, TimeoutError
from werkzeug.exceptions import Forbidden, HTTPException, NotFound, TooManyRequests

from models import Busy, Invalid, Missing, NotAllowed, Outdated, ProviderUnavailable, Refused, TooOften
from routes.http.faults import BUSY, fault_of
from routes.http.json import output_json
from routes.http.limits import limiter


def answer(
    message: Any,
    status: int,
    headers: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Response:
    return output_json({"message": message, **(facts or {})}, status, headers)


def http_error(error: HTTPException) -> Response:
    """What Werkzeug, reqparse and the guards raise. Its own headers stay: Allow, Retry-After, WWW-Authenticate."""
    if error.response is not None:
        return cast(Response, error.response)
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    if error.code == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    plain = error.name if error.description == type(error).description else error.description
    message = getattr(error, "data", {}).get("message", plain)
    reason = getattr(error, "reason", None)
    return answer(message, error.code or 500, headers, {"reason": reason} if reason else {})


def limit_reached(error: RateLimitExceeded) -> Response:
    limit = cast(RequestLimit, limiter.current_limit)
    return http_error(too_many_requests(int(limit.reset_at - time.time())))


def too_many_requests(seconds: int) -> TooManyRequests:
    return TooManyRequests("Too many attempts. Please try again later.", retry_after=max(seconds, 1))


def too_often(error: TooOften) -> Response:
    return http_error(too_many_requests(3600))


def refused(error: Refused) -> Response:
    return answer(error.message, 409, facts={"reason": error.reason, **error.facts})


def invalid(error: Invalid) -> Response:
    return answer(error.fields, 400)


def missing(error: Missing) -> Response:
    return http_error(NotFound())


def not_allowed(error: NotAllowed) -> Response:
    return http_error(Forbidden("Forbidden"))


def outdated(error: Outdated) -> Response:
    return answer("It has been changed since. Please read it again.", 412, facts={"reason": "outdated"})


def busy(error: Busy) -> Response:
    return answer("Too many ask for this at once. Please try again.", 503, {"Retry-After": "2"})


def provider_unavailable(error: ProviderUnavailable) -> Response:
    message = "The payment provider does not answer. Please try again."
    return answer(message, 503, {"Retry-After": "5"}, {"reason": "provider_unavailable"})


def database_fault(error: DBAPIError | TimeoutError) -> Response:
    """A fault of the database is a 503. A mistake in a statement of ours is raised again: it is a bug."""
    fault = fault_of(error)
    if fault is None:
        raise error
    # Where all connections are in use, it is not the one that had to wait who knows why.
    # A pool of ours that is in use, as of searches that anybody may ask for, is no fault to wake somebody for.
    level = logging.WARNING if isinstance(error, TimeoutError) else logging.ERROR
    current_app.logger.log(level, fault.message, exc_info=None if fault is BUSY else error)
    return answer(f"{fault.message}. {fault.advice}", 503, {"Retry-After": str(fault.retry_after)})


def register(app: Flask) -> None:
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(RateLimitExceeded, limit_reached)
    app.register_error_handler(TooOften, too_often)
    app.register_error_handler(Refused, refused)
    app.register_error_handler(Invalid, invalid)
    app.register_error_handler(Missing, missing)
    app.register_error_handler(NotAllowed, not_allowed)
    app.register_error_handler(Outdated, outdated)
    app.register_error_handler(Busy, busy)
    app.register_error_handler(ProviderUnavailable, provider_unavailable)
    app.register_error_handler(DBAPIError, database_fault)
    app.register_error_handler(TimeoutError, database_fault)
