"""Accounts and log-ins: whom a token speaks for, how long a log-in lives, and what people change of themselves."""

import re
import secrets
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    update,
)

from models import (
    Busy,
    Invalid,
    Login,
    Missing,
    PreparedStatement,
    User,
    autocommit_connection,
    changed_rows,
    db,
    dialect_insert,
    hash_password,
    insert_or_ignore,
    is_outdated,
    lock_rows,
    normal_email,
    now,
    password_matches,
)
from routes.selling.audit import differences, record
from routes.selling.mail_tokens import mail_verification, refuse_taken, tell_of_password
from routes.selling.mails import is_configured


class CurrentUser(NamedTuple):
    """The user who makes the call, as the database knows him, and not the token."""

    id: int
    role: str


SELECT_CURRENT_USER = PreparedStatement(
    "current_user_of_token",
    select(User.id, User.role).where(
        User.id == bindparam("id"),
        User.active,
        User.token_version == bindparam("stamp"),
        func.coalesce(
            select(not_(Login.ended)).where(Login.sid == bindparam("sid")).scalar_subquery(),
            bindparam("good_without_row", type_=Boolean),
        ),
    ),
)


def current_user_of(id: int, *, token_version: str, sid: str) -> CurrentUser | None:
    """The user whom a token with these claims still speaks for. It runs at every signed-in request."""
    about = {"id": id, "stamp": token_version, "sid": sid, "good_without_row": not has_row(sid)}
    with autocommit_connection() as connection:
        row = SELECT_CURRENT_USER.execute(connection, about).one_or_none()
    return None if row is None else CurrentUser(row.id, row.role)


# The `sid` of a log-in that has a row from its beginning: where the row is gone, its tokens are dead. All others, made
# by the library's functions alone or before there were rows, get one when they are refreshed or ended.
ROW = "login-"


def has_row(sid: str) -> bool:
    return sid.startswith(ROW)


def open_login(user_id: int, *, seconds: float | None) -> Login:
    """A new log-in, whose tokens live for so many seconds at most; without `seconds`, for ever."""
    values = {"sid": ROW + secrets.token_hex(16), "user_id": user_id, "renewed_at": now(), "expires_at": after(seconds)}
    return cast(Login, db.session.scalar(insert(Login).values(values).returning(Login)))


def after(seconds: float | None) -> ColumnElement[Any]:
    return null() if seconds is None else cast(ColumnElement[Any], now(seconds))


# So long after a refresh, its token is answered with the same successor: two tabs may have sent it at once.
RACE_SECONDS = 30


def renew_login(
    sid: str, user_id: int, *, generation: int, expires_at: datetime | None, seconds: float | None
) -> Login | None:
    """Follow the refresh token of this `generation`, which expires at `expires_at`, by the next one.

    An older one has been stolen from somebody: then the log-in is ended, and there is none.
    """
    if not has_row(sid):
        first = {"sid": sid, "user_id": user_id, "renewed_at": now(), "expires_at": expires_at}
        db.session.execute(insert_or_ignore(Login).values(first))
    successor = and_(Login.sid == sid, not_(Login.ended), Login.generation == generation + 1)
    changes = {"generation": generation + 1, "renewed_at": now(), "expires_at": not_before(seconds)}
    renew = (
        update(Login)
        .where(Login.sid == sid, not_(Login.ended), Login.generation == generation)
        .values(changes)
        .returning(Login)
    )
    renewed_just_now = select(Login).where(successor, Login.renewed_at >= now(-RACE_SECONDS))
    for statement in (renew, renewed_just_now):
        login = db.session.scalar(statement, execution_options=FRESH)
        if login is not None:
            return login
    end_login(sid, user_id)
    return None


FRESH = {"populate_existing": True, "synchronize_session": False}


def not_before(seconds: float | None) -> ColumnElement[Any]:
    """`expires_at` so many seconds from now, or later: older tokens may have been made to live longer."""
    later = after(seconds)
    return later if seconds is None else case((Login.expires_at < later, later), else_=Login.expires_at)


def end_login(sid: str, user_id: int) -> None:
    """End all tokens of the log-in. Where it had no row, nobody knows how long they live: that is kept for ever."""
    values = {"sid": sid, "user_id": user_id, "renewed_at": now(), "ended": True}
    ended = {"ended": True} if has_row(sid) else {"ended": True, "expires_at": null()}
    statement = dialect_insert(Login).values(values)
    db.session.execute(statement.on_conflict_do_update(index_elements=[Login.sid], set_=ended))


