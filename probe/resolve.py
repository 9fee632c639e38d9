"""Names to addresses, with a time-out: getaddrinfo itself may block for tens of seconds on a dead name server."""

import ipaddress
import logging
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

from schemas.errors import Failure

Family = Literal[4, 6]

RESOLVE_TIMEOUT_S: Final = 5.0

Lookup = Callable[..., list[tuple[Any, ...]]]
"""Any: the shape of socket.getaddrinfo."""

_FAMILIES: Final = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_log = logging.getLogger(__name__)


def literal(host: str) -> str | None:
    """Return `host` as a canonical address if it is one (an IPv4-mapped IPv6 address as the IPv4 it means), else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def family_of(address: str) -> Family:
    """Return the IP version of a literal address."""
    return 6 if ipaddress.ip_address(address).version == 6 else 4  # noqa: PLR2004 - it is the version


def _answer(host: str, family: int | None, lookup: Lookup) -> str | Failure:
    try:
        found = lookup(host, None, _FAMILIES[family], socket.SOCK_DGRAM)
    except socket.gaierror as exc:
        return Failure("dns_failed", host=host, reason=exc.strerror or str(exc))
    except UnicodeError:
        return Failure("dns_failed", host=host, reason="it is not a valid name")
    except OSError as exc:
        return Failure("dns_failed", host=host, reason=exc.strerror or str(exc))
    for *_, where in found:
        address = literal(str(where[0]))
        if address is not None:
            return address
    return Failure("dns_failed", host=host, reason="the answer holds no address")


def resolve(
    host: str, family: int | None = None, *, timeout_s: float = RESOLVE_TIMEOUT_S, lookup: Lookup = socket.getaddrinfo
) -> str:
    """Return the first address of `host`, of IP version `family` if one is given; a literal address passes through.

    The address is not checked against any limit: probe.limits.check_address does that.

    Raises:
        Failure: dns_failed, dns_timeout.
    """
    address = literal(host)
    if address is not None:
        if family is not None and family_of(address) != family:
            raise Failure("dns_failed", host=host, reason=f"it is not an IPv{family} address")
        return address
    answers: queue.SimpleQueue[str | Failure] = queue.SimpleQueue()

    def ask() -> None:
        answers.put(_answer(host, family, lookup))

    # A daemon: nothing can interrupt getaddrinfo, and it must hold up neither the test nor the end of the process.
    threading.Thread(target=ask, name=f"resolve {host}"[:40], daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        _log.info("no answer about %s within %g s", host, timeout_s)
        raise Failure("dns_timeout", host=host, seconds=f"{timeout_s:g}") from None
    if isinstance(answer, Failure):
        raise answer
    return answer
