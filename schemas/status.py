"""`probe/<name>/status` and `controller/status`: who is there, in what state. Retained; a last will says offline."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Instant, Tolerant
from schemas.errors import ErrorInfo
from schemas.progress import Part

Count = Annotated[int, Field(ge=0)]


class Announced(Tolerant):
    """The address and port under which Supervision's JSON view knows the probe."""

    address: str | None = None
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None


class Running(Tolerant):
    """A test under way."""

    id: str
    number: int | None = None
    part: Part | None = None
    percent: Annotated[float, Field(ge=0, le=100)] | None = None
    autotest_id: str | None = None


class Capability(Tolerant):
    """Whether a kind of test can run here, with what, and if not why."""

    available: bool
    # Any: facts by name, such as {"icmp": "datagram", "stamps": "kernel"} or {"iperf3": "3.12"}.
    detail: dict[str, Any] = Field(default_factory=dict)
    error: ErrorInfo | None = None


class SpoolStatus(Tolerant):
    """Results that wait for the controller's ack."""

    waiting: Count = 0
    quarantined: Count = 0
    dropped: Count = 0
    bytes: Count = 0
    degraded: ErrorInfo | None = None
    """Why results are kept in memory only, if they are."""


class ClockStatus(Tolerant):
    """The probe's clock against the controller's."""

    now: Instant
    offset_s: float | None = None
    """Probe minus controller; null before it was compared."""
    agrees: bool | None = None


class AutotestsSeen(Tolerant):
    """The set of autotests the probe has stored."""

    controller_id: str | None = None
    revision: Count = 0


class ProbeStatus(Tolerant):
    """A probe's state. It is written every 15 s and at every change; a retained one is not a heartbeat."""

    v: Literal[1] = 1
    type: Literal["status"] = "status"
    state: Literal["online", "offline"]
    reason: str | None = None
    """Why it is offline: "will" (the broker lost it), "stopped" (it said goodbye), "deadline" (the controller missed it)."""
    instance: str
    """Persisted identity of the installation."""
    connection: str
    """Identity of this connection; an offline that names an older one is ignored."""
    at: Instant
    since: Instant
    """When `state` began."""
    started_at: Instant | None = None
    running: tuple[Running, ...] = ()
    queued: Count = 0
    version: str | None = None
    """Of the probe's software."""
    platform: str | None = None
    result_version: Count = 0
    """The `version` of its newest result."""
    address: str | None = None
    """The address its packets to the broker leave from."""
    announced: Announced = Announced()
    capabilities: dict[str, Capability] = Field(default_factory=dict)
    # Any: the probe's own limits by name.
    limits: dict[str, Any] = Field(default_factory=dict)
    clock: ClockStatus | None = None
    spool: SpoolStatus = SpoolStatus()
    counters: dict[str, int] = Field(default_factory=dict)
    autotests: AutotestsSeen = AutotestsSeen()
    problem: ErrorInfo | None = None
    """What a person should see to, such as duplicate_name."""


class Revisions(Tolerant):
    """They grow with every change, so a page knows when to ask again."""

    targets: Count = 0
    autotests: Count = 0
    archive: Count = 0


class SinkHealth(Tolerant):
    """How a sink of results is doing."""

    ok: bool
    last_write_at: Instant | None = None
    waiting: Count = 0
    error: ErrorInfo | None = None


class ControllerStatus(Tolerant):
    """The controller's state; its `started_at` tells probes to send again what was not acknowledged."""

    v: Literal[1] = 1
    type: Literal["controller"] = "controller"
    state: Literal["online", "offline"]
    controller_id: str
    connection: str
    at: Instant
    started_at: Instant
    version: str | None = None
    revisions: Revisions = Revisions()
    sinks: dict[str, SinkHealth] = Field(default_factory=dict)
    counters: dict[str, int] = Field(default_factory=dict)
    problem: ErrorInfo | None = None
