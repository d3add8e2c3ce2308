"""Stripe as far as the shop needs it, over HTTP: `python -m tests.fakes.stripe --port 12111 --webhook URL`.

It refuses what Stripe refuses, forgets keys after a day, signs its webhooks and repeats them until they are taken, and
fails on demand. Tests in the same process call its verbs; others POST a verb's arguments to `/admin/<verb>`.
"""

import argparse
import hashlib
import hmac
import html
import json
import re
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

from tests.fakes.account import DECLINED, DELAYED, DISPUTED, GOOD, KINDS, REFUND_PENDING, Account, Json, Refusal, nested

__all__ = ("DECLINED", "DELAYED", "DISPUTED", "GOOD", "REFUND_PENDING", "FakeStripe", "sign")
VERBS = {"pay", "finish", "refund", "settle_refund", "dispute", "close_dispute"}
ADMIN = VERBS | {"fault", "set", "advance", "replay", "state"}
SUBSCRIBED = r"checkout\.session\..*|charge\.refunded|refund\.(updated|failed)|charge\.dispute\..*"


@dataclass
class Fault:
    """What befalls the next `times` calls whose path begins so: slow, down, limited, cut (not done) or lost (done)."""

    kind: str
    path: str = "/v1/"
    times: int = 1
    seconds: float = 0


