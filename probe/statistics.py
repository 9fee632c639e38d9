"""What a series of round trips says: pure functions from samples to the models of schemas.result.

A sample is a round-trip time in ms, or None for a packet that was lost; the samples stand in the order of sending. Nothing here
rounds: every figure can be computed again from the samples of a result.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

from schemas.result import JitterDetail, MosDetail, PacketLoss, PingFigures

Samples = Sequence[float | None]
"""Round-trip times, ms, in order of sending; None is lost."""

# Two-sided 95 % of the normal distribution.
_Z95: Final = 1.959963984540054
_FEWEST_FOR_VARIATION: Final = 2


def received(samples: Samples) -> list[float]:
    """Return the round-trip times of the packets that were answered, in order of sending."""
    return [sample for sample in samples if sample is not None]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the percentile of ascending values, interpolated linearly between the closest ranks (Hyndman-Fan type 7)."""
    rank = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return min(low + (high - low) * (rank - math.floor(rank)), high)


def ping_figures(samples: Samples) -> PingFigures:
    """Return the distribution of the round-trip times, ms; stdev is the sample's (n - 1) and needs two replies."""
    ordered = sorted(received(samples))
    if not ordered:
        return PingFigures(samples=tuple(samples))
    return PingFigures(
        min=ordered[0],
        # The quotient of a rounded sum can leave the range by its last bit.
        avg=min(max(statistics.fmean(ordered), ordered[0]), ordered[-1]),
        max=ordered[-1],
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        stdev=statistics.stdev(ordered) if len(ordered) >= _FEWEST_FOR_VARIATION else None,
        samples=tuple(samples),
    )


def rfc3550_jitter(samples: Samples) -> float | None:
    """Return the smoothed jitter, ms (RFC 3550 6.4.1) of the round trips: gaps bridged, J0 = 0; None below two replies."""
    times = received(samples)
    if len(times) < _FEWEST_FOR_VARIATION:
        return None
    jitter = 0.0
    for earlier, later in pairwise(times):
        jitter += (abs(later - earlier) - jitter) / 16
    return jitter


def ipdv_mean(samples: Samples) -> float | None:
    """Return the mean |difference| of neighbouring packets, ms (RFC 3393), never across a lost one; None without a pair."""
    steps = [abs(b - a) for a, b in pairwise(samples) if a is not None and b is not None]
    return statistics.fmean(steps) if steps else None


def pdv_p95(samples: Samples) -> float | None:
    """Return the 95th percentile of the delay above the minimum, ms (RFC 5481); None below two replies."""
    ordered = sorted(received(samples))
    if len(ordered) < _FEWEST_FOR_VARIATION:
        return None
    return percentile(ordered, 95) - ordered[0]


def jitter_detail(samples: Samples) -> JitterDetail:
    """Return the three measures of delay variation, ms; the headline is `rfc3550`."""
    return JitterDetail(rfc3550=rfc3550_jitter(samples), ipdv_mean=ipdv_mean(samples), pdv_p95=pdv_p95(samples))


def wilson(lost: int, sent: int) -> tuple[float, float] | None:
    """Return the 95 % Wilson score interval of lost / sent, percent; None if nothing was sent."""
    if not sent:
        return None
    share, square = lost / sent, _Z95 * _Z95
    middle = share + square / (2 * sent)
    half = _Z95 * math.sqrt(share * (1 - share) / sent + square / (4 * sent * sent))
    scale = 100 / (1 + square / sent)
    # At 0 and 100 % the bound is exact, and rounding must not move it.
    low = 0.0 if lost == 0 else max(0.0, (middle - half) * scale)
    high = 100.0 if lost == sent else min(100.0, (middle + half) * scale)
    return low, high


def loss_runs(samples: Samples) -> list[int]:
    """Return the length of each run of lost packets, in order."""
    return [len(list(run)) for lost, run in groupby(samples, key=lambda sample: sample is None) if lost]


def burst_ratio(samples: Samples) -> float | None:
    """Return the mean length of the loss runs over that of random loss, 1 / (1 - p) (ITU-T G.107 7.2).

    None without loss, and if all is lost: then random loss has no mean length to compare with.
    """
    runs = loss_runs(samples)
    if not runs or sum(runs) == len(samples):
        return None
    return statistics.fmean(runs) * (1 - sum(runs) / len(samples))


def packet_loss(samples: Samples, duplicates: int = 0, late: int = 0) -> PacketLoss:
    """Return loss as counts and percent with its 95 % interval; percent is None if nothing was sent."""
    runs = loss_runs(samples)
    sent, lost = len(samples), sum(runs)
    interval = wilson(lost, sent)
    low, high = interval or (None, None)
    return PacketLoss(
        packet_number=lost,
        packet_percent=100 * lost / sent if sent else None,
        low=low,
        high=high,
        duplicates=duplicates,
        late=late,
        longest_run=max(runs, default=0),
        burst_ratio=burst_ratio(samples),
    )


@dataclass(frozen=True)
class Codec:
    """A speech codec as ITU-T G.113 appendix I rates it, and what it adds to the delay."""

    name: str
    concealment: bool
    ie: float
    """Equipment impairment without loss."""
    bpl: float
    """Robustness against packet loss."""
    packet_ms: float
    """Speech in one packet: it must be spoken before it can be sent."""


G711: Final = Codec("G.711", concealment=True, ie=0.0, bpl=25.1, packet_ms=20.0)

# De-jitter buffer, in units of the RFC 3550 jitter.
_BUFFER_JITTERS: Final = 2.0

