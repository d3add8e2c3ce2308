"""The database: its helpers, the refusals of rules, and the tables with what one row may do.

Rules that need several tables are in `routes/selling`. Verbs raise a `Refused` where a rule says no; they never commit,
and know nothing of HTTP.
"""

import json
import re
import secrets
import sqlite3
import unicodedata
import zoneinfo
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

import email_validator
import psycopg2
from flask import current_app
from flask_bcrypt import Bcrypt
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    CheckConstraint,
    ColumnElement,
    Connection,
    CursorResult,
    DateTime,
    Delete,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    ScalarResult,
    Select,
    Table,
    Text,
    UniqueConstraint,
    Update,
    and_,
    case,
    column,
    delete,
    event,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg
from sqlalchemy.exc import DisconnectionError, IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    foreign,
    mapped_column,
    relationship,
    remote,
    validates,
)
from sqlalchemy.pool import Pool as ConnectionPool
from sqlalchemy.sql.compiler import SQLCompiler
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

if TYPE_CHECKING:  # a type checker can't look into `db.Model`, which is made when the module is loaded

    class Model(DeclarativeBase):
        __table__: ClassVar[Table]
else:
    Model = db.Model

# An organization's own network has addresses at `localhost`, `.local` and `.test`; the library documents this switch.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

ROLES = ("user", "staff", "admin")
APPOINTMENTS = ("door", "manager")  # for single events, beside the roles


class Refused(Exception):
    """A rule of the domain says no. `reason` is stable and for programs, `message` is for people."""

    reason: str
    message: str | dict[str, str]

    def __init__(self, **facts: Any) -> None:
        super().__init__(self.reason)
        self.facts = facts


class AccountRefused(Refused):
    """About accounts."""


class EmailTaken(AccountRefused):
    reason = "email_taken"
    message = {"email": "This email address is already taken"}


class AlreadyVerified(AccountRefused):
    reason = "verified"
    message = "Your email address is confirmed"


class HasTickets(AccountRefused):
    reason = "has_tickets"
    message = "There are valid tickets for events that are not over"


class LastAdmin(AccountRefused):
    reason = "last_admin"
    message = "There must be at least one active admin"


class CatalogueRefused(Refused):
    """About categories, events and ticket types."""


class CategoryNameTaken(CatalogueRefused):
    reason = "name_taken"
    message = {"name": "There is a category of this name"}


class CategoryInUse(CatalogueRefused):
    reason = "in_use"
    message = "There are events in this category"


class HasOrders(CatalogueRefused):
    reason = "has_orders"
    message = "Tickets have been ordered"


class EventCanceled(CatalogueRefused):
    reason = "event_canceled"
    message = "The event is canceled"


class EventNotCanceled(CatalogueRefused):
    reason = "not_canceled"
    message = "The event is not canceled"


class QuantityBelowSold(CatalogueRefused):
    reason = "below_sold"
    message = "More places are sold or held"


class TicketTypeInUse(CatalogueRefused):
    reason = "in_use"
    message = "A promo code names this ticket type"


class PromoCodeTaken(CatalogueRefused):
    reason = "code_taken"
    message = {"code": "The event has a promo code like this"}


class MaxUsesBelowUsed(CatalogueRefused):
    reason = "below_used"
    message = "More tickets have used it"


class PlacingRefused(Refused):
    """About an order that somebody wants to place."""


class SoldOut(PlacingRefused):
    reason = "sold_out"
    message = "There are not enough places left"


class SalesClosed(PlacingRefused):
    reason = "sales_closed"
    message = "The ticket type is not on sale now"


class EventNotOnSale(PlacingRefused):
    reason = "not_on_sale"
    message = "The event is canceled, so its tickets are not on sale"


class OverMaxPerOrder(PlacingRefused):
    reason = "max_per_order"
    message = "One order may not have that many tickets of this type"


class UnderMinPerOrder(PlacingRefused):
    reason = "min_per_order"
    message = "One order must have more tickets of this type"


class OverMaxPerBuyer(PlacingRefused):
    reason = "max_per_buyer"
    message = "One buyer may not have that many tickets of this type"


class TooManyTickets(PlacingRefused):
    reason = "too_many_tickets"
    message = "One order may not have that many tickets"


class PriceChanged(PlacingRefused):
    reason = "price_changed"
    message = "The total of the order has changed"


class PromoInvalid(PlacingRefused):
    reason = "promo_invalid"
    message = "There is no such promo code now"


class PromoNotApplicable(PlacingRefused):
    reason = "promo_not_applicable"
    message = "The promo code is for other ticket types"


class PromoUsedUp(PlacingRefused):
    """`available` is how many tickets may still use it, `pending` has the buyer's own orders that hold uses."""

    reason = "promo_used_up"
    message = "The promo code is not good for that many tickets any more"


class TooManyPendingOrders(PlacingRefused):
    reason = "too_many_pending"
    message = "Please pay or cancel your pending orders first"


class PlacesAvailable(PlacingRefused):
    reason = "available"
    message = "There are places: please order them"


class AlreadyWaiting(PlacingRefused):
    reason = "already_waiting"
    message = "You wait for this ticket type already, or have an offer for it"


class OrderRefused(Refused):
    """About an order that is there."""


class OrderNotPending(OrderRefused):
    reason = "not_pending"
    message = "The order is not pending"


class OrderNotPaid(OrderRefused):
    reason = "not_paid"
    message = "The order is not paid"


class HolderInside(OrderRefused):
    reason = "checked_in"
    message = "A ticket of this order is checked in"


class TicketsVoid(OrderRefused):
    reason = "already_void"
    message = "Tickets of these are void already"


class TicketsTransferred(OrderRefused):
    reason = "transferred"
    message = "Tickets of this order belong to somebody else now"


class PaymentRefused(Refused):
    """About money that is taken or given back."""


class AmountMismatch(PaymentRefused):
    reason = "amount_mismatch"
    message = "The amount is not the order's total"


class ReferenceUsed(PaymentRefused):
    reason = "reference_used"
    message = "The reference belongs to another payment"


class NothingDue(PaymentRefused):
    reason = "nothing_due"
    message = "The order is free of charge"


class AlreadyPaid(PaymentRefused):
    reason = "already_paid"
    message = "The order is paid already"


class RefundNotDue(PaymentRefused):
    reason = "not_due"
    message = "The payment is not due to be refunded"


class ExceedsPaid(PaymentRefused):
    reason = "exceeds_paid"
    message = "That is more than is left of the payment"


class PaymentDisputed(PaymentRefused):
    reason = "disputed"
    message = "The buyer's bank wants the money back"


class RefundNotFailed(PaymentRefused):
    reason = "not_failed"
    message = "The refund has not failed"


class NotPayable(PaymentRefused):
    reason = "not_payable"
    message = "The provider does not take this amount or currency"


class ProviderUnavailable(Exception):
    """The payment provider does not answer, or is asked too much at once. Nothing is lost."""


class NotConfigured(Refused):
    """A service is not configured; `what` names it: `mail`, `payments`."""

    reason = "not_configured"
    message = "This server is not configured for this"


class IdempotencyKeyReused(Refused):
    reason = "idempotency_key_reused"
    message = "The Idempotency-Key was used for another request"


class DoorRefused(Refused):
    """About a ticket at the door."""


class TicketVoid(DoorRefused):
    reason = "void"
    message = "The ticket is void"


class WrongEvent(DoorRefused):
    reason = "wrong_event"
    message = "The ticket is for another event"


class AlreadyCheckedIn(DoorRefused):
    reason = "already_checked_in"
    message = "The ticket has been used"


class TicketUsed(DoorRefused):
    reason = "used"
    message = "The ticket has been used"


class TransferRefused(Refused):
    """About a ticket that is passed on."""


class TransferPending(TransferRefused):
    reason = "transfer_pending"
    message = "The ticket is being passed on: take that back first"


class EventOver(TransferRefused):
    reason = "event_over"
    message = "The event is over"


class OwnTicket(TransferRefused):
    reason = "own_ticket"
    message = "The ticket is yours already"


class NotCheckedIn(DoorRefused):
    reason = "not_checked_in"
    message = "The ticket is not checked in"


class Outdated(Exception):
    """The row is no longer the version that the change was made for."""


class TooOften(Exception):
    """The limit of how often this may be done is reached."""


class Missing(Exception):
    """The row does not exist, or the user may not see it."""


class NotAllowed(Exception):
    """The user may see it, and may not do this."""


class Invalid(ValueError):
    """Values that can only be judged in the domain. `fields` has a text for the client by the name of each."""

    def __init__(self, **fields: str) -> None:
        super().__init__(", ".join(fields))
        self.fields = fields


