"""The one adapter to amqtt's codec: strict where it is lenient, and typed.

amqtt reads what it can of a packet and overlooks the rest (bytes that are not UTF-8, a field cut short, bytes left over).
Here whatever it understood is written out again and must be what was sent; else the connection ends.
"""

import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from amqtt.adapters import BufferReader
from amqtt.codecs_amqtt import encode_data_with_length, encode_string
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.packet import MQTTFixedHeader, PacketIdVariableHeader
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from broker.server.errors import Cause, Dropped
from broker.server.packets import (
    QOS_MAX,
    Acknowledgement,
    Connack,
    Connect,
    Disconnect,
    Frame,
    Kind,
    Message,
    Packet,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
)
from broker.server.topics import valid_topic

PROTOCOL_NAME: Final = "MQTT"
PROTOCOL_LEVEL: Final = 4
OLD_PROTOCOL_NAME: Final = "MQIsdp"
FILTERS_MAX_BYTES: Final = 32 * 1024
"""Longest (UN)SUBSCRIBE taken: reading thousands of filters would hold up everybody else."""

_NOT_READABLE = (AMQTTError, MQTTError, NoDataError, ValueError, struct.error)
_FLAGS: Final = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}
_ACKS: Final = {
    Kind.PUBACK: PubackPacket,
    Kind.PUBREC: PubrecPacket,
    Kind.PUBREL: PubrelPacket,
    Kind.PUBCOMP: PubcompPacket,
}


class WrongProtocol(Exception):  # noqa: N818 - not an error of ours: it is answered with a CONNACK
    """The client speaks another version of MQTT."""


def malformed(reason: str) -> Dropped:
    """The end of a connection that broke the protocol."""
    return Dropped(Cause.MALFORMED, reason)


async def decode_connect(frame: Frame) -> tuple[Connect, bool]:
    """Understand a CONNECT; the flag says that the client gave no id. Raises WrongProtocol or Dropped."""
    if frame.kind != Kind.CONNECT or frame.flags:
        raise malformed("the first packet is not a CONNECT")
    reader = BufferReader(frame.body)
    try:
        header = await ConnectVariableHeader.from_stream(reader, _header(frame))
        _check_protocol(header)
        payload = await ConnectPayload.from_stream(reader, _header(frame), header)
    except _NOT_READABLE as exc:
        raise malformed(f"CONNECT: {exc}") from exc
    _check_connect_flags(header)
    password = _check_connect_payload(frame.body, header, payload)
    will = None
    if header.will_flag:
        will = Message(payload.will_topic, bytes(payload.will_message), header.will_qos)
        if not valid_topic(will.topic):
            raise malformed("CONNECT: the will's topic is not a topic name")
    return Connect(
        client_id=payload.client_id,
        clean_session=header.clean_session_flag,
        keep_alive_s=header.keep_alive,
        username=payload.username,
        password=password,
        will=will,
        will_retain=header.will_retain_flag,
    ), payload.client_id_is_random


def _check_protocol(header: Any) -> None:
    if header.proto_name == OLD_PROTOCOL_NAME or (
        header.proto_name == PROTOCOL_NAME and header.proto_level != PROTOCOL_LEVEL
    ):
        raise WrongProtocol(f"{header.proto_name} level {header.proto_level}")
    if header.proto_name != PROTOCOL_NAME:
        raise malformed("CONNECT: not MQTT")  # [MQTT-3.1.2-1]


def _check_connect_flags(header: Any) -> None:
    if header.reserved_flag:
        raise malformed("CONNECT: the reserved flag is set")  # [MQTT-3.1.2-3]
    if header.will_qos > QOS_MAX or (not header.will_flag and (header.will_qos or header.will_retain_flag)):
        raise malformed("CONNECT: contradictory will flags")  # [MQTT-3.1.2-11] to [MQTT-3.1.2-15]
    if header.password_flag and not header.username_flag:
        raise malformed("CONNECT: a password without a user name")  # [MQTT-3.1.2-22]


def _check_connect_payload(body: bytes, header: Any, payload: Any) -> bytes | None:
    """Compare what was understood with what was sent. Returns the password, which may be any bytes."""
    parts = [header.to_bytes(), encode_string("" if payload.client_id_is_random else payload.client_id)]
    if header.will_flag:
        if payload.will_topic is None or payload.will_message is None:
            raise malformed("CONNECT: the will is missing")
        parts += [encode_string(payload.will_topic), encode_data_with_length(payload.will_message)]
    if header.username_flag:
        if payload.username is None:
            raise malformed("CONNECT: the user name is missing")
        parts.append(encode_string(payload.username))
    understood = b"".join(parts)
    rest = body[len(understood) :]
    if not body.startswith(understood) or b"\0" in (payload.client_id + (payload.username or "")).encode():
        raise malformed("CONNECT: not UTF-8, or cut short")
    if not header.password_flag:
        if rest:
            raise malformed("CONNECT: too long")
        return None
    password = rest[2:]
    if len(rest) < 2 or len(password) != int.from_bytes(rest[:2], "big"):  # noqa: PLR2004 - the length's own two bytes
        raise malformed("CONNECT: the password is not as long as it says")
    return password


