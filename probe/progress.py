"""How one test is going: its progress messages, thinned out, numbered, and none after the end."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from netloom.clock import Clock
from probe.kinds.base import Entry, Step
from probe.timing import Periods
from schemas import codec
from schemas.command import RunCommand
from schemas.errors import ErrorInfo
from schemas.progress import Progress, ProgressState
from schemas.result import ResultStatus
from schemas.status import Running

SMALL_BYTES: Final = 8 * 1024
"""A progress message that would be larger goes without the samples."""

Say = Callable[[bytes, int], object]
"""Publish a progress message with a QoS."""


@dataclass(frozen=True)
class PartPlan:
    """One part of a test and its length, s: as it usually is, and at the longest."""

    name: str
    usual_s: float
    longest_s: float


def parts(command: RunCommand, registry: Mapping[str, Entry]) -> list[PartPlan]:
    """Return the parts a command asks for, in the order in which they run: light ones first."""
    found = [
        # Any: the request of whatever kind it is.
        (entry, name, request)
        for name, entry in registry.items()
        if (request := getattr(command, name)) is not None
    ]
    found.sort(key=lambda part: part[0].throughput)
    return [PartPlan(name, _usual_s(entry, request), entry.longest_s(request)) for entry, name, request in found]


def _usual_s(entry: Entry, request: Any) -> float:
    return entry.longest_s(request) if entry.usual_s is None else entry.usual_s(request)


def encode(progress: Progress) -> bytes:
    """Return a progress message as bytes, small enough to be sent often."""
    payload = codec.encode(progress)
    if len(payload) > SMALL_BYTES and progress.figures is not None:
        figures = progress.figures.model_copy(update={"samples": None})
        payload = codec.encode(progress.model_copy(update={"figures": figures}))
    return payload


class Reporter:
    """Tells how one test is going. May be called from any thread; what it says leaves in the order of `seq`."""

    def __init__(
        self,
        test_id: str,
        number: int | None,
        plan: Sequence[PartPlan],
        say: Say,
        *,
        clock: Clock,
        periods: Periods,
    ) -> None:
        self.id, self.number, self.seq = test_id, number, -1
        self._plan, self._say, self._clock, self._periods = plan, say, clock, periods
        self._lock = threading.Lock()
        self._closed = False
        self._state: ProgressState = "queued"
        self._at_part = 0
        self._step: Step | None = None
        self._step_at = 0.0
        self._news = False
        self._said_at = 0.0
        self._percent = 0.0

    def tell(
        self, state: ProgressState, *, error: ErrorInfo | None = None, outcome: ResultStatus | None = None
    ) -> None:
        """Say that the test is in another state."""
        with self._lock:
            if not self._closed:
                self._state = state
                self._publish(1, error=error, outcome=outcome)

    def begin(self, part: str) -> None:
        """Note that a part begins; its first step will be told at once."""
        with self._lock:
            self._at_part = [plan.name for plan in self._plan].index(part)
            self._step, self._news = None, False

    def step(self, step: Step) -> None:
        """Take a step of the part under way; told now if the last one is long enough ago, else at a tick."""
        with self._lock:
            if self._closed:
                return
            first = self._step is None or self._state != "running"
            self._step, self._step_at, self._news = step, self._clock.monotonic(), True
            self._state = "running"
            if first or self._clock.monotonic() - self._said_at >= self._periods.tick:
                self._publish(1 if first else 0)

    def tick(self) -> None:
        """Say what is new, or say again that the test is alive; called a few times a second."""
        with self._lock:
            if self._closed:
                return
            silent_s = self._clock.monotonic() - self._said_at
            if silent_s >= (self._periods.tick if self._news else self._periods.progress):
                self._publish(0)

    def again(self) -> None:
        """Repeat the newest message: somebody has not heard it."""
        with self._lock:
            if not self._closed:
                self._publish(1)

    def close(self) -> int:
        """Be silent from now on; return the last `seq`."""
        with self._lock:
            self._closed = True
            return max(self.seq, 0)

    def running(self, autotest_id: str | None) -> Running:
        """Return the test as the status shows it."""
        with self._lock:
            part = None if self._step is None else self._step.part
            return Running(
                id=self.id, number=self.number, part=part, percent=round(self._percent, 1), autotest_id=autotest_id
            )

    def _publish(self, qos: int, *, error: ErrorInfo | None = None, outcome: ResultStatus | None = None) -> None:
        self.seq += 1
        self._news, self._said_at = False, self._clock.monotonic()
        step = self._step if self._state == "running" else None
        self._percent = max(self._percent, self._share(step))
        message = Progress(
            id=self.id,
            number=self.number,
            seq=self.seq,
            at=self._clock.now(),
            state=self._state,
            outcome=outcome,
            error=error,
            part=None if step is None else step.part,
            done=None if step is None else step.done,
            total=None if step is None else step.total,
            percent=round(self._percent, 1) if self._state == "running" else None,
            eta_s=self._eta_s(step),
            figures=None if step is None else step.figures,
        )
        self._say(encode(message), qos)

    def _share(self, step: Step | None) -> float:
        """Return how much of the whole test is done, percent, by the usual length of its parts."""
        whole_s = sum(plan.usual_s for plan in self._plan)
        if step is None or whole_s <= 0:
            return 0.0
        before_s = sum(plan.usual_s for plan in self._plan[: self._at_part])
        share = min(1.0, step.done / step.total) if step.total > 0 else 0.0
        return min(100.0, 100 * (before_s + share * self._plan[self._at_part].usual_s) / whole_s)

    def _eta_s(self, step: Step | None) -> float | None:
        if self._state in ("queued", "rejected", "finished"):
            return None
        after_s = sum(plan.longest_s for plan in self._plan[self._at_part + 1 :])
        if step is None:
            return round(self._plan[self._at_part].longest_s + after_s, 3)
        return round(max(0.0, step.eta_s - (self._clock.monotonic() - self._step_at)) + after_s, 3)
