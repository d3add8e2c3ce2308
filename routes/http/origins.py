"""From where browsers may call: what `CORS_ORIGINS` lists, as browsers write it in `Origin` (RFC 6454)."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NoReturn
from urllib.parse import urlsplit

import idna

ORIGIN = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<wild>\*\.)?(?P<host>\[[0-9a-f:.]+\]|[^\[\]/:@?#*\s]+)(:(?P<port>\d{1,5}))?"
)
# Beside the web's own, what applications in a web view are served by.
SCHEMES = ("http", "https", "capacitor", "ionic", "tauri")
DEFAULT_PORTS = {"http": "80", "https": "443"}
LABEL = "[a-z0-9_-]{1,63}"


def origins(listed: str) -> list[str | re.Pattern[str]]:
    """The list, with commas between, as Flask-CORS takes it; `*` alone is any.

    What stands in it is compared, and taken for no pattern but where it has one: `https://*.example.com` is any number
    of labels before `example.com`, and not `https://example.com` itself.
    """
    found = [origin.strip() for origin in listed.split(",") if origin.strip()]
    return ["*"] if found == ["*"] else [matching(origin) for origin in found]


def leads_back(url: str, listed: str) -> bool:
    """Whether the address belongs to one of the origins. One that browsers read in another way than we do does not."""
    parts = urlsplit(url)
    if "\\" in url or "@" in parts.netloc or not parts.hostname:
        return False
    port = f":{parts.port}" if parts.port and str(parts.port) != DEFAULT_PORTS.get(parts.scheme) else ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    origin = f"{parts.scheme}://{host}{port}"
    return any(it == "*" or isinstance(it, re.Pattern) and it.match(origin) for it in origins(listed))


def matching(origin: str) -> re.Pattern[str]:
    """A pattern for all of an `Origin`. A plain text would be taken for a pattern that it may only begin with."""
    parts = ORIGIN.fullmatch(origin.rstrip("/").lower())
    if parts is None or parts["scheme"] not in SCHEMES:
        refuse(origin)
    host = host_of(parts["host"], origin)
    if parts["wild"] and ("." not in host or is_number(host.rpartition(".")[2]) or host.startswith("[")):
        refuse(origin)
    port = str(int(parts["port"])) if parts["port"] else None
    if port and not 0 < int(port) < 2**16:
        refuse(origin)
    shown = f":{port}" if port and port != DEFAULT_PORTS.get(parts["scheme"]) else ""
    labels = rf"({LABEL}\.)+" if parts["wild"] else ""
    return re.compile(rf"{parts['scheme']}://{labels}{re.escape(host + shown)}\Z", re.ASCII)


def host_of(host: str, origin: str) -> str:
    """The host as browsers write it: an address shortened, an international name in its ASCII form."""
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1])}]"
        if re.fullmatch(rf"{LABEL}(\.{LABEL})*", host):
            return str(IPv4Address(host)) if is_number(host.rpartition(".")[2]) else host
        return idna.encode(host, uts46=True).decode()
    except (AddressValueError, idna.IDNAError):
        refuse(origin)


def is_number(label: str) -> bool:
    """Whether browsers take a host with this last part for an address."""
    return re.fullmatch("[0-9]+|0x[0-9a-f]*", label) is not None


def refuse(origin: str) -> NoReturn:
    examples = "https://tickets.example.com or https://*.example.com"
    raise SystemExit(f"CORS_ORIGINS must be origins such as {examples}, with commas between, not {origin!r}")
