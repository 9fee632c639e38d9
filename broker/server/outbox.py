"""What waits for one client, what was sent to it and is not acknowledged, and in which order it goes out."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from broker.server import codec
from broker.server.counters import Counters
from broker.server.limits import Limits
from broker.server.packets import Kind, Message

PACKET_ID_MAX: Final = 65_535


@dataclass(slots=True)
class Delivery:
    """One message on its way to one client."""

    message: Message
    qos: int
    retain: bool = False
    released: bool = False
    """QoS 2: the client has the message (PUBREC) and only the handshake is left."""


class Outbox:
    """The outgoing side of a session: a bounded queue, a window of unacknowledged messages, and redelivery.

    Order: what a former connection left unacknowledged; retained messages of new subscriptions; live messages. Retained ones
    go first so that an older value never follows a newer one. They are lent from the retained table, cost no memory of
    their own and are therefore not cut.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._live: deque[Delivery] = deque()
        self._live_bytes = 0
        self._retained: dict[str, deque[Delivery]] = {}
        self._inflight: dict[int, Delivery] = {}
        self._resend: deque[int] = deque()
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._live) + sum(map(len, self._retained.values())) + len(self._inflight)

    # --- in -------------------------------------------------------------------------------------------------------
    def offer(self, message: Message, qos: int) -> None:
        """Queue a live message. A full queue drops this one if it is QoS 0, else the oldest; both are counted."""
        size = len(message.payload)
        limits = self._limits
        if qos == 0 and (len(self._live) >= limits.max_pending or self._live_bytes + size > limits.max_queued_bytes):
            self._counters.dropped_qos0 += 1
            return
        while self._live and (
            len(self._live) >= limits.max_offline or self._live_bytes + size > limits.max_queued_bytes
        ):
            self._forget_oldest()
        self._live.append(Delivery(message, qos))
        self._live_bytes += size

    def offer_retained(self, topic_filter: str, deliveries: Iterable[Delivery]) -> None:
        """Queue the retained messages of a subscription; the same filter again starts over."""
        self._retained.pop(topic_filter, None)
        if waiting := deque(deliveries):
            self._retained[topic_filter] = waiting

    def withdraw_retained(self, topic_filter: str) -> None:
        """The subscription is gone before its retained messages went out."""
        self._retained.pop(topic_filter, None)

    def _forget_oldest(self) -> None:
        oldest = self._live.popleft()
        self._live_bytes -= len(oldest.message.payload)
        if oldest.qos:
            self._counters.dropped_offline += 1
        else:
            self._counters.dropped_qos0 += 1

    # --- out ------------------------------------------------------------------------------------------------------
    def take(self, max_bytes: int) -> bytes:
        """The packets to send next, about `max_bytes` of them; empty when nothing waits or the window is full."""
        parts: list[bytes] = []
        size = 0
        while size < max_bytes and (packet := self._next()) is not None:
            parts.append(packet)
            size += len(packet)
        return b"".join(parts)

    def _next(self) -> bytes | None:
        if self._resend:
            packet_id = self._resend.popleft()
            return self._encode(packet_id, self._inflight[packet_id], duplicate=True)
        delivery = self._peek()
        if delivery is None or (delivery.qos and len(self._inflight) >= self._limits.max_inflight):
            return None
        self._pop()
        packet_id = 0
        if delivery.qos:
            packet_id = self._free_id()
            self._inflight[packet_id] = delivery
        return self._encode(packet_id, delivery, duplicate=False)

    def _peek(self) -> Delivery | None:
        for waiting in self._retained.values():
            return waiting[0]
        return self._live[0] if self._live else None

    def _pop(self) -> None:
        for topic_filter, waiting in self._retained.items():
            waiting.popleft()
            if not waiting:
                del self._retained[topic_filter]
            return
        self._live_bytes -= len(self._live.popleft().message.payload)

    def _encode(self, packet_id: int, delivery: Delivery, *, duplicate: bool) -> bytes:
        if delivery.released:
            return codec.acknowledge(Kind.PUBREL, packet_id)
        self._counters.delivered += 1
        return codec.publish(delivery.message, delivery.qos, packet_id, retain=delivery.retain, duplicate=duplicate)

    def _free_id(self) -> int:
        # The window is far smaller than the range, so a free id is always near.
        while True:
            self._last_id = self._last_id % PACKET_ID_MAX + 1
            if self._last_id not in self._inflight:
                return self._last_id

    # --- acknowledged ---------------------------------------------------------------------------------------------
    def acknowledged(self, kind: Kind, packet_id: int) -> bytes | None:
        """Take a PUBACK, PUBREC or PUBCOMP; returns the PUBREL to answer a PUBREC with. Unknown ids are left alone."""
        delivery = self._inflight.get(packet_id)
        if kind is Kind.PUBREC:
            if delivery is not None and delivery.qos == 2:  # noqa: PLR2004 - exactly once
                delivery.released = True
            return codec.acknowledge(Kind.PUBREL, packet_id)
        if delivery is not None and (delivery.qos == 1) == (kind is Kind.PUBACK):
            del self._inflight[packet_id]
            if packet_id in self._resend:
                self._resend.remove(packet_id)
        return None

    # --- between two connections ----------------------------------------------------------------------------------
    def pause(self) -> None:
        """The client is gone: QoS 0 does not wait for it."""
        self._live = deque(delivery for delivery in self._live if delivery.qos)
        self._live_bytes = sum(len(delivery.message.payload) for delivery in self._live)
        kept = {name: deque(d for d in waiting if d.qos) for name, waiting in self._retained.items()}
        self._retained = {name: waiting for name, waiting in kept.items() if waiting}

    def resume(self) -> None:
        """The client is back: what it did not acknowledge goes first, in the old order (MQTT-4.4.0-1, MQTT-4.6.0-1)."""
        self._resend = deque(self._inflight)
