"""One connection to the broker: a paho client from CONNECT to its end, never used twice."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from netloom.url import BrokerUrl
from schemas.errors import Failure

CONNECT_TIMEOUT_S: Final = 5.0
OUTBOX_MAX: Final = 1_000
IN_FLIGHT_MAX: Final = 100


class Message(NamedTuple):
    """A message as it arrived; `topic` is without the prefix."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True)
class Will:
    """What the broker publishes (QoS 1) when it loses this connection."""

    topic: str
    payload: bytes
    retain: bool = True


class Publication:
    """A message on its way to the broker."""

    def __init__(self, info: MQTTMessageInfo) -> None:
        self._info = info

    def wait(self, timeout_s: float) -> bool:
        """Wait until the broker has it (QoS 1: the PUBACK). False: not within `timeout_s`, or the connection broke."""
        with contextlib.suppress(ValueError, RuntimeError):
            self._info.wait_for_publish(timeout_s)
            return self._info.is_published()
        return False


class Link:
    """One connection. `answered`, `subscribed` and `ended` are set in paho's thread, once each."""

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        *,
        will: Will | None,
        filters: Mapping[str, int],
        on_accepted: Callable[["Link"], None],
        on_message: Callable[[Message], object],
        on_ended: Callable[[], None],
    ) -> None:
        self.answered, self.subscribed, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.refused = True
        """Until the broker accepts."""
        self.said_no = False
        """The broker answered, and refused."""
        self.reason = "it does not answer as an MQTT broker"
        self.refused_filters = 0
        self._url, self._filters = url, dict(filters)
        self._tell_accepted, self._tell_message, self._tell_ended = on_accepted, on_message, on_ended
        self._client = self._new_client(client_id, will)

    def open(self, keepalive_s: int) -> None:
        """Connect; CONNACK and the rest follow in paho's thread. Raise OSError or ValueError (an unusable host)."""
        self._client.connect(self._url.host, self._url.port, keepalive_s)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> Publication:
        """Hand a message over. Raise Failure (broker_unreachable) if the connection is gone or too much is unsent."""
        info = self._client.publish(self._url.prefix + topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Failure("broker_unreachable", url=self._url, reason=info.rc.name.removeprefix("MQTT_ERR_").lower())
        return Publication(info)

    def say_goodbye(self) -> None:
        """Send DISCONNECT: the broker forgets the will."""
        self._client.disconnect()

    def close(self) -> None:
        """End the connection and its thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._end("closed")

    def _new_client(self, client_id: str, will: Will | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(IN_FLIGHT_MAX)
        client.max_queued_messages_set(OUTBOX_MAX)
        if self._url.user is not None:
            client.username_pw_set(self._url.user, self._url.password)
        if self._url.tls:
            client.tls_set_context(ssl.create_default_context(cafile=self._url.ca))
        if will is not None:
            client.will_set(self._url.prefix + will.topic, will.payload, 1, will.retain)
        client.on_socket_open = _without_delay
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        if hasattr(socket, "TCP_QUICKACK"):  # Linux
            client.on_publish = _acknowledge_at_once
        return client

    def _on_connect(
        self, client: Client, _: object, __: ConnectFlags, code: ReasonCode, ___: Properties | None
    ) -> None:
        self.refused, self.said_no, self.reason = code.is_failure, code.is_failure, str(code)
        if not self.refused:
            self._tell_accepted(self)
            if self._filters:  # all in one packet: one answer settles it
                client.subscribe([(self._url.prefix + name, qos) for name, qos in self._filters.items()])
            else:
                self.subscribed.set()
        self.answered.set()

    def _on_subscribe(self, _: Client, __: object, ___: int, codes: list[ReasonCode], ____: Properties | None) -> None:
        self.refused_filters = sum(code.is_failure for code in codes)
        self.subscribed.set()

    def _on_disconnect(
        self, _: Client, __: object, ___: DisconnectFlags, code: ReasonCode, ____: Properties | None
    ) -> None:
        self._end(str(code))

    def _on_message(self, _: Client, __: object, message: MQTTMessage) -> None:
        prefix = self._url.prefix
        if message.topic.startswith(prefix):
            self._tell_message(
                Message(message.topic[len(prefix) :], bytes(message.payload), message.qos, message.retain)
            )

    def _end(self, reason: str) -> None:
        if self.ended.is_set():
            return
        if not self.said_no:
            self.reason = reason
        self.ended.set()
        self._tell_ended()
        self.answered.set()
        self.subscribed.set()


def _without_delay(_: Client, __: object, found: object) -> None:
    """Send small packets at once: an acknowledgement held back by Nagle's algorithm costs the next message 40 ms."""
    if isinstance(found, socket.socket):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(client: Client, _: object, __: int, ___: ReasonCode, ____: Properties) -> None:
    """Have the kernel confirm a PUBACK now: until then a broker under Nagle's algorithm holds its next message back, 40 ms."""
    found = client.socket()
    if isinstance(found, socket.socket):
        with contextlib.suppress(OSError):  # the connection has ended meanwhile
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