# ITU-T G.107, narrowband: every parameter that is not measured stands at its default of table 3.
_SLR, _RLR, _STMR, _LSTR = 8.0, 2.0, 15.0, 18.0
_OLR: Final = _SLR + _RLR
_DS, _PS, _PR = 3.0, 35.0, 35.0
_NC, _NFOR = -70.0, -64.0
_TELR, _WEPL, _QDU = 65.0, 110.0, 1.0
_MEAN_ONE_WAY_MS: Final = 100.0
"""mT: the delay below which a conversation does not suffer."""


def _noise() -> float:
    """No of G.107 (equations 3 to 7): the sum of all circuit noise, dBm0p."""
    sender = _PS - _SLR - _DS - 100 + 0.004 * (_PS - _OLR - _DS - 14) ** 2
    room = _PR + 10 * math.log10(1 + 10 ** ((10 - _LSTR) / 10))
    receiver = _RLR - 121 + room + 0.008 * (room - 35) ** 2
    return 10 * math.log10(sum(10 ** (power / 10) for power in (_NC, sender, receiver, _NFOR + _RLR)))


_NO: Final = _noise()
_RO: Final = 15 - 1.5 * (_SLR + _NO)


def _simultaneous(t: float) -> float:
    """Is of G.107 (equations 8 to 19): loudness, sidetone (which hears the echo after `t` ms) and quantisation."""
    x = _OLR + 0.2 * (64 + _NO - _RLR)
    loudness = 20 * (math.pow(1 + (x / 8) ** 8, 1 / 8) - x / 8)
    stmr = -10 * math.log10(10 ** (-_STMR / 10) + math.exp(-t / 4) * 10 ** (-_TELR / 10))
    sidetone = (
        12 * math.pow(1 + ((stmr - 13) / 6) ** 8, 1 / 8)
        - 28 * math.pow(1 + ((stmr + 1) / 19.4) ** 35, 1 / 35)
        - 13 * math.pow(1 + ((stmr - 3) / 33) ** 13, 1 / 13)
        + 29
    )
    q = 37 - 15 * math.log10(_QDU)
    g = 1.07 + 0.258 * q + 0.0602 * q * q
    quantisation = 15 * math.log10(1 + 10 ** ((_RO - 100) / 15 + 46 / 8.4 - g / 9) + 10 ** (46 / 30 - g / 40))
    return loudness + sidetone + quantisation


def _talker_echo(t: float) -> float:
    """Idte of G.107 for a one-way delay of `t` ms."""
    terv = _TELR - 40 * math.log10((1 + t / 10) / (1 + t / 150)) + 6 * math.exp(-0.3 * t * t)
    half = (-1.5 * (_NO - _RLR) - (80 + 2.5 * (terv - 14))) / 2
    return (half + math.sqrt(half * half + 100) - 1) * (1 - math.exp(-t))


def _listener_echo(t: float) -> float:
    """Idle of G.107 for a one-way delay of `t` ms."""
    half = (_RO - 10.5 * (_WEPL + 7) * math.pow(2 * t + 1, -0.25)) / 2
    return half + math.sqrt(half * half + 169)


def _pure_delay(t: float) -> float:
    """Idd of G.107 for a one-way delay of `t` ms: what delay alone costs a conversation."""
    if t <= _MEAN_ONE_WAY_MS:
        return 0.0
    x = math.log2(t / _MEAN_ONE_WAY_MS)
    return 25 * (math.pow(1 + x**6, 1 / 6) - 3 * math.pow(1 + (x / 3) ** 6, 1 / 6) + 2)


def rating(one_way_ms: float, loss_percent: float, codec: Codec = G711, bursts: float = 1.0) -> float:
    """Return the transmission rating R (ITU-T G.107, narrowband) for a mouth-to-ear delay, loss and burst ratio."""
    delay = _talker_echo(one_way_ms) + _listener_echo(one_way_ms) + _pure_delay(one_way_ms)
    loss = codec.ie + (95 - codec.ie) * loss_percent / (loss_percent / bursts + codec.bpl)
    return _RO - _simultaneous(one_way_ms) - delay - loss


def mean_opinion(r: float) -> float:
    """Return the MOS of a rating (ITU-T G.107 annex B): 1 for R <= 0, 4.5 for R >= 100, never below 1."""
    if r <= 0:
        return 1.0
    if r >= 100:  # noqa: PLR2004 - the end of the scale of R
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def mouth_to_ear_ms(rtt_ms: float, jitter_ms: float, codec: Codec = G711) -> float:
    """Return Ta, ms: half the round trip, a de-jitter buffer of twice the jitter, one packet of speech."""
    return rtt_ms / 2 + _BUFFER_JITTERS * jitter_ms + codec.packet_ms


def voice(samples: Samples, codec: Codec = G711) -> tuple[float | None, MosDetail | None]:
    """Return the MOS of a call over this path and how it came about, from mean RTT, RFC 3550 jitter and loss.

    Nothing received is R 0, MOS 1. None if nothing was sent, or if the jitter is unknown (one reply only). The model is given a
    burst ratio of 1: the measured one is far too uncertain over a few hundred packets and is reported beside it.
    """
    if not samples:
        return None, None
    times, jitter = received(samples), rfc3550_jitter(samples)
    if not times:
        return 1.0, MosDetail(r=0.0, one_way_ms=None, codec=codec.name, concealment=codec.concealment)
    if jitter is None:
        return None, None
    one_way_ms = mouth_to_ear_ms(statistics.fmean(times), jitter, codec)
    r = rating(one_way_ms, 100 * (len(samples) - len(times)) / len(samples), codec)
    return mean_opinion(r), MosDetail(r=r, one_way_ms=one_way_ms, codec=codec.name, concealment=codec.concealment)
