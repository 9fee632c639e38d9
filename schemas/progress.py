"""`probe/<name>/progress`: how a test is going. Never sent after its result, but as the answer to a repeated command."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Instant, Tolerant
from schemas.errors import ErrorInfo
from schemas.result import Ms, Percent, ResultId, ResultStatus

ProgressState = Literal["queued", "accepted", "rejected", "running", "finished"]
"""`finished` answers a command whose test had already ended; `outcome` then says how."""
Part = Literal["ping", "download", "upload"]


class Figures(Tolerant):
    """The latest figures of a running test; null is not known yet."""

    sent: int | None = None
    received: int | None = None
    rtt_ms: Ms | None = None
    """The newest round-trip time."""
    p50: Ms | None = None
    jitter: Ms | None = None
    loss_percent: Percent | None = None
    mos: float | None = None
    bits_per_second: Annotated[float, Field(ge=0)] | None = None
    """The newest rate of the direction under way."""
    samples: tuple[Ms | None, ...] | None = None
    """The round trips so far of the packets whose fate is known, in order of sending."""


class Progress(Tolerant):
    """One step of one test; `seq` grows by one from message to message of the same test."""

    v: Literal[1] = 1
    id: ResultId
    number: int | None = None
    seq: Annotated[int, Field(ge=0)]
    at: Instant
    state: ProgressState
    outcome: ResultStatus | None = None
    error: ErrorInfo | None = None
    """Why it was rejected."""
    field: str | None = None
    """The field at fault, dotted: "ping.count"."""
    part: Part | None = None
    done: float | None = None
    """Packets answered or lost, or seconds measured, of this part."""
    total: float | None = None
    percent: Percent | None = None
    """Of the whole test."""
    eta_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds until the result, at the longest."""
    figures: Figures | None = None
