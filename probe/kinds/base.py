"""What every kind of measurement is: one function `(request, context) -> outcome`.

A kind never publishes, never touches the disk and never raises for a network's misbehaviour: that is its outcome. When the
context says cancelled, it stops its traffic and returns what it has measured until then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from probe.limits import ProbeLimits
from schemas.errors import ErrorInfo
from schemas.progress import Figures, Part


@dataclass(frozen=True)
class Step:
    """How far a kind is: `done` of `total` (packets, or seconds), the longest it can still take, the newest figures."""

    part: Part
    done: float
    total: float
    eta_s: float
    figures: Figures


@dataclass(frozen=True)
class Outcome:
    """What a kind brings home: fields of schemas.result.Result by name, reasons by part, facts about the tools used.

    `failed` holds the requested parts that brought no figures at all; such a part makes the whole test an "error".
    """

    # Any: each value is what the field of Result takes; Result validates it.
    fields: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, ErrorInfo] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    # Any: fields of schemas.result.ProbeFacts by name.
    facts: Mapping[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    """It ended early because it was cancelled; the figures cover what was measured until then."""


class Context(Protocol):
    """What a kind gets from the agent. All of it may be called from any thread of the kind's own."""

    @property
    def limits(self) -> ProbeLimits:
        """The probe's own limits."""

    def cancelled(self) -> bool:
        """Tell whether the test was cancelled or the probe is stopping; a kind looks at least every 100 ms."""

    def step(self, step: Step) -> None:
        """Report progress; cheap, may be called at any rate (the agent thins it out)."""

    def address(self, host: str, family: int | None) -> str:
        """Return the one literal address to use for `host`, resolved once and checked against the limits.

        Raises:
            Failure: dns_failed, dns_timeout, target_denied.
        """


Kind = Callable[[Any, Context], Outcome]
"""Any: each kind takes its own request model, named beside it in the registry."""


@dataclass(frozen=True)
class Entry:
    """A line of the registry."""

    run: Kind
    request: type[BaseModel]
    throughput: bool
    """It fills the line: one such test at a time on a probe."""
    probe: Callable[[], "Availability"]
    """Look whether it can run on this system."""
    longest_s: Callable[[Any], float]
    """Any: the request. The longest it can take, s, retries included."""
    usual_s: Callable[[Any], float] | None = None
    """Any: the request. How long it takes when all is well, s; None: nothing better than the longest is known."""


@dataclass(frozen=True)
class Availability:
    """Whether a kind can run here, with what, and if not why."""

    available: bool
    detail: Mapping[str, Any] = field(default_factory=dict)
    error: ErrorInfo | None = None