def forget_old_logins() -> int:
    return changed_rows(delete(Login).where(Login.expires_at < now()))


class WrongPassword(Invalid):
    """A guess at a password that failed."""

    def __init__(self) -> None:
        super().__init__(current_password="Please provide your current password")


class Credentials(NamedTuple):
    """What somebody proves himself by. It is no row: no connection is held while bcrypt works."""

    id: int | None
    email: str
    password: str | None
    token_version: str

    def prove(self, password: str) -> None:
        if not password_matches(self.password, password):
            raise WrongPassword

    def are_needed_for(self, *, email: str | None = None, password: str | None = None, **rest: Any) -> bool:
        """A new address or password wants the present password: a lent token is not enough."""
        return password is not None or email not in (None, self.email)


SELECT_CREDENTIALS = select(User.id, User.email, User.password, User.token_version)


def credentials_by_email(email: str) -> Credentials:
    """The credentials of the active account with this address, or some that no password matches."""
    with suppress(ValueError):
        email = normal_email(email)
        with autocommit_connection() as connection:
            row = connection.execute(SELECT_CREDENTIALS.where(User.email == email, User.active)).one_or_none()
        if row:
            return Credentials(*row)
    return Credentials(None, email, None, "")


def credentials_of(id: int) -> Credentials:
    with autocommit_connection() as connection:
        return Credentials(*connection.execute(SELECT_CREDENTIALS.where(User.id == id)).one())


def renew_hash(credentials: Credentials, password: str) -> None:
    """Hash again what was hashed at another cost, which would tell that there is such an account. No token ends."""
    if not is_outdated(cast(str, credentials.password)):
        return
    with suppress(Busy):
        renewed = update(User).where(User.id == credentials.id, User.password == credentials.password)
        db.session.execute(renewed.values(password=hash_password(password)), execution_options=FRESH)


def change_account(
    known: Credentials, *, name: str | None = None, email: str | None = None, password: str | None = None
) -> User:
    """The owner's own changes. Where `known` was needed for them, it must still be so in the end."""
    new_hash = None if password is None else hash_password(password)
    user = lock_rows(select(User).where(User.id == known.id)).one()
    if known.are_needed_for(email=email, password=password) and user.password != known.password:
        raise WrongPassword
    if user.deleted_at:
        raise Missing
    user.name = name or user.name
    if new_hash is not None:
        user.password = new_hash
        db.session.flush()
        tell_of_password(user)
    if email is not None:
        name_address(user, email)
    db.session.flush()
    return user


def give_role(user: User, *, role: str | None = None, active: bool | None = None) -> None:
    """Change an account's role or state."""
    user.appoint(role=role, active=active)
    changed = differences(user, ("role", "active"))
    if changed:
        record("user.changed", f"user:{user.id}", None, **changed)


def set_password(user: User, password: str) -> None:
    """Give an account a new password, for somebody who forgot it."""
    user.password = hash_password(password)
    db.session.flush()
    tell_of_password(user)
    record("user.changed", f"user:{user.id}", password=[None, None])


def name_address(user: User, email: str) -> None:
    """Make the address the account's own: where there is mail, once it is confirmed. The present one stays alone."""
    user.pending_email = None
    if email == user.email:
        return
    refuse_taken(email)
    if is_configured():
        user.pending_email = email
        mail_verification(user, email)
    else:
        user.email, user.email_verified_at = email, None


def search_users(*, q: str | None = None, role: str | None = None) -> tuple[Select[*tuple[Any, ...]], dict[str, Any]]:
    """The query and values of a list of users; `q` is found anywhere in name or address."""
    values = {"q": q and re.sub("([/%_])", r"/\1", q), "role": role}
    wanted = {name: value for name, value in values.items() if value is not None}
    return user_list(frozenset(wanted)), wanted


@cache
def user_list(filters: frozenset[str] = frozenset()) -> Select[*tuple[Any, ...]]:
    """The query of a list of users, with a parameter for each of the `filters`."""
    users = select(*(getattr(User, field) for field in User.serialize_only)).where(User.deleted_at.is_(None))
    if "q" in filters:
        part = bindparam("q", type_=Text)
        users = users.where(or_(User.name.icontains(part, escape="/"), User.email.icontains(part, escape="/")))
    if "role" in filters:
        users = users.where(User.role == bindparam("role"))
    return users
