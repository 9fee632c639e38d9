"""What to say of a field that does not hold: one sentence a field, shared by form, request, command line and probe."""

from typing import Any, Final

from pydantic import ValidationError

from schemas import limits as lim


def _between(low: float, high: float, unit: str = "") -> str:
    return f"from {low:,} to {high:,}{' ' + unit if unit else ''}".replace(",", "\N{NO-BREAK SPACE}")


# By the last part of the field's path: the same field reads the same wherever it stands.
_SENTENCES: Final[dict[str, str]] = {
    "probe": "choose a probe: letters, digits, - and _, at most 64",
    "name": "a name of 1 to 64 characters",
    "comment": f"at most {lim.COMMENT_MAX_CHARS} characters, none of them control characters",
    "count": f"a whole number {_between(lim.PING_COUNT_MIN, lim.PING_COUNT_MAX)}",
    "timeout_s": f"a number {_between(lim.PING_TIMEOUT_MIN_S, lim.PING_TIMEOUT_MAX_S, 's')}",
    "interval_ms": f"a whole number {_between(lim.PING_INTERVAL_MIN_MS, lim.PING_INTERVAL_MAX_MS, 'ms')}",
    "size": f"a whole number {_between(lim.PING_SIZE_MIN_BYTES, lim.PING_SIZE_MAX_BYTES, 'bytes')}",
    "family": "4, 6 or nothing",
    "source": "an address or the name of an interface of the probe",
    "dscp": "a whole number from 0 to 63",
    "port": "a whole number from 1 to 65535",
    "direction": "both, download or upload",
    "duration_s": f"a whole number {_between(1, lim.SPEEDTEST_DURATION_MAX_S, 's')}",
    "streams": f"a whole number {_between(1, lim.SPEEDTEST_STREAMS_MAX)}",
    "protocol": "tcp or udp",
    "omit_s": f"a whole number {_between(0, lim.SPEEDTEST_OMIT_MAX_S, 's')}",
    "bitrate": f"a whole number {_between(lim.SPEEDTEST_BITRATE_MIN_BPS, lim.SPEEDTEST_BITRATE_MAX_BPS, 'bit/s')}",
    "window": f"a whole number {_between(lim.SPEEDTEST_WINDOW_MIN_BYTES, lim.SPEEDTEST_WINDOW_MAX_BYTES, 'bytes')}",
    "mss": f"a whole number {_between(lim.SPEEDTEST_MSS_MIN_BYTES, lim.SPEEDTEST_MSS_MAX_BYTES, 'bytes')}",
    "congestion": "the name of a TCP congestion control, such as cubic or bbr",
    "busy_retries": f"a whole number {_between(0, lim.SPEEDTEST_BUSY_RETRIES_MAX)}",
    "ttl_s": f"a whole number {_between(lim.TTL_MIN_S, lim.TTL_MAX_S, 's')}",
    "period_s": f"a whole number {_between(lim.AUTOTEST_PERIOD_MIN_S, lim.AUTOTEST_PERIOD_MAX_S, 's')}",
    "state": "one of waiting, queued, accepted, running, done, error, cancelled, rejected, expired and lost",
    "rows": f"a whole number {_between(1, lim.PAGE_ROWS_MAX)}",
    "id": "8 to 64 letters, digits, - and _",
    "test": "8 to 64 letters, digits, - and _",
    "number": "a whole number from 1",
    "issued_at": "a time with its zone, such as 2026-11-23T20:15:04.123Z",
    "origin": "a short word in small letters",
}


def _text(detail: Any, path: tuple[str, ...]) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind == "missing":
        return "this field is needed"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "json_invalid":
        return "this is not JSON"
    return _SENTENCES.get(path[-1] if path else "", str(detail["msg"]))


def faults(exc: ValidationError) -> dict[str, str]:
    """Return every field at fault, dotted ("ping.count"), with its sentence; "" is the message as a whole."""
    found: dict[str, str] = {}
    for detail in exc.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in detail["loc"])
        found.setdefault(".".join(path), _text(detail, path))
    return found
