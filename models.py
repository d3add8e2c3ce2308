"""The domain of the ticketing application: what is stored, and the rules by which it is sold.

Verbs on the models raise a `Refused` where a rule says no. They never commit, but for the one statement of
`Order.place_at_once`, which is a transaction of its own, and know nothing of HTTP.
"""

import re
import secrets
import sqlite3
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import monotonic

import email_validator
import psycopg2
from flask import current_app
from flask_bcrypt import Bcrypt
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    case,
    column,
    event,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError, IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, column_property, joinedload, mapped_column, relationship, selectinload, validates
from sqlalchemy.pool import Pool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator
from sqlalchemy_serializer import SerializerMixin

naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=naming_convention)

# Answers are made after the commit: without expiry they need no second read.
db = SQLAlchemy(metadata=metadata, session_options={"expire_on_commit": False})
bcrypt = Bcrypt()

# An organization's own network has addresses at `localhost`, `.local` and `.test`; the library documents this switch.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

ROLES = ("user", "staff", "admin")


class Refused(Exception):
    """A rule of the domain says no. `reason` is stable and for programs, `message` is for people."""

    reason: str
    message: str | dict[str, str]

    def __init__(self, **facts):
        super().__init__(self.reason)
        self.facts = facts


class EmailTaken(Refused):
    reason = "email_taken"
    message = {"email": "This email address is already taken"}


class LastAdmin(Refused):
    reason = "last_admin"
    message = "The last active admin must stay one"


class NameTaken(Refused):
    reason = "name_taken"
    message = {"name": "There is a category of this name"}


class InUse(Refused):
    reason = "in_use"
    message = "There are events in this category"


class HasOrders(Refused):
    reason = "has_orders"
    message = "There are orders for it"


class EventCanceled(Refused):
    reason = "event_canceled"
    message = "The event is canceled"


class BelowSold(Refused):
    reason = "below_sold"
    message = "More places than that are sold or held"


class SoldOut(Refused):
    reason = "sold_out"
    message = "There are not that many places left"


class SalesClosed(Refused):
    reason = "sales_closed"
    message = "It is not on sale at this time"


class NotOnSale(Refused):
    reason = "not_on_sale"
    message = "The event is canceled, so nothing is sold for it"


class MaxPerOrder(Refused):
    reason = "max_per_order"
    message = "That is more than one order may have"


class TooManyPending(Refused):
    reason = "too_many_pending"
    message = "Please pay or cancel your pending orders first"


class NotPending(Refused):
    reason = "not_pending"
    message = "The order is not pending"


class NotPaid(Refused):
    reason = "not_paid"
    message = "The order is not paid"


class CheckedIn(Refused):
    reason = "checked_in"
    message = "Somebody is inside with a ticket of this order"


class AmountMismatch(Refused):
    reason = "amount_mismatch"
    message = "The amount is not the order's total"


class ReferenceUsed(Refused):
    reason = "reference_used"
    message = "The reference belongs to another payment"


class NotDue(Refused):
    reason = "not_due"
    message = "The payment is not due to be refunded"


class KeyReused(Refused):
    reason = "idempotency_key_reused"
    message = "The Idempotency-Key was used for something else"


class TicketVoid(Refused):
    reason = "void"
    message = "The ticket was refunded"


class WrongEvent(Refused):
    reason = "wrong_event"
    message = "The ticket is for another event"


class AlreadyCheckedIn(Refused):
    reason = "already_checked_in"
    message = "Somebody has come in with this ticket"


class NotCheckedIn(Refused):
    reason = "not_checked_in"
    message = "Nobody has come in with this ticket"


class Outdated(Exception):
    """The row is no longer the version that the change was made for."""


class Missing(Exception):
    """What is asked for is not there, or not for the one who asks."""


class Invalid(ValueError):
    """Values that can only be judged in the domain. `fields` has a text for the client by the name of each."""

    def __init__(self, **fields):
        super().__init__(", ".join(fields))
        self.fields = fields


@event.listens_for(Engine, "connect")
def prepare_sqlite(connection, record):
    """Readers never wait for the writer (WAL), and foreign keys hold, which SQLite leaves off unless told."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")


@event.listens_for(Pool, "checkin")
def remember_use(connection, record):
    record.info["used_at"] = monotonic()


@event.listens_for(Pool, "checkout")
def ping_if_idle(connection, record, proxy):
    """Replace a connection that died while it lay idle. `pool_pre_ping` would ask at every use, which costs."""
    if isinstance(connection, sqlite3.Connection) or monotonic() - record.info.get("used_at", monotonic()) < 1:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error as error:
        raise DisconnectionError from error


class UTCDateTime(TypeDecorator):
    """An aware datetime in UTC, on SQLite too, which keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True
    python_type = datetime

    def process_bind_param(self, value, dialect):
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value, dialect):
        if value is None or value.tzinfo is UTC:
            return value
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class now(FunctionElement):
    """The database's own time, `seconds` from now. No process's clock decides what has lapsed."""

    type = UTCDateTime()
    inherit_cache = True

    def __init__(self, seconds=0):
        super().__init__(seconds)


@compiles(now, "postgresql")
def now_postgresql(element, compiler, **kwargs):
    return f"statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kwargs)})"


@compiles(now, "sqlite")
def now_sqlite(element, compiler, **kwargs):
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kwargs)} || ' seconds')"


def at_once():
    """A connection whose every statement is a transaction of its own: no BEGIN, no COMMIT to wait for.

    It is from a pool of such connections, so that nobody needs two of the other; SQLite in memory has but one.
    """
    return db.engines.get("at_once", db.engine).connect()


class Prepared:
    """A statement that PostgreSQL plans once for each connection: to plan it anew took longer than to carry it out."""

    def __init__(self, name, statement):
        self.name, self.statement = name, statement
        compiled = statement.compile(dialect=postgresql.dialect(paramstyle="numeric_dollar"))
        self.preparation, self.constants = f"PREPARE {name} AS {compiled.string}", compiled.params
        call = text(f"EXECUTE {name} ({', '.join(f':{parameter}' for parameter in compiled.positiontup)})")
        self.call = call.columns(*(column(it.name, it.type) for it in getattr(statement, "selected_columns", ())))

    def execute(self, connection, values):
        if connection.dialect.name != "postgresql":
            return connection.execute(self.statement, values)
        if self.name not in connection.info:
            connection.exec_driver_sql(self.preparation)
            connection.info[self.name] = True
        return connection.execute(self.call, self.constants | values)


def take(query, *, of=None, key_share=True):
    """The rows of `query`, read afresh and locked until the commit: who comes second sees what the first left.

    Of what the query joins, only the rows `of` one model are locked, and only they are sure to be fresh. Without
    `key_share`, new rows that refer to them wait as well. SQLite has no row locks: there it is the one write lock.
    """
    connection = db.session.connection()
    if connection.dialect.name == "sqlite" and not connection.connection.dbapi_connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    locked = query.with_for_update(key_share=key_share, of=of)
    return db.session.scalars(locked, execution_options={"populate_existing": True})


