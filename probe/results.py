"""From what the kinds brought home to a `Result` that always holds and always fits."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from netloom import VERSION
from probe.kinds.base import Outcome
from probe.limits import ProbeLimits, granted
from schemas import codec
from schemas.command import RunCommand
from schemas.errors import Failure, error
from schemas.result import HostAddress, ProbeFacts, Result, ResultStatus, SpeedtestResult

log = logging.getLogger(__name__)

Maker = Callable[[int], tuple[Result, bytes]]
"""Makes a result and its bytes of the version it is given."""


@dataclass(frozen=True)
class Draft:
    """A test that has ended: its result but for the version."""

    probe_name: str
    command: RunCommand
    limits: ProbeLimits
    measured_at: datetime
    duration_s: float
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """By requested part."""
    autotest_id: str | None = None
    during_throughput: bool = False
    clock_trusted: bool | None = None

    @property
    def status(self) -> ResultStatus:
        """How the test ended."""
        if any(outcome.cancelled for outcome in self.outcomes.values()):
            return "cancelled"
        return "error" if any(outcome.failed for outcome in self.outcomes.values()) else "done"


def failed(part: str, code: str, **values: object) -> Outcome:
    """Return the outcome of a part that brought nothing."""
    return Outcome(errors={part: error(code, **values)}, failed=frozenset((part,)))


def cut_short(part: str) -> Outcome:
    """Return the outcome of a part that was cancelled before it began."""
    return Outcome(errors={part: error("cancelled")}, cancelled=True)


def _asked(command: RunCommand) -> dict[str, Any]:
    """Return what a result says of the request, for parts that did not even come to fill it in."""
    found: dict[str, Any] = {}
    if command.ping is not None:
        found["packet_timeout"] = command.ping.timeout_s
        found["target"] = HostAddress(host=command.ping.target)
    if command.speedtest is not None:
        found["speedtest_option"] = command.speedtest.model_dump()
    return found


def _compose(draft: Draft, outcomes: Mapping[str, Outcome], version: int) -> Result:
    """Raise ValidationError if the outcomes' fields are not what a Result takes."""
    values: dict[str, Any] = _asked(draft.command)
    facts: dict[str, Any] = {"version": VERSION}
    errors: dict[str, Any] = {}
    for outcome in outcomes.values():
        values |= outcome.fields
        facts |= outcome.facts
        errors |= outcome.errors
    values |= {
        "id": draft.command.id,
        "number": draft.command.number,
        "version": version,
        "probe_name": draft.probe_name,
        "origin": draft.command.origin,
        "autotest_id": draft.autotest_id,
        "status": draft.status,
        "errors": errors,
        "measured_at": draft.measured_at,
        "duration_s": round(draft.duration_s, 3),
        "comment": draft.command.comment,
        "influxdb": draft.autotest_id is not None,
        "during_throughput": draft.during_throughput,
        "clock_trusted": draft.clock_trusted,
        "probe": ProbeFacts.model_validate(facts),
        "granted": granted(draft.limits),
    }
    return Result.model_validate(values)


def _sound(draft: Draft, part: str, outcome: Outcome) -> Outcome:
    """Return the outcome, or the error that stands for it if no result can be made of it."""
    try:
        _compose(draft, {part: outcome}, 0).model_dump_json()
    except (ValidationError, PydanticSerializationError, TypeError, AttributeError) as exc:
        log.exception("the figures of %s do not hold", part)
        instead = failed(part, "measurement_failed", reason=f"its figures do not hold ({type(exc).__name__})")
        return replace(instead, cancelled=outcome.cancelled)
    return outcome


def _speedtest(result: Result, change: Mapping[str, object]) -> Result:
    found = result.speedtest
    if not isinstance(found, SpeedtestResult):
        return result
    sides = {
        side: None if (one := getattr(found, side)) is None else one.model_copy(update=change)
        for side in ("download", "upload")
    }
    return result.model_copy(update={"speedtest": found.model_copy(update=sides)})


def _no_samples(result: Result) -> Result:
    if result.ping is None:
        return result
    return result.model_copy(update={"ping": result.ping.model_copy(update={"samples": ()})})


_LIGHTER: Final[tuple[Callable[[Result], Result], ...]] = (
    lambda result: _speedtest(result, {"json_": None}),
    lambda result: _speedtest(result, {"intervals": ()}),
    _no_samples,
)
"""What is left out, one after the other, of a result that is too large."""


def make(draft: Draft, version: int) -> tuple[Result, bytes]:
    """Return the result with its bytes; whatever the kinds brought, it holds and fits into a message."""
    outcomes = {part: _sound(draft, part, outcome) for part, outcome in draft.outcomes.items()}
    draft = replace(draft, outcomes=outcomes)
    result = _compose(draft, outcomes, version)
    for lighter in (None, *_LIGHTER):
        result = result if lighter is None else lighter(result)
        try:
            return result, codec.encode(result)
        except Failure as exc:
            log.warning("the result of test %s is too large: %s", result.id, exc.info.message)
    return _make_bare(draft, version)


def _make_bare(draft: Draft, version: int) -> tuple[Result, bytes]:
    """Return a result without the figures of the largest part, or of more parts if that is not enough."""
    outcomes = dict(draft.outcomes)
    result = _compose(draft, outcomes, version)
    sizes = {part: len(_compose(draft, {part: one}, version).model_dump_json()) for part, one in outcomes.items()}
    for part in sorted(outcomes, key=lambda part: sizes[part], reverse=True):
        bare = failed(part, "measurement_failed", reason="its figures do not fit into a message")
        outcomes[part] = replace(bare, cancelled=outcomes[part].cancelled)
        result = _compose(replace(draft, outcomes=outcomes), outcomes, version)
        with contextlib.suppress(Failure):
            return result, codec.encode(result)
    return result, codec.encode(result)
