"""The controller as a whole: what it is made of, how it begins, how it ends."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from broker.client import BusClient
from controller.answers import Answers
from controller.archive import Archive, open_database
from controller.heartbeat import Heartbeat, Identity, Pulse
from controller.jobs import Jobs
from controller.registry import Registry
from controller.requests import Requests
from controller.results import Intake
from controller.rivals import Rivals
from controller.saved_targets import SavedTargets
from controller.writer import Work, Writer
from netloom.clock import Clock, SystemClock
from netloom.files import folder_lock
from netloom.ids import instance
from netloom.settings import Settings
from schemas import topics
from schemas.errors import ErrorInfo, Failure
from schemas.status import ProbeStatus, Revisions

log = logging.getLogger(__name__)

BEAT_S: Final = 0.05
PAUSED_S: Final = 2.0
"""When this program has not run for so long, nobody is judged for having been silent meanwhile."""
DRAIN_S: Final = 1.0
GOODBYE_S: Final = 0.3


class Controller:
    """The parts, wired. Raises Failure from its constructor for what a person must mend."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        folder, given = settings.data / "controller", settings.controller
        self._clock = clock
        now = clock.now()  # to the millisecond, as it comes back from the wire
        identity = Identity(instance(folder), now.replace(microsecond=now.microsecond // 1000 * 1000))
        self.database = open_database(given.archive, folder)
        with contextlib.ExitStack() as undo:
            undo.callback(self.database.close)
            archive = self.archive = Archive(self.database)
            self.targets = SavedTargets(folder / "targets.json")
            self.heartbeat = Heartbeat(
                identity,
                clock,
                given.status_period_s,
                Pulse(self._revisions, self._problem, self._counters, lambda: {"open_tests": len(self.jobs)}),
            )
            self.bus = BusClient(
                settings.broker_url(),
                f"controller:{identity.controller_id}",
                will=self.heartbeat.will,
                on_up=self._on_up,
            )
            self.registry = Registry(clock, given.offline_after_s)
            self.jobs = Jobs(
                archive,
                self.registry,
                self.bus,
                clock,
                silent_after_s=given.silent_after_s,
                grace_s=given.silent_after_s,
            )
            with self.database.read() as conn:
                self.jobs.load(conn)
            self.writer = Writer(archive, clock, tick=self._tick, recover=self.jobs.load, settled=self._settled)
            self.rivals = Rivals(self.bus, identity, clock, given.status_period_s)
            self.intake = Intake(self.bus, self.writer, archive, self.jobs, self.registry, clock)
            answers = Answers(self.bus, archive, self.jobs, self.registry, self.targets, clock)
            self.requests = Requests(self.bus, self.writer, answers, clock, self.rivals.echo)
            undo.pop_all()

    # --- what the status is made of -----------------------------------------------------------------------------------------
    def _revisions(self) -> Revisions:
        return Revisions(targets=self.targets.revision, archive=self.archive.revision)

    def _problem(self) -> ErrorInfo | None:
        return self.writer.problem or self.database.problem or self.targets.problem

    def _counters(self) -> Iterator[dict[str, int]]:
        for part in (self.bus, self.writer, self.jobs, self.intake, self.requests):
            yield dict(part.counters)

    # --- events -----------------------------------------------------------------------------------------------------------------
    def _on_up(self) -> None:
        """The connection is new: nobody could be heard meanwhile, and the retained status may be somebody else's."""
        self._excuse()
        self.heartbeat.hurry()
        with contextlib.suppress(Failure):
            self.rivals.ask()

    def _excuse(self) -> None:
        self.registry.excuse()
        self.writer.submit(Work(lambda _: self.jobs.excuse()))

    def _tick(self) -> Iterator[Work]:
        """What has come due in the job table, in the writer's thread."""
        if self.writer.astray or not self.rivals.cleared.is_set():
            return
        with contextlib.suppress(Failure):  # the broker is away: later
            self.jobs.send()
        yield from self.jobs.due()

    def _settled(self) -> None:
        self.intake.send_acks()

    # --- life -----------------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin."""
        self.writer.start()
        self.requests.start()
        self.bus.start()

    def serve(self, stop: threading.Event) -> None:
        """Work until `stop`. Raise Failure (controller_exists)."""
        last = self._clock.monotonic()
        while not stop.wait(BEAT_S):
            now = self._clock.monotonic()
            if now - last > PAUSED_S:
                self._excuse()
            last = now
            self.rivals.judge()
            if not self.rivals.cleared.is_set() or not self.bus.up:
                continue
            if not self.requests.open:
                self.requests.open = self.bus.call(self.intake.begin)
            if self.rivals.overwritten.is_set():
                self.rivals.overwritten.clear()
                self.heartbeat.hurry()
            with contextlib.suppress(Failure):  # the broker went away just now
                self.registry.declare_missing(self._declare)
                self.heartbeat.beat(self.bus)

    def _declare(self, name: str, offline: ProbeStatus) -> None:
        self.bus.publish(topics.probe(name, "status"), offline, retain=True)
        log.warning("%s is offline: nothing was heard of it since its last heartbeat", name)

    def stop(self) -> None:
        """End within 2 s: finish what is being stored, say goodbye, close."""
        began = time.monotonic()
        self.intake.open = self.requests.open = False
        drained = self.writer.stop(DRAIN_S)
        self.requests.stop(0.2)
        if self.rivals.cleared.is_set() and self.rivals.conflict is None:
            with contextlib.suppress(Failure):
                self.heartbeat.goodbye(self.bus, GOODBYE_S)
        self.bus.stop(0.3)
        if drained:
            self.database.close()
        else:
            log.warning("the archive is still being written; what was not acknowledged comes again")
        log.info("stopped in %.2f s", time.monotonic() - began)


def run(settings: Settings, stop: threading.Event, ready: Callable[[str], None], *, clock: Clock | None = None) -> None:
    """Run the controller until `stop` is set.

    Raises:
        Failure: store_locked, store_failed, store_newer, config_value, controller_exists.
    """
    with folder_lock(settings.data / "controller"):
        controller = Controller(settings, clock or SystemClock())
        controller.start()
        try:
            ready(f"broker {settings.broker_url()}, archive {controller.database.path or 'on a server'}")
            controller.serve(stop)
        finally:
            controller.stop()
