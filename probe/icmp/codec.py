"""Echo messages to bytes and back: the one file that knows pythonping, whose ICMP class is the codec.

That class writes identifier and sequence in the machine's byte order and expects an IPv4 header of 20 bytes before what it
reads; both are evened out here.
"""

import socket
from dataclasses import dataclass
from typing import Any, Final, Literal

from pythonping import icmp

from probe.resolve import Family

NONCE_BYTES: Final = 8
"""Random bytes at the start of every payload: what tells our replies from those of another program with the same identifier."""

_HEADER_BYTES: Final = 8
_IPV4_HEADER_BYTES: Final = 20
_IPV4_PROTOCOL_AT: Final = 9

# Any: a class of pythonping's, which carries no types; ICMPv6 numbers differ (RFC 4443 4.1).
_REQUEST: Final[dict[Family, Any]] = {
    4: icmp.Types.EchoRequest,
    6: type("EchoRequest6", (icmp.ICMPType,), {"type_id": 128}),
}
_KINDS: Final[dict[tuple[Family, int], Literal["request", "reply"]]] = {
    (4, 8): "request",
    (4, 0): "reply",
    (6, 128): "request",
    (6, 129): "reply",
}


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request or reply (RFC 792, RFC 4443)."""

    kind: Literal["request", "reply"]
    ident: int
    sequence: int
    payload: bytes
    intact: bool
    """The checksum holds; ICMPv6's covers addresses that are not in the message, and the kernel has checked it."""


def build(family: Family, ident: int, sequence: int, payload: bytes) -> bytes:
    """Return an echo request. The kernel puts in an ICMPv6 checksum, and a datagram socket's identifier."""
    message = icmp.ICMP(
        _REQUEST[family],
        payload=payload,
        identifier=socket.htons(ident),
        sequence_number=socket.htons(sequence),
    )
    return bytes(message.packet)


def parse(family: Family, data: bytes) -> Echo | None:
    """Return the echo message in `data` (with or without an IPv4 header before it), or None if it is anything else."""
    message = _without_ip_header(data) if family == 4 else data  # noqa: PLR2004 - it is the version
    if len(message) < _HEADER_BYTES:
        return None
    kind = _KINDS.get((family, message[0]))
    if kind is None or message[1] != 0:
        return None
    read = icmp.ICMP.generate_from_raw(bytes(_IPV4_HEADER_BYTES) + message)
    return Echo(
        kind=kind,
        ident=socket.ntohs(read.id),
        sequence=socket.ntohs(read.sequence_number),
        payload=bytes(read.payload),
        intact=family != 4 or bool(read.is_valid),  # noqa: PLR2004 - it is the version
    )


def _without_ip_header(data: bytes) -> bytes:
    """Return the ICMP message; raw sockets, and on some systems datagram ones, hand over the IPv4 header too."""
    # No ICMP type begins with a 4 in its first half byte, so 4 can only be the version.
    if len(data) < _IPV4_HEADER_BYTES or data[0] >> 4 != 4:  # noqa: PLR2004 - it is the version
        return data
    if data[_IPV4_PROTOCOL_AT] != socket.IPPROTO_ICMP:
        return b""
    return data[(data[0] & 0x0F) * 4 :]
