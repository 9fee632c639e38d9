"""From a publisher to every subscriber: rights, retained table and queues."""

from broker.server.authorize import ClientIdentity, Gate
from broker.server.counters import Counters
from broker.server.limits import Limits
from broker.server.outbox import Delivery
from broker.server.packets import SUBSCRIPTION_REFUSED, Message
from broker.server.retained import RetainedTable
from broker.server.sessions import Session
from broker.server.subscriptions import SubscriptionIndex
from broker.server.topics import valid_filter

SHARED_PREFIX = "$share/"


class Router:
    """Routes at once and without waiting: a message is in every queue before the next one is read."""

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        gate: Gate,
        index: SubscriptionIndex[Session],
        retained: RetainedTable,
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._gate = gate
        self._index = index
        self._retained = retained

    def publish(self, client: ClientIdentity, message: Message, *, retain: bool) -> None:
        """Deliver to all who may receive it, and keep it if it is to be retained; nothing if `client` may not publish."""
        self._counters.received += 1
        if not self._gate.may_publish(client, message.topic):
            return
        if retain:
            self._retained.put(message)
        for session, granted in self._index.matching(message.topic).items():
            qos = min(message.qos, granted)
            if session.wire is None and not qos:
                continue
            if self._gate.may_receive(session.identity, message.topic):
                session.outbox.offer(message, qos)
                if session.wire is not None:
                    session.wire.wake()

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """Subscribe and queue the retained messages. Returns the QoS granted, or 0x80."""
        held = self._index.filters(session)
        if (
            not valid_filter(topic_filter)
            or topic_filter.startswith(SHARED_PREFIX)  # to grant it and share nothing would be a lie
            or (topic_filter not in held and len(held) >= self._limits.max_subscriptions)
        ):
            self._counters.refused_subscriptions += 1
            return SUBSCRIPTION_REFUSED
        if not self._gate.may_subscribe(session.identity, topic_filter):
            return SUBSCRIPTION_REFUSED
        self._index.add(topic_filter, session, qos)
        self._counters.subscriptions = len(self._index)
        session.outbox.offer_retained(
            topic_filter,
            (
                Delivery(message, min(message.qos, qos), retain=True)
                for message in self._retained.matching(topic_filter)
                if self._gate.may_receive(session.identity, message.topic)
            ),
        )
        return qos

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Unsubscribe; what was queued before is still delivered, retained messages that wait are not."""
        self._index.remove(topic_filter, session)
        session.outbox.withdraw_retained(topic_filter)
        self._counters.subscriptions = len(self._index)
