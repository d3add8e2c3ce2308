"""A ticket as a page to show at the door and to print: the browser knows every script, which no PDF library does."""

import base64
from hashlib import sha256
from typing import Any

import segno
from markupsafe import Markup

from routes.outside.messages import HERE, TEMPLATES

STYLE = (HERE / "templates" / "ticket.css").read_text("utf-8")
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def ticket_page(ticket: Any) -> str:
    """The page of a ticket. With a void one nobody comes in, so it has no QR code."""
    page = TEMPLATES.get_template("ticket.html")
    picture = None if ticket.status == "void" else qr_code(ticket.code)
    return page.render(ticket=ticket, style=Markup(STYLE), notice=notice(ticket), picture=picture)


def notice(ticket: Any) -> str | None:
    """What its holder should know before he sets out."""
    if ticket.event.status == "canceled":
        return "The event is canceled"
    return {"void": "This ticket is void", "used": "This ticket has been used"}.get(ticket.status)


def qr_code(code: str) -> Markup:
    """Black on white also where the page is dark, as a scanner wants it."""
    picture = segno.make(code, micro=False)
    return Markup(picture.svg_inline(light="#fff", omitsize=True, title="QR code", svgclass=None, lineclass=None))
