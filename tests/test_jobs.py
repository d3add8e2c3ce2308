"""Who sends: the thread of each process, and `flask run-jobs`; ended at any moment, they lose nothing."""

import logging
import os
import signal
import subprocess
import sys
import time
from threading import Event, Thread

import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from models import Mail, User, db, now
from routes.jobs.mails import send_due_mails
from routes.selling.mails import tell
from routes.setup.ticker import Ticker

from .conftest import PASSWORD, ROOT, wait_until
from .fakes.mail_server import MailServer

ROUNDS = int(os.environ.get("RACE_ROUNDS", 3))


@pytest.fixture
def told(migrated, mail_server):
    """An application on a migrated database of its own, with an account; and a way to write mails to it."""
    settings = {"SMTP_URL": f"smtp://{mail_server.address}", "SHOP_URL": "https://shop.example"}
    migrated.config.update(settings | {"MAIL_FROM": "tickets@mail.example"})
    with migrated.app_context():
        id = User.sign_up(name="Ann", email="ann@example.com", password=PASSWORD).id
        db.session.commit()

    def write(*keys):
        with migrated.app_context():
            for key in keys:
                tell("password_changed", id, key)
            db.session.commit()

    write.app = migrated
    write.settings = {name: migrated.config[name] for name in ("SMTP_URL", "SHOP_URL", "MAIL_FROM")}
    write.url = migrated.config["SQLALCHEMY_DATABASE_URI"]
    return write


@pytest.fixture
def serve(told, start_server):
    return lambda **settings: start_server(told.url, **told.settings, **settings)


@pytest.fixture
def start_jobs(told):
    """Start `flask run-jobs` as a process; it is ended after the test."""
    started = []

    def start(*options):
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
        environment |= {"DATABASE_URL": told.url, "FLASK_APP": "app", **told.settings}
        command = [sys.executable, "-m", "flask", "run-jobs", *options]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def outcomes(app):
    with app.app_context():
        return [mail.status for mail in db.session.scalars(db.select(Mail).order_by(Mail.id))]


