"""The page to read about the API and to try it on: Swagger UI, all of it from this server."""

import re
from mimetypes import guess_type
from pathlib import Path
from typing import cast

import flask_swagger_ui
from flask import Flask, Response, current_app, request
from flask_restful import Resource
from werkzeug.routing import BaseConverter

from routes.docs.answers import answers
from routes.docs.compression import compressed
from routes.http.access import public

UI = Path(flask_swagger_ui.__file__).parent / "dist"
FILES = ("start.js", "start.css", "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Ticketing Application</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/start.css">
<link rel="icon" href="docs/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
OURS = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class FileConverter(BaseConverter):
    """A file of the documents' page, and no other."""

    regex = f"(?:{'|'.join(map(re.escape, FILES))})"
    schema = {"type": "string", "enum": list(FILES)}


class Home(Resource):
    @public
    @answers(302, headers=["Location"])
    def get(self) -> Response:
        """Go to the page about the API."""
        return current_app.response_class(status=302, headers={"Location": "/docs"})


class DocsResource(Resource):
    @public
    @answers(200, media={"text/html": PAGE})
    def get(self) -> Response:
        """Read about the API and try it in the browser."""
        return current_app.response_class(PAGE, mimetype="text/html", headers={"Content-Security-Policy": POLICY})


class DocsFile(Resource):
    @public
    @compressed
    @answers(200, media={"text/javascript": "...", "text/css": "...", "image/png": "..."})
    def get(self, file: str) -> Response:
        """Get a file that the documentation's page needs."""
        kind, _ = guess_type(file)
        path = (OURS if file.startswith("start.") else UI) / file
        response = current_app.response_class(path.read_bytes(), mimetype=kind)
        response.cache_control.max_age, response.cache_control.public = 3600, True
        response.add_etag()
        return cast(Response, response.make_conditional(request))


def register(app: Flask) -> None:
    app.url_map.converters["file"] = FileConverter
