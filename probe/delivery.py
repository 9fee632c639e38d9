"""Handing results over: sent until the controller says that it has stored them, the newest first and retained.

Each new connection, and each new start of the controller, begins a round: the newest result, then the others from oldest to newest,
then - after 60 s, doubling to 10 min - those that got no ack. At most 16 are in flight, and a result stops counting as in flight
after 60 s, so that results which are never acknowledged hold up the others for a while but not for ever. The newest is never held
up: it is what readers of the retained message see.
"""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from netloom.clock import Clock
from probe.guard import NameGuard
from probe.spool import VERSION_MAX, Spool
from probe.timing import Periods
from probe.uplink import Uplink
from probe.worker import Worker
from schemas import limits
from schemas.ack import Ack
from schemas.result import Result

_UNSENT_S: Final = 1.0
"""Until the next try after the connection took a result no more; a new connection comes before that."""


@dataclass
class _Sent:
    """When a result goes out again (monotonic, s), and how long after that the next time."""

    again_at: float
    pause_s: float


class Delivery:
    """Publishes what the spool holds. Its methods may be called from any thread."""

    def __init__(self, uplink: Uplink, spool: Spool, guard: NameGuard, *, clock: Clock, periods: Periods) -> None:
        self.counters: Counter[str] = Counter()
        """results_sent, results_acked, results_refused."""
        self._uplink, self._spool, self._guard = uplink, spool, guard
        self._clock, self._periods = clock, periods
        self._lock = threading.RLock()
        self._todo: deque[int] = deque()
        """What this round has not sent yet, oldest first."""
        self._sent: dict[int, _Sent] = {}
        """What this round has sent and nobody has acknowledged."""
        self._in_flight: dict[int, float] = {}
        """When each was sent, in this order."""
        self._retained: int | None = None
        """Version of what is retained on the bus; None: nothing, or it is not known yet."""
        self._settled_at: float | None = None
        """From when on what is retained is known; None while there is no connection."""
        self._paced_at = -periods.pace
        self._worker = Worker("probe-delivery", self._turn)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def stop(self, timeout_s: float) -> None:
        """Send what can be sent at once, and end; what is not acknowledged stays in the spool."""
        self._worker.stop(timeout_s)
        until = self._clock.monotonic() + timeout_s
        while self._clock.monotonic() < until:
            rest_s = self._turn()
            if rest_s is None or rest_s > self._periods.pace:
                return
            time.sleep(rest_s)

    # --- what happens -----------------------------------------------------------------------------------------------------
    def add(self, version: int) -> None:
        """Take note of a new result in the spool."""
        with self._lock:
            self._todo.append(version)
        self._worker.wake()

    def on_up(self) -> None:
        """Begin a round on a new connection, as soon as what is retained has had time to arrive."""
        with self._lock:
            self._retained = None
            self._settled_at = self._clock.monotonic() + self._periods.settle
        self.begin_round()

    def on_down(self) -> None:
        """Take note that the connection is gone."""
        with self._lock:
            self._settled_at = None

    def begin_round(self) -> None:
        """Have everything sent again: whoever heard it may be gone."""
        with self._lock:
            self._todo = deque(self._spool.waiting())
            self._sent.clear()
            self._in_flight.clear()
        self._worker.wake()

    def on_own_result(self, result: Result, *, retained: bool) -> None:
        """Take note of what is retained under this probe's name; its versions go on from there."""
        if retained and result.version <= VERSION_MAX:
            self._spool.continue_from(result.version)
            with self._lock:
                self._retained = result.version
            self._worker.wake()

    def on_overwritten(self) -> None:
        """Somebody wrote over what was retained; it is restored as if it had never been there."""
        with self._lock:
            self._retained = None
            if self._settled_at is not None:
                self._settled_at = min(self._settled_at, self._clock.monotonic())
        self._worker.wake()

    def on_ack(self, ack: Ack) -> None:
        """Forget what is stored, and put away what is refused."""
        for test_id in ack.stored:
            self._done(test_id)
            self.counters["results_acked"] += self._spool.forget(test_id)
        for refused in ack.refused:
            self._done(refused.id)
            self.counters["results_refused"] += self._spool.quarantine(refused.id, refused.code)
        self._worker.wake()

    def again(self, version: int) -> None:
        """Send a result again now: somebody asked for its test a second time."""
        self._publish(version)

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _done(self, test_id: str) -> None:
        version = self._spool.find(test_id)
        if version is not None:
            with self._lock:
                self._sent.pop(version, None)
                self._in_flight.pop(version, None)

    def _turn(self) -> float | None:
        """Send one result, if one may be sent now; return when to look again."""
        now = self._clock.monotonic()
        with self._lock:
            settled_at, known = self._settled_at, self._retained is not None
        wait_s = self._guard.wait_s
        if settled_at is None or wait_s is None or not self._uplink.bus.up:
            return None  # on_up wakes
        if not known:
            wait_s = max(wait_s, settled_at - now)
        wait_s = max(wait_s, self._paced_at + self._periods.pace - now)
        if wait_s > 0:
            return wait_s
        self._paced_at = now
        self._restore_newest()
        version = self._next(now)
        if version is None:
            return self._rest_s(now)
        return self._periods.pace if self._publish(version) else _UNSENT_S

    def _restore_newest(self) -> None:
        """Publish the newest result that was sent already, if what is retained on the bus is missing or older."""
        newest = self._spool.newest
        if not newest or newest <= (self._retained or 0):
            return
        if self._spool.holds(newest) and newest not in self._sent:
            return  # it goes out anyway
        payload = self._spool.newest_payload()
        if payload is not None and self._uplink.say("result", payload, retain=True) is not None:
            with self._lock:
                self._retained = newest

    def _next(self, now: float) -> int | None:
        """Return what to send now, None if there is nothing or too much is in flight."""
        with self._lock:
            while self._in_flight and now - next(iter(self._in_flight.values())) >= self._periods.resend_first:
                del self._in_flight[next(iter(self._in_flight))]
            newest = self._spool.newest
            if newest not in self._sent and self._spool.holds(newest):
                if len(self._in_flight) >= limits.RESULTS_IN_FLIGHT_MAX:
                    del self._in_flight[next(iter(self._in_flight))]  # it is sent again when its time has come
                return newest
            if len(self._in_flight) >= limits.RESULTS_IN_FLIGHT_MAX:
                return None
            while self._todo:
                version = self._todo.popleft()
                if version not in self._sent and self._spool.holds(version):
                    return version
            for version in [version for version in self._sent if not self._spool.holds(version)]:
                del self._sent[version]
            return min((version for version, sent in self._sent.items() if sent.again_at <= now), default=None)

    def _rest_s(self, now: float) -> float | None:
        """Return for how long there is nothing to do, unless something happens."""
        with self._lock:
            times = [sent.again_at for sent in self._sent.values()]
            if self._todo and self._in_flight:
                times.append(next(iter(self._in_flight.values())) + self._periods.resend_first)
        return max(self._periods.pace, min(times) - now) if times else None

    def _publish(self, version: int) -> bool:
        """Publish a waiting result. Return whether there is still a connection."""
        payload = self._spool.payload(version)
        retain = version == self._spool.newest and version >= (self._retained or 0)
        if payload is not None and self._uplink.say("result", payload, retain=retain) is None:
            with self._lock:
                self._todo.appendleft(version)
            return False
        now = self._clock.monotonic()
        with self._lock:
            before = self._sent.get(version)
            first_s, most_s = self._periods.resend_first, self._periods.resend_max
            pause_s = first_s if before is None else min(before.pause_s * 2, most_s)
            self._sent[version] = _Sent(now + pause_s, pause_s)
            if payload is not None:  # what cannot be read now is tried again like what was not acknowledged
                self.counters["results_sent"] += 1
                self._in_flight.pop(version, None)
                self._in_flight[version] = now
                self._retained = version if retain else self._retained
        return True
