"""ICMP sockets: unprivileged datagram ones first, raw ones second, with whatever the system offers beyond.

Linux stamps what arrives in the kernel and queues ICMP errors with the packet they are about. Elsewhere, or if an option is
refused, the socket works without: replies are then stamped in this process, and an unreachable target is merely silent.
"""

import contextlib
import errno
import ipaddress
import logging
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from probe.icmp.model import Complaint, Plan, Received, SocketKind, StampKind
from probe.resolve import Family, family_of
from schemas.errors import ErrorInfo, Failure, error

_log = logging.getLogger(__name__)

Factory = Callable[[int, int, int], socket.socket]
Ancillary = Iterable[tuple[int, int, bytes]]

_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_MSG_ERRQUEUE: Final = 0x2000
_SO_BINDTODEVICE: Final = 25
_ORIGIN_ICMP: Final = frozenset((2, 3))  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")  # struct sock_extended_err, linux/errqueue.h
_TIMESPEC: Final = struct.Struct("@ll")
_ECHO_REPLY: Final[dict[Family, int]] = {4: 0, 6: 129}
_ROOM_BYTES: Final = 256
"""For the headers around a payload."""
_ANCILLARY_BYTES: Final = 512
_PENDING_ERRORS_MAX: Final = 8
_SELECT_FDS: Final = 1024
_GROUP_RANGE: Final = Path("/proc/sys/net/ipv4/ping_group_range")


@dataclass(frozen=True, slots=True)
class Options:
    """What the system's sockets can do beyond the portable; each is left out where it is None or False."""

    timestamp: int | None = None
    """SO_TIMESTAMPNS: the kernel stamps what arrives."""
    error_queue: bool = False
    """IP_RECVERR: ICMP errors arrive with the packet they are about."""
    bind_device: int | None = None
    """SO_BINDTODEVICE: a source can be an interface."""


PORTABLE: Final = Options()
LINUX: Final = Options(timestamp=35, error_queue=True, bind_device=_SO_BINDTODEVICE)


def system_options(platform: str = sys.platform) -> Options:
    """Return what this system offers."""
    return LINUX if platform == "linux" else PORTABLE


@dataclass(frozen=True, slots=True)
class Opened:
    """A socket that ICMP may be sent through."""

    sock: socket.socket
    kind: SocketKind


def open_socket(family: Family, factory: Factory = socket.socket) -> Opened:
    """Return a datagram ICMP socket, or else a raw one.

    Raises:
        Failure: icmp_not_permitted, or measurement_failed if the system has no such socket at all.
    """
    version, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)  # noqa: PLR2004 - it is the version
    )
    failures: list[OSError] = []
    kinds: tuple[tuple[SocketKind, int], ...] = (("datagram", socket.SOCK_DGRAM), ("raw", socket.SOCK_RAW))
    for kind, number in kinds:
        try:
            return Opened(factory(version, number, protocol), kind)
        except OSError as exc:
            _log.debug("no %s socket for ICMP over IPv%d: %s", kind, family, exc)
            failures.append(exc)
    raise Failure.of(_not_opened(family, failures))


def _not_opened(family: Family, failures: list[OSError]) -> ErrorInfo:
    if any(isinstance(failure, PermissionError) for failure in failures):
        return error("icmp_not_permitted", reason=_not_permitted())
    if any(failure.errno in {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT} for failure in failures):
        return error("measurement_failed", reason=f"this system has no IPv{family}")
    return error("measurement_failed", reason="; ".join(failure.strerror or str(failure) for failure in failures))


def _not_permitted() -> str:
    try:
        allowed = " ".join(_GROUP_RANGE.read_text(encoding="ascii").split())
    except OSError:
        return "it may open neither datagram nor raw sockets"
    return f'net.ipv4.ping_group_range is "{allowed}", without its group {os.getgid()}, and it has no CAP_NET_RAW'


