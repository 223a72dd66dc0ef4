"""Brings a database to the tables that this version of F1 uses.

`versions` holds one file a change, in Alembic's way, each with the `revision` it makes and the one
it follows. A file is never changed once it was released: the next one changes what it made.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from f1.store.database import NotStored

LATEST = "first"  # the `revision` of the last file
_LOCK = 0x6631_72756E73  # of PostgreSQL, for who changes tables


def migrate(db: sa.Connection) -> None:
    """In a transaction of its own. Others may try it at the same time."""
    with db.execution_options(reading=True).begin():
        if _version(db) == LATEST:
            return  # most often: nobody is hindered, and Alembic not even imported
    with db.execution_options(reading=False).begin():
        if db.dialect.name == "postgresql":  # SQLite's transactions have locked out others
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        if _version(db) != LATEST:
            _upgrade(db)


def _version(db: sa.Connection) -> str | None:
    if not sa.inspect(db).has_table("alembic_version"):
        return None
    return db.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(db: sa.Connection) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(__file__).parent))
    found = _version(db)
    if found not in (None, *(each.revision for each in script.walk_revisions())):
        raise NotStored("runs were kept by a newer version of F1, or by something else")
    with EnvironmentContext(
        Config(), script, fn=lambda at, _: script._upgrade_revs(LATEST, at)
    ) as environment:
        environment.configure(connection=db)
        environment.run_migrations()
