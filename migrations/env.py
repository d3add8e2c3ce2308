"""How `flask db` reaches the database: through the application's own engine."""

from alembic import context
from flask import current_app
from sqlalchemy.exc import DBAPIError

from routes.http.faults import told_in_a_sentence
from routes.setup.fitness import UNSTAMPED, has_tables_without_version, refuse_other_encoding

database = current_app.extensions["migrate"].db


def is_of_the_models(object, name, kind, reflected, compare_to):
    """Not the index that a database has only where an extension can be had."""
    return name != "ix_events_words"


def leave_out_empty(context, revision, directives):
    if getattr(context.config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


def run():
    with told_in_a_sentence(), database.engine.connect() as connection:
        refuse_other_encoding(connection)
        unstamped = has_tables_without_version(connection)
        connection.rollback()  # in a transaction, the next line would do nothing
        # SQLite rebuilds a table to change it, and with foreign keys on, dropping the old one deletes its children.
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=database.metadata,
            render_as_batch=True,
            include_object=is_of_the_models,
            process_revision_directives=leave_out_empty,
        )
        try:
            with context.begin_transaction():
                context.run_migrations()
        except DBAPIError:
            if unstamped:  # the first step makes what is there
                raise SystemExit(UNSTAMPED) from None
            raise
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")


run()