@event.listens_for(Engine, "connect")
def prepare_sqlite(connection: Any, record: Any) -> None:
    """Turn on WAL, so that readers never wait for the writer, and foreign keys, which SQLite leaves off."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")


@event.listens_for(ConnectionPool, "checkin")
def remember_use(connection: Any, record: Any) -> None:
    record.info["used_at"] = monotonic()


@event.listens_for(ConnectionPool, "checkout")
def ping_if_idle(connection: Any, record: Any, proxy: Any) -> None:
    """Replace a connection that broke while idle. `pool_pre_ping` would test it at every use, which is slower."""
    if isinstance(connection, sqlite3.Connection) or monotonic() - record.info.get("used_at", monotonic()) < 1:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error as error:
        raise DisconnectionError from error


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, on SQLite too, which keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True
    python_type = datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class now(FunctionElement[datetime]):
    """The database's own time, `seconds` from now. Clocks of processes may differ."""

    type = UTCDateTime()
    inherit_cache = True

    def __init__(self, seconds: Any = 0) -> None:
        super().__init__(seconds)


@compiles(now, "postgresql")
def now_postgresql(element: FunctionElement[Any], compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kwargs)})"


@compiles(now, "sqlite")
def now_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kwargs)} || ' seconds')"


class starts_with(FunctionElement[Any]):
    """Whether a text column begins as a text does, given as its `prefix_bounds`: by an index.

    On PostgreSQL that is one with the operators of `TEXT_PATTERN`, as others sort by the language's rules. It is no
    Boolean by type: SQLite would get it with a `= 1` behind, and use no index.
    """

    inherit_cache = True


@compiles(starts_with, "postgresql")
def starts_with_postgresql(element: FunctionElement[Any], compiler: SQLCompiler, **kwargs: Any) -> str:
    text, first, last = (compiler.process(it, **kwargs) for it in element.clauses)
    return f"({text} ~>=~ {first} AND {text} ~<~ {last})"


@compiles(starts_with, "sqlite")
def starts_with_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kwargs: Any) -> str:
    text, first, last = (compiler.process(it, **kwargs) for it in element.clauses)
    return f"({text} >= {first} AND {text} < {last})"


def prefix_bounds(prefix: str) -> tuple[str, str]:
    """The first text that begins with the prefix, and one after the last."""
    return prefix, prefix + chr(0x10FFFF)


TEXT_PATTERN = "text_pattern_ops"


class change_number(FunctionElement[int]):
    """What a row is marked with by the transaction that changes it; `door_version` says what was not there before."""

    type = BigInteger()
    inherit_cache = True


class door_version(FunctionElement[int]):
    """A number that all rows have less of that are there now. What is committed later has it or more, however long its
    transaction took; of what was changed just now, some may have more already."""

    type = BigInteger()
    inherit_cache = True


@compiles(change_number, "postgresql")
def change_number_postgresql(element: change_number, compiler: Any, **kwargs: Any) -> str:
    return "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)"


@compiles(door_version, "postgresql")
def door_version_postgresql(element: door_version, compiler: Any, **kwargs: Any) -> str:
    return "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)"


@compiles(change_number, "sqlite")
@compiles(door_version, "sqlite")
def next_number_sqlite(element: FunctionElement[int], compiler: Any, **kwargs: Any) -> str:
    marked = (f"(SELECT coalesce(max(changed), 0) FROM {table})" for table in ("tickets", "ticket_codes"))
    return f"(max({', '.join(marked)}) + 1)"


class random_key(FunctionElement[str]):
    """128 random bits as hexadecimal digits, other ones for each row."""

    type = Text()
    inherit_cache = True


@compiles(random_key, "postgresql")
def random_key_postgresql(element: random_key, compiler: Any, **kwargs: Any) -> str:
    return "replace(gen_random_uuid()::text, '-', '')"


@compiles(random_key, "sqlite")
def random_key_sqlite(element: random_key, compiler: Any, **kwargs: Any) -> str:
    return "lower(hex(randomblob(16)))"


class JsonText(TypeDecorator[dict[str, Any]]):
    """A JSON object, kept as a text, which both databases take from any statement."""

    impl = Text
    cache_ok = True
    python_type = dict

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Any) -> dict[str, Any] | None:
        return None if value is None else json.loads(value)


def autocommit_connection(pool: str = "autocommit") -> Connection:
    """A connection whose every statement is a transaction of its own: no BEGIN, no COMMIT to wait for.

    It comes from its own pool, so that no request needs two connections of one pool. SQLite in memory has only one.
    Slow queries use the pool `search`, and orders that wait for a row the pool `orders`: every signed-in call needs the
    other.
    """
    return db.engines.get(pool, db.engine).connect()


class ConstantsWritten(PGCompiler_psycopg):
    """Writes constants into the statement: only what has no value yet is a parameter."""

    def visit_bindparam(self, bindparam: BindParameter[Any], **options: Any) -> Any:  # type: ignore[override]
        constants = {} if bindparam.required else {"literal_binds": True}
        return super().visit_bindparam(bindparam, **options, **constants)


class PreparedStatement:
    """A statement that PostgreSQL plans once for each connection: to plan it anew took longer than to carry it out."""

    def __init__(self, name: str, statement: Select[*tuple[Any, ...]]) -> None:
        self.name, self.statement = name, statement
        dialect = postgresql.dialect(paramstyle="numeric_dollar")
        dialect.statement_compiler = ConstantsWritten
        compiled = statement.compile(dialect=dialect)
        self.preparation = f"PREPARE {name} AS {compiled.string}"
        call = text(f"EXECUTE {name} ({', '.join(f':{parameter}' for parameter in compiled.positiontup or ())})")
        self.call = call.columns(*(column(it.name, it.type) for it in statement.selected_columns))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        if connection.dialect.name != "postgresql":
            return connection.execute(self.statement, values)
        if self.name not in connection.info:
            connection.exec_driver_sql(self.preparation)
            connection.info[self.name] = True
        return connection.execute(self.call, values)


def lock_rows(
    query: Select[Any], *, of: Any = None, key_share: bool = True, skip_locked: bool = False
) -> ScalarResult[Any]:
    """The rows of `query`, read anew and locked until the commit: who comes second sees what the first left.

    Of what the query joins, only the rows `of` one model are locked, and only they are sure to be fresh. Without
    `key_share`, new rows that refer to them wait as well; with `skip_locked`, those that others have locked are left
    out. SQLite has no row locks: there it is the one write lock.
    """
    begin_writing()
    locked = query.with_for_update(key_share=key_share, of=of, skip_locked=skip_locked)
    return db.session.scalars(locked, execution_options={"populate_existing": True})


def keep_rows(query: Select[Any], *, key_share: bool = True) -> ScalarResult[Any]:
    """The rows of `query`, which nobody deletes until the commit; or without `key_share`, changes."""
    begin_writing()
    return db.session.scalars(query.with_for_update(read=True, key_share=key_share))


def begin_writing() -> None:
    """Lock SQLite for writing now: others change nothing of what is read from here on until the commit."""
    connection = db.session.connection()
    if connection.dialect.name == "sqlite" and not cast(Any, connection.connection).in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


UNSYNCHRONIZED = {"synchronize_session": False}


def changed_rows(statement: Update | Delete) -> int:
    """Execute an UPDATE or DELETE, and return how many rows it changed."""
    return cast(CursorResult[Any], db.session.execute(statement, execution_options=UNSYNCHRONIZED)).rowcount


def note_work() -> None:
    """Whoever waits for work is woken when this transaction is committed."""
    db.session.info["work"] = True


@contextmanager
def refusing(refusal: Exception | type[Exception], constraint: str) -> Iterator[None]:
    """Flush at the end of the block, and raise `refusal` where that violates the `constraint`."""
    try:
        yield
        db.session.flush()
    except IntegrityError as error:
        if violated(error) == constraint:
            raise refusal from error
        raise


def violated(error: IntegrityError) -> str | None:
    """The name of the constraint that was violated. SQLite tells only the columns of a unique one."""
    if isinstance(error.orig, psycopg2.Error):
        return error.orig.diag.constraint_name
    columns = re.match(r"UNIQUE constraint failed: (\w+)\.(\w+)", str(error.orig))
    return f"uq_{columns[1]}_{columns[2]}" if columns else None


