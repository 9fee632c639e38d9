"""The form that starts a test: Supervision's fields, ranges and defaults, and iperf3's options as fields of their own."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from netloom.ids import new_id
from schemas import codec
from schemas import limits as lim
from schemas.command import PingSpec, SpeedtestSpec, TestParts
from schemas.request import Target, TestStart
from web.fields import Fault, Reader

DEFAULTS: Final[dict[str, str]] = {
    "id": "",
    "probe": "",
    "standard_test": "yes",
    "ping_target": "",
    "ping_host": "",
    "packet_number": str(lim.PING_COUNT_DEFAULT),
    "packet_timeout": str(lim.FORM_PING_TIMEOUT_DEFAULT_S),
    "speedtest": "yes",
    "direction": "both",
    "speedtest_target": "",
    "speedtest_host": "",
    "speedtest_port": str(lim.SPEEDTEST_PORT_DEFAULT),
    "duration_s": str(lim.SPEEDTEST_DURATION_DEFAULT_S),
    "streams": "1",
    "protocol": "tcp",
    "bitrate": "",
    "omit_s": "0",
    "window": "",
    "mss": "",
    "congestion": "",
    "dscp": "",
    "comment": "",
}
OPTIONS: Final = ("duration_s", "streams", "protocol", "bitrate", "omit_s", "window", "mss", "congestion", "dscp")
"""iperf3's options: folded away until one of them matters."""
_MBIT: Final = 1_000_000
_KIB: Final = 1_024

# Where on the form a field of the request stands; the rest have the same name.
_PLACES: Final = {
    "ping": "ping_host",
    "ping.target": "ping_host",
    "ping.count": "packet_number",
    "ping.timeout_s": "packet_timeout",
    "speedtest": "speedtest_host",
    "speedtest.target": "speedtest_host",
    "speedtest.port": "speedtest_port",
}


def fresh(probe: str = "", parts: TestParts | None = None, comment: str = "") -> dict[str, str]:
    """Return the form's values to begin with, those of `parts` if a test is to be run again."""
    values = {**DEFAULTS, "id": new_id(), "probe": probe, "comment": comment}
    if parts is not None:
        values["standard_test"] = "yes" if parts.ping else ""
        values["speedtest"] = "yes" if parts.speedtest else ""
        if parts.ping is not None:
            values |= _of_ping(parts.ping)
        if parts.speedtest is not None:
            values |= _of_speedtest(parts.speedtest)
    return values


def _of_ping(spec: PingSpec) -> dict[str, str]:
    return {"ping_host": spec.target, "packet_number": str(spec.count), "packet_timeout": f"{spec.timeout_s:g}"}


def _of_speedtest(spec: SpeedtestSpec) -> dict[str, str]:
    found = {"speedtest_host": spec.target, "speedtest_port": str(spec.port), "direction": spec.direction}
    for name in OPTIONS:
        value = getattr(spec, name)
        found[name] = "" if value is None else str(value)
    if spec.bitrate is not None:
        found["bitrate"] = f"{spec.bitrate / _MBIT:.6f}".rstrip("0").rstrip(".")
    if spec.window is not None:
        found["window"] = str(max(1, spec.window // _KIB))
    return found


def read(form: Mapping[str, Iterable[str]], targets: tuple[Target, ...]) -> dict[str, Any]:
    """Return the fields of `test.start`. Raise Fault with a sentence for each field at fault."""
    reader = Reader(form, DEFAULTS)
    fields: dict[str, Any] = {"probe": reader.text("probe"), "origin": "web", "comment": reader.prose("comment")}
    standard, speed = reader.flag("standard_test"), reader.flag("speedtest")
    if not standard and not speed:
        reader.fault("standard_test", "choose a standard test, a speedtest or both")
    if standard:
        fields["ping"] = _ping(reader, targets)
    if speed:
        fields["speedtest"] = _speedtest(reader, targets)
    if not fields["probe"]:
        reader.fault("probe", "choose a probe")
    reader.finish()
    fields["id"] = _request_id(reader)
    try:
        codec.validate(TestStart, fields)
    except codec.Invalid as exc:
        raise Fault(reader.values, places(exc.fields)) from None
    return fields


def places(fields: Mapping[str, str]) -> dict[str, str]:
    """Return sentences by field of the request as sentences by field of the form."""
    return {_PLACES.get(path, path.rpartition(".")[2]): text for path, text in fields.items()}


def _ping(reader: Reader, targets: tuple[Target, ...]) -> dict[str, Any]:
    host, _ = reader.target("ping_target", "ping_host", [t for t in targets if t.standard_test])
    return {
        "target": host,
        "count": reader.whole("packet_number", lim.FORM_PING_COUNT_MIN, lim.PING_COUNT_MAX),
        "timeout_s": reader.whole("packet_timeout", lim.FORM_PING_TIMEOUT_MIN_S, lim.FORM_PING_TIMEOUT_MAX_S, "s"),
    }


def _speedtest(reader: Reader, targets: tuple[Target, ...]) -> dict[str, Any]:
    host, saved = reader.target("speedtest_target", "speedtest_host", [t for t in targets if t.speedtest])
    found: dict[str, Any] = {
        "target": host,
        "port": saved.port if saved else reader.whole("speedtest_port", 1, 65_535),
        "direction": reader.choice("direction", ("both", "download", "upload")),
        "duration_s": reader.whole("duration_s", 1, lim.SPEEDTEST_DURATION_MAX_S, "s"),
        "streams": reader.whole("streams", 1, lim.SPEEDTEST_STREAMS_MAX),
        "protocol": reader.choice("protocol", ("tcp", "udp")),
        "omit_s": reader.whole("omit_s", 0, lim.SPEEDTEST_OMIT_MAX_S, "s"),
        "mss": reader.whole_or_none("mss", lim.SPEEDTEST_MSS_MIN_BYTES, lim.SPEEDTEST_MSS_MAX_BYTES, "bytes"),
        "congestion": reader.word("congestion", "the name of a TCP congestion control, such as cubic or bbr"),
        "dscp": reader.whole_or_none("dscp", 0, 63),
    }
    low, high = lim.SPEEDTEST_BITRATE_MIN_BPS / _MBIT, lim.SPEEDTEST_BITRATE_MAX_BPS // _MBIT
    found["bitrate"] = reader.scaled_or_none("bitrate", low, high, _MBIT, "Mbit/s")
    window = reader.whole_or_none(
        "window", lim.SPEEDTEST_WINDOW_MIN_BYTES // _KIB, lim.SPEEDTEST_WINDOW_MAX_BYTES // _KIB, "KiB"
    )
    found["window"] = None if window is None else window * _KIB
    if found["protocol"] == "udp":
        for name in ("mss", "congestion"):
            if found[name] is not None:
                reader.fault(name, "this is an option of TCP and does not go with UDP: leave it empty")
    return found


def _request_id(reader: Reader) -> str:
    """Return the id the form carries, bound to what was typed: a second click is the same wish, a changed form a new one."""
    given = reader.values["id"] or new_id()
    typed = "\0".join(f"{name}={value}" for name, value in sorted(reader.values.items()))
    return f"{given}-{hashlib.sha256(typed.encode()).hexdigest()[:16]}"
