"""Figures and times as a person reads them. A number never stands without its unit, and what is not known is a dash."""

import math
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

DASH: Final = "\N{EN DASH}"
_NB: Final = "\N{NO-BREAK SPACE}"
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def number(value: float) -> str:
    """Return three significant digits, but never fewer than the whole part."""
    if value == 0:
        return "0"
    decimals = max(0, min(3, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:.{decimals}f}"


def ms(value: float | None) -> str:
    """Return milliseconds."""
    return DASH if value is None else f"{number(value)}{_NB}ms"


def percent(value: float | None) -> str:
    """Return a percentage."""
    if value is None:
        return DASH
    if value in (0, 100):
        return f"{value:.0f}{_NB}%"
    return f"{value:.1f}{_NB}%" if value >= 1 else f"{value:.2g}{_NB}%"


def mos(value: float | None) -> str:
    """Return a mean opinion score; it has no unit."""
    return DASH if value is None else f"{value:.2f}"


def rate(bits_per_second: float | None) -> str:
    """Return a rate in decimal units."""
    if bits_per_second is None:
        return DASH
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits_per_second >= factor:
            return f"{number(bits_per_second / factor)}{_NB}{unit}"
    return f"{number(bits_per_second)}{_NB}bit/s"


def size(count: int | None) -> str:
    """Return bytes in decimal units."""
    if count is None:
        return DASH
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{number(count / factor)}{_NB}{unit}"
    return f"{count}{_NB}bytes"


def seconds(value: float | None) -> str:
    """Return a duration."""
    if value is None:
        return DASH
    if value < _MINUTE:
        return f"{value:.0f}{_NB}s" if value == int(value) else f"{number(value)}{_NB}s"
    whole = round(value)
    if whole < _HOUR:
        return f"{whole // _MINUTE}{_NB}min {whole % _MINUTE}{_NB}s"
    return f"{whole // _HOUR}{_NB}h {whole % _HOUR // _MINUTE}{_NB}min"


def whole_seconds(value: float) -> str:
    """Return a duration that is only an estimate, rounded up."""
    return f"{math.ceil(value)}{_NB}s" if value < _MINUTE else seconds(value)


def codes(text: str) -> Markup:
    """Return a sentence with what stands between backticks as code; everything in it is escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def stamp(value: datetime) -> str:
    """Return an instant to the second, with its zone; the browser shows its own zone instead when it runs our script."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(value: datetime) -> str:
    """Return an instant for a `datetime` attribute."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(value: datetime, now: datetime) -> str:
    """Return how long ago an instant was; clocks that disagree a little make no future."""
    gone = max(0, int((now - value).total_seconds()))
    if gone < 5:  # noqa: PLR2004 - below, a count of seconds says nothing
        return "just now"
    if gone < _MINUTE:
        return f"{gone}{_NB}s ago"
    if gone < _HOUR:
        return f"{gone // _MINUTE}{_NB}min ago"
    if gone < _DAY:
        return f"{gone // _HOUR}{_NB}h ago"
    days = gone // _DAY
    return f"{days}{_NB}day{'s' if days > 1 else ''} ago"


def sentence(text: str) -> str:
    """Return `text` beginning with a capital and ending with a full stop."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
