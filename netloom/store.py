"""Small settings that a person may read: TinyDB on a storage that a crash or a full disk cannot damage.

TinyDB's own storage truncates its file in place. This one writes beside, syncs and renames, keeps the content before as
`<name>.bak`, and sets an unreadable file aside. A file belongs to one process (netloom.files.folder_lock).
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tinydb import TinyDB
from tinydb.storages import Storage

from netloom.files import read_text, set_aside, write_atomic
from schemas.errors import ErrorInfo, Failure, error

log = logging.getLogger(__name__)

BACKUP: Final = ".bak"

# Any: whatever JSON the tables hold, as TinyDB wants it: table -> document id -> document.
Content = dict[str, dict[str, Any]]


class CrashSafeStorage(Storage):
    """TinyDB's storage in a JSON file. Safe from any thread for whole reads and writes; `Store` makes changes atomic."""

    def __init__(self, path: Path | str) -> None:
        """Read the file. Raise Failure: store_failed (it cannot be read or, after damage, not be restored)."""
        self.path = Path(path)
        self.problem: ErrorInfo | None = None
        """What was found damaged when it was opened."""
        self._lock = threading.RLock()
        self._text = self._open()

    def read(self) -> Content | None:
        """Return the content, a copy of its own each time; None before the first write."""
        with self._lock:
            return None if self._text is None else _parse(self._text)

    def write(self, data: Content) -> None:
        """Replace the content, durably. Raise Failure (store_failed): then the old one stays, on disk and here."""
        text = json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
        with self._lock:
            if text == self._text:
                return
            try:
                if self._text is not None:
                    write_atomic(self._backup, self._text.encode())
                write_atomic(self.path, text.encode())
            except OSError as exc:
                raise Failure("store_failed", reason=f"{self.path.name}: {exc.strerror or exc}") from exc
            self._text = text

    @property
    def _backup(self) -> Path:
        return self.path.with_name(self.path.name + BACKUP)

    def _open(self) -> str | None:
        try:
            found = _readable(self.path)
            if found is not None:
                return found
            damaged = self.path.exists()
            restored = _readable(self._backup)
            if not damaged and restored is None:
                return None
            return self._mend(restored, damaged=damaged)
        except OSError as exc:
            raise Failure("store_failed", reason=f"{self.path.name}: {exc.strerror or exc}") from exc

    def _mend(self, restored: str | None, *, damaged: bool) -> str | None:
        aside = set_aside(self.path) if damaged else None
        self.problem = error("store_corrupt", path=self.path, aside=aside or "missing")
        log.error(
            "%s %s",
            self.problem.message,
            "The content before its last change is restored." if restored else "There is no backup: it begins empty.",
        )
        if restored is not None:
            write_atomic(self.path, restored.encode())
        return restored


def _parse(text: str) -> Content:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(_is_table(table) for table in found.values()):
        raise ValueError("it is not an object of tables")
    return found


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(
        key.isascii() and key.isdigit() and isinstance(document, dict) for key, document in value.items()
    )


def _readable(path: Path) -> str | None:
    """Return the file's text if it is there and holds what a storage writes. Raise OSError."""
    try:
        text = read_text(path)
        if text is not None:
            _parse(text)
    except (ValueError, RecursionError):  # ValueError covers what is not UTF-8 and what is not JSON
        return None
    return text


class _Staged(Storage):
    """The content during one change: it reaches the file at the end, all of it or nothing."""

    def __init__(self, content: Content | None) -> None:
        self.content = content

    def read(self) -> Content | None:
        return self.content

    def write(self, data: Content) -> None:
        self.content = data


class Store:
    """A TinyDB that many threads may use: `edit` is one atomic change of the file, `view` sees one state of it."""

    def __init__(self, path: Path | str) -> None:
        """Open the file. Raise Failure: store_failed."""
        self._storage = CrashSafeStorage(path)
        self._lock = threading.RLock()

    @property
    def problem(self) -> ErrorInfo | None:
        """What was found damaged when the file was opened."""
        return self._storage.problem

    @contextlib.contextmanager
    def view(self) -> Iterator[TinyDB]:
        """Look at the content; what is changed here is lost."""
        with self._lock:
            yield TinyDB(storage=_Staged, content=self._storage.read())

    @contextlib.contextmanager
    def edit(self) -> Iterator[TinyDB]:
        """Change the content: written once, at the end; if the block raises, nothing has changed. Raise Failure (store_failed)."""
        with self._lock:
            staged = TinyDB(storage=_Staged, content=self._storage.read())
            yield staged
            content = staged.storage.read()
            if content is not None:
                self._storage.write(content)
