"""Finished results, kept until the controller has them: one synced file each, ordered by version.

A result is in the spool before it is first published and leaves it only when it is acknowledged (`forget`) or refused
(`quarantine`). A disk that fails does not stop the probe: results are then held in memory, the status says so, and `heal` writes
them as soon as the disk takes them. The newest result is kept even after its acknowledgement, as `newest.json`, because what
is retained on the bus is this probe's to restore.
"""

import contextlib
import logging
import re
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from netloom.files import set_aside, write_atomic
from probe.results import Maker
from schemas import codec
from schemas.errors import ErrorInfo, Failure, error
from schemas.result import Result
from schemas.status import SpoolStatus

log = logging.getLogger(__name__)

MEMORY_MAX: Final = 256
"""Results held in memory while the disk fails: at most 8 MiB."""
QUARANTINE_MAX: Final = 1_000
VERSION_MAX: Final = 2**52
"""Beyond this a version from outside is not believed: JSON readers would lose digits."""
_FILE: Final = re.compile(r"(?P<version>\d{16})\.(?P<kind>[am])\.(?P<id>[A-Za-z0-9_-]{8,64})\.json\Z")
_CODE: Final = re.compile(r"[a-z0-9_]{1,40}\Z")


@dataclass(frozen=True)
class Item:
    """A result that waits."""

    version: int
    id: str
    autotest: bool
    size: int
    payload: bytes | None = None
    """Held here only while the disk does not take it."""

    @property
    def file(self) -> str:
        """The name of its file; it sorts by version."""
        return f"{self.version:016}.{'a' if self.autotest else 'm'}.{self.id}.json"


