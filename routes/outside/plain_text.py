"""The text of a mail for who sees no HTML, read out of our own templates' tags."""

import re
from html.parser import HTMLParser

PARAGRAPHS = {"p", "h1", "ul", "table", "footer", "div"}
BEFORE = dict.fromkeys(PARAGRAPHS, "\n\n") | {"br": "\n"}
AFTER = dict.fromkeys(PARAGRAPHS, "\n\n") | {"li": "\n", "tr": "\n", "td": " "}
HIDDEN = {"head"}


def plain_text(html: str) -> str:
    """Paragraphs between empty lines, each link's address on a line of its own after its text."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    lines = [line.strip() for line in "".join(reader.pieces).split("\n")]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.link: str | None = None
        self.hidden = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.hidden = self.hidden or tag in HIDDEN
        self.pieces.append(BEFORE.get(tag, ""))
        if tag == "a":
            self.link = dict(attributes)["href"]

    def handle_endtag(self, tag: str) -> None:
        self.hidden = self.hidden and tag not in HIDDEN
        if tag == "a":
            self.pieces.append(f":\n{self.link}\n")
        self.pieces.append(AFTER.get(tag, ""))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(re.sub(r"\s+", " ", data))