class IcmpSocket:
    """A channel to one address. If there is no route at first, each packet tries again: it is refused, not the test.

    Raises:
        Failure: icmp_not_permitted, source_unavailable, measurement_failed.
    """

    def __init__(self, plan: Plan, options: Options | None = None, factory: Factory = socket.socket) -> None:
        self._plan = plan
        self._options = system_options() if options is None else options
        self._family: Family = family_of(plan.address)
        opened = open_socket(self._family, factory)
        self._sock, self.kind = opened.sock, opened.kind
        self._bytes = plan.size + _ROOM_BYTES
        self._connected = False
        self.stamps: StampKind = "user"
        self.ident = 0
        try:
            self._configure()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    # -- opening

    def _configure(self) -> None:
        self._sock.settimeout(0)
        if self._options.timestamp is not None and self._try(socket.SOL_SOCKET, self._options.timestamp, 1):
            self.stamps = "kernel"
        ip4 = self._family == 4  # noqa: PLR2004 - it is the version
        if self._options.error_queue:
            self._try(*((socket.IPPROTO_IP, _IP_RECVERR) if ip4 else (socket.IPPROTO_IPV6, _IPV6_RECVERR)), 1)
            if self.kind == "raw":
                self._hear_replies_only()
        if self._plan.dscp is not None:
            what = (socket.IPPROTO_IP, socket.IP_TOS) if ip4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
            self._sock.setsockopt(*what, self._plan.dscp << 2)
        if self._plan.ttl is not None:
            what = (socket.IPPROTO_IP, socket.IP_TTL) if ip4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            self._sock.setsockopt(*what, self._plan.ttl)
        self._bind()
        # Linux chooses the identifier of a datagram socket as it does a port; elsewhere, and for raw ones, it is ours to draw.
        given = self._sock.getsockname()[1] if self.kind == "datagram" else 0
        self.ident = given or int.from_bytes(os.urandom(2)) or 1
        # Now rather than with the first packet, whose round trip it would lengthen.
        with contextlib.suppress(OSError):
            self._connect()

    def _try(self, level: int, option: int, value: int | bytes) -> bool:
        try:
            self._sock.setsockopt(level, option, value)
        except OSError as exc:
            _log.debug("socket option %d/%d: %s", level, option, exc)
            return False
        return True

    def _hear_replies_only(self) -> None:
        """Have the kernel drop all but echo replies: a raw socket sees what every other program receives."""
        reply = _ECHO_REPLY[self._family]
        if self._family == 4:  # noqa: PLR2004 - it is the version
            self._try(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", 0xFFFFFFFF & ~(1 << reply)))
            return
        words = [0xFFFFFFFF] * 8
        words[reply // 32] &= ~(1 << reply % 32)
        self._try(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *words))

    def _bind(self) -> None:
        source = self._plan.source
        try:
            if source is None:
                # A datagram socket gets its identifier by this; a raw one needs none.
                if self.kind == "datagram":
                    self._sock.bind(("", 0))
            elif _is_address(source):
                if family_of(source) != self._family:
                    raise Failure("source_unavailable", source=source, reason=f"it is not an IPv{self._family} address")
                self._sock.bind(_where(source))
            else:
                self._bind_device(source)
        except OSError as exc:
            raise Failure("source_unavailable", source=source or "any", reason=_source_reason(exc)) from None

    def _bind_device(self, name: str) -> None:
        if self._options.bind_device is None:
            raise Failure("source_unavailable", source=name, reason="this system binds to addresses only")
        self._sock.setsockopt(socket.SOL_SOCKET, self._options.bind_device, name.encode() + b"\0")
        if self.kind == "datagram":
            self._sock.bind(("", 0))

    # -- the channel

    def _connect(self) -> None:
        self._sock.connect(_where(self._plan.address))
        self._connected = True

    def send(self, message: bytes) -> None:
        """Send one ICMP message. Raise OSError if the kernel refuses (or passes on an earlier packet's error)."""
        if not self._connected:
            self._connect()
        self._sock.send(message)

    def receive(self) -> Received | None:
        """Return the next message that waits, or None."""
        for _ in range(_PENDING_ERRORS_MAX):
            try:
                return self._receive()
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as exc:
                # An error the kernel kept for us; the queue, where there is one, tells which packet it is about.
                _log.debug("pending error: %s", exc)
        return None

    def _receive(self) -> Received:
        if self._options.timestamp is None:
            data, where = self._sock.recvfrom(self._bytes)
            return Received(data, str(where[0]), None)
        data, ancillary, _, where = self._sock.recvmsg(self._bytes, _ANCILLARY_BYTES)
        return Received(data, str(where[0]), _kernel_ns(ancillary, self._options.timestamp))

    def complaint(self) -> Complaint | None:
        """Return the next ICMP error that waits, or None."""
        while self._options.error_queue:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(self._bytes, _ANCILLARY_BYTES, _MSG_ERRQUEUE)
            except OSError:
                return None
            found = _complaint(data, ancillary)
            if found is not None:
                return found
        return None

    def wait(self, timeout_s: float) -> None:
        """Return when something arrives, or after `timeout_s`."""
        # poll() counts in whole milliseconds, too coarse for the pace; but select() takes no descriptor beyond its set.
        with contextlib.suppress(InterruptedError):
            if self._sock.fileno() < _SELECT_FDS or not hasattr(select, "poll"):
                select.select([self._sock], [], [], max(0.0, timeout_s))
            else:
                waiting = select.poll()
                waiting.register(self._sock, select.POLLIN)
                waiting.poll(max(0.0, timeout_s) * 1000)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# A tuple of two for IPv4; the scope of a link-local IPv6 address makes it four.
def _where(address: str) -> tuple[str, int] | tuple[str, int, int, int]:
    host, _, scope = address.partition("%")
    if not scope:
        return (address, 0)
    return (host, 0, 0, int(scope) if scope.isdecimal() else socket.if_nametoindex(scope))


def _source_reason(exc: OSError) -> str:
    if exc.errno == errno.EADDRNOTAVAIL:
        return "it is not an address of this probe"
    if exc.errno == errno.ENODEV:
        return "this probe has no such interface"
    return exc.strerror or str(exc)


def _kernel_ns(ancillary: Ancillary, timestamp: int) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == timestamp and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def _complaint(quoted: bytes, ancillary: Ancillary) -> Complaint | None:
    """Return what the error queue says, or None if the error is the kernel's own (then send() has raised it)."""
    for level, kind, data in ancillary:
        if (level, kind) not in {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}:
            continue
        if len(data) < _EXTENDED_ERROR.size:
            continue
        _, origin, icmp_type, code, _, _, _ = _EXTENDED_ERROR.unpack_from(data)
        if origin in _ORIGIN_ICMP:
            return Complaint(quoted, icmp_type, code, _offender(data[_EXTENDED_ERROR.size :]))
    return None


def _offender(sockaddr: bytes) -> str:
    """Return the address in a struct sockaddr_in or sockaddr_in6, or "?" if there is none."""
    if len(sockaddr) >= 8:  # noqa: PLR2004 - family, port, IPv4 address
        (family,) = struct.unpack_from("@H", sockaddr)
        if family == socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
        if family == socket.AF_INET6 and len(sockaddr) >= 24:  # noqa: PLR2004 - and flow, IPv6 address
            return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
    return "?"


@dataclass(frozen=True, slots=True)
class Ability:
    """What ICMP sockets of this system and this user are like."""

    socket: SocketKind
    stamps: StampKind


def ability(options: Options | None = None, factory: Factory = socket.socket) -> Ability:
    """Open an ICMP socket and look. Raise Failure (icmp_not_permitted) if none can be opened."""
    with IcmpSocket(Plan("127.0.0.1", count=1, interval_s=1, timeout_s=1), options, factory) as channel:
        return Ability(channel.kind, channel.stamps)
