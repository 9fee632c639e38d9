"""The settings of every role as one frozen model. Where they come from is netloom/config.py's business."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from netloom.url import BrokerUrl
from schemas import limits as lim
from schemas.base import Name, Port


class Section(BaseModel):
    """A part of the settings: closed, so that a typo is an error and not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _broker_url(value: str) -> str:
    BrokerUrl.parse(value)
    return value


class BrokerSection(Section):
    """Which broker everybody uses, or where the embedded one listens."""

    url: Annotated[str, AfterValidator(_broker_url)] | None = None
    """mqtt://user:password@host:1883/prefix/ or mqtts://...?ca=/path; none means the embedded broker."""
    host: str = "127.0.0.1"
    """Where the embedded broker listens."""
    port: int = Field(1883, ge=0, le=65_535)
    """0 takes any free port."""


class ProbeLimits(Section):
    """What a probe grants. The defaults are the bounds of the contract; a probe's settings may narrow them."""

    ping_count: int = Field(lim.PING_COUNT_MAX, ge=1, le=lim.PING_COUNT_MAX)
    ping_timeout_s: float = Field(lim.PING_TIMEOUT_MAX_S, ge=lim.PING_TIMEOUT_MIN_S, le=lim.PING_TIMEOUT_MAX_S)
    ping_interval_min_ms: int = Field(
        lim.PING_INTERVAL_MIN_MS, ge=lim.PING_INTERVAL_MIN_MS, le=lim.PING_INTERVAL_MAX_MS
    )
    speedtest_duration_s: int = Field(lim.SPEEDTEST_DURATION_MAX_S, ge=1, le=lim.SPEEDTEST_DURATION_MAX_S)
    speedtest_streams: int = Field(lim.SPEEDTEST_STREAMS_MAX, ge=1, le=lim.SPEEDTEST_STREAMS_MAX)
    light_tests: int = Field(lim.LIGHT_TESTS_MAX, ge=1, le=lim.LIGHT_TESTS_MAX)
    """How many pings may run beside each other."""
    throughput_queue: int = Field(lim.THROUGHPUT_QUEUE_MAX, ge=0, le=lim.THROUGHPUT_QUEUE_MAX)
    """How many tests may wait behind a running speedtest."""
    allow_loopback: bool = False
    """Whether the probe may test the machine it runs on; only the demo's does."""


class ProbeSection(Section):
    """The probe."""

    name: Name | None = None
    announce_address: str | None = None
    """The address the JSON view knows the probe by; none means the one its packets to the broker leave from."""
    announce_port: int = Field(lim.LEGACY_PROBE_PORT, ge=0, le=65_535)
    limits: ProbeLimits = ProbeLimits()
    spool_max: int = Field(10_000, ge=16, le=1_000_000)
    """How many results may wait on disk."""


class ControllerSection(Section):
    """The controller."""

    archive: str | None = None
    """URL of the archive's database; none means SQLite in the data folder."""
    status_period_s: float = Field(lim.STATUS_PERIOD_S, ge=0.1, le=60)
    offline_after_s: float = Field(lim.OFFLINE_AFTER_S, ge=0.3, le=600)
    silent_after_s: float = Field(lim.SILENT_AFTER_S, ge=0.3, le=600)


class WebSection(Section):
    """The page."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    """0 takes any free port."""
    hosts: tuple[str, ...] = ()
    """Names the page answers to beside its own address and localhost."""
    threads: int = Field(64, ge=16, le=512)


class DemoSection(Section):
    """The demo."""

    iperf_port: Port = lim.SPEEDTEST_PORT_DEFAULT
    """Where its iperf3 server listens, unless taken."""


class Settings(Section):
    """Everything that can be set."""

    data: Path = Path("/var/lib/netloom")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    broker: BrokerSection = BrokerSection()
    probe: ProbeSection = ProbeSection()
    controller: ControllerSection = ControllerSection()
    web: WebSection = WebSection()
    demo: DemoSection = DemoSection()

    def broker_url(self) -> BrokerUrl:
        """Return the broker to connect to."""
        return BrokerUrl.parse(self.broker.url or f"mqtt://{self.broker.host}:{self.broker.port}")
