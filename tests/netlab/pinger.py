"""A plain pinger to check the lab with: raw socket, stamps of this process, nothing shared with the probe's engine."""

import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from tests.netlab.lab import Lab

_IDENT: Final = 0x4C41  # "LA"
_TAIL_S: Final = 0.3


@dataclass
class Pinged:
    """Sequence numbers (from 1) in order of arrival, round trips (ms) by sequence number, count of duplicates."""

    sent: int
    order: list[int] = field(default_factory=list)
    rtt: dict[int, float] = field(default_factory=dict)
    dup: int = 0


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(sequence: int, size: int = 32) -> bytes:
    """An ICMP echo request with `size` (an even number) bytes of payload."""
    body = bytes(size)
    head = struct.pack("!BBHHH", 8, 0, 0, _IDENT, sequence)
    return struct.pack("!BBHHH", 8, 0, checksum(head + body), _IDENT, sequence) + body


def ping(lab: Lab, count: int, interval: float, tail: float = _TAIL_S) -> Pinged:
    """Send `count` echo requests to the server, `interval` s apart; wait `tail` s for stragglers beyond the longest RTT."""
    found = Pinged(count)
    sent: dict[int, float] = {}
    with lab.client.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((lab.server_ip, 0))
        start = time.monotonic()
        end = start + (count - 1) * interval + tail
        while (now := time.monotonic()) < end:
            due = start + len(sent) * interval if len(sent) < count else end
            if now >= due:
                packet = echo_request(len(sent) + 1)
                sent[len(sent) + 1] = time.monotonic()
                sock.send(packet)
                continue
            if not select.select([sock], [], [], due - now)[0]:
                continue
            data, read = sock.recv(2048), time.monotonic()
            kind, _, _, ident, sequence = struct.unpack_from("!BBHHH", data, 20)
            if kind == 0 and ident == _IDENT and sequence in sent:
                if sequence in found.rtt:
                    found.dup += 1
                    continue
                found.order.append(sequence)
                found.rtt[sequence] = (read - sent[sequence]) * 1e3
                if len(found.rtt) == count:
                    end = min(end, read + 0.05)
    return found


def router_answer(lab: Lab, address: str, ttl: int = 64) -> tuple[str, int, int]:
    """Send one echo request; return who answered first, and the ICMP type and code of it."""
    with lab.client.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        sock.sendto(echo_request(1), (address, 0))
        data, where = sock.recvfrom(2048)
        return str(where[0]), data[20], data[21]
