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
    if response.status_code == 204 or request.method == "OPTIONS":
        response.headers.pop("Content-Type", None)  # there is no content
    return response


def forget(error):
    """What a request did not commit is gone with it, also where one app context is held open around many requests."""
    db.session.rollback()
    db.session.expire_all()


def register(app):
    app.request_class = TicketingRequest
    app.after_request(finish)
    app.teardown_request(forget)
    origins = [origin.strip() for origin in app.config["CORS_ORIGINS"].split(",") if origin.strip()]
    CORS(app, origins=origins, allow_headers=ALLOWED, expose_headers=EXPOSED, max_age=600, always_send=False)
