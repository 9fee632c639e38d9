"""Opening the archive's database: SQLite by default, PostgreSQL by URL. Every fault of it becomes Failure(store_failed).

SQLite runs in WAL mode with synchronous FULL: a commit is on the disk before a result is acknowledged, and readers do not wait for
the writer. A damaged file is set aside, loudly, and a new archive begins; the results still in the probes' spools come again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import QueuePool

from controller.archive.tables import LAYOUT, meta, metadata
from netloom.files import set_aside
from schemas.errors import ErrorInfo, Failure, error

log = logging.getLogger(__name__)

LOCK_WAIT_S: Final = 1.0
"""How long a write waits for another process's lock; a request must be answered within 3 s."""
CHECK_MAX_BYTES: Final = 128 * 1024 * 1024
"""A larger file is searched for damage only after something went wrong with it."""
MARK_BAD: Final = ".suspect"

STEPS: Final[dict[int, Callable[[Connection], None]]] = {}
"""From layout n to n + 1, by n."""

# The statement or its values are at fault, not the store: another row may well be written.
FAULTS_OF_THE_ROW: Final = (IntegrityError, DataError, ProgrammingError)


def _reason(exc: BaseException) -> str:
    cause = getattr(exc, "orig", None) or exc
    return (str(cause).splitlines() or [type(cause).__name__])[0][:200]


@dataclass
class Database:
    """An open database: one connection to write, one to read."""

    writer: Engine
    reader: Engine
    path: Path | None
    """The file, of SQLite."""
    problem: ErrorInfo | None = None
    """What was found damaged when it was opened."""

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a transaction that is committed, durably, at its end. Raise Failure (store_failed): then nothing of it is there.

        What is the fault of a row (`FAULTS_OF_THE_ROW`) is raised as it is.
        """
        with self._faults(), self.writer.begin() as conn:
            yield conn

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Look, beside the writer. Raise Failure (store_failed)."""
        with self._faults(), self.reader.connect() as conn:
            yield conn

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FAULTS_OF_THE_ROW:
            raise
        except (SQLAlchemyError, OSError) as exc:
            reason = _reason(exc)
            if self.path is not None and ("malformed" in reason or "not a database" in reason):
                log.error("the archive %s is damaged (%s); it is examined at the next start", self.path, reason)  # noqa: TRY400 - the reason is whole
                with contextlib.suppress(OSError):
                    _mark(self.path).touch()
            raise Failure("store_failed", reason=reason) from exc

    def close(self) -> None:
        """Close both connections; SQLite then folds its log into the file."""
        self.reader.dispose()
        self.writer.dispose()


def _mark(path: Path) -> Path:
    return path.with_name(path.name + MARK_BAD)


def open_database(url: str | None, folder: Path) -> Database:
    """Open the database at `url`, or SQLite in `folder`, with the present layout.

    Raises:
        Failure: store_failed, store_newer, config_value (an unusable URL).
    """
    try:
        parsed = make_url(url) if url else URL.create("sqlite", database=str(folder / "archive.sqlite"))
        if parsed.get_backend_name() != "sqlite":
            return _prepare(_server(parsed))
    except (ArgumentError, NoSuchModuleError, ImportError) as exc:
        raise Failure("config_value", place="settings", key="controller.archive", reason=_reason(exc)) from None
    if not parsed.database or parsed.database == ":memory:":
        raise Failure("config_value", place="settings", key="controller.archive", reason="it names no file")
    return _sqlite(Path(parsed.database))


def _server(url: URL) -> Database:
    engine = create_engine(url, pool_size=2, max_overflow=0, pool_pre_ping=True)
    return Database(engine, engine, None)


def _sqlite(path: Path) -> Database:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    problem = None
    if damage := _damage(path):
        problem = _put_away(path, damage)
    database = Database(_sqlite_engine(path, "IMMEDIATE"), _sqlite_engine(path, "DEFERRED"), path, problem)
    return _prepare(database)


def _sqlite_engine(path: Path, begin: str) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": LOCK_WAIT_S, "check_same_thread": False},
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # Off goes the driver's own idea of transactions: a write lock taken late ends in "database is locked" without a wait.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA journal_size_limit=16777216")
        if begin == "DEFERRED":
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {begin}")

    return engine


def _damage(path: Path) -> str | None:
    """Return what is wrong with the file, None if nothing is (or if it only cannot be read now: that is not damage)."""
    if not path.exists():
        return None
    thorough = path.stat().st_size <= CHECK_MAX_BYTES or _mark(path).exists()
    engine = _sqlite_engine(path, "IMMEDIATE")
    try:
        with engine.connect() as conn:
            conn.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one()
            found = conn.execute(text("PRAGMA quick_check(1)")).scalar_one() if thorough else "ok"
    except DatabaseError as exc:
        reason = _reason(exc)
        if "malformed" in reason or "not a database" in reason:
            return reason
        raise Failure("store_failed", reason=reason) from exc
    finally:
        engine.dispose()
    if found != "ok":
        return str(found)[:200]
    _mark(path).unlink(missing_ok=True)
    return None


def _put_away(path: Path, damage: str) -> ErrorInfo:
    aside = set_aside(path)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    _mark(path).unlink(missing_ok=True)
    problem = error("store_corrupt", path=path, aside=aside)
    log.error("%s (%s) A new archive begins.", problem.message, damage)
    return problem


def _prepare(database: Database) -> Database:
    """Make the tables, or bring them to the present layout."""
    try:
        with database.write() as conn:
            _bring_up(conn, _layout(conn), str(database.path or database.writer.url.database))
    except BaseException:
        database.close()
        raise
    return database


def _layout(conn: Connection) -> int | None:
    if not conn.dialect.has_table(conn, meta.name):
        return None
    found = conn.execute(select(meta.c.value).where(meta.c.key == "layout")).scalar()
    return None if found is None else int(found)


def _bring_up(conn: Connection, found: int | None, name: str) -> None:
    if found is None:
        metadata.create_all(conn)
        conn.execute(insert(meta).values(key="layout", value=str(LAYOUT)))
        return
    if found > LAYOUT:
        raise Failure("store_newer", path=name, found=found, known=LAYOUT)
    for number in range(found, LAYOUT):
        log.warning("bringing the archive from layout %d to %d", number, number + 1)
        STEPS[number](conn)
    if found != LAYOUT:
        conn.execute(update(meta).where(meta.c.key == "layout").values(value=str(LAYOUT)))
