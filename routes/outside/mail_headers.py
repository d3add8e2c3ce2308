"""Headers of mails that hold what people typed: names, subjects.

The standard library (seen in Python 3.11) takes `=?` in a text for something encoded, and loses the quotes of a long
name when it folds the line, so that a comma in it makes several addresses. Here such texts are always encoded words
(RFC 2047).
"""

import re
from email.header import Header
from email.headerregistry import Address, HeaderRegistry, UniqueAddressHeader, UniqueUnstructuredHeader
from email.policy import SMTP, Policy
from email.utils import getaddresses
from typing import Any

import idna

from routes.outside.formats import one_line, person

PLAIN_NAME = re.compile(r"[A-Za-z0-9 '_-]{0,60}")


def encoded(text: str, linesep: str) -> str:
    """The text as encoded words, as many lines as it takes; the first leaves room for the header's name."""
    return Header(text, "utf-8", maxlinelen=76, header_name="Reply-To").encode(linesep=linesep)


class TypedText(UniqueUnstructuredHeader):
    """A text as it is: nothing in it is taken for something encoded."""

    name: str

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        kwds |= {"decoded": value, "parse_tree": None}

    def fold(self, *, policy: Policy) -> str:
        text = str(self)
        plain = text.isascii() and "=?" not in text and len(text) < 70
        return f"{self.name}: {text if plain else encoded(text, policy.linesep)}{policy.linesep}"


class Addressee(UniqueAddressHeader):
    """One address, with a name or without."""

    name: str

    def fold(self, *, policy: Policy) -> str:
        (address,) = self.addresses
        return f"{self.name}: {written(address, policy.linesep)}{policy.linesep}"


def written(address: Address, linesep: str) -> str:
    name = address.display_name
    if not name:
        return address.addr_spec
    if PLAIN_NAME.fullmatch(name):
        return f"{name} <{address.addr_spec}>"
    return f"{encoded(name, linesep)}{linesep} <{address.addr_spec}>"


HEADERS = HeaderRegistry()
HEADERS.map_to_type("subject", TypedText)  # type: ignore[arg-type]  # typeshed does not see that it adds BaseHeader
for header in ("from", "to", "reply-to"):
    HEADERS.map_to_type(header, Addressee)  # type: ignore[arg-type]

# In 7 bits, as any mail server passes it on.
POLICY = SMTP.clone(cte_type="7bit", header_factory=HEADERS)


def address(name: str, addr_spec: str) -> Address:
    """An address for a header; its domain in ASCII, so that any mail server takes it."""
    user, _, domain = addr_spec.rpartition("@")
    ascii_domain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    return Address(person(name), user, ascii_domain)


def sender(mail_from: str) -> Address:
    """The one address that `MAIL_FROM` names."""
    found = getaddresses([one_line(mail_from)])
    if len(found) != 1 or not re.fullmatch(r"[!-?A-~]+@[^@\s]+", found[0][1]):
        raise SystemExit(f'MAIL_FROM must be an address such as "Tickets" <tickets@example.com>, not {mail_from!r}')
    return address(*found[0])