UNSYNCHRONIZED = {"synchronize_session": False}

VIOLATIONS = {
    "unique": {"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"},
    "foreign_key": {"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"},
}


@contextmanager
def refusing(refusal, violation):
    """Flush what is done inside; where the database finds the `violation`, raise `refusal` instead."""
    try:
        yield
        db.session.flush()
    except IntegrityError as error:
        code = getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlite_errorname", None)
        if code in VIOLATIONS[violation]:
            raise refusal from error
        raise


def insert_new(model):
    """An INSERT that leaves a row alone that is there already; in a race it waits for the other to commit."""
    dialect = {"postgresql": postgresql, "sqlite": sqlite}[db.session.connection().dialect.name]
    return dialect.insert(model).on_conflict_do_nothing()


class Serializable(SerializerMixin):
    """Times leave as `2026-11-22T18:30:00Z`. Each model lists what leaves in `serialize_only`; nothing else does."""

    datetime_format = "%Y-%m-%dT%H:%M:%SZ"


class Timestamps:
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now(), onupdate=func.now())
    __mapper_args__ = {"eager_defaults": True}


def new_stamp():
    return secrets.token_hex(8)


def normal_email(email):
    """The address in the one form it is stored and looked up in. Raises ValueError; asks no DNS."""
    try:
        lower = email.strip().lower()  # before composing its letters: the other way round, some fall apart again
        found = email_validator.validate_email(lower, check_deliverability=False, globally_deliverable=False)
    except (AttributeError, email_validator.EmailNotValidError) as error:
        raise ValueError("Please provide a valid email") from error
    return found.normalized


class User(db.Model, Timestamps, Serializable):
    """An account. `stamp` is copied into each token; a new one ends all tokens that carry the old."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("role IN ('user', 'staff', 'admin')", name="role"),)
    serialize_only = ("id", "name", "email", "role", "active", "created_at", "updated_at")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text, unique=True)
    password: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, default="user", server_default="user")
    active: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    stamp: Mapped[str] = mapped_column(Text, default=new_stamp, server_default="")

    @validates("email")
    def validate_email(self, key, email):
        return normal_email(email)

    @classmethod
    def sign_up(cls, *, name, email, password):
        """A new account with the role `user`. Two sign-ups with one address: the database lets one in."""
        user = cls(name=name, email=email, password=hash_password(password))
        with refusing(EmailTaken, "unique"):
            db.session.add(user)
        return user

    @classmethod
    def by_email(cls, email):
        try:
            return db.session.scalar(select(cls).where(cls.email == normal_email(email)))
        except ValueError:
            return None

    @classmethod
    def credentials(cls, email):
        """A row of id, password and stamp of the active account with this address, or None."""
        try:
            account = select(cls.id, cls.password, cls.stamp).where(cls.email == normal_email(email), cls.active)
        except ValueError:
            return None
        return db.session.execute(account).one_or_none()

    @classmethod
    def of_token(cls, claims):
        """Id and role of the user a token still speaks for, or None. It runs at every signed-in request."""
        about = {"id": int(claims["sub"]), "stamp": str(claims["stamp"]), "sid": str(claims["sid"])}
        if not 0 < about["id"] < 2**31:
            return None
        with at_once() as connection:
            return ALIVE.execute(connection, about).one_or_none()

    @classmethod
    def change(cls, id, *, current_password="", name=None, email=None, password=None):
        """The owner's own changes. A new address or password wants the present password: a lent token is not enough.

        No connection is held while bcrypt works; so in the end the password must still be the one that was right.
        """
        wrong = Invalid(current_password="Please provide your current password")
        with at_once() as connection:
            known = connection.execute(select(cls.email, cls.password).where(cls.id == id)).one()
        guarded = password is not None or normal_email(email or known.email) != known.email
        if guarded and not password_matches(known.password, current_password):
            raise wrong
        changes = {"name": name, "email": email, "password": password and hash_password(password)}
        user = take(select(cls).where(cls.id == id)).one()
        if guarded and user.password != known.password:
            raise wrong
        with refusing(EmailTaken, "unique"):
            for field, value in changes.items():
                setattr(user, field, value or getattr(user, field))
        return user

    def appoint(self, *, role=None, active=None):
        """Change role or state, but never take the last active admin.

        All admins are locked in the order of their ids, so of two who demote each other the second finds itself last.
        """
        admins = and_(User.role == "admin", User.active)
        locked = take(select(User).where(or_(User.id == self.id, admins)).order_by(User.id)).all()
        was_admin = self.role == "admin" and self.active
        self.role = self.role if role is None else role
        self.active = self.active if active is None else active
        if was_admin and not any(user.role == "admin" and user.active for user in locked):
            raise LastAdmin

    @validates("role", "active", "password")
    def end_tokens(self, key, value):
        if value != getattr(self, key):
            self.stamp = new_stamp()
        return value


def hash_password(password):
    return bcrypt.generate_password_hash(password).decode()


def password_matches(password_hash, password):
    """Whether the password is the hash's. Takes as long without a hash, so that nobody learns who has an account."""
    secret = password.encode()
    possible = password_hash is not None and 0 < len(secret) <= 72 and b"\0" not in secret
    try:
        matches = bcrypt.check_password_hash(password_hash if possible else decoy_hash(), password if possible else "-")
    except ValueError:  # what is stored is no bcrypt hash
        return False
    return possible and matches


def decoy_hash():
    """What bcrypt takes for a hash of the configured cost, and no password has."""
    return f"$2b${current_app.config['BCRYPT_LOG_ROUNDS']:02d}${'.' * 53}"


class EndedLogin(db.Model):
    """A log-in that was logged out. Kept until the last token that came from it has expired, then forgotten."""

    __tablename__ = "ended_logins"

    sid: Mapped[str] = mapped_column(Text, primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)

    @classmethod
    def end(cls, sid, seconds):
        cls.forget_old()
        db.session.execute(insert_new(cls).values(sid=str(sid), expires_at=now(seconds)))

    @classmethod
    def forget_old(cls):
        return db.session.execute(db.delete(cls).where(cls.expires_at < now())).rowcount


ALIVE = Prepared(
    "alive",
    select(User.id, User.role).where(
        User.id == bindparam("id"),
        User.active,
        User.stamp == bindparam("stamp"),
        ~select(EndedLogin.sid).where(EndedLogin.sid == bindparam("sid")).exists(),
    ),
)


# An id that was deleted is not given again, which SQLite does unless told: somebody may still mean the old row.
NEVER_AGAIN = {"sqlite_autoincrement": True}


