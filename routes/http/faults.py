"""What can be wrong with the database under a running server: each is a 503 that says so, and none is a bug of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from urllib.parse import quote, quote_plus

import psycopg2
from sqlalchemy.exc import DBAPIError, TimeoutError

from models import db


@dataclass(frozen=True)
class Fault:
    """`message` is for the log and, with `advice`, for the client, who may come again after so many seconds."""

    message: str
    retry_after: int = 1
    advice: str = "Please try again."


AWAY = Fault("The database does not answer")
BUSY = Fault("All database connections are in use")
READ_ONLY = Fault("The database takes no writes", 10)
CONFLICT = Fault("The same data was being changed at the same time")
LOCKED = Fault("The data was locked for too long")
TOO_LONG = Fault("The statement took too long", 5, "Please ask for less, such as fewer words.")
FULL = Fault("The database has no room left", 30)
BROKEN = Fault("The database can't read or write its files", 30)
CHANGED = Fault("The database has changed under the connection")
OUTDATED = Fault("The database lacks the tables of this version", 30)
CLOSED = Fault("The database does not let this server do that", 30)

# How PostgreSQL's SQLSTATE (its manual, appendix A) or SQLite's name for the error begins. The first match counts.
CODES = {
    "25006": READ_ONLY,
    "26000": CHANGED,  # a prepared statement that is not there: a pooler gave us somebody else's connection
    "40001": CONFLICT,
    "40P01": CONFLICT,
    "42501": CLOSED,
    "42P01": OUTDATED,
    "42703": OUTDATED,
    "53100": FULL,
    "53200": FULL,
    "53": BUSY,
    "55P03": LOCKED,
    "57014": TOO_LONG,
    "08": AWAY,
    "25P03": AWAY,
    "25P04": TOO_LONG,
    "57P": AWAY,
    "58": BROKEN,
    "SQLITE_BUSY_SNAPSHOT": CONFLICT,
    "SQLITE_BUSY": LOCKED,
    "SQLITE_LOCKED": LOCKED,
    "SQLITE_PROTOCOL": LOCKED,
    "SQLITE_READONLY": READ_ONLY,
    "SQLITE_FULL": FULL,
    "SQLITE_IOERR": BROKEN,
    "SQLITE_CORRUPT": BROKEN,
    "SQLITE_NOTADB": BROKEN,
    "SQLITE_CANTOPEN": AWAY,
    "SQLITE_PERM": CLOSED,
    "SQLITE_AUTH": CLOSED,
    "SQLITE_INTERRUPT": TOO_LONG,
    "SQLITE_SCHEMA": CHANGED,
}
# What PostgreSQL and SQLite say without a code of its own.
SENTENCES = {
    "cached plan must not change": CHANGED,
    "no such table": OUTDATED,
    "no such column": OUTDATED,
    "invalid dsn": AWAY,
}


def fault_of(error: BaseException | None) -> Fault | None:
    """The fault that SQLAlchemy's or the driver's `error` tells of, or None where it is something else."""
    if isinstance(error, TimeoutError):
        return BUSY
    driver = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(driver, psycopg2.Error | sqlite3.Error):
        return None
    code = getattr(driver, "pgcode", None) or getattr(driver, "sqlite_errorname", None)
    if code is None and (is_lost(error) or is_lost(driver)):
        return AWAY
    coded = (fault for start, fault in CODES.items() if (code or "").startswith(start))
    told = (fault for words, fault in SENTENCES.items() if words in str(driver))
    return next(chain(coded, told), None)


def is_lost(error: BaseException | None) -> bool:
    """Whether the connection went or never came. PostgreSQL's driver has no code for either."""
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return lost or getattr(error, "connection_invalidated", False)


REMEDIES = {
    AWAY: "Look at DATABASE_URL, and whether the database runs.",
    OUTDATED: "Bring it up to date with `pipenv run flask db upgrade`.",
}


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """On the command line a fault ends the program with a sentence; a traceback is for bugs."""
    try:
        yield
    except (DBAPIError, TimeoutError, psycopg2.Error, sqlite3.Error) as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise SystemExit(f"{fault.message}: {driver_line(error)}. {REMEDIES.get(fault, '')}".rstrip()) from error


def driver_line(error: Exception) -> str:
    """The first line of what the driver says, or of several hosts one for each; without the password."""
    lines = str(getattr(error, "orig", error)).strip().splitlines() or ["no reason given"]
    line = "; ".join([line for line in lines if line.startswith("connection to server")] or lines[:1])
    password = db.engine.url.password
    for secret in filter(None, (password, quote(password or "", safe=""), quote_plus(password or ""))):
        line = line.replace(secret, "***")
    return line.rstrip(".")
