"""The asynchronous front of the production server: it reads whole requests, and a few threads answer them.

An ASGI application, served by Granian, around the WSGI application that Flask is. No thread waits for a client: not
for a slow body, not for a slow reader, not for one who has left. What waits for a thread is bounded.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from functools import lru_cache, partial
from io import BytesIO
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from flask import Flask
from werkzeug.exceptions import RequestTimeout, ServiceUnavailable

from routes.http.logs import NOTED, log_request
from routes.http.request import REFUSAL

BODY_SECONDS = 10  # for a whole body, however slowly it comes
BODY_BYTES = 64 * 2**20  # of all bodies in a process; one of up to SMALL_BODY is taken also beyond
SMALL_BODY = 2**16
DISCARDED = 2**24  # bytes of a body that is too large
WAITING = 1000  # requests that wait for a thread, in each process
CLIENT_LEFT = 499  # nginx's status for it, in the log alone

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]
Body = Any  # what Werkzeug gives: an iterator of bytes with a method `close`
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Call:
    """A request on its way to its answer."""

    def __init__(self, environ: Environ, send: Send) -> None:
        self.environ, self.send, self.began = environ, send, time.perf_counter()
        self.lock = Lock()
        self.body_is_whole = True
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []

    def claim(self) -> bool:
        """Whether the caller was first: the thread that begins, or the front whose client left before."""
        return self.lock.acquire(blocking=False)

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Callable[[bytes], Any]:
        """WSGI's `start_response`. What it returns is for applications older than ours."""
        self.status = int(status[:3])
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if not self.body_is_whole:
            self.headers.append((b"connection", b"close"))  # the server itself says it or not, as it happens
        return self.reply

    def reply(self, body: bytes, *, more: bool = False) -> None:
        """Send the head and all of the body, or its beginning. Granian takes that from any thread, and at once."""
        self.send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        self.send({"type": "http.response.body", "body": body, "more_body": more})

    def log(self, status: int) -> None:
        log_request(self.environ, status, time.perf_counter() - self.began)