class Category(db.Model, Serializable):
    """`folded` is the name without its case: no two categories share one."""

    __tablename__ = "categories"
    __table_args__ = NEVER_AGAIN
    serialize_only = ("id", "name")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    folded: Mapped[str] = mapped_column(Text, unique=True)

    @validates("name")
    def fold(self, key, name):
        self.folded = name.casefold()
        return name

    @classmethod
    def create(cls, name):
        category = cls(name=name)
        with refusing(NameTaken, "unique"):
            db.session.add(category)
        return category

    def edit(self, changes):
        if take(select(Category).where(Category.id == self.id)).one_or_none() is None:
            raise Missing
        with refusing(NameTaken, "unique"):
            self.name = changes.get("name", self.name)

    def delete(self):
        with refusing(InUse, "foreign_key"):
            db.session.execute(db.delete(Category).where(Category.id == self.id))


NO_CATEGORY = {"category_id": "There is no such category"}


class Event(db.Model, Timestamps, Serializable):
    """Something people buy tickets for. `version` counts its changes; `duration`, in seconds, serves `beginning`."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("status IN ('draft', 'published', 'canceled')", name="status"),
        CheckConstraint("(status = 'canceled') = (canceled_at IS NOT NULL)", name="canceled_at"),
        CheckConstraint("ends_at > starts_at", name="ends_at"),
        Index("ix_events_listed", "status", "starts_at", "id"),
        # The status first: PostgreSQL judges an index by how well its first column is sorted on the disk.
        Index("ix_events_in_category", "status", "category_id", "starts_at", "id"),
        Index("ix_events_longest", "status", "duration"),
        NEVER_AGAIN,
    )
    serialize_only = (
        "id",
        "name",
        "description",
        "venue",
        "poster",
        "status",
        "category",
        "starts_at",
        "ends_at",
        "created_at",
        "updated_at",
    )

    STATUSES = ("draft", "published", "canceled")
    AGES = 1000 * 365 * 24 * 3600  # longer than anything here lasts, and no database's calendar ends before that

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    venue: Mapped[str] = mapped_column(Text)
    poster: Mapped[str | None] = mapped_column(Text)
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"))
    status: Mapped[str] = mapped_column(Text, default="draft")
    canceled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    starts_at: Mapped[datetime] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime] = mapped_column(UTCDateTime)
    duration: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(Integer, default=1)

    category: Mapped[Category] = relationship()
    ticket_types: Mapped[list["TicketType"]] = relationship(order_by="TicketType.id", back_populates="event")

    @classmethod
    def create(cls, **fields):
        event = cls()
        db.session.add(event)
        event.set(fields)
        return event

    @classmethod
    def rows(cls):
        """What `to_dict` shows, as a query of rows: a row takes a tenth of a model's time to show."""
        columns = [getattr(cls, name) for name in cls.serialize_only if name != "category"]
        category = Category.id.label("category_id"), Category.name.label("category_name")
        return select(*columns, *category).join(cls.category)

    @classmethod
    def read(cls, id):
        """An event with its ticket types, as `to_dict` would show them, and its `version`; or None."""
        with at_once() as connection:
            event = EVENT.execute(connection, {"id": id}).mappings().one_or_none()
            if event is None:
                return None
            types = TICKET_TYPES.execute(connection, {"id": id}).mappings().all()
        currency = {"currency": current_app.config["CURRENCY"]}
        return as_event(event) | {"ticket_types": [{**ticket_type, **currency} for ticket_type in types]}

    @classmethod
    @lru_cache(maxsize=64)
    def listing(cls, filters=frozenset(), words=0):
        """The query of a list of events, with a parameter for each value; built once for each set of `filters`."""
        rows = cls.rows().where(cls.status == bindparam("status"))
        if "starts_from" not in filters:
            rows = rows.where(cls.ends_at > now())
        if "starts_to" in filters:
            rows = rows.where(cls.starts_at <= bindparam("starts_to"))
        if "category" in filters:
            rows = rows.where(cls.category_id == bindparam("category"))
        for number in range(words):
            word = bindparam(f"word_{number}", type_=Text)
            rows = rows.where(
                or_(*(text.icontains(word, escape="/") for text in (cls.name, cls.venue, cls.description)))
            )
        return rows

    @classmethod
    @lru_cache(maxsize=2)
    def beginning(cls, bounded):
        """The condition that finds the first event of the list: at `starts_from`, if it is `bounded` by that.

        Else it is of what is not over, and that began no longer ago than the longest event lasts: so the index on
        `starts_at` finds the place, however many events have passed.
        """
        longest = select(func.max(cls.duration)).where(cls.status == bindparam("status")).scalar_subquery()
        return cls.starts_at >= (bindparam("starts_from", type_=UTCDateTime) if bounded else now(-longest))

    @classmethod
    def search(cls, *, status="published", q="", **filters):
        """Query, values and beginning of a list of the events that a visitor looks for, for the pages of it.

        `q` finds each of its words anywhere in name, venue or description; in it `%` and `_` are plain text.
        """
        words = [re.sub("([/%_])", r"/\1", word) for word in dict.fromkeys(q.split())]
        values = {"status": status, **filters, **{f"word_{number}": word for number, word in enumerate(words)}}
        return cls.listing(frozenset(filters), len(words)), values, cls.beginning("starts_from" in filters)

    def edit(self, changes, *, versions=None):
        """Change what is given, if the event still is one of the `versions` the change was made for (None: any).

        The row is locked first: of two who edit at once, the second is judged by what the first left. What is to become
        a draft is locked from new orders too.
        """
        locked = take(select(Event).where(Event.id == self.id), key_share=changes.get("status") != "draft")
        if locked.one_or_none() is None:
            raise Missing
        if versions is not None and str(self.version) not in versions:
            raise Outdated
        if self.status == "canceled" and changes.get("status", "canceled") != "canceled":
            raise EventCanceled
        if self.status != "draft" and changes.get("status") == "draft" and self.has_orders():
            raise HasOrders
        self.set(changes)

    def set(self, fields):
        for name, value in fields.items():
            setattr(self, name, value)
        wrong = {} if self.ends_at > self.starts_at else {"ends_at": "Must be after starts_at"}
        with db.session.no_autoflush:
            if db.session.get(Category, self.category_id) is None:
                wrong |= NO_CATEGORY
        if wrong:
            raise Invalid(**wrong)
        if self.status == "canceled" and self.canceled_at is None:
            self.canceled_at = now()
        self.duration = min(int((self.ends_at - self.starts_at).total_seconds()), self.AGES)
        self.version = (self.version or 0) + bool(fields)
        with refusing(Invalid(**NO_CATEGORY), "foreign_key"):  # it was deleted meanwhile
            pass
        db.session.refresh(self, ["category"])

    def has_orders(self):
        return db.session.scalar(select(Order.id).where(Order.event_id == self.id).limit(1)) is not None

    def delete(self):
        """Gone with its ticket types, unless somebody has ordered; the foreign keys of the orders see to that.

        The event is locked before its ticket types, in the order in which they are sold: nobody waits in a circle.
        """
        db.session.execute(select(Event.id).where(Event.id == self.id).with_for_update())
        with refusing(HasOrders, "foreign_key"):
            db.session.execute(db.delete(TicketType).where(TicketType.event_id == self.id))
            db.session.execute(db.delete(Event).where(Event.id == self.id))

    def sales(self):
        """How it sells, every figure from the one moment of one statement."""
        sums = select(*TicketType.figures()).where(TicketType.event_id == self.id).order_by(TicketType.id)
        types = [dict(row) for row in db.session.execute(sums).mappings()]
        counted = ("quantity", "sold", "held", "available", "checked_in", "revenue")
        total = {name: sum(row[name] for row in types) for name in counted}
        currency = current_app.config["CURRENCY"]
        return {"event_id": self.id, "currency": currency, "ticket_types": types, "total": total}


