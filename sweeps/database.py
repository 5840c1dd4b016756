"""A database for Optuna's trials, instead of journals: asked for by an environment variable.

A variable, and no flag or file, as the URL may hold a password. What is shown of the URL, in notes
and errors, has neither the password nor what follows the `?`, where there may be one too.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.errors import DatabaseError
from sweeps.mounts import network_file_system

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL, Engine

VARIABLE = "LMO_TRANSFER_STORAGE"
_ALLOWED = "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:////PATH/FILE.db"
_SECRETS = ("password", "sslpassword")
# A server that is gone is noticed soon, also when the network says nothing.
_POSTGRES = {"connect_timeout": "5", "keepalives_idle": "30", "tcp_user_timeout": "30000"}
"""Settings of a connection, unless the URL has them: seconds, seconds and milliseconds."""
_POOL = {"pool_size": 1, "max_overflow": 1, "pool_recycle": 60, "pool_pre_ping": True}
"""One connection, used while it is fresh: hours and a restart may lie between two questions."""
_LONGEST = 300
"""Characters of a database's words that are passed on."""


def requested_database() -> "Database | None":
    """Return the database that the environment asks for; None if it asks for none.

    Raises:
        ValueError: it is none that can be used, or its driver is not installed.
    """
    text = os.environ.get(VARIABLE, "")
    return Database(text) if text else None


class Database:
    """A PostgreSQL server's database, or an SQLite file.

    Attributes:
        shown: Its URL without secrets.

    Raises:
        ValueError: the URL is none of these, or SQLite's file is on a network file system, or the
            driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        shown = self._url.set(query={})
        self.shown = shown.render_as_string(hide_password=True)
        values = [self._url.password, *(self._url.query.get(name) for name in _SECRETS)]
        self._secrets = [str(value) for value in values if value]
        self._engine: Engine | None = None
        if self._url.get_backend_name() == "postgresql":
            _require_psycopg()
        else:
            _require_local_file(self._url.database)

    def storage(self) -> "RDBStorage":
        """Connect, and make Optuna's tables where there are none.

        Raises:
            DatabaseError: the database cannot be reached, or refuses, or its tables are another
                Optuna's.
        """
        from optuna.storages import RDBStorage
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        # Optuna fills {SCHEMA_VERSION} into the URL.
        text = self._url.render_as_string(hide_password=False)
        text = text.replace("{", "{{").replace("}", "}}")
        server = self._url.get_backend_name() == "postgresql"
        pool = dict[str, Any](_POOL) if server else {"poolclass": NullPool}
        try:
            storage = RDBStorage(text, engine_kwargs=pool)
        except (RuntimeError, SQLAlchemyError) as error:
            raise self._error(error) from None
        self._engine = storage.engine
        return storage

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what the database raises into a DatabaseError of one line, without secrets.

        Connections are closed in the end.
        """
        try:
            yield
        except Exception as error:
            if not self.is_fault(error):
                raise
            raise self._error(error) from None
        finally:
            if self._engine is not None:
                self._engine.dispose()

    def is_fault(self, error: BaseException) -> bool:
        """Whether an error is the database's, not what is kept in it."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        return isinstance(error, (StorageInternalError, SQLAlchemyError, DatabaseError))

    def _error(self, error: BaseException) -> DatabaseError:
        if isinstance(error, DatabaseError):
            return error
        cause: Any = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        words = str(getattr(cause, "orig", None) or cause)
        for secret in self._secrets:
            words = words.replace(secret, "***")
        line = " ".join(words.split())[:_LONGEST]
        return DatabaseError(f"the database {self.shown} does not serve: {line}")


def _parse(text: str) -> "URL":
    """Parse and complete a URL; nothing of a URL that is none is shown, as it may be a secret."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(f"{VARIABLE} is no URL of a database; allowed: {_ALLOWED}") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
        missing = {key: value for key, value in _POSTGRES.items() if key not in url.query}
        return url.update_query_dict(missing)
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(f"{VARIABLE} names {url.drivername}; allowed: {_ALLOWED}")
    return url


def _require_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{VARIABLE} names PostgreSQL, whose driver psycopg is not installed: "
            "pip install 'lmo-transfer[postgres]'"
        ) from None


def _require_local_file(name: str | None) -> None:
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ValueError(f"{VARIABLE} names no file of SQLite's; allowed: {_ALLOWED}")
    # The file itself may be a link to elsewhere.
    place = Path(name).resolve()
    if not place.parent.is_dir():
        raise ValueError(f"{VARIABLE}: there is no folder {place.parent}")
    kind = network_file_system(place)
    if kind is not None:
        raise ValueError(
            f"{VARIABLE}: {place} is on a network file system ({kind}), where SQLite's locks do "
            "not hold and its files break; use PostgreSQL, a local file, or the journal"
        )
