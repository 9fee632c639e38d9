"""Two probes with one name: the one that has been there longer goes on, the other waits until the name is free."""

import logging
import threading
from datetime import datetime

from netloom.clock import Clock
from probe.timing import Periods
from schemas.status import ProbeStatus

log = logging.getLogger(__name__)


class NameGuard:
    """Watches this probe's own status topic for statuses of another instance."""

    def __init__(self, name: str, instance: str, started_at: datetime, *, clock: Clock, periods: Periods) -> None:
        self._name, self._instance, self._started_at = name, instance, started_at
        self._clock, self._periods = clock, periods
        self._lock = threading.Lock()
        self._until: float | None = None
        """While another probe holds the name: when it has been silent for too long (monotonic)."""
        self._settled_at: float | None = None
        """From when on a retained status would have arrived; None while there is no connection."""

    @property
    def active(self) -> bool:
        """Whether this probe is the one of its name."""
        return self.wait_s == 0.0

    @property
    def wait_s(self) -> float | None:
        """For how long to wait before looking again whether the name is free: 0 it is, None there is no connection."""
        with self._lock:
            if self._settled_at is None:
                return None
            now = self._clock.monotonic()
            if self._until is not None and now >= self._until:
                self._until = None
                log.warning("the name '%s' is free again: this probe takes it", self._name)
            return max(0.0, self._settled_at - now, (self._until or now) - now)

    def on_up(self) -> None:
        """A connection stands; what is retained is about to arrive."""
        with self._lock:
            self._settled_at = self._clock.monotonic() + self._periods.settle
            self._until = None

    def on_down(self) -> None:
        """The connection is gone."""
        with self._lock:
            self._settled_at = None

    def on_status(self, status: ProbeStatus, *, retained: bool) -> bool:
        """Take a status of this name. Return whether it is another's and this probe's own must be said again."""
        if status.instance == self._instance:
            if retained:
                self._settle()
            return False
        now = self._clock.monotonic()
        if status.state == "offline":
            with self._lock:
                if self._until is not None:
                    self._until = min(self._until, now + self._periods.jitter)
            if retained:
                self._settle()
            return True
        other = (status.started_at or status.at, status.instance)
        if not retained and other > (self._started_at, self._instance):
            return True  # it came later, and will find out
        with self._lock:
            if self._until is None:
                log.warning(
                    "another probe is connected as '%s' (from %s): this one takes no commands until the name is free; "
                    "give each probe a name of its own",
                    self._name,
                    status.address or "an unknown address",
                )
            self._until = now + self._periods.silent
        return False

    def _settle(self) -> None:
        with self._lock:
            if self._settled_at is not None:
                self._settled_at = min(self._settled_at, self._clock.monotonic())
