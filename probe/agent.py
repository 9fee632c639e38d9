"""The agent: the probe's parts, put together around one bus client."""

import contextlib
import logging
import os
import platform
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from broker.client import BusClient, Message, Will
from netloom import VERSION
from netloom.clock import Clock, SystemClock
from netloom.ids import instance
from netloom.settings import Settings
from probe.autotests import AutotestStore
from probe.clock import ControllerClock
from probe.commands import Commands
from probe.delivery import Delivery
from probe.guard import NameGuard
from probe.heartbeat import Capabilities, Heartbeat
from probe.journal import Journal
from probe.kinds import REGISTRY
from probe.kinds.base import Entry
from probe.limits import granted
from probe.recovery import recover
from probe.runner import Runner
from probe.spool import Spool
from probe.timing import Periods
from probe.uplink import Uplink
from probe.worker import Worker
from schemas import codec, topics
from schemas.ack import Ack
from schemas.autotest import AutotestSet
from schemas.errors import Failure, error
from schemas.result import Result
from schemas.status import Announced, ControllerStatus, ProbeStatus

log = logging.getLogger(__name__)

_GOODBYE_S: Final = 0.3
_WORKER_S: Final = 0.05
_LAST_RESULTS_S: Final = 0.1


class Agent:
    """A probe called `name`, with its files in `settings.data / probe-<name>`."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        registry: Mapping[str, Entry] = REGISTRY,
        clock: Clock | None = None,
        periods: Periods | None = None,
    ) -> None:
        self.name, self._settings = name, settings
        self._clock: Clock = clock or SystemClock()
        self._periods = periods or Periods()
        self._started_at = self._since = self._clock.now()
        self._address: str | None = None
        self._located = False
        self._controller_start: tuple[str, datetime] | None = None
        folder = settings.data / f"probe-{name}"
        self._instance = _identity(folder)
        self._journal = Journal(folder / "journal.jsonl")
        self._spool = Spool(folder / "spool", settings.probe.spool_max)
        self._autotests = AutotestStore(folder / "autotests.json")
        self._controller = ControllerClock(self._clock)
        self.bus = BusClient(
            settings.broker_url(),
            f"{name}:{self._instance}",
            will=self._will,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self._uplink = Uplink(self.bus, name)
        self._build(registry)
        self._restarted = recover(self._journal, self._spool, name, settings.probe.limits)
        self._subscribe()

    def _build(self, registry: Mapping[str, Entry]) -> None:
        clock, periods = self._clock, self._periods
        self._guard = NameGuard(self.name, self._instance, self._started_at, clock=clock, periods=periods)
        self._heartbeat = Heartbeat(self._uplink, self._guard, self._status, clock=clock, periods=periods)
        self._capabilities = Capabilities(registry, periods=periods, on_change=self._heartbeat.changed)
        self._delivery = Delivery(self._uplink, self._spool, self._guard, clock=clock, periods=periods)
        self._runner = Runner(
            self.name,
            registry,
            self._settings.probe.limits,
            self._journal,
            self._spool,
            say=self._say_progress,
            clock=clock,
            controller=self._controller,
            on_result=self._on_result,
            on_change=self._heartbeat.changed,
            periods=periods,
        )
        self._commands = Commands(
            self.bus,
            self._runner,
            self._journal,
            self._spool,
            self._delivery,
            say=self._say_progress,
            limits=self._settings.probe.limits,
            capabilities=self._capabilities,
            guard=self._guard,
            clock=clock,
            controller=self._controller,
            on_change=self._heartbeat.changed,
        )
        self._healer = Worker("probe-healer", self._heal)

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to connect and to work."""
        for part in (self._runner, self._delivery, self._capabilities, self._heartbeat, self._healer):
            part.start()
        self.bus.start()

    def stop(self) -> None:
        """Cancel what runs, keep its results, say goodbye. It takes less than 2 s."""
        self._runner.stop(self._periods.stop)
        for part in (self._heartbeat, self._healer, self._capabilities):
            part.stop(_WORKER_S)
        self._delivery.stop(_LAST_RESULTS_S)
        if self._guard.active:
            goodbye = self._uplink.say("status", self._offline("stopped"), retain=True)
            if goodbye is not None:
                goodbye.wait(_GOODBYE_S)
        self.bus.stop(0.3)

    # --- the bus ----------------------------------------------------------------------------------------------------------
    def _subscribe(self) -> None:
        bus, name = self.bus, self.name
        bus.subscribe(topics.probe(name, "cmd"), self._commands.take)
        bus.subscribe_to(topics.probe(name, "ack"), Ack, lambda _, ack, __: self._on_ack(ack))
        bus.subscribe_to(topics.probe(name, "autotests"), AutotestSet, lambda _, found, __: self._on_autotests(found))
        bus.subscribe_to(topics.probe(name, "status"), ProbeStatus, self._on_own_status)
        bus.subscribe_to(
            topics.probe(name, "result"),
            Result,
            lambda _, found, message: self._delivery.on_own_result(found, retained=message.retain),
        )
        bus.subscribe(topics.probe(name, "result"), self._on_any_result)
        bus.subscribe_to(topics.CONTROLLER_STATUS, ControllerStatus, self._on_controller)

    def _on_any_result(self, message: Message) -> None:
        """Garbage, or an empty message that clears: the newest result of this probe goes there again."""
        try:
            codec.parse(Result, message.payload)
        except Failure:
            self._delivery.on_overwritten()

    def _will(self, connection: str) -> Will:
        payload = codec.encode(self._offline("will", connection))
        return Will(topics.probe(self.name, "status"), payload)

    def _on_up(self) -> None:
        self._since = self._clock.now()
        self._located = False
        self._guard.on_up()
        self._delivery.on_up()
        while self._restarted:
            self._commands.tell_rejection(self._restarted.pop())
        self._heartbeat.changed()

    def _on_down(self) -> None:
        self._guard.on_down()
        self._delivery.on_down()

    def _on_own_status(self, _: topics.Topic, status: ProbeStatus, message: Message) -> None:
        if self._guard.on_status(status, self.bus.connection, retained=message.retain) or message.retain:
            self._heartbeat.changed()

    def _on_controller(self, _: topics.Topic, status: ControllerStatus, message: Message) -> None:
        if status.state != "online":
            return
        if not message.retain:
            self._controller.heard(status.at)
        began = (status.controller_id, status.started_at)
        before, self._controller_start = self._controller_start, began
        # A retained status comes with a new connection, and that has begun a round already.
        if began != before and not message.retain:
            self._delivery.begin_round()

    def _on_ack(self, ack: Ack) -> None:
        self._delivery.on_ack(ack)
        self._heartbeat.changed()

    def _on_autotests(self, found: AutotestSet) -> None:
        if self._autotests.offer(found):
            self._heartbeat.changed()

    # --- what it says -------------------------------------------------------------------------------------------------------
    def _say_progress(self, payload: bytes, qos: int) -> None:
        self._uplink.say("progress", payload, qos=qos)

    def _on_result(self, result: Result) -> None:
        self._delivery.add(result.version)
        if any(reason.code in ("icmp_not_permitted", "iperf3_missing") for reason in result.errors.values()):
            self._capabilities.look_again()

    def _heal(self) -> float | None:
        """Try to write what a failing disk did not take."""
        before = self._spool.degraded
        well = [self._spool.heal(), self._journal.heal(), self._autotests.heal()]
        if self._spool.degraded != before:
            self._heartbeat.changed()
        return self._periods.heal if all(well) else self._periods.heal / 2

    def _counters(self) -> dict[str, int]:
        return {
            **self.bus.counters,
            **self._runner.counters,
            **self._spool.counters,
            **self._delivery.counters,
            **self._commands.counters,
        }

    def _offline(self, reason: str, connection: str | None = None) -> ProbeStatus:
        return ProbeStatus(
            state="offline",
            reason=reason,
            instance=self._instance,
            connection=connection or self.bus.connection,
            at=self._clock.now(),
            since=self._clock.now(),
            started_at=self._started_at,
            version=VERSION,
            result_version=self._spool.version,
            address=self._address,
            announced=self._announced(),
            limits=granted(self._settings.probe.limits),
            spool=self._spool.status(),
        )

    def _announced(self) -> Announced:
        probe = self._settings.probe
        return Announced(address=probe.announce_address or self._address, port=probe.announce_port)

    def _status(self) -> ProbeStatus:
        if not self._located:  # here and not in the bus client's thread, for it may look up a name
            self._address, self._located = _local_address(self.bus.url.host, self.bus.url.port), True
        journal = self._journal.degraded
        degraded = self._spool.degraded or (error("spool_degraded", reason=journal) if journal else None)
        return ProbeStatus(
            state="online",
            instance=self._instance,
            connection=self.bus.connection,
            at=self._clock.now(),
            since=self._since,
            started_at=self._started_at,
            running=self._runner.running(),
            queued=self._runner.queued,
            version=VERSION,
            platform=f"{platform.system()} {platform.release()} {platform.machine()}",
            result_version=self._spool.version,
            address=self._address,
            announced=self._announced(),
            capabilities=self._capabilities.all(),
            limits=granted(self._settings.probe.limits),
            clock=self._controller.status(),
            spool=self._spool.status(),
            counters=self._counters(),
            autotests=self._autotests.seen,
            problem=self._guard.problem or degraded,
        )


def _identity(folder: Path) -> str:
    """Return the identity kept in `folder`; one for this run only where the disk does not keep it."""
    try:
        return instance(folder)
    except OSError as exc:
        log.warning("the probe's identity cannot be kept: %s", exc)
        return os.urandom(8).hex()


def _local_address(host: str, port: int) -> str | None:
    """Return the address from which this machine's packets to `host` leave; nothing is sent to find out."""
    with contextlib.suppress(OSError):
        for family, _, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with socket.socket(family, socket.SOCK_DGRAM) as trial:
                trial.connect(target)
                found: str = trial.getsockname()[0]
                return found
    return None
