"""Slots: one throughput test at a time with a short queue behind it, light tests side by side and beside it.

Whatever happens to a test, it ends in one way: with a result in the spool and a record in the journal, or - if it never started -
with a rejection.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from netloom.clock import Clock
from probe import results
from probe.clock import ControllerClock
from probe.execution import Execution, Test
from probe.journal import Journal, Record
from probe.kinds.base import Entry
from probe.limits import ProbeLimits
from probe.progress import Reporter, Say, parts
from probe.spool import Spool
from probe.timing import Periods
from probe.worker import Worker
from schemas.command import RunCommand
from schemas.errors import Failure
from schemas.result import Result
from schemas.status import Running

log = logging.getLogger(__name__)

_TICKS: Final = 2
"""Looks at the progress in each period of a tick."""


class Runner:
    """Runs tests, each in a thread of its own."""

    def __init__(
        self,
        name: str,
        registry: Mapping[str, Entry],
        limits: ProbeLimits,
        journal: Journal,
        spool: Spool,
        *,
        say: Say,
        clock: Clock,
        controller: ControllerClock,
        on_result: Callable[[Result], None],
        on_change: Callable[[], None],
        periods: Periods,
    ) -> None:
        self.counters: Counter[str] = Counter()
        """results."""
        self._name, self._registry, self._limits = name, registry, limits
        self._journal, self._spool = journal, spool
        self._say, self._clock, self._controller, self._periods = say, clock, controller, periods
        self._on_result, self._on_change = on_result, on_change
        self._lock = threading.RLock()
        self._light: dict[str, Test] = {}
        self._heavy: Test | None = None
        self._queue: deque[Test] = deque()
        self._load = False
        """Whether the line is being filled."""
        self._stopping = False
        self._threads: set[threading.Thread] = set()
        self._ticker = Worker("probe-ticker", self._tick)

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to tell the progress of what will run."""
        self._ticker.start()

    def stop(self, timeout_s: float) -> None:
        """Refuse what waits, cancel what runs and wait for its results."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._stopping = True
            while self._queue:
                self._refuse(self._queue.popleft(), Failure("probe_stopping"))
            for test in self._running():
                test.cancel.set()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._ticker.stop(max(0.05, deadline - time.monotonic()))

    # --- what goes on -----------------------------------------------------------------------------------------------------
    def running(self) -> tuple[Running, ...]:
        """Return the tests under way, as the status shows them."""
        with self._lock:
            found = self._running()
        return tuple(test.reporter.running(test.autotest_id) for test in found)

    @property
    def queued(self) -> int:
        """How many tests wait."""
        return len(self._queue)

    # --- commands ---------------------------------------------------------------------------------------------------------
    def submit(self, command: RunCommand, test_id: str) -> None:
        """Take a test: it is journalled, then told, then run or queued. Raise Failure: probe_busy, probe_stopping, spool_full."""
        plan = parts(command, self._registry)
        reporter = Reporter(test_id, command.number, plan, self._say, clock=self._clock, periods=self._periods)
        throughput = any(self._registry[part.name].throughput for part in plan)
        test = Test(test_id, command.model_copy(update={"id": test_id}), plan, reporter, throughput)
        with self._lock:
            waits = self._check_room(test)
            if waits:
                self._journal.put(self._record(test, queued=True))
                self._queue.append(test)
                reporter.tell("queued")
            else:
                self._launch(test)
        self._on_change()

    def cancel(self, test_id: str) -> bool:
        """Cancel a test that runs or waits. Return whether there was one."""
        with self._lock:
            for test in self._queue:
                if test.id == test_id:
                    self._queue.remove(test)
                    self._refuse(test, Failure("cancelled"))
                    break
            else:
                running = next((one for one in self._running() if one.id == test_id), None)
                if running is None:
                    return False
                running.cancel.set()
        self._on_change()
        return True

    def again(self, test_id: str) -> bool:
        """Repeat the newest progress of a test that runs or waits. Return whether there was one."""
        with self._lock:
            test = next((one for one in [*self._running(), *self._queue] if one.id == test_id), None)
        if test is not None:
            test.reporter.again()
        return test is not None

    # --- inside -----------------------------------------------------------------------------------------------------------
    def _running(self) -> list[Test]:
        return [*self._light.values(), *([self._heavy] if self._heavy else [])]

    def _check_room(self, test: Test) -> bool:
        """Return whether the test has to wait; raise Failure if it cannot."""
        if self._stopping:
            raise Failure("probe_stopping")
        if self._spool.full:
            raise Failure("spool_full", waiting=len(self._spool.waiting()))
        if not test.throughput and len(self._light) < self._limits.light_tests:
            return False
        if test.throughput and self._heavy is None:
            return False
        if test.throughput and len(self._queue) < self._limits.throughput_queue:
            return True
        raise Failure("probe_busy", probe=self._name, running=len(self._running()), queued=len(self._queue))

    def _record(self, test: Test, *, queued: bool = False) -> Record:
        return Record(
            id=test.id,
            state="queued" if queued else "running",
            number=test.command.number,
            seq=max(test.reporter.seq, 0),
            command=test.command,
            started_at=None if queued else self._clock.now(),
        )

    def _refuse(self, test: Test, why: Failure) -> None:
        """End a test that never started."""
        seq = test.reporter.seq + 1
        self._journal.put(
            Record(id=test.id, state="rejected", number=test.command.number, seq=seq, error=why.info, field=why.field)
        )
        test.reporter.tell("rejected", error=why.info)
        test.reporter.close()

    def _launch(self, test: Test) -> None:
        """Start a test; the lock is held and its slot is free."""
        record = self._record(test)
        self._journal.put(record)
        if test.throughput:
            self._heavy = test
        else:
            self._light[test.id] = test
            test.during_throughput = self._load
        test.reporter.tell("accepted")
        thread = threading.Thread(target=self._run, args=(test, record), name=f"test-{test.id[-12:]}", daemon=True)
        self._threads.add(thread)
        thread.start()
        self._ticker.wake()

    def _run(self, test: Test, record: Record) -> None:
        try:
            self._measure(test, record)
        except Exception:  # the slot must become free whatever happened
            log.exception("test %s was lost", test.id)
        finally:
            test.reporter.close()
            with self._lock:
                self._light.pop(test.id, None)
                if self._heavy is test:
                    self._heavy = None
                    if self._queue:  # a stop has emptied it
                        self._launch(self._queue.popleft())
                self._threads.discard(threading.current_thread())
            self._on_change()

    def _measure(self, test: Test, record: Record) -> None:
        execution = Execution(test, self._registry, self._limits, clock=self._clock, on_load=self._on_load)
        draft = execution.run(self._name, record.started_at or self._clock.now())
        draft = replace(draft, clock_trusted=self._controller.agrees)
        seq = test.reporter.close()
        result = self._spool.add(lambda version: results.make(draft, version))
        self._journal.put(Record(id=test.id, state="finished", number=result.number, seq=seq, outcome=result.status))
        self.counters["results"] += 1
        self._on_result(result)

    def _on_load(self, _: Test, begins: bool) -> None:  # noqa: FBT001 - the signature of Execution's callback
        with self._lock:
            self._load = begins
            if begins:
                for test in self._light.values():
                    test.during_throughput = True

    def _tick(self) -> float | None:
        with self._lock:
            found = self._running()
        for test in found:
            test.reporter.tick()
        return self._periods.tick / _TICKS if found else None