async def decode(frame: Frame) -> Packet:
    """Understand one packet of a connected client. Raises Dropped for what a client must not send."""
    try:
        kind = Kind(frame.kind)
        decoder = _DECODERS[kind]
    except (ValueError, KeyError):
        raise malformed(f"packet type {frame.kind} out of place") from None
    if kind is not Kind.PUBLISH and frame.flags != _FLAGS.get(kind, 0):
        raise malformed(f"{kind.name}: reserved flags")  # [MQTT-2.2.2-2]
    try:
        return await decoder(frame)
    except _NOT_READABLE as exc:
        raise malformed(f"{kind.name}: {exc}") from exc


async def _publish(frame: Frame) -> Publish:
    qos, duplicate = (frame.flags >> 1) & 3, bool(frame.flags & 8)
    if qos > QOS_MAX or (duplicate and not qos):
        raise malformed("PUBLISH: contradictory flags")  # [MQTT-3.3.1-4] [MQTT-3.3.1-2]
    packet = await PublishPacket.from_stream(BufferReader(frame.body), _header(frame))
    topic: str = packet.topic_name
    if not valid_topic(topic) or not frame.body.startswith(encode_string(topic)):
        raise malformed("PUBLISH: not a topic name")
    packet_id = _packet_id(packet, Kind.PUBLISH) if qos else 0
    return Publish(Message(topic, bytes(packet.data), qos), retain=bool(frame.flags & 1), packet_id=packet_id)


async def _subscribe(frame: Frame) -> Subscribe:
    _check_length(frame)
    packet = await SubscribePacket.from_stream(BufferReader(frame.body), _header(frame))
    filters = tuple((str(name), int(qos)) for name, qos in packet.payload.topics)
    understood = b"".join(encode_string(name) + bytes([qos]) for name, qos in filters)
    if not filters or frame.body[2:] != understood or any(qos > QOS_MAX for _, qos in filters):
        raise malformed("SUBSCRIBE: not a list of filters")  # [MQTT-3.8.3-3] [MQTT-3-8.3-4]
    return Subscribe(_packet_id(packet, Kind.SUBSCRIBE), filters)


async def _unsubscribe(frame: Frame) -> Unsubscribe:
    _check_length(frame)
    packet = await UnsubscribePacket.from_stream(BufferReader(frame.body), _header(frame))
    filters = tuple(str(name) for name in packet.payload.topics)
    if not filters or frame.body[2:] != b"".join(map(encode_string, filters)):
        raise malformed("UNSUBSCRIBE: not a list of filters")  # [MQTT-3.10.3-2]
    return Unsubscribe(_packet_id(packet, Kind.UNSUBSCRIBE), filters)


async def _acknowledgement(frame: Frame) -> Acknowledgement:
    kind = Kind(frame.kind)
    packet = await _ACKS[kind].from_stream(BufferReader(frame.body), _header(frame))
    if len(frame.body) != PacketIdVariableHeader(0).bytes_length:
        raise malformed(f"{kind.name}: too long")
    return Acknowledgement(kind, _packet_id(packet, kind))


async def _ping(frame: Frame) -> Ping:
    _check_empty(frame)
    return Ping()


async def _disconnect(frame: Frame) -> Disconnect:
    _check_empty(frame)
    return Disconnect()


def _check_empty(frame: Frame) -> None:
    if frame.body:
        raise malformed(f"{Kind(frame.kind).name}: too long")


def _check_length(frame: Frame) -> None:
    if len(frame.body) > FILTERS_MAX_BYTES:
        raise Dropped(Cause.TOO_BIG, f"{Kind(frame.kind).name} of {len(frame.body)} bytes")


def _packet_id(packet: Any, kind: Kind) -> int:
    packet_id = int(packet.variable_header.packet_id)
    if not packet_id:
        raise malformed(f"{kind.name}: packet id 0")  # [MQTT-2.3.1-1]
    return packet_id


def _header(frame: Frame) -> Any:
    return MQTTFixedHeader(frame.kind, frame.flags, len(frame.body))


_DECODERS: Final[dict[Kind, Callable[[Frame], Awaitable[Packet]]]] = {
    Kind.PUBLISH: _publish,
    Kind.SUBSCRIBE: _subscribe,
    Kind.UNSUBSCRIBE: _unsubscribe,
    Kind.PINGREQ: _ping,
    Kind.DISCONNECT: _disconnect,
    **dict.fromkeys(_ACKS, _acknowledgement),
}


# --- what the broker sends ------------------------------------------------------------------------------------------
def connack(code: Connack, *, session_present: bool = False) -> bytes:
    """The answer to CONNECT."""
    return bytes(ConnackPacket.build(int(session_present), int(code)).to_bytes())


def publish(message: Message, qos: int, packet_id: int, *, retain: bool, duplicate: bool) -> bytes:
    """A message on its way to a subscriber; `packet_id` is ignored for QoS 0."""
    packet = PublishPacket.build(message.topic, message.payload, packet_id if qos else None, duplicate, qos, retain)
    return bytes(packet.to_bytes())


def acknowledge(kind: Kind, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return bytes(_ACKS[kind].build(packet_id).to_bytes())


def suback(packet_id: int, codes: list[int]) -> bytes:
    """The answer to SUBSCRIBE: the QoS granted to each filter, or 0x80."""
    return bytes(SubackPacket.build(packet_id, codes).to_bytes())


def unsuback(packet_id: int) -> bytes:
    """The answer to UNSUBSCRIBE."""
    return bytes(UnsubackPacket.build(packet_id).to_bytes())


def pingresp() -> bytes:
    """The answer to PINGREQ."""
    return bytes(PingRespPacket.build().to_bytes())
