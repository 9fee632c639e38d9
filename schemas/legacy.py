"""Supervision's JSON view of a result: the same keys, the same types, for programs that already read it."""

from typing import Any

from pydantic import ValidationError

from schemas.command import SpeedtestSpec
from schemas.iperf import option_text
from schemas.result import DirectionResult, Result


def _two_decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ping(result: Result) -> dict[str, float] | str:
    """{min, avg, max} in ms, "" if it was not asked for, "error" if it brought no times."""
    if result.ping is None and "ping" not in result.errors:
        return ""
    found = result.ping
    if found is None or found.min is None or found.avg is None or found.max is None:
        return "error"
    return {"min": found.min, "avg": found.avg, "max": found.max}


def _direction(found: DirectionResult | None) -> dict[str, Any] | str:
    if found is None:
        return ""
    if found.status == "error" or found.result is None:
        return {"status": "error", "message": found.message or "", "json": found.json_ or ""}
    return {
        "status": "success",
        "result": {"min": found.result.min, "avg": found.result.avg, "max": found.result.max},
        "json": found.json_ or "",
    }


def _options(result: Result) -> str:
    if not result.speedtest_option:
        return ""
    try:
        return option_text(SpeedtestSpec.model_validate(result.speedtest_option))
    except ValidationError:  # options of a newer probe
        return ""


def legacy_view(result: Result) -> dict[str, Any]:
    """Return `result` as Supervision's JSON view: jitter and mos are strings, "" is absent, id is 0 for an autotest."""
    loss, speed = result.packet_loss, result.speedtest
    return {
        "version": result.version,
        "type": "result",
        "id": 0 if result.autotest_id is not None else (result.number or 0),
        "probe_name": result.probe_name,
        "ping": _ping(result),
        "jitter": _two_decimals(result.jitter),
        "packet_loss": ""
        if loss is None
        else {"packet_number": loss.packet_number, "packet_percent": loss.packet_percent},
        "mos": _two_decimals(result.mos),
        "packet_number": "" if result.packet_number is None else result.packet_number,
        "packet_timeout": "" if result.packet_timeout is None else result.packet_timeout,
        "speedtest": ""
        if speed is None
        else {"download": _direction(speed.download), "upload": _direction(speed.upload)},
        "speedtest_option": _options(result),
        "comment": result.comment,
        "influxdb": result.influxdb,
        "status": "done" if result.status == "done" else "error",
    }
