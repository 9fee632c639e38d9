"""How long a test can take at the longest, s. A probe says it more exactly in its progress (`eta_s`)."""

from typing import Final

from schemas import limits as lim
from schemas.command import PingSpec, SpeedtestSpec, TestParts

RESOLVE_S: Final = 5.0
"""For a name to be resolved."""
CONNECT_S: Final = 5.0
RETRY_S: Final = 8.0
"""The longest pause before a retry at a busy server."""
EXTRA_S: Final = 15.0
"""What a run of iperf3 may take beyond its measuring, until it is ended."""
RESTARTED_S: Final = 15.0
"""For a probe that has restarted to say what became of its tests."""
FINISHED_S: Final = lim.RESEND_RESULT_FIRST_S + RESTARTED_S
"""For a result that the probe says it has: it is sent again after a minute."""


def ping_s(spec: PingSpec) -> float:
    """Return the longest a ping can take."""
    return spec.count * spec.interval_ms / 1000 + spec.timeout_s + RESOLVE_S


def speedtest_s(spec: SpeedtestSpec) -> float:
    """Return the longest a speedtest can take, its retries included."""
    one_s = CONNECT_S + RETRY_S * spec.busy_retries + spec.omit_s + spec.duration_s + EXTRA_S
    return RESOLVE_S + one_s * len(spec.directions)


def longest_s(parts: TestParts) -> float:
    """Return the longest a test can take once it runs."""
    found = (ping_s(parts.ping) if parts.ping else 0.0) + (speedtest_s(parts.speedtest) if parts.speedtest else 0.0)
    return 2 * found if parts.loaded_latency else found


ANY_S: Final = 2 * (
    lim.PING_COUNT_MAX * lim.PING_INTERVAL_MAX_MS / 1000
    + lim.PING_TIMEOUT_MAX_S
    + 3 * RESOLVE_S
    + 2
    * (
        CONNECT_S
        + RETRY_S * lim.SPEEDTEST_BUSY_RETRIES_MAX
        + lim.SPEEDTEST_OMIT_MAX_S
        + lim.SPEEDTEST_DURATION_MAX_S
        + EXTRA_S
    )
)
"""No test at all takes longer."""

QUEUE_S: Final = lim.THROUGHPUT_QUEUE_MAX * speedtest_s(
    SpeedtestSpec(target="192.0.2.1", duration_s=lim.SPEEDTEST_DURATION_MAX_S)
)
"""How long a test may wait behind others on its probe."""
