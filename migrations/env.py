"""How `flask db` reaches the database: through the application's own engine."""

from alembic import context
from flask import current_app

database = current_app.extensions["migrate"].db


def leave_out_empty(context, revision, directives):
    if getattr(context.config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


def run():
    with database.engine.connect() as connection:
        # SQLite rebuilds a table to change it, and with foreign keys on, dropping the old one deletes its children.
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=database.metadata,
            render_as_batch=True,
            process_revision_directives=leave_out_empty,
        )
        with context.begin_transaction():
            context.run_migrations()
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")


run()
