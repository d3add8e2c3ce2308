"""Every error answer leaves here, as `{"message": ...}` in JSON, whatever raised it."""

import time

from flask import current_app
from flask_limiter import RateLimitExceeded
from sqlalchemy.exc import OperationalError, TimeoutError
from werkzeug.exceptions import HTTPException, NotFound, TooManyRequests

from models import Invalid, Missing, Outdated, Refused
from routes.limits import limiter


def answer(message, status, headers=(), facts=()):
    response = current_app.json.response({"message": message, **dict(facts)})
    response.status_code = status
    response.headers.extend(headers)
    return response


def http_error(error):
    """What Werkzeug, reqparse and the guards raise. Its own headers stay: Allow, Retry-After, WWW-Authenticate."""
    if error.response is not None:
        return error.response
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    if error.code == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    plain = error.name if error.description == type(error).description else error.description
    message = getattr(error, "data", {}).get("message", plain)
    return answer(message, error.code, headers)


def limit_reached(error):
    return http_error(too_many_requests(int(limiter.current_limit.reset_at - time.time())))


def too_many_requests(seconds):
    return TooManyRequests("Too many attempts. Please try again later.", retry_after=max(seconds, 1))


def refused(error):
    return answer(error.message, 409, facts={"reason": error.reason, **error.facts})


def invalid(error):
    return answer(error.fields, 400)


def missing(error):
    return http_error(NotFound())


def outdated(error):
    return answer("Somebody has changed it since. Please read it again.", 412, facts={"reason": "outdated"})


def database_away(error):
    current_app.logger.exception("The database does not answer")
    return answer("The database does not answer. Please try again.", 503, {"Retry-After": "1"})


def register(app):
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(RateLimitExceeded, limit_reached)
    app.register_error_handler(Refused, refused)
    app.register_error_handler(Invalid, invalid)
    app.register_error_handler(Missing, missing)
    app.register_error_handler(Outdated, outdated)
    app.register_error_handler(OperationalError, database_away)
    app.register_error_handler(TimeoutError, database_away)
