"""The production server: no client stops another one, what waits is bounded, and its processes end as they should."""

import getpass
import inspect
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from select import select
from types import SimpleNamespace

import pytest
import requests
from flask_migrate import upgrade
from granian.server.common import AbstractServer

from app import create_app
from models import User, db
from routes.setup import environment
from routes.setup.front import BODY_BYTES, WAITING, environ_of

from .conftest import CONFIG, PASSWORD, ROOT, bearer, dispose, servers, wait_until

SPA = "http://localhost:3000"
SIGN_UP = "POST /sign-up HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HANG = 60  # seconds after which a test gives up; nothing here takes long on a machine that is not busy
USERS = 60_000


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A SQLite database in which an admin is the first of many users: `path`, `url`, and the admin's `headers`."""
    path = tmp_path_factory.mktemp("server") / "test.db"
    url = f"sqlite:///{path}"
    app = create_app({**CONFIG, "SQLALCHEMY_DATABASE_URI": url})
    with app.app_context():
        upgrade()
        admin = User.sign_up(name="Boss", email="boss@example.com", password=PASSWORD)
        admin.role = "admin"
        row = {"name": "x" * 100, "password": "x", "role": "user", "token_version": "x"}
        db.session.execute(db.insert(User), [row | {"email": f"{number}@example.com"} for number in range(USERS)])
        db.session.commit()
        login = {"email": "boss@example.com", "password": PASSWORD}
        token = app.test_client().post("/login", json=login).get_json()["access_token"]
        db.session.remove()
        dispose()
    return SimpleNamespace(path=path, url=url, token=token, headers=bearer(token))


@pytest.fixture(scope="module")
def server(house):
    """One process with two threads, so that two who hold one each would stop it."""
    with servers() as start:
        yield start(house.url, WEB_CONCURRENCY="1", THREADS="2")


@pytest.fixture
def log(tmp_path):
    """A file for what a server logs."""
    with (tmp_path / "log").open("w") as file:
        yield file


def lines_about(log, request_id):
    """Those of the access log, which is written after the answer."""
    found = []
    for _ in range(100):
        written = [json.loads(line) for line in Path(log.name).read_text().splitlines()]
        found = [line for line in written if (line["logger"], line["request_id"]) == ("access", request_id)]
        if found:
            break
        time.sleep(0.05)
    return found


def address_of(server):
    host, port = server.address.removeprefix("http://").rsplit(":", 1)
    return host.strip("[]"), int(port)


@pytest.fixture
def send(server):
    """Open a connection, send a text and return the socket; all are closed after the test."""
    with ExitStack() as opened:

        def connect(text, to=server):
            connection = opened.enter_context(closing(socket.create_connection(address_of(to), HANG)))
            connection.sendall(text.encode())
            return connection

        yield connect