class TicketType(db.Model, Serializable):
    """A kind of ticket on sale. Of its `quantity` places some are `sold`, some `held` by orders not paid yet.

    `held` still counts holds that have lapsed, until somebody needs their places: `available` adds those back.
    """

    __tablename__ = "ticket_types"
    __table_args__ = (
        CheckConstraint("price BETWEEN 0 AND 1000000000", name="price"),
        CheckConstraint("quantity BETWEEN 0 AND 2000000000", name="quantity"),
        CheckConstraint("max_per_order BETWEEN 1 AND 1000", name="max_per_order"),
        CheckConstraint("sold >= 0 AND held >= 0 AND sold + held <= quantity", name="places"),
        NEVER_AGAIN,
    )
    serialize_only = (
        "id",
        "event_id",
        "name",
        "price",
        "currency",
        "quantity",
        "available",
        "sales_start",
        "sales_end",
        "max_per_order",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    price: Mapped[int] = mapped_column(Integer)
    quantity: Mapped[int] = mapped_column(Integer)
    sold: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    held: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    max_per_order: Mapped[int] = mapped_column(Integer, default=10, server_default="10")
    sales_start: Mapped[datetime | None] = mapped_column(UTCDateTime)
    sales_end: Mapped[datetime | None] = mapped_column(UTCDateTime)

    event: Mapped[Event] = relationship(back_populates="ticket_types")

    @property
    def currency(self):
        return current_app.config["CURRENCY"]

    @property
    def available(self):
        return self.quantity - self.sold - self.held + (self.lapsed or 0)

    @classmethod
    def create(cls, event, **fields):
        ticket_type = cls(event_id=event.id)
        db.session.add(ticket_type)
        ticket_type.set(fields)
        return ticket_type

    def edit(self, changes):
        """Change what is given. Fewer places than are sold and held is refused; lapsed holds are let go of first."""
        if "quantity" in changes:
            Order.lapse(self.event_id)
        if take(select(TicketType).where(TicketType.id == self.id)).one_or_none() is None:
            raise Missing
        if changes.get("quantity", self.quantity) < self.sold + self.held:
            raise BelowSold(sold=self.sold, held=self.held)
        self.set(changes)

    def set(self, fields):
        for name, value in fields.items():
            setattr(self, name, value)
        if self.sales_start and self.sales_end and self.sales_end <= self.sales_start:
            raise Invalid(sales_end="Must be after sales_start")
        with refusing(Missing, "foreign_key"):  # the event was deleted meanwhile
            pass
        db.session.refresh(self, ["lapsed"])  # now, as after the commit it may be gone

    def delete(self):
        with refusing(HasOrders, "foreign_key"):
            db.session.execute(db.delete(TicketType).where(TicketType.id == self.id))

    @classmethod
    def reserve(cls, event_id, wanted, counter):
        """Take the `wanted` places, {id: how many}, all or none, counted as `held` or `sold`; or raise SoldOut.

        Each place is taken by an UPDATE that holds only while there is room, so nobody gets what another has. Where
        there is none, the holds that have lapsed are let go of and it is tried once more.
        """
        if cls._take_places(wanted, counter) is not None:
            Order.lapse(event_id)
            short = cls._take_places(wanted, counter)
            if short is not None:
                raise SoldOut(
                    ticket_type_id=short, available=db.session.scalar(select(cls.free()).where(cls.id == short))
                )

    @classmethod
    def _take_places(cls, wanted, counter):
        """The id of the first ticket type that is short, or None, with nothing taken then and no row locked.

        Rows are taken in the order of ids, and orders before them: no deadlock.
        """
        connection = db.session.connection()
        savepoint = connection.begin_nested()
        for id, quantity in sorted(wanted.items()):
            if not connection.execute(TAKE[counter], {"type": id, "places": quantity}).rowcount:
                savepoint.rollback()
                return id
        savepoint.commit()
        return None

    @classmethod
    def free(cls):
        return cls.quantity - cls.sold - cls.held + cls.lapsed.expression

    @classmethod
    def move(cls, quantities, *, held=0, sold=0):
        """Add `held` and `sold` times its number to each ticket type, {id: how many}, in the order of ids."""
        for id, quantity in sorted(quantities.items()):
            change = {"held": cls.held + held * quantity, "sold": cls.sold + sold * quantity}
            db.session.execute(update(cls).where(cls.id == id).values(change), execution_options=UNSYNCHRONIZED)

    @classmethod
    def figures(cls):
        """The columns of `Event.sales` for one ticket type."""
        price = OrderItem.quantity.cast(BigInteger) * OrderItem.unit_price
        paid = select(func.coalesce(func.sum(price), 0)).join(Order)
        paid = paid.where(OrderItem.ticket_type_id == cls.id, Order.state == "paid")
        inside = select(func.count()).where(Ticket.ticket_type_id == cls.id, Ticket.status == "used")
        lapsed = cls.lapsed.expression
        return (
            cls.id,
            cls.name,
            cls.quantity,
            cls.sold,
            (cls.held - lapsed).label("held"),
            cls.free().label("available"),
            inside.scalar_subquery().label("checked_in"),
            paid.scalar_subquery().cast(BigInteger).label("revenue"),
        )


PAYMENT_METHODS = ("cash", "bank_transfer", "mobile_money", "card")


CONFIRMED_ONLY = {"postgresql_where": text("status = 'confirmed'"), "sqlite_where": text("status = 'confirmed'")}


def new_code():
    """128 random bits in letters and digits: what an order or a ticket is known by outside."""
    return secrets.token_hex(16).upper()


class Order(db.Model, Timestamps, Serializable):
    """A purchase, all or nothing. While it is pending it holds its places, until `expires_at`.

    `state` is what is stored; `status` is what is true: a pending order whose hold has lapsed is expired, whether or
    not anybody has written that down yet. `number` counts its buyer's orders: of two placed at once one must wait.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'paid', 'expired', 'canceled', 'refunded')", name="status"),
        CheckConstraint("total >= 0", name="total"),
        UniqueConstraint("user_id", "number"),
        Index("ix_orders_of_event", "event_id", "id"),
        # Not only of what is pending: where PostgreSQL has yet to count those, it takes either index for both.
        Index("ix_orders_user_holds", "user_id", "status", "expires_at"),
        Index("ix_orders_event_holds", "event_id", "status", "expires_at"),
    )
    serialize_only = (
        "code",
        "status",
        "items",
        "total",
        "currency",
        "created_at",
        "expires_at",
        "tickets",
        "payments",
    )

    STATUSES = ("pending", "paid", "expired", "canceled", "refunded")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    number: Mapped[int] = mapped_column(Integer)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    state: Mapped[str] = mapped_column("status", Text)
    total: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)

    buyer: Mapped[User] = relationship()
    event: Mapped[Event] = relationship()
    items: Mapped[list["OrderItem"]] = relationship(order_by="OrderItem.id")
    tickets: Mapped[list["Ticket"]] = relationship(order_by="Ticket.id", back_populates="order")
    payments: Mapped[list["Payment"]] = relationship(order_by="Payment.id")

    @property
    def status(self):
        return "expired" if self.state == "pending" and self.lapsed else self.state

    @classmethod
    def in_status(cls, status):
        """The condition for a status as it is true now."""
        if status == "pending":
            return and_(cls.state == "pending", cls.expires_at > now())
        if status == "expired":
            return or_(cls.state == "expired", cls.has_lapsed())
        return cls.state == status

    @classmethod
    def has_lapsed(cls):
        return and_(cls.state == "pending", cls.expires_at <= now())

    @classmethod
    def by_code(cls, code):
        """With all that `to_dict` shows, in a number of statements that does not grow with it."""
        return db.session.scalar(cls.shown(select(cls)).where(cls.code == code))

    @classmethod
    @lru_cache
    def listing(cls, filters=frozenset(), status=None):
        """The query of a list of orders, with a parameter for each of the `filters`, which are `user` and `event`."""
        orders = cls.shown(select(cls))
        if "user" in filters:
            orders = orders.where(cls.user_id == bindparam("user"))
        if "event" in filters:
            orders = orders.where(cls.event_id == bindparam("event"))
        return orders if status is None else orders.where(cls.in_status(status))

    @classmethod
    def shown(cls, orders):
        return orders.options(
            joinedload(cls.buyer).load_only(User.name),
            selectinload(cls.items),
            selectinload(cls.payments),
            selectinload(cls.tickets).options(*Ticket.shown_of_event()),
        )

    @classmethod
    def place(cls, buyer, lines):
        """Order `lines`, pairs of ticket type id and quantity, for the user with the id `buyer`. All or nothing.

        Returns what `to_dict` would. Many come for one ticket type at once, so it is made without a second read.
        """
        wanted = Counter()
        for id, quantity in lines:
            wanted[id] += quantity
        placed = cls.place_at_once(buyer, wanted)
        if placed:
            return placed
        with refusing(Missing, "foreign_key"):  # it was deleted meanwhile
            return cls.place_in_steps(buyer, wanted)

    @classmethod
    def place_at_once(cls, buyer, wanted):
        """On PostgreSQL, place and commit an order of one ticket type that costs something in one statement.

        The row that everybody wants is locked for no longer than the statement and its commit take: measured beside
        the steps below, it sells several times as many places of one hot ticket type a second. None, with nothing
        done, where it can't be placed like this; the steps find out why.
        """
        if len(wanted) > 1 or db.engine.dialect.name != "postgresql" or "at_once" not in db.engines:
            return None
        # Where a transaction is under way, as with an Idempotency-Key, the order is to be part of that.
        if db.session.registry.has():
            return None
        [(ticket_type_id, quantity)] = wanted.items()
        values = cls.terms(buyer) | {"ticket_type_id": ticket_type_id, "quantity": min(quantity, 2**31 - 1)}
        try:
            with at_once() as connection:
                placed = PLACE_AT_ONCE.execute(connection, values).one_or_none()
        except IntegrityError:  # the buyer's other order came first and has the number: one after the other, then
            return None
        return placed and cls.as_placed(placed, [placed], wanted)

    @classmethod
    def place_in_steps(cls, buyer, wanted):
        """The buyer's row is locked, so that his orders count one after the other; the places are taken last."""
        take(select(User.id).where(User.id == buyer)).one()
        offers = cls.offers(wanted)
        total = sum(offer.price * wanted[offer.ticket_type_id] for offer in offers)
        values = cls.terms(buyer) | {"event_id": offers[0].event_id, "total": total}
        connection = db.session.connection()
        placed = connection.execute(PLACE if total else PLACE_FREE, values).one_or_none()
        if placed is None:
            raise TooManyPending(max_pending_orders=values["max_pending"])
        order = cls.as_placed(placed, offers, wanted)
        connection.execute(insert(OrderItem.__table__), [{"order_id": placed.id, **item} for item in order["items"]])
        TicketType.reserve(offers[0].event_id, wanted, "held" if total else "sold")
        if total:
            return order
        order = cls.by_code(placed.code)
        order.issue_tickets()
        return order.to_dict()

    @classmethod
    def terms(cls, buyer):
        """What every new order is written with."""
        config = current_app.config
        return {
            "code": new_code(),
            "user_id": buyer,
            "currency": config["CURRENCY"],
            "hold": config["ORDER_HOLD_SECONDS"],
            "max_pending": config["MAX_PENDING_ORDERS"],
        }

    @classmethod
    def as_placed(cls, placed, offers, wanted):
        """A new pending order as `to_dict` would show it, made of the row that was written."""
        items = [
            {
                "ticket_type_id": it.ticket_type_id,
                "name": it.name,
                "quantity": wanted[it.ticket_type_id],
                "unit_price": it.price,
            }
            for it in offers
        ]
        return {
            "code": placed.code,
            "status": "pending",
            "items": items,
            "total": placed.total,
            "currency": placed.currency,
            "created_at": placed.created_at,
            "expires_at": placed.expires_at,
            "tickets": [],
            "payments": [],
        }

    @classmethod
    def offers(cls, wanted):
        """What is on sale of the `wanted` ticket types, by id, or the refusal. It is made no draft meanwhile."""
        offers = db.session.connection().execute(OFFERS, {"ids": list(wanted)}).all()
        if len(offers) < len(wanted) or any(offer.status == "draft" for offer in offers):
            raise Missing
        if len({offer.event_id for offer in offers}) > 1:
            raise Invalid(items="Must all be for one event")
        for offer in offers:
            if offer.status == "canceled":
                raise NotOnSale(ticket_type_id=offer.ticket_type_id)
            if not offer.open:
                raise SalesClosed(ticket_type_id=offer.ticket_type_id)
            if wanted[offer.ticket_type_id] > offer.max_per_order:
                raise MaxPerOrder(ticket_type_id=offer.ticket_type_id, max_per_order=offer.max_per_order)
            if wanted[offer.ticket_type_id] > offer.free:  # who comes too late need write nothing to find that out
                raise SoldOut(ticket_type_id=offer.ticket_type_id, available=offer.free)
        return offers

    @classmethod
    def lapse(cls, event_id):
        """Let go of the holds of an event that have lapsed, and return how many orders they were.

        Locks go as everywhere, orders before ticket types and each by id, so that nobody waits in a circle.
        """
        ids = take(select(cls.id).where(cls.event_id == event_id, cls.has_lapsed()).order_by(cls.id)).all()
        freed = Counter()
        for start in range(0, len(ids), 1000):
            some = ids[start : start + 1000]
            db.session.execute(update(cls).where(cls.id.in_(some)).values(state="expired"))
            sums = select(OrderItem.ticket_type_id, func.sum(OrderItem.quantity)).where(OrderItem.order_id.in_(some))
            freed.update(dict(db.session.execute(sums.group_by(OrderItem.ticket_type_id)).all()))
        if freed:
            take(select(TicketType.id).where(TicketType.event_id == event_id).order_by(TicketType.id)).all()
            TicketType.move(freed, held=-1)
        return len(ids)

    @classmethod
    def events_with_lapsed(cls):
        return db.session.scalars(select(cls.event_id).where(cls.has_lapsed()).distinct()).all()

    def visible_to(self, user):
        """To its buyer, and to those who work here."""
        return self.user_id == user.id or user.role != "user"

    @property
    def quantities(self):
        return {item.ticket_type_id: item.quantity for item in self.items}

    def lock(self):
        """Nobody else pays, cancels, lapses or refunds this order until the commit."""
        take(select(Order).where(Order.id == self.id)).one()

    def cancel(self):
        self.lock()
        if self.status != "pending":
            raise NotPending(status=self.status)
        self.state = "canceled"
        TicketType.move(self.quantities, held=-1)

    def pay(self, *, method, amount, reference=None):
        """Keep the payment, and pay the order with it if it can be paid. Returns it and whether it is new.

        What was taken is never forgotten: where there is nothing to pay for any more, the payment is due for refund.
        """
        if reference is None and Payment.needs_reference(method):
            raise Invalid(reference="This field is required")
        reference = reference or self.code
        self.lock()
        known = Payment.known(method, reference)
        if known is not None:
            if (known.order_id, known.amount) != (self.id, amount):
                raise ReferenceUsed
            return known, False
        if amount != self.total:
            raise AmountMismatch(total=self.total)
        payment = Payment(method=method, reference=reference, amount=amount, status="refund_due")
        with refusing(ReferenceUsed, "unique"):
            self.payments.append(payment)
        if self.secure_places():
            payment.status = "confirmed"
            self.state = "paid"
            self.issue_tickets()
        return payment, True

    def secure_places(self):
        """Whether the order now has its places for good: those it held, or after it lapsed, what is still free."""
        if self.event.status == "canceled":
            return False
        if self.state == "pending":
            TicketType.move(self.quantities, held=-1, sold=1)
            return True
        if self.state != "expired":
            return False
        try:
            TicketType.reserve(self.event_id, self.quantities, "sold")
        except SoldOut:
            return False
        return True

    def issue_tickets(self):
        rows = [
            {
                "code": new_code(),
                "order_id": self.id,
                "event_id": self.event_id,
                "ticket_type_id": item.ticket_type_id,
                "status": "valid",
            }
            for item in self.items
            for _ in range(item.quantity)
        ]
        db.session.execute(insert(Ticket), rows)
        db.session.expire(self, ["tickets"])

    def refund(self):
        """Give the money back, void the tickets, free the places; not while somebody is inside with one of them."""
        self.lock()
        if self.state != "paid":
            raise NotPaid(status=self.status)
        valid = update(Ticket).where(Ticket.order_id == self.id, Ticket.status == "valid").values(status="void")
        if db.session.execute(valid, execution_options=UNSYNCHRONIZED).rowcount < sum(self.quantities.values()):
            raise CheckedIn
        confirmed = update(Payment).where(Payment.order_id == self.id, Payment.status == "confirmed")
        db.session.execute(confirmed.values(status="refunded"), execution_options=UNSYNCHRONIZED)
        self.state = "refunded"
        TicketType.move(self.quantities, sold=-1)
        db.session.flush()
        db.session.expire(self, ["tickets", "payments"])


class OrderItem(db.Model, Serializable):
    """A line of an order, with name and price as they were when it was placed."""

    __tablename__ = "order_items"
    __table_args__ = (
        UniqueConstraint("order_id", "ticket_type_id"),
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("unit_price >= 0", name="unit_price"),
    )
    serialize_only = ("ticket_type_id", "name", "quantity", "unit_price")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price: Mapped[int] = mapped_column(Integer)


class Payment(db.Model, Serializable):
    """Money taken for an order, known by its method and reference; `refund_due` where it bought nothing."""

    __tablename__ = "payments"
    __table_args__ = (
        UniqueConstraint("method", "reference"),
        CheckConstraint("method IN ('cash', 'bank_transfer', 'mobile_money', 'card')", name="method"),
        CheckConstraint("status IN ('confirmed', 'refund_due', 'refunded')", name="status"),
        CheckConstraint("amount >= 0", name="amount"),
        # An order is paid once, whatever happens.
        Index("uq_payments_confirmed", "order_id", unique=True, **CONFIRMED_ONLY),
    )
    serialize_only = ("id", "method", "reference", "amount", "status", "created_at")
    __mapper_args__ = {"eager_defaults": True}

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    method: Mapped[str] = mapped_column(Text)
    reference: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())

    @staticmethod
    def needs_reference(method):
        return method in PAYMENT_METHODS and method != "cash"

    @classmethod
    def known(cls, method, reference):
        return db.session.scalar(select(cls).where(cls.method == method, cls.reference == reference))

    @classmethod
    def of_order(cls, code, id):
        return db.session.scalar(select(cls).join(Order).where(Order.code == code, cls.id == id))

    def refund(self):
        """Give back a payment that bought nothing."""
        take(select(Payment).where(Payment.id == self.id)).one()
        if self.status != "refund_due":
            raise NotDue(status=self.status)
        self.status = "refunded"


