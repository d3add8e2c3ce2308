"""Who comes, as it was said when the order was placed"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("orders", sa.Column("attendee_name", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("orders", "attendee_name")
