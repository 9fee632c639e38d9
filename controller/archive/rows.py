"""Messages to rows and back. Pure functions."""

import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pydantic_core
from sqlalchemy import RowMapping

from schemas import limits
from schemas.command import TestParts
from schemas.errors import ErrorInfo
from schemas.request import TestSummary
from schemas.result import DirectionResult, Result

FUTURE_MAX: Final = timedelta(days=1)
"""A result from further ahead than this has a wrong clock."""
ERROR_TEXT_MAX: Final = 500
SUMMARY_FIELDS: Final = tuple(set(TestSummary.model_fields) - {"error"})

# Any: a row's values by column.
Values = dict[str, Any]


@dataclass(frozen=True)
class Documents:
    """What is stored of a result apart from its row; `raw` is iperf3's own JSON by direction, compressed, or None."""

    result: str
    raw: bytes | None


def speedtest_target(host: str, port: int) -> str:
    """Return host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(value: str, most: int) -> str:
    """Return a probe's text as a database takes it: no NUL, not endless."""
    return value.replace("\0", "")[:most]


def fold(value: str) -> str:
    """Return `value` as the filters compare it."""
    return plain(value, 2 * limits.HOST_MAX_CHARS + limits.COMMENT_MAX_CHARS).casefold()


def hosts(ping: str | None, speedtest: str | None) -> Values:
    """Return the columns of the targets; `speedtest` is host:port."""
    ping, speedtest = (None if value is None else plain(value, 320) for value in (ping, speedtest))
    found = [value for value in (ping, speedtest) if value]
    return {"ping_target": ping, "speedtest_target": speedtest, "hosts_folded": fold("\n".join(found))}


def of_comment(comment: str) -> Values:
    """Return the columns of a comment."""
    comment = plain(comment, limits.COMMENT_MAX_CHARS)
    return {"comment": comment, "comment_folded": fold(comment)}


def of_parts(parts: TestParts) -> Values:
    """Return the columns that tell what is asked for."""
    ping, speed = parts.ping, parts.speedtest
    return hosts(ping.target if ping else None, speedtest_target(speed.target, speed.port) if speed else None)


def of_error(info: ErrorInfo | None) -> str | None:
    """Return an error as its column holds it, its texts bounded."""
    if info is None:
        return None
    short = ErrorInfo(
        code=plain(info.code, 64), message=plain(info.message, ERROR_TEXT_MAX), hint=plain(info.hint, ERROR_TEXT_MAX)
    )
    return short.model_dump_json()


def _rate(found: DirectionResult | None) -> float | None:
    return found.result.avg if found is not None and found.status == "success" and found.result else None


def of_result(result: Result, now: datetime) -> Values:
    """Return the columns that a result fills. A start in the future is put at `now`."""
    speed, loss = result.speedtest, result.packet_loss
    measured_at = min(result.measured_at, now) if clock_is_wrong(result, now) else result.measured_at
    columns: Values = {
        "state": result.status,
        "silent": False,
        "has_result": True,
        "autotest_id": None if result.autotest_id is None else plain(result.autotest_id, 64),
        "measured_at": measured_at,
        "ended_at": _end(measured_at, result.duration_s, now),
        "duration_s": result.duration_s,
        "deadline_at": None,
        "ping_avg": result.ping.avg if result.ping else None,
        "jitter": result.jitter,
        "loss_percent": loss.packet_percent if loss else None,
        "mos": result.mos,
        "download": _rate(speed.download) if speed else None,
        "upload": _rate(speed.upload) if speed else None,
        "error": of_error(next(iter(result.errors.values()), None)),
    }
    if result.target is not None or speed is not None:
        columns |= hosts(
            result.target.host if result.target else None,
            speedtest_target(speed.target.host, speed.target.port) if speed else None,
        )
    return columns


def clock_is_wrong(result: Result, now: datetime) -> bool:
    """Tell whether a result claims to come from the future."""
    return result.measured_at - now > FUTURE_MAX


def _end(start: datetime, duration_s: float, now: datetime) -> datetime:
    """Return when a test ended; durations of centuries end now."""
    longest_s = (datetime.max.replace(tzinfo=UTC) - start).total_seconds()
    return start + timedelta(seconds=duration_s) if duration_s < longest_s else now


def split(result: Result) -> Documents:
    """Return a result as it is stored."""
    raw: dict[str, Any] = {}
    speed = result.speedtest
    if speed is not None:
        changes: dict[str, DirectionResult] = {}
        for name in ("download", "upload"):
            found: DirectionResult | None = getattr(speed, name)
            if found is not None and found.json_ is not None:
                raw[name] = found.json_
                changes[name] = found.model_copy(update={"json_": None})
        result = result.model_copy(update={"speedtest": speed.model_copy(update=changes)})
    body = zlib.compress(pydantic_core.to_json(raw)) if raw else None
    # NUL is legal in JSON only as an escape, so the document has none.
    return Documents(result.model_dump_json(), body)


def join(result: str, raw: bytes | None, comment: str) -> Result:
    """Return a stored result with its raw documents and its present comment."""
    found = Result.model_validate_json(result).model_copy(update={"comment": comment})
    if raw is None or found.speedtest is None:
        return found
    documents: dict[str, Any] = json.loads(zlib.decompress(raw))
    changes = {
        name: getattr(found.speedtest, name).model_copy(update={"json_": document})
        for name, document in documents.items()
        if getattr(found.speedtest, name, None) is not None
    }
    return found.model_copy(update={"speedtest": found.speedtest.model_copy(update=changes)})


def summary(row: RowMapping) -> TestSummary:
    """Return a row of the archive as the list shows it."""
    values = {name: row[name] for name in SUMMARY_FIELDS}
    error = ErrorInfo.model_validate_json(row["error"]) if row["error"] else None
    return TestSummary.model_validate({**values, "error": error})
