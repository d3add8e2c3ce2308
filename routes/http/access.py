"""Who may make a call: one decorator on each method, which reads like the contract's column `who`."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, Literal

from flask import Response, after_this_request
from flask_jwt_extended import current_user, verify_jwt_in_request
from flask_jwt_extended.config import config
from werkzeug.exceptions import Forbidden, HTTPException, NotFound

from models import APPOINTMENTS, ROLES
from routes.http.parsing import Digits
from routes.http.request import request
from routes.http.views import View, mark
from routes.selling.appointments import OPEN_KINDS, appointment_of, is_appointed, standing, works_somewhere
from routes.selling.audit import act_as

Decorator = Callable[[View], View]
ID_IN_QUERY = Digits(0, 2**31 - 1)
Token = Literal["access", "refresh", "either"]


def public(view: View) -> View:
    """Anyone; a token is ignored."""
    return mark(view, roles=None)


def token_optional(view: View) -> View:
    """Anyone. A token that is sent is checked, as its user may see more; so caches keep answers apart (`Vary`)."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        after_this_request(vary_by_token)
        verify_jwt_in_request(optional=config.header_name not in request.headers)
        return view(*args, **kwargs)

    return mark(guarded, roles=None, token_optional=True)


def vary_by_token(response: Response) -> Response:
    response.vary.add("Authorization")
    return response


def is_admin() -> bool:
    """Whether the current user is an admin; False without a token."""
    return bool(current_user) and current_user.role == "admin"


def works_here() -> bool:
    """Whether the current user is staff or an admin; False without a token."""
    return bool(current_user) and current_user.role != "user"


def manages(event_id: int) -> bool:
    """Whether the current user is a manager of the event; False without a token."""
    return bool(current_user) and is_appointed(current_user.id, event_id, ("manager",))


def edits(event_id: int) -> bool:
    """Whether the current user is an admin or a manager of the event."""
    return is_admin() or manages(event_id)


def works_for(event_id: int) -> bool:
    """Whether the current user is staff, an admin or a manager of the event: who sees all that is about it."""
    return works_here() or manages(event_id)


def filtered_event() -> int | None:
    """The event that the query string narrows a list to."""
    try:
        return ID_IN_QUERY(request.args.get("event", ""))
    except ValueError:
        return None


def sees_orders() -> bool:
    """Whether the current user sees all orders of a list: staff, admins, and a manager where it is his event's."""
    event_id = filtered_event()
    return works_here() or (event_id is not None and manages(event_id))


def hide_drafts(event_id: int, status: str | None) -> None:
    """Raise NotFound if there is no event, or if it is a draft and the user is neither an admin nor its manager."""
    if status is None or (status == "draft" and not edits(event_id)):
        raise NotFound


def roles(
    *allowed: str,
    refusal: type[HTTPException] = Forbidden,
    token: Token = "access",
    elsewhere: Callable[[], int | None] = lambda: None,
) -> Decorator:
    """A valid token of a user with one of these roles; any other role gets the `refusal`.

    Where `door` or `manager` is among them, also users who are appointed so for the event that the path is about, or
    for one `elsewhere` that the call names.
    """
    appointments = set(allowed) & set(APPOINTMENTS)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            verify_jwt_in_request(refresh=token == "refresh", verify_type=token != "either")
            if current_user.role not in allowed:
                if not appointments:
                    raise refusal(refusal.__name__)
                request.appointment = appointment_at(elsewhere(), appointments) or appointment_among(appointments)
            act_as(current_user.id, request.id)
            return view(*args, **kwargs)

        return mark(guarded, roles=allowed, refusal=refusal, token=token)

    return decorate


def appointment_at(event_id: int | None, allowed: Collection[str]) -> str | None:
    """The current user's appointment for the event, if it is allowed."""
    found = None if event_id is None else appointment_of(current_user.id, event_id)
    return found if found in allowed else None


def named_event() -> int | None:
    """The event whose door the body says it is, if it does."""
    with suppress(HTTPException):
        event_id = request.json_object.get("event_id")
        return event_id if type(event_id) is int and 0 < event_id < 2**31 else None
    return None


def appointment_among(allowed: Collection[str]) -> str:
    """The current user's appointment for what the path is about, if it is allowed.

    Else the call is forbidden to users who may see that, and a 404 for others. For orders and tickets, users who
    are appointed for no event are forbidden in any case: they do not learn which there are.
    """
    kind, ids = asked_about()
    found = standing(current_user, kind, ids)
    if found is None or not found.sees:
        raise NotFound if kind in OPEN_KINDS or works_somewhere(current_user.id) else Forbidden("Forbidden")
    if found.appointment is None or found.appointment not in allowed:
        raise Forbidden("Forbidden")
    return found.appointment


def asked_about() -> tuple[str, Mapping[str, Any]]:
    """The kind of what the path is about, with its ids; for a list, the event that it is narrowed to."""
    if request.view_args:
        return request.path.split("/")[1], request.view_args
    event_id = filtered_event()
    if event_id is None:
        raise Forbidden("Forbidden")
    return "events", {"id": event_id}


signed_in = roles(*ROLES)
