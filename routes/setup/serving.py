"""The development server and the production server. Both are given the application."""

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from flask import Flask
from granian import Granian
from granian.constants import HTTPModes, Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels

from models import db
from routes.http import logs
from routes.setup.environment import env_address, env_int, env_text, processors
from routes.setup.fitness import refuse_unfit_database
from routes.setup.front import Front
from routes.setup.processes import STOP_SECONDS, connections, fork_deaf_to_others, settle_worker
from routes.setup.settings import secret_fault

HERE = Path(__file__).parents[2]
HEADER_SECONDS = 75  # for the head of a request and for an idle connection: proxies end theirs after 60 at most
PROXY_DUTIES = (
    "TRUSTED_PROXIES=%s: the proxy must set X-Forwarded-For, -Proto, -Host and -Prefix whatever its client sends, and "
    "nobody else may reach this port"
)


def start() -> None:
    """The documented development server, after making what it lacks: a secret and an up-to-date database.

    The application is not loaded before: it would complain of the secret that is about to be made.
    """
    env_file = HERE / ".env"
    if not env_file.exists():
        env_file.touch(mode=0o600)
        env_file.write_text(f"JWT_SECRET_KEY={secrets.token_hex(32)}\nSMTP_URL=log:\n")
        print("Wrote .env with a fresh JWT_SECRET_KEY, and SMTP_URL=log: so that mails are written to the log.")
    load_dotenv(env_file)
    os.chdir(HERE)
    flask = [sys.executable, "-m", "flask"]
    failed = subprocess.call([*flask, "--debug", "db", "upgrade"])
    if failed:
        sys.exit(failed)
    command = [*flask, "run", "--debug", "--host", env_address("HOST", "127.0.0.1")]
    command += ["--port", str(env_int("PORT", 5000, most=65_535))]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def serve(app: Flask) -> None:
    """The production server. It refuses to start where it would have to guess: without a secret, on an old database."""
    fault = secret_fault(env_text("JWT_SECRET_KEY"))
    if fault:
        sys.exit(f"{fault}. Make one with `openssl rand -hex 32` and put it in .env as JWT_SECRET_KEY=...")
    host, port = env_address("HOST", "0.0.0.0"), env_int("PORT", 5000, most=65_535)
    with app.app_context():
        refuse_unfit_database()
        db.engine.dispose()  # where the workers are forked, each opens connections of its own
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        sys.exit(f"Port {port} of {host} can't be had: {error.strerror}. Name another one with HOST and PORT.")
    if app.config["TRUSTED_PROXIES"]:
        app.logger.warning(PROXY_DUTIES, app.config["TRUSTED_PROXIES"])
    workers = env_int("WEB_CONCURRENCY", max(2, processors()))
    os.environ.setdefault("BCRYPT_AT_ONCE", str(max(1, processors() // workers)))  # of each; they share the processors
    app.config["BCRYPT_AT_ONCE"] = env_int("BCRYPT_AT_ONCE", 1)  # where the workers are forked, they have this one
    fork_deaf_to_others()
    Server(
        "app:front",
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        runtime_mode=RuntimeModes.st,  # in the other one an idle worker may miss its TERM (Granian 2.8.7)
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000, max_buffer_size=2**16),
        websockets=False,
        workers=workers,
        backlog=4096,
        backpressure=connections(),
        working_dir=HERE,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
        log_level=LogLevels(app.config["LOG_LEVEL"].lower()),
        log_dictconfig=logs.SERVER,
    ).serve()


def front(app: Flask) -> Front:
    """What each worker runs."""
    found = Front(app)
    settle_worker(found)
    return found


class Server(Granian):  # type: ignore[misc, valid-type]  # its base class depends on the build of Python
    """Workers that die are replaced, however often; Granian itself gives up at the second within seconds."""

    respawned_wrks = property(lambda self: {}, lambda self, value: None)

    def _respawn_workers(self, workers: Any, spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """Slowly, as one that dies at its start dies again."""
        super()._respawn_workers(workers, spawn_target, target_loader, max(delay, 0.2))
