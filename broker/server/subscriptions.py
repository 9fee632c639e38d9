"""Who wants which topic: literal filters are looked up, only wildcards are searched."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from broker.server.topics import Levels, is_wildcard, matches, split

S = TypeVar("S", bound=Hashable)


class SubscriptionIndex(Generic[S]):
    """Subscribers by filter. Most of a fabric's filters are literal, so routing does not grow with the number of probes."""

    def __init__(self) -> None:
        self._literal: dict[str, dict[S, int]] = {}
        self._wildcard: dict[str, tuple[Levels, dict[S, int]]] = {}
        self._filters: dict[S, set[str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._filters.values()))

    def filters(self, subscriber: S) -> frozenset[str]:
        """The filters one subscriber holds."""
        return frozenset(self._filters.get(subscriber, ()))

    def add(self, topic_filter: str, subscriber: S, qos: int) -> None:
        """Subscribe; the same filter again replaces its QoS (MQTT-3.8.4-3)."""
        if is_wildcard(topic_filter):
            _, holders = self._wildcard.setdefault(topic_filter, (split(topic_filter), {}))
        else:
            holders = self._literal.setdefault(topic_filter, {})
        holders[subscriber] = qos
        self._filters.setdefault(subscriber, set()).add(topic_filter)

    def remove(self, topic_filter: str, subscriber: S) -> None:
        """Unsubscribe; a filter that is not held changes nothing."""
        held = self._filters.get(subscriber)
        if held is None or topic_filter not in held:
            return
        held.discard(topic_filter)
        if not held:
            del self._filters[subscriber]
        if is_wildcard(topic_filter):
            holders = self._wildcard[topic_filter][1]
            del holders[subscriber]
            if not holders:
                del self._wildcard[topic_filter]
        else:
            holders = self._literal[topic_filter]
            del holders[subscriber]
            if not holders:
                del self._literal[topic_filter]

    def drop(self, subscriber: S) -> None:
        """Remove all of one subscriber's filters."""
        for topic_filter in self.filters(subscriber):
            self.remove(topic_filter, subscriber)

    def matching(self, topic: str) -> dict[S, int]:
        """Every subscriber to a topic, once, with the highest QoS of its overlapping filters (MQTT-3.3.5-1)."""
        found = dict(self._literal.get(topic, ()))
        if not self._wildcard:
            return found
        levels = split(topic)
        for wanted, holders in self._wildcard.values():
            if matches(wanted, levels):
                for subscriber, qos in holders.items():
                    found[subscriber] = max(qos, found.get(subscriber, 0))
        return found
