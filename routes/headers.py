"""What every answer carries besides its body: a request id, rules for browsers, and who may read it from elsewhere."""

import re
import uuid
from functools import cached_property

from flask import request
from flask_cors import CORS

from models import db
from routes.parsing import JSONRequest

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
EXPOSED = ["Link", "Location", "Retry-After", "ETag", "X-Request-ID", "Idempotent-Replayed"]
ALLOWED = ["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Request-ID"]


class TicketingRequest(JSONRequest):
    @cached_property
    def id(self):
        """The X-Request-ID that the client or a proxy gave, or a new one."""
        given = self.headers.get("X-Request-ID", "")
        return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex


def finish(response):
    """Nothing is stored by anybody on the way unless the call says otherwise."""
    response.headers["X-Request-ID"] = request.id
    response.headers.setdefault("Cache-Control", "no-store")
    for name, value in SECURITY.items():
        response.headers.setdefault(name, value)
    if response.status_code == 204 or (request.method == "OPTIONS" and response.status_code == 200):
        response.headers.pop("Content-Type", None)  # there is no content
    return response


def forget(error):
    """What a request did not commit is gone with it, also where one app context is held open around many requests."""
    if db.session.registry.has():
        db.session.rollback()
        db.session.expire_all()


def origins(listed):
    """What browsers send as Origin, with commas between, as a list; `*` alone is any."""
    found = [origin.strip().rstrip("/") for origin in listed.split(",") if origin.strip()]
    if found != ["*"] and not all(re.fullmatch(r"https?://[\w.:\[\]-]+", origin) for origin in found):
        raise SystemExit("CORS_ORIGINS must be addresses such as https://tickets.example.com, with commas between")
    return found


def register(app):
    app.request_class = TicketingRequest
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
