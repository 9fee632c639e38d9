"""What the embedded broker has seen, for status pages and tests."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Gauges of the moment and counts since the start. `EmbeddedBroker.counters()` gives a copy."""

    # --- now
    connections: int = 0
    """Open TCP connections, those that have not sent a CONNECT yet included."""
    sessions: int = 0
    """Clients known, the absent ones with a persistent session included."""
    subscriptions: int = 0
    retained: int = 0
    retained_bytes: int = 0

    # --- since the start
    accepted: int = 0
    """CONNECTs that were accepted."""
    received: int = 0
    """Messages published by clients, wills included."""
    delivered: int = 0
    """Messages put on the wire to a subscriber, redeliveries included."""
    dropped_qos0: int = 0
    """QoS 0 messages a slow client never got."""
    dropped_offline: int = 0
    """QoS 1 and 2 messages pushed out of a client's full queue."""
    denied: int = 0
    """Publishes, subscriptions and wills that `authorize` refused, and publishes to a `$` topic."""
    withheld: int = 0
    """Messages kept from a subscriber because `authorize` does not let it receive their topic."""
    refused_subscriptions: int = 0
    """Filters answered with 0x80 because they were invalid, shared, or too many."""
    refused_retained: int = 0
    """Messages delivered but not retained, because the table was full."""
    evicted_sessions: int = 0
    """Absent clients forgotten: expired, or the longest absent when there were too many."""
    store_errors: int = 0
    """Times retained messages could not be written to disk; they are tried again."""

    # --- connections ended, by cause
    gone: int = 0
    malformed: int = 0
    too_big: int = 0
    connect_timeout: int = 0
    keep_alive: int = 0
    taken_over: int = 0
    refused: int = 0
    """Turned away at the door: too many connections, another protocol version, no client id, a will that is not allowed."""
