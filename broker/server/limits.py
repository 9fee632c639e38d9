"""What one client, and all of them together, may cost the embedded broker. Units are in the names."""

from dataclasses import dataclass, fields

from broker.server.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """Bounds of the embedded broker. Whatever is turned away at one of them is counted (see `Counters`)."""

    connect_timeout_s: float = 10.0
    """From the TCP connection to a complete, accepted CONNECT."""
    close_timeout_s: float = 0.5
    """How long a peer may take to read what is left before its connection is reset."""
    session_expiry_s: float = 86_400.0
    """How long the session of an absent client is kept."""
    max_connections: int = 5_000
    max_sessions: int = 10_000
    """Clients known, connected or not; the longest absent makes room."""
    max_packet_bytes: int = 320 * 1024
    """Longest packet taken; the largest message of the contract has 256 KiB."""
    max_subscriptions: int = 100
    """Filters of one client."""
    max_inflight: int = 100
    """QoS 1 and 2 messages sent to one client and not yet acknowledged."""
    max_pending: int = 500
    """Messages waiting for one client above which QoS 0 is dropped."""
    max_offline: int = 1_000
    """Messages waiting for one client, present or absent; beyond it the oldest goes."""
    max_queued_bytes: int = 8 * 1024 * 1024
    """Payload waiting for one client; beyond it the oldest goes."""
    max_ingress: int = 100
    """QoS 2 exchanges one client may leave open. Everything else is routed before the next packet is read."""
    max_retained: int = 50_000
    max_retained_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise SettingError(f"limits.{field.name}", "it must be more than 0")
