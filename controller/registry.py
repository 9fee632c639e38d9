"""Which probes there are, from what they say of themselves, and since when one has been missing.

A last will is a hint, the heartbeat deadline is the truth: a probe not heard for `offline_after_s` is declared offline here. A
retained status is not a heartbeat; it only starts that time. While this side is cut off from the broker nobody is judged.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from netloom.clock import Clock
from schemas.status import ProbeStatus


@dataclass
class _Known:
    status: ProbeStatus
    heard_at: float
    """Monotonic, s."""


class Registry:
    """The probes by name; safe from any thread."""

    def __init__(self, clock: Clock, offline_after_s: float) -> None:
        self._clock, self._offline_after_s = clock, offline_after_s
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> ProbeStatus | None:
        """Return a probe's present status."""
        with self._lock:
            found = self._known.get(name)
            return found.status if found else None

    def hear(self, name: str, status: ProbeStatus, *, retained: bool) -> bool:
        """Take a status. Tell whether it shows that the probe has restarted since the one before."""
        now = self._clock.monotonic()
        with self._lock:
            before = self._known.get(name)
            if before is not None and _is_stale(before.status, status, retained=retained):
                return False
            self._known[name] = _Known(status, now)
        return before is not None and status.state == "online" and _restarted(before.status, status)

    def forget(self, name: str) -> None:
        """Drop a probe."""
        with self._lock:
            self._known.pop(name, None)

    def excuse(self) -> None:
        """Give every probe its whole time again: it was this side that could not hear."""
        now = self._clock.monotonic()
        with self._lock:
            for known in self._known.values():
                known.heard_at = now

    def declare_missing(self, publish: Callable[[str, ProbeStatus], object]) -> None:
        """Have `publish` say "offline" for each probe that is overdue; if it raises, the probe stays online and is tried again."""
        now = self._clock.monotonic()
        with self._lock:
            overdue = {
                name: known
                for name, known in self._known.items()
                if known.status.state == "online" and now - known.heard_at > self._offline_after_s
            }
        stamp = self._clock.now()
        for name, known in overdue.items():
            offline = known.status.model_copy(
                update={"state": "offline", "reason": "deadline", "at": stamp, "since": stamp}
            )
            publish(name, offline)
            with self._lock:
                if self._known.get(name) is known:
                    self._known[name] = _Known(offline, now)


def _is_stale(before: ProbeStatus, status: ProbeStatus, *, retained: bool) -> bool:
    """Tell whether an "offline" names a connection that the probe has replaced since: a take-over can deliver it late."""
    return (
        not retained
        and status.state == "offline"
        and before.state == "online"
        and status.connection != before.connection
    )


def _restarted(before: ProbeStatus, status: ProbeStatus) -> bool:
    return status.instance != before.instance or (
        status.started_at is not None and before.started_at is not None and status.started_at > before.started_at
    )