def read_all(connection):
    """All that comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(2**16), b"")).decode()


def sign_up(email, length=None, **headers):
    body = json.dumps({"name": "Ann", "email": email, "password": PASSWORD})
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{SIGN_UP}{more}Content-Length: {length or len(body)}\r\n\r\n{body}"


def is_there(house, email):
    with closing(sqlite3.connect(house.path)) as database:
        return database.execute("SELECT count(*) FROM users WHERE email = ?", [email]).fetchone() == (1,)


@pytest.mark.slow
class TestSlowClient:
    @pytest.mark.parametrize("count", [36, 200])
    @pytest.mark.parametrize(
        "beginning",
        [
            "",
            "GET /health HTT",
            "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            f"{SIGN_UP}Content-Length: 10\r\n\r\n{{",
            f"{SIGN_UP}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n",
            "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1",
        ],
    )
    def test_stops_nobody(self, server, send, beginning, count):
        for _ in range(count):
            send(beginning)
        assert requests.get(f"{server.address}/events", timeout=HANG).status_code == 200

    def test_who_sends_head_and_body_byte_by_byte_is_served(self, server, send):
        connection = send("")
        for byte in sign_up(f"{secrets.token_hex(4)}@example.com", Connection="close"):
            connection.sendall(byte.encode())
        assert "User created successfully" in read_all(connection)

    def test_who_does_not_read_stops_nobody(self, server, house, send):
        for _ in range(10):
            send(f"GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.token}\r\n\r\n")
        assert requests.get(f"{server.address}/events", timeout=HANG).status_code == 200

    def test_body_that_does_not_come_is_a_408_that_a_page_can_read(self, send):
        answer = HTTPResponse(send(sign_up("late@example.com", 1000, Origin=SPA)))
        answer.begin()
        assert (answer.status, answer.read()) == (408, b'{"message":"The body came too slowly"}')
        assert answer.headers["Access-Control-Allow-Origin"] == SPA
        assert answer.headers["Connection"] == "close"
        assert "X-Request-ID" in answer.headers


class TestBody:
    def test_in_chunks_is_taken(self, server):
        body = json.dumps({"name": "Ann", "email": f"{secrets.token_hex(4)}@example.com", "password": PASSWORD})
        parts = (letter.encode() for letter in body)
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"{server.address}/sign-up", data=parts, headers=headers, timeout=HANG)
        assert answer.status_code == 201

    @pytest.mark.parametrize("data", [b"x" * 3_000_000, [b"x" * 100_000] * 30], ids=["whole", "in chunks"])
    def test_that_is_too_large_is_a_413_in_json(self, server, data):
        data = data if isinstance(data, bytes) else iter(data)
        answer = requests.post(f"{server.address}/login", data=data, headers={"Origin": SPA}, timeout=HANG)
        assert (answer.status_code, list(answer.json())) == (413, ["message"])
        assert answer.headers["Access-Control-Allow-Origin"] == SPA

    @pytest.mark.slow
    def test_of_all_clients_together_is_bounded(self, server, send):
        large = [
            send(f"{SIGN_UP}Content-Length: 1000001\r\n\r\n{'x' * 1_000_000}") for _ in range(BODY_BYTES // 10**6 + 2)
        ]
        refused, _, _ = select(large, [], [], HANG)
        assert refused[0].recv(100).startswith(b"HTTP/1.1 503 ")
        small = {"name": "Ann", "email": f"{secrets.token_hex(4)}@example.com", "password": PASSWORD}
        assert requests.post(f"{server.address}/sign-up", json=small, timeout=HANG).status_code == 201

    def test_that_is_cut_off_does_nothing(self, server, house, send):
        send(sign_up("cut@example.com", 1000)).close()
        assert requests.get(f"{server.address}/events", timeout=HANG).status_code == 200
        assert not is_there(house, "cut@example.com")

    def test_that_waits_for_leave_is_given_it(self, send):
        head, body = sign_up(f"{secrets.token_hex(4)}@example.com", Expect="100-continue", Connection="close").split(
            "\r\n\r\n"
        )
        connection = send(f"{head}\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body.encode())
        assert "HTTP/1.1 201 " in read_all(connection)


class TestHead:
    def ask(self, send, line, *headers):
        return read_all(send("\r\n".join([f"{line} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])))

    def test_name_with_an_underscore_is_not_taken_for_one_with_a_hyphen(self, send):
        assert "mine" not in self.ask(send, "GET /health/live", "X_Request_ID: mine")
        assert "mine" in self.ask(send, "GET /health/live", "X-Request-ID: mine")

    def test_that_comes_twice_is_one_list(self, send):
        tag = self.ask(send, "GET /events").split("etag: ")[1].split("\r\n")[0]
        answer = self.ask(send, "GET /events", 'If-None-Match: "x"', f"If-None-Match: {tag}")
        assert answer.startswith("HTTP/1.1 304 ")
        assert answer.endswith("\r\n\r\n")

    @pytest.mark.parametrize("target", ["/%65vents", "http://x/events", "/events?limit=1"])
    def test_target_is_understood_in_every_form(self, send, target):
        assert self.ask(send, f"GET {target}").startswith("HTTP/1.1 200 ")

    @pytest.mark.parametrize("target", ["/%FF", "/events/%00", "/%E2%82%AC"])
    def test_target_of_any_bytes_is_a_404_in_json(self, send, target):
        answer = self.ask(send, f"GET {target}")
        assert answer.startswith("HTTP/1.1 404 ")
        assert '{"message":"Not Found"}' in answer

    def test_length_is_told_without_the_body(self, send):
        answer = self.ask(send, "HEAD /health/live")
        assert "content-length: 15\r\n" in answer
        assert answer.endswith("\r\n\r\n")

    def test_environment_is_wsgi(self):
        headers = [(b"host", b"x"), (b"content-type", b"a/b"), (b"content-length", b"5"), (b"x-a", b"\xe9")]
        scope = {"method": "GET", "raw_path": b"/a%20%C3%A9", "query_string": b"b=%20", "client": ("::ffff:1.2.3.4", 1)}
        scope |= {"server": ("1.2.3.4", "80"), "http_version": "1.1", "scheme": "http", "headers": headers}
        environ = environ_of(scope)
        assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a \xc3\xa9", "b=%20")
        assert (environ["REMOTE_ADDR"], environ["HTTP_X_A"]) == ("1.2.3.4", "\xe9")
        assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("a/b", "5")


class TestBelowAPath:
    """Behind a proxy that hands on what is below `/api`."""

    @pytest.fixture
    def ask(self, app, admin):
        below = create_app(
            {**CONFIG, "SQLALCHEMY_DATABASE_URI": app.config["SQLALCHEMY_DATABASE_URI"], "TRUSTED_PROXIES": 1}
        )
        headers = admin.headers | {"X-Forwarded-Prefix": "/api"}
        yield lambda method, path, **more: below.test_client().open(path, method=method, headers=headers, **more)
        with below.app_context():
            dispose()

    def test_location_keeps_it(self, ask):
        answer = ask("POST", "/categories", json={"name": "Concerts"})
        assert re.fullmatch("/api/categories/[0-9]+", answer.headers["Location"])
        assert ask("GET", "/").headers["Location"] == "/api/docs"

    def test_link_keeps_it(self, ask, make_event):
        for _ in range(2):
            make_event()
        assert ask("GET", "/events?limit=1").headers["Link"].startswith("</api/events?")

    def test_document_keeps_it(self, ask):
        assert ask("GET", "/openapi.json").get_json()["servers"] == [{"url": "/api"}]

    def test_is_not_believed_without_a_proxy(self, client):
        answer = client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/api"})
        assert answer.get_json()["servers"] == [{"url": "/"}]


@pytest.mark.slow
class TestQueue:
    """One thread, which waits for a lock that the test holds on the database."""

    @pytest.fixture
    def stuck(self, house, log, start_server):
        server = start_server(house.url, WEB_CONCURRENCY="1", THREADS="1", LOG_LEVEL="INFO", log=log)
        with self.locked(house) as release, socket.create_connection(address_of(server), HANG) as first:
            first.sendall(sign_up(f"{secrets.token_hex(4)}@example.com").encode())
            time.sleep(0.5)
            yield SimpleNamespace(address=server.address, release=release, first=first)

    @contextmanager
    def locked(self, house):
        with closing(sqlite3.connect(house.path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield database.rollback

    def test_of_full_threads_does_not_stop_liveness(self, stuck):
        answer = requests.get(f"{stuck.address}/health/live", timeout=HANG)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    def test_of_full_threads_does_not_stop_a_preflight(self, stuck):
        headers = {"Origin": SPA, "Access-Control-Request-Method": "POST"}
        answer = requests.options(f"{stuck.address}/orders", headers=headers, timeout=HANG)
        assert answer.headers["Access-Control-Allow-Origin"] == SPA

    def test_that_is_full_refuses_at_once_what_a_page_can_read(self, stuck, send, log):
        for _ in range(WAITING):
            send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n", stuck)
        headers = {"Origin": SPA, "X-Request-ID": "mine"}
        answer = requests.get(f"{stuck.address}/events", headers=headers, timeout=HANG)
        assert (answer.status_code, answer.headers["Retry-After"], list(answer.json())) == (503, "1", ["message"])
        assert answer.headers["Access-Control-Allow-Origin"] == SPA
        assert answer.headers["X-Request-ID"] == "mine"
        assert [line["status"] for line in lines_about(log, "mine")] == [503]

    def test_has_room_again_once_clients_have_left(self, stuck, send):
        for _ in range(WAITING):
            send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n", stuck).close()
        stuck.release()
        assert requests.get(f"{stuck.address}/events", timeout=HANG).status_code == 200

    def test_begins_nothing_for_a_client_who_has_left(self, house, stuck, send):
        email = f"{secrets.token_hex(4)}@example.com"
        send(sign_up(email), stuck).close()
        time.sleep(0.5)
        stuck.release()
        assert b"201" in stuck.first.recv(100)
        assert requests.get(f"{stuck.address}/events", timeout=HANG).status_code == 200
        assert not is_there(house, email)


@pytest.mark.slow
class TestStream:
    def test_is_whole(self, server, house):
        answer = requests.get(f"{server.address}/users", headers=house.headers, timeout=HANG)
        assert len(answer.json()) > USERS

    def test_that_fails_half_way_breaks_the_connection(self, server, house):
        answer = requests.get(f"{server.address}/users", headers=house.headers, stream=True, timeout=HANG)
        with closing(sqlite3.connect(house.path)) as database:
            database.execute("ALTER TABLE users RENAME TO away")
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                answer.content  # noqa: B018
            database.execute("ALTER TABLE away RENAME TO users")

    def test_that_cannot_even_begin_is_an_error_in_json(self, server, house, send):
        """The token's user is looked up by the id in the token, so what fails is the stream's own first query."""
        answer = requests.get(f"{server.address}/users", headers=house.headers, timeout=HANG)
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.slow
class TestAccessLog:
    def call(self, server, house, path):
        headers = house.headers | {"X-Request-ID": "mine"}
        return requests.get(f"{server.address}{path}", headers=headers, timeout=HANG)

    def test_has_a_line_a_request_without_what_is_private(self, house, start_server, log):
        self.call(start_server(house.url, log, LOG_LEVEL="INFO"), house, f"/orders/{'A' * 32}?q=hidden")
        (line,) = lines_about(log, "mine")
        assert not any(private in json.dumps(line) for private in ("A" * 32, "hidden", "127.0.0.1"))
        assert line.pop("ms") > 0
        facts = {"method": "GET", "route": "/orders/<code:code>", "status": 404, "user_id": 1}
        assert {name: line[name] for name in facts} == facts

    def test_has_the_end_of_a_stream(self, house, start_server, log):
        self.call(start_server(house.url, log, LOG_LEVEL="INFO"), house, "/users")
        assert [(line["route"], line["status"]) for line in lines_about(log, "mine")] == [("/users", 200)]

    def test_is_none_where_none_is_wanted(self, house, start_server, log):
        self.call(start_server(house.url, log, LOG_LEVEL="INFO", ACCESS_LOG="false"), house, "/events")
        assert lines_about(log, "mine") == []


class TestProcesses:
    def workers(self, server):
        pids = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout
        return [int(pid) for pid in pids.split()]

    def answers(self, server):
        try:
            return requests.get(f"{server.address}/health/live", timeout=HANG).ok
        except requests.ConnectionError:
            return False

    @pytest.mark.slow
    def test_end_cleanly_by_the_terminals_interrupt(self, house, start_server):
        server = start_server(house.url)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(HANG) == 0

    @pytest.mark.slow
    def test_end_cleanly_where_each_of_them_is_told(self, house, start_server):
        server = start_server(house.url)
        for pid in [*self.workers(server), server.process.pid]:
            os.kill(pid, signal.SIGTERM)
        assert server.process.wait(HANG) == 0

    @pytest.mark.slow
    def test_end_also_while_clients_are_slow(self, house, start_server, send):
        server = start_server(house.url)
        for beginning in ("", "GET /health HTT", f"{SIGN_UP}Content-Length: 10\r\n\r\n{{"):
            send(beginning, server)
        server.process.terminate()
        assert server.process.wait(HANG) == 0

    @pytest.mark.slow
    def test_leave_the_port_when_the_first_is_killed(self, house, start_server):
        server = start_server(house.url)
        server.process.kill()
        wait_until(lambda: not self.answers(server))

    @pytest.mark.slow
    def test_are_replaced_however_often_they_die(self, house, start_server):
        server = start_server(house.url)
        for _ in range(3):
            before = self.workers(server)
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda before=before: len(set(self.workers(server)) - {before[0]}) == 2)
        assert self.answers(server)

    def test_are_replaced_by_private_names_that_granian_still_has(self):
        granian = inspect.getsource(AbstractServer)
        assert "def _respawn_workers(self, workers, spawn_target, target_loader, delay" in granian
        assert "self.respawned_wrks = {}" in granian

    @pytest.mark.parametrize("host", ["::1", "[::1]", "127.0.0.1"])
    @pytest.mark.slow
    def test_listen_where_they_are_told(self, house, start_server, host):
        server = start_server(house.url, HOST=host)
        assert socket.create_connection((host.strip("[]"), address_of(server)[1]), HANG).close() is None

    def test_are_as_many_as_this_one_may_use(self, monkeypatch, tmp_path):
        monkeypatch.setattr(environment, "QUOTA", tmp_path / "none")
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        assert environment.processors() == 1
        os.sched_setaffinity(0, before)
        assert environment.processors() == len(before)

    @pytest.mark.parametrize("quota, expected", [("100000 100000", 1), ("150000 100000", 2), ("max 100000", None)])
    def test_are_no_more_than_a_quota_allows(self, monkeypatch, tmp_path, quota, expected):
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(environment, "QUOTA", tmp_path / "cpu.max")
        assert environment.processors() == min(expected or 10**6, len(os.sched_getaffinity(0)))


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
@pytest.mark.slow
class TestNginx:
    """The README's block, with other ports and a certificate of our own."""

    @pytest.fixture
    def nginx(self, house, start_server, tmp_path):
        server = start_server(house.url, TRUSTED_PROXIES="1")
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        block = (ROOT / "README.md").read_text().split("```nginx\n")[1].split("```")[0]
        block = re.sub("listen 443", f"listen 127.0.0.1:{port}", block).replace(
            "127.0.0.1:5000", server.address.removeprefix("http://")
        )
        block = re.sub("/etc/ssl/.*key;", f"{key};", re.sub("/etc/ssl/.*pem;", f"{certificate};", block))
        paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
        paths += "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("uwsgi", "scgi"))
        top = f"user {getpass.getuser()}; daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
        (tmp_path / "nginx.conf").write_text(f"{top} http {{ access_log off; {paths} {block} }}")
        process = subprocess.Popen(["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path])
        address = f"https://127.0.0.1:{port}"
        get = partial(requests.request, verify=False, timeout=HANG)
        for _ in range(100):
            with suppress(requests.ConnectionError):
                get("GET", f"{address}/health/live")
                break
            time.sleep(0.1)
        yield lambda method, path, **more: get(method, f"{address}{path}", **more)
        process.terminate()
        process.wait(HANG)

    @pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
    def test_hands_on_what_we_answer(self, nginx):
        assert nginx("GET", "/events").json() == []
        refusal = nginx("POST", "/login", data=b"x" * 1_500_000)
        assert (refusal.status_code, list(refusal.json())) == (413, ["message"])

    @pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
    def test_lets_no_client_say_what_a_proxy_says(self, nginx):
        forged = {"X-Forwarded-Prefix": "/evil", "X_Forwarded_Prefix": "/evil"}
        assert nginx("GET", "/openapi.json", headers=forged).json()["servers"] == [{"url": "/"}]
