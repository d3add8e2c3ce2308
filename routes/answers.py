"""How answers are written: JSON by orjson, and what the documentation says of them."""

from functools import wraps
from hashlib import blake2b
from types import SimpleNamespace

import orjson
from flask import current_app, request
from flask.json.provider import JSONProvider
from flask_restful.utils import unpack
from werkzeug.exceptions import PreconditionFailed

OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS


class ORJSON(JSONProvider):
    """Times that are still datetimes leave in the contract's form too: rows need no pass of their own."""

    def dumps(self, obj, **kwargs):
        return orjson.dumps(obj, option=OPTIONS).decode()

    def loads(self, s, **kwargs):
        return orjson.loads(s)

    def response(self, *args, **kwargs):
        content = orjson.dumps(self._prepare_response_obj(args, kwargs), option=OPTIONS)
        return self._app.response_class(content, mimetype="application/json")


def output_json(data, code, headers=None):
    """Flask-RESTful's representation of `application/json`."""
    response = current_app.json.response(data) if code != 204 else current_app.response_class()
    response.status_code = code
    response.headers.extend(headers or {})
    return response


def conditional(view):
    """Tag the answer with its content, and send it only to who has not got it (`If-None-Match`).

    Where the view gives a `version` of its own, that comes first in the tag: `If-Match` needs no more of it.
    """

    @wraps(view)
    def tagged(*args, **kwargs):
        data, status, headers = unpack(view(*args, **kwargs))
        version = headers.pop("version", None)
        response = output_json(data, status, headers)
        content = response.get_data() + response.headers.get("Link", "").encode()
        digest = blake2b(content, digest_size=8).hexdigest()
        response.set_etag(digest if version is None else f"{version}-{digest}")
        response.headers["Cache-Control"] = "private, no-cache"
        response.vary.add("Authorization")
        environ = request.environ | ({"HTTP_IF_MATCH": ""} if request.if_match.star_tag else {})  # Werkzeug forgets `*`
        if response.make_conditional(environ).status_code == 412:
            raise PreconditionFailed
        return response

    tagged.conditional = True
    return tagged


def expected_versions():
    """The versions that `If-Match` names, or None where anything goes. A weak tag names none (RFC 9110)."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return {tag.partition("-")[0] for tag in request.if_match.as_set()}


def answers(status, example=None, *, plus=(), media=None, headers=(), refuses=(), sends=None):
    """Describe for the documentation what the method answers; it changes nothing in the call itself.

    The `example` is a model, described as its `serialize_only` and `plus` say, or JSON with models in it; `media` has
    examples by media type. `refuses` are errors as they may be raised, beyond those of guard and parser. `sends` is an
    example of the body, or a model that has its fields; if it is left out, what is answered has them.
    """

    def describe(view):
        answer = SimpleNamespace(example=example, plus=plus, media=media or {}, headers=headers)
        view.answers = {status: answer, **getattr(view, "answers", {})}
        view.refuses = (*refuses, *getattr(view, "refuses", ()))
        view.sends = sends or example
        return view

    return describe
