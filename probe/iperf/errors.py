"""What a run's end means, in the words of the contract's catalogue.

libiperf tells two things: its own error's number, the same in every version, and a text that ends in the system's words for errno.
"""

import errno
import os
from typing import Final

from probe.iperf import runner
from probe.iperf.events import Report
from schemas.errors import ErrorInfo, error

# libiperf's i_errno (iperf_api.h).
CONNECT: Final = 103
CONTROL_CLOSED: Final = 109
UNKNOWN_MESSAGE: Final = 110
SERVER_TERMINATED: Final = 120
BUSY: Final = 121
IDLE: Final = 144
CONTROL: Final = frozenset({105, 107, 108, CONTROL_CLOSED, 111, 112, 113, 116, 117})
"""Sending to or reading from the control connection failed."""
STREAM: Final = frozenset({203, 205, 206, 207})
"""A data connection could not be made, or broke."""
TIMED_OUT: Final = frozenset({errno.ETIMEDOUT, errno.EINPROGRESS, errno.EAGAIN})
REASON_MAX_CHARS: Final = 160


def failure(report: Report, host: str, port: int, *, tries: int = 1) -> ErrorInfo | None:
    """Return why a run brought no figures; None if libiperf ended without an error (its document has still to hold)."""
    if report.ending == "finished":
        return _by_code(report, host, port, tries)
    if report.ending == "cancelled":
        return error("cancelled")
    if report.ending == "missing":
        return error("iperf3_missing", reason=_reason(report))
    if report.ending == "died":
        return error("measurement_failed", reason=_reason(report))
    if report.phase != "running":
        seconds = runner.DEADLINES.connect_s if report.phase == "connecting" else runner.DEADLINES.stall_s
        return error("target_timeout", host=host, port=port, seconds=seconds)
    reason = "no data moved any more" if report.ending == "stalled" else "the test did not end in time"
    return error("connection_lost", host=host, port=port, reason=reason)


def _by_code(report: Report, host: str, port: int, tries: int) -> ErrorInfo | None:
    code = report.code
    if code in (0, CONNECT):
        return _unconnected(report, host, port) if code else None
    if code == BUSY:
        return error("target_busy", host=host, port=port, tries=tries)
    if code == UNKNOWN_MESSAGE:
        return error("target_protocol_error", host=host, port=port, reason="its answer is no message of iperf3")
    if code in CONTROL and report.phase != "running":
        return error("target_protocol_error", host=host, port=port, reason=_reason(report))
    if code in CONTROL | STREAM | {SERVER_TERMINATED, IDLE}:
        return error("connection_lost", host=host, port=port, reason=_reason(report))
    return error("measurement_failed", reason=_reason(report))


def _unconnected(report: Report, host: str, port: int) -> ErrorInfo:
    number = system_error(report.text)
    if number == errno.ECONNREFUSED:
        return error("target_refused", host=host, port=port)
    if number == errno.ENETUNREACH:
        return error("network_unreachable", host=host)
    if number == errno.EHOSTUNREACH:
        return error("host_unreachable", router="The network", host=host)
    if number in TIMED_OUT:
        return error("target_timeout", host=host, port=port, seconds=runner.DEADLINES.connect_s)
    return error("measurement_failed", reason=_reason(report))


def system_error(text: str) -> int | None:
    """Return the errno whose words end libiperf's `text`, None if none do."""
    words = text.rpartition(": ")[2]
    return next((number for number in errno.errorcode if os.strerror(number) == words), None)


def _reason(report: Report) -> str:
    """Return libiperf's text as part of a sentence: short, printable, without a full stop of its own."""
    text = "".join(char if char.isprintable() else " " for char in report.text)
    return text.strip(" .:")[:REASON_MAX_CHARS] or "iperf3 does not say why"
