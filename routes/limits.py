"""How often one client may guess: only failed log-ins count, and only for the client that made them."""

from contextlib import suppress
from functools import wraps
from hashlib import sha256
from ipaddress import IPv6Network, ip_address
from urllib.parse import urlsplit

from flask import current_app, request
from flask_limiter import Limiter
from werkzeug.exceptions import Unauthorized

from models import normal_email


def client():
    """Who is asking: the address, or its /64 in IPv6, of which one client has as many as it likes."""
    given = request.remote_addr or "unknown"
    try:
        address = ip_address(given)
    except ValueError:
        return without_port(given)
    address = getattr(address, "ipv4_mapped", None) or address
    return str(address) if address.version == 4 else str(IPv6Network((int(address), 64), strict=False))


def without_port(given):
    """Some proxies name the client's port too, which is another one each time."""
    try:
        return urlsplit(f"//{given}").hostname or given
    except ValueError:
        return given


def client_and_account():
    """One client's tries on one account, however it is spelled. Hashed: the storage learns nobody's email address."""
    email = request.json_object["email"]
    with suppress(ValueError):
        email = normal_email(email)
    return f"{client()} {sha256(email.encode()).hexdigest()}"


def log_breach(limit):
    """Without the client's address, which the extension's own line has."""
    current_app.logger.warning("limit reached", extra={"call": request.path, "limit": str(limit.limit)})


limiter = Limiter(client, on_breach=log_breach)
limiter.logger.addFilter(lambda record: not record.getMessage().startswith("ratelimit "))
limiter.request_filter(lambda: current_app.testing or not current_app.config["RATELIMIT_ENABLED"])


def guesses(**options):
    """The limits on failed log-ins, for a function that is called to look at them."""

    def limit(function):
        hourly = limiter.shared_limit("100 per hour", scope="log-in", **options)
        for_account = limiter.shared_limit("10 per minute", scope="log-in", key_func=client_and_account, **options)
        return for_account(hourly(function))

    return limit


@guesses(deduct_when=lambda response: False)
def check_guesses():
    """Raise RateLimitExceeded where there are none left; uses up none."""


@guesses()
def use_up_guess():
    """Raise RateLimitExceeded where there was none left."""


def failed_logins(view):
    """Limit the log-ins that fail.

    Passwords take long to check: the limits are looked at before and after, so that many guesses made at once learn no
    more than if they came one by one.
    """

    @wraps(view)
    def limited(*args, **kwargs):
        check_guesses()
        try:
            answer = view(*args, **kwargs)
        except Unauthorized:
            use_up_guess()
            raise
        check_guesses()
        return answer

    limited.limited = True
    return limited


def sign_ups(view):
    view = limiter.limit("100 per hour")(view)
    view.limited = True
    return view
