"""Handing results over: sent until the controller says that it has stored them, the newest first and retained.

A result counts as in flight from its publishing until its ack. At most 16 are; the newest goes out whatever waits, because it is
what readers of the retained message see. What got no ack is sent again on a new connection, when the controller has started anew,
and otherwise after 60 s, doubling to 10 min.
"""

import threading
from dataclasses import dataclass

from netloom.clock import Clock
from probe.spool import VERSION_MAX, Spool
from probe.timing import Periods
from probe.uplink import Uplink
from probe.worker import Worker
from schemas import limits
from schemas.ack import Ack
from schemas.result import Result

_NEVER = -1


@dataclass
class _Sent:
    """When a result goes out again (monotonic, s), and how long after that the next time."""

    again_at: float
    pause_s: float


class Delivery:
    """Publishes what the spool holds. Its methods may be called from any thread."""

    def __init__(self, uplink: Uplink, spool: Spool, *, clock: Clock, periods: Periods) -> None:
        self._uplink, self._spool, self._clock, self._periods = uplink, spool, clock, periods
        self._lock = threading.Lock()
        self._sent: dict[int, _Sent] = {}
        self._retained: int | None = None
        """Version of what is retained on the bus; _NEVER: nothing is, or not known yet."""
        self._settled_at: float | None = None
        """From when on what is retained is known; None while there is no connection."""
        self._worker = Worker("probe-delivery", self._turn)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def stop(self, timeout_s: float) -> None:
        """End; what is not acknowledged stays in the spool."""
        self._worker.stop(timeout_s)

    def wake(self) -> None:
        """There is something new to send."""
        self._worker.wake()

    def on_up(self) -> None:
        """A connection stands: everything un-acknowledged goes again, after what is retained has had time to arrive."""
        with self._lock:
            self._sent.clear()
            self._retained = None
            self._settled_at = self._clock.monotonic() + self._periods.settle
        self.wake()

    def on_down(self) -> None:
        """The connection is gone."""
        with self._lock:
            self._settled_at = None

    def on_controller_start(self) -> None:
        """A controller began its work: what the one before did not acknowledge goes again."""
        with self._lock:
            self._sent.clear()
        self.wake()

    def on_own_result(self, result: Result, *, retained: bool) -> None:
        """Take note of what is retained under this probe's name; its versions go on from there."""
        if retained and result.version <= VERSION_MAX:
            self._spool.continue_from(result.version)
            with self._lock:
                self._retained = result.version
            self.wake()

    def on_ack(self, ack: Ack) -> None:
        """Forget what is stored, and put away what is refused."""
        for test_id in ack.stored:
            self._spool.forget(test_id)
        for refused in ack.refused:
            self._spool.quarantine(refused.id, refused.code)
        with self._lock:
            waiting = set(self._spool.waiting())
            self._sent = {version: sent for version, sent in self._sent.items() if version in waiting}
        self.wake()

    def again(self, version: int) -> None:
        """Send a result again now: somebody asked for its test a second time."""
        with self._lock:
            self._sent.pop(version, None)
        self._publish(version)

    def newest_again(self) -> None:
        """Publish the newest result again, retained."""
        payload = self._spool.newest_payload()
        if payload is not None:
            self._uplink.say("result", payload, retain=True)

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _turn(self) -> float | None:
        now = self._clock.monotonic()
        with self._lock:
            settled_at = self._settled_at
        if settled_at is None or not self._uplink.bus.up:
            return None  # on_up wakes
        if now < settled_at and self._retained is None:
            return settled_at - now
        self._assert_newest()
        version = self._next(now)
        if version is not None:
            return self._periods.pace if self._publish(version) else None
        with self._lock:
            due = min((sent.again_at for sent in self._sent.values()), default=None)
        return None if due is None else max(0.05, due - now)

    def _assert_newest(self) -> None:
        """Publish the newest acknowledged result again if what is retained on the bus is missing or older."""
        newest = self._spool.newest
        with self._lock:
            known = _NEVER if self._retained is None else self._retained
            if newest <= known or newest in self._spool.waiting():
                return
            self._retained = newest
        if newest:
            self.newest_again()

    def _next(self, now: float) -> int | None:
        waiting = self._spool.waiting()
        if not waiting:
            return None
        with self._lock:
            if waiting[-1] == self._spool.newest and waiting[-1] not in self._sent:
                return waiting[-1]
            due = [version for version in waiting if version in self._sent and self._sent[version].again_at <= now]
            if due:
                return due[0]
            if len(self._sent) >= limits.RESULTS_IN_FLIGHT_MAX:
                return None
            return next((version for version in waiting if version not in self._sent), None)

    def _publish(self, version: int) -> bool:
        """Publish a waiting result; return whether the connection took it (or there was none to publish)."""
        payload = self._spool.payload(version)
        if payload is None:
            return True
        newest = version == self._spool.newest
        if self._uplink.say("result", payload, retain=newest) is None:
            return False
        with self._lock:
            before = self._sent.get(version)
            pause_s = (
                self._periods.resend_first if before is None else min(before.pause_s * 2, self._periods.resend_max)
            )
            self._sent[version] = _Sent(self._clock.monotonic() + pause_s, pause_s)
            if newest:
                self._retained = version
        return True
