"""The probe's clock against the controller's: whether an age can be judged, and whether stamps can be trusted."""

import threading
from datetime import datetime, timedelta

from netloom.clock import Clock
from schemas import limits
from schemas.status import ClockStatus


class ControllerClock:
    """Remembers when the controller last said what time it was; a jump of either clock shows from then on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: tuple[datetime, float] | None = None

    def heard(self, at: datetime) -> None:
        """Take the time of a live status; a retained one is older than it says."""
        with self._lock:
            self._heard = (at, self._clock.monotonic())

    @property
    def offset_s(self) -> float | None:
        """Probe minus controller; None before it was compared."""
        with self._lock:
            if self._heard is None:
                return None
            at, heard_at = self._heard
        return (self._clock.now() - at - timedelta(seconds=self._clock.monotonic() - heard_at)).total_seconds()

    @property
    def agrees(self) -> bool | None:
        """Whether the clocks are close enough to judge ages by; None before they were compared."""
        offset_s = self.offset_s
        return None if offset_s is None else abs(offset_s) <= limits.CLOCK_AGREES_WITHIN_S

    def status(self) -> ClockStatus:
        """Return what the status says of the clock."""
        offset_s = self.offset_s
        return ClockStatus(
            now=self._clock.now(),
            offset_s=None if offset_s is None else round(offset_s, 3),
            agrees=self.agrees,
        )
