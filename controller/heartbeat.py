"""`controller/status`: who is at work, and the revisions that tell a page when to ask again."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from broker.client import BusClient, Will
from netloom import VERSION
from netloom.clock import Clock
from schemas import codec, topics
from schemas.errors import ErrorInfo, Failure
from schemas.status import ControllerStatus, Revisions

CHANGES_PER_S: Final = 4
"""However much happens, pages are not told oftener."""


@dataclass(frozen=True)
class Identity:
    """Which controller this is."""

    controller_id: str
    started_at: datetime


@dataclass(frozen=True)
class Pulse:
    """What the status is made of, read whenever it is written."""

    revisions: Callable[[], Revisions]
    problem: Callable[[], ErrorInfo | None]
    counters: Callable[[], Iterable[dict[str, int]]]
    gauges: Callable[[], dict[str, int]]


class Heartbeat:
    """Writes the status every `period_s`, and soon after every change. One thread calls `beat`, any may call `hurry`."""

    def __init__(self, identity: Identity, clock: Clock, period_s: float, pulse: Pulse) -> None:
        self._identity, self._clock, self._period_s, self._pulse = identity, clock, period_s, pulse
        self._next_at = 0.0
        self._not_before = 0.0
        self._told: tuple[Revisions, ErrorInfo | None] | None = None
        self._hurry = True

    def hurry(self) -> None:
        """Write it at the next beat: the connection is new, or somebody has written over it."""
        self._hurry = True

    def will(self, connection: str) -> Will:
        """Return the last will of a connection."""
        return Will(topics.CONTROLLER_STATUS, codec.encode(self._bare(connection, "offline")))

    def beat(self, bus: BusClient) -> None:
        """Write the status if it is due. Raise Failure (broker_unreachable)."""
        now = self._clock.monotonic()
        fresh = (self._pulse.revisions(), self._pulse.problem())
        if now < self._not_before or not (self._hurry or now >= self._next_at or fresh != self._told):
            return
        self._hurry = False
        try:
            bus.publish(topics.CONTROLLER_STATUS, self._status(bus.connection), retain=True)
        except Failure:
            self._hurry = True
            raise
        self._told, self._next_at, self._not_before = fresh, now + self._period_s, now + 1 / CHANGES_PER_S

    def goodbye(self, bus: BusClient, timeout_s: float) -> None:
        """Say that this controller has stopped, as far as the broker is there. Raise Failure (broker_unreachable)."""
        offline = self._status(bus.connection).model_copy(update={"state": "offline"})
        bus.publish(topics.CONTROLLER_STATUS, offline, retain=True).wait(timeout_s)

    def _bare(self, connection: str, state: str) -> ControllerStatus:
        return ControllerStatus.model_validate(
            {
                "state": state,
                "controller_id": self._identity.controller_id,
                "connection": connection,
                "at": self._clock.now(),
                "started_at": self._identity.started_at,
                "version": VERSION,
                "revisions": self._pulse.revisions(),
            }
        )

    def _status(self, connection: str) -> ControllerStatus:
        counters: Counter[str] = Counter()
        for found in self._pulse.counters():
            counters.update(found)
        return self._bare(connection, "online").model_copy(
            update={"counters": {**counters, **self._pulse.gauges()}, "problem": self._pulse.problem()}
        )
