"""`probe/<name>/cmd`: run a test, or cancel one."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from schemas import limits as lim
from schemas.base import Closed, Comment, Host, Instant, Origin, Port, TestId, check_text

Version = Literal[1]
Direction = Literal["download", "upload"]

Source = Annotated[str, AfterValidator(check_text), StringConstraints(pattern=r"^[A-Za-z0-9_.:%-]{1,64}$")]
"""An address or the name of an interface of the probe."""

Dscp = Annotated[int, Field(ge=0, le=63)]
"""Differentiated services code point (RFC 2474)."""


class PingSpec(Closed):
    """A paced series of ICMP echo requests: round-trip time, jitter, packet loss and MOS come from it."""

    target: Host
    count: int = Field(lim.PING_COUNT_DEFAULT, ge=lim.PING_COUNT_MIN, le=lim.PING_COUNT_MAX)
    timeout_s: float = Field(lim.PING_TIMEOUT_DEFAULT_S, ge=lim.PING_TIMEOUT_MIN_S, le=lim.PING_TIMEOUT_MAX_S)
    interval_ms: int = Field(lim.PING_INTERVAL_DEFAULT_MS, ge=lim.PING_INTERVAL_MIN_MS, le=lim.PING_INTERVAL_MAX_MS)
    size: int = Field(lim.PING_SIZE_DEFAULT_BYTES, ge=lim.PING_SIZE_MIN_BYTES, le=lim.PING_SIZE_MAX_BYTES)
    """ICMP payload, bytes."""
    family: Literal[4, 6] | None = None
    """IP version; null takes what the name resolves to first."""
    source: Source | None = None
    dscp: Dscp | None = None


class SpeedtestSpec(Closed):
    """Throughput to an iperf3 server."""

    target: Host
    port: Port = lim.SPEEDTEST_PORT_DEFAULT
    direction: Literal["both", "download", "upload"] = "both"
    duration_s: int = Field(lim.SPEEDTEST_DURATION_DEFAULT_S, ge=1, le=lim.SPEEDTEST_DURATION_MAX_S)
    """Seconds of measurement in each direction, after `omit_s`."""
    streams: int = Field(1, ge=1, le=lim.SPEEDTEST_STREAMS_MAX)
    protocol: Literal["tcp", "udp"] = "tcp"
    omit_s: int = Field(0, ge=0, le=lim.SPEEDTEST_OMIT_MAX_S)
    """Seconds at the start that do not count (TCP slow start)."""
    bitrate: int | None = Field(None, ge=lim.SPEEDTEST_BITRATE_MIN_BPS, le=lim.SPEEDTEST_BITRATE_MAX_BPS)
    """Target rate of each stream, bit/s; null is unlimited for TCP and 1 Mbit/s for UDP."""
    window: int | None = Field(None, ge=lim.SPEEDTEST_WINDOW_MIN_BYTES, le=lim.SPEEDTEST_WINDOW_MAX_BYTES)
    """Socket buffer, bytes."""
    mss: int | None = Field(None, ge=lim.SPEEDTEST_MSS_MIN_BYTES, le=lim.SPEEDTEST_MSS_MAX_BYTES)
    """TCP maximum segment size, bytes."""
    congestion: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,14}$")] | None = None
    """TCP congestion control of the sender; null is the system's."""
    dscp: Dscp | None = None
    family: Literal[4, 6] | None = None
    busy_retries: int = Field(lim.SPEEDTEST_BUSY_RETRIES_DEFAULT, ge=0, le=lim.SPEEDTEST_BUSY_RETRIES_MAX)
    """How often to try again when the server is serving somebody else."""

    @model_validator(mode="before")
    @classmethod
    # Any: whatever was sent; what is no object is refused after this.
    def _udp_rate(cls, value: Any) -> Any:
        """Say the rate that UDP is measured with: iperf3 has a default of its own, which nobody would see."""
        if isinstance(value, dict) and value.get("protocol") == "udp" and value.get("bitrate") is None:
            return {**value, "bitrate": lim.SPEEDTEST_UDP_BITRATE_DEFAULT_BPS}
        return value

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions to measure, in order."""
        return ("download", "upload") if self.direction == "both" else (self.direction,)

    @model_validator(mode="after")
    def _tcp_only(self) -> Self:
        for name in ("mss", "congestion"):
            if self.protocol == "udp" and getattr(self, name) is not None:
                raise ValueError(f"{name} is an option of TCP and does not go with UDP")
        return self


class TestParts(Closed):
    """What a test consists of: at least one of its parts."""

    __test__ = False  # not a pytest class

    ping: PingSpec | None = None
    speedtest: SpeedtestSpec | None = None
    loaded_latency: bool = False
    """Ping beside the speedtest and compare with the idle line."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.ping is None and self.speedtest is None:
            raise ValueError("the test asks for nothing: give it a ping, a speedtest or both")
        if self.loaded_latency and self.speedtest is None:
            raise ValueError("latency under load needs a speedtest to make the load")
        return self


class RunCommand(TestParts):
    """Run a test. Every key but one of the parts has a default, so `{"ping": {"target": "192.0.2.7"}}` is whole."""

    v: Version = 1
    kind: Literal["run"] = "run"
    id: TestId | None = None
    """Null: the probe makes one. Without an id a redelivery cannot be told from a second wish."""
    number: int | None = Field(None, ge=1)
    """The archive's short number, echoed in the result."""
    issued_at: Instant | None = None
    ttl_s: int = Field(lim.TTL_DEFAULT_S, ge=lim.TTL_MIN_S, le=lim.TTL_MAX_S)
    """For how many seconds after `issued_at` the command may still be started."""
    origin: Origin = "mqtt"
    comment: Comment = ""


class CancelCommand(Closed):
    """Cancel the test with this id, whether it waits or runs."""

    v: Version = 1
    kind: Literal["cancel"]
    id: TestId
    issued_at: Instant | None = None


Command = RunCommand | CancelCommand
