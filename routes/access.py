"""Who may make a call: one decorator on each method, which reads like the contract's column `who`."""

from functools import wraps

from flask import current_app, request
from flask_jwt_extended import JWTManager, current_user, verify_jwt_in_request
from flask_jwt_extended.exceptions import JWTExtendedException
from jwt import decode
from jwt.exceptions import ExpiredSignatureError, PyJWTError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

from models import ROLES, User, db, new_stamp


class Tokens(JWTManager):
    def _decode_jwt_from_config(self, encoded_token, csrf_value=None, allow_expired=False):
        """Read a token once. The extension reads it three times, to choose among keys, of which there is one."""
        key = current_app.config["JWT_SECRET_KEY"]
        return decode(encoded_token, key, algorithms=["HS256"], options={"require": ["exp", "sub", "type"]})


jwt = Tokens()


@jwt.user_identity_loader
def identity(user):
    return str(user.id if isinstance(user, User) else user)


@jwt.additional_claims_loader
def claims(user):
    """What every token carries: the role, the stamp that ends it when the account changes, and the log-in it is of."""
    user = user if isinstance(user, User) else db.session.get(User, user)
    return {"role": user.role, "stamp": user.stamp, "sid": new_stamp()} if user else {}


@jwt.user_lookup_loader
def user_of_token(header, token):
    return User.of_token(token)


# What a token made elsewhere, or made to break the check, can raise in the libraries that read it.
UNREADABLE = (PyJWTError, JWTExtendedException, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


def authenticate(*, refresh=False):
    """Check the Bearer token and its user, or raise Unauthorized with the challenge of RFC 6750."""
    if "Authorization" not in request.headers:
        raise Unauthorized("Missing token")
    try:
        verify_jwt_in_request(refresh=refresh)
    except UNREADABLE as error:
        message = "Token has expired" if isinstance(error, ExpiredSignatureError) else "Invalid token"
        challenge = WWWAuthenticate("bearer", {"error": "invalid_token", "error_description": message})
        raise Unauthorized(message, www_authenticate=challenge) from error


def public(view):
    """Anyone, and no token is looked at."""
    view.roles = None
    return view


def token_optional(view):
    """Anyone; who sends a token is checked and may see more."""

    @wraps(view)
    def guarded(*args, **kwargs):
        if "Authorization" in request.headers:
            authenticate()
        return view(*args, **kwargs)

    guarded.roles, guarded.token_optional = None, True
    return guarded


def is_admin():
    """Whether it is an admin who asks; also in calls that need no token."""
    return "Authorization" in request.headers and current_user.role == "admin"


def roles(*allowed, refusal=Forbidden, refresh=False):
    """A valid token of a user with one of these roles; any other role gets the `refusal`."""

    def decorate(view):
        @wraps(view)
        def guarded(*args, **kwargs):
            authenticate(refresh=refresh)
            if current_user.role not in allowed:
                raise refusal(refusal.__name__)
            return view(*args, **kwargs)

        guarded.roles, guarded.refusal, guarded.refresh = allowed, refusal, refresh
        return guarded

    return decorate


signed_in = roles(*ROLES)
