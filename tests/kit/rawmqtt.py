"""MQTT 3.1.1 over a bare socket: packets as tests want to send them, right or wrong, and every packet that comes back."""

import contextlib
import itertools
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)
WAIT_S = 5.0


@dataclass(frozen=True)
class Packet:
    kind: int
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        return int.from_bytes(self.body[:2], "big")


@dataclass(frozen=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True)
class Received:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    packet_id: int | None


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def packet(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return bytes([kind << 4 | flags]) + length(len(body)) + body


def connect_packet(
    client_id: str | bytes = "",
    *,
    clean: bool = True,
    keep_alive: int = 0,
    will: Will | None = None,
    login: tuple[str, str | bytes] | None = None,
    name: str = "MQTT",
    level: int = 4,
    flags: int | None = None,
) -> bytes:
    bits = (0x02 if clean else 0) | (0xC0 if login else 0)
    payload = text(client_id)
    if will:
        bits |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += text(will.topic) + text(will.payload)
    if login:
        payload += text(login[0]) + text(login[1])
    header = text(name) + bytes([level, bits if flags is None else flags]) + struct.pack("!H", keep_alive)
    return packet(CONNECT, header + payload)


def publish_packet(
    topic: str | bytes,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 1,
    *,
    retain: bool = False,
    duplicate: bool = False,
) -> bytes:
    flags = (8 if duplicate else 0) | qos << 1 | int(retain)
    return packet(PUBLISH, text(topic) + (struct.pack("!H", packet_id) if qos else b"") + payload, flags)


class RawMqtt:
    """One connection. Messages that arrive are kept in `inbox`, and acknowledged while `auto_ack` is on."""

    def __init__(self, port: int, host: str = "127.0.0.1", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect((host, port))
        self.auto_ack = True
        self.inbox: list[Received] = []
        self._buffer = bytearray()
        self._ids = itertools.cycle(range(1, 65_536))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.drop()

    # --- out
    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def connect(
        self,
        client_id: str = "",
        *,
        clean: bool = True,
        keep_alive: int = 0,
        will: Will | None = None,
        login: tuple[str, str | bytes] | None = None,
    ) -> tuple[bool, int]:
        """Send CONNECT; returns "session present" and the return code."""
        self.send(connect_packet(client_id, clean=clean, keep_alive=keep_alive, will=will, login=login))
        body = self.expect(CONNACK).body
        return bool(body[0] & 1), body[1]

    def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        body = struct.pack("!H", next(self._ids)) + b"".join(text(name) + bytes([qos]) for name, qos in filters)
        self.send(packet(SUBSCRIBE, body, 2))
        return list(self.expect(SUBACK).body[2:])

    def unsubscribe(self, *filters: str) -> None:
        body = struct.pack("!H", next(self._ids)) + b"".join(map(text, filters))
        self.send(packet(UNSUBSCRIBE, body, 2))
        self.expect(UNSUBACK)

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 0, *, retain: bool = False) -> None:
        """Publish and wait for the whole handshake."""
        packet_id = next(self._ids)
        self.send(publish_packet(topic, payload, qos, packet_id, retain=retain))
        if qos == 1:
            assert self.expect(PUBACK).packet_id == packet_id
        if qos == 2:
            assert self.expect(PUBREC).packet_id == packet_id
            self.ack(PUBREL, packet_id)
            assert self.expect(PUBCOMP).packet_id == packet_id

    def ack(self, kind: int, packet_id: int) -> None:
        self.send(packet(kind, struct.pack("!H", packet_id), 2 if kind == PUBREL else 0))

    def ping(self) -> None:
        self.send(packet(PINGREQ))
        self.expect(PINGRESP)

    def disconnect(self) -> None:
        self.send(packet(DISCONNECT))
        assert self.closed()
        self.drop()

    def drop(self) -> None:
        """Close the socket without a DISCONNECT."""
        self.socket.close()

    # --- in
    def receive(self, timeout_s: float = WAIT_S) -> Packet | None:
        """The next packet, None if there is none in time. Raises ConnectionError when the peer has closed."""
        deadline = time.monotonic() + timeout_s
        while (found := self._parse()) is None:
            self.socket.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65_536)
            except (TimeoutError, BlockingIOError):
                return None
            finally:
                self.socket.settimeout(WAIT_S)
            if not data:
                raise ConnectionResetError("closed by the broker")
            self._buffer += data
        self._take(found)
        return found

    def expect(self, kind: int, timeout_s: float = WAIT_S) -> Packet:
        """The next packet of this kind; messages and acknowledgements on the way are taken."""
        deadline = time.monotonic() + timeout_s
        while (found := self.receive(deadline - time.monotonic())) is not None:
            if found.kind == kind:
                return found
            assert PUBLISH <= found.kind <= PUBCOMP, f"{found} instead of {kind}"
        raise AssertionError(f"no packet of kind {kind} within {timeout_s} s")

    def messages(self, count: int, timeout_s: float = WAIT_S) -> list[Received]:
        """Take `count` messages from the inbox, waiting for them."""
        deadline = time.monotonic() + timeout_s
        while len(self.inbox) < count:
            if self.receive(deadline - time.monotonic()) is None:
                raise AssertionError(f"{len(self.inbox)} of {count} messages: {self.inbox[-3:]}")
        taken, self.inbox = self.inbox[:count], self.inbox[count:]
        return taken

    def closed(self, timeout_s: float = WAIT_S) -> bool:
        """Whether the broker closes the connection in time, by FIN or RST."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                self.receive(deadline - time.monotonic())
            return False
        return True

    def _parse(self) -> Packet | None:
        size, shift, at = 0, 0, 1
        while at < len(self._buffer):
            byte = self._buffer[at]
            size |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                if len(self._buffer) < at + size:
                    return None
                found = Packet(self._buffer[0] >> 4, self._buffer[0] & 15, bytes(self._buffer[at : at + size]))
                del self._buffer[: at + size]
                return found
        return None

    def _take(self, found: Packet) -> None:
        if found.kind == PUBREL and self.auto_ack:
            self.ack(PUBCOMP, found.packet_id)
        if found.kind != PUBLISH:
            return
        end = 2 + found.packet_id  # the first two bytes are the topic's length here
        qos = found.flags >> 1 & 3
        packet_id = int.from_bytes(found.body[end : end + 2], "big") if qos else None
        payload = found.body[end + (2 if qos else 0) :]
        self.inbox.append(
            Received(found.body[2:end].decode(), payload, qos, bool(found.flags & 1), bool(found.flags & 8), packet_id)
        )
        if self.auto_ack and packet_id is not None:
            self.ack(PUBACK if qos == 1 else PUBREC, packet_id)
