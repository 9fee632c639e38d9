"""The packets a client may send, as values (MQTT 3.1.1, section 3)."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

QOS_MAX: Final = 2
SUBSCRIPTION_REFUSED: Final = 0x80


class Kind(IntEnum):
    """Packet types, as in the first four bits on the wire."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class Connack(IntEnum):
    """Return codes of CONNACK."""

    ACCEPTED = 0
    BAD_PROTOCOL = 1
    BAD_CLIENT_ID = 2
    UNAVAILABLE = 3
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet off the wire, whole and not yet understood. `kind` may be one that does not exist (0, 15)."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """What is published: shared by every queue it waits in."""

    topic: str
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Connect:
    """A CONNECT of protocol level 4; `client_id` is made up if the client gave none and wants a clean session."""

    client_id: str
    clean_session: bool
    keep_alive_s: int
    username: str | None
    password: bytes | None = field(repr=False)
    will: Message | None
    will_retain: bool


@dataclass(frozen=True, slots=True)
class Publish:
    """A PUBLISH; `packet_id` is 0 for QoS 0."""

    message: Message
    retain: bool
    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A SUBSCRIBE: filters with the QoS asked for."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """An UNSUBSCRIBE."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: Kind
    packet_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """A PINGREQ."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """A DISCONNECT: the last will is not sent."""


Packet: TypeAlias = Publish | Subscribe | Unsubscribe | Acknowledgement | Ping | Disconnect
