"""What is typed on the command line instead of asked over HTTP."""

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from models import IdempotencyKey, Order, Ticket, TicketType, User, db
from routes.commands.checks import checked
from routes.commands.demo import demo
from routes.commands.jobs import run_jobs, settle_payments
from routes.http.faults import told_in_a_sentence
from routes.http.parsing import Email, Password, Text
from routes.jobs.lapsing import lapse_in_steps
from routes.selling import accounts
from routes.selling.inventory import check_inventory
from routes.selling.mail_tokens import forget_old_tokens
from routes.selling.places import events_with_lapsed_orders
from routes.selling.transfers import forget_old_transfers

new_password = click.option(
    "--password", prompt=True, hide_input=True, confirmation_prompt=True, callback=checked(Password())
)


@click.command("create-admin")
@click.option("--name", prompt=True, callback=checked(Text(100)))
@click.option("--email", prompt=True, callback=checked(Email()))
@new_password
@with_appcontext
@told_in_a_sentence()
def create_admin(name: str, email: str, password: str) -> None:
    """Make an admin, or make one of the account with this address, whose name and password stay."""
    there = User.by_email(email)
    user = there or User.sign_up(name=name, email=email, password=password)
    accounts.give_role(user, role="admin", active=True)
    db.session.commit()
    current_app.logger.info("account changed", extra={"user_id": user.id, "by": "command line", "role": "admin"})
    click.echo(f"{user.email} is an admin." + (" The account was there: its name and password stay." if there else ""))


@click.command("set-password")
@click.argument("email", callback=checked(Email()))
@new_password
@with_appcontext
@told_in_a_sentence()
def set_password(email: str, password: str) -> None:
    """Give an account a new password and end its tokens."""
    user = User.by_email(email)
    if user is None:
        raise click.ClickException("There is no account with this address.")
    accounts.set_password(user, password)
    db.session.commit()
    current_app.logger.info("password changed", extra={"user_id": user.id, "by": "command line"})
    click.echo("The password is changed; all tokens of the account have ended.")


@click.command("expire-orders")
@with_appcontext
@told_in_a_sentence()
def expire_orders() -> None:
    """Write down which orders have lapsed, and forget what is too old to matter. It keeps the tables small."""
    orders = sum(lapse_in_steps(event_id) for event_id in events_with_lapsed_orders())
    keys, logins = IdempotencyKey.forget_old(), accounts.forget_old_logins()
    forget_old_tokens()
    forget_old_transfers()
    db.session.commit()
    click.echo(f"Expired orders: {orders}. Forgotten: {keys} idempotency keys, {logins} log-ins.")


@click.command("check-inventory")
@with_appcontext
@told_in_a_sentence()
def recount() -> None:
    """Count all places, tickets and payments again; exit with 1 on any difference."""
    found = check_inventory()
    for difference in found:
        click.echo(difference)
    if found:
        raise click.ClickException(f"{len(found)} differences")
    ticket_types, orders, tickets = (
        db.session.scalar(db.select(db.func.count()).select_from(model)) for model in (TicketType, Order, Ticket)
    )
    click.echo(f"Counted {ticket_types} ticket types, {orders} orders and {tickets} tickets: all agree.")


def register(app: Flask) -> None:
    for command in (create_admin, set_password, demo, expire_orders, recount, run_jobs, settle_payments):
        app.cli.add_command(command)