@pytest.mark.slow
class TestThread:
    def test_starts_at_the_first_request_and_sends_what_waited(self, told, serve, mail_server):
        told("1", "2")
        serve()
        wait_until(lambda: len(mail_server.messages) == 2)

    def test_is_woken_by_a_commit(self, told, serve, mail_server):

        server = serve(WEB_CONCURRENCY="1")
        time.sleep(1)  # its first look is over, and the next one would be in half a minute
        answer = requests.post(f"{server.address}/password-resets", json={"email": "ann@example.com"}, timeout=10)
        assert answer.status_code == 202
        began = time.monotonic()
        wait_until(lambda: mail_server.messages)
        assert time.monotonic() - began < 20

    def test_is_off_where_jobs_are_not_run(self, told, serve, mail_server, start_jobs):
        told("1")
        serve(RUN_JOBS="false")
        time.sleep(1)
        assert mail_server.messages == []
        assert start_jobs().wait(60) == 0
        assert len(mail_server.messages) == 1

    def test_ends_with_the_server_whatever_it_is_doing(self, told, serve, mail_server):
        mail_server.delay = 60
        told("1")
        server = serve()
        wait_until(lambda: mail_server.connections)
        server.process.terminate()
        server.process.wait(20)

    def test_worker_that_is_killed_comes_back_with_one(self, told, serve, mail_server):
        server = serve(WEB_CONCURRENCY="1")
        told("1")
        wait_until(lambda: mail_server.messages)
        children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True)
        workers = [int(line) for line in children.stdout.split()]
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        told("2")

        def answers():
            try:
                return requests.get(f"{server.address}/health", timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_until(answers)
        wait_until(lambda: len(mail_server.messages) == 2)

    def test_does_not_start_in_tests_and_commands(self, app, client):
        client.get("/health")
        app.test_cli_runner().invoke(args=["check-inventory"])
        assert app.extensions["ticker"].thread is None


class TestTicker:
    @pytest.fixture
    def start(self, app):
        """Start a ticker with a job; it is stopped after the test."""
        started = []

        def run(job):
            ticker = Ticker(app, [job])
            started.append(ticker)
            ticker.start()
            return ticker

        yield run
        for ticker in started:
            ticker.stop()
            ticker.thread.join()

    @pytest.mark.parametrize("error", [OperationalError("SELECT 1", {}, Exception("gone")), RuntimeError("a bug")])
    def test_survives_a_job_that_fails(self, start, error, caplog):
        calls = []

        def job(stop):
            calls.append(1)
            if len(calls) == 1:
                raise error

        ticker = start(job)
        wait_until(lambda: len(calls) == 1)
        ticker.wake()
        wait_until(lambda: len(calls) == 2)
        assert "A job failed" in caplog.text

    def test_commit_that_wrote_a_mail_wakes_it(self, app, context, monkeypatch):
        app.config["SMTP_URL"] = "log:"
        user = User.sign_up(name="Ann", email="ann@example.com", password=PASSWORD)
        db.session.commit()
        woken = app.extensions["ticker"].woken
        woken.clear()
        tell("password_changed", user.id, "1")
        assert not woken.is_set()
        db.session.commit()
        assert woken.is_set()

    def test_commit_of_anything_else_does_not(self, app, context):
        app.config["SMTP_URL"] = "log:"
        user = User.sign_up(name="Ann", email="ann@example.com", password=PASSWORD)
        db.session.commit()
        woken = app.extensions["ticker"].woken
        woken.clear()
        tell("password_changed", user.id, "1")
        db.session.rollback()
        User.sign_up(name="Bo", email="bo@example.com", password=PASSWORD)
        db.session.commit()
        assert not woken.is_set()

    def test_runs_once_however_often_it_is_started(self, start):
        ticker = start(lambda stop: None)
        thread = ticker.thread
        ticker.start()
        assert ticker.thread is thread


@pytest.mark.slow
class TestCommand:
    def test_sends_once_and_ends(self, told, start_jobs, mail_server):
        told("1", "2")
        assert start_jobs().wait(60) == 0
        assert len(mail_server.messages) == 2

    def test_loop_goes_on_until_term(self, told, start_jobs, mail_server):
        told("1")
        process = start_jobs("--loop")
        wait_until(lambda: len(mail_server.messages) == 1)
        told("2")
        wait_until(lambda: len(mail_server.messages) == 2)
        process.terminate()
        assert process.wait(20) == 0

    def test_term_in_the_middle_of_a_mail_lets_it_come_to_its_end(self, told, start_jobs, mail_server):
        mail_server.delay = 2
        told("1", "2")
        process = start_jobs("--loop")
        wait_until(lambda: mail_server.connections)
        time.sleep(0.5)
        process.terminate()
        process.wait(20)
        assert sorted(outcomes(told.app)) == ["sent", "waiting"]

    def test_without_a_database_it_says_so(self, app, monkeypatch):
        def fail(stop):
            raise OperationalError("SELECT 1", {}, Exception("gone"))

        monkeypatch.setattr("routes.commands.jobs.JOBS", [fail])
        result = app.test_cli_runner().invoke(args=["run-jobs"])
        assert (result.exit_code, "Failed: fail" in result.output) == (1, True)


class LockingServer(MailServer):
    """Holds the sender's database, so that it gets its 250 and can't write that down."""

    def __init__(self, url):
        super().__init__()
        self.engine = create_engine(url)
        self.holding = None

    async def handle_DATA(self, server, session, envelope):
        if self.holding is None:
            self.holding = self.engine.connect()
            if self.engine.dialect.name == "sqlite":
                self.holding.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                self.holding.execute(text("SELECT id FROM mails FOR UPDATE"))
        return await super().handle_DATA(server, session, envelope)

    def let_go(self):
        self.holding.rollback()
        self.holding.close()


@pytest.mark.slow
class TestKilled:
    def test_between_the_server_s_yes_and_ours_again_and_again_nothing_is_lost(self, told, start_jobs):
        told("1")
        server = LockingServer(told.url)
        server.start()
        told.settings["SMTP_URL"] = f"smtp://{server.address}"
        for round in range(1, ROUNDS + 1):
            process = start_jobs()
            wait_until(lambda round=round: len(server.messages) == round)
            time.sleep(0.3)  # it has its 250, and waits for the database
            assert process.poll() is None
            process.kill()
            process.wait()
            server.let_go()
            server.holding = None
            assert outcomes(told.app) == ["waiting"]
            with told.app.app_context():  # its lease has ended
                db.session.execute(db.update(Mail).values(due_at=now()))
                db.session.commit()
        server.holding = "nothing more"
        assert start_jobs().wait(60) == 0
        server.stop()
        server.engine.dispose()
        assert outcomes(told.app) == ["sent"]
        assert len(server.messages) == ROUNDS + 1
        assert len({message["Message-ID"] for message in server.messages}) == 1

    def test_at_any_moment_with_others_at_work_all_arrive_with_one_id_each(self, told, start_jobs, mail_server):
        mail_server.delay = 0.02
        told(*map(str, range(40)))
        for _ in range(ROUNDS):
            process = start_jobs()
            sent = len(mail_server.messages)
            wait_until(lambda sent=sent: len(mail_server.messages) > sent)
            process.kill()
            process.wait()
        with told.app.app_context():
            db.session.execute(db.update(Mail).where(Mail.sent_at.is_(None)).values(due_at=now()))
            db.session.commit()

        def send():
            with told.app.app_context():
                send_due_mails(Event())

        senders = [Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert set(outcomes(told.app)) == {"sent"}
        ids = [message["Message-ID"] for message in mail_server.messages]
        assert len(set(ids)) == 40
        assert len(ids) <= 40 + ROUNDS


class TestLog:
    def test_shows_the_link_for_a_forgotten_password(self, app, client, buyer, caplog):
        app.config["SMTP_URL"] = "log:"
        caplog.set_level(logging.INFO)
        client.post("/password-resets", json={"email": buyer.email})
        with app.app_context():
            send_due_mails(Event())
        assert "http://localhost:3000/reset#token=" in caplog.text
