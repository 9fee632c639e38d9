"""The agent's periods and patience in one place, so that a test can run them in fast motion."""

from dataclasses import dataclass

from schemas import limits


@dataclass(frozen=True)
class Periods:
    """All in seconds."""

    status: float = limits.STATUS_PERIOD_S
    status_gap: float = 0.25
    """Between two statuses at the least: changes that come thick are told together."""
    silent: float = limits.OFFLINE_AFTER_S
    """After so long without a status, another probe of this name is gone."""
    settle: float = 0.5
    """For so long after connecting, retained messages may still arrive."""
    jitter: float = 2.0
    """At most; before taking a name that has become free."""
    tick: float = 0.25
    """Between two ticks of one test's progress at the least."""
    progress: float = limits.PROGRESS_PERIOD_S * 0.75
    """Between two ticks at the most; below what is promised, because a thread may be late."""
    resend_first: float = limits.RESEND_RESULT_FIRST_S
    resend_max: float = limits.RESEND_RESULT_MAX_S
    pace: float = 0.005
    """Between two results at the least: a backlog must not drown the others."""
    capability: float = 60.0
    """Between two looks at what is missing."""
    heal: float = 2.0
    """Between two tries to write what a failing disk did not take."""
    stop: float = 0.9
    """For running tests to end at a stop."""
