"""What every answer carries besides its body: a request id, rules for browsers, and who may read it from elsewhere."""

from flask import Flask, Response, current_app
from flask_cors import CORS
from sqlalchemy.exc import SQLAlchemyError

from models import db
from routes.http.origins import origins
from routes.http.request import request
from routes.selling.audit import act_as_nobody

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
EXPOSED = [
    *("Link", "Location", "Retry-After", "ETag", "X-Request-ID", "Idempotent-Replayed"),
    *("Date", "WWW-Authenticate", "Content-Disposition"),
]
ALLOWED = [
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Request-ID"),
    *("traceparent", "tracestate", "baggage", "sentry-trace"),  # by which browsers' calls are followed
]


def answer_preflight() -> Response | None:
    """Answer a preflight for any path. If it were a 404, pages would see a dead network and not their call's 404."""
    if request.method == "OPTIONS" and {"Origin", "Access-Control-Request-Method"} <= set(request.headers.keys()):
        return current_app.response_class(status=204)
    return None


def finish(response: Response) -> Response:
    """Let nobody on the way store the answer, unless the call says otherwise."""
    response.headers["X-Request-ID"] = request.id
    if response.headers.get("Location", "").startswith("/"):
        response.headers["Location"] = request.root_path + response.headers["Location"]  # below a proxy's path
    response.headers.setdefault("Cache-Control", "no-store")
    for name, value in SECURITY.items():
        response.headers.setdefault(name, value)
    if response.status_code == 204 or (request.method == "OPTIONS" and response.status_code == 200):
        response.headers.pop("Content-Type", None)  # there is no content
    return response


def forget(error: BaseException | None = None) -> None:
    """Forget what a request did not commit, also where one app context is held open around many requests."""
    if not db.session.registry.has():
        return
    act_as_nobody()
    try:
        db.session.rollback()
        db.session.expire_all()
    except SQLAlchemyError as gone:  # and what was not committed with it
        db.session().invalidate()
        current_app.logger.warning("The database went away", exc_info=gone)


def register(app: Flask) -> None:
    app.before_request(answer_preflight)
    app.after_request(finish)
    app.teardown_request(forget)
    CORS(
        app,
        origins=origins(app.config["CORS_ORIGINS"]),
        allow_headers=ALLOWED,
        expose_headers=EXPOSED,
        max_age=600,
        always_send=False,
    )
