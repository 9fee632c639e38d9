"""Ping: round-trip time, jitter, loss and MOS from one paced series of echo requests."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from probe import icmp, statistics
from probe.icmp import Fate, Packet, Plan, Reason, Report
from probe.kinds.base import Availability, Context, Entry, Outcome, Step
from probe.resolve import RESOLVE_TIMEOUT_S, family_of, literal
from schemas.command import PingSpec
from schemas.errors import ErrorInfo, Failure, error
from schemas.progress import Figures
from schemas.result import HostAddress

_DECIMALS: Final = 4
"""Of a sample in ms: 0.1 us, finer than any stamp; a result stays small."""
_STEP_PERIOD_S: Final = 0.05
_IDLE_STEP_S: Final = 1.0
_REPLIES_FOR_JITTER: Final = 2
_HEADERS: Final = {4: 28, 6: 48}
"""IP and ICMP header, bytes."""


def _rounded(samples: tuple[float | None, ...]) -> tuple[float | None, ...]:
    return tuple(None if sample is None else round(sample, _DECIMALS) for sample in samples)


class _Live:
    """Follows the engine and reports steps: at most 20 a second while packets come, one a second while none do."""

    def __init__(self, request: PingSpec, context: Context) -> None:
        self._request, self._context = request, context
        self._packets: list[Packet] = []
        self._newest: float | None = None
        self._done = 0
        self._news = False
        self._reported_at = self._started_at = time.monotonic()

    def sent(self, number: int) -> None:
        """Take note that a packet has left."""
        self._packets.append(Packet(number))
        self._news = True

    def decided(self, packet: Packet) -> None:
        """Take note of a packet's fate."""
        self._packets[packet.number] = packet
        self._newest = self._newest if packet.rtt_ms is None else round(packet.rtt_ms, _DECIMALS)
        self._done += 1
        self._news = True

    def cancelled(self) -> bool:
        """Tell the engine whether to stop; it asks all the time, which makes this the place to report from."""
        silent_s = time.monotonic() - self._reported_at
        if silent_s >= (_STEP_PERIOD_S if self._news else _IDLE_STEP_S):
            self.report()
        return self._context.cancelled()

    def report(self) -> None:
        """Report a step."""
        samples = _rounded(icmp.samples(self._packets))
        mos, _ = statistics.voice(samples)
        figures = Figures(
            sent=len(self._packets),
            received=len(statistics.received(samples)),
            rtt_ms=self._newest,
            p50=statistics.ping_figures(samples).p50,
            jitter=statistics.rfc3550_jitter(samples),
            loss_percent=statistics.packet_loss(samples).packet_percent,
            mos=mos,
            samples=samples,
        )
        now = time.monotonic()
        left_s = max(0.0, _span_s(self._request) - (now - self._started_at))
        self._context.step(Step("ping", self._done, self._request.count, left_s, figures))
        self._news, self._reported_at = False, now


def _span_s(request: PingSpec) -> float:
    """Return how long the packets take at the longest, s."""
    return (request.count - 1) * request.interval_ms / 1000 + request.timeout_s


def _plan(request: PingSpec, address: str) -> Plan:
    return Plan(
        address=address,
        count=request.count,
        interval_s=request.interval_ms / 1000,
        timeout_s=request.timeout_s,
        size=request.size,
        source=request.source,
        dscp=request.dscp,
    )


def _explain(reason: Reason, request: PingSpec, address: str) -> ErrorInfo:
    return error(
        reason.code,
        host=address,
        router=reason.router,
        reason=reason.text,
        size=request.size + _HEADERS[family_of(address)],
    )


def _why_silent(report: Report, request: PingSpec, address: str) -> ErrorInfo:
    """Return the reason most packets were lost for, as the network or the kernel gave it, or else that nobody answered."""
    reasons = Counter(packet.reason for packet in report.packets if packet.reason is not None)
    if reasons:
        return _explain(reasons.most_common(1)[0][0], request, address)
    return error("target_silent", sent=len(report.samples))


def _errors(report: Report, request: PingSpec, address: str) -> Mapping[str, ErrorInfo]:
    sent = len(report.samples)
    replies = sum(packet.fate is Fate.ANSWERED for packet in report.packets)
    if not sent or replies >= _REPLIES_FOR_JITTER:
        return {}
    few = error("too_few_replies", received=replies, sent=sent, needed=_REPLIES_FOR_JITTER)
    if replies:
        return {"jitter": few, "mos": few}
    return {"ping": _why_silent(report, request, address), "jitter": few}


def _outcome(report: Report, request: PingSpec, address: str) -> Outcome:
    samples = _rounded(report.samples)
    jitter = statistics.jitter_detail(samples)
    mos, mos_detail = statistics.voice(samples)
    return Outcome(
        fields={
            "packet_number": len(samples),
            "packet_timeout": request.timeout_s,
            "target": HostAddress(host=request.target, address=address),
            "ping": statistics.ping_figures(samples),
            "jitter": jitter.rfc3550,
            "jitter_detail": jitter,
            "packet_loss": statistics.packet_loss(samples, report.duplicates, report.late),
            "mos": mos,
            "mos_detail": mos_detail,
        },
        errors=_errors(report, request, address),
        facts={"icmp": report.socket, "stamps": report.stamps},
        cancelled=report.cancelled,
    )


def _family(request: PingSpec) -> int | None:
    """Return the IP version to resolve to: the one asked for, or else the one of the source address."""
    source = None if request.source is None else literal(request.source)
    if request.family is not None or source is None:
        return request.family
    return family_of(source)


def run(request: PingSpec, context: Context) -> Outcome:
    """Ping the target; a silent one has been measured (loss 100 %), one that could not be tried has not."""
    address: str | None = None
    try:
        address = context.address(request.target, _family(request))
        live = _Live(request, context)
        report = icmp.ping(_plan(request, address), live)
    except Failure as failure:
        return Outcome(
            fields={"target": HostAddress(host=request.target, address=address)},
            errors={"ping": failure.info},
            failed=frozenset(("ping",)),
        )
    live.report()
    return _outcome(report, request, address)


def available() -> Availability:
    """Look whether this user may send ICMP, through which sockets, and who stamps the replies."""
    try:
        found = icmp.ability()
    except Failure as failure:
        return Availability(available=False, error=failure.info)
    return Availability(available=True, detail={"icmp": found.socket, "stamps": found.stamps})


# Any: the registry holds requests of every kind.
def longest_s(request: Any) -> float:
    """Return the longest a ping can take, s: its packets, the last time-out, the name's resolution."""
    return _span_s(request) + RESOLVE_TIMEOUT_S


ENTRY: Final = Entry(run=run, request=PingSpec, throughput=False, probe=available, longest_s=longest_s)
