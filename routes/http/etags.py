"""Entity tags: unchanged answers are not sent again, and a change is made only to the version that was read."""

import re
from functools import wraps
from hashlib import blake2b
from typing import Any

from flask import Response, request
from flask_restful.utils import unpack
from werkzeug.exceptions import PreconditionFailed

from routes.http.json import output_json
from routes.http.views import View, mark

TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def tagged(view: View) -> View:
    """Tag the answer with its content.

    Where the view gives a `version` of its own, that comes first in the tag: `If-Match` needs no more of it.
    """

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Response:
        data, status, headers = unpack(view(*args, **kwargs))
        version = headers.pop("version", None)
        response = output_json(data, status, headers)
        content = response.get_data() + response.headers.get("Link", "").encode()
        digest = blake2b(content, digest_size=8).hexdigest()
        response.set_etag(digest if version is None else f"{version}-{digest}")
        return response

    return mark(answer, tagged=True)


def conditional(view: View) -> View:
    """Tag the answer to a GET; answer 304 where the client has it already (`If-None-Match`)."""
    tag = tagged(view)

    @wraps(tag)
    def answer(*args: Any, **kwargs: Any) -> Response:
        response = tag(*args, **kwargs)
        response.headers.setdefault("Cache-Control", "private, no-cache")
        own = response.get_etag()[0]
        if "If-Match" in request.headers and not matches("If-Match", own):
            raise PreconditionFailed
        if matches("If-None-Match", own):
            response.status_code = 304
        return response

    return mark(answer, conditional=True)


def matches(header: str, tag: str | None) -> bool:
    """Whether the header names the tag, or anything (`*`)."""
    given = request.headers.get(header, "").strip()
    return given == "*" or tag in tags(given)


def tags(given: str) -> set[str]:
    """The tags in a header. Weak ones count too: a proxy that compresses an answer weakens its tag (`W/`)."""
    return set(TAG.findall(given))


def expected_versions() -> set[str] | None:
    """The versions that `If-Match` names, or None where any will do."""
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    return {tag.partition("-")[0] for tag in tags(given)}
