"""A result in a few lines, for a terminal."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from netloom.cli.output import clean
from schemas.result import DirectionResult, Result

NONE: Final = "-"
_RATES: Final = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
_AGES: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
_THREE: Final = 100.0


def ms(value: float | None) -> str:
    """Return milliseconds, to three figures or so."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= _THREE else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def rate(value: float | None) -> str:
    """Return bit/s with the unit that fits."""
    if value is None:
        return NONE
    for unit, name in _RATES:
        if value >= unit:
            scaled = value / unit
            return f"{scaled:.0f} {name}" if scaled >= _THREE else f"{scaled:.1f} {name}"
    return f"{value:.0f} bit/s"


def percent(value: float | None) -> str:
    """Return a percentage."""
    return NONE if value is None else f"{value:.3g} %"


def age(then: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago `then` was."""
    if then is None:
        return NONE
    seconds = max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def target(result: Result) -> str:
    """Return what was tested."""
    if result.target is not None:
        return clean(result.target.host)
    if result.speedtest is not None:
        return f"{clean(result.speedtest.target.host)}:{result.speedtest.target.port}"
    return NONE


def brief(result: Result) -> str:
    """Return the figures in one line; what was not measured is left out, unless nothing was."""
    found: list[str] = []
    if result.ping is not None and result.ping.avg is not None:
        found.append(f"rtt {ms(result.ping.avg)} ms")
    if result.jitter is not None:
        found.append(f"jitter {ms(result.jitter)} ms")
    if result.packet_loss is not None:
        found.append(f"loss {percent(result.packet_loss.packet_percent)}")
    if result.mos is not None:
        found.append(f"MOS {result.mos:.2f}")
    for word, direction in _directions(result):
        if direction is not None and direction.result is not None:
            found.append(f"{word} {rate(direction.result.avg)}")
    found += [
        f"{clean(part)}: {clean(info.code)}" for part, info in result.errors.items() if part not in {"jitter", "mos"}
    ]
    return "  ".join(found) or "no figures"


def lines(result: Result) -> Iterator[str]:
    """Yield the result for a person: what was measured, then what was not, with the reason and the next step."""
    number = f"   #{result.number}" if result.number is not None else ""
    took = f"{result.status} in {result.duration_s:.1f} s"
    yield f"{clean(result.probe_name)} \N{RIGHTWARDS ARROW} {target(result)}{number}   {took}"
    yield from _ping(result)
    for word, direction in _directions(result):
        if direction is not None and direction.result is not None:
            yield from _direction(word, direction, result)
    for part, info in result.errors.items():
        yield f"  {clean(part)}: {clean(info.message)}"
        if info.hint:
            yield f"    {clean(info.hint)}"


def _ping(result: Result) -> Iterator[str]:
    found, loss = result.ping, result.packet_loss
    if found is None or loss is None:
        return
    sent = result.packet_number
    times = (
        f"min {ms(found.min)}  p50 {ms(found.p50)}  avg {ms(found.avg)}  p95 {ms(found.p95)}  max {ms(found.max)} ms"
    )
    mos = "" if result.mos is None else f"   MOS {result.mos:.2f}"
    jitter = "" if result.jitter is None else f"   jitter {ms(result.jitter)} ms"
    yield f"  rtt   {times}{jitter}   loss {loss.packet_number}/{sent} ({percent(loss.packet_percent)}){mos}"


def _direction(word: str, direction: DirectionResult, result: Result) -> Iterator[str]:
    rates = direction.result
    if rates is None or result.speedtest is None:
        return
    server = result.speedtest.target
    notes = [f"min {rate(rates.min)}, max {rate(rates.max)}"]
    if direction.retransmits is not None:
        notes.append(f"{direction.retransmits} retransmits")
    if direction.loss_percent is not None:
        notes.append(f"loss {percent(direction.loss_percent)}")
    if direction.jitter_ms is not None:
        notes.append(f"jitter {ms(direction.jitter_ms)} ms")
    if direction.probe_limited:
        notes.append("the probe's CPU was the limit")
    yield f"  {word:<6}{clean(server.host)}:{server.port}   {rate(rates.avg)}  ({'; '.join(notes)})"


def _directions(result: Result) -> tuple[tuple[str, DirectionResult | None], ...]:
    speed = result.speedtest
    return (("down", speed.download if speed else None), ("up", speed.upload if speed else None))
