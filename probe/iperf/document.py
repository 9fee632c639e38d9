"""iperf3's JSON document to the contract's DirectionResult. Pure functions.

The figures are the receiver's: what a sender hands to its socket is not yet delivered (it over-reads by several percent). The
average is bytes received over the receiver's seconds. Intervals are whole seconds summed over the streams, without omitted and
partial ones: of what this side received, or - when it sends over TCP - of what the peer acknowledged. Half of a document comes from
the server, so nothing in it is taken unchecked.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from probe.iperf.events import Sample
from schemas import limits
from schemas.command import Direction, SpeedtestSpec
from schemas.result import DirectionResult, Interval, Rates, SpeedtestResult

WHOLE_INTERVAL_S: Final = 0.9
"""An interval shorter than this is a remainder."""
NEAR_S: Final = 0.1
"""A sample this near to a full second stands for it (its own time is what is divided by)."""
LIMITED_PERCENT: Final = 90.0
COUNT_MAX: Final = 2**63 - 1
CONGESTION_MAX_CHARS: Final = 15
# What a result holds beside its speedtest: 300 round trips of 20 characters, a comment of 500 characters of four bytes, the
# rest of the ping, errors, limits.
BESIDE_BYTES: Final = 12 * 1024
SPEEDTEST_MAX_BYTES: Final = limits.MESSAGE_MAX_BYTES - BESIDE_BYTES
TRIMMABLE: Final = ("end.streams", "intervals", "start.connected")
"""What a kept document can do without, in this order; the intervals stand in the result itself."""

# Any, here and below: JSON.
Json = dict[str, Any]


class NoFigures(Exception):  # noqa: N818 - it says what is missing
    """The document holds no throughput; the message says what is wrong with it."""


def direction_result(
    document: Json | None, samples: Sequence[Sample], spec: SpeedtestSpec, direction: Direction, *, tries: int = 1
) -> DirectionResult:
    """Return the figures of one direction. Raise NoFigures if the document has none."""
    end = _object(document, "end")
    count, seconds = _received(end, spec)
    average = count * 8 / seconds
    sending = direction == "upload"
    intervals = acknowledged(samples, spec) if sending and spec.protocol == "tcp" else ()
    intervals = intervals or reported(document)
    rates = [found.bits_per_second for found in intervals]
    cpu = _number(end, "cpu_utilization_percent", "host_total")
    return DirectionResult(
        status="success",
        # The whole test is an interval too, so the average always lies between.
        result=Rates(min=min([average, *rates]), avg=average, max=max([average, *rates])),
        bytes=count,
        seconds=seconds,
        retransmits=_count(end, "sum_sent", "retransmits") if spec.protocol == "tcp" else None,
        congestion=_congestion(end) if spec.protocol == "tcp" else None,
        rtt_ms=_round_trip(end) if sending and spec.protocol == "tcp" else None,
        cpu_percent=cpu,
        probe_limited=None if cpu is None else cpu > LIMITED_PERCENT,
        intervals=intervals,
        tries=tries,
        json_=kept(document),
        **(_datagrams(end) if spec.protocol == "udp" else {}),
    )


def _received(end: Json, spec: SpeedtestSpec) -> tuple[int, float]:
    """Return bytes and seconds at the receiver."""
    count, seconds = _count(end, "sum_received", "bytes"), _number(end, "sum_received", "seconds")
    if count is None or not seconds:
        raise NoFigures("the receiver's figures are missing")
    if not count and spec.protocol == "tcp":
        raise NoFigures("no data arrived")
    if seconds < spec.duration_s / 2:  # the server's word for its own clock
        raise NoFigures("the receiver's figures make no sense")
    return count, seconds


def _datagrams(end: Json) -> Json:
    """Return loss and jitter (RFC 3550) of a UDP test.

    The loss is over the datagrams up to the last that arrived: what was still under way at the end is not lost.
    """
    told = "sum_received" if _count(end, "sum_received", "packets") is not None else "sum"  # before iperf 3.12
    lost, packets, sent = (
        _count(end, told, "lost_packets"),
        _count(end, told, "packets"),
        _count(end, "sum_sent", "packets"),
    )
    if not packets:
        return {"loss_percent": 100.0 if sent and packets == 0 else None, "jitter_ms": None}
    if lost is None or lost > packets:
        return {"loss_percent": None, "jitter_ms": None}
    # Jitter is between two datagrams that arrived.
    jitter = _number(end, told, "jitter_ms") if packets - lost > 1 else None
    return {"loss_percent": 100 * lost / packets, "jitter_ms": jitter}


def _round_trip(end: Json) -> float | None:
    """Return the mean over the streams of the sender's mean round-trip time, ms; iperf3 writes 0 where it does not know it."""
    found = [_number(stream, "sender", "mean_rtt") for stream in _objects(end, "streams")]
    known = [value for value in found if value]
    return sum(known) / len(known) / 1000 if known else None


