"""Database servers of the tests' own, to be stopped and started: PostgreSQL, and PgBouncer before it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

BINARIES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
# They refuse to run as root, whose tests give them another user.
AS_POSTGRES = ["runuser", "-u", "postgres", "--"] if os.name == "posix" and os.geteuid() == 0 else []


def program(name: str) -> str:
    """Where the program is; without it, the test is skipped."""
    found = next((folder / name for folder in [*BINARIES, Path("/usr/sbin")] if (folder / name).exists()), None)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return str(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that the servers may write to, and that is gone in the end."""
    path = Path(tempfile.mkdtemp(prefix="ticketing-server-"))
    if AS_POSTGRES:
        shutil.chown(path, "postgres")
    yield path
    shutil.rmtree(path, ignore_errors=True)


class PostgreSQL:
    """A server of its own; with a `primary`, a hot standby of that."""

    def __init__(self, data: Path, primary: "PostgreSQL | None" = None) -> None:
        self.data, self.port = data, free_port()
        if primary:
            self.run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", f"--dbname={primary.url()}")
        else:
            self.run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"port = {self.port}\nunix_socket_directories = ''\nfsync = off\n")
            settings.write("synchronous_standby_names = ''\n" if primary else "")
        self.start()

    def run(self, name: str, *arguments: str) -> None:
        command = [*AS_POSTGRES, program(name), "--pgdata", str(self.data), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60)

    def start(self) -> None:
        self.run("pg_ctl", "start", "--wait", "--silent", f"--log={self.data}/log")

    def stop(self) -> None:
        """Like a power cut: nobody is told."""
        self.run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    def kill(self) -> None:
        """End it as the kernel would, all its processes at once."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
        for process in [pid, *map(int, children.split())]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "--wait", "--silent")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        connection = psycopg2.connect(self.url())
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()


@contextmanager
def own_postgresql() -> Iterator[PostgreSQL]:
    with folder() as data:
        server = PostgreSQL(data)
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # it was killed
                server.stop()


@contextmanager
def own_pair() -> Iterator[tuple[PostgreSQL, PostgreSQL]]:
    """A primary, and a standby that has each commit before the primary answers."""
    with own_postgresql() as primary, folder() as data:
        standby = PostgreSQL(data, primary)
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        try:
            yield primary, standby
        finally:
            standby.stop()


@contextmanager
def own_pgbouncer(host: str, port: int) -> Iterator[int]:
    """PgBouncer in session mode before a PostgreSQL, with its defaults for the rest; its port."""
    binary = program("pgbouncer")
    with folder() as path:
        listen = free_port()
        users = path / "users.txt"
        users.write_text('"postgres" ""\n')
        settings = f"[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        settings += f"listen_port = {listen}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\n"
        (path / "pgbouncer.ini").write_text(settings + "pool_mode = session\n")
        process = subprocess.Popen(
            [*AS_POSTGRES, binary, str(path / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(listen)
            yield listen
        finally:
            process.terminate()
            process.wait(10)


def wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at port {port}")
