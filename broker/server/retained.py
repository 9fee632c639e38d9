"""The newest retained message of each topic."""

from broker.server.counters import Counters
from broker.server.limits import Limits
from broker.server.packets import Message
from broker.server.topics import is_wildcard, matches, split


class RetainedTable:
    """Retained messages by topic, bounded in number and bytes. `take_changed` feeds the store on disk."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._messages: dict[str, Message] = {}
        self._bytes = 0
        self._changed: set[str] = set()

    def load(self, messages: list[Message]) -> None:
        """Take what was stored, as far as it fits."""
        for message in messages:
            self.put(message)
        self._changed.clear()

    def put(self, message: Message) -> None:
        """Retain a message; an empty payload clears its topic. [MQTT-3.3.1-10] A full table keeps what it has; counted."""
        topic = message.topic
        old = self._messages.get(topic)
        if not message.payload:
            if old is not None:
                del self._messages[topic]
                self._account(topic, -len(old.payload))
            return
        grows = len(message.payload) - (len(old.payload) if old else 0)
        if self._bytes + grows > self._limits.max_retained_bytes or (
            old is None and len(self._messages) >= self._limits.max_retained
        ):
            self._counters.refused_retained += 1
            return
        self._messages[topic] = message
        self._account(topic, grows)

    def _account(self, topic: str, grows: int) -> None:
        self._bytes += grows
        self._changed.add(topic)
        self._counters.retained = len(self._messages)
        self._counters.retained_bytes = self._bytes

    def matching(self, topic_filter: str) -> list[Message]:
        """The retained messages that a new subscription is sent."""
        if not is_wildcard(topic_filter):
            found = self._messages.get(topic_filter)
            return [found] if found else []
        wanted = split(topic_filter)
        return [message for topic, message in self._messages.items() if matches(wanted, split(topic))]

    def take_changed(self) -> dict[str, Message | None]:
        """Topics changed since the last call, with their newest message, None where it was cleared."""
        changed = {topic: self._messages.get(topic) for topic in self._changed}
        self._changed.clear()
        return changed

    def put_back(self, topics: dict[str, Message | None]) -> None:
        """These could not be stored: the next `take_changed` names them again, with what is newest then."""
        self._changed.update(topics)
