"""Answers that are large and the same for everybody, compressed where the client takes that."""

import gzip
from functools import lru_cache, wraps
from typing import Any

from flask import Response, request

from routes.http.views import View

compress = lru_cache(maxsize=16)(gzip.compress)


def compressed(view: View) -> View:
    """Compress the answer. Its tag, if there is one, is weak then: the bytes are others."""

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Response:
        response: Response = view(*args, **kwargs)
        response.vary.add("Accept-Encoding")
        if response.status_code == 200 and request.accept_encodings.quality("gzip"):
            response.set_data(compress(response.get_data()))
            response.content_encoding = "gzip"
            tag = response.get_etag()[0]
            if tag:
                response.set_etag(tag, weak=True)
        return response

    return answer
