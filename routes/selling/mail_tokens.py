"""Secrets that are mailed, to choose a new password or to confirm an address, and what they are good for.

Each is made when its mail is sent and stands nowhere but in that mail. It is good once, for a time, and only while the
account's `token_version` is the one that the mail was asked for with: a new password, role, state or address ends it.
"""

import secrets
from hashlib import sha256
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, SQLColumnExpression, Text, and_, delete, func, insert, literal, select

from models import (
    UNSYNCHRONIZED,
    AlreadyVerified,
    EmailTaken,
    Invalid,
    Mail,
    MailToken,
    TooOften,
    User,
    autocommit_connection,
    db,
    hash_password,
    lock_address,
    lock_rows,
    normal_email,
    now,
    random_id,
    random_key,
)
from routes.selling.mails import HOUR, MOST_AN_HOUR, note_work, require_mail, tell

LIFETIMES = {"password_reset": 30 * 60, "verify_address": 24 * HOUR}  # seconds


class BadLink(Invalid):
    """Its token was used, has expired, or was never made."""

    def __init__(self) -> None:
        super().__init__(token="The link is no longer good")


def links_mailed(user_id: SQLColumnExpression[int]) -> ColumnElement[int]:
    """How many mails with a link were asked for within the hour for this account."""
    recent = and_(Mail.user_id == user_id, Mail.kind.in_(LIFETIMES), Mail.created_at > now(-HOUR))
    return select(func.count()).where(recent).scalar_subquery()


def request_reset(email: str) -> None:
    """Mail a link for a new password to who has this address, if anybody has.

    Whether there is an active account, and how many mails it got, decides only what the one INSERT writes. So there
    are always the same statements and something to commit, and it always takes the same time.
    """
    require_mail()
    address = address_or_none(email)
    lock_address(address)
    key = random_id()
    there = and_(User.email == address, User.active, links_mailed(User.id) < MOST_AN_HOUR)
    values = {
        "kind": literal("password_reset", Text),
        "key": literal(key, Text),
        "user_id": User.id,
        "to_email": func.coalesce(User.email, ""),
        "stamp": User.token_version,
        "message_key": random_key(),
        "created_at": now(),
        "due_at": now(),
    }
    somebody = select(literal(1).label("one")).subquery()
    rows = select(*values.values()).select_from(somebody).outerjoin(User, there)
    db.session.execute(insert(Mail.__table__).from_select(list(values), rows, include_defaults=False))
    nobody = delete(Mail).where(Mail.kind == "password_reset", Mail.key == key, Mail.user_id.is_(None))
    db.session.execute(nobody, execution_options=UNSYNCHRONIZED)
    note_work()


def address_or_none(email: str) -> str:
    """The address in normal form; where it can't be one, a text that is nobody's."""
    try:
        return normal_email(email)
    except ValueError:
        return ""


def reset_password(token: str, password: str) -> User:
    """Give the account that the token is for a new password. No connection is held while that is hashed."""
    user_id = user_of("password_reset", token)
    password_hash = hash_password(password)
    user = lock_user(user_id)
    used = use_up("password_reset", token)
    user.password = password_hash
    if user.email == used.email:
        user.email_verified_at = now()
    db.session.flush()
    tell_of_password(user)
    return user


def tell_of_password(user: User) -> None:
    """Tell the owner of the new password. The flush before this call made the new `token_version`."""
    tell("password_changed", user.id, f"{user.id}-{user.token_version}")


def request_verification(user_id: int) -> None:
    """Mail a link that confirms the pending address, or else the one there is."""
    require_mail()
    user = lock_user(user_id)
    if user.pending_email is None and user.email_verified_at is not None:
        raise AlreadyVerified
    mail_verification(user, user.pending_email or user.email)


def mail_verification(user: User, address: str) -> None:
    """Mail the link to an account whose row is locked, so that the limit holds however many ask at once."""
    if cast(int, db.session.scalar(select(links_mailed(literal(user.id))))) >= MOST_AN_HOUR:
        raise TooOften
    tell("verify_address", user.id, f"{user.id}-{random_id()}", to_email=address, stamp=user.token_version)


def confirm_address(token: str) -> User:
    """Take the address that the token was mailed to for confirmed. A new one becomes the account's, and its tokens end.

    The one that it was before is told.
    """
    user = lock_user(user_of("verify_address", token))
    address = use_up("verify_address", token).email
    if address == user.pending_email:
        change_address(user, address)
    elif address != user.email:
        raise BadLink
    user.email_verified_at = now()
    db.session.flush()
    return user


def change_address(user: User, address: str) -> None:
    refuse_taken(address)
    before, user.email, user.pending_email = user.email, address, None
    db.session.flush()
    tell("address_changed", user.id, f"{user.id}-{user.token_version}", to_email=before)


def refuse_taken(address: str) -> None:
    """Raise EmailTaken where somebody has the address; until the commit nobody else takes it."""
    lock_address(address)
    if db.session.scalar(select(User.id).where(User.email == address)):
        raise EmailTaken


def lock_user(id: int) -> User:
    return cast(User, lock_rows(select(User).where(User.id == id)).one())


class Used(NamedTuple):
    user_id: int
    email: str


def is_good(kind: str, token: str) -> ColumnElement[bool]:
    """The condition for the row of a token that is good now."""
    as_it_was = select(User.id).where(
        User.id == MailToken.user_id, User.active, User.token_version == MailToken.token_version
    )
    known = and_(MailToken.hash == hashed(token), MailToken.kind == kind)
    return and_(known, MailToken.expires_at > now(), as_it_was.exists())


def user_of(kind: str, token: str) -> int:
    """Whose a token is that is good for now, with nothing locked or used up."""
    with autocommit_connection() as connection:
        user_id = connection.scalar(select(MailToken.user_id).where(is_good(kind, token)))
    if user_id is None:
        raise BadLink
    return user_id


def use_up(kind: str, token: str) -> Used:
    """Use a token: of two who do at once, one succeeds. The user's row is locked first, as by who ends tokens."""
    used = delete(MailToken).where(is_good(kind, token)).returning(MailToken.user_id, MailToken.email)
    row = db.session.execute(used, execution_options=UNSYNCHRONIZED).one_or_none()
    if row is None:
        raise BadLink
    return Used(*row)


def hashed(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def new_mail_token(mail: Mail) -> str | None:
    """A token for the mail to carry, or None where the account has changed since the mail was written.

    A mail that is sent twice carries two tokens, both of them good.
    """
    unchanged = select(User.id).where(User.id == mail.user_id, User.active, User.token_version == mail.token_version)
    if db.session.scalar(unchanged) is None:
        return None
    token = secrets.token_urlsafe(32)
    values: dict[str, Any] = {"hash": hashed(token), "kind": mail.kind, "user_id": mail.user_id, "email": mail.to}
    values |= {"token_version": mail.token_version, "expires_at": now(LIFETIMES[mail.kind])}
    db.session.execute(insert(MailToken).values(values))
    return token


def forget_old_tokens() -> None:
    db.session.execute(delete(MailToken).where(MailToken.expires_at < now()), execution_options=UNSYNCHRONIZED)
