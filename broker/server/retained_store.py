"""Retained messages on disk: newest value per topic, one transaction per interval (stdlib sqlite3).

It is a comfort, not a queue: after a kill the last interval may be missing, and whoever owns a retained message asserts
it again. What is there is always whole.
"""

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Final

from broker.server.counters import Counters
from broker.server.errors import SettingError
from broker.server.packets import QOS_MAX, Message
from broker.server.retained import RetainedTable
from broker.server.topics import valid_topic

log = logging.getLogger(__name__)

FILE_NAME: Final = "retained.db"
INTERVAL_S: Final = 0.2
_SIDE_FILES: Final = ("", "-wal", "-shm", "-journal")
_SET_UP: Final = (
    # One broker per folder: a second one is told so, instead of both writing over each other.
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "CREATE TABLE IF NOT EXISTS retained(topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INT NOT NULL) WITHOUT ROWID",
)


class RetainedStore:
    """One open file. Made in one thread, written from another, but never by two at once."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)

    @classmethod
    def open(cls, folder: Path) -> tuple["RetainedStore", list[Message]]:
        """Open the folder's store and read it. A damaged file is set aside. Raises SettingError if the folder is no use."""
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                return cls._load(path)
            except sqlite3.OperationalError:
                raise  # locked, read-only, disk full: the file itself is not to blame
            except sqlite3.DatabaseError as exc:
                aside = _set_aside(path)
                log.warning("%s is damaged (%s) and was set aside as %s", path, exc, aside)
                return cls._load(path)
        except (OSError, sqlite3.OperationalError) as exc:
            raise SettingError("data_dir", f"{path} cannot be used: {exc}") from exc

    @classmethod
    def _load(cls, path: Path) -> tuple["RetainedStore", list[Message]]:
        store = cls(path)
        try:
            for statement in _SET_UP:
                store._db.execute(statement)
            messages = store._read()
        except BaseException:
            store.close()
            raise
        return store, messages

    def _read(self) -> list[Message]:
        if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the integrity check failed")
        # As bytes: one name that is not UTF-8 would otherwise fail the whole query.
        rows = self._db.execute("SELECT CAST(topic AS BLOB), payload, qos FROM retained")
        found = [_message(*row) for row in rows]
        return [message for message in found if message is not None]

    def write(self, batch: dict[str, Message | None]) -> None:
        """Store the newest messages (None: cleared) in one transaction. Raises sqlite3.Error; then nothing was stored."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO retained VALUES(?, ?, ?)",
                [(topic, message.payload, message.qos) for topic, message in batch.items() if message],
            )
            self._db.executemany(
                "DELETE FROM retained WHERE topic = ?", [(topic,) for topic, message in batch.items() if not message]
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class StoreWriter:
    """Keeps the store behind the table: a task that writes what changed, and a last flush."""

    def __init__(self, store: RetainedStore, table: RetainedTable, counters: Counters) -> None:
        self._store = store
        self._table = table
        self._counters = counters
        self._failing = False
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._write_for_ever())

    async def _write_for_ever(self) -> None:
        # Ended by an event and not by cancelling: that would abandon a write in its thread and start the next beside it.
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._closing.wait()
            await self._flush()

    async def _flush(self) -> None:
        batch = self._table.take_changed()
        if not batch:
            return
        try:
            await asyncio.to_thread(self._store.write, batch)
        except sqlite3.Error as exc:
            self._table.put_back(batch)
            self._counters.store_errors += 1
            if not self._failing:
                log.warning("retained messages cannot be stored (%s); they are tried again", exc)
            self._failing = True
        else:
            self._failing = False

    async def close(self) -> None:
        """Write what is left and close the file."""
        self._closing.set()
        try:
            await self._task
        finally:
            self._store.close()


def _message(topic: bytes, payload: object, qos: object) -> Message | None:
    """A row as a message, None if it cannot be one."""
    if not isinstance(payload, bytes) or not isinstance(qos, int) or not 0 <= qos <= QOS_MAX:
        return None
    try:
        name = topic.decode()
    except UnicodeDecodeError:
        return None
    return Message(name, payload, qos) if valid_topic(name) else None


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in _SIDE_FILES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
