"""Download and upload: throughput to an iperf3 server, one direction after the other, each run in a process of its own."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from probe.iperf import document, runner
from probe.iperf.errors import failure
from probe.iperf.events import Report, Sample, live_rate
from probe.kinds.base import Availability, Context, Entry, Outcome, Step
from schemas.command import Direction, SpeedtestSpec
from schemas.errors import ErrorInfo, Failure, error
from schemas.progress import Figures
from schemas.result import DirectionResult, ServerAddress, SpeedtestResult

FREE_AGAIN_S: Final = 1.0
"""For so long a server that just served one direction may still be busy, or not listen again yet."""
FREE_AGAIN_STEP_S: Final = 0.05
BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_MAX_S: Final = 8.0
OVERHEAD_S: Final = 0.5
"""A direction's time beyond its measured seconds, as promised."""
LOOK_S: Final = 0.1
NO_SECOND_TRY: Final = frozenset(
    {
        "target_refused",
        "target_timeout",
        "target_busy",
        "target_protocol_error",
        "host_unreachable",
        "network_unreachable",
        "iperf3_missing",
        "cancelled",
    }
)
"""What the first direction meets and the second would only meet again."""


def back_offs(retries: int) -> Iterator[float]:
    """Yield the longest pause before each retry at a busy server, s; half of each is left to chance."""
    for number in range(retries):
        yield min(BACK_OFF_FIRST_S * 2**number, BACK_OFF_MAX_S)


def longest_s(request: SpeedtestSpec) -> float:
    """Return the longest a speedtest can take, s, with every retry and every deadline reached."""
    retries_s = runner.DEADLINES.connect_s + sum(back_offs(request.busy_retries))
    return len(request.directions) * (retries_s + runner.DEADLINES.total_s(request) + 2 * runner.REAP_S)


def usual_s(request: SpeedtestSpec) -> float:
    """Return how long a speedtest takes when the server is there and free, s."""
    return len(request.directions) * (request.omit_s + request.duration_s + OVERHEAD_S)


