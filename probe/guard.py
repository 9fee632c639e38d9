"""Two probes with one name: the one that has been there longer goes on, the other waits until the name is free."""

import logging
import random
import threading
from datetime import datetime

from netloom.clock import Clock
from probe.timing import Periods
from schemas.errors import ErrorInfo, error
from schemas.status import ProbeStatus

log = logging.getLogger(__name__)


class NameGuard:
    """Watches this probe's own status topic for statuses of another instance. May be called from any thread."""

    def __init__(self, name: str, instance: str, started_at: datetime, *, clock: Clock, periods: Periods) -> None:
        self._name, self._instance, self._started_at = name, instance, started_at
        self._clock, self._periods = clock, periods
        self._lock = threading.Lock()
        self._until: float | None = None
        """While another probe holds the name: when it has been silent for too long (monotonic)."""
        self._settled_at: float | None = None
        """From when on a retained status would have arrived; None while there is no connection."""
        self._other: ProbeStatus | None = None
        """The newest online status of another instance."""
        self._other_at = 0.0
        self._told = False

    @property
    def active(self) -> bool:
        """Whether this probe speaks under its name."""
        return self.wait_s == 0.0

    @property
    def held(self) -> bool:
        """Whether another probe holds the name. Until it is known that one does, commands are taken."""
        self.wait_s  # noqa: B018 - notices that the name has become free
        with self._lock:
            return self._until is not None

    @property
    def wait_s(self) -> float | None:
        """For how long to wait before looking again whether the name is free: 0 it is, None there is no connection."""
        with self._lock:
            if self._settled_at is None:
                return None
            now = self._clock.monotonic()
            if self._until is not None and now >= self._until:
                self._until = None
                self._told = False
                log.warning("the name '%s' is free: this probe takes it", self._name)
            return max(0.0, self._settled_at - now, (self._until or now) - now)

    @property
    def problem(self) -> ErrorInfo | None:
        """The other probe, for as long as it was heard of lately; only the probe that holds the name can tell."""
        with self._lock:
            other = self._other
            if other is None or self._clock.monotonic() - self._other_at > self._periods.silent:
                return None
        return error("duplicate_name", probe=self._name, address=other.address or "an unknown address")

    def on_up(self) -> None:
        """Take note of a connection; what is retained is about to arrive."""
        with self._lock:
            now = self._clock.monotonic()
            self._settled_at = now + self._periods.settle
            if self._until is not None:  # nothing could be heard meanwhile, so silence proves nothing
                self._until = now + self._silence_s()

    def on_down(self) -> None:
        """Take note that the connection is gone."""
        with self._lock:
            self._settled_at = None

    def on_status(self, status: ProbeStatus, connection: str, *, retained: bool) -> bool:
        """Take a status of this name. Return whether this probe's own, of `connection`, is to be said again."""
        with self._lock:
            if status.instance == self._instance:
                if retained:
                    self._settle()
                # Somebody wrote over what is retained: a will that came late, or a controller that missed a heartbeat.
                return status.state == "offline" or status.connection != connection
            if status.state == "offline":
                self._other_left(status, retained=retained)
                return True
            return self._other_is_there(status, retained=retained)

    def _other_left(self, status: ProbeStatus, *, retained: bool) -> None:
        other = self._other
        if other is not None and other.instance == status.instance and other.connection != status.connection:
            return  # an older connection of it
        if self._until is not None:
            now = self._clock.monotonic()
            self._until = min(self._until, now + random.uniform(0.1, 1) * self._periods.jitter)  # noqa: S311 - spreads
        if retained:
            self._settle()

    def _other_is_there(self, status: ProbeStatus, *, retained: bool) -> bool:
        known, now = self._other, self._clock.monotonic()
        # A retained status is not a heartbeat, unless it is a newer one of the same probe.
        alive = not retained or (known is not None and known.instance == status.instance and known.at != status.at)
        self._other = status
        if alive:
            self._other_at = now
        self._tell(status)
        # Both compare the same two stamps, so they agree, whatever their clocks are worth.
        later = (status.started_at or status.at, status.instance) > (self._started_at, self._instance)
        if alive and later and self._until is None:
            return True  # it will find out
        self._until = now + self._silence_s()
        return False

    def _silence_s(self) -> float:
        """Return for how long another probe must be silent to be gone, with jitter: several may be waiting."""
        return self._periods.silent + random.uniform(0, 1) * self._periods.jitter  # noqa: S311 - spreads, hides nothing

    def _tell(self, status: ProbeStatus) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "another probe is connected as '%s' (from %s): only one of them takes commands; "
                "give each probe a name of its own",
                self._name,
                status.address or "an unknown address",
            )

    def _settle(self) -> None:
        if self._settled_at is not None:
            self._settled_at = min(self._settled_at, self._clock.monotonic())
