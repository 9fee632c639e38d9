"""The status: every 15 s and at every change, retained, and only by the probe that holds the name."""

from collections.abc import Callable, Mapping

from netloom.clock import Clock
from probe.guard import NameGuard
from probe.kinds.base import Entry
from probe.timing import Periods
from probe.uplink import Uplink
from probe.worker import Worker
from schemas.errors import ErrorInfo
from schemas.status import Capability, ProbeStatus


class Capabilities:
    """What kinds of test can run here; what cannot is looked at again from time to time."""

    def __init__(self, registry: Mapping[str, Entry], *, periods: Periods, on_change: Callable[[], None]) -> None:
        self._registry, self._periods, self._on_change = registry, periods, on_change
        self._found = {name: self._look(entry) for name, entry in registry.items()}
        self._worker = Worker("probe-capabilities", self._turn)
        self._looked = True
        self._doubted = False

    def start(self) -> None:
        """Begin to look again."""
        self._worker.start()

    def stop(self, timeout_s: float) -> None:
        """End."""
        self._worker.stop(timeout_s)

    def all(self) -> dict[str, Capability]:
        """Return what is known, by kind."""
        return dict(self._found)

    def missing(self, kind: str) -> ErrorInfo | None:
        """Return why a kind cannot run here, None if it can."""
        found = self._found[kind]
        return None if found.available else found.error

    def look_again(self) -> None:
        """Have another look at everything now: a test found out something."""
        self._doubted = True
        self._worker.wake()

    def _look(self, entry: Entry) -> Capability:
        found = entry.probe()
        return Capability(available=found.available, detail=dict(found.detail), error=found.error)

    def _turn(self) -> float:
        if self._looked:
            self._looked = False
            return self._periods.capability
        doubted, self._doubted = self._doubted, False
        before = dict(self._found)
        for name, entry in self._registry.items():
            if doubted or not self._found[name].available:
                self._found[name] = self._look(entry)
        if self._found != before:
            self._on_change()
        return self._periods.capability


class Heartbeat:
    """Publishes what `compose` returns."""

    def __init__(
        self, uplink: Uplink, guard: NameGuard, compose: Callable[[], ProbeStatus], *, clock: Clock, periods: Periods
    ) -> None:
        self._uplink, self._guard, self._compose = uplink, guard, compose
        self._clock, self._periods = clock, periods
        self._said_at = 0.0
        self._changed = True
        self._worker = Worker("probe-heartbeat", self._turn)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def stop(self, timeout_s: float) -> None:
        """End; the goodbye is the agent's."""
        self._worker.stop(timeout_s)

    def changed(self) -> None:
        """There is something new to say; changes that come thick are told together."""
        self._changed = True
        self._worker.wake()

    def _turn(self) -> float | None:
        wait_s = self._guard.wait_s
        if wait_s is None:
            return None  # no connection: on_up calls `changed`
        if wait_s > 0:
            return wait_s
        since_s = self._clock.monotonic() - self._said_at
        pause_s = self._periods.status_gap if self._changed else self._periods.status
        if since_s < pause_s:
            return pause_s - since_s
        self._changed = False
        if self._uplink.say("status", self._compose(), retain=True) is None:
            self._changed = True
            return None
        self._said_at = self._clock.monotonic()
        return self._periods.status
