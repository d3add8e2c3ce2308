"""What is typed on the command line instead of asked over HTTP."""

import click
from flask import current_app
from flask.cli import with_appcontext

from models import EndedLogin, IdempotencyKey, Order, Ticket, TicketType, User, check_inventory, db, hash_password
from routes.demo import demo
from routes.parsing import Email, Password, Text


def checked(type_):
    """A click callback that judges a value as the API does."""

    def judge(context, parameter, value):
        try:
            return type_(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return judge


new_password = click.option(
    "--password", prompt=True, hide_input=True, confirmation_prompt=True, callback=checked(Password())
)


@click.command("create-admin")
@click.option("--name", prompt=True, callback=checked(Text(100)))
@click.option("--email", prompt=True, callback=checked(Email()))
@new_password
@with_appcontext
def create_admin(name, email, password):
    """Make an admin, or make one of the account with this address, whose name and password stay."""
    there = User.by_email(email)
    user = there or User.sign_up(name=name, email=email, password=password)
    user.appoint(role="admin", active=True)
    db.session.commit()
    current_app.logger.info("account changed", extra={"user_id": user.id, "by": "command line", "role": "admin"})
    click.echo(f"{user.email} is an admin." + (" The account was there: its name and password stay." if there else ""))


@click.command("set-password")
@click.argument("email", callback=checked(Email()))
@new_password
@with_appcontext
def set_password(email, password):
    """Give an account a new password and end its tokens."""
    user = User.by_email(email)
    if user is None:
        raise click.ClickException("There is no account with this address.")
    user.password = hash_password(password)
    db.session.commit()
    current_app.logger.info("password changed", extra={"user_id": user.id, "by": "command line"})
    click.echo("The password is changed; all tokens of the account have ended.")


@click.command("expire-orders")
@with_appcontext
def expire_orders():
    """Write down which orders have lapsed, and forget what is too old to matter. It keeps the tables small."""
    orders = 0
    for event_id in Order.events_with_lapsed():
        orders += Order.lapse(event_id)
        db.session.commit()  # before the next event, so that nobody waits long
    keys, logins = IdempotencyKey.forget_old(), EndedLogin.forget_old()
    db.session.commit()
    click.echo(f"Expired orders: {orders}. Forgotten: {keys} idempotency keys, {logins} ended log-ins.")


@click.command("check-inventory")
@with_appcontext
def recount():
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


def register(app):
    for command in (create_admin, set_password, demo, expire_orders, recount):
        app.cli.add_command(command)