class IdempotencyKey(db.Model):
    """What a call with an `Idempotency-Key` answered, kept in the transaction of what it did: both or neither."""

    __tablename__ = "idempotency_keys"

    KEPT = timedelta(hours=24)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    status: Mapped[int | None] = mapped_column(Integer)
    location: Mapped[str | None] = mapped_column(Text)
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now(), index=True)

    @classmethod
    def claim(cls, user_id, key, *, path, fingerprint):
        """The key's row. It has no `status` yet for the one that is to do the work; a twin waits here until it has.

        Old keys are not looked for here: `flask expire-orders` forgets them.
        """
        row = {"user_id": user_id, "key": key, "path": path, "fingerprint": fingerprint}
        db.session.execute(insert_new(cls).values(row))
        claimed = db.session.get(cls, (user_id, key), populate_existing=True)
        if claimed is None:  # it was an old one, and forgotten in between
            return cls.claim(user_id, key, path=path, fingerprint=fingerprint)
        if (claimed.path, claimed.fingerprint) != (path, fingerprint):
            raise KeyReused
        return claimed

    @classmethod
    def forget_old(cls):
        old = cls.created_at < now(-cls.KEPT.total_seconds())
        return db.session.execute(db.delete(cls).where(old), execution_options=UNSYNCHRONIZED).rowcount


