"""Roles as children of one process: started, watched, started again when they die, ended together.

Everything happens in the thread that calls `run`, which must live as long as the children do (see Child).
"""

import logging
import random
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

from netloom.cli.child import Child, Spec
from schemas.errors import Failure

log = logging.getLogger(__name__)

LOOK_PERIOD_S: Final = 0.1
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
WELL_AFTER_S: Final = 60.0
"""A child that ran for so long begins its back-off anew."""
FIRST_WAVE_S: Final = 0.9
PATIENCE_S: Final = 1.5
"""From asking the children to end to killing them."""


class _Place:
    """One child's place: who is there now, and when the next one comes."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.child: Child | None = Child(spec)
        self.was_ready = self.child.ready is not None
        self.deaths = 0
        self.again_at = 0.0

    def bury(self) -> float:
        """Take leave of a dead child; return in how many seconds the next one comes."""
        if self.child is None:
            return 0.0
        if time.monotonic() - self.child.started_at >= WELL_AFTER_S:
            self.deaths = 0
        self.child.close()
        self.child = None
        delay_s: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self.deaths, 16)) * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
        self.deaths += 1
        self.again_at = time.monotonic() + delay_s
        return delay_s


class Supervisor:
    """Runs children until `stop`. `on_ready` hears the name of each that became ready, and what it said."""

    def __init__(self, stop: threading.Event, on_ready: Callable[[str, str], None] = lambda *_: None) -> None:
        self._stop, self._on_ready = stop, on_ready
        self._places: dict[str, _Place] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, spec: Spec) -> None:
        """Start a child."""
        self._places[spec.name] = _Place(spec)

    def pids(self) -> dict[str, int]:
        """Return the process id of each child that runs."""
        return {name: place.child.process.pid for name, place in self._places.items() if place.child is not None}

    def wait_ready(self, names: Iterable[str]) -> bool:
        """Watch until all of `names` have been ready once; False if told to stop before. Raise as `run`."""
        wanted = [self._places[name] for name in names]
        while not self._stop.is_set():
            if all(place.was_ready for place in wanted):
                return True
            self._look()
        return False

    def run(self) -> None:
        """Watch until told to stop. Raise Failure of a child that cannot start: its own, or role_failed."""
        while not self._stop.is_set():
            self._look()

    def end(self) -> None:
        """End every child, the brokers last; those that do not listen are killed."""
        began = time.monotonic()
        children = [place.child for place in self._places.values() if place.child is not None]
        for last, until in ((False, FIRST_WAVE_S), (True, PATIENCE_S)):
            for child in children:
                if child.spec.last == last:
                    child.terminate()
            while any(child.alive and child.spec.last == last for child in children):
                if time.monotonic() - began > until:
                    break
                time.sleep(0.01)
        while any(child.alive for child in children) and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.01)
        for child in children:
            if child.alive:
                log.warning("%s did not end by itself and is killed", child.spec.name)
            child.close()
        self._places.clear()

    # --- one look -----------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """Hear what children say, for a moment at most; then see who has died and who is due again."""
        waiting = [place.child for place in self._places.values() if place.child and not place.child.silent]
        poll = select.poll()
        for child in waiting:
            poll.register(child.pipe, select.POLLIN)
        heard = {number for number, _ in poll.poll(LOOK_PERIOD_S * 1000)} if waiting else set()
        if not waiting:
            self._stop.wait(LOOK_PERIOD_S)
        for place in self._places.values():
            self._look_at(place, heard)

    def _look_at(self, place: _Place, heard: set[int]) -> None:
        child = place.child
        if child is None:
            if time.monotonic() >= place.again_at and not self._stop.is_set():
                place.child = Child(place.spec)
            return
        dead = not child.alive  # looked at before the pipe: what it said last is then in there
        while not child.silent and (dead or child.pipe in heard):
            child.hear()
            heard.discard(child.pipe)
            if child.ready is not None:
                place.was_ready = True
                self._on_ready(place.spec.name, child.ready)
        if dead and not self._stop.is_set():
            self._died(place, child)

    def _died(self, place: _Place, child: Child) -> None:
        name, how, failure = place.spec.name, child.ending, child.failure
        delay_s = place.bury()
        if not place.was_ready:
            raise Failure.of(failure) if failure else Failure("role_failed", role=name, how=how)
        why = failure.message if failure else f"it ended unexpectedly ({how})"
        log.error("%s: %s; it is started again in %.1f s", name, why, delay_s)
