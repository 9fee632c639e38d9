"""What the page remembers of the bus: each probe's newest status and result, and the running tests' latest progress.

Written in the bus client's thread, read by the page's threads; every value handed out is frozen.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from netloom.clock import Clock, SystemClock
from schemas import limits
from schemas.progress import Progress
from schemas.result import Result
from schemas.status import ProbeStatus

PROBES_MAX: Final = 10_000
LIVE_MAX: Final = 1_000
LIVE_KEPT_S: Final = 600.0
"""A test of which nothing was heard for so long is no longer shown as running."""


@dataclass(frozen=True)
class ProbeEntry:
    """What is known of one probe."""

    name: str
    status: ProbeStatus | None = None
    heard_at: float = 0.0
    """Monotonic seconds of the newest status."""
    result: Result | None = None
    floor: int = -1
    """A result with a lower version is not the newest."""

    def silent_s(self, now: float) -> float | None:
        """For how many seconds an online probe has missed its heartbeat; None if it has not."""
        if self.status is None or self.status.state != "online":
            return None
        late = now - self.heard_at
        return late if late > limits.OFFLINE_AFTER_S else None


@dataclass(frozen=True)
class LiveTest:
    """A test under way, as last heard."""

    probe: str
    progress: Progress
    heard_at: float


class Cache:
    """The newest of everything, bounded. Each `take_...` returns whether what is shown changed."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._probes: dict[str, ProbeEntry] = {}
        self._live: OrderedDict[tuple[str, str], LiveTest] = OrderedDict()
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    # --- written by the bus -------------------------------------------------------------------------------------------
    def take_status(self, name: str, status: ProbeStatus) -> bool:
        """Take a probe's status; an offline that names an older connection is ignored."""
        with self._lock:
            entry = self._entry(name)
            if entry is None:
                return False
            known = entry.status
            if (
                known is not None
                and known.state == "online"
                and status.state == "offline"
                and status.connection != known.connection
            ):
                return False
            # Another installation counts its results afresh.
            floor = -1 if known is not None and known.instance != status.instance else entry.floor
            self._probes[name] = replace(entry, status=status, heard_at=self.clock.monotonic(), floor=floor)
            return True

    def take_result(self, name: str, result: Result) -> bool:
        """Take a result; it is kept if it is the probe's newest, and in any case its test is over."""
        with self._lock:
            self._end(name, result.id)
            entry = self._entry(name)
            if entry is None or result.version < entry.floor:
                return False
            self._probes[name] = replace(entry, result=result, floor=result.version)
            return True

    def take_progress(self, name: str, progress: Progress) -> bool:
        """Take a step of a test, unless a later one or the result was there before."""
        with self._lock:
            key = name, progress.id
            known = self._live.get(key)
            if key in self._ended or (known is not None and known.progress.seq >= progress.seq):
                return False
            self._live[key] = LiveTest(name, progress, self.clock.monotonic())
            self._live.move_to_end(key)
            while len(self._live) > LIVE_MAX:
                self._live.popitem(last=False)
            return True

    def forget(self, name: str) -> bool:
        """Drop a probe whose retained messages were cleared."""
        with self._lock:
            return self._probes.pop(name, None) is not None

    def forget_result(self, name: str) -> bool:
        """Drop a probe's result that is no longer retained."""
        with self._lock:
            entry = self._probes.get(name)
            if entry is None or entry.result is None:
                return False
            self._probes[name] = replace(entry, result=None, floor=-1)
            return True

    def purge(self) -> None:
        """Drop tests of which nothing more will come."""
        oldest = self.clock.monotonic() - LIVE_KEPT_S
        with self._lock:
            for test in [key for key, live in self._live.items() if live.heard_at < oldest]:
                del self._live[test]

    # --- read by the pages --------------------------------------------------------------------------------------------
    def probes(self) -> tuple[ProbeEntry, ...]:
        """Return every probe, by name."""
        with self._lock:
            return tuple(sorted(self._probes.values(), key=lambda entry: entry.name.casefold()))

    def probe(self, name: str) -> ProbeEntry | None:
        """Return one probe."""
        with self._lock:
            return self._probes.get(name)

    def live(self, probe: str, test: str) -> LiveTest | None:
        """Return a running test of a probe."""
        with self._lock:
            return self._live.get((probe, test))

    def result(self, probe: str, test: str) -> Result | None:
        """Return the result of a test if it is its probe's newest."""
        entry = self.probe(probe)
        return entry.result if entry is not None and entry.result is not None and entry.result.id == test else None

    # --- inside, under the lock -----------------------------------------------------------------------------------------
    def _entry(self, name: str) -> ProbeEntry | None:
        found = self._probes.get(name)
        if found is None and len(self._probes) < PROBES_MAX:
            found = ProbeEntry(name)
        return found

    def _end(self, probe: str, test: str) -> None:
        self._live.pop((probe, test), None)
        self._ended[probe, test] = None
        while len(self._ended) > LIVE_MAX:
            self._ended.popitem(last=False)
