"""Texts in one spelling, and versions of categories and ticket types"""

import logging
import unicodedata
from itertools import count

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

log = logging.getLogger("alembic.runtime.migration")
TEXTS = {
    "users": ("name",),
    "events": ("name", "venue", "description"),
    "ticket_types": ("name",),
    "order_items": ("name",),
}


def upgrade() -> None:
    for table in ("categories", "ticket_types"):
        op.add_column(table, sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    for table, columns in TEXTS.items():
        compose_texts(table, columns)
    compose_categories()


def downgrade() -> None:
    """The texts stay composed: nothing needs them otherwise."""
    for table in ("categories", "ticket_types"):
        op.drop_column(table, "version")


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def caseless(name: str) -> str:
    return composed(unicodedata.normalize("NFD", name).casefold())


def compose_texts(table: str, columns: tuple[str, ...]) -> None:
    """A thousand rows at a time; only those that change are written."""
    rows = sa.table(table, sa.column("id"), *map(sa.column, columns))
    after = 0
    while (
        found := op.get_bind().execute(sa.select(rows).where(rows.c.id > after).order_by(rows.c.id).limit(1000)).all()
    ):
        after = found[-1].id
        for row in found:
            texts = {name: composed(getattr(row, name)) for name in columns}
            if texts != {name: getattr(row, name) for name in columns}:
                op.execute(rows.update().where(rows.c.id == row.id).values(texts))


def compose_categories() -> None:
    """Of categories that are one by their composed names, the first keeps its name; the others get a number."""
    rows = sa.table("categories", *map(sa.column, ("id", "name", "folded")))
    found = op.get_bind().execute(sa.select(rows).order_by(rows.c.id)).all()
    taken = {caseless(row.name) for row in found}
    seen: set[str] = set()
    changed: dict[int, str] = {}
    for row in found:
        name = composed(row.name)
        if caseless(name) in seen:
            name = numbered(name, taken)
            log.warning("Category %s, %r, has another's name in another spelling: now it is %r", row.id, row.name, name)
        taken.add(caseless(name))
        seen.add(caseless(name))
        if (name, caseless(name)) != (row.name, row.folded):
            changed[row.id] = name
    for id in changed:  # out of each other's way: `folded` is unique
        op.execute(rows.update().where(rows.c.id == id).values(folded=f"category {id} is renamed"))
    for id, name in changed.items():
        op.execute(rows.update().where(rows.c.id == id).values(name=name, folded=caseless(name)))


def numbered(name: str, taken: set[str]) -> str:
    """The name with the first number that makes it nobody else's."""
    return next(free for free in (f"{name[:90]} {number}" for number in count(2)) if caseless(free) not in taken)
