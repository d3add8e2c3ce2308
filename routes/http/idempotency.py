"""The `Idempotency-Key`: a call that is sent again, by a double click or a lost answer, is done once."""

import json
import re
from functools import wraps
from hashlib import sha256
from typing import Any

from flask import Response, current_app, url_for
from flask_jwt_extended import current_user
from werkzeug.exceptions import BadRequest

from models import IdempotencyKey, Invalid
from routes.http.json import output_json
from routes.http.request import request
from routes.http.views import View, mark

KEY = r"^[!-~][ -~]{0,254}$"


class Claim:
    """A call without an Idempotency-Key: its answer is not kept."""

    def __bool__(self) -> bool:
        return False

    def keep(self, data: Any, status: int, headers: dict[str, str] | None = None) -> Response:
        """The answer, to be called before the commit of what it tells."""
        return output_json(data, status, headers)


class KeyClaim(Claim):
    """A call that is the first with its key: its answer is kept in the transaction of what it does."""

    def __init__(self, row: IdempotencyKey) -> None:
        self.row = row

    def __bool__(self) -> bool:
        return True

    def keep(self, data: Any, status: int, headers: dict[str, str] | None = None) -> Response:
        response = super().keep(data, status, headers)
        self.row.status, self.row.body = response.status_code, response.get_data(as_text=True)
        self.row.location = response.headers.get("Location")
        return response


def idempotent(view: View) -> View:
    """Give the method a claim on its `Idempotency-Key`, to keep its answer with. A repeated call gets that answer."""

    @wraps(view)
    def once(self: Any, args: dict[str, Any], **kwargs: Any) -> Any:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return view(self, args, Claim(), **kwargs)
        if not re.fullmatch(KEY, key.strip()):
            raise Invalid(**{"Idempotency-Key": "Must have 1 to 255 characters, all of them of ASCII"})
        path = url_for(request.endpoint or "", **kwargs)  # with its code in the one form that it is stored in
        row = IdempotencyKey.claim(current_user.id, key, path=path, fingerprint=fingerprint())
        return view(self, args, KeyClaim(row), **kwargs) if row.status is None else replayed(row)

    return mark(once, idempotent=True)


def fingerprint() -> str:
    """A text that is the same for the same JSON, whatever its spaces and the order of its fields."""
    try:
        body = request.json_object if request.get_data() else None  # a body may be missing where it is optional
        return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise BadRequest("The body is nested too deep") from None


def replayed(claimed: IdempotencyKey) -> Response:
    response = current_app.response_class(claimed.body, claimed.status, mimetype="application/json")
    if claimed.location:
        response.headers["Location"] = claimed.location
    response.headers["Idempotent-Replayed"] = "true"
    return response