def insert_or_ignore(model: Any) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that ignores a row that exists already. In a race it waits for the other transaction."""
    return dialect_insert(model).on_conflict_do_nothing()


def dialect_insert(model: Any) -> Any:
    return {"postgresql": postgresql, "sqlite": sqlite}[db.session.connection().dialect.name].insert(model)


class Serializable(SerializerMixin):
    """Times leave as `2026-11-22T18:30:00Z`. Each model lists what leaves in `serialize_only`; nothing else does."""

    datetime_format = "%Y-%m-%dT%H:%M:%SZ"

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What `serialize_only` lists. Only what else is asked for needs the library's way, which takes longer."""
        return super().to_dict(*args, **kwargs) if args or kwargs else as_json(self, self.serialize_only)


def as_json(item: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a model, or of anything that has them. The name `event.id` is the id in an object `event`."""
    return {name: json_value(getattr(item, name), inner) for name, inner in grouped(names)}


@cache
def grouped(names: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The first parts of dotted names, each with what follows it."""
    inner: dict[str, tuple[str, ...]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        inner[first] = inner.get(first, ()) + ((rest,) if rest else ())
    return tuple(inner.items())


def json_value(value: Any, inner: tuple[str, ...]) -> Any:
    if isinstance(value, datetime):
        return value.strftime(Serializable.datetime_format)
    if isinstance(value, list):
        return [json_value(it, inner) for it in value]
    names = inner or getattr(value, "serialize_only", ())
    return as_json(value, names) if names and value is not None else value


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """The CHECK that a column has one of the values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def only_where(condition: str) -> dict[str, Any]:
    """The condition of an index that has only some rows."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


class Timestamps:
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now(), onupdate=func.now())
    __mapper_args__ = {"eager_defaults": True}


def random_id() -> str:
    return secrets.token_hex(8)


LONGEST_EMAIL = 254  # RFC 5321


def normal_email(email: str) -> str:
    """The address in the one form it is stored and looked up in. Raises ValueError; asks no DNS.

    Its length is judged first: to compose the letters of a long text takes time that grows with its square.
    """
    try:
        if len(email := email.strip()) > LONGEST_EMAIL:
            raise ValueError("Please provide a valid email")
        lower = email.lower()  # before composing its letters: the other way round, some fall apart again
        found = email_validator.validate_email(lower, check_deliverability=False, globally_deliverable=False)
    except (AttributeError, email_validator.EmailNotValidError) as error:
        raise ValueError("Please provide a valid email") from error
    return found.normalized


def lock_address(email: str) -> None:
    """Until the commit nobody else takes this address, so that no statement fails on it.

    PostgreSQL writes a failed statement into its log, with the address and the hash. SQLite keeps no log.
    """
    connection = db.session.connection()
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(sha256(email.encode()).digest()[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(number)))


def folded_name(context: Any) -> str:
    return caseless(context.get_current_parameters()["name"])


class User(Model, Timestamps, Serializable):
    """An account. `token_version` is copied into each token; a new one ends all tokens that carry the old.

    The column and the claim are named `stamp`.

    `folded` is the name as it is searched for. `pending_email` is an address that its owner has yet to confirm. A
    deleted account keeps its row, with nothing in it that says whose it was.
    """

    __tablename__ = "users"
    __table_args__ = (
        one_of("role", ROLES),
        Index("ix_users_folded", "folded", postgresql_ops={"folded": TEXT_PATTERN}),
        Index("ix_users_email_start", "email", postgresql_ops={"email": TEXT_PATTERN}),
    )
    serialize_only = (
        "id",
        "name",
        "email",
        "role",
        "active",
        "created_at",
        "updated_at",
        "email_verified_at",
        "pending_email",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    folded: Mapped[str] = mapped_column(Text, default=folded_name, server_default="")
    email: Mapped[str] = mapped_column(Text, unique=True)
    password: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, default="user", server_default="user")
    active: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    token_version: Mapped[str] = mapped_column("stamp", Text, default=random_id, server_default="")
    email_verified_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    pending_email: Mapped[str | None] = mapped_column(Text)
    deleted_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    @validates("name")
    def fold(self, key: str, name: str) -> str:
        self.folded = caseless(name)
        return name

    @validates("email")
    def validate_email(self, key: str, email: str) -> str:
        return self.end_tokens(key, normal_email(email))

    @classmethod
    def sign_up(cls, *, name: str, email: str, password: str) -> "User":
        """A new account with the role `user`. Two sign-ups with one address: the database lets one in."""
        values = {"name": name, "email": normal_email(email), "password": hash_password(password)}
        lock_address(values["email"])
        user = db.session.scalar(insert_or_ignore(cls).values(values).returning(cls))
        if user is None:
            raise EmailTaken
        return user

    @classmethod
    def by_email(cls, email: str) -> "User | None":
        try:
            return db.session.scalar(select(cls).where(cls.email == normal_email(email)))
        except ValueError:
            return None

    def appoint(self, *, role: str | None = None, active: bool | None = None) -> None:
        """Change role or state, but never take the last active admin.

        All admins are locked in the order of their ids, so of two who demote each other the second finds itself last.
        """
        locked = self.lock_with_admins()
        was_admin = self.role == "admin" and self.active
        self.role = self.role if role is None else role
        self.active = self.active if active is None else active
        if was_admin and not any(user.role == "admin" and user.active for user in locked):
            raise LastAdmin

    def lock_with_admins(self) -> "list[User]":
        """Lock this account and all active admins, in the order of their ids; Missing if it was deleted."""
        admins = and_(User.role == "admin", User.active)
        locked = list(lock_rows(select(User).where(or_(User.id == self.id, admins)).order_by(User.id)))
        if self.deleted_at:
            raise Missing
        return locked

    @validates("role", "active", "password")
    def end_tokens(self, key: str, value: Any) -> Any:
        if value != getattr(self, key):
            self.token_version = random_id()
            self.pending_email = None  # whoever set it may have had no right to; its link ends with the version
        return value


class Busy(Exception):
    """Too much work of one kind waits in this process."""


class BoundedQueue:
    """A semaphore that few callers may hold, with a short queue: for what uses a processor long. Else Busy."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.working = self.waiting = 0

    @contextmanager
    def slot(self, *, workers: int, queue: int) -> Iterator[None]:
        with self.changed:
            if self.working >= workers and self.waiting >= queue:
                raise Busy
            self.waiting += 1
            self.changed.wait_for(lambda: self.working < workers)
            self.waiting -= 1
            self.working += 1
        try:
            yield
        finally:
            with self.changed:
                self.working -= 1
                self.changed.notify()


hashing = BoundedQueue()


def hashing_slot() -> AbstractContextManager[None]:
    """A slot to hash a password in, or Busy. The limits are for each process."""
    config = current_app.config
    return hashing.slot(workers=config["BCRYPT_AT_ONCE"], queue=config["BCRYPT_QUEUE"])


def hash_password(password: str) -> str:
    with hashing_slot():
        return bcrypt.generate_password_hash(password).decode()


def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether the password matches. It takes as long without a hash, so that nobody learns who has an account."""
    possible = password_hash is not None and 0 < len(password) <= 72 and "\0" not in password
    possible = possible and len(password.encode()) <= 72
    with hashing_slot():
        try:
            pair = (password_hash, password) if possible else (dummy_hash(), "-")
            matches = bcrypt.check_password_hash(*pair)
        except ValueError:  # what is stored is no bcrypt hash
            return False
    return possible and matches


def dummy_hash() -> str:
    """A valid hash of the configured cost that no password matches."""
    return f"$2b${current_app.config['BCRYPT_LOG_ROUNDS']:02d}${'.' * 53}"


def is_outdated(password_hash: str) -> bool:
    """Whether the hash has another cost than configured. Then the time that a log-in takes would reveal the account."""
    return not password_hash.startswith(dummy_hash()[:7])


class Login(Model):
    """A log-in: all tokens with its `sid`. `generation` counts its refresh tokens, the last made at `renewed_at`.

    It is kept while a token of it may be good, and without `expires_at` for ever.
    """

    __tablename__ = "logins"

    sid: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    generation: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    renewed_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    ended: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime, index=True)


TOKEN_KINDS = ("password_reset", "verify_address")


class MailToken(Model):
    """A secret in a mail, stored as its hash. It is good once, and only for this `token_version` of the user."""

    __tablename__ = "tokens"
    __table_args__ = (one_of("kind", TOKEN_KINDS),)

    hash: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    email: Mapped[str] = mapped_column(Text)
    token_version: Mapped[str] = mapped_column("stamp", Text)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)


# An id that was deleted is not given again, which SQLite does unless told: somebody may still mean the old row.
NO_ID_REUSE = {"sqlite_autoincrement": True}


