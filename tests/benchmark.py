"""How fast the application is, as ratios to a peer measured in the same minutes on the same machine.

    TEST_DATABASE_URL=postgresql://... pipenv run bench            all rows: about half an hour
    TEST_DATABASE_URL=postgresql://... pipenv run bench --grow     how cost grows from a thousand rows to a million
    TEST_DATABASE_URL=postgresql://... pipenv run bench --short    both on little data, only to see that it works

The peer, in tests/peer, does the same work on FastAPI, async SQLAlchemy and asyncpg. Each has two worker processes;
they share one PostgreSQL with its default durability, are up at once and take turns, in both orders. A ratio is the
median of the pairs, within a tenth of one it is a tie. Beside it stand the server's CPU microseconds a request, p50,
p99 and the raw rounds. Besides PostgreSQL it needs `wrk` and `pgbench`. Nothing is cached, no rule or limit is off.
"""

import argparse
import os
import re
import secrets
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import bcrypt
import jwt
import requests
from sqlalchemy import create_engine, make_url, text

HERE = Path(__file__).parent
PEER = HERE / "peer"
SECRET = secrets.token_hex(32)
PASSWORD = b"password123"
TICKS = os.sysconf("SC_CLK_TCK")
WORKERS = 2

SEED = """
INSERT INTO users (name, email, password, role, stamp)
SELECT 'User number ' || g, 'user' || g || '@example.com', :password, CASE g WHEN 1 THEN 'admin' ELSE 'user' END, 's'
FROM generate_series(1, :users) g;
INSERT INTO categories (name, folded) SELECT 'Category ' || g, 'category ' || g FROM generate_series(1, 20) g;
INSERT INTO events (name, description, venue, poster, category_id, status, starts_at, ends_at, duration, version)
SELECT 'Event number ' || g,
    'A description of event ' || g || ' of about a hundred characters, so that the payload is realistic enough.',
    'Venue ' || g % 200, 'https://example.com/posters/' || g || '.jpg', 1 + g % 20, 'published',
    now() + interval '1 day' + g % 5000 * interval '1 hour',
    now() + interval '1 day 3 hours' + g % 5000 * interval '1 hour', 10800, 1
FROM generate_series(1, :events) g;
INSERT INTO ticket_types (event_id, name, price, quantity)
SELECT 1 + (g - 1) / 2, CASE g % 2 WHEN 0 THEN 'VIP' ELSE 'Regular' END, 1000 + g % 50 * 100, 2000000000
FROM generate_series(1, 2 * :events) g
"""
ATTENDEES = """
INSERT INTO orders (code, user_id, number, event_id, status, total, currency, expires_at)
SELECT 'O' || g, 1 + g % :users, 1000000 + g, 1, 'paid', 1000, 'USD', now() FROM generate_series(1, :attendees) g;
INSERT INTO tickets (code, order_id, event_id, user_id, ticket_type_id, status)
SELECT 'T' || id, id, 1, user_id, 1, 'valid' FROM orders WHERE code LIKE 'O%'
"""
LOAD = """
local tokens, counter, next_thread = {}, 0, 0
function setup(thread) thread:set("offset", next_thread); next_thread = next_thread + 1 end
function init(args)
  for line in io.lines(os.getenv("TOKENS")) do tokens[#tokens + 1] = line end
  math.randomseed(os.time() + offset)
  counter = math.random(#tokens)
  types, events = tonumber(os.getenv("TYPES")), tonumber(os.getenv("EVENTS"))
end
local calls = {
  order = function()
    counter = counter % #tokens + 1
    local body = '{"items":[{"ticket_type_id":' .. math.random(types) .. ',"quantity":1}]}'
    local headers = {["Authorization"] = "Bearer " .. tokens[counter], ["Content-Type"] = "application/json"}
    return "POST", "/orders", headers, body
  end,
  event = function() return "GET", "/events/" .. math.random(events) end,
  path = function() return "GET", os.getenv("CALL_PATH") end,
}
function request() return wrk.format(calls[os.getenv("CALL")]()) end
function response(status, headers, body) if status >= 300 then io.stderr:write(status, " ", body, "\\n") end end
"""


