"""How often one client may guess: only failed log-ins count, and only for the client that made them."""

from contextlib import suppress
from hashlib import sha256
from ipaddress import IPv6Network, ip_address

from flask import current_app, request
from flask_limiter import Limiter

from models import normal_email
from routes.errors import answer


def client():
    """Who is asking: the address, or its /64 in IPv6, of which one client has as many as it likes."""
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        return request.remote_addr or "unknown"
    address = getattr(address, "ipv4_mapped", None) or address
    return str(address) if address.version == 4 else str(IPv6Network((int(address), 64), strict=False))


def client_and_account():
    """One client's tries on one account, however it is spelled. Hashed: the storage learns no address of anybody."""
    email = request.json_object["email"]
    with suppress(ValueError):
        email = normal_email(email)
    return f"{client()} {sha256(email.encode()).hexdigest()}"


def too_many(limit):
    """Refuse and log it, without the client's address, which the extension's own line has."""
    current_app.logger.warning("limit reached", extra={"call": request.path, "limit": str(limit.limit)})
    return answer("Too many attempts. Please try again later.", 429)


limiter = Limiter(client, on_breach=too_many)
limiter.logger.addFilter(lambda record: not record.getMessage().startswith("ratelimit "))
limiter.request_filter(lambda: current_app.testing or not current_app.config["RATELIMIT_ENABLED"])


def failed(response):
    return response.status_code == 401


def tried(response):
    return response.status_code in (201, 409)


def failed_logins(view):
    view = limiter.limit("100 per hour", deduct_when=failed)(view)
    view = limiter.limit("10 per minute", key_func=client_and_account, deduct_when=failed)(view)
    view.limited = True
    return view


def sign_ups(view):
    view = limiter.limit("100 per hour", deduct_when=tried)(view)
    view.limited = True
    return view
