"""One test from its first packet to its draft: the parts one after the other, each kind behind its context."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from netloom.clock import Clock
from probe import results
from probe.kinds.base import Entry, Outcome, Step
from probe.limits import ProbeLimits, check_address
from probe.progress import PartPlan, Reporter
from probe.resolve import literal, resolve
from probe.results import Draft
from schemas.command import RunCommand
from schemas.errors import Failure

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.05


@dataclass(eq=False)
class Test:
    """A test that waits or runs."""

    __test__ = False  # not a pytest class

    id: str
    command: RunCommand
    plan: list[PartPlan]
    reporter: Reporter
    throughput: bool
    autotest_id: str | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    during_throughput: bool = False


class TestContext:
    """What a kind sees of the agent (probe.kinds.base.Context)."""

    __test__ = False  # not a pytest class

    def __init__(self, test: Test, limits: ProbeLimits) -> None:
        self._test, self._limits = test, limits
        self._addresses: dict[tuple[str, int | None], str] = {}

    @property
    def limits(self) -> ProbeLimits:
        """The probe's own limits."""
        return self._limits

    def cancelled(self) -> bool:
        """Tell whether to stop."""
        return self._test.cancel.is_set()

    def step(self, step: Step) -> None:
        """Report progress."""
        self._test.reporter.step(step)

    def address(self, host: str, family: int | None) -> str:
        """Return the address to use for `host`: the same in every part of the test. Raise Failure, also when cancelled."""
        known = self._addresses.get((host, family))
        if known is None:
            known = resolve(host, family) if literal(host) else self._look_up(host, family)
            check_address(host, known, self._limits)
            self._addresses[host, family] = known
        return known

    def _look_up(self, host: str, family: int | None) -> str:
        """Resolve a name in a thread of its own, for a name server may be silent longer than a cancelled test may last."""
        answer: Future[str] = Future()

        def ask() -> None:
            try:
                answer.set_result(resolve(host, family))
            except Failure as exc:
                answer.set_exception(exc)

        threading.Thread(target=ask, name="look-up", daemon=True).start()
        while not self.cancelled():
            try:
                return answer.result(_LOOK_S)
            except NotYet:
                continue
        raise Failure("cancelled")


class Execution:
    """Runs a test in the calling thread."""

    def __init__(
        self,
        test: Test,
        registry: Mapping[str, Entry],
        limits: ProbeLimits,
        *,
        clock: Clock,
        on_load: Callable[[Test, bool], None],
    ) -> None:
        self._test, self._registry, self._clock = test, registry, clock
        self._context = TestContext(test, limits)
        self._on_load = on_load
        """Told when a part that fills the line begins (True) and ends (False)."""

    def run(self, probe_name: str, measured_at: datetime) -> Draft:
        """Measure every part that was asked for; a cancel leaves the parts that have not begun."""
        began = self._clock.monotonic()
        outcomes: dict[str, Outcome] = {}
        for part in self._test.plan:
            if self._test.cancel.is_set():
                outcomes[part.name] = results.cut_short(part.name)
                continue
            self._test.reporter.begin(part.name)
            outcomes[part.name] = self._measure(part.name)
        return Draft(
            probe_name=probe_name,
            command=self._test.command,
            limits=self._context.limits,
            measured_at=measured_at,
            duration_s=self._clock.monotonic() - began,
            outcomes=outcomes,
            autotest_id=self._test.autotest_id,
            during_throughput=self._test.during_throughput,
        )

    def _measure(self, part: str) -> Outcome:
        entry = self._registry[part]
        if entry.throughput:
            self._on_load(self._test, True)  # noqa: FBT003 - beginning, ending
        try:
            return self._stopped(entry.run(getattr(self._test.command, part), self._context))
        except Failure as exc:
            return self._stopped(Outcome(errors={part: exc.info}, failed=frozenset((part,))))
        except Exception as exc:  # a kind's fault is that test's error and must not cost the probe a slot
            log.exception("the kind %s failed", part)
            return results.failed(part, "measurement_failed", reason=f"a fault of the probe ({type(exc).__name__})")
        finally:
            if entry.throughput:
                self._on_load(self._test, False)  # noqa: FBT003 - as above

    def _stopped(self, outcome: Outcome) -> Outcome:
        """Return the outcome; one that was cut short by a cancel says so, even where the kind saw only an error."""
        short = any(reason.code == "cancelled" for reason in outcome.errors.values())
        return replace(outcome, cancelled=True) if short and self._test.cancel.is_set() else outcome
