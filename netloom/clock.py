"""Time, injectable: `monotonic` for every duration and deadline, `now` only for stamps."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the roles need of time."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    def now(self) -> datetime:
        """The wall clock, UTC, aware."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def now(self) -> datetime:
        """The wall clock, UTC, aware."""
        return datetime.now(UTC)
