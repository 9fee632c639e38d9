"""A probe's agent inside the test's own process, with kinds that do what the test tells them, in fast motion."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from probe.agent import Agent
from probe.kinds.base import Availability, Context, Entry, Outcome, Step
from probe.timing import Periods
from schemas.command import PingSpec, SpeedtestSpec
from schemas.errors import error
from schemas.progress import Figures, Part
from tests.kit.probes import probe_settings

FAST = Periods(
    status=0.5,
    status_gap=0.02,
    silent=1.5,
    settle=0.3,
    jitter=0.3,
    tick=0.05,
    progress=0.2,
    resend_first=0.4,
    resend_max=1.6,
    pace=0.001,
    capability=0.1,
    heal=0.1,
)


class FakeClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = 1_000.0
        self.wall = datetime(2026, 11, 23, 20, 15, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return self.wall

    def move(self, seconds: float) -> None:
        self.at += seconds
        self.wall += timedelta(seconds=seconds)


class ScriptedKind:
    """A kind that starts when it is called, and ends when the test lets it (or it is cancelled)."""

    def __init__(self, part: Part, *, throughput: bool, seconds: float | None = None) -> None:
        self.part, self.throughput = part, throughput
        self.seconds = seconds
        """Ends by itself after so long; None waits for `release`."""
        self.go = threading.Event()
        self.runs: list[tuple[str, float, float]] = []
        """Target, begin and end (monotonic) of every run that has ended."""
        self.under_way: list[str] = []
        self.most_at_once = 0
        self.steps_per_s = 50.0
        """0 is a kind that says nothing."""
        self.outcome: Callable[[BaseModel], Outcome] = lambda _: Outcome()
        self.availability = Availability(available=True)
        self._lock = threading.Lock()

    def release(self) -> None:
        """Let all end."""
        self.go.set()

    def run(self, request: Any, context: Context) -> Outcome:
        with self._lock:
            self.under_way.append(request.target)
            self.most_at_once = max(self.most_at_once, len(self.under_way))
        began = time.monotonic()
        try:
            while not context.cancelled():
                done_s = time.monotonic() - began
                if self.go.is_set() or (self.seconds is not None and done_s >= self.seconds):
                    return self.outcome(request)
                if self.steps_per_s:
                    total_s = self.seconds or 10.0
                    context.step(Step(self.part, min(done_s, total_s), total_s, total_s, Figures(rtt_ms=done_s)))
                time.sleep(1 / (self.steps_per_s or 100))
            return Outcome(errors={self.part: error("cancelled")}, cancelled=True)
        finally:
            with self._lock:
                self.under_way.remove(request.target)
                self.runs.append((request.target, began, time.monotonic()))

    def entry(self) -> Entry:
        return Entry(
            run=self.run,
            request=SpeedtestSpec if self.throughput else PingSpec,
            throughput=self.throughput,
            probe=lambda: self.availability,
            longest_s=lambda _: self.seconds or 10.0,
        )


class Kinds:
    """One scripted kind for each part of a command."""

    def __init__(self, *, ping_s: float | None = None, speedtest_s: float | None = None) -> None:
        self.ping = ScriptedKind("ping", throughput=False, seconds=ping_s)
        self.speedtest = ScriptedKind("download", throughput=True, seconds=speedtest_s)

    def registry(self) -> Mapping[str, Entry]:
        return {"ping": self.ping.entry(), "speedtest": self.speedtest.entry()}

    def release(self) -> None:
        self.ping.release()
        self.speedtest.release()


@contextlib.contextmanager
def run_agent(
    url: str, data: Path, kinds: Kinds, name: str = "paris", *, periods: Periods = FAST, **settings: Any
) -> Iterator[Agent]:
    """An agent at work."""
    agent = Agent(probe_settings(url, data, name, **settings), name, registry=kinds.registry(), periods=periods)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()
