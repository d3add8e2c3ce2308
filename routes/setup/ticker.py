"""The thread that does what is due beside the calls: one a process, from its first request on.

It makes things prompt, not right: no answer waits for it, and other processes may do the same work.
"""

from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from typing import Any

from flask import Flask, current_app
from sqlalchemy import event

from models import db
from routes.setup.engines import is_test_run

EVERY = 30  # seconds, where no commit wakes it
GATHERING = 0.05  # seconds after a commit, in which its answer leaves and others may add to the work

Job = Callable[[Event], None]


class Ticker:
    def __init__(self, app: Flask, jobs: Sequence[Job]) -> None:
        self.app, self.jobs = app, jobs
        self.thread: Thread | None = None
        self.starting = Lock()
        self.stopping, self.woken = Event(), Event()

    def start(self) -> None:
        """Start the thread, unless it runs. After a fork it does not run in the child, whatever ran in the parent."""
        if self.thread is not None and self.thread.is_alive():
            return
        with self.starting:
            if self.thread is None or not self.thread.is_alive():
                self.stopping, self.woken = Event(), Event()
                self.thread = Thread(target=self.run, name="ticker", daemon=True)
                self.thread.start()

    def stop(self) -> None:
        """Start nothing more. What is being sent may come to its end, and nobody waits for it."""
        self.stopping.set()
        self.woken.set()

    def wake(self) -> None:
        self.woken.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            self.woken.clear()
            for job in self.jobs:
                self.do(job)
            self.woken.wait(EVERY)
            self.stopping.wait(GATHERING)

    def do(self, job: Job) -> None:
        """A job that fails, for want of the database or by a fault of its own, is tried again next time."""
        try:
            with self.app.app_context():
                job(self.stopping)
        except Exception:
            self.app.logger.exception("A job failed", extra={"job": job.__name__})


@event.listens_for(db.session, "after_commit")
def wake_ticker(session: Any) -> None:
    if session.info.pop("work", False):
        current_app.extensions["ticker"].wake()


@event.listens_for(db.session, "after_rollback")
def forget_work(session: Any) -> None:
    session.info.pop("work", None)


def register(app: Flask, jobs: Sequence[Job]) -> None:
    """Have the first request start the thread, but in tests, and where `RUN_JOBS` is off."""
    ticker = app.extensions["ticker"] = Ticker(app, jobs)
    if is_test_run():
        return

    @app.before_request
    def start_ticker() -> None:
        if app.config["RUN_JOBS"] and not app.testing:
            ticker.start()
