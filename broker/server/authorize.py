"""Who may do what: the one hook the embedded broker asks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from broker.server.counters import Counters

log = logging.getLogger(__name__)

_REMEMBERED_MAX: Final = 1_000


class Action(StrEnum):
    """What a client is about to do with a topic."""

    PUBLISH = "publish"
    """Send to this topic name; also asked for its last will, at CONNECT and again when the will is sent."""
    SUBSCRIBE = "subscribe"
    """Subscribe to this topic *filter*, wildcards and all."""
    RECEIVE = "receive"
    """Be sent a message with this topic name, live or retained."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who a client says it is, and where it comes from."""

    client_id: str
    username: str | None
    address: str
    """Remote IP address."""


Authorize: TypeAlias = Callable[[ClientIdentity, Action, str], bool]
"""Answers at once, from memory, and does not raise: it runs in the broker's event loop for every message."""


def allow_all(_client: ClientIdentity, _action: Action, _topic: str) -> bool:
    """Allow everything: right for a broker that only this machine can reach."""
    return True


class Gate:
    """Asks `authorize`, counts what it refuses, and logs the first refusal of each kind to each client."""

    def __init__(self, authorize: Authorize, counters: Counters) -> None:
        self._authorize = authorize
        self._counters = counters
        self._logged: set[tuple[str, Action]] = set()

    def may_receive(self, client: ClientIdentity, topic: str) -> bool:
        """Whether to send it a message of this topic. A wildcard may cover topics it may not see: that is no offence."""
        allowed = self._authorize(client, Action.RECEIVE, topic)
        if not allowed:
            self._counters.withheld += 1
        return allowed

    def may_publish(self, client: ClientIdentity, topic: str) -> bool:
        """Whether it may publish here. Names with a leading `$` are the broker's own (MQTT-4.7.2-1)."""
        if not topic.startswith("$") and self._authorize(client, Action.PUBLISH, topic):
            return True
        self._refuse(client, Action.PUBLISH, topic)
        return False

    def may_subscribe(self, client: ClientIdentity, topic_filter: str) -> bool:
        """Whether it may subscribe to this filter."""
        if self._authorize(client, Action.SUBSCRIBE, topic_filter):
            return True
        self._refuse(client, Action.SUBSCRIBE, topic_filter)
        return False

    def _refuse(self, client: ClientIdentity, action: Action, topic: str) -> None:
        self._counters.denied += 1
        key = (client.client_id, action)
        if key in self._logged:
            return
        if len(self._logged) >= _REMEMBERED_MAX:  # client ids are the clients' choice
            self._logged.clear()
        self._logged.add(key)
        log.info("%r (%s) may not %s %r", client.client_id, client.address, action, topic)