def caseless(name: str) -> str:
    """What the name is compared by: case and spelling of its letters apart (Unicode's canonical caseless match)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


class Versioned:
    """`version` counts the changes of a row, so that who changes it can say which he has seen."""

    version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")

    def set(self, fields: Mapping[str, Any]) -> None:
        """Change what is given, and judge the whole."""
        for name, value in fields.items():
            setattr(self, name, value)
        self.version = (self.version or 0) + bool(fields)


class Category(Model, Versioned, Serializable):
    """`folded` is the name without its case, in one spelling of its letters: no two categories share one."""

    __tablename__ = "categories"
    __table_args__ = NO_ID_REUSE
    serialize_only = ("id", "name")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    folded: Mapped[str] = mapped_column(Text, unique=True)

    @validates("name")
    def fold(self, key: str, name: str) -> str:
        self.folded = caseless(name)
        return name


EVENT_STATUSES = ("draft", "published", "canceled")


def configured(name: str) -> Callable[[], Any]:
    """A column's default that the configuration says."""
    return lambda: current_app.config[name]


@cache
def time_zones() -> frozenset[str]:
    """The names of the zones that there are (IANA), but for two that stand for none."""
    return frozenset(zoneinfo.available_timezones() - {"Factory", "localtime"})


class Event(Model, Versioned, Timestamps, Serializable):
    """Something people buy tickets for. `duration` is in seconds, for the index.

    `currency` is what all its prices and orders are in. With `refund_reason` all its orders are refunded.
    """

    __tablename__ = "events"
    __table_args__ = (
        one_of("status", EVENT_STATUSES),
        CheckConstraint("(status = 'canceled') = (canceled_at IS NOT NULL)", name="canceled_at"),
        CheckConstraint("ends_at > starts_at", name="ends_at"),
        Index("ix_events_listed", "status", "starts_at", "id"),
        # The status first: PostgreSQL judges an index by how well its first column is sorted on the disk.
        Index("ix_events_in_category", "status", "category_id", "starts_at", "id"),
        Index("ix_events_longest", "status", "duration"),
        Index("ix_events_to_refund", "id", **only_where("refund_reason IS NOT NULL")),
        NO_ID_REUSE,
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
        "time_zone",
        "currency",
        "contact",
        "created_at",
        "updated_at",
    )

    RULES = frozenset({"status", "ends_at", "currency"})  # what its ticket types are sold by
    MAX_DURATION = 1000 * 365 * 24 * 3600  # no database's calendar ends before that many seconds ago

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
    time_zone: Mapped[str] = mapped_column(Text, default=configured("TIME_ZONE"), server_default="UTC")
    currency: Mapped[str] = mapped_column(Text, default=configured("CURRENCY"), server_default="USD")
    contact: Mapped[str | None] = mapped_column(Text)
    refund_reason: Mapped[str | None] = mapped_column(Text)
    refund_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    version: Mapped[int] = mapped_column(Integer, default=1)

    category: Mapped[Category] = relationship()
    ticket_types: Mapped[list["TicketType"]] = relationship(order_by="TicketType.id", back_populates="event")

    def set(self, fields: Mapping[str, Any]) -> None:
        super().set(fields)
        if self.ends_at <= self.starts_at:
            raise Invalid(ends_at="Must be after starts_at")
        if self.status == "canceled" and self.canceled_at is None:
            self.canceled_at = now()
        self.duration = min(int((self.ends_at - self.starts_at).total_seconds()), self.MAX_DURATION)


class Pool(Model, Versioned, Serializable):
    """Places that several ticket types of an event share: a ticket takes one of its type and one of the pool.

    As with ticket types, `counted` still counts holds that have lapsed.
    """

    __tablename__ = "pools"
    __table_args__ = (
        CheckConstraint("quantity BETWEEN 0 AND 2000000000", name="quantity"),
        CheckConstraint("sold >= 0 AND held >= 0 AND sold + held <= quantity", name="places"),
        NO_ID_REUSE,
    )
    serialize_only = ("id", "event_id", "name", "quantity", "sold", "held", "available", "ticket_types")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    sold: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    counted: Mapped[int] = mapped_column("held", Integer, default=0, server_default="0")

    members: Mapped[list["TicketType"]] = relationship(order_by="TicketType.id", back_populates="pool")

    @property
    def ticket_types(self) -> list[int]:
        """Their ids."""
        return [ticket_type.id for ticket_type in self.members]

    @property
    def held(self) -> int:
        return self.counted - (self.lapsed or 0)

    @property
    def available(self) -> int:
        return self.quantity - self.sold - self.held


class Appointment(Model, Serializable):
    """What somebody may do for one event: work at its `door`, or as its `manager` all that is about it.

    It is looked up at each request, so it ends at once.
    """

    __tablename__ = "event_staff"
    __table_args__ = (one_of("role", APPOINTMENTS),)
    serialize_only = ("user.id", "user.name", "role")

    event_id: Mapped[int] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(Text)

    user: Mapped[User] = relationship()


TICKET_TYPE_STATES = ("canceled", "over", "not_yet", "sold_out", "on_sale")


class TicketType(Model, Versioned, Serializable):
    """A kind of ticket on sale. Of its `quantity` places some are `sold`, some `held` by orders not paid yet.

    `held` still counts holds that have lapsed, until somebody needs their places: `available` adds those back.
    `closed` is the state that keeps it from being sold now, whatever is left of it, or None.
    `rules_version` counts the changes that may end or narrow the sale, the event's too: who takes places compares it.
    A `hidden` one is there only for who has a promo code that unlocks it. `waited` is how many places people wait for
    on its waiting list, and `waited_least` how many the smallest group of them, or 0.
    """

    __tablename__ = "ticket_types"
    __table_args__ = (
        CheckConstraint("price BETWEEN 0 AND 1000000000", name="price"),
        CheckConstraint("quantity BETWEEN 0 AND 2000000000", name="quantity"),
        CheckConstraint("max_per_order BETWEEN 1 AND 1000", name="max_per_order"),
        CheckConstraint("min_per_order BETWEEN 1 AND max_per_order", name="min_per_order"),
        CheckConstraint("max_per_buyer BETWEEN 1 AND 2000000000", name="max_per_buyer"),
        CheckConstraint("sold >= 0 AND held >= 0 AND sold + held <= quantity", name="places"),
        NO_ID_REUSE,
    )
    serialize_only = (
        "id",
        "event_id",
        "name",
        "price",
        "currency",
        "quantity",
        "available",
        "state",
        "sales_start",
        "sales_end",
        "min_per_order",
        "max_per_order",
        "max_per_buyer",
        "hidden",
        "pool_id",
    )
    CHOICES = {"state": TICKET_TYPE_STATES}

    RULES = frozenset(serialize_only) - {"id", "event_id", "name", "currency", "available"}

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    price: Mapped[int] = mapped_column(Integer)
    quantity: Mapped[int] = mapped_column(Integer)
    sold: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    held: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    min_per_order: Mapped[int] = mapped_column(Integer, server_default="1")
    max_per_order: Mapped[int] = mapped_column(Integer, server_default="10")
    max_per_buyer: Mapped[int | None] = mapped_column(Integer)
    rules_version: Mapped[int] = mapped_column(Integer, server_default="1")
    sales_start: Mapped[datetime | None] = mapped_column(UTCDateTime)
    sales_end: Mapped[datetime | None] = mapped_column(UTCDateTime)
    hidden: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    pool_id: Mapped[int | None] = mapped_column(ForeignKey("pools.id"), index=True)
    waited: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    waited_least: Mapped[int] = mapped_column(Integer, default=0, server_default="0")

    event: Mapped[Event] = relationship(back_populates="ticket_types")
    pool: Mapped[Pool | None] = relationship(back_populates="members")

    @property
    def currency(self) -> str:
        return self.event.currency

    @property
    def free(self) -> int:
        """How many places are free for who does not wait for them."""
        own = self.quantity - self.sold - self.held + (self.lapsed or 0)
        return self.beyond_waiting(self.least(own, self.pool_free), self.waited or 0, self.waited_least or 0)

    @property
    def available(self) -> int:
        return self.on_offer(self.free, self.closed)

    @property
    def state(self) -> str:
        return self.state_of(self.free, self.closed)

    @staticmethod
    def least(own: int, pool_free: int | None) -> int:
        """How many places are free, of its own and of its pool's, if it has one."""
        return own if pool_free is None else min(own, pool_free)

    @staticmethod
    def beyond_waiting(free: int, waited: int, waited_least: int) -> int:
        """How many free places are for who does not wait: what is left beyond all that is waited for, or what is too
        few for each who does."""
        return free if not waited or free < waited_least else max(free - waited, 0)

    @staticmethod
    def on_offer(free: int, closed: str | None) -> int:
        return 0 if closed in ("canceled", "over") else free

    @staticmethod
    def state_of(free: int, closed: str | None) -> str:
        return closed or ("on_sale" if free > 0 else "sold_out")

    def set(self, fields: Mapping[str, Any]) -> None:
        """Change what is given, and judge the whole. What costs nothing from now on has `max_per_buyer` unless said."""
        was_free = self.price == 0
        super().set(fields)
        self.min_per_order, self.max_per_order = self.min_per_order or 1, self.max_per_order or 10
        if self.price == 0 and not was_free and "max_per_buyer" not in fields:
            self.max_per_buyer = self.max_per_buyer or self.max_per_order
        if self.sales_start and self.sales_end and self.sales_end <= self.sales_start:
            raise Invalid(sales_end="Must be after sales_start")
        if self.min_per_order > self.max_per_order:
            raise Invalid(min_per_order="Must not be over max_per_order")
        if fields.keys() & self.RULES:
            self.rules_version = (self.rules_version or 0) + 1