class Spool:
    """The results in `folder`, at most `most` of them. May be called from any thread."""

    def __init__(self, folder: Path, most: int, *, memory_most: int = MEMORY_MAX) -> None:
        self.counters: Counter[str] = Counter()
        """results_dropped, results_corrupt."""
        self._folder, self._most, self._memory_most = folder, most, memory_most
        self._lock = threading.RLock()
        self._items: dict[int, Item] = {}
        self._by_id: dict[str, int] = {}
        self._quarantined = 0
        self._kept: tuple[int, bytes] | None = None
        """The newest acknowledged result."""
        self._degraded: ErrorInfo | None = None
        self._version = 0
        self._load()

    # --- what is there --------------------------------------------------------------------------------------------------
    @property
    def version(self) -> int:
        """The version given last."""
        return self._version

    @property
    def newest(self) -> int:
        """The version of the newest result there is, 0 if there is none."""
        with self._lock:
            return max(next(reversed(self._items), 0), self._kept[0] if self._kept else 0)

    def newest_payload(self) -> bytes | None:
        """Return the newest result, waiting or acknowledged."""
        with self._lock:
            version = self.newest
            return self._kept[1] if self._kept and self._kept[0] == version else self.payload(version)

    def waiting(self) -> list[int]:
        """Return the versions that wait, oldest first."""
        with self._lock:
            return list(self._items)

    def find(self, test_id: str) -> int | None:
        """Return the version of the waiting result with this id."""
        with self._lock:
            return self._by_id.get(test_id)

    def holds(self, version: int) -> bool:
        """Tell whether this result waits."""
        with self._lock:
            return version in self._items

    @property
    def full(self) -> bool:
        """Whether another one-off result would be one too many; only autotest results make room."""
        with self._lock:
            held = [item for item in self._items.values() if item.payload is not None] if self._degraded else []
            return (len(self._items) >= self._most and not any(item.autotest for item in self._items.values())) or (
                len(held) >= self._memory_most and not any(item.autotest for item in held)
            )

    @property
    def degraded(self) -> ErrorInfo | None:
        """Why results are held in memory, if some are."""
        return self._degraded

    def status(self) -> SpoolStatus:
        """Return what the status says of the spool."""
        with self._lock:
            return SpoolStatus(
                waiting=len(self._items),
                quarantined=self._quarantined,
                dropped=self.counters["results_dropped"],
                bytes=sum(item.size for item in self._items.values()),
                degraded=self._degraded,
            )

    # --- in ---------------------------------------------------------------------------------------------------------------
    def add(self, make: Maker) -> Result:
        """Give the next version to `make`, keep the result it returns with its payload, and return it."""
        with self._lock:
            result, payload = make(self._version + 1)
            self._version = result.version
            item = Item(result.version, result.id, result.autotest_id is not None, len(payload))
            self._make_room()
            try:
                write_atomic(self._folder / item.file, payload)
            except OSError as exc:
                self._degrade(exc)
                item = replace(item, payload=payload)
            self._keep(item)
            return result

    def continue_from(self, version: int) -> None:
        """Give higher versions than `version` from now on: it was found on the bus, so this probe once gave it."""
        with self._lock:
            self._version = max(self._version, version)

    # --- out --------------------------------------------------------------------------------------------------------------
    def payload(self, version: int) -> bytes | None:
        """Return a waiting result as it is to be published; None if there is none, or it was damaged (and is set aside)."""
        with self._lock:
            item = self._items.get(version)
            if item is None or item.payload is not None:
                return None if item is None else item.payload
            path = self._folder / item.file
            try:
                payload = path.read_bytes()
                found = codec.parse(Result, payload)
            except FileNotFoundError:
                log.warning("the result %s is gone from the spool", item.id)
            except OSError as exc:
                log.warning("the result %s cannot be read: %s", item.id, exc)
                return None
            except Failure as exc:
                self._set_aside(path, exc)
            else:
                if (found.version, found.id) == (item.version, item.id):
                    return payload
                self._set_aside(path, "it is another result")
            self.counters["results_corrupt"] += 1
            self._drop(item)
            return None

    def forget(self, test_id: str) -> bool:
        """Let go of an acknowledged result. Return whether it waited."""
        with self._lock:
            version = self._by_id.get(test_id)
            if version is None:
                return False
            item = self._items[version]
            payload = self.payload(version) if version == self.newest else None
            if payload is not None:
                self._kept = (version, payload)
            with contextlib.suppress(OSError):  # a file that stays is sent again and acknowledged again
                if payload is not None and item.payload is None:
                    (self._folder / item.file).replace(self._folder / "newest.json")
                elif item.payload is None:
                    (self._folder / item.file).unlink(missing_ok=True)
            self._drop(item)
            return True

    def quarantine(self, test_id: str, code: str) -> bool:
        """Put away a result the controller will never store. Return whether it waited."""
        with self._lock:
            version = self._by_id.get(test_id)
            payload = None if version is None else self.payload(version)
            if version is None or payload is None:
                return False
            item = self._items[version]
            name = item.file.removesuffix(".json") + f".{code if _CODE.match(code) else 'unknown'}.json"
            try:
                write_atomic(self._folder / "quarantine" / name, payload)
                (self._folder / item.file).unlink(missing_ok=True)
                self._quarantined += 1
            except OSError as exc:
                log.warning("the refused result %s cannot be put into quarantine: %s", test_id, exc)
            log.warning("the controller refused the result %s: %s", test_id, code[:80])
            self._drop(item)
            self._trim_quarantine()
            return True

    def heal(self) -> bool:
        """Try to write what is held in memory. Return whether the disk is well (again)."""
        with self._lock:
            if self._degraded is None:
                return True
            try:
                self._try_disk()
                for item in [item for item in self._items.values() if item.payload is not None]:
                    write_atomic(self._folder / item.file, item.payload or b"")
                    self._items[item.version] = replace(item, payload=None)
                if self._kept is not None:
                    write_atomic(self._folder / "newest.json", self._kept[1])
            except OSError as exc:
                self._degrade(exc)
                return False
            self._degraded = None
            log.warning("results are on disk again")
            return True

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _load(self) -> None:
        quarantine = self._folder / "quarantine"
        try:
            quarantine.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(".*.tmp"):
                path.unlink()
        except OSError as exc:
            self._degrade(exc)
        names = sorted(path.name for path in self._folder.glob("*.json"))
        for found in filter(None, map(_FILE.match, names)):
            size = 0
            with contextlib.suppress(OSError):
                size = (self._folder / found.string).stat().st_size
            self._keep(Item(int(found["version"]), found["id"], found["kind"] == "a", size))
        refused = sorted(path.name for path in quarantine.glob("*.json"))
        self._quarantined = len(refused)
        self._load_newest()
        highest_refused = int(refused[-1][:16]) if refused and refused[-1][:16].isdecimal() else 0
        self._version = max(self.newest, highest_refused)

    def _try_disk(self) -> None:
        """Raise OSError while the disk takes nothing, even when there is nothing to write."""
        trial = self._folder / "trial"
        write_atomic(trial, b"written to see whether the disk takes it")
        trial.unlink()

    def _load_newest(self) -> None:
        path = self._folder / "newest.json"
        try:
            payload = path.read_bytes()
            self._kept = (codec.parse(Result, payload).version, payload)
        except OSError:
            pass  # there is none, or it cannot be read: what is retained on the bus still has the version
        except Failure as exc:
            self._set_aside(path, exc)

    def _keep(self, item: Item) -> None:
        self._items[item.version] = item
        self._by_id[item.id] = item.version

    def _drop(self, item: Item) -> None:
        self._items.pop(item.version, None)
        if self._by_id.get(item.id) == item.version:
            del self._by_id[item.id]

    def _make_room(self) -> None:
        """Drop the oldest autotest result if there are too many, on disk or in memory; one-off results never."""
        held = sum(item.payload is not None for item in self._items.values()) if self._degraded else 0
        for item in list(self._items.values()):
            if len(self._items) < self._most and held < self._memory_most:
                return
            if item.autotest and (len(self._items) >= self._most or item.payload is not None):
                with contextlib.suppress(OSError):
                    (self._folder / item.file).unlink(missing_ok=True)
                held -= item.payload is not None
                self.counters["results_dropped"] += 1
                self._drop(item)

    def _trim_quarantine(self) -> None:
        if self._quarantined > QUARANTINE_MAX:
            with contextlib.suppress(OSError):
                min((self._folder / "quarantine").glob("*.json")).unlink()
                self._quarantined -= 1

    def _degrade(self, exc: OSError) -> None:
        if self._degraded is None:
            log.warning("results cannot be written and are held in memory: %s", exc)
        self._degraded = error("spool_degraded", reason=exc.strerror or str(exc))

    def _set_aside(self, path: Path, why: object) -> None:
        aside: Path | str = "not even moved"
        with contextlib.suppress(OSError):
            aside = set_aside(path).name
        log.warning("%s is damaged and set aside (%s): %s", path.name, aside, why)
