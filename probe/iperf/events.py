"""What a run of iperf3 tells: samples while it runs, and a report at its end. Nothing a child says is believed unchecked."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Ending = Literal["finished", "cancelled", "stalled", "late", "died", "missing"]
"""Why a run ended: by itself (with or without an error), asked to, nothing moved any more, its time was up, its process died,
the library is not there."""

Phase = Literal["connecting", "waiting", "running"]
"""How far a run came: no connection yet, connected but no data, data flowed."""

RATE_WINDOW_S = 1.1
"""A live rate is over about a second: quarters of one jump with every burst."""


@dataclass(frozen=True)
class Sample:
    """A look at the sockets of a run. `at_s` counts from the first data, None before it; `bytes` were delivered since the start."""

    at_s: float | None
    connected: bool
    streams: int
    bytes: int
    control: int
    retransmits: int | None

    @classmethod
    def of(cls, event: dict[str, Any]) -> Self:
        """Return the sample in an event. Raise KeyError, TypeError or ValueError if it is none."""
        at_s, retransmits = event["at_s"], event["retransmits"]
        return cls(
            at_s=None if at_s is None else float(at_s),
            connected=bool(event["connected"]),
            streams=int(event["streams"]),
            bytes=int(event["bytes"]),
            control=int(event["control"]),
            retransmits=None if retransmits is None else int(retransmits),
        )


@dataclass(frozen=True)
class Report:
    """How a run ended. `code` and `text` are libiperf's error (0 is none) or say how the process ended."""

    ending: Ending
    phase: Phase = "connecting"
    code: int = 0
    text: str = ""
    # Any: iperf3's JSON document, not interpreted yet.
    document: dict[str, Any] | None = None
    samples: tuple[Sample, ...] = ()
    version: str | None = None


def live_rate(samples: Sequence[Sample]) -> float | None:
    """Return the newest rate, bit/s, over about the last second; None before there are two samples of flowing data."""
    flowing = [(found.at_s, found.bytes) for found in samples[-16:] if found.at_s is not None and found.streams]
    if not flowing:
        return None
    now_s, now_bytes = flowing[-1]
    then_s, then_bytes = next((at_s, count) for at_s, count in flowing if now_s - at_s <= RATE_WINDOW_S)
    if now_s <= then_s:
        return None
    return max(0.0, (now_bytes - then_bytes) * 8 / (now_s - then_s))


# Any: JSON.
def finite(value: Any) -> Any:
    """Return a JSON value with None for every number that is not finite; 1e999 is valid JSON and reads as infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


# Any: JSON.
def parse(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in `text`, all its numbers finite; None if it is none."""
    try:
        found = finite(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
