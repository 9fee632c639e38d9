"""The engine's words: what to send, what became of it, and the seams to socket and clock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol

SocketKind = Literal["datagram", "raw"]
StampKind = Literal["kernel", "user"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A paced series of echo requests to one literal address."""

    address: str
    count: int
    interval_s: float
    timeout_s: float
    size: int = 56
    """ICMP payload, bytes; at least the nonce's."""
    source: str | None = None
    """An address or the name of an interface."""
    dscp: int | None = None
    ttl: int | None = None
    """Hop limit; None is the system's."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """One instant on both clocks, ns."""

    monotonic: int
    realtime: int


class Fate(Enum):
    """What became of a packet."""

    WAITING = auto()
    ANSWERED = auto()
    TIMED_OUT = auto()
    REFUSED = auto()
    """This system's kernel would not send it."""
    REPORTED = auto()
    """A router, or the target, said that it did not arrive."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a packet was lost, as somebody said so: a code of schemas.errors, and who said it."""

    code: str
    router: str = ""
    text: str = ""
    """The system's words, where the code alone does not tell."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet and its fate; numbers start at 0."""

    number: int
    fate: Fate = Fate.WAITING
    rtt_ms: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a plan. `packets` holds those that were sent (or refused by the kernel), in order."""

    packets: tuple[Packet, ...]
    duplicates: int
    late: int
    cancelled: bool
    socket: SocketKind
    stamps: StampKind
    """Who stamped the replies; "user" also if the kernel's stamps proved useless (its clock was stepped)."""

    @property
    def samples(self) -> tuple[float | None, ...]:
        """Round trips, ms, of the packets whose fate is known, in order of sending; None is lost."""
        return samples(self.packets)


def samples(packets: Sequence[Packet]) -> tuple[float | None, ...]:
    """Return the round trips, ms, of the packets whose fate is known, in order of sending; None is lost."""
    return tuple(packet.rtt_ms for packet in packets if packet.fate is not Fate.WAITING)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came from the socket, perhaps with its IP header before it."""

    data: bytes
    source: str
    kernel_ns: int | None
    """When the kernel got it, by the realtime clock."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """An ICMP error about one of our packets, as the error queue tells it."""

    quoted: bytes
    """Our packet from its ICMP header on; routers may quote as little as 8 bytes."""
    type: int
    code: int
    router: str


class Channel(Protocol):
    """The seam to the network: a non-blocking ICMP socket to one address."""

    @property
    def kind(self) -> SocketKind:
        """Which kind of socket it is."""

    @property
    def stamps(self) -> StampKind:
        """Whether the kernel stamps what arrives."""

    @property
    def ident(self) -> int:
        """The identifier its echo requests carry."""

    def send(self, message: bytes) -> None:
        """Send one ICMP message. Raise OSError if the kernel refuses (or passes on an earlier packet's error)."""

    def receive(self) -> Received | None:
        """Return the next message that waits, or None."""

    def complaint(self) -> Complaint | None:
        """Return the next ICMP error that waits, or None."""

    def wait(self, timeout_s: float) -> None:
        """Return when something arrives, or after `timeout_s`."""


class Watcher(Protocol):
    """Who follows a plan while it runs. Called from the engine's thread, so it must be quick."""

    def sent(self, number: int) -> None:
        """Take note that packet `number` has left (or was refused)."""

    def decided(self, packet: Packet) -> None:
        """Take note of a packet's fate, which is final."""

    def cancelled(self) -> bool:
        """Tell whether to stop; asked at least every 50 ms."""


class Clock(Protocol):
    """The seam to time, ns."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump."""

    def realtime_ns(self) -> int:
        """The wall clock, which the kernel stamps with."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump."""
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        """The wall clock, which the kernel stamps with."""
        return time.time_ns()
