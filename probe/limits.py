"""A probe's own limits: local, never widened from outside, shown in its status and in every result."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final

from netloom.settings import ProbeLimits
from schemas.command import PingSpec, RunCommand, SpeedtestSpec
from schemas.errors import Failure

__all__ = ["ProbeLimits", "check_address", "check_command", "granted"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Cloud metadata services hand out credentials to whoever asks from the machine itself.
METADATA: Final = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")))

_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_RESERVED: Final = ipaddress.ip_network("240.0.0.0/4")

_RULES: Final[dict[str, Callable[[Address], bool]]] = {
    "metadata": lambda address: address in METADATA,
    "loopback": lambda address: address.is_loopback,
    "link-local": lambda address: address.is_link_local,
    "multicast": lambda address: address.is_multicast,
    "broadcast": lambda address: str(address) == "255.255.255.255",
    "unspecified": lambda address: address.is_unspecified or address in _THIS_NETWORK,
    "reserved": lambda address: address in _RESERVED,
}


def _most(what: str, field: str, value: float, limit: float) -> None:
    if value > limit:
        raise Failure("limit_exceeded", field=field, what=what, value=value, limit=limit)


def _check_ping(ping: PingSpec, limits: ProbeLimits) -> None:
    _most("The packet count", "ping.count", ping.count, limits.ping_count)
    _most("The time-out (s)", "ping.timeout_s", ping.timeout_s, limits.ping_timeout_s)
    if ping.interval_ms < limits.ping_interval_min_ms:
        raise Failure(
            "limit_exceeded",
            field="ping.interval_ms",
            what="The interval (ms)",
            value=ping.interval_ms,
            limit=f"at least {limits.ping_interval_min_ms}",
        )


def _check_speedtest(speedtest: SpeedtestSpec, limits: ProbeLimits) -> None:

    _most("The duration (s)", "speedtest.duration_s", speedtest.duration_s, limits.speedtest_duration_s)
    _most("The number of streams", "speedtest.streams", speedtest.streams, limits.speedtest_streams)


def check_command(command: RunCommand, limits: ProbeLimits) -> None:
    """Raise Failure (limit_exceeded, with the field) if the command asks for more than this probe grants."""
    if command.ping is not None:
        _check_ping(command.ping, limits)
    if command.speedtest is not None:
        _check_speedtest(command.speedtest, limits)


def _is_broadcast(address: str) -> bool:
    """Ask the kernel whether `address` is the broadcast address of one of its networks; nothing is sent to find out."""
    with contextlib.suppress(ValueError, OSError):
        ipaddress.IPv4Address(address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            try:
                trial.connect((address, 9))
            except PermissionError:
                # A rule against the address stands with the option, too; a broadcast address is permitted by it.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                trial.connect((address, 9))
                return True
    return False


def check_address(host: str, address: str, limits: ProbeLimits) -> None:
    """Raise Failure (target_denied, naming the rule) if packets may not go to `address`, which `host` resolved to."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    for rule, holds in _RULES.items():
        if rule == "loopback" and limits.allow_loopback:
            continue
        if holds(mapped or parsed):
            raise Failure("target_denied", host=host, address=address, rule=rule)
    if _is_broadcast(str(mapped or parsed)):
        raise Failure("target_denied", host=host, address=address, rule="broadcast")


def granted(limits: ProbeLimits) -> dict[str, Any]:
    """Return the limits as a result and a status show them."""
    return limits.model_dump()
