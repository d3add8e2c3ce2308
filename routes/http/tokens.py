"""Tokens: how they are made and read, by Flask-JWT-Extended, and what is answered where one is no good."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from flask import Flask, Response
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token
from flask_jwt_extended.config import config
from flask_jwt_extended.default_callbacks import default_decode_key_callback
from flask_jwt_extended.exceptions import JWTDecodeError
from flask_jwt_extended.tokens import _decode_jwt
from jwt import ExpiredSignatureError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from models import Login, User, db, random_id
from routes.http.errors import http_error
from routes.http.request import request
from routes.selling.accounts import CurrentUser, current_user_of

# What a token that somebody signed to break the check can raise in the libraries that read it.
UNREADABLE = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


class Tokens(JWTManager):
    """Flask-JWT-Extended 4.7.4, but for two things: a token is parsed once, and the oddest is just no token."""

    def _decode_jwt_from_config(
        self, encoded_token: str, csrf_value: str | None = None, allow_expired: bool = False
    ) -> dict[str, Any]:
        try:
            if self._decode_key_callback is default_decode_key_callback and not allow_expired:
                with suppress(ExpiredSignatureError):  # the library's own has the claims with it
                    return read_once(encoded_token, csrf_value)
            return super()._decode_jwt_from_config(encoded_token, csrf_value, allow_expired)
        except UNREADABLE as error:
            raise JWTDecodeError("Not readable") from error


def read_once(encoded_token: str, csrf_value: str | None) -> dict[str, Any]:
    """What the library does, which parses the token twice more to choose among keys, of which there is one."""
    return _decode_jwt(
        algorithms=config.decode_algorithms,
        allow_expired=False,
        audience=config.decode_audience,
        csrf_value=csrf_value or "",
        encoded_token=encoded_token,
        identity_claim_key=config.identity_claim_key,
        issuer=config.decode_issuer,
        leeway=config.leeway,
        secret=config.decode_key,
        verify_aud=config.decode_audience is not None,
        verify_sub=config.verify_sub,
    )


jwt = Tokens()


@jwt.user_identity_loader
def identity(user: Any) -> str:
    return str(user.id if isinstance(user, User | CurrentUser) else user)


@jwt.additional_claims_loader
def claims(user: Any) -> dict[str, Any]:
    """What every token carries: the role, the `token_version` (claim `stamp`), and the log-in (`sid`)."""
    if isinstance(user, CurrentUser):
        return {"role": user.role}
    user = user if isinstance(user, User) else db.session.get(User, user)
    return {"role": user.role, "stamp": user.token_version, "sid": random_id()} if user else {}


@jwt.user_lookup_loader
def current_user_of_token(header: Mapping[str, Any], token: Mapping[str, Any]) -> CurrentUser | None:
    try:
        id = int(token[config.identity_claim_key])
        token_version, sid = text_claim(token, "stamp"), text_claim(token, "sid")
    except UNREADABLE as error:
        raise JWTDecodeError("Not readable") from error
    user = current_user_of(id, token_version=token_version, sid=sid) if 0 < id < 2**31 else None
    request.user_id = user.id if user else None
    return user


def text_claim(token: Mapping[str, Any], name: str) -> str:
    """One that the database can be asked about."""
    value = token[name]
    if not re.fullmatch("[ -~]{0,64}", value):
        raise ValueError(name)
    return str(value)


def generation_of(token: Mapping[str, Any]) -> int:
    """Which of its log-in's refresh tokens this is. Those from before they were counted are the first."""
    generation = token.get("generation", 0)
    if type(generation) is not int or not 0 <= generation < 2**31 - 1:
        raise JWTDecodeError("Not readable")
    return generation


def expiry_of(token: Mapping[str, Any]) -> datetime | None:
    """When it expires, or None for never, as after the year 9999."""
    with suppress(KeyError, OverflowError, ValueError):
        return datetime.fromtimestamp(int(token["exp"]), UTC)
    return None