class Ticket(db.Model, Serializable):
    """One place for one person, issued when its order is paid."""

    __tablename__ = "tickets"
    __table_args__ = (
        CheckConstraint("status IN ('valid', 'used', 'void')", name="status"),
        CheckConstraint("(status = 'used') = (checked_in_at IS NOT NULL)", name="checked_in_at"),
        Index("ix_tickets_of_event", "event_id", "id"),
    )
    serialize_only = (
        "code",
        "status",
        "event.id",
        "event.name",
        "event.venue",
        "event.starts_at",
        "ticket_type.id",
        "ticket_type.name",
        "holder",
        "checked_in_at",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"), index=True)
    status: Mapped[str] = mapped_column(Text)
    checked_in_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    order: Mapped[Order] = relationship(back_populates="tickets")
    event: Mapped[Event] = relationship()
    ticket_type: Mapped[TicketType] = relationship()

    @property
    def holder(self):
        return self.order.buyer.name

    @classmethod
    def shown(cls):
        """Tickets with all that `to_dict` shows."""
        buyer = joinedload(cls.order).joinedload(Order.buyer).load_only(User.name)
        return select(cls).options(*cls.shown_of_event(), buyer)

    @classmethod
    def shown_of_event(cls):
        return (
            joinedload(cls.event).load_only(Event.name, Event.venue, Event.starts_at),
            joinedload(cls.ticket_type).load_only(TicketType.name),
        )

    @classmethod
    def by_code(cls, code):
        return db.session.scalar(cls.shown().where(cls.code == code))

    @classmethod
    @lru_cache
    def of_user(cls):
        """The query of the tickets of the parameter `user_id`."""
        return cls.shown().join(Order, cls.order_id == Order.id).where(Order.user_id == bindparam("user_id"))

    @classmethod
    @lru_cache
    def attendees(cls):
        """The query of rows of who may come in, or has, to the parameter `event_id`; the `id` is for the pages."""
        columns = cls.id, cls.code, cls.status, User.name.label("holder"), User.email, cls.checked_in_at
        columns += TicketType.name.label("ticket_type"), Order.code.label("order")
        rows = select(*columns).join(cls.order).join(Order.buyer).join(cls.ticket_type)
        return rows.where(cls.event_id == bindparam("event_id"), cls.status != "void")

    def lock(self):
        """Nobody else checks this ticket in, undoes that or refunds it until the commit."""
        take(Ticket.shown().where(Ticket.id == self.id), of=Ticket).one()

    def check_in(self, event_id=None):
        """Let one person in, once; at the door of `event_id`, if it is given. The event can't be canceled meanwhile."""
        self.lock()
        if event_id not in (None, self.event_id):
            raise WrongEvent(event={"id": self.event_id, "name": self.event.name})
        if self.status == "void":
            raise TicketVoid(since=db.session.scalar(select(Order.updated_at).where(Order.id == self.order_id)))
        if self.status == "used":
            raise AlreadyCheckedIn(checked_in_at=self.checked_in_at)
        canceled = select(Event.canceled_at).where(Event.id == self.event_id).with_for_update(read=True)
        canceled_at = db.session.scalar(canceled)
        if canceled_at is not None:
            raise EventCanceled(since=canceled_at)
        self.status, self.checked_in_at = "used", now()
        db.session.flush()
        db.session.refresh(self, ["checked_in_at"])

    def undo_check_in(self):
        self.lock()
        if self.status != "used":
            raise NotCheckedIn(status=self.status)
        self.status, self.checked_in_at = "valid", None


TicketType.lapsed = column_property(
    select(func.coalesce(func.sum(OrderItem.quantity), 0))
    .join(Order, OrderItem.order_id == Order.id)
    .where(Order.event_id == TicketType.event_id, Order.has_lapsed(), OrderItem.ticket_type_id == TicketType.id)
    .correlate_except(OrderItem, Order)
    .scalar_subquery(),
    deferred=True,
)
Order.lapsed = column_property(Order.expires_at <= now())


def as_event(row):
    """A row of `Event.rows` in the shape of `Event.to_dict`."""
    event = dict(row)
    event["category"] = {"id": event.pop("category_id"), "name": event.pop("category_name")}
    return event


EVENT = Prepared("event", Event.rows().add_columns(Event.version).where(Event.id == bindparam("id")))
TICKET_TYPES = Prepared(
    "ticket_types",
    select(
        *(getattr(TicketType, name) for name in TicketType.serialize_only if name not in ("currency", "available")),
        TicketType.free().label("available"),
    )
    .where(TicketType.event_id == bindparam("id"))
    .order_by(TicketType.id),
)

OPEN = and_(
    func.coalesce(TicketType.sales_start <= now(), true()),
    func.coalesce(TicketType.sales_end, Event.ends_at) > now(),
)
OFFERS = (
    select(
        TicketType.id.label("ticket_type_id"),
        TicketType.event_id,
        TicketType.name,
        TicketType.price,
        TicketType.max_per_order,
        Event.status,
        OPEN.label("open"),
        TicketType.free().label("free"),
    )
    .join(TicketType.event)
    .where(TicketType.id.in_(bindparam("ids", expanding=True)))
    .order_by(TicketType.id)
    .with_for_update(read=True, key_share=True, of=Event)
)

PLACES = TicketType.__table__.c
FREE_PLACES = PLACES.quantity - PLACES.sold - PLACES.held >= bindparam("places")
TAKE = {
    counter: update(TicketType.__table__)
    .where(PLACES.id == bindparam("type"), FREE_PLACES)
    .values({counter: PLACES[counter] + bindparam("places")})
    for counter in ("held", "sold")
}

# A buyer's pending orders, and the number of the next, counted where nobody comes between: his row is locked, or the
# number is taken.
PENDING = (
    select(func.count()).where(Order.user_id == bindparam("user_id"), Order.in_status("pending")).scalar_subquery()
)
NUMBER = (
    select(func.coalesce(func.max(Order.number), 0) + 1).where(Order.user_id == bindparam("user_id")).scalar_subquery()
)


def placing(status):
    """The INSERT of an order; of a pending one only if its buyer has not too many of those."""
    values = {
        "code": bindparam("code", type_=Text),
        "user_id": bindparam("user_id", type_=Integer),
        "number": NUMBER,
        "event_id": bindparam("event_id", type_=Integer),
        "status": literal_column(f"'{status}'"),
        "total": bindparam("total", type_=BigInteger),
        "currency": bindparam("currency", type_=Text),
        "expires_at": now(bindparam("hold", type_=Integer)),
    }
    row = select(*values.values())
    if status == "pending":
        row = row.where(bindparam("max_pending") > PENDING)
    orders = Order.__table__
    shown = orders.c.id, orders.c.code, orders.c.total, orders.c.currency, orders.c.created_at, orders.c.expires_at
    return insert(orders).from_select(list(values), row).returning(*shown)


PLACE, PLACE_FREE = placing("pending"), placing("paid")

# The event is locked before the ticket type, as `Event.delete` does, not after it by the foreign key: no circle.
PLACE_AT_ONCE = Prepared(
    "place",
    text("""
WITH buyer AS (
    SELECT id FROM users WHERE id = :user_id FOR NO KEY UPDATE
), offer AS (
    SELECT ticket_types.id AS ticket_type_id, event_id, ticket_types.name, price
    FROM ticket_types JOIN events ON events.id = event_id
    WHERE ticket_types.id = :ticket_type_id AND events.status = 'published'
        AND coalesce(sales_start <= statement_timestamp(), true)
        AND coalesce(sales_end, ends_at) > statement_timestamp()
        AND price > 0 AND max_per_order >= :quantity
        AND (
            SELECT count(*) FROM orders
            WHERE user_id = :user_id AND status = 'pending' AND expires_at > statement_timestamp()
        ) < :max_pending
    FOR KEY SHARE OF events
), taken AS (
    UPDATE ticket_types SET held = held + :quantity FROM buyer, offer
    WHERE ticket_types.id = offer.ticket_type_id AND quantity - sold - held >= :quantity
    RETURNING offer.*, buyer.id AS user_id
), placed AS (
    INSERT INTO orders (code, user_id, number, event_id, status, total, currency, expires_at)
    SELECT :code, user_id, (SELECT coalesce(max(number), 0) + 1 FROM orders WHERE user_id = :user_id), event_id,
        'pending', price::bigint * :quantity, :currency, statement_timestamp() + make_interval(secs => :hold)
    FROM taken
    RETURNING id, code, total, currency, created_at, expires_at
), line AS (
    INSERT INTO order_items (order_id, ticket_type_id, name, quantity, unit_price)
    SELECT placed.id, ticket_type_id, name, :quantity, price FROM placed, taken
)
SELECT placed.*, ticket_type_id, name, price FROM placed, taken
"""),
)


def check_inventory():
    """Count all places, tickets and payments again from their rows, and say in a sentence each what differs.

    What is sold while it counts is no difference: each kind of it is looked for at one moment, by one statement.
    """
    with db.engine.connect() as connection:
        return [
            sentence.format_map(row)
            for sentence, rows in differences().items()
            for row in connection.execute(rows).mappings()
        ]


def differences():
    """A sentence for each kind of difference, with the query for the rows that fill it."""
    return {
        "Ticket type {id} of {quantity} places has {sold} sold and {held} held, "
        "its orders have {paid} paid and {pending} pending": wrong_counters(),
        "Order {code} has a total of {total}, its items come to {items}": wrong_totals(),
        "Order {code} is {status} with a total of {total}, "
        "its confirmed payments are {payments} and come to {amount}": wrong_payments(),
        "Order {code} is paid for {quantity} places of ticket type {ticket_type_id}, "
        "its tickets for them are {tickets}": wrong_tickets(),
        "Ticket {code} is {status}, its order {order} is {order_status}": unpaid_tickets(),
        "Ticket {code} is of event {event_id} and ticket type {ticket_type_id}, "
        "its order {order} is not": misplaced_tickets(),
    }


def wrong_counters():
    places = select(
        OrderItem.ticket_type_id,
        func.coalesce(func.sum(OrderItem.quantity).filter(Order.state == "paid"), 0).label("paid"),
        func.coalesce(func.sum(OrderItem.quantity).filter(Order.state == "pending"), 0).label("pending"),
    )
    places = places.join(Order).group_by(OrderItem.ticket_type_id).subquery()
    paid, pending = func.coalesce(places.c.paid, 0), func.coalesce(places.c.pending, 0)
    sold, held = TicketType.sold, TicketType.held
    rows = select(TicketType.id, TicketType.quantity, sold, held, paid.label("paid"), pending.label("pending"))
    rows = rows.outerjoin(places, places.c.ticket_type_id == TicketType.id)
    impossible = or_(sold < 0, held < 0, sold + held > TicketType.quantity)
    return rows.where(or_(sold != paid, held != pending, impossible))


def wrong_totals():
    price = OrderItem.quantity.cast(BigInteger) * OrderItem.unit_price
    sums = select(OrderItem.order_id, func.sum(price).label("items")).group_by(OrderItem.order_id).subquery()
    rows = select(Order.code, Order.total, sums.c["items"]).outerjoin(sums, sums.c.order_id == Order.id)
    return rows.where(or_(sums.c["items"].is_(None), sums.c["items"] != Order.total))


def wrong_payments():
    """A paid order has one confirmed payment of its total, or none where that is 0; no other order has any."""
    counted = select(Payment.order_id, func.count().label("payments"), func.sum(Payment.amount).label("amount"))
    counted = counted.where(Payment.status == "confirmed").group_by(Payment.order_id).subquery()
    payments, amount = func.coalesce(counted.c.payments, 0), func.coalesce(counted.c.amount, 0)
    rows = select(Order.code, Order.state, Order.total, payments.label("payments"), amount.label("amount"))
    due = case((Order.state == "paid", Order.total), else_=0)
    return rows.outerjoin(counted, counted.c.order_id == Order.id).where(or_(amount != due, payments > 1))


def wrong_tickets():
    kind = Ticket.order_id, Ticket.ticket_type_id
    counted = select(*kind, func.count().label("tickets")).where(Ticket.status != "void").group_by(*kind).subquery()
    tickets = func.coalesce(counted.c.tickets, 0)
    same = counted.c.order_id == OrderItem.order_id, counted.c.ticket_type_id == OrderItem.ticket_type_id
    rows = select(Order.code, OrderItem.quantity, OrderItem.ticket_type_id, tickets.label("tickets"))
    rows = rows.select_from(OrderItem).join(Order).outerjoin(counted, and_(*same))
    return rows.where(Order.state == "paid", tickets != OrderItem.quantity)


def unpaid_tickets():
    rows = select(Ticket.code, Ticket.status, Order.code.label("order"), Order.state.label("order_status"))
    return rows.join(Ticket.order).where(Ticket.status != "void", Order.state != "paid")


def misplaced_tickets():
    rows = select(Ticket.code, Ticket.event_id, Ticket.ticket_type_id, Order.code.label("order")).join(Ticket.order)
    same = OrderItem.order_id == Ticket.order_id, OrderItem.ticket_type_id == Ticket.ticket_type_id
    rows = rows.outerjoin(OrderItem, and_(*same)).where(Ticket.status != "void")
    return rows.where(or_(Ticket.event_id != Order.event_id, OrderItem.id.is_(None)))
