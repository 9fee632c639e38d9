"""What became of the last commands: a journal, appended and synced before the probe says that it takes a command.

So a command that arrives again is answered from here, never run again, also after a crash; and a test that a crash cut short is
known by its record without an end. A disk that fails does not stop the probe: the journal then goes on in memory.
"""

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from netloom.files import PRIVATE, sync_folder, write_atomic
from schemas import limits
from schemas.base import Instant, Tolerant
from schemas.command import RunCommand
from schemas.errors import ErrorInfo
from schemas.result import ResultId, ResultStatus

log = logging.getLogger(__name__)

LINES_MAX: Final = 4 * limits.SEEN_COMMANDS_KEPT
"""The file is written anew beyond this."""
SEQ_LEAP: Final = 100_000
"""Ticks are not journalled: after a restart a test's `seq` goes on from so much above what is known of it."""


class Record(Tolerant):
    """A command and what became of it."""

    id: ResultId
    state: Literal["queued", "running", "rejected", "finished"]
    number: int | None = None
    seq: int = 0
    """Of the last progress message."""
    command: RunCommand | None = None
    """Until it has ended."""
    started_at: Instant | None = None
    outcome: ResultStatus | None = None
    error: ErrorInfo | None = None
    field: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in ("rejected", "finished")


class Journal:
    """The records in a file, the newest of each id; the last `keep` ids. May be called from any thread."""

    def __init__(self, path: Path, keep: int = limits.SEEN_COMMANDS_KEPT) -> None:
        self._path, self._keep = path, keep
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._lines = 0
        self._torn = False
        self.degraded: str | None = None
        """Why it is in memory only, if it is."""
        self._load()

    def get(self, test_id: str) -> Record | None:
        """Return what is known of a command."""
        with self._lock:
            return self._records.get(test_id)

    def put(self, record: Record) -> None:
        """Store a record durably; a disk that fails is noted, not raised."""
        with self._lock:
            self._remember(record)
            try:
                if self._lines >= LINES_MAX or self.degraded is not None:
                    self._rewrite()
                else:
                    self._append(record)
            except OSError as exc:
                self._degrade(exc)

    def next_seq(self, test_id: str) -> int:
        """Return the `seq` of one more message about a command; 0 for one that is not known."""
        with self._lock:
            record = self._records.get(test_id)
            if record is None:
                return 0
            self._records[test_id] = record.model_copy(update={"seq": record.seq + 1})
            return record.seq + 1

    def unfinished(self) -> list[Record]:
        """Return the commands that have not ended, oldest first."""
        with self._lock:
            return [record for record in self._records.values() if not record.ended]

    def heal(self) -> bool:
        """Try to write what is in memory only. Return whether the disk is well (again)."""
        with self._lock:
            try:
                if self.degraded is not None:
                    self._rewrite()
            except OSError as exc:
                self._degrade(exc)
            return self.degraded is None

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _load(self) -> None:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            self._degrade(exc)
            return
        lines, damaged = text.splitlines(), 0
        self._torn = bool(text) and not text.endswith(b"\n")
        for line in lines:
            try:
                record = Record.model_validate_json(line)
            except ValidationError:
                damaged += 1
                continue
            self._remember(record.model_copy(update={"seq": record.seq + SEQ_LEAP}))
        self._lines = len(lines)
        if damaged:
            log.warning("%d of %d records of past commands were damaged and are left out", damaged, len(lines))
        if damaged or self._lines >= LINES_MAX:
            with contextlib.suppress(OSError):  # it is tried again with the next record
                self._rewrite()

    def _remember(self, record: Record) -> None:
        self._records[record.id] = record
        if len(self._records) > self._keep:
            oldest = next((found.id for found in self._records.values() if found.ended), None)
            if oldest is not None:
                del self._records[oldest]

    def _append(self, record: Record) -> None:
        line = record.model_dump_json(exclude_defaults=True).encode() + b"\n"
        data = b"\n" + line if self._torn else line  # a torn line must not swallow this one
        new = not self._path.exists()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
        try:
            self._torn = os.write(handle, data) < len(data)
            os.fsync(handle)
        finally:
            os.close(handle)
        if self._torn:
            raise OSError(None, "the disk took only a part of a record")
        if new:
            sync_folder(self._path.parent)
        self._lines += 1

    def _rewrite(self) -> None:
        lines = [record.model_dump_json(exclude_defaults=True) for record in self._records.values()]
        write_atomic(self._path, "".join(line + "\n" for line in lines).encode())
        self._lines, self._torn = len(lines), False
        if self.degraded is not None:
            log.warning("the journal of commands is on disk again")
        self.degraded = None

    def _degrade(self, exc: OSError) -> None:
        self._torn = True
        if self.degraded is None:
            log.warning("the journal of commands cannot be written: %s", exc)
        self.degraded = exc.strerror or str(exc)
