"""`flask demo`: an empty database becomes a season of events to play with, or a large one to measure with.

The rows go in the way the database takes them fastest, in one transaction: all of it or nothing. A seed gives the same
season each time, but for times, which follow the present, and for codes, stamps and the password, which nobody guesses.
"""

import secrets
import time

import click
from flask.cli import with_appcontext
from sqlalchemy import select, text

from models import User, db
from routes.commands.checks import checked
from routes.commands.demo_programs import PROGRAMS
from routes.commands.demo_rows import TABLE_COLUMNS, finish, on_postgresql, sum_up
from routes.commands.demo_season import Season
from routes.http.faults import told_in_a_sentence
from routes.http.parsing import Password

ALLOWED_ROWS = {"users", "audit"}  # accounts, such as the first admin's, and what was done with them


@click.command("demo")
@click.option("--events", default=len(PROGRAMS), show_default=True, type=click.IntRange(1))
@click.option("--users", default=40, show_default=True, type=click.IntRange(1), help="How many buyers.")
@click.option("--orders", default=300, show_default=True, type=click.IntRange(0))
@click.option("--seed", default=1, show_default=True, help="Another one gives another season.")
@click.option(
    "--password",
    default=lambda: secrets.token_urlsafe(9),
    callback=checked(Password()),
    help="For all; random unless given.",
)
@with_appcontext
@told_in_a_sentence()
def demo(events: int, users: int, orders: int, seed: int, password: str) -> None:
    """Fill a database that has no events with a season of them."""
    refuse_unless_empty()
    db.session.execute(text("SET LOCAL TIME ZONE 'UTC'" if on_postgresql() else "PRAGMA cache_size = -64000"))
    season = Season(seed, password, users=users, events=events, orders=orders, accounts=accounts())
    began = time.perf_counter()
    with click.progressbar(length=users + events + orders, label="Filling the database") as bar:
        for made in season.fill():
            bar.update(made)
    sum_up()
    finish()
    db.session.commit()
    seconds = time.perf_counter() - began
    click.echo(f"{season.rows.written:,} rows in {seconds:.1f} s, {season.rows.written / seconds:,.0f} a second.")
    click.echo(f"Log in with the password {password} as")
    for email, role in season.people.logins:
        click.echo(f"  {email} ({role})")
    for event, role, email in season.people.appointed:
        click.echo(f"Of event {event}, {email} is {role}.")


def refuse_unless_empty() -> None:
    tables = [table for table in TABLE_COLUMNS if table not in ALLOWED_ROWS]
    found = {table: db.session.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables}
    there = [f"{rows:,} in {table}" for table, rows in found.items() if rows]
    if there:
        raise click.ClickException(f"A demo fills a database that has at most accounts. Here: {', '.join(there)}.")


def accounts() -> dict[str, int]:
    """The ids of the accounts that are there, by their addresses."""
    return dict(db.session.execute(select(User.email, User.id)).all())
