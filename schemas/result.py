"""`probe/<name>/result`: what a test found. Field names follow Supervision's documented JSON where it has one.

Times are milliseconds, rates bit/s, percentages 0-100. Every key is always there: what was not part of the test or could not be
measured is null, and `errors` says why, by part. `status` is "error" if a requested part brought no figures at all; the other
parts are kept. A target that answers nothing has been measured: its loss is 100 %, its times are null and `errors` says so.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from schemas.base import Instant, Name, Tolerant
from schemas.errors import ErrorInfo

Count = Annotated[int, Field(ge=0)]
Ms = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
ResultStatus = Literal["done", "error", "cancelled"]
ResultId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class PingFigures(Tolerant):
    """Round-trip times (RFC 2681), ms, over the packets answered in time; null with fewer replies than a figure needs."""

    min: Ms | None = None
    avg: Ms | None = None
    max: Ms | None = None
    p50: Ms | None = None
    p95: Ms | None = None
    p99: Ms | None = None
    stdev: Ms | None = None
    samples: tuple[Ms | None, ...] = ()
    """One for each packet sent, in order of sending; null is lost."""


class JitterDetail(Tolerant):
    """Packet delay variation, ms."""

    rfc3550: Ms | None = None
    """Smoothed interarrival jitter (RFC 3550 6.4.1) on the round-trip times."""
    ipdv_mean: Ms | None = None
    """Mean difference of neighbouring packets (RFC 3393), never across a lost one."""
    pdv_p95: Ms | None = None
    """95th percentile of the delay above the minimum (RFC 5481)."""


class PacketLoss(Tolerant):
    """Packets not answered in time, or refused by the kernel, with the 95 % Wilson interval of their share."""

    packet_number: Count
    """Lost packets."""
    packet_percent: Percent | None = None
    low: Percent | None = None
    high: Percent | None = None
    duplicates: Count = 0
    late: Count = 0
    """Replies that came after the time-out; their packets count as lost."""
    longest_run: Count = 0
    """The most packets lost in a row."""
    burst_ratio: Annotated[float, Field(ge=0)] | None = None
    """Measured burst ratio (ITU-T G.107 7.2): 1 is random loss, more comes in bursts; null without loss."""


class MosDetail(Tolerant):
    """How the MOS came about (ITU-T G.107)."""

    model: str = "G.107"
    r: float | None = None
    """Transmission rating R."""
    one_way_ms: Ms | None = None
    """Mouth-to-ear delay Ta = RTT/2 + 2 x jitter + 20 ms."""
    codec: str = "G.711"
    concealment: bool = True
    burst_ratio: float = 1.0
    """The burst ratio the model was given."""


class HostAddress(Tolerant):
    """A target as asked for and as resolved; `address` is what the packets went to."""

    host: str
    address: str | None = None


class ServerAddress(HostAddress):
    """An iperf3 server."""

    port: int


class Rates(Tolerant):
    """Throughput at the receiver, bit/s: average of the whole test, min and max of its whole intervals."""

    min: float | None = None
    avg: float | None = None
    max: float | None = None


class Interval(Tolerant):
    """One interval of a throughput test, summed over its streams."""

    start_s: float
    end_s: float
    bits_per_second: float
    retransmits: Count | None = None


class LoadedLatency(Tolerant):
    """Round-trip time beside the load, ms."""

    idle: Ms | None = None
    loaded: Ms | None = None
    added: float | None = None
    p95: Ms | None = None
    grade: str | None = None


class DirectionResult(Tolerant):
    """One direction of a speedtest."""

    status: Literal["success", "error"]
    message: str | None = None
    """Why there is no result, when status is "error"."""
    result: Rates | None = None
    bytes: Count | None = None
    """Bytes received by the receiver."""
    seconds: Annotated[float, Field(ge=0)] | None = None
    retransmits: Count | None = None
    """Segments sent again; null when the sender did not tell (UDP, or a system without the figure)."""
    congestion: str | None = None
    """The congestion control the sender really used."""
    rtt_ms: Ms | None = None
    """The sender's mean round-trip time; null when this side was not the sender."""
    loss_percent: Percent | None = None
    """UDP only."""
    jitter_ms: Ms | None = None
    """UDP only."""
    cpu_percent: Annotated[float, Field(ge=0)] | None = None
    """The probe's own CPU during the test."""
    probe_limited: bool | None = None
    """The probe's CPU was busier than 90 %: it, not the network, may be what was measured."""
    loaded_latency: LoadedLatency | None = None
    intervals: tuple[Interval, ...] = ()
    tries: Count | None = None
    """How many connections it took (an iperf3 server takes one client at a time)."""
    # Any: iperf3's own document, shown as it came and never interpreted again; per-stream intervals are left out.
    json_: dict[str, Any] | None = Field(None, alias="json")

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class SpeedtestResult(Tolerant):
    """Both directions; a direction that was not asked for is null."""

    target: ServerAddress
    download: DirectionResult | None = None
    upload: DirectionResult | None = None


class ProbeFacts(Tolerant):
    """With what it was measured."""

    version: str | None = None
    icmp: Literal["datagram", "raw"] | None = None
    """The kind of socket the packets went through."""
    stamps: Literal["kernel", "user"] | None = None
    """Who stamped the replies."""
    iperf3: str | None = None
    """Version of libiperf."""


class Result(Tolerant):
    """The outcome of one test that started (or of an autotest that was skipped)."""

    v: Literal[1] = 1
    type: Literal["result"] = "result"
    id: ResultId
    number: Annotated[int, Field(ge=1)] | None = None
    version: Count
    """Counts this probe's results; the newest has the highest."""
    probe_name: Name
    origin: str = "mqtt"
    autotest_id: str | None = None
    status: ResultStatus
    errors: dict[str, ErrorInfo] = Field(default_factory=dict)
    """By part: "ping", "jitter", "mos", "speedtest", "download", "upload"."""
    measured_at: Instant
    """When the test started, by the probe's clock."""
    duration_s: Annotated[float, Field(ge=0)]
    packet_number: Count | None = None
    """Packets sent."""
    packet_timeout: Annotated[float, Field(ge=0)] | None = None
    """Seconds."""
    target: HostAddress | None = None
    """The target of the ping."""
    ping: PingFigures | None = None
    jitter: Ms | None = None
    jitter_detail: JitterDetail | None = None
    packet_loss: PacketLoss | None = None
    mos: Annotated[float, Field(ge=1, le=5)] | None = None
    mos_detail: MosDetail | None = None
    speedtest: SpeedtestResult | None = None
    # Any: the options in force, as in SpeedtestSpec.
    speedtest_option: dict[str, Any] | None = None
    comment: str = ""
    influxdb: bool = False
    """The test was an autotest (Supervision's word: those went to InfluxDB)."""
    during_throughput: bool = False
    """A throughput test of the same probe ran beside it."""
    clock_trusted: bool | None = None
    """Whether the probe's clock agreed with the controller's; null when it could not be compared."""
    probe: ProbeFacts = ProbeFacts()
    # Any: the limits that were in force, by name.
    granted: dict[str, Any] = Field(default_factory=dict)
