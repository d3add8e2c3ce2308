"""Rate limits. Of log-ins only failed ones count, by client and by account."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from hashlib import sha256
from ipaddress import IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, current_app, request
from flask_limiter import Limiter, RequestLimit
from werkzeug.exceptions import Unauthorized

from models import LONGEST_EMAIL, BoundedQueue, normal_email
from routes.http.views import View, mark
from routes.selling.accounts import Credentials, WrongPassword


def client() -> str:
    """Who is asking: the address, or in IPv6 its /64, where one client has all addresses."""
    return network_of(64)


def network() -> str:
    """The /48 in IPv6, which is what one customer is given, and 65,536 clients to `client`."""
    return network_of(48)


def network_of(bits: int) -> str:
    given = (request.remote_addr or "unknown")[:100]
    try:
        address = ip_address(given)
    except ValueError:
        return without_port(given)
    mapped = getattr(address, "ipv4_mapped", None)
    if address.version == 4 or mapped:
        return str(mapped or address)
    return str(IPv6Network((int(address), bits), strict=False))


def without_port(given: str) -> str:
    """The address alone. Some proxies add the client's port, which is another one each time."""
    try:
        return urlsplit(f"//{given}").hostname or given
    except ValueError:
        return given


def guessed_account() -> str:
    """The account that is guessed at, until it gets a new password. The storage learns nobody's email address."""
    known: Credentials = request.environ["ticketing.guessed"]
    email = known.email[: LONGEST_EMAIL + 1]
    with suppress(ValueError):
        email = normal_email(email)
    return sha256(f"{email} {known.token_version}".encode()).hexdigest()


def client_and_account() -> str:
    return f"{client()} {guessed_account()}"


def log_breach(limit: RequestLimit) -> None:
    """Log a limit that was reached, without the client's address, which the extension's own line has."""
    current_app.logger.warning("limit reached", extra={"call": request.path, "limit": str(limit.limit)})


limiter = Limiter(client, on_breach=log_breach)
limiter.logger.addFilter(lambda record: not record.getMessage().startswith("ratelimit "))
limiter.request_filter(lambda: current_app.testing or not current_app.config["RATELIMIT_ENABLED"])

Decorator = Callable[[Callable[[], None]], Callable[[], None]]
NETWORK = 10  # so many times what one client may, all clients of one network may


def limit(setting: str, period: str, key: Callable[[], str], *, times: int = 1, **options: Any) -> Decorator:
    """A limit that the `setting` of the application gives. Functions with one `scope` count together."""
    return limiter.shared_limit(lambda: f"{current_app.config[setting] * times} per {period}", key_func=key, **options)


def hourly(setting: str, **options: Any) -> Decorator:
    """A limit for one client, and a larger one for its network."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        for_network = limit(setting, "hour", network, times=NETWORK, **options)
        return limit(setting, "hour", client, **options)(for_network(function))

    return decorate


def guesses(**options: Any) -> Decorator:
    """The limits on failed log-ins, for a function that is called to look at them."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        options["scope"] = "log-in"
        for_account = limit("ACCOUNT_FAILED_LOGINS_PER_HOUR", "hour", guessed_account, **options)
        for_both = limit("FAILED_LOGINS_PER_MINUTE", "minute", client_and_account, **options)
        return for_both(hourly("FAILED_LOGINS_PER_HOUR", **options)(for_account(function)))

    return decorate


@guesses(deduct_when=lambda response: False)
def check_guesses() -> None:
    """Raise RateLimitExceeded if no guess is left; counts nothing."""


@guesses()
def use_up_guess() -> None:
    """Count a guess, and raise RateLimitExceeded if none was left."""


@contextmanager
def guessing(known: Credentials) -> Iterator[None]:
    """Around a look at a password, of which only so many may fail.

    Passwords take long to check: the limits are looked at before and after, so that many guesses made at once learn no
    more than if they came one by one.
    """
    request.environ["ticketing.guessed"] = known
    check_guesses()
    try:
        yield
    except (Unauthorized, WrongPassword):
        use_up_guess()
        raise
    check_guesses()


@hourly("SIGN_UPS_PER_HOUR", scope="sign-up")
def count_sign_up() -> None:
    """Raise RateLimitExceeded where there have been too many."""


@hourly("ADDRESS_CHANGES_PER_HOUR", scope="address")
def count_address_change() -> None:
    """Raise RateLimitExceeded where there have been too many: each tells whether an address has an account."""


@hourly("PASSWORD_RESETS_PER_HOUR", scope="password reset")
def count_password_reset() -> None:
    """Raise RateLimitExceeded where there have been too many."""


@limit("PROMO_LOOK_UPS_PER_MINUTE", "minute", client, scope="promo code")
@limit("PROMO_LOOK_UPS_PER_MINUTE", "minute", network, times=NETWORK, scope="promo code")
def count_promo_look_up() -> None:
    """Raise RateLimitExceeded where there have been too many: each may be a guess at a code."""


MANY_TICKETS = 50
big_orders = BoundedQueue()


def big_orders_in_turn(view: View) -> View:
    """Orders of many tickets, which take long to write, are written one at a time in each process: all others wait no
    longer than for one. Raises Busy where eight wait; none of them has a connection meanwhile."""

    @wraps(view)
    def in_turn(self: Any, args: dict[str, Any], **kwargs: Any) -> Any:
        if sum(line["quantity"] for line in args["items"]) <= MANY_TICKETS:
            return view(self, args, **kwargs)
        with big_orders.slot(workers=1, queue=8):
            return view(self, args, **kwargs)

    return in_turn


def limited(view: View) -> View:
    """Mark for the documentation that the view may answer 429."""
    return mark(view, limited=True)


def register(app: Flask) -> None:
    limiter.init_app(app)
    # Its limits are looked at where they are called. To look for others before every request took a fifteenth of an
    # order's time, and Flask-Limiter 4.1.1 has no setting against it.
    hooks = app.before_request_funcs
    hooks[None] = [hook for hook in hooks[None] if hook != limiter._check_request_limit]
    limiter.enabled = True  # one limiter serves every application made; each one's configuration decides at the call
