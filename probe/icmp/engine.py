"""The ping engine: paced, with many packets in flight, so that a lost packet costs no more time than an answered one.

Packet n leaves at start + n x interval. When the engine is late it skips forward in that grid and never sends a burst, which
would measure its own queue. A reply counts if it comes from the target and carries our identifier, a sequence number in use
and this run's nonce. The run ends when every packet's fate is known: answered, reported lost by the network, or timed out.
"""

import secrets
from typing import Final

from probe.icmp import codec, reasons
from probe.icmp.model import (
    Channel,
    Clock,
    Complaint,
    Fate,
    Packet,
    Plan,
    Received,
    Report,
    Stamp,
    StampKind,
    SystemClock,
    Watcher,
)
from probe.resolve import Family, family_of

_NS: Final = 1_000_000_000
_POLL_NS: Final = 50_000_000
"""The longest sleep: how late a cancellation may be noticed."""
_LINGER_NS: Final = 5_000_000
"""How long to listen for duplicates after the last reply."""
_SEND_TRIES: Final = 3
_STAMP_TRIES: Final = 3
_STAMP_SPREAD_NS: Final = 20_000
_CLOCK_STEP_NS: Final = 100_000
_KERNEL_SLACK_NS: Final = 50_000


def stamp(clock: Clock) -> Stamp:
    """Read both clocks as one; read again if the thread was put aside between them."""
    for _ in range(_STAMP_TRIES):
        before = clock.monotonic_ns()
        realtime = clock.realtime_ns()
        after = clock.monotonic_ns()
        if after - before <= _STAMP_SPREAD_NS:
            break
    return Stamp(after, realtime)


def round_trip_ns(sent: Stamp, read: Stamp, kernel_ns: int | None) -> tuple[int, StampKind]:
    """Return the round trip by the kernel's stamp of the reply, or by our own if that cannot be right.

    The kernel stamps with the wall clock. If that was stepped meanwhile, or if the reply seems to have come before the request
    or after it was read, the monotonic clock of this process is what remains.
    """
    user = read.monotonic - sent.monotonic
    if kernel_ns is not None:
        step = (read.realtime - read.monotonic) - (sent.realtime - sent.monotonic)
        kernel = kernel_ns - sent.realtime
        if abs(step) <= _CLOCK_STEP_NS and 0 < kernel <= user + _KERNEL_SLACK_NS:
            return kernel, "kernel"
    return user, "user"


