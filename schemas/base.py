"""What every message is made of: two kinds of model, and the few types they share."""

import ipaddress
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from schemas import limits

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_NUMERIC = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")


class Closed(BaseModel):
    """A message that asks for something: an unknown field is an error, for it would be a wish silently dropped."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Tolerant(BaseModel):
    """A message that reports something: unknown fields are kept, so that an older reader loses nothing."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


def _instant(value: Any) -> Any:
    """Accept ISO 8601 text in Python mode too; strict mode takes it only from JSON."""
    if not isinstance(value, str):
        return value
    return datetime.fromisoformat(value)


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        msg = "a time needs its zone: write it as 2026-11-23T20:15:04.123Z"
        raise ValueError(msg)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time from the years 1 to 9999, UTC") from None


def format_instant(value: datetime) -> str:
    """Return `value` as UTC ISO 8601 with milliseconds and `Z`."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    AfterValidator(_utc),
    PlainSerializer(format_instant, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A point in time, UTC; on the wire ISO 8601 with milliseconds and `Z`."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A probe's name: it is a topic level, so it is short and plain."""

TestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
"""The id of a command, its test and its result. Ours are UUIDv7; any other unique text of this shape is accepted."""

RequestId = TestId
"""The id of a request; the same id asks for the same thing, once."""

ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
"""An MQTT client id; ours are `<name>:<instance>`."""


def check_host(value: str) -> str:
    """Return `value` if it is an IPv4 or IPv6 address or a DNS name, else raise ValueError with a sentence.

    Other spellings of an address (`127.1`, `0x7f000001`, `2130706433`) are refused here: they read as names and act as addresses.
    """
    if not value:
        raise ValueError("a target is needed: an IPv4 or IPv6 address, or a host name")
    if not value.isascii():
        raise ValueError("use plain ASCII: an internationalised name in its xn-- form")
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        return value
    labels = value.removesuffix(".").split(".")
    if len(value) > limits.HOST_MAX_CHARS or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"'{value[:80]}' is neither an IP address nor a host name")
    if _NUMERIC.match(labels[-1]):
        raise ValueError(f"'{value[:80]}' looks like an IPv4 address but is not one: write four numbers from 0 to 255")
    return value


Host = Annotated[str, AfterValidator(check_host), Field(max_length=limits.HOST_MAX_CHARS)]
"""An IPv4 or IPv6 address or a DNS name."""


def check_text(value: str) -> str:
    """Return `value` if it holds no control characters but newline and tab, else raise ValueError."""
    if _CONTROL.search(value):
        raise ValueError("control characters are not allowed")
    return value


Comment = Annotated[str, AfterValidator(check_text), Field(max_length=limits.COMMENT_MAX_CHARS)]
"""Free text of a person, any script, at most 500 characters."""

Origin = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
"""Who asked: web, cli, mqtt, autotest, demo, ..."""

Port = Annotated[int, Field(ge=1, le=65_535)]
"""A TCP or UDP port."""
