"""On PostgreSQL an index that finds words anywhere in the texts of events, where its extension can be had"""

import logging

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

logger = logging.getLogger("alembic.runtime.migration")
AVAILABLE = sa.text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
TEXTS = ("name", "venue", "description")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    columns = ", ".join(f"{text} gin_trgm_ops" for text in TEXTS)
    try:
        if not connection.scalar(AVAILABLE):
            raise LookupError("it is not installed on this server")
        with connection.begin_nested():
            op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            op.execute(f"CREATE INDEX ix_events_words ON events USING gin ({columns})")
    except (LookupError, sa.exc.DBAPIError) as error:
        logger.warning("The extension pg_trgm can't be used, so a search reads all events: %s", error)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_events_words")
