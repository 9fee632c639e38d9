"""How the embedded broker is set up."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from broker.server.errors import ListenRefusedError, SettingError
from broker.server.limits import Limits

PORT_MAX = 65_535


@dataclass(frozen=True)
class BrokerSettings:
    """Where to listen, what to keep, what to allow. Raises ListenRefusedError for anything but a loopback address."""

    host: str = "127.0.0.1"
    """A literal IPv4 or IPv6 loopback address, or "localhost" for 127.0.0.1."""
    port: int = 1883
    """0 takes any free port."""
    data_dir: Path | None = None
    """Where retained messages are kept over a restart; None keeps them in memory only."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not _is_loopback(self.address):
            raise ListenRefusedError(self.host)
        if not 0 <= self.port <= PORT_MAX:
            raise SettingError("port", f"{self.port} is not between 0 and {PORT_MAX}")

    @property
    def address(self) -> str:
        """The literal address: "localhost" may resolve to two, and port 0 would then mean two ports."""
        return "127.0.0.1" if self.host == "localhost" else self.host


def _is_loopback(host: str) -> bool:
    if "%" in host:  # a scope makes ::1 another address
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