class Threads:
    """The few threads that answer calls. `unfinished` counts what they are given and have not done yet."""

    def __init__(self, many: int) -> None:
        self.many, self.unfinished = many, 0
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for _ in range(many):
            Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            self.jobs.get()()

    def run(self, job: Callable[[], Result], claim: Callable[[], bool] | None = None) -> asyncio.Future[Result]:
        """What the job returns or raises. An executor does the same at twice the cost."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def work() -> None:
            if claim and not claim():
                return
            try:
                settle = partial(done.set_result, job())
            except Exception as error:
                settle = partial(done.set_exception, error)
            loop.call_soon_threadsafe(self.finish, done, settle)

        self.unfinished += 1
        self.jobs.put(work)
        return done

    def finish(self, done: asyncio.Future[Result], settle: Callable[[], None]) -> None:
        self.unfinished -= 1
        if not done.done():
            settle()

    def drop(self) -> None:
        """Count a job as done that its caller has claimed: no thread will."""
        self.unfinished -= 1

    @property
    def all_busy(self) -> bool:
        return self.unfinished >= self.many

    @property
    def full(self) -> bool:
        return self.unfinished >= self.many + WAITING


class Front:
    """The ASGI application of one process."""

    def __init__(self, app: Flask) -> None:
        self.app, self.longest = app, app.config["MAX_CONTENT_LENGTH"]
        self.calls = self.body_bytes = 0
        self.threads = Threads(app.config["THREADS"])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.calls += 1
        body = bytearray()
        try:
            call = Call(environ_of(scope), send)
            if not await self.read_body(call, body, receive):
                return
            rest = await self.answer(call, receive)
            if rest:
                await self.stream(call, rest, receive)
        finally:
            self.calls -= 1
            self.body_bytes -= len(body)

    async def read_body(self, call: Call, body: bytearray, receive: Receive) -> bool:
        """Read the body; where it can't be had, the environment says why. False if the client is gone.

        One that is too large is read and thrown away, as far as that goes: many clients see no answer while they send.
        """
        environ = call.environ
        declared, size = int(environ.get("CONTENT_LENGTH", 0)), 0
        more = declared > 0 or "HTTP_TRANSFER_ENCODING" in environ
        if declared > self.longest and "HTTP_EXPECT" in environ:
            call.body_is_whole = False
            return True  # this client waits for the answer before it sends
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and size <= DISCARDED:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    size, more = size + len(message["body"]), message["more_body"]
                    if max(declared, size) <= self.longest:
                        self.keep(message["body"], body)
        except TimeoutError:
            environ[REFUSAL] = RequestTimeout("The body came too slowly")
        except ServiceUnavailable as error:
            environ[REFUSAL] = error
        call.body_is_whole = not more
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ |= {"CONTENT_LENGTH": str(size), "wsgi.input": BytesIO(body)}
        return True

    def keep(self, chunk: bytes, body: bytearray) -> None:
        body += chunk
        self.body_bytes += len(chunk)
        if self.body_bytes > BODY_BYTES and len(body) > SMALL_BODY:
            raise busy()

    async def answer(self, call: Call, receive: Receive) -> Body | None:
        """Answer here what takes no time, and the rest in a thread once one is free."""
        if self.threads.full:
            call.environ.setdefault(REFUSAL, busy())
        if REFUSAL in call.environ or asks_no_database(call.environ):
            return self.begin(call)
        waits = self.threads.all_busy
        answer = self.threads.run(partial(self.begin, call), call.claim)
        if waits:
            gone = asyncio.ensure_future(client_left(receive))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not answer.done() and call.claim():
                self.threads.drop()
                call.log(CLIENT_LEFT)
                call.environ.clear()  # the thread that comes upon the call finds nothing to do
                return None
        return await answer

    def begin(self, call: Call) -> Body | None:
        """Answer the call. Of an answer whose length is not known, send the beginning and return the rest."""
        try:
            return self.call_app(call)
        except Exception as error:
            call.environ[REFUSAL] = error  # the application says and logs it like every other
            return self.call_app(call)

    def call_app(self, call: Call) -> Body | None:
        with ExitStack() as cleanup:
            body: Body = iter(self.app(call.environ, call.start))
            cleanup.callback(body.close)
            if any(name == b"content-length" for name, _ in call.headers):
                whole = b"".join(body)
            elif (first := next(body, None)) is not None:
                call.reply(first, more=True)
                cleanup.pop_all()
                return body
            else:
                whole = b""
        call.reply(whole)
        call.log(call.status)
        return None

    async def stream(self, call: Call, rest: Body, receive: Receive) -> None:
        """Send the rest chunk by chunk, as fast as the client reads. One without its end breaks the connection."""
        gone = asyncio.ensure_future(client_left(receive))
        status = CLIENT_LEFT
        try:
            while not gone.done():
                chunk = await self.threads.run(partial(next, rest, None))
                await call.send({"type": "http.response.body", "body": chunk or b"", "more_body": chunk is not None})
                if chunk is None:
                    status = call.status
                    break
        except Exception:
            status = 500
            logger.exception("An answer broke off", extra={"request_id": call.environ[NOTED]["request_id"]})
        finally:
            gone.cancel()
            await self.threads.run(rest.close)
            call.log(status)


def environ_of(scope: Message) -> Environ:
    """WSGI's environment for a request, but for its body. Names with `_` could pass for those that a proxy sets."""
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REMOTE_ADDR": scope["client"][0].removeprefix("::ffff:"),
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": scope["server"][1],
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" not in name:
            key, text = key_of(name), value.decode("latin-1")
            joined = key in environ and key.startswith("HTTP_")
            environ[key] = f"{environ[key]},{text}" if joined else text
    return environ


@lru_cache(maxsize=256)
def key_of(name: bytes) -> str:
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def asks_no_database(environ: Environ) -> bool:
    """Whether it is answered at once and always: a preflight, and whether the process lives."""
    return environ["REQUEST_METHOD"] == "OPTIONS" or environ["PATH_INFO"] == "/health/live"


def busy() -> ServiceUnavailable:
    return ServiceUnavailable("Too many requests at once. Please try again.", retry_after=1)


async def client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
