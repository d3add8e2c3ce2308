"""The `Idempotency-Key`: a call that is sent again, by a double click or a lost answer, is done once."""

import json
import re
from functools import wraps
from hashlib import sha256

from flask import current_app, request
from flask_jwt_extended import current_user
from flask_restful.utils import unpack
from werkzeug.exceptions import BadRequest

from models import IdempotencyKey, Invalid, db
from routes.answers import output_json

KEY = r"^[!-~][ -~]{0,254}$"


def idempotent(view):
    """Commit what the view did together with its answer, which a repetition with the same key gets as it was."""

    @wraps(view)
    def once(*args, **kwargs):
        key = request.headers.get("Idempotency-Key")
        if key is None:
            answer = view(*args, **kwargs)
            if db.session.registry.has():  # what was placed at once needed no session
                db.session.commit()
            return answer
        if not re.fullmatch(KEY, key.strip()):
            raise Invalid(**{"Idempotency-Key": "Must have 1 to 255 characters, all of them of ASCII"})
        claimed = IdempotencyKey.claim(current_user.id, key, path=request.path, fingerprint=fingerprint())
        if claimed.status is not None:
            return replayed(claimed)
        response = output_json(*unpack(view(*args, **kwargs)))
        claimed.status, claimed.body = response.status_code, response.get_data(as_text=True)
        claimed.location = response.headers.get("Location")
        db.session.commit()
        return response

    once.idempotent = True
    return once


def fingerprint():
    """What tells two bodies apart as JSON: neither spaces nor the order of fields."""
    try:
        return sha256(json.dumps(request.json_object, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise BadRequest("The body is nested too deep") from None


def replayed(claimed):
    response = current_app.response_class(claimed.body, claimed.status, mimetype="application/json")
    if claimed.location:
        response.headers["Location"] = claimed.location
    response.headers["Idempotent-Replayed"] = "true"
    return response