class PromoCode(Model, Versioned, Serializable):
    """A code that makes ticket types of its event cheaper, or lets hidden ones be bought (`unlocks`).

    Without `applies_to` it is for all of them. A use is a ticket: of `max_uses` some are `used`, some held by orders
    not paid yet; `counted` still counts holds that have lapsed. `folded` is what it is compared by.
    """

    __tablename__ = "promo_codes"
    __table_args__ = (
        UniqueConstraint("event_id", "folded"),
        CheckConstraint("percent BETWEEN 1 AND 100", name="percent"),
        CheckConstraint("amount BETWEEN 1 AND 1000000000", name="amount"),
        CheckConstraint("percent IS NULL OR amount IS NULL", name="discount"),
        CheckConstraint("unlocks OR percent IS NOT NULL OR amount IS NOT NULL", name="unlocks"),
        CheckConstraint("max_uses BETWEEN 0 AND 2000000000", name="max_uses"),
        CheckConstraint("max_per_buyer BETWEEN 1 AND 2000000000", name="max_per_buyer"),
        CheckConstraint("used >= 0 AND held >= 0 AND (max_uses IS NULL OR used + held <= max_uses)", name="uses"),
        NO_ID_REUSE,
    )
    serialize_only = (
        "id",
        "event_id",
        "code",
        "percent",
        "amount",
        "ticket_types",
        "max_uses",
        "max_per_buyer",
        "starts_at",
        "ends_at",
        "unlocks",
        "used",
        "held",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    code: Mapped[str] = mapped_column(Text)
    folded: Mapped[str] = mapped_column(Text)
    percent: Mapped[int | None] = mapped_column(Integer)
    amount: Mapped[int | None] = mapped_column(Integer)
    max_uses: Mapped[int | None] = mapped_column(Integer)
    max_per_buyer: Mapped[int | None] = mapped_column(Integer)
    starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    ends_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    unlocks: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    used: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    counted: Mapped[int] = mapped_column("held", Integer, default=0, server_default="0")
    rules_version: Mapped[int] = mapped_column(Integer, default=1, server_default="1")

    applies_to: Mapped[list[TicketType]] = relationship(secondary="promo_code_types", order_by=TicketType.id)

    @validates("code")
    def fold(self, key: str, code: str) -> str:
        self.folded = caseless(code)
        return code

    @property
    def ticket_types(self) -> list[int]:
        """The ids of those that it is for; none: for all of the event."""
        return [ticket_type.id for ticket_type in self.applies_to]

    @property
    def held(self) -> int:
        return self.counted - (self.lapsed or 0)

    @property
    def left(self) -> int | None:
        """How many more tickets may use it; None: any."""
        return None if self.max_uses is None else max(self.max_uses - self.used - self.held, 0)

    def covers(self, ticket_type_id: int) -> bool:
        return not self.applies_to or ticket_type_id in self.ticket_types

    def price_of(self, price: int) -> int:
        """What a ticket of this price costs with the code; half a cent is in the buyer's favour."""
        if self.percent:
            return price - (price * self.percent + 50) // 100
        return max(0, price - (self.amount or 0))

    def set(self, fields: Mapping[str, Any]) -> None:
        """Change what is given, and judge the whole."""
        super().set(fields)
        wrong: dict[str, str] = {}
        if self.percent and self.amount:
            wrong["amount"] = "Must not come with percent"
        if not (self.percent or self.amount or self.unlocks):
            wrong["percent"] = "A percent, an amount or unlocks is required"
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            wrong["ends_at"] = "Must be after starts_at"
        if wrong:
            raise Invalid(**wrong)
        self.rules_version = (self.rules_version or 0) + 1


class PromoCodeType(Model):
    """A ticket type that a promo code is for."""

    __tablename__ = "promo_code_types"

    promo_code_id: Mapped[int] = mapped_column(ForeignKey("promo_codes.id"), primary_key=True)
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"), primary_key=True, index=True)


def new_code() -> str:
    """128 random bits in letters and digits: what an order or a ticket is known by outside.

    One that a spreadsheet takes for a number, such as 78E123..., it would not give back: another is drawn.
    """
    code = secrets.token_hex(16).upper()
    return new_code() if re.fullmatch("[0-9]+(E[0-9]+)?", code) else code


ORDER_STATUSES = ("pending", "paid", "expired", "canceled", "refunded")


ATTENTION = ("refund_failed", "refunded_outside", "disputed")


class Order(Model, Timestamps, Serializable):
    """A purchase, all or nothing. While it is pending it holds its places, until `expires_at`.

    `state` is what is stored; `status` is what is true: a pending order whose hold has lapsed is expired, whether or
    not anybody has written that down yet. `number` counts its buyer's orders: of two placed at once one must wait. One
    that was `offered` was made for who waited.
    """

    __tablename__ = "orders"
    __table_args__ = (
        one_of("status", ORDER_STATUSES),
        CheckConstraint("total >= 0", name="total"),
        UniqueConstraint("user_id", "number"),
        # PostgreSQL may plan a statement while the table is empty and all indexes cost the same, and stay with that
        # plan. So the first three have a condition, true of all rows, that only their statements name.
        Index("ix_orders_of_event", "event_id", "id", **only_where("id > 0")),
        Index("ix_orders_in_state", "status", "id", **only_where("id > 0")),
        Index("ix_orders_user_holds", "user_id", "status", "expires_at", **only_where("user_id > 0")),
        Index("ix_orders_event_holds", "event_id", "status", "expires_at"),
        Index("ix_orders_with_promo_code", "promo_code_id", "user_id", **only_where("promo_code_id IS NOT NULL")),
    )
    serialize_only = (
        "code",
        "status",
        "event.id",
        "event.name",
        "event.venue",
        "event.starts_at",
        "event.ends_at",
        "event.time_zone",
        "event.status",
        "buyer.id",
        "buyer.name",
        "buyer.email",
        "items",
        "promo_code",
        "total",
        "currency",
        "created_at",
        "expires_at",
        "tickets",
        "payments",
        "attention",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    number: Mapped[int] = mapped_column(Integer)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    state: Mapped[str] = mapped_column("status", Text)
    total: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    promo_code_id: Mapped[int | None] = mapped_column(ForeignKey("promo_codes.id"))
    attendee_name: Mapped[str | None] = mapped_column(Text)
    offered: Mapped[bool] = mapped_column(Boolean, server_default=false())

    buyer: Mapped[User] = relationship()
    event: Mapped[Event] = relationship()
    promo: Mapped[PromoCode | None] = relationship()
    items: Mapped[list["OrderLine"]] = relationship(order_by="OrderLine.id")
    tickets: Mapped[list["Ticket"]] = relationship(order_by="Ticket.id", back_populates="purchase")
    payments: Mapped[list["Payment"]] = relationship(order_by="Payment.id", back_populates="order")

    @property
    def promo_code(self) -> str | None:
        return self.promo.code if self.promo else None

    @property
    def attention(self) -> list[str]:
        """What somebody must look at. Nothing goes wrong with payments by hand."""
        found = {reason for payment in self.payments for reason in payment.attention}
        return [reason for reason in ATTENTION if reason in found]

    @property
    def status(self) -> str:
        return "expired" if self.state == "pending" and self.lapsed else self.state

    @classmethod
    def has_status(cls, status: str) -> ColumnElement[bool]:
        """The condition for a status as it is true now."""
        if status == "pending":
            return and_(cls.state == "pending", cls.expires_at > now())
        if status == "expired":
            return or_(cls.state == "expired", cls.has_lapsed())
        return cls.state == status

    @classmethod
    def true_status(cls) -> ColumnElement[str]:
        """What `status` says, for a query."""
        return case((cls.has_lapsed(), "expired"), else_=cls.state)

    @classmethod
    def has_lapsed(cls) -> ColumnElement[bool]:
        return and_(cls.state == "pending", cls.expires_at <= now())

    def visible_to(self, user: Any) -> bool:
        """To its buyer, and to those who work here."""
        return self.user_id == user.id or user.role != "user"

    @property
    def quantities(self) -> dict[int, int]:
        return {item.ticket_type_id: item.quantity for item in self.items}

    @property
    def promo_uses(self) -> int:
        """How many tickets are bought with a promo code, which may have been deleted since."""
        return sum(item.quantity for item in self.items if item.uses_promo)


ORDER_IN_A_LIST, ORDER_OF_A_BUYER = Order.id > literal_column("0"), Order.user_id > literal_column("0")


def line_amount(quantity: Any, unit_price: Any) -> Any:
    """What a line of an order costs: of numbers a number, of columns (wide ones: `BigInteger`) an expression."""
    return quantity * unit_price


class OrderLine(Model, Serializable):
    """A line of an order, with name and price as they were when it was placed.

    `unit_price` is what a ticket costs, after the `discount`. Each of its tickets is a use of the order's promo code if
    it `uses_promo`.
    """

    __tablename__ = "order_items"
    __table_args__ = (
        UniqueConstraint("order_id", "ticket_type_id"),
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("unit_price >= 0", name="unit_price"),
        CheckConstraint("discount >= 0 AND (uses_promo OR discount = 0)", name="discount"),
    )
    serialize_only = ("ticket_type_id", "name", "quantity", "unit_price", "full_price")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price: Mapped[int] = mapped_column(Integer)
    uses_promo: Mapped[bool] = mapped_column(Boolean, server_default=false())
    discount: Mapped[int] = mapped_column(Integer, server_default="0")

    @property
    def full_price(self) -> int:
        return self.unit_price + (self.discount or 0)

    @classmethod
    def total(cls) -> ColumnElement[int]:
        """What the lines come to, as an aggregate; 0 for none."""
        return func.coalesce(func.sum(line_amount(cls.quantity.cast(BigInteger), cls.unit_price)), 0).cast(BigInteger)


PAYMENT_METHODS = ("cash", "bank_transfer", "mobile_money", "card")
PAYMENT_STATUSES = ("confirmed", "refund_due", "refunded")


BY_HAND_KEPT = only_where("status <> 'refunded' AND provider IS NULL")


def comparable(reference: str) -> str:
    """What a payment's reference is compared by: case and spelling of its letters apart, and the width of blanks."""
    return " ".join(caseless(reference).split())


class Payment(Model, Serializable):
    """Money taken for an order; `refund_due` where it bought nothing. Outside of an order, `of_order` is shown with it.

    Two by hand that were not given back have no method and reference in common, whatever the case of its letters: that
    is what `reference_key` is for, `comparable` from the reference. Cash may come without any. One by a `provider` has
    the provider's own reference. `refunded` is what its refunds come to that have not failed. `currency` is there where
    it came in another one than the order's.
    """

    __tablename__ = "payments"
    __table_args__ = (
        one_of("method", PAYMENT_METHODS),
        one_of("status", PAYMENT_STATUSES),
        CheckConstraint("amount >= 0", name="amount"),
        CheckConstraint("method = 'cash' OR reference IS NOT NULL", name="reference"),
        CheckConstraint("refunded BETWEEN 0 AND amount", name="refunded"),
        CheckConstraint("provider IS NULL OR reference IS NOT NULL AND reference_key IS NULL", name="provider"),
        Index("uq_payments_method", "method", "reference_key", unique=True, **BY_HAND_KEPT),
        Index("uq_payments_provider", "provider", "reference", unique=True),
        Index("ix_payments_disputed", "order_id", **only_where("disputed_at IS NOT NULL")),
        # An order is paid once, whatever happens.
        Index("uq_payments_confirmed", "order_id", unique=True, **only_where("status = 'confirmed'")),
        Index("ix_payments_listed", "created_at", "id"),
        Index("ix_payments_with_method", "method", "created_at", "id"),
        Index("ix_payments_in_status", "status", "created_at", "id"),
        Index("ix_payments_taken_by", "taken_by", "created_at", "id"),
    )
    serialize_only = (
        "id",
        "method",
        "provider",
        "reference",
        "amount",
        "status",
        "created_at",
        "refunded",
        "refunds",
        "disputed",
        "by.id",
        "by.name",
    )
    of_order = ("order.code", "order.status", "order.currency", "order.event.id", "order.event.name")
    __mapper_args__ = {"eager_defaults": True}

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    method: Mapped[str] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    reference_key: Mapped[str | None] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    taken_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    # Not SQLite's own default, which has no fraction: as text it would come before the same time that has one.
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())

    provider: Mapped[str | None] = mapped_column(Text)
    currency: Mapped[str | None] = mapped_column(Text)
    refunded: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    disputed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    order: Mapped[Order] = relationship(back_populates="payments")
    by: Mapped[User | None] = relationship()
    refunds: Mapped[list["Refund"]] = relationship(order_by="Refund.id", back_populates="payment")

    @validates("reference", "provider")
    def make_key(self, key: str, value: str | None) -> str | None:
        reference, provider = (value, self.provider) if key == "reference" else (self.reference, value)
        self.reference_key = None if reference is None or provider else comparable(reference)
        return value

    @property
    def left(self) -> int:
        """What is left of it to give back."""
        return self.amount - self.refunded

    @property
    def disputed(self) -> bool:
        return self.disputed_at is not None

    @property
    def attention(self) -> list[str]:
        found = []
        if self.left and any(refund.status == "failed" for refund in self.refunds):
            found.append("refund_failed")
        if any(refund.origin == "outside" and refund.status != "failed" for refund in self.refunds):
            found.append("refunded_outside")
        return found + ["disputed"] * self.disputed

    @staticmethod
    def needs_reference(method: Any) -> bool:
        return method in PAYMENT_METHODS and method != "cash"


REFUND_STATUSES = ("requested", "pending", "succeeded", "failed")
REFUND_ORIGINS = ("here", "outside")


class Refund(Model, Serializable):
    """Money of a payment given back. By hand it has succeeded at once; a provider is asked from `due_at` on.

    `key` is the key of the call to the provider, a new one where a refund that had failed is tried again. One from
    `outside` somebody made at the provider. While it is being asked for, `due_at` is when its lease ends.
    """

    __tablename__ = "refunds"
    __table_args__ = (
        one_of("status", REFUND_STATUSES),
        one_of("origin", REFUND_ORIGINS),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("(status IN ('succeeded', 'failed')) = (settled_at IS NOT NULL)", name="settled_at"),
        UniqueConstraint("payment_id", "reference"),
        Index("ix_refunds_due", "due_at", "id", **only_where("status IN ('requested', 'pending')")),
        Index("ix_refunds_attention", "payment_id", **only_where("status = 'failed' OR origin = 'outside'")),
    )
    serialize_only = ("code", "amount", "status", "reason", "created_at")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    key: Mapped[str] = mapped_column(Text, unique=True)
    payment_id: Mapped[int] = mapped_column(ForeignKey("payments.id"), index=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(Text, default="here", server_default="here")
    reference: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[str | None] = mapped_column(Text)
    requested_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    asked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    settled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    __mapper_args__ = {"eager_defaults": True}

    payment: Mapped[Payment] = relationship(back_populates="refunds")


CHECKOUT_STATUSES = ("starting", "open", "paid", "expired", "abandoned")
PAYABLE = ("starting", "open")
UNSETTLED = ("starting", "open", "abandoned")


class Checkout(Model, Serializable):
    """A provider's page on which an order is paid; `code` is the key of the call that makes it.

    `starting`: there may be a page, whose address nobody has. `abandoned`: nobody shall pay there, but somebody may
    have. `expired`: nobody has and nobody can. `ends_at` is the provider's own end of it.
    """

    __tablename__ = "checkouts"
    __table_args__ = (
        one_of("status", CHECKOUT_STATUSES),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("status <> 'open' OR reference IS NOT NULL", name="reference"),
        CheckConstraint("status <> 'paid' OR payment_id IS NOT NULL", name="payment_id"),
        UniqueConstraint("provider", "reference"),
        # An order has one page to be paid on at a time.
        Index("uq_checkouts_payable", "order_id", unique=True, **only_where("status IN ('starting', 'open')")),
        Index("ix_checkouts_due", "due_at", "id", **only_where("status IN ('starting', 'open', 'abandoned')")),
    )
    serialize_only = ("status", "provider", "url", "expires_at")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True, default=new_code)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    provider: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    return_url: Mapped[str] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    url: Mapped[str | None] = mapped_column(Text)
    payment_id: Mapped[int | None] = mapped_column(ForeignKey("payments.id"))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    ends_at: Mapped[datetime] = mapped_column(UTCDateTime)
    due_at: Mapped[datetime] = mapped_column(UTCDateTime)
    asked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    __mapper_args__ = {"eager_defaults": True}

    order: Mapped[Order] = relationship()

    @property
    def expires_at(self) -> datetime:
        """Its order's: until then the places are held."""
        return self.order.expires_at


class IdempotencyKey(Model):
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
    def claim(cls, user_id: int, key: str, *, path: str, fingerprint: str) -> "IdempotencyKey":
        """The key's row. It has no `status` yet for the one that is to do the work; a twin waits here until it has.

        Old keys are not looked for here: `flask expire-orders` forgets them.
        """
        row = {"user_id": user_id, "key": key, "path": path, "fingerprint": fingerprint}
        db.session.execute(insert_or_ignore(cls).values(row))
        claimed = db.session.get(cls, (user_id, key), populate_existing=True)
        if claimed is None:  # it was an old one, and forgotten in between
            return cls.claim(user_id, key, path=path, fingerprint=fingerprint)
        if (claimed.path, claimed.fingerprint) != (path, fingerprint):
            raise IdempotencyKeyReused
        return claimed

    @classmethod
    def forget_old(cls) -> int:
        old = cls.created_at < now(-cls.KEPT.total_seconds())
        return changed_rows(delete(cls).where(old))


TICKET_STATUSES = ("valid", "used", "void")


class Ticket(Model, Serializable):
    """One place for one person, issued when its order is paid.

    Its owner is at first the buyer. `attendee_name` is who comes with it, where that is not he; `attendee_folded` is
    that name as it is searched for.
    """

    __tablename__ = "tickets"
    __table_args__ = (
        one_of("status", TICKET_STATUSES),
        CheckConstraint("(status = 'used') = (checked_in_at IS NOT NULL)", name="checked_in_at"),
        Index("ix_tickets_of_event", "event_id", "id"),
        Index("ix_tickets_of_user", "user_id", "id"),
    )
    serialize_only = (
        "code",
        "status",
        "event.id",
        "event.name",
        "event.venue",
        "event.starts_at",
        "event.ends_at",
        "event.time_zone",
        "event.status",
        "ticket_type.id",
        "ticket_type.name",
        "holder",
        "checked_in_at",
        "order",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"))
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    status: Mapped[str] = mapped_column(Text)
    checked_in_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    attendee_name: Mapped[str | None] = mapped_column(Text)
    attendee_folded: Mapped[str | None] = mapped_column(Text)
    changed: Mapped[int] = mapped_column(
        BigInteger, default=change_number(), onupdate=change_number(), server_default="0", index=True
    )

    purchase: Mapped[Order] = relationship(back_populates="tickets")
    owner: Mapped[User] = relationship()
    event: Mapped[Event] = relationship()
    ticket_type: Mapped[TicketType] = relationship()

    @validates("attendee_name")
    def fold(self, key: str, name: str | None) -> str | None:
        self.attendee_folded = None if name is None else caseless(name)
        return name

    @property
    def holder(self) -> str:
        return self.attendee_name or self.owner.name

    def visible_to(self, user: Any) -> bool:
        """To its owner, and to those who work here."""
        return self.user_id == user.id or user.role != "user"

    @property
    def order(self) -> str:
        """The code of its order."""
        return self.purchase.code

    @property
    def starts_at(self) -> datetime:
        """When its event starts, which lists are sorted by."""
        return self.event.starts_at


class TicketCode(Model):
    """A code that a ticket had before it was passed on. It is void for ever; `user_id` is whose ticket it was."""

    __tablename__ = "ticket_codes"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    ticket_id: Mapped[int] = mapped_column(ForeignKey("tickets.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    void_since: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())
    changed: Mapped[int] = mapped_column(BigInteger, default=change_number(), server_default="0", index=True)


def code_hash(code: str) -> str:
    """What says which code it is, and lets nobody in."""
    return b64encode(sha256(code.encode()).digest()[:12]).decode()


SCAN_OUTCOMES = ("accepted", "already_checked_in", "void", "wrong_event", "unknown")


class Scan(Model, Serializable):
    """A code that was shown at a door, and what came of it. One that was let in without a network has a `nonce` of its
    `device`, and the time by that device's clock, `at`.

    `conflict` says that somebody was let in who should not have been; `first` is the scan by which the ticket was used
    before. The code itself is not kept.
    """

    __tablename__ = "scans"
    __table_args__ = (
        one_of("outcome", SCAN_OUTCOMES),
        CheckConstraint("(device IS NULL) = (nonce IS NULL)", name="nonce"),
        UniqueConstraint("event_id", "device", "nonce"),
        Index("ix_scans_in_conflict", "event_id", "id", **only_where("conflict")),
        Index("ix_scans_of_event", "event_id", "id"),
        NO_ID_REUSE,
    )
    serialize_only = (
        "id",
        "outcome",
        "conflict",
        "accepted",
        "device",
        "at",
        "received_at",
        "by.id",
        "by.name",
        "ticket_code",
        "ticket_holder",
        "ticket_type_name",
        "first_device",
        "first_received_at",
    )
    CHOICES = {"outcome": SCAN_OUTCOMES}

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"))
    ticket_id: Mapped[int | None] = mapped_column(ForeignKey("tickets.id", ondelete="CASCADE"), index=True)
    code_hash: Mapped[str] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(Text)
    nonce: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    received_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())
    accepted: Mapped[bool] = mapped_column(Boolean)
    outcome: Mapped[str] = mapped_column(Text)
    conflict: Mapped[bool] = mapped_column(Boolean)
    first_id: Mapped[int | None] = mapped_column(ForeignKey("scans.id", ondelete="SET NULL"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)

    by: Mapped[User | None] = relationship()
    shown: Mapped[Ticket | None] = relationship()
    before: Mapped["Scan | None"] = relationship(remote_side="Scan.id")

    @property
    def own_ticket(self) -> Ticket | None:
        """The ticket that was shown, if it is one of this event."""
        return self.shown if self.shown and self.shown.event_id == self.event_id else None

    @property
    def ticket_code(self) -> str | None:
        return self.own_ticket and self.own_ticket.code

    @property
    def ticket_holder(self) -> str | None:
        return self.own_ticket and self.own_ticket.holder

    @property
    def ticket_type_name(self) -> str | None:
        return self.own_ticket and self.own_ticket.ticket_type.name

    @property
    def first_device(self) -> str | None:
        return self.before and self.before.device

    @property
    def first_received_at(self) -> datetime | None:
        return self.before and self.before.received_at


TRANSFER_STATUSES = ("pending", "accepted", "withdrawn", "lapsed")


class Transfer(Model, Serializable):
    """A ticket that its owner, `user_id`, passes on to who has the link that is mailed `to` an address.

    One that nobody accepted until `expires_at` has lapsed, whether or not anybody has written that down.
    """

    __tablename__ = "transfers"
    __table_args__ = (
        one_of("status", TRANSFER_STATUSES),
        Index("uq_transfers_pending", "ticket_id", unique=True, **only_where("status = 'pending'")),
        Index("ix_transfers_of_user", "user_id", "created_at"),
        NO_ID_REUSE,
    )
    serialize_only = ("status", "to", "expires_at")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    ticket_id: Mapped[int] = mapped_column(ForeignKey("tickets.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    to: Mapped[str] = mapped_column("to_email", Text, index=True)
    status: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)

    ticket: Mapped[Ticket] = relationship()
    giver: Mapped[User] = relationship()


class TransferToken(Model):
    """The secret in the mail about a transfer, stored as its hash. A mail that is sent twice has two, both good."""

    __tablename__ = "transfer_tokens"

    hash: Mapped[str] = mapped_column(Text, primary_key=True)
    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"), index=True)


WAITING_STATUSES = ("waiting", "offered", "bought", "lapsed", "left", "closed")


class WaitingEntry(Model, Serializable):
    """Somebody who waits for places of a ticket type. An offer is an order that holds them.

    `state` is what is stored; `status` is what is true: what became of an offer is what became of its order.
    """

    __tablename__ = "waiting_entries"
    __table_args__ = (
        one_of("status", WAITING_STATUSES),
        CheckConstraint("quantity > 0", name="quantity"),
        Index(
            "uq_waiting_entries_active",
            "user_id",
            "ticket_type_id",
            unique=True,
            **only_where("status IN ('waiting', 'offered')"),
        ),
        Index("ix_waiting_entries_in_line", "ticket_type_id", "id", **only_where("status = 'waiting'")),
        Index("ix_waiting_entries_of_event", "event_id", "id"),
        Index("ix_waiting_entries_of_user", "user_id", "id"),
        NO_ID_REUSE,
    )
    serialize_only = (
        "id",
        "event.id",
        "event.name",
        "ticket_type.id",
        "ticket_type.name",
        "quantity",
        "status",
        "position",
        "offer",
        "created_at",
    )
    of_user = ("user.id", "user.name")
    CHOICES = {"status": WAITING_STATUSES}

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"))
    ticket_type_id: Mapped[int] = mapped_column(ForeignKey("ticket_types.id", ondelete="CASCADE"), index=True)
    quantity: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column("status", Text)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())

    user: Mapped[User] = relationship()
    event: Mapped[Event] = relationship()
    ticket_type: Mapped[TicketType] = relationship()
    purchase: Mapped[Order | None] = relationship()

    @property
    def offer(self) -> str | None:
        """The code of the order that was offered."""
        return self.purchase.code if self.purchase else None

    @property
    def status(self) -> str:
        if self.state == "waiting" and self.ticket_type.closed in ("canceled", "over"):
            return "closed"
        if self.state != "offered":
            return self.state
        return OUTCOMES[self.purchase.status] if self.purchase else "left"


# What became of an offer, by the status of its order.
OUTCOMES = {"pending": "offered", "paid": "bought", "refunded": "bought", "expired": "lapsed", "canceled": "left"}


MAIL_KINDS = (
    "order_paid",
    "order_refunded",
    "payment_returned",
    "event_changed",
    "event_canceled",
    "verify_address",
    "address_changed",
    "password_reset",
    "password_changed",
    "ticket_transferred",
    "waiting_offer",
    "attention",
)
MAIL_STATUSES = ("waiting", "sent", "failed")
WAITING_MAIL = "sent_at IS NULL AND failed_at IS NULL"
FAILED_MAIL = "failed_at IS NOT NULL"


class Mail(Model, Serializable):
    """A mail to one user, written in the transaction of what it tells; what it says is read when it is sent.

    `kind` and `key` name what is told, so that a thing is told once. `message_key` is what its Message-ID is made of.
    `facts` are what no row will say later. `token_version` is the user's, for a mail with a token that ends with it.
    `bulk` mails go to all buyers of an event, after the others. While one is sent, `due_at` is when its lease ends.
    """

    __tablename__ = "mails"
    __table_args__ = (
        UniqueConstraint("kind", "key"),
        one_of("kind", MAIL_KINDS),
        CheckConstraint("sent_at IS NULL OR failed_at IS NULL", name="outcome"),
        Index("ix_mails_waiting", "bulk", "due_at", "id", **only_where(WAITING_MAIL)),
        Index("ix_mails_failed", "id", **only_where(FAILED_MAIL)),
        Index("ix_mails_of_user", "user_id", "id"),
    )
    serialize_only = (
        "id",
        "kind",
        "status",
        "user_id",
        "to",
        "created_at",
        "due_at",
        "sent_at",
        "failed_at",
        "attempts",
        "error",
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    to: Mapped[str] = mapped_column("to_email", Text)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id", ondelete="SET NULL"), index=True)
    ticket_id: Mapped[int | None] = mapped_column(ForeignKey("tickets.id", ondelete="SET NULL"), index=True)
    event_id: Mapped[int | None] = mapped_column(ForeignKey("events.id", ondelete="SET NULL"), index=True)
    facts: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    token_version: Mapped[str | None] = mapped_column("stamp", Text)
    bulk: Mapped[bool] = mapped_column(Boolean, server_default=false())
    message_key: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    failed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str | None] = mapped_column(Text)

    @property
    def status(self) -> str:
        return "sent" if self.sent_at else "failed" if self.failed_at else "waiting"

    @classmethod
    def has_status(cls, status: str) -> ColumnElement[bool]:
        if status == "waiting":
            return and_(cls.sent_at.is_(None), cls.failed_at.is_(None))
        return {"sent": cls.sent_at, "failed": cls.failed_at}[status].is_not(None)


class Audit(Model, Serializable):
    """What somebody who works here has changed, written in the transaction of that. No entry is changed or deleted.

    Nothing refers to other tables, as they may forget what is told here. Without an actor it was the command line or a
    provider. `changes` has the old and the new value of each field.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_listed", "at", "id"),
        Index("ix_audit_of_event", "event_id", "at", "id"),
        Index("ix_audit_by_actor", "actor_id", "at", "id"),
        Index("ix_audit_of_action", "action", "at", "id"),
        Index("ix_audit_about", "subject", "at", "id"),
        NO_ID_REUSE,
    )
    serialize_only = ("id", "at", "actor.id", "actor.name", "action", "subject", "event_id", "request_id", "changes")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime, default=now(), server_default=func.now())
    actor_id: Mapped[int | None] = mapped_column(Integer)
    request_id: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    event_id: Mapped[int | None] = mapped_column(Integer)
    changes: Mapped[dict[str, Any]] = mapped_column(JsonText)

    actor: Mapped[User | None] = relationship(
        primaryjoin=lambda: foreign(Audit.actor_id) == remote(User.id), viewonly=True
    )


def in_lapsed_orders(event_id: Any, places: Select[int], *orders: ColumnElement[bool]) -> ColumnElement[int]:
    """The sum of the `places` that each lapsed order of an event holds until somebody needs them.

    It is asked order by order, so that a plan made on empty tables can't read all lines first.
    """
    one = places.where(OrderLine.order_id == Order.id).correlate(Order, *TABLES_WITH_PLACES).scalar_subquery()
    total = select(func.coalesce(func.sum(one), 0).cast(Integer))
    return (
        total.where(Order.event_id == event_id, Order.has_lapsed(), *orders).correlate_except(Order).scalar_subquery()
    )


TABLES_WITH_PLACES = TicketType, Pool, PromoCode
LINES_OF_TYPE = select(func.sum(OrderLine.quantity).filter(OrderLine.ticket_type_id == TicketType.id))
LINES_WITH_PROMO = select(func.sum(OrderLine.quantity).filter(OrderLine.uses_promo))
MEMBER = TicketType.__table__.alias("member")
LINES_IN_POOL = select(func.sum(OrderLine.quantity)).join(MEMBER, MEMBER.c.id == OrderLine.ticket_type_id)

TicketType.lapsed = column_property(in_lapsed_orders(TicketType.event_id, LINES_OF_TYPE), deferred=True)
Pool.lapsed = column_property(
    in_lapsed_orders(Pool.event_id, LINES_IN_POOL.where(MEMBER.c.pool_id == Pool.id)), deferred=True
)
PromoCode.lapsed = column_property(
    in_lapsed_orders(PromoCode.event_id, LINES_WITH_PROMO, Order.promo_code_id == PromoCode.id), deferred=True
)
# Null where it is in no pool: then nothing is added up for it.
TicketType.pool_free = column_property(
    case(
        (
            TicketType.pool_id.is_not(None),
            select(Pool.quantity - Pool.sold - Pool.counted + Pool.lapsed.expression)
            .where(Pool.id == TicketType.pool_id)
            .correlate(TicketType)
            .scalar_subquery(),
        )
    ),
    deferred=True,
)
TicketType.closed = column_property(
    select(
        case(
            (Event.status == "canceled", "canceled"),
            (or_(TicketType.sales_end <= now(), Event.ends_at <= now()), "over"),
            (TicketType.sales_start > now(), "not_yet"),
        )
    )
    .where(Event.id == TicketType.event_id)
    .correlate(TicketType)
    .scalar_subquery(),
    deferred=True,
)
Order.lapsed = column_property(Order.expires_at <= now())
IN_LINE = WaitingEntry.__table__.alias("in_line")
# Null where it does not wait any more.
WaitingEntry.position = column_property(
    case(
        (
            WaitingEntry.state == "waiting",
            select(func.count())
            .where(
                IN_LINE.c.ticket_type_id == WaitingEntry.ticket_type_id,
                IN_LINE.c.status == "waiting",
                IN_LINE.c.id <= WaitingEntry.id,
            )
            .correlate(WaitingEntry)
            .scalar_subquery(),
        )
    )
)