@dataclass
class _Test:
    """One speedtest under way."""

    request: SpeedtestSpec
    context: Context
    address: str
    results: dict[Direction, DirectionResult] = field(default_factory=dict)
    errors: dict[str, ErrorInfo] = field(default_factory=dict)
    version: str | None = None
    served_at: float | None = None
    """When this server last ended a direction well (monotonic)."""

    @property
    def seconds(self) -> int:
        """How long data flows in one direction."""
        return self.request.omit_s + self.request.duration_s

    def step(self, direction: Direction, samples: list[Sample]) -> None:
        """Report how far the test is, in seconds over both directions."""
        index, count = self.request.directions.index(direction), len(self.request.directions)
        at_s = samples[-1].at_s if samples else None
        done = index * self.seconds + min(at_s or 0.0, float(self.seconds))
        total = count * self.seconds
        self.context.step(
            Step(
                part=direction,
                done=done,
                total=float(total),
                eta_s=total - done + OVERHEAD_S * (count - index),
                figures=Figures(bits_per_second=live_rate(samples)),
            )
        )

    def measure(self, direction: Direction) -> None:
        """Measure a direction, trying again while the server is busy; its result or its error is then in place."""
        give_up_at = time.monotonic() + runner.DEADLINES.connect_s + sum(back_offs(self.request.busy_retries))
        pauses = back_offs(self.request.busy_retries)
        tries = 0
        while True:
            self.step(direction, [])
            report = self._run(direction)
            tries += 1
            reason = failure(report, self.request.target, self.request.port, tries=tries)
            pause = None if reason is None or time.monotonic() > give_up_at else self._pause(reason.code, pauses)
            if pause is None:
                break
            if not self._wait(direction, pause):
                reason = error("cancelled")
                break
        self._keep(direction, report, reason, tries)

    def _run(self, direction: Direction) -> Report:
        report = runner.run(
            runner.Plan(self.request, direction, self.address),
            cancelled=self.context.cancelled,
            on_samples=lambda samples: self.step(direction, samples),
            deadlines=runner.DEADLINES,
        )
        self.version = report.version or self.version
        return report

    def _pause(self, code: str, pauses: Iterator[float]) -> float | None:
        """Return how long to wait before the next try, s; None if there is none."""
        just_served = self.served_at is not None and time.monotonic() - self.served_at < FREE_AGAIN_S
        if just_served and code in ("target_busy", "target_refused"):
            return FREE_AGAIN_STEP_S
        if code != "target_busy":
            return None
        longest = next(pauses, None)
        return None if longest is None else longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing

    def _wait(self, direction: Direction, seconds: float) -> bool:
        """Wait; return False if the test was cancelled meanwhile."""
        until = time.monotonic() + seconds
        while not self.context.cancelled():
            left = until - time.monotonic()
            if left <= 0:
                return True
            self.step(direction, [])
            time.sleep(min(left, LOOK_S))
        return False

    def _keep(self, direction: Direction, report: Report, reason: ErrorInfo | None, tries: int) -> None:
        if reason is None:
            self.served_at = time.monotonic()
            try:
                self.results[direction] = document.direction_result(
                    report.document, report.samples, self.request, direction, tries=tries
                )
            except document.NoFigures as exc:
                reason = error(
                    "target_protocol_error", host=self.request.target, port=self.request.port, reason=str(exc)
                )
        if reason is not None:
            self.fail(direction, reason, tries, document.kept(report.document))

    def fail(
        self, direction: Direction, reason: ErrorInfo, tries: int | None = None, found: document.Json | None = None
    ) -> None:
        """Keep why a direction brought no figures."""
        self.errors[direction] = reason
        self.results[direction] = DirectionResult(status="error", message=reason.message, tries=tries, json_=found)

    def outcome(self) -> Outcome:
        """Return what there is."""
        target = ServerAddress(host=self.request.target, address=self.address, port=self.request.port)
        failed = frozenset(self.errors)
        errors = self.errors
        if errors and all(reason.code == "iperf3_missing" for reason in errors.values()):
            errors, failed = {"speedtest": next(iter(errors.values()))}, frozenset({"speedtest"})
        return Outcome(
            fields=_fields(self.request, document.fit(SpeedtestResult(target=target, **self.results))),
            errors=errors,
            failed=failed,
            facts={} if self.version is None else {"iperf3": self.version},
            cancelled=any(reason.code == "cancelled" for reason in errors.values()),
        )


def _fields(request: SpeedtestSpec, result: SpeedtestResult) -> dict[str, object]:
    return {"speedtest": result, "speedtest_option": request.model_dump()}


def _not_started(request: SpeedtestSpec, reason: ErrorInfo) -> Outcome:
    """Return the outcome of a test without an address to go to."""
    nothing = DirectionResult(status="error", message=reason.message)
    target = ServerAddress(host=request.target, port=request.port)
    return Outcome(
        fields=_fields(request, SpeedtestResult(target=target, **dict.fromkeys(request.directions, nothing))),
        errors={"speedtest": reason},
        failed=frozenset({"speedtest"}),
    )


def run(request: SpeedtestSpec, context: Context) -> Outcome:
    """Measure the requested directions, download first.

    A direction without figures has its error under its own name; "speedtest" stands for both when neither could start.
    """
    try:
        address = context.address(request.target, request.family)
    except Failure as exc:
        return _not_started(request, exc.info)
    test = _Test(request, context, address)
    for direction in request.directions:
        first = next(iter(test.errors.values()), None)
        if context.cancelled():
            test.fail(direction, error("cancelled"))
        elif first is not None and first.code in NO_SECOND_TRY:
            test.fail(direction, first)
        else:
            test.measure(direction)
    return test.outcome()


def availability() -> Availability:
    """Tell whether libiperf can be used here, and its version."""
    report = runner.version()
    if report.version is not None:
        return Availability(available=True, detail={"iperf3": report.version})
    return Availability(available=False, error=error("iperf3_missing", reason=report.text or "it does not answer"))


ENTRY: Final = Entry(
    run=run, request=SpeedtestSpec, throughput=True, probe=availability, longest_s=longest_s, usual_s=usual_s
)