class Server:
    """One of the two, running; `paths` are where its calls differ."""

    def __init__(self, name, command, port, environment, tokens):
        self.name, self.tokens, self.address = name, tokens, f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command,
            env=os.environ | environment,
            cwd=PEER if name == "peer" else HERE.parent,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(300):
            with suppress(requests.ConnectionError):
                requests.get(f"{self.address}/events?limit=1", timeout=60).raise_for_status()
                return
            time.sleep(0.1)
        raise SystemExit(f"{name} does not answer")

    def processes(self):
        """The server's process and all below it."""
        found, new = set(), {self.process.pid}
        while new:
            found |= new
            below = subprocess.run(
                ["pgrep", "-P", ",".join(map(str, new))], capture_output=True, text=True, check=False
            )
            new = {int(pid) for pid in below.stdout.split()} - found
        return found

    def cpu(self):
        """Seconds of CPU time used so far."""
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self):
        """MB of the largest process, its peak since it started."""
        peaks = [re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1] for pid in self.processes()]
        return max(map(int, peaks)) / 1024

    def forget_peak(self):
        for pid in self.processes():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def admin(self):
        return {"Authorization": f"Bearer {self.tokens.read_text().split()[0]}"}

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def load(server, *, call, seconds, connections=32, types=1, events=1, path=""):
    """Requests a second, CPU microseconds a request, p50 and p99 in milliseconds, under the load of `connections`."""
    environment = {
        "CALL": call,
        "TYPES": str(types),
        "EVENTS": str(events),
        "TOKENS": str(server.tokens),
        "CALL_PATH": path,
    }
    before = server.cpu()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LOAD)
        script.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}",
            "--timeout",
            "60",
            "--latency",
            "-s",
            script.name,
            server.address,
        ]
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    if run.stderr or "Socket errors" in run.stdout:
        print(run.stderr[:300], *re.findall("Socket errors.*", run.stdout), file=sys.stderr)
    count = int(re.search(r"(\d+) requests in", run.stdout)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", run.stdout)[1])
    p50, p99 = (milliseconds(re.search(rf"\n\s+{part}%\s+([\d.]+)(\w+)", run.stdout)) for part in (50, 99))
    return {"rate": rate, "cpu": (server.cpu() - before) / max(count, 1) * 1e6, "p50": p50, "p99": p99}


def milliseconds(match):
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[match[2]]


def take_turns(rounds, one, other, measure):
    """`rounds` pairs of measurements after one to warm up, who begins changing from pair to pair."""
    pairs = []
    for turn in range(rounds + 1):
        order = (one, other) if turn % 2 == 0 else (other, one)
        found = {id(who): measure(who) for who in order}
        pairs.append((found[id(one)], found[id(other)]))
    return pairs[1:]


def median(values):
    return statistics.median(values)


def report(name, goal, pairs, figure="rate"):
    """A row of the table: the median of the pairs' ratios, and the raw rounds below it."""
    ratio = median(ours[figure] / theirs[figure] for ours, theirs in pairs)
    print(f"\n| {name} | {goal} | **{ratio:.2f}** |", flush=True)
    for who, found in zip(("ours", "other"), zip(*pairs, strict=True), strict=True):
        rounds = " ".join(f"{round_[figure]:.4g}" for round_ in found)
        beside = [key for key in ("cpu", "p50", "p99") if key in found[0]]
        rest = (f"{key} {median([round_[key] for round_ in found]):.0f}" for key in beside)
        print(f"    {who:6} {figure}: {rounds}   {'  '.join(rest)}", flush=True)


# The rows


def orders(ours, peer, size):
    for name, goal, types in (("one hot ticket type", 3, 1), ("2,000 ticket types", 2, 2000)):
        order = partial(load, call="order", types=types, seconds=size.seconds)
        report(f"`POST /orders`, {name}, 32 buyers, against the peer", goal, take_turns(size.rounds, ours, peer, order))


def orders_against_pgbench(ours, database, size):
    def measure(who):
        return load(ours, call="order", seconds=size.seconds) if who is ours else pgbench(database, size)

    report("`POST /orders`, one hot ticket type, against pgbench", 0.5, take_turns(size.rounds, ours, None, measure))


def pgbench(database, size):
    url = make_url(database)
    command = ["pgbench", "-n", "-M", "prepared", "-c", "8", "-j", "1", "-T", str(size.seconds), "-D", "types=1"]
    command += ["-D", f"users={size.users}", "-f", str(PEER / "order.pgbench.sql")]
    command += ["-h", url.host, "-p", str(url.port or 5432), "-U", url.username, url.database]
    environment = os.environ | ({"PGPASSWORD": url.password} if url.password else {})
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {"rate": float(re.search(r"tps = ([\d.]+)", run.stdout)[1])}


def reads(ours, peer, size):
    for name, goal, call in (("`GET /events`, 50 of many", 1.6, "path"), ("`GET /events/<id>`", 1.3, "event")):
        read = partial(load, call=call, path="/events?limit=50", events=size.events, seconds=size.seconds)
        report(f"{name}, against the peer", goal, take_turns(size.rounds, ours, peer, read))


def deep_page(ours, size):
    """The first page against one at nine tenths, both of `size.many` events."""
    first, deep = "/events?limit=50", "/events?limit=50&after=" + cursor_at(ours, size.many * 9 // 10)
    pairs = take_turns(size.rounds, deep, first, lambda path: load(ours, call="path", path=path, seconds=size.seconds))
    report(f"a page at nine tenths of {size.many:,} events, against the first", 0.9, pairs)


def cursor_at(server, place):
    """The cursor of this place in the list: found from the last event of the page before it, as the API gives it."""
    engine = create_engine(server.database)
    starts = "SELECT starts_at FROM events ORDER BY starts_at, id OFFSET :place LIMIT 1"
    with engine.connect() as connection:
        moment = connection.execute(text(starts), {"place": place}).scalar_one()
    engine.dispose()
    since = moment.strftime("%Y-%m-%dT%H:%M:%S+00:00").replace("+", "%2B")
    answer = requests.get(f"{server.address}/events?limit=1&from={since}", timeout=60)
    return re.search(r"after=([\w-]+)", answer.headers["Link"])[1]


def all_users(ours, peer, size):
    pairs = take_turns(size.rounds, ours, peer, lambda who: read_whole(who, "/users"))
    report(f"`GET /users`, {size.users:,} users, against the peer", 4, pairs)
    print_bounds(pairs, "memory", "MB above idle (goal: at most 10)")
    print_bounds(pairs, "first byte", "of the whole time until the first byte (goal: at most 0.05)")


ATTENDEES_PATH = "/events/1/attendees"


def read_whole(who, path):
    """Read one long answer as it comes: its rate, when its first byte came, its lines, MB above idle."""
    who.forget_peak()
    idle, start = who.memory(), time.perf_counter()
    headers = who.admin() | {"Accept": "text/csv" if path == ATTENDEES_PATH else "application/json"}
    with requests.get(f"{who.address}{path}", headers=headers, stream=True, timeout=600) as answer:
        answer.raise_for_status()
        lines, first = 0, None
        for part in answer.iter_content(65536):
            first = first or time.perf_counter() - start
            lines += part.count(b"\n")
    whole = time.perf_counter() - start
    return {"rate": 1 / whole, "first byte": first / whole, "lines": lines, "memory": who.memory() - idle}


def print_bounds(pairs, figure, unit):
    ours, other = (median([round_[figure] for round_ in found]) for found in zip(*pairs, strict=True))
    print(f"    ours {ours:.3g}, other {other:.3g} {unit}", flush=True)


def attendees(ours, size):
    found = [read_whole(ours, ATTENDEES_PATH) for _ in range(size.rounds)]
    assert {it["lines"] for it in found} == {size.users + 1}
    memory = median(it["memory"] for it in found)
    print(f"\n| attendees of an event with {size.users:,} tickets as CSV, MB above idle | 10 | **{memory:.1f}** |")


def log_ins(ours, size):
    """Log-ins a second by 8 clients, against bare bcrypt on two threads."""

    def measure(who):
        return {
            "rate": while_logging_in(ours, lambda: time.sleep(size.seconds))
            if who is ours
            else bare_bcrypt(size.seconds)
        }

    report(
        "`POST /login`, bcrypt 12, against bare bcrypt on two threads",
        0.9,
        take_turns(size.rounds, ours, None, measure),
    )


def bare_bcrypt(seconds):
    hashed, end = bcrypt.hashpw(PASSWORD, bcrypt.gensalt(12)), time.perf_counter() + seconds

    def work():
        count = 0
        while time.perf_counter() < end:
            bcrypt.checkpw(PASSWORD, hashed)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        return sum(task.result() for task in [pool.submit(work) for _ in range(2)]) / seconds


def while_logging_in(server, act):
    """Do `act` while 8 clients log in without pause, and return log-ins a second."""
    going, start = [True], time.perf_counter()

    def log_in(client):
        session, count = requests.Session(), 0
        while going:
            body = {"email": f"user{client + 2}@example.com", "password": PASSWORD.decode()}
            session.post(f"{server.address}/login", json=body, timeout=60).raise_for_status()
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(log_in, client) for client in range(8)]
        act()
        going.clear()
        count = sum(task.result() for task in tasks)
    return count / (time.perf_counter() - start)


def reads_while_logging_in(ours, peer, size):
    def measure(who):
        found = {}
        while_logging_in(
            who, lambda: found.update(load(who, call="event", events=size.events, connections=4, seconds=size.seconds))
        )
        return found

    pairs = take_turns(size.rounds, ours, peer, measure)
    report("`GET /events/<id>` at p99 while 8 clients log in, against the peer", 0.5, pairs, figure="p99")


def sqlite_orders(size, tokens, folder):
    """Orders on SQLite, against as many bare transactions as two processes can do with the same statements."""
    url = f"sqlite:///{folder}/shop.db"
    migrate(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in SQLITE_SEED:
            connection.execute(text(statement), {"users": size.users})
    engine.dispose()
    bare = f"{folder}/bare.db"
    shutil.copy(f"{folder}/shop.db", bare)
    server = Server(
        "SQLite", SERVE, (port := free_port()), {"DATABASE_URL": url, "PORT": str(port), **SETTINGS}, tokens
    )

    def measure(who):
        return load(server, call="order", seconds=size.seconds) if who is server else bare_transactions(bare, size)

    try:
        report(
            "`POST /orders` on SQLite, against bare transactions", 0.25, take_turns(size.rounds, server, None, measure)
        )
    finally:
        server.stop()


SQLITE_SEED = (
    """WITH RECURSIVE series(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM series WHERE g < :users)
    INSERT INTO users (name, email, role, stamp)
    SELECT 'User', 'user' || g || '@example.com', CASE g WHEN 1 THEN 'admin' ELSE 'user' END, 's' FROM series""",
    "INSERT INTO categories (name, folded) VALUES ('Music', 'music')",
    """INSERT INTO events (name, description, venue, category_id, status, starts_at, ends_at, duration, version)
    VALUES ('Concert', 'Music', 'Hall', 1, 'published', '2999-01-01 20:00:00', '2999-01-01 23:00:00', 10800, 1)""",
    "INSERT INTO ticket_types (event_id, name, price, quantity) VALUES (1, 'Regular', 1000, 2000000000)",
)


def bare_transactions(database, size):
    with Pool(2) as pool:
        return {"rate": sum(pool.starmap(bare_orders, [(database, size.seconds)] * 2)) / size.seconds}


def bare_orders(database, seconds):
    connection = sqlite3.connect(database, timeout=30, isolation_level="IMMEDIATE")
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        connection.execute("UPDATE ticket_types SET held = held + 1 WHERE id = 1 AND quantity - sold - held >= 1")
        order_id = connection.execute(BARE_ORDER, (secrets.token_hex(16),)).lastrowid
        connection.execute(BARE_ITEM, (order_id,))
        connection.commit()
        count += 1
    return count


BARE_ORDER = """
INSERT INTO orders (code, user_id, number, event_id, status, total, currency, expires_at)
VALUES (?, 2, abs(random()), 1, 'pending', 1000, 'USD', datetime('now', '+900 seconds'))
"""
BARE_ITEM = """
INSERT INTO order_items (order_id, ticket_type_id, name, quantity, unit_price) VALUES (?, 1, 'Regular', 1, 1000)
"""


# How cost grows


def growth(postgresql, folder, sizes, seconds):
    """Print what a call costs where there are many rows, as a multiple of what it costs where there are few."""
    found = {}
    for count in sizes:
        with database(postgresql, "bench_growth") as url:
            migrate(url)
            fill(url, SEED, ATTENDEES, users=count, events=count, attendees=count)
            tokens = write_tokens(folder / f"tokens-{count}", min(count, 10_000))
            port = free_port()
            server = Server("ours", SERVE, port, {"DATABASE_URL": url, "PORT": str(port), **SETTINGS}, tokens)
            server.database = url
            try:
                found[count] = {name: 1 / rate for name, rate in costs(server, count, seconds)}
            finally:
                server.stop()
    print(f"| users, events, tickets | {' | '.join(f'{count:,}' for count in sizes)} |  {seconds} s each")
    print("|---" * (len(sizes) + 1) + "|")
    for name, first in found[sizes[0]].items():
        print(f"| {name} | {' | '.join(f'{found[count][name] / first:.2g}' for count in sizes)} |", flush=True)
    for name in found[sizes[0]]:
        print(f"    {name}, seconds: {' '.join(f'{found[count][name]:.3g}' for count in sizes)}")


def costs(server, count, seconds):
    """How many of each call are done in a second: short ones by 32 clients at once, long ones by one."""

    def rate(call, **about):
        return load(server, call=call, seconds=seconds, **about)["rate"]

    deep = "/events?limit=50&after=" + cursor_at(server, count * 9 // 10)
    yield "`POST /orders`, one ticket type", rate("order")
    yield "`POST /orders`, over all ticket types", rate("order", types=2 * count)
    yield "`GET /events`, first page", rate("path", path="/events?limit=50")
    yield "`GET /events`, page at nine tenths", rate("path", path=deep)
    yield "`GET /events?q=`, a word that none has", rate("path", path="/events?q=zebra", connections=2)
    yield "`GET /events/<id>`", rate("event", events=count)
    yield "`GET /users`, all of them", read_whole(server, "/users")["rate"]
    yield "attendees as CSV, all of them", read_whole(server, ATTENDEES_PATH)["rate"]


# What they run on

SERVE = [sys.executable, "-c", "from app import serve; serve()"]
SETTINGS = {"WEB_CONCURRENCY": str(WORKERS), "LOG_LEVEL": "WARNING", "JWT_SECRET_KEY": SECRET}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def migrate(url):
    command = [sys.executable, "-m", "flask", "--app", "app", "db", "upgrade"]
    subprocess.run(command, cwd=HERE.parent, env=os.environ | SETTINGS | {"DATABASE_URL": url}, check=True)


@contextmanager
def database(server, name):
    """A new database on the PostgreSQL server, gone afterwards."""
    url = make_url(server.replace("postgres://", "postgresql://")).set(drivername="postgresql+psycopg2")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"{name}_{secrets.token_hex(4)}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def fill(url, *statements, **numbers):
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    password = bcrypt.hashpw(PASSWORD, bcrypt.gensalt(12)).decode()
    with engine.connect() as connection:
        for statement in ";".join(statements).split(";"):
            connection.execute(text(statement), {"password": password, **numbers})
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def write_tokens(path, count):
    """A file of a token a user, the admin's first; they do for both, the peer does not look at the stamp."""
    now, tokens = int(time.time()), []
    for id in range(1, count + 1):
        claims = {"sub": str(id), "role": "admin" if id == 1 else "user", "type": "access", "fresh": False}
        claims |= {"iat": now, "exp": now + 86400, "jti": str(id), "stamp": "s", "sid": str(id)}
        tokens.append(jwt.encode(claims, SECRET, "HS256") + "\n")
    path.write_text("".join(tokens))
    return path


def peer_python(folder):
    """The Python of a virtual environment with what the peer needs."""
    venv.create(folder, with_pip=True)
    packages = ["fastapi", "uvicorn[standard]", "sqlalchemy[asyncio]", "asyncpg", "pyjwt", "bcrypt"]
    subprocess.run([f"{folder}/bin/pip", "install", "--quiet", *packages], check=True)
    return f"{folder}/bin/python"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="little data and one round, to see that it works")
    parser.add_argument("--grow", action="store_true", help="how cost grows with the rows there are, and nothing else")
    parser.add_argument("--rows", default="", help="only the functions of these names, with commas between")
    parser.add_argument("--peer-python", help="a Python that has what the peer needs, instead of installing that")
    options = parser.parse_args()
    size = argparse.Namespace(rounds=5, seconds=5, users=100_000, events=10_000, many=1_000_000)
    if options.short:
        size = argparse.Namespace(rounds=1, seconds=2, users=2_000, events=1_000, many=10_000)
    postgresql = os.environ.get("TEST_DATABASE_URL") or sys.exit("TEST_DATABASE_URL is not set")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.grow or options.short:
            sizes = (2_000, 4_000) if options.short else (1_000, 10_000, 100_000, 1_000_000)
            growth(postgresql, folder, sizes, size.seconds)
        if options.grow:
            return
        tokens = write_tokens(folder / "tokens", min(size.users, 10_000))
        measure(stack, options, size, postgresql, tokens, options.peer_python or peer_python(folder / "peer"))


def measure(stack, options, size, postgresql, tokens, python):
    def wanted(row):
        return not options.rows or row.__name__ in options.rows.split(",")

    def serve(name, url, command, **settings):
        server = Server(name, command, settings.pop("port"), {"DATABASE_URL": url, **SETTINGS, **settings}, tokens)
        server.database = url
        stack.callback(server.stop)
        return server

    shop, other = (stack.enter_context(database(postgresql, name)) for name in ("bench", "bench_peer"))
    migrate(shop)
    fill(shop, SEED, ATTENDEES, users=size.users, events=size.events, attendees=size.users)
    asynchronous = make_url(other).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    seed = os.environ | {"DATABASE_URL": asynchronous, "JWT_SECRET_KEY": SECRET}
    subprocess.run([python, "seed.py", str(size.users), str(size.events)], cwd=PEER, env=seed, check=True)
    port = free_port()
    ours = serve("ours", shop, SERVE, port=port, PORT=str(port))
    port = free_port()
    uvicorn = [python, "-m", "uvicorn", "fastapi_app:app", "--workers", str(WORKERS), "--port", str(port)]
    peer = serve("peer", asynchronous, [*uvicorn, "--no-access-log", "--log-level", "warning"], port=port, POOL="16")

    print(
        f"| work | goal | measured |\n|---|---|---|   {os.cpu_count()} cores, {size.rounds} rounds of {size.seconds} s"
    )
    for row, *arguments in (
        (orders, ours, peer, size),
        (orders_against_pgbench, ours, other, size),
        (reads, ours, peer, size),
        (all_users, ours, peer, size),
        (log_ins, ours, size),
        (reads_while_logging_in, ours, peer, size),
        (attendees, ours, size),
    ):
        if wanted(row):
            row(*arguments)
    if wanted(deep_page):
        fill(shop, SEED_MORE, first=size.events + 1, last=size.many)
        deep_page(ours, size)
    if wanted(sqlite_orders):
        sqlite_orders(size, tokens, tokens.parent)


SEED_MORE = (
    re.search(r"INSERT INTO events.*?;", SEED, re.DOTALL)[0]
    .rstrip(";")
    .replace("generate_series(1, :events)", "generate_series(CAST(:first AS int), :last)")
)

if __name__ == "__main__":
    main()