class FakeStripe(Account):
    def __init__(self, port: int = 0, webhook: str = "", secret: str = "whsec_fake") -> None:
        super().__init__()
        self.webhook, self.secret, self.subscribed = webhook, secret, SUBSCRIBED
        self.notices = "calm"  # or doubled, reversed, held, dropped
        self.waiting: list[tuple[float, int, Json]] = []  # when to send it, how often it was sent, the event
        self.sending = 0
        self.faults: list[Fault] = []
        self.running = 0
        self.stopped = Event()
        self.pool = ThreadPoolExecutor(4)
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.fake = self
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.threads = [Thread(target=self.server.serve_forever, args=(0.05,)), Thread(target=self.send_due)]

    def __enter__(self) -> "FakeStripe":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stopped.set()
        self.server.shutdown()
        for thread in self.threads:
            thread.join()
        self.pool.shutdown(cancel_futures=True)
        self.server.server_close()

    def fault(self, **fields: Any) -> None:
        with self.lock:
            self.faults.append(Fault(**fields))

    def take_fault(self, path: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return Fault("none")

    def set(self, **switches: Any) -> None:
        """`notices`, `subscribed` (a pattern), `refunds_pending`, `balance_low`."""
        vars(self).update(switches)

    def advance(self, seconds: float) -> None:
        self.offset += seconds

    def state(self) -> Json:
        return {kind: self.all(kind) for kind in KINDS} | {"undelivered": self.undelivered(), "calls": self.calls}

    # Webhooks.

    def notify(self, kind: str, subject: Json) -> Json:
        event = super().notify(kind, subject)
        if self.notices != "dropped":
            self.queue(*[event] * (2 if self.notices == "doubled" else 1))
        return event

    def replay(self) -> None:
        self.queue(*self.all("event"))

    def queue(self, *events: Json) -> None:
        at = time.monotonic() + (0.3 if self.notices == "reversed" else 0)
        wanted = [event for event in events if self.webhook and re.fullmatch(self.subscribed, event["type"])]
        with self.lock:
            self.waiting += [(at, 0, event) for event in wanted]

    def undelivered(self) -> int:
        with self.lock:
            return len(self.waiting) + self.sending

    def send_due(self) -> None:
        """Several at once, or one by one from the last to the first."""
        while not self.stopped.wait(0.02):
            due = self.take_due()
            if self.notices == "reversed":
                self.pool.submit(self.send, *due[::-1])
                continue
            for it in due:
                self.pool.submit(self.send, it)

    def take_due(self) -> list[tuple[float, int, Json]]:
        with self.lock:
            self.expire_pages()
            now = time.monotonic()
            due, later = [it for it in self.waiting if it[0] <= now], [it for it in self.waiting if it[0] > now]
            if self.notices == "held" or self.notices == "reversed" and later:
                return []
            self.waiting = later
            self.sending += len(due)
            return due

    def send(self, *due: tuple[float, int, Json]) -> None:
        for _, tries, event in due:
            taken = self.post(event)
            with self.lock:
                self.sending -= 1
                if not taken:
                    self.waiting.append((time.monotonic() + min(0.1 * 2**tries, 5), tries + 1, event))

    def post(self, event: Json) -> bool:
        body, at = json.dumps(event).encode(), int(time.time())
        headers = {"Content-Type": "application/json", "Stripe-Signature": sign(body, self.secret, at)}
        with suppress(requests.RequestException):
            return requests.post(self.webhook, data=body, headers=headers, timeout=10).ok
        return False


def sign(body: bytes, secret: str, at: int) -> str:
    return f"t={at},v1={hmac.new(secret.encode(), str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    fake: FakeStripe


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are sent one by one
    server: Server

    def handle(self) -> None:
        with suppress(ConnectionError):  # who called has given up meanwhile
            super().handle()

    def do_GET(self) -> None:
        self.handle_call("GET", urlsplit(self.path).query)

    def do_POST(self) -> None:
        self.handle_call("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def handle_call(self, method: str, text: str) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/v1/"):
            return self.api(method, path, nested(text))
        try:
            if path.startswith("/admin/"):
                return self.admin(path.removeprefix("/admin/"), json.loads(text or "{}"))
            if path.startswith("/pay/"):
                return self.page(method, path.removeprefix("/pay/"), dict(parse_qsl(text)))
        except Refusal as refusal:
            return self.reply(refusal.status, refusal.text)
        self.show("<h1>This is not Stripe</h1>")

    def api(self, method: str, path: str, given: Json) -> None:
        fake = self.server.fake
        fault = fake.take_fault(path)
        with fake.lock:
            fake.running += 1
        fake.stopped.wait(fault.seconds)
        with fake.lock:
            fake.running -= 1
        if fault.kind == "cut":
            return self.hang_up()
        if fault.kind in ("down", "limited"):
            status = 503 if fault.kind == "down" else 429
            return self.reply(status, Refusal(status, "Try again later.", type="api_error").text)
        secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not secret.startswith(("sk_test_", "sk_live_", "rk_test_", "rk_live_")):
            return self.reply(401, Refusal(401, f"Invalid API Key provided: {secret}").text)
        key = self.headers.get("Idempotency-Key", "") if method == "POST" else ""
        status, text = fake.answer(method, path, given, key, "_live_" in secret)
        if fault.kind == "lost":
            return self.hang_up()
        self.reply(status, text)

    def admin(self, verb: str, given: Json) -> None:
        if verb not in ADMIN:
            raise Refusal(404, f"No such verb: {verb}")
        with self.server.fake.lock:
            text = json.dumps(getattr(self.server.fake, verb)(**given))
        self.reply(200, text)

    def page(self, method: str, id: str, given: Json) -> None:
        fake = self.server.fake
        page, lines = fake.find(id, "_live_" in id), fake.asked[id]["line_items"]
        if page["status"] != "open":
            return self.show(f"<h1>This page is closed</h1><p id=status>{page['status']}</p>")
        if method == "GET":
            return self.show(form(page, lines))
        if given.get("action") == "cancel":
            return self.go(page["cancel_url"])
        card = DECLINED if given.get("action") == "decline" else given.get("card", "").replace(" ", "")
        if fake.pay(id, card)["status"] == "complete":
            return self.go(page["success_url"])
        self.show(form(page, lines, "Your card was declined."))

    def hang_up(self) -> None:
        self.close_connection = True

    def go(self, url: str) -> None:
        self.send(303, "", Location=url)

    def show(self, text: str) -> None:
        page = f"<!DOCTYPE html><meta charset=utf-8><link rel=icon href=data:,><title>Not Stripe</title>{text}"
        self.send(200, page, **{"Content-Type": "text/html"})

    def reply(self, status: int, text: str) -> None:
        self.send(status, text, **{"Content-Type": "application/json", "Request-Id": f"req_{secrets.token_hex(6)}"})

    def send(self, status: int, text: str, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def form(page: Json, lines: list[Json], trouble: str = "") -> str:
    names = [f"{it['quantity']} × {html.escape(it['price_data']['product_data']['name'])}" for it in lines]
    return f"""
    <h1>Pay {page["amount_total"]} {page["currency"]}</h1>
    <p>This is a fake of Stripe: no money moves. {DECLINED} is declined, {REFUND_PENDING} makes refunds wait,
    {DISPUTED} is disputed, any other number pays.</p>
    <ul>{"".join(f"<li>{name}</li>" for name in names)}</ul>
    <p id=trouble>{trouble}</p>
    <form method=post>
    <label>Card number <input name=card value="{GOOD}" autocomplete=off></label>
    <button name=action value=pay>Pay</button>
    <button name=action value=decline>Decline</button>
    <button name=action value=cancel>Cancel</button>
    </form>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--webhook", default="", help="where the shop takes notices, if anywhere")
    parser.add_argument("--secret", default="whsec_fake", help="what they are signed with")
    given = parser.parse_args()
    with FakeStripe(given.port, given.webhook, given.secret) as fake:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: fake.stopped.set())
        print(f"A fake of Stripe is at {fake.address}", flush=True)
        fake.stopped.wait()


if __name__ == "__main__":
    main()