def tokens_of(user: User | CurrentUser, login: Login, token_version: str) -> dict[str, Any]:
    """What a log-in and each refresh answer.

    The refresh token is made of nothing but its log-in's row, so that two refreshes at once answer the same one.
    """
    since = int(login.renewed_at.timestamp())
    common = {"role": user.role, "stamp": token_version, "sid": login.sid}
    fixed = {"generation": login.generation, "iat": since, "jti": fingerprint(login)}
    fixed |= {"nbf": since} if config.encode_nbf else {}
    lifetime = seconds_of(config.refresh_expires)
    fixed |= {"exp": since + lifetime} if lifetime is not None else {}
    return {
        "access_token": create_access_token(identity=user, additional_claims=common, fresh=login.generation == 0),
        "refresh_token": create_refresh_token(identity=user, additional_claims=common | fixed),
        "expires_in": seconds_of(config.access_expires),
    }


def fingerprint(login: Login) -> str:
    return sha256(f"{login.sid} {login.generation}".encode()).hexdigest()[:32]


def seconds_of(expires: Any) -> int | None:
    """A lifetime as the library takes it: anything that can be added to a time, or False for ever."""
    start = datetime.now(UTC)
    return None if expires is False else round((start + expires - start).total_seconds())


def longest_life() -> float | None:
    """How many seconds a token that is made now may be good, with the leeway of clocks; None for ever."""
    lives = [seconds_of(config.access_expires), seconds_of(config.refresh_expires)]
    leeway = config.leeway
    slack = leeway.total_seconds() if isinstance(leeway, timedelta) else leeway
    return None if None in lives else max(life for life in lives if life is not None) + slack + 60


class BadToken(Unauthorized):
    """No token, or one that is no good, with the challenge of RFC 6750. The `reason` says whether to refresh."""

    def __init__(self, reason: str, message: str) -> None:
        challenge = WWWAuthenticate("bearer", {"error": "invalid_token", "error_description": message})
        super().__init__(message, www_authenticate=None if reason == "token_missing" else challenge)
        self.reason = reason


MISSING = "token_missing", "Missing token"
INVALID = "token_invalid", "Invalid token"
EXPIRED = "token_expired", "Token has expired"
ENDED = "token_ended", "The log-in has ended"


# The library's handlers answer wherever a token is looked at, also in what others add with its own decorator.


@jwt.unauthorized_loader
def answer_missing(explanation: str) -> Response:
    return http_error(BadToken(*MISSING))


@jwt.invalid_token_loader
def answer_invalid(explanation: str) -> Response:
    return http_error(BadToken(*INVALID))


@jwt.needs_fresh_token_loader
@jwt.token_verification_failed_loader
def answer_unfit(header: Mapping[str, Any], token: Mapping[str, Any]) -> Response:
    return answer_invalid("")


@jwt.expired_token_loader
def answer_expired(header: Mapping[str, Any], token: Mapping[str, Any]) -> Response:
    return http_error(BadToken(*EXPIRED))


@jwt.revoked_token_loader
@jwt.user_lookup_error_loader
def answer_ended(header: Mapping[str, Any], token: Mapping[str, Any]) -> Response:
    return http_error(BadToken(*ENDED))


BLANK = "".join(filter(str.isspace, map(chr, range(256)))) + ","


def tidy_header() -> None:
    """The library compares the scheme letter by letter, which HTTP does not, and stumbles over commas alone."""
    name = f"HTTP_{config.header_name.upper().replace('-', '_')}"
    given = request.environ.get(name)
    if given is None:
        return
    scheme, space, token = given.strip(BLANK).partition(" ")
    known = config.header_type if scheme.lower() == config.header_type.lower() else scheme
    request.environ[name] = f"{known}{space}{token}"


def register(app: Flask) -> None:
    app.before_request(tidy_header)