def _congestion(end: Json) -> str | None:
    """Return the sender's congestion control. The server may say anything; only what can be a name is one."""
    name = end.get("sender_tcp_congestion")
    if not isinstance(name, str) or not name or len(name) > CONGESTION_MAX_CHARS:
        return None
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else None


def acknowledged(samples: Sequence[Sample], spec: SpeedtestSpec) -> tuple[Interval, ...]:
    """Return what the peer acknowledged in each whole second after the omitted ones, from the samples of the sockets."""
    marks = [_nearest(samples, spec.omit_s + second) for second in range(spec.duration_s + 1)]
    return tuple(
        _between(*pair, spec.omit_s) for pair in pairwise(marks) if pair[0] is not None and pair[1] is not None
    )


def _nearest(samples: Sequence[Sample], at_s: float) -> Sample | None:
    near = [
        (abs(found.at_s - at_s), number)
        for number, found in enumerate(samples)
        if found.at_s is not None and found.streams and abs(found.at_s - at_s) <= NEAR_S
    ]
    return samples[min(near)[1]] if near else None


def _between(first: Sample | None, last: Sample | None, omit_s: int) -> Interval:
    assert first is not None and first.at_s is not None  # noqa: S101, PT018 - the caller looked; tells the type checker
    assert last is not None and last.at_s is not None  # noqa: S101, PT018 - as above
    again = None if first.retransmits is None or last.retransmits is None else last.retransmits - first.retransmits
    return _interval(
        first.at_s - omit_s, last.at_s - omit_s, (last.bytes - first.bytes) * 8 / (last.at_s - first.at_s), again
    )


def reported(document: Json | None) -> tuple[Interval, ...]:
    """Return the document's own intervals, summed over streams: of the receiver when this side receives."""
    return tuple(_sums(document))


def _sums(document: Json | None) -> Iterator[Interval]:
    for found in _objects(document, "intervals"):
        total = _object(found, "sum")
        start, end = _number(total, "start"), _number(total, "end")
        seconds, rate = _number(total, "seconds"), _number(total, "bits_per_second")
        if total.get("omitted") or start is None or end is None or rate is None or (seconds or 0) < WHOLE_INTERVAL_S:
            continue
        yield _interval(start, end, rate, _count(total, "retransmits"))


def _interval(start_s: float, end_s: float, rate: float, retransmits: int | None) -> Interval:
    """Return an interval to the millisecond and the bit/s: sixty of them have to fit into a message."""
    return Interval(
        start_s=round(start_s, 3),
        end_s=round(end_s, 3),
        bits_per_second=float(round(max(rate, 0.0))),
        retransmits=None if retransmits is None else max(retransmits, 0),
    )


def kept(document: Json | None) -> Json | None:
    """Return the document as it is shown and stored: without the intervals of each stream."""
    if document is None:
        return None
    slim = [
        {key: value for key, value in found.items() if key != "streams"} for found in _objects(document, "intervals")
    ]
    return {**document, "intervals": slim} if "intervals" in document else dict(document)


def fit(result: SpeedtestResult, max_bytes: int = SPEEDTEST_MAX_BYTES) -> SpeedtestResult:
    """Return `result` in at most `max_bytes` of JSON: iperf3's documents give way, in parts (named in `trimmed`), then as a whole.

    The figures and intervals always stay; they are under 12 KiB for both directions of the longest test.
    """
    for count in range(len(TRIMMABLE) + 1):
        trimmed = _with_documents(result, TRIMMABLE[:count])
        if len(trimmed.model_dump_json().encode()) <= max_bytes:
            return trimmed
    return _with_documents(result, None)


def _with_documents(result: SpeedtestResult, without: Sequence[str] | None) -> SpeedtestResult:
    changed = {
        name: found.model_copy(update={"json_": None if without is None else _without(found.json_, without)})
        for name, found in (("download", result.download), ("upload", result.upload))
        if found is not None and found.json_ is not None
    }
    return result.model_copy(update=changed)


def _without(document: Json, paths: Sequence[str]) -> Json:
    if not paths:
        return document
    found = dict(document)
    gone = [path for path in paths if _remove(found, path.split("."))]
    return {**found, "trimmed": gone} if gone else found


def _remove(node: Json, path: list[str]) -> bool:
    """Remove a path from `node`, copying what it changes below; tell whether it was there."""
    name, *rest = path
    if not rest:
        return node.pop(name, None) is not None
    below = node.get(name)
    if not isinstance(below, dict):
        return False
    node[name] = dict(below)
    return _remove(node[name], rest)


def _object(node: Json | None, name: str) -> Json:
    found = (node or {}).get(name)
    return found if isinstance(found, dict) else {}


def _objects(node: Json | None, name: str) -> list[Json]:
    found = (node or {}).get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _number(node: Json, *path: str) -> float | None:
    """Return the finite number, not negative, at `path`; None for anything else."""
    *way, last = path
    for name in way:
        node = _object(node, name)
    found = node.get(last)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        value = float(found)
    except OverflowError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _count(node: Json, *path: str) -> int | None:
    value = _number(node, *path)
    return None if value is None or value > COUNT_MAX else int(value)
