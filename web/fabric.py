"""The page's end of the bus: one client, the cache it feeds, the requests to the controller, and the news for open pages."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from broker.client import BusClient, Message
from broker.requests import Requester
from netloom.clock import Clock, SystemClock
from netloom.url import BrokerUrl
from schemas import codec, topics
from schemas.errors import ErrorInfo, Failure, error
from schemas.progress import Progress
from schemas.request import Target, Targets
from schemas.result import Result
from schemas.status import ControllerStatus, ProbeStatus
from web.cache import Cache
from web.cards import live_event, probe_event
from web.events import Hub

log = logging.getLogger(__name__)

A = TypeVar("A", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)

ASK_TIMEOUT_S: Final = 2.5
"""Of the 3 s in which a page answers, so that the answer itself has time."""
KNOWN_AWAY_S: Final = 2.0
"""What has been away for longer is not waited for again at every page."""
GRACE_S: Final = 1.5
"""A connection that was never up is not an outage yet."""
TICK_S: Final = 0.25
TARGETS_AGAIN_S: Final = 3.0
"""A controller that did not answer is left alone for so long by pages that can do without it."""


@dataclass(frozen=True)
class Outage:
    """What is away, since when by the wall clock, and why."""

    part: str
    since: datetime
    since_monotonic: float
    info: ErrorInfo


class Fabric:
    """Everything the pages know of the world. `start` it once, `stop` it once."""

    def __init__(self, url: BrokerUrl, client_id: str, *, streams_max: int = 56, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.cache = Cache(self.clock)
        self.hub = Hub(self.snapshot, streams_max)
        self.url = url
        self._bus = BusClient(url, client_id, on_up=self._on_up)
        self._requester = Requester(self._bus, self._on_controller)
        self._bus.subscribe(topics.every_probe("status"), self._status_or_cleared)
        self._bus.subscribe(topics.every_probe("result"), self._result_or_cleared)
        self._bus.subscribe_to(topics.every_probe("progress"), Progress, self._on_progress)
        self._began = self._up_at = self.clock.monotonic()
        self._outage: Outage | None = None
        self._silent: frozenset[str] = frozenset()
        self._revisions: tuple[str, int, int] = ("", -1, -1)
        self._targets: Targets | None = None
        self._targets_of: tuple[str, datetime] | None = None
        self._targets_again_at = 0.0
        self._wishes: dict[str, Future[BaseModel]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick_for_ever, name="web-ticker", daemon=True)

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to connect, in the background."""
        self._bus.start()
        self._ticker.start()

    def stop(self) -> None:
        """End every stream, the connection and the threads."""
        self._stop.set()
        self.hub.close()
        self._bus.stop()
        if self._ticker.is_alive():
            self._ticker.join(1.0)

    # --- asking the controller ----------------------------------------------------------------------------------------
    def ask(self, verb: str, answer: type[A], *, timeout_s: float = ASK_TIMEOUT_S, **fields: Any) -> A:
        """Ask the controller. Never from a bus handler.

        Raises:
            Failure: as Requester.call; at once if broker or controller have been away for a while.
        """
        away = self.outage()
        if away is not None and self.clock.monotonic() - away.since_monotonic > KNOWN_AWAY_S:
            raise Failure.of(away.info)
        return self._requester.call(verb, answer, timeout_s=timeout_s, **fields)

    def ask_once(self, verb: str, answer: type[A], *, timeout_s: float = ASK_TIMEOUT_S, **fields: Any) -> A:
        """As `ask`, for a wish with an id: two that arrive together share one answer, so a double click is one wish."""
        request_id = str(fields["id"])
        with self._lock:
            shared = self._wishes.get(request_id)
            if mine := shared is None:
                shared = self._wishes[request_id] = Future()
        if not mine:
            found = shared.result(timeout_s + 1)
            if not isinstance(found, answer):
                raise Failure("request_timeout", seconds=timeout_s)
            return found
        try:
            made = self.ask(verb, answer, timeout_s=timeout_s, **fields)
        except BaseException as exc:
            shared.set_exception(exc)
            raise
        finally:
            with self._lock:
                self._wishes.pop(request_id, None)
        shared.set_result(made)
        return made

    def targets(self, timeout_s: float = ASK_TIMEOUT_S) -> tuple[Target, ...]:
        """Return the saved targets, asking again only when the controller says that they changed. Raise Failure."""
        status = self._requester.controller
        life = None if status is None else (status.controller_id, status.started_at)
        found = self._targets
        # What was fetched after a change of ours may be newer than the newest status.
        if status is None or found is None or life != self._targets_of or status.revisions.targets > found.revision:
            self._targets = self.ask("target.list", Targets, timeout_s=timeout_s)
            self._targets_of = life
            return self._targets.targets
        return found.targets

    def targets_changed(self) -> None:
        """Ask again for the targets at the next need: a change of ours was just answered."""
        self._targets_of = None

    def known_targets(self, timeout_s: float = ASK_TIMEOUT_S) -> tuple[Target, ...]:
        """Return the saved targets, the last ones known if the controller is away: a page that can do without does not wait."""
        now = self.clock.monotonic()
        starting = now - self._began < GRACE_S
        if (self.controller_online or starting) and now >= self._targets_again_at:
            try:
                return self.targets(min(timeout_s, GRACE_S) if starting else timeout_s)
            except Failure:
                self._targets_again_at = self.clock.monotonic() + TARGETS_AGAIN_S
        return self._targets.targets if self._targets else ()

    # --- what is away -------------------------------------------------------------------------------------------------
    @property
    def controller(self) -> ControllerStatus | None:
        """The controller's newest status."""
        return self._requester.controller

    @property
    def broker_up(self) -> bool:
        """Whether the connection to the broker stands."""
        return self._bus.up

    @property
    def controller_online(self) -> bool:
        """Whether the controller is there."""
        return self._requester.controller_online

    @property
    def archive_revision(self) -> int:
        """It grows with every change of the archive."""
        return self.controller.revisions.archive if self.controller else 0

    def outage(self) -> Outage | None:
        """Return what is away now."""
        part, info = self._away()
        with self._lock:
            if part is None or info is None:
                self._outage = None
            elif self._outage is None or (self._outage.part, self._outage.info.message) != (part, info.message):
                same = self._outage is not None and self._outage.part == part
                since, mono = (
                    (self._outage.since, self._outage.since_monotonic)
                    if same and self._outage is not None
                    else (self.clock.now(), self.clock.monotonic())
                )
                self._outage = Outage(part, since, mono, info)
            return self._outage

    def _away(self) -> tuple[str | None, ErrorInfo | None]:
        young = self.clock.monotonic() - self._began < GRACE_S
        if not self._bus.up:
            never = self._bus.counters["connections"] == 0
            problem = self._bus.problem or error("broker_unreachable", url=self.url, reason="just lost")
            return (None, None) if young and never else ("broker", problem)
        if not self._requester.controller_online:
            expected = self.clock.monotonic() - self._up_at < GRACE_S  # its retained status is on its way
            return (None, None) if expected else ("controller", error("controller_unreachable"))
        return None, None

    # --- news for the pages -------------------------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """Return what an open page needs to know to be right again."""
        now = self.clock.now()
        away = self.outage()
        return {
            "away": None if away is None else away.part,
            "archive": self.archive_revision,
            "probes": [probe_event(entry, self.cache, now) for entry in self.cache.probes()],
        }

    def _tell_probe(self, name: str) -> None:
        entry = self.cache.probe(name)
        data = {"name": name, "gone": True} if entry is None else probe_event(entry, self.cache, self.clock.now())
        self.hub.publish("probe", data)

    def _tick_for_ever(self) -> None:
        """Notice what no message tells: a broker that is gone, a heartbeat that did not come."""
        told: tuple[str, str] | None = None
        while not self._stop.wait(TICK_S):
            away = self.outage()
            now_told = None if away is None else (away.part, away.info.message)
            if now_told != told:
                told = now_told
                self.hub.publish("fabric", {"away": None if away is None else away.part})
            now = self.clock.monotonic()
            silent = frozenset(entry.name for entry in self.cache.probes() if entry.silent_s(now) is not None)
            for name in silent ^ self._silent:
                self._tell_probe(name)
            self._silent = silent
            self.cache.purge()

    # --- from the bus, in its thread ----------------------------------------------------------------------------------
    def _on_up(self) -> None:
        self._up_at = self.clock.monotonic()

    def _status_or_cleared(self, message: Message) -> None:
        self._typed(message, ProbeStatus, self._on_status, self.cache.forget)

    def _result_or_cleared(self, message: Message) -> None:
        self._typed(message, Result, self._on_result, self.cache.forget_result)

    def _typed(
        self, message: Message, model: type[M], take: Callable[[str, M], None], clear: Callable[[str], bool]
    ) -> None:
        topic = topics.parse(message.topic)
        if not isinstance(topic, topics.ProbeTopic):
            return
        if not message.payload:
            if clear(topic.name):
                self._tell_probe(topic.name)
            return
        try:
            parsed = codec.parse(model, message.payload)
        except Failure as exc:
            self._bus.drop(message, exc)
            return
        take(topic.name, parsed)

    def _on_status(self, name: str, status: ProbeStatus) -> None:
        if self.cache.take_status(name, status):
            self._tell_probe(name)

    def _on_result(self, name: str, result: Result) -> None:
        newest = self.cache.take_result(name, result)
        self.hub.publish("result", {"id": result.id, "number": result.number, "probe": name, "status": result.status})
        if newest:
            self._tell_probe(name)

    def _on_progress(self, topic: topics.Topic, progress: Progress, _: Message) -> None:
        if isinstance(topic, topics.ProbeTopic) and self.cache.take_progress(topic.name, progress):
            self.hub.publish("progress", live_event(topic.name, progress))

    def _on_controller(self, status: ControllerStatus) -> None:
        found = (status.controller_id, status.revisions.archive, status.revisions.targets)
        if found == self._revisions:
            return
        before, self._revisions = self._revisions, found
        if found[:2] != before[:2]:
            self.hub.publish("archive", {"revision": found[1]})
        if (found[0], found[2]) != (before[0], before[2]):
            self.hub.publish("targets", {"revision": found[2]})
