"""How JSON is written: by orjson, with sorted keys and times in the contract's form."""

from collections.abc import Mapping
from typing import Any, cast

import orjson
from flask import Flask, Response, current_app
from flask.json.provider import JSONProvider

OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS


class ORJSON(JSONProvider):
    """Times that are still datetimes leave in the contract's form too: rows need no pass of their own."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj, option=OPTIONS).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        content = orjson.dumps(self._prepare_response_obj(args, kwargs), option=OPTIONS)
        return cast(Flask, self._app).response_class(content, mimetype="application/json")


def output_json(data: Any, code: int, headers: Mapping[str, Any] | None = None) -> Response:
    """Flask-RESTful's representation of `application/json`."""
    response = cast(ORJSON, current_app.json).response(data) if code != 204 else current_app.response_class()
    response.status_code = code
    response.headers.extend(headers or {})
    return response


def register(app: Flask) -> None:
    app.json = ORJSON(app)
