"""Why a packet was lost, from what routers and the kernel say: ICMP types (RFC 792, 1812, 4443) and errno values."""

import errno
from typing import Final

from probe.icmp.model import Complaint, Reason
from probe.resolve import Family

_V4_UNREACHABLE, _V4_TIME_EXCEEDED = 3, 11
_V4_TOO_BIG: Final = 4
_V4_PROHIBITED: Final = frozenset((9, 10, 13))

_V6_UNREACHABLE, _V6_TOO_BIG, _V6_TIME_EXCEEDED = 1, 2, 3
# By policy: prohibited, source address failed policy, reject route.
_V6_PROHIBITED: Final = frozenset((1, 5, 6))

_NO_ROUTE: Final = frozenset((errno.ENETUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV))
_NO_HOST: Final = frozenset((errno.EHOSTUNREACH, errno.EHOSTDOWN))
_FORBIDDEN: Final = frozenset((errno.EACCES, errno.EPERM))

HERE: Final = "This probe"
"""Who speaks, when it is not a router but the probe's own kernel."""


def reported(family: Family, complaint: Complaint) -> Reason | None:
    """Return what an ICMP error means for the packet it quotes; None if it does not say that the packet is lost."""
    code = _v4(complaint) if family == 4 else _v6(complaint)  # noqa: PLR2004 - it is the version
    return Reason(code, router=complaint.router) if code else None


def _v4(complaint: Complaint) -> str | None:
    if complaint.type == _V4_TIME_EXCEEDED:
        return "ttl_exceeded"
    if complaint.type != _V4_UNREACHABLE:
        return None
    if complaint.code == _V4_TOO_BIG:
        return "message_too_big"
    return "admin_prohibited" if complaint.code in _V4_PROHIBITED else "host_unreachable"


def _v6(complaint: Complaint) -> str | None:
    if complaint.type == _V6_TIME_EXCEEDED:
        return "ttl_exceeded"
    if complaint.type == _V6_TOO_BIG:
        return "message_too_big"
    if complaint.type != _V6_UNREACHABLE:
        return None
    return "admin_prohibited" if complaint.code in _V6_PROHIBITED else "host_unreachable"


def refused(error: OSError) -> Reason:
    """Return what the kernel's refusal to send means."""
    number, text = error.errno or 0, error.strerror or str(error)
    if number in _NO_ROUTE:
        return Reason("network_unreachable", text=text)
    if number in _NO_HOST:
        return Reason("host_unreachable", router=HERE, text=text)
    if number in _FORBIDDEN:
        return Reason("admin_prohibited", router=f"{HERE}'s own firewall or routing", text=text)
    if number == errno.EMSGSIZE:
        return Reason("message_too_big", router=HERE, text=text)
    return Reason("measurement_failed", text=text)