class Engine:
    """One run of one plan over one channel."""

    def __init__(
        self, plan: Plan, channel: Channel, watcher: Watcher, clock: Clock | None = None, nonce: bytes | None = None
    ) -> None:
        self._plan, self._channel, self._watcher = plan, channel, watcher
        self._clock: Clock = clock or SystemClock()
        self._family: Family = family_of(plan.address)
        self._nonce = secrets.token_bytes(codec.NONCE_BYTES) if nonce is None else nonce
        self._payload = self._nonce + bytes(index & 0xFF for index in range(plan.size - len(self._nonce)))
        self._timeout_ns = round(plan.timeout_s * _NS)
        self._interval_ns = round(plan.interval_s * _NS)
        self._packets: list[Packet] = []
        self._sent: list[Stamp] = []
        self._in_flight: dict[int, None] = {}
        """Numbers of packets whose fate is open, in order of sending."""
        self._overdue: set[int] = set()
        """Numbers of packets given up whose reply came all the same."""
        self._duplicates = 0
        self._stamped = {"kernel": 0, "user": 0}

    def run(self) -> Report:
        """Carry out the plan; return when every fate is known or the watcher cancels."""
        start = due = self._clock.monotonic_ns()
        while True:
            now = self._clock.monotonic_ns()
            # What has arrived goes before what has run out: a late look at the socket is not a late reply.
            self._drain()
            self._expire(now)
            if self._watcher.cancelled():
                return self._report(cancelled=True)
            if len(self._packets) < self._plan.count:
                if now >= due:
                    self._send()
                    due = start + self._interval_ns * (self._slot(self._clock.monotonic_ns() - start) + 1)
                    continue
            elif not self._in_flight:
                break
            self._sleep(due)
        self._linger()
        return self._report(cancelled=False)

    def _slot(self, elapsed_ns: int) -> int:
        """Return the place in the grid nearest to a time, so that two packets are never closer than half an interval."""
        return (2 * elapsed_ns + self._interval_ns) // (2 * self._interval_ns)

    def _sleep(self, due: int) -> None:
        now = self._clock.monotonic_ns()
        until = now + _POLL_NS
        if len(self._packets) < self._plan.count:
            until = min(until, due)
        for number in self._in_flight:
            until = min(until, self._sent[number].monotonic + self._timeout_ns + 1)
            break
        if until > now:
            self._channel.wait((until - now) / _NS)

    def _send(self) -> None:
        number = len(self._packets)
        message = codec.build(self._family, self._channel.ident, number + 1, self._payload)
        error: OSError | None = None
        for _ in range(_SEND_TRIES):
            sent = stamp(self._clock)
            try:
                self._channel.send(message)
            except OSError as exc:
                # The kernel may be passing on the error of an earlier packet; then this one has not been tried yet.
                error = exc
            else:
                error = None
                break
        self._packets.append(Packet(number))
        self._sent.append(sent)
        self._in_flight[number] = None
        self._watcher.sent(number)
        if error is not None:
            self._decide(Packet(number, Fate.REFUSED, reason=reasons.refused(error)))

    def _drain(self) -> None:
        while (complaint := self._channel.complaint()) is not None:
            self._lost(complaint)
        while (received := self._channel.receive()) is not None:
            self._answered(received, stamp(self._clock))

    def _number(self, echo: codec.Echo, *, quoted: bool) -> int | None:
        """Return the number of our packet that `echo` answers or quotes; None if it is not ours."""
        nonce = echo.payload[: len(self._nonce)]
        # Routers quote as little as they like, so of a quoted nonce only what is there can be compared.
        ours = self._nonce.startswith(nonce) if quoted else nonce == self._nonce
        if not ours or echo.ident != self._channel.ident or not 1 <= echo.sequence <= len(self._packets):
            return None
        return echo.sequence - 1

    def _answered(self, received: Received, read: Stamp) -> None:
        if received.source.partition("%")[0] != self._plan.address.partition("%")[0]:
            return
        echo = codec.parse(self._family, received.data)
        if echo is None or echo.kind != "reply" or not echo.intact:
            return
        number = self._number(echo, quoted=False)
        if number is None:
            return
        if number not in self._in_flight:
            self._surplus(number)
            return
        rtt_ns, by = round_trip_ns(self._sent[number], read, received.kernel_ns)
        self._stamped[by] += 1
        if rtt_ns > self._timeout_ns:
            self._decide(Packet(number, Fate.TIMED_OUT))
            self._surplus(number)
        else:
            self._decide(Packet(number, Fate.ANSWERED, rtt_ms=rtt_ns / 1e6))

    def _surplus(self, number: int) -> None:
        """Count a reply to a packet whose fate is known: the first after giving up is late, any other a duplicate."""
        if self._packets[number].fate is Fate.ANSWERED or number in self._overdue:
            self._duplicates += 1
        else:
            self._overdue.add(number)

    def _lost(self, complaint: Complaint) -> None:
        echo = codec.parse(self._family, complaint.quoted)
        if echo is None or echo.kind != "request":
            return
        number = self._number(echo, quoted=True)
        reason = reasons.reported(self._family, complaint)
        if number is not None and reason is not None and number in self._in_flight:
            self._decide(Packet(number, Fate.REPORTED, reason=reason))

    def _expire(self, now: int) -> None:
        # The oldest is first, and all have the same time-out.
        for number in list(self._in_flight):
            if now - self._sent[number].monotonic <= self._timeout_ns:
                break
            self._decide(Packet(number, Fate.TIMED_OUT))

    def _decide(self, packet: Packet) -> None:
        del self._in_flight[packet.number]
        self._packets[packet.number] = packet
        self._watcher.decided(packet)

    def _linger(self) -> None:
        if not any(packet.fate is Fate.ANSWERED for packet in self._packets):
            return
        end = self._clock.monotonic_ns() + _LINGER_NS
        while (now := self._clock.monotonic_ns()) < end:
            self._channel.wait((end - now) / _NS)
            self._drain()

    def _report(self, *, cancelled: bool) -> Report:
        stepped = self._stamped["user"] > self._stamped["kernel"]
        return Report(
            packets=tuple(self._packets),
            duplicates=self._duplicates,
            late=len(self._overdue),
            cancelled=cancelled,
            socket=self._channel.kind,
            stamps="user" if stepped else self._channel.stamps,
        )
