"""How resources are put into an application: the `Api` that they are added to, and what a path may hold."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response, current_app, has_request_context
from flask_restful import Api, Resource
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from werkzeug.routing import BaseConverter, IntegerConverter, Map

from routes.http.faults import CHANGED, CONFLICT, fault_of
from routes.http.headers import forget
from routes.http.json import output_json
from routes.http.request import request
from routes.http.views import View


class IdConverter(IntegerConverter):
    """An id in a path. One that is too large for a column is a 404, like an id that does not exist."""

    regex = "[1-9][0-9]{0,9}"
    schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=2**31 - 1)


class CodeConverter(BaseConverter):
    """A code as people and scanners send it: in any case, with blanks, line ends or hyphens in it or around it."""

    between = r"[\s\u00ad\u200b\u2010-\u2015\ufeff-]"  # mail programs and printers have hyphens of their own
    regex = f"{between}*(?:[0-9A-Fa-f]{between}*){{32}}"
    schema = {"type": "string", "pattern": "^[0-9A-F]{32}$"}

    def to_python(self, value: str) -> str:
        """In the one form that it is stored and compared in."""
        return re.sub(self.between, "", value).upper()


class PromoConverter(BaseConverter):
    """A promo code, as people type it. A text that can't be one is a 404, like a code that does not exist."""

    regex = r"\s*[\w.-]{1,50}\s*"
    schema = {"type": "string", "minLength": 1, "maxLength": 50}


class ProviderConverter(BaseConverter):
    """The name of a payment provider."""

    regex = "[a-z]{1,20}"
    schema = {"type": "string", "pattern": f"^{regex}$"}


def tried_again(view: View) -> View:
    """Make the call a second time if the database undid it (a deadlock, say), unless it has committed something."""

    @wraps(view)
    def twice(*args: Any, **kwargs: Any) -> Any:
        try:
            return view(*args, **kwargs)
        except DBAPIError as error:
            fault = fault_of(error)
            if fault not in (CONFLICT, CHANGED) or request.committed:
                raise
            current_app.logger.warning("%s: trying again", fault.message, exc_info=error)
        forget()
        return view(*args, **kwargs)

    return twice


@event.listens_for(Session, "after_commit")
def remember_commit(session: Session) -> None:
    if has_request_context():
        request.committed = True


class TicketingApi(Api):
    """The table of resources. It serves every application that `create_app` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.representations["application/json"] = output_json

    def error_router(self, original_handler: Callable[[Exception], Response], e: Exception) -> Response:
        """Leave errors to the application, which answers them in production as in tests; Flask-RESTful would not."""
        return original_handler(e)

    def output(self, resource: View) -> Any:
        return super().output(tried_again(resource))

    def add_resource(self, resource: type[Resource], *urls: str, **kwargs: Any) -> None:
        """Add it to the table, and to the module's own application if that is there already."""
        super().add_resource(resource, *urls, **kwargs)
        if self.app is not None:  # then Flask-RESTful has not kept it for the applications to come
            self.resources.append((resource, urls, kwargs))


def register(app: Flask) -> None:
    app.url_map.converters |= {"id": IdConverter, "code": CodeConverter}
    app.url_map.converters |= {"promo": PromoConverter, "provider": ProviderConverter}
    app.url_map.merge_slashes = False
