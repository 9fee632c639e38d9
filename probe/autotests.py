"""The stored set of autotests: what this probe is to repeat, kept over restarts by the rules of its revision."""

import contextlib
import logging
import threading
from pathlib import Path

from netloom.files import set_aside, write_atomic
from schemas import codec
from schemas.autotest import AutotestSet
from schemas.errors import Failure
from schemas.status import AutotestsSeen

log = logging.getLogger(__name__)


class AutotestStore:
    """The set in `path`. May be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unwritten = False
        self._set = self._load()

    @property
    def current(self) -> AutotestSet | None:
        """The set in force; None before there ever was one."""
        return self._set

    @property
    def seen(self) -> AutotestsSeen:
        """What the status says of the set."""
        found = self._set
        return (
            AutotestsSeen()
            if found is None
            else AutotestsSeen(controller_id=found.controller_id, revision=found.revision)
        )

    def offer(self, offered: AutotestSet) -> bool:
        """Take a set if it is another controller's, or of a higher revision. Return whether it was taken."""
        with self._lock:
            found = self._set
            if (
                found is not None
                and found.controller_id == offered.controller_id
                and offered.revision <= found.revision
            ):
                return False
            self._set, self._unwritten = offered, True
        self.heal()
        return True

    def heal(self) -> bool:
        """Try to write the set if it is in memory only. Return whether it is on disk."""
        with self._lock:
            if self._unwritten and self._set is not None:
                try:
                    write_atomic(self._path, codec.encode(self._set, max_bytes=2**20))
                    self._unwritten = False
                except OSError as exc:
                    log.warning("the set of autotests cannot be written: %s", exc)
            return not self._unwritten

    def _load(self) -> AutotestSet | None:
        try:
            return codec.parse(AutotestSet, self._path.read_bytes(), max_bytes=2**20)
        except FileNotFoundError:
            return None
        except OSError as exc:
            log.warning("the set of autotests cannot be read: %s", exc)
        except Failure as exc:
            with contextlib.suppress(OSError):
                set_aside(self._path)
            log.warning("the set of autotests was damaged and is set aside: %s", exc)
        return None
