"""The jobs from the command line, for cron or as a process of their own."""

import signal
from threading import Event

import click
from flask import current_app
from flask.cli import with_appcontext

from models import NotConfigured, ProviderUnavailable, db
from routes.jobs import JOBS
from routes.jobs.checkouts import settle_everything

EVERY = 5  # seconds between two rounds of a loop, as no commit of other processes wakes it


@click.command("run-jobs")
@click.option("--loop", is_flag=True, help="Go on until TERM.")
@with_appcontext
def run_jobs(loop: bool) -> None:
    """Do what is due beside the calls: settle payments, send mails. Any number may run, and servers that do it too."""
    stop = Event()
    if loop:
        stop_on_term(stop)
    failed = do_jobs(stop)
    while loop and not stop.wait(EVERY):
        do_jobs(stop)
    if failed and not loop:
        raise click.ClickException(f"Failed: {', '.join(failed)}. The log says why.")


@click.command("settle-payments")
@with_appcontext
def settle_payments() -> None:
    """Ask the payment provider about all that is not settled, and for refunds and disputes of the last days."""
    stop = Event()
    stop_on_term(stop)
    try:
        settle_everything(stop)
    except NotConfigured as refusal:
        raise click.ClickException("No payment provider is configured") from refusal
    except ProviderUnavailable as error:
        raise click.ClickException("The payment provider does not answer: what is not settled waits") from error


def stop_on_term(stop: Event) -> None:
    """A mail that is being sent comes to its end: else nobody would know that it went out."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *args: stop.set())


def do_jobs(stop: Event) -> list[str]:
    """Do each job, and return the names of those that failed."""
    failed: list[str] = []
    for job in JOBS:
        try:
            job(stop)
        except Exception:
            current_app.logger.exception("A job failed", extra={"job": job.__name__})
            failed.append(job.__name__)
        finally:
            db.session.remove()
    return failed
