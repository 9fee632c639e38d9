"""`--fail-on 'loss>1%'`: a bound that a result must keep. A figure that is not there keeps none."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click

from schemas.result import DirectionResult, Result


def _rate(found: DirectionResult | None) -> float | None:
    return None if found is None or found.result is None else found.result.avg


def _rtt(name: str) -> Callable[[Result], float | None]:
    return lambda result: None if result.ping is None else getattr(result.ping, name)


_MS: Final = {"": 1.0, "ms": 1.0, "s": 1000.0}
_PERCENT: Final = {"": 1.0, "%": 1.0}
_PLAIN: Final = {"": 1.0}
_BITS: Final = {"": 1.0, "bit/s": 1.0, "k": 1e3, "kbit/s": 1e3, "m": 1e6, "mbit/s": 1e6, "g": 1e9, "gbit/s": 1e9}

FIGURES: Final[dict[str, tuple[Callable[[Result], float | None], dict[str, float]]]] = {
    "loss": (lambda result: None if result.packet_loss is None else result.packet_loss.packet_percent, _PERCENT),
    **{name: (_rtt(name), _MS) for name in ("min", "avg", "max", "p50", "p95", "p99")},
    "rtt": (_rtt("avg"), _MS),
    "jitter": (lambda result: result.jitter, _MS),
    "mos": (lambda result: result.mos, _PLAIN),
    "down": (lambda result: _rate(result.speedtest.download) if result.speedtest else None, _BITS),
    "up": (lambda result: _rate(result.speedtest.upload) if result.speedtest else None, _BITS),
}
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_SHAPE: Final = re.compile(r"\s*([a-z0-9]+)\s*([<>]=?)\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z/%]*)\s*\Z")


@dataclass(frozen=True)
class Condition:
    """One bound; `text` is how it was written."""

    text: str
    name: str
    sign: str
    bound: float

    def why(self, result: Result) -> str | None:
        """Return why the result meets the condition to fail, None if it does not."""
        value = FIGURES[self.name][0](result)
        if value is None:
            return f"{self.text}: there is no such figure in this result"
        return f"{self.text}: it is {value:.6g}" if _COMPARE[self.sign](value, self.bound) else None


def parse(text: str) -> Condition:
    """Return the condition in `text`. Raise ValueError with a sentence."""
    found = _SHAPE.match(text)
    if found is None:
        raise ValueError(f"'{text}' is not a condition: write it as loss>1%, p95>50ms, mos<4 or down<100Mbit/s")
    name, sign, number, unit = found.groups()
    if name not in FIGURES:
        raise ValueError(f"there is no figure '{name}': it is one of {', '.join(FIGURES)}")
    units = FIGURES[name][1]
    if unit.lower() not in units:
        raise ValueError(f"'{unit}' is not a unit of {name}: it is one of {', '.join(u for u in units if u) or 'none'}")
    return Condition(text.strip(), name, sign, float(number) * units[unit.lower()])


def convert(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Condition, ...]:
    """Return the conditions of an option's texts, as its callback."""
    try:
        return tuple(map(parse, texts))
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, parameter) from None
